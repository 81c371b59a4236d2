"""Joining, epochs, restarts, kills, lost sessions."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import ClusterImage, TopicImage
from kbroker.cluster.joining import BrokerIdInUse
from kbroker.cluster.registration import Fenced
from kbroker.cluster.store import Guard, Put, Unavailable
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.tools import (
    PATIENCE_S,
    FaultyStore,
    HandClock,
    MortalSqlite,
    RunClock,
    Watcher,
    eventually,
    make_registration,
    running,
    sqlite_at,
)

Reopen = Callable[[], AbstractAsyncContextManager[Any]]  # the store, with .killed: leave without a farewell


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Reopen:
    """Opens the same store again and again; each process has its own."""
    shared = FaultyStore(clock)

    @asynccontextmanager
    async def memory() -> AsyncIterator[FaultyStore]:
        shared.killed = False
        yield shared

    @asynccontextmanager
    async def sqlite() -> AsyncIterator[MortalSqlite]:
        async with sqlite_at(tmp_path / "coord.db", clock) as store:
            store.__class__ = MortalSqlite
            yield store  # type: ignore[misc]

    return memory if request.param == "memory" else sqlite


async def test_a_member_joins(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        image = broker.image
        assert len(image.cluster_id) == 22
        assert (image.controller_id, image.controller_epoch, broker.broker_epoch) == (0, 1, 1)
        assert image.brokers[0].endpoints == {"PLAINTEXT": ("localhost", 9092)}
        assert broker.valid_until == clock.now + 6
        assert watcher.seen[0] == (ClusterImage(), image)
        assert watcher.changes[0].brokers_added == (image.brokers[0],)
    assert await store.get(b"/kb/kbroker/brokers/0") is None  # a clean farewell
    assert await store.get(b"/kb/kbroker/controller") is None


async def test_what_stays_and_what_grows_over_restarts(reopen: Reopen, clock: HandClock) -> None:
    images = []
    for _ in range(3):
        async with reopen() as store, running(make_registration(store, clock)) as broker:
            images.append(broker.image)
    assert len({image.cluster_id for image in images}) == 1
    assert [image.brokers[0].epoch for image in images] == [1, 2, 3]
    assert [image.controller_epoch for image in images] == [1, 2, 3]


@pytest.mark.parametrize("kill", [False, True], ids=["clean", "kill"])
async def test_R8_no_start_resumes_a_leader_epoch(reopen: Reopen, clock: HandClock, kill: bool) -> None:
    """Every start leads every partition in a new epoch, and the first image that is seen shows it."""
    async with reopen() as store, running(make_registration(store, clock)) as broker:
        await broker.admin.create_topics([NewTopic("small"), NewTopic("large", 230)])
        store.killed = kill
    for start in (1, 2, 3):
        watcher = Watcher()
        async with reopen() as store, running(make_registration(store, clock, watcher, seed=start)) as broker:
            first = watcher.seen[0][1]
            assert len(first.topics) == 2
            for topic in first.topics.values():
                for partition in topic.partitions:
                    assert (partition.leader, partition.isr) == (0, (0,))
                    assert (partition.leader_epoch, partition.partition_epoch) == (start, start)
            assert first.brokers[0].incarnation == broker.incarnation
            store.killed = kill


async def test_R8_epochs_never_go_back_within_an_image_stream(store: Any, clock: HandClock) -> None:
    epochs: dict[tuple[bytes, int], int] = {}
    for start in range(3):
        watcher = Watcher()
        async with running(make_registration(store, clock, watcher, seed=start)) as broker:
            await broker.admin.create_topics([NewTopic(f"t{start}", 3)])
        for _, new in watcher.seen:
            for topic in new.topics.values():
                for partition in topic.partitions:
                    key = (topic.id, partition.index)
                    assert partition.leader_epoch >= epochs.get(key, 0)
                    epochs[key] = partition.leader_epoch


async def test_a_killed_broker_starts_again_at_once(reopen: Reopen, clock: HandClock) -> None:
    async with reopen() as store, running(make_registration(store, clock)) as broker:
        old = broker.image
        store.killed = True
    async with reopen() as store:
        assert await store.get(b"/kb/kbroker/brokers/0") is not None  # the dead one's session lives on
        async with running(make_registration(store, clock, seed=1)) as broker:
            assert broker.broker_epoch == old.brokers[0].epoch + 1
            assert broker.image.controller_epoch == old.controller_epoch + 1
            for _ in range(4):  # the old session ends meanwhile; nothing of ours goes with it
                await eventually(lambda: clock.sleepers >= 2)
                clock.advance(2)
                await eventually(lambda: broker.valid_until == clock.now + 6)
            assert await store.get(b"/kb/kbroker/brokers/0") is not None
            assert await store.get(b"/kb/kbroker/controller") is not None


async def test_another_directory_with_the_same_id_is_refused(reopen: Reopen, clock: HandClock) -> None:
    async with reopen() as store, running(make_registration(store, clock)):
        store.killed = True
    async with reopen() as store:
        other = make_registration(store, clock, seed=1, directory="dir-9", port=9999)
        text = "broker id 0 is in use by the broker at localhost:9092 .data directory dir-0.; if that one is dead, "
        with pytest.raises(BrokerIdInUse, match=text):
            await other.run()
        clock.advance(7)
        async with running(make_registration(store, clock, seed=2, directory="dir-9")) as broker:
            assert broker.image.brokers[0].directory_id == "dir-9"


async def test_a_replaced_broker_is_fenced(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    first = make_registration(store, clock, watcher)
    with trio.fail_after(PATIENCE_S), pytest.raises(ExceptionGroup) as raised:
        async with running(first), running(make_registration(store, clock, seed=1)):
            await trio.sleep_forever()
    assert raised.group_contains(Fenced)
    assert watcher.lost == 1 and first.broker_epoch == -1


async def test_a_lost_session_ends_leaderships_and_brings_new_epochs(store: Any, clock: HandClock) -> None:
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        await broker.admin.create_topics([NewTopic("t")])
        seen = len(watcher.seen)
        clock.advance(7)  # the process stood still for longer than the TTL
        await eventually(lambda: watcher.lost == 1)
        assert len(watcher.seen) == seen
        await eventually(lambda: broker.broker_epoch == 2)
        assert broker.image.topics["t"].partitions[0].leader_epoch == 1
        assert broker.valid_until == clock.now + 6
        assert len(await broker.admin.create_topics([NewTopic("u")])) == 1


async def test_R14_a_store_that_fails_for_a_while_ends_no_leadership(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F7: the picture stands still, keepalives fail, nothing is dropped; afterwards all goes on in the same epoch."""
    watcher, store = Watcher(), FaultyStore(RunClock())

    async def fail(*_: object) -> None:
        raise Unavailable("out for a walk")

    async with running(make_registration(store, RunClock(), watcher)) as broker:
        await broker.admin.create_topics([NewTopic("t")])
        (lease,) = store._leases
        with monkeypatch.context() as patch:
            patch.setattr(store, "refresh", fail)
            patch.setattr(store, "_tick", fail)
            store._leases[lease] = (6.0, math.inf)  # nobody ends it meanwhile
            await trio.sleep(60)
            assert not broker.is_proven and broker.broker_epoch == 1 and watcher.lost == 0
        await trio.sleep(5)
        assert broker.is_proven and broker.broker_epoch == 1 and watcher.lost == 0
        await broker.admin.create_topics([NewTopic("u")])
        assert set(broker.image.topics) == {"t", "u"}


async def test_a_history_that_is_gone_is_loaded_anew(clock: HandClock) -> None:
    store = MemoryStore(clock, history_max=3)
    watcher = Watcher()
    async with running(make_registration(store, clock, watcher)) as broker:
        await broker.admin.create_topics([NewTopic("t"), NewTopic("u")])
        entry = store._entries[b"/kb/kbroker/topics/u"]
        for i in range(20):
            store._apply([Put(b"/elsewhere/%d" % i, b"")])
        store._apply([Put(entry.key, entry.value.replace(b'"partitions":1', b'"partitions":0'))])
        await eventually(lambda: not broker.image.topics["u"].partitions)
        assert set(broker.image.topics) == {"t", "u"}
        (removed,) = [changes for changes in watcher.changes if changes.topics_deleted or changes.partitions_removed]
        assert [topic.name for topic, _ in removed.partitions_removed] == ["u"]


async def test_a_store_that_fails_at_the_start_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(RunClock())
    store.refuse = 1000
    with pytest.raises(Unavailable):
        await make_registration(store, RunClock()).run()


async def test_joining_survives_lost_replies_and_contention(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(RunClock())
    async with running(make_registration(store, RunClock())) as broker:
        await broker.admin.create_topics([NewTopic("t", 200)])

    async def interfere() -> None:
        key = b"/kb/kbroker/ids/broker_epoch"
        entry = await store.get(key)
        assert entry is not None
        await store.txn([Guard(key, entry.mod_revision)], [Put(key, b'{"epoch":41}')])

    store.lose_replies, store.before_txn = 2, interfere
    async with running(make_registration(store, RunClock(), seed=1)) as broker:
        assert broker.broker_epoch >= 42
        assert {p.leader_epoch for p in broker.image.topics["t"].partitions} <= {1, 2}
        assert all(p.leader == 0 for p in broker.image.topics["t"].partitions)


async def test_two_brokers_are_one_cluster(store: Any, clock: HandClock) -> None:
    async with running(make_registration(store, clock)) as one:
        async with running(make_registration(store, clock, seed=1, id=1, directory="dir-1", port=9093)) as two:
            assert two.image.cluster_id == one.image.cluster_id
            assert (two.image.controller_id, two.broker_epoch) == (0, 2)
            (topic,) = await two.admin.create_topics([NewTopic("t", 4, 2)])
            assert isinstance(topic, TopicImage)
            assert sorted(p.leader for p in topic.partitions) == [0, 0, 1, 1]
            await eventually(lambda: "t" in one.image.topics)
            assert one.image.topics == two.image.topics
        await eventually(lambda: set(one.image.brokers) == {0})
