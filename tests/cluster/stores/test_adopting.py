"""A store brought up to the logs: which log a partition goes on with, and when none may be chosen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage
from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.stores.adopting import Decided, LogEnd, NotAdopted, decide, read_image, write
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.stores.test_copying import fill
from tests.cluster.tools import HandClock, make_registration, running

TOPIC = b"t" * 16
KEYS = Keys(CLUSTER)
STORED = PartitionImage(TOPIC, 0, (1, 2, 3), (1, 2, 3), 1, 7, 20)


def cluster(partition: PartitionImage = STORED) -> ClusterImage:
    topic = TopicImage("t", TOPIC, (partition,), {})
    return ClusterImage(topics={"t": topic}, topics_by_id={TOPIC: topic})


def decided(*reach: tuple[int, int] | None, partition: PartitionImage = STORED, lost: tuple[int, ...] = ()) -> Decided:
    """reach: (epoch, end) of the logs of brokers 1, 2, ...; None: it has none."""
    ends = [LogEnd(id, TOPIC, 0, *each) for id, each in enumerate(reach, start=1) if each is not None]
    return decide(cluster(partition), ends, range(1, len(reach) + 1), lost)


@pytest.mark.parametrize(
    ("reach", "best"),
    [
        ([(8, 10), (9, 5), (9, 7)], 3),
        ([(9, 7), (9, 7), (9, 7)], 1),
        ([(8, 90), (9, 5), None], 2),
        ([(7, 10), (7, 10), (7, 9)], 1),  # no epoch is ahead, and 3 lacks something though the store calls it in sync
        ([(7, 10), (7, 10), None], 1),
        ([(-1, 0), (-1, 0), (6, 3)], 3),
    ],
)
def test_a_partition_goes_on_with_the_log_of_the_latest_epoch_and_of_those_the_longest(
    reach: list[tuple[int, int] | None], best: int
) -> None:
    told = decided(*reach)
    (one,) = told.adopted
    assert (one.after.leader, one.after.isr, one.after.elr, one.after.last_leader) == (best, (best,), (), NO_LEADER)
    assert one.after.leader_epoch >= max(7, *(each[0] for each in reach if each is not None))
    assert one.after.partition_epoch == 21 and one.after.replicas == STORED.replicas
    assert one.end == reach[best - 1][1] and told.missing == []  # type: ignore[index]


@pytest.mark.parametrize("reach", [[(7, 10)] * 3, [(3, 1)] * 3, [(-1, 0)] * 3])
def test_where_all_in_sync_have_the_same_nothing_changes(reach: list[tuple[int, int]]) -> None:
    assert decided(*reach) == Decided([], [], [])


def test_who_is_not_in_sync_may_lack_something() -> None:
    assert not decided((7, 10), (7, 10), (7, 3), partition=replace(STORED, isr=(1, 2))).adopted


def test_a_log_that_is_not_looked_at_might_have_more() -> None:
    told = decided((8, 10), (8, 10))
    assert told.missing == [3] and len(told.adopted) == 1
    assert decided((8, 10), (8, 10), lost=(3,)).missing == []
    assert decided((7, 10), (7, 10)).missing == [3], "though no epoch is ahead"


def test_logs_that_the_store_does_not_know_are_left_alone() -> None:
    ends = [LogEnd(1, b"u" * 16, 0, 9, 9), LogEnd(1, TOPIC, 1, 9, 9), LogEnd(4, TOPIC, 0, 9, 9)]
    assert decide(cluster(), ends, [1, 2, 3, 4]) == Decided([], [], ends)


def test_P2_whatever_has_happened_what_was_acknowledged_is_in_that_log() -> None:
    """Leaders, followers and the set of those in sync go on for a while after the store was copied."""
    for seed in range(300):
        rng = random.Random(seed)
        logs: dict[int, list[int]] = {1: [7] * 3, 2: [7] * 3, 3: [7] * 3}  # the epoch of each record
        isr, leader, epoch, committed = {1, 2, 3}, 1, 7, 3
        for _ in range(rng.randrange(30)):
            match rng.choice(["append", "append", "fetch", "fetch", "leave", "elect"]):
                case "append":
                    logs[leader].append(epoch)
                case "fetch":
                    follower = rng.choice([id for id in logs if id != leader])
                    common = next(
                        (n for n, (a, b) in enumerate(zip(logs[follower], logs[leader], strict=False)) if a != b),
                        min(len(logs[follower]), len(logs[leader])),
                    )
                    logs[follower] = logs[leader][: rng.randint(common, len(logs[leader]))]
                    if len(logs[follower]) >= committed:
                        isr.add(follower)
                case "leave":
                    isr.discard(rng.choice([id for id in logs if id != leader]))
                case "elect":
                    leader, epoch = rng.choice(sorted(isr)), epoch + 1
            isr = {id for id in isr if logs[id] == logs[leader][: len(logs[id])] and len(logs[id]) >= committed}
            committed = max(committed, min(len(logs[id]) for id in isr))
        acknowledged = logs[leader][:committed]
        told = decided(*((log[-1] if log else -1, len(log)) for log in logs.values()))
        chosen = told.adopted[0].after.leader if told.adopted else 1
        assert logs[chosen][:committed] == acknowledged, f"seed {seed}: {logs}, {isr}, {committed}"


async def test_the_store_is_read_and_written_when_nobody_lives_in_it(clock: HandClock) -> None:
    store = MemoryStore(clock)
    await fill(store, clock)
    before = await read_image(store, KEYS)
    topic = before.topics["t1"]
    told = decide(before, [LogEnd(0, topic.id, index, 40 + index, 5) for index in range(100)], [0])
    assert len(told.adopted) == 100
    async with running(make_registration(store, clock, seed=1)):
        with pytest.raises(NotAdopted, match=r"brokers live in the store \(brokers/0, controller\)"):
            await read_image(store, KEYS)
    with pytest.raises(NotAdopted, match="somebody else writes"):
        await write(store, clock, KEYS, told.adopted)  # the broker has begun epochs of its own meanwhile
    told = decide(await read_image(store, KEYS), [LogEnd(0, topic.id, n, 40 + n, 5) for n in range(100)], [0])
    await write(store, clock, KEYS, told.adopted)
    after = (await read_image(store, KEYS)).topics["t1"].partitions
    assert [each.leader_epoch for each in after] == list(range(40, 140))
    async with running(make_registration(store, clock, seed=2)) as broker:
        assert [each.leader_epoch for each in broker.image.topics["t1"].partitions] == list(range(41, 141))
