"""Logs that serve nothing: what is handed over, what begins anew, and what is left for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from kbroker.cluster.image import NO_LEADER, BrokerImage, ClusterImage, PartitionImage, TopicImage
from kbroker.log.errors import CorruptLog, LogAhead, LogOffline
from kbroker.replication.failures import Failures
from kbroker.replication.partition import Partition
from kbroker.testing.clock import SteeredClock

ID, KEY = b"t" * 16, ("t", 0)
NODE, A, B = 1, 2, 3
DAMAGED = CorruptLog("damage at byte 70")


def cluster(
    isr: tuple[int, ...], leader: int, *, elr: tuple[int, ...] = (), live: tuple[int, ...] = (NODE, A, B)
) -> ClusterImage:
    partition = PartitionImage(ID, 0, (NODE, A, B), isr, leader, 1, 1, elr=elr)
    topic = TopicImage("t", ID, (partition,), {})
    brokers = {id: BrokerImage(id, 1, None, {}, "", "") for id in live}
    return ClusterImage(revision=1, topics={"t": topic}, topics_by_id={ID: topic}, brokers=brokers)


class Rig:
    def __init__(self, image: ClusterImage) -> None:
        self.image = image
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.handed_over: list[tuple[str, int]] = []
        self.begun: list[tuple[str, int]] = []
        self.after: ClusterImage | None = None  # what the image is once something was handed over
        self.failures = Failures(NODE, SteeredClock(), self.partitions, lambda: self.image, self.hand_over)

    async def hand_over(self, keys: Iterable[tuple[str, int]]) -> None:
        await trio.lowlevel.checkpoint()
        self.handed_over += keys
        self.image = self.after or self.image

    def begin_anew(self, key: tuple[str, int]) -> None:
        self.begun.append(key)
        self.failures.forget(key)

    async def run(self, seconds: float = 0.5) -> None:
        with trio.move_on_after(seconds):
            await self.failures.run(self.begin_anew)


async def test_L4_a_damaged_replica_is_handed_over_and_then_begins_anew(autojump_clock: MockClock) -> None:
    rig = Rig(cluster((NODE, A, B), NODE))
    rig.after = cluster((A, B), A)
    rig.failures.note(KEY, DAMAGED)
    await rig.run()
    assert rig.handed_over == [KEY] and rig.begun == [KEY]


@pytest.mark.parametrize(
    "image",
    [
        cluster((NODE,), NODE),
        cluster((NODE,), NO_LEADER),
        cluster((A,), A, elr=(NODE,)),  # it may have to lead
        cluster((A,), NO_LEADER),
        cluster((A,), A, live=(NODE, B)),
    ],
    ids=["last", "last, dead", "eligible", "no leader", "its leader is dead"],
)
async def test_L4_no_damaged_replica_goes_while_it_may_be_the_best_there_is(
    image: ClusterImage, autojump_clock: MockClock
) -> None:
    rig = Rig(image)
    rig.failures.note(KEY, DAMAGED)
    await rig.run(5)
    assert rig.begun == [] and rig.handed_over == []


async def test_R11_a_log_that_is_ahead_of_the_metadata_is_left_alone(autojump_clock: MockClock) -> None:
    for image in (cluster((NODE, A, B), NODE), cluster((A, B), A)):
        rig = Rig(image)
        rig.failures.note(KEY, LogAhead("the metadata went back"))
        await rig.run(5)
        assert rig.begun == [] and rig.handed_over == []


@pytest.mark.parametrize("error", [OSError("the disk refuses"), LogOffline("a write failed")])
async def test_F11_what_the_disk_refuses_is_handed_over_and_waits_for_a_restart(
    error: Any, autojump_clock: MockClock
) -> None:
    rig = Rig(cluster((NODE, A, B), NODE))
    rig.after = cluster((A, B), A)
    rig.failures.note(KEY, error)
    await rig.run(5)
    assert rig.handed_over == [KEY] and rig.begun == []


async def test_F11_a_log_that_fails_while_it_is_used_is_found_within_a_second(autojump_clock: MockClock) -> None:
    class Log:
        offline: Any = None

    class Held:
        log = Log()

    rig = Rig(cluster((NODE, A), NODE))
    rig.partitions[KEY] = cast(Partition, Held())
    await rig.run(3)
    assert rig.handed_over == []
    Held.log.offline = LogOffline("a write failed")
    rig.after = cluster((A,), A)
    await rig.run(1.5)
    assert rig.handed_over == [KEY]


async def test_what_was_not_written_is_asked_for_again(autojump_clock: MockClock) -> None:
    rig = Rig(cluster((NODE, A), NODE))
    rig.failures.note(KEY, DAMAGED)
    await rig.run(3.5)
    assert set(rig.handed_over) == {KEY} and 4 <= len(rig.handed_over) <= 5
