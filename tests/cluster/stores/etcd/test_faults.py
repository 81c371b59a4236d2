"""What befalls an etcd in real life, and what its users notice: kills, a lost leader, a lost quorum, no space."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from kbroker.cluster.keys import CLUSTER, Keys, decode
from kbroker.cluster.store import Compacted, CoordinationStore, Event, Guard, Put, StoreError, Unavailable, load
from kbroker.cluster.stores.etcd.client import CALL_S
from kbroker.cluster.stores.etcd.store import EtcdStore
from kbroker.cluster.stores.session import HeldSession
from kbroker.cluster.writer import Writer
from kbroker.env.real import RealClock
from tests.cluster.stores.etcd import servers
from tests.cluster.stores.etcd.servers import Member
from tests.cluster.stores.test_conformance import put
from tests.cluster.tools import PATIENCE_S

PREFIX = Keys(CLUSTER).prefix
TTL_S = 6.0

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("program", servers.programs())]


class Traffic:
    """Somebody who writes on and on, somebody who watches, somebody who holds a session."""

    def __init__(self, store: CoordinationStore) -> None:
        self.store = store
        self.acknowledged: list[int] = []
        self.seen: list[Event] = []
        self.failures = 0
        self.session: HeldSession | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        start = (await self.store.info()).revision + 1
        async with trio.open_nursery() as nursery:
            await nursery.start(self._hold)
            nursery.start_soon(self._watch, start)
            nursery.start_soon(self._write)
            task_status.started()

    async def wait_more(self, count: int = 20) -> None:
        """Until so many writes more are acknowledged and seen."""
        goal = len(self.acknowledged) + count
        with trio.fail_after(3 * PATIENCE_S):
            while len(self.acknowledged) < goal or len(self.seen) < goal:
                await trio.sleep(0.01)

    async def _hold(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.store.session(TTL_S) as session:
            assert isinstance(session, HeldSession)
            self.session = session
            await put(self.store, PREFIX + b"brokers/1", b"me", lease=session.id)
            task_status.started()
            await trio.sleep_forever()

    async def _write(self) -> None:
        writer = Writer(self.store, RealClock(), "1.test")
        for number in range(1_000_000):
            key = PREFIX + b"t/%06d" % number
            while True:
                try:
                    result = await writer.commit([Guard(key, 0)], [writer.put(key, {"n": number})])
                except StoreError:
                    self.failures += 1
                    continue
                break
            assert result.succeeded
            self.acknowledged.append(number)
            await trio.sleep(0.005)

    async def _watch(self, cursor: int) -> None:
        while True:
            try:
                async with self.store.watch(PREFIX + b"t/", cursor) as batches:
                    async for batch in batches:
                        self.seen += batch.events
                        cursor = batch.revision + 1
            except Unavailable:
                await trio.sleep(0.1)

    async def check(self, *, may_lose_session: bool = False) -> None:
        """What was acknowledged is there, and was seen: once, in order. Holder and store agree about the session."""
        assert self.session is not None
        page = await load(self.store, PREFIX + b"t/")
        assert {decode(entry.value)["n"] for entry in page.entries} >= set(self.acknowledged)
        seen = [decode(event.value or b"")["n"] for event in self.seen]
        assert seen == list(range(len(seen))) and len(seen) >= len(self.acknowledged) - 1
        mine = await self.store.get(PREFIX + b"brokers/1")
        if mine is None and may_lose_session:
            with trio.fail_after(TTL_S):
                await self.session.lost.wait()
        else:
            assert mine is not None and mine.lease == self.session.id and not self.session.lost.is_set()


@pytest.fixture
async def cluster(program: Path, tmp_path: Path) -> AsyncIterator[list[Member]]:
    async with servers.etcd(program, tmp_path, members=3) as members:
        yield members


@pytest.fixture
async def single(program: Path, tmp_path: Path) -> AsyncIterator[list[Member]]:
    async with servers.etcd(program, tmp_path) as members:
        yield members


async def test_F8_an_etcd_that_is_killed_and_started_again_loses_nothing(single: list[Member]) -> None:
    (member,) = single
    async with servers.opened(single, RealClock()) as store, trio.open_nursery() as nursery:
        traffic = Traffic(store)
        await nursery.start(traffic.run)
        for _ in range(3):
            await traffic.wait_more()
            member.kill()
            await trio.sleep(0.3)
            member.start(single)
        await traffic.wait_more()
        await traffic.check()
        nursery.cancel_scope.cancel()


async def test_F8_the_leader_of_three_is_killed_and_life_goes_on(cluster: list[Member]) -> None:
    async with servers.opened(cluster, RealClock()) as store, trio.open_nursery() as nursery:
        traffic = Traffic(store)
        await nursery.start(traffic.run)
        for _ in range(2):
            await traffic.wait_more()
            leader = await servers.leader_of(cluster)
            leader.kill()
            await traffic.wait_more()
            leader.start(cluster)
            await leader.wait_healthy()
        await traffic.wait_more()
        await traffic.check()
        nursery.cancel_scope.cancel()


async def test_F7_without_a_quorum_every_call_ends_and_afterwards_all_goes_on(cluster: list[Member]) -> None:
    """Two of three stand still, for longer than the TTL: the store may find then that it did not hear of a session."""
    async with servers.opened(cluster, RealClock()) as store, trio.open_nursery() as nursery:
        traffic = Traffic(store)
        await nursery.start(traffic.run)
        await traffic.wait_more()
        for member in cluster[1:]:
            member.signal(signal.SIGSTOP)
        with trio.fail_after(CALL_S + 2), pytest.raises(Unavailable):
            await store.get(PREFIX + b"t/000000")
        with trio.fail_after(CALL_S + 2), pytest.raises(StoreError):
            await store.txn([Guard(PREFIX + b"x", 0)], [Put(PREFIX + b"x", b"")])
        assert traffic.session is not None and traffic.session.valid_until < RealClock().liveness() + TTL_S
        for member in cluster[1:]:
            member.signal(signal.SIGCONT)
        await traffic.wait_more()
        await traffic.check(may_lose_session=True)
        nursery.cancel_scope.cancel()


async def test_a_watch_whose_history_was_compacted_while_it_was_away_is_told(single: list[Member]) -> None:
    (member,) = single
    async with servers.opened(single, RealClock()) as store:
        first = await put(store, PREFIX + b"t/1", b"")
        async with store.watch(PREFIX, first) as batches:
            assert (await anext(batches)).revision == first
            member.kill()
            member.start(single)
            await member.wait_healthy()
            for number in range(2, 6):
                last = await put(store, PREFIX + b"t/%d" % number, b"")
            await store.compact(last)
            with trio.fail_after(PATIENCE_S), pytest.raises(Compacted):
                while True:
                    await anext(batches)


async def test_a_watch_that_is_far_behind_gets_all_in_whole_revisions(single: list[Member]) -> None:
    """More than the 1,000 revisions that etcd sends at a time."""
    async with servers.opened(single, RealClock()) as store:
        start = (await store.info()).revision + 1
        last = await _write_much(store, revisions=1_200, keys=20)
        seen: dict[int, int] = {}
        with trio.fail_after(3 * PATIENCE_S):
            async with store.watch(PREFIX, start) as batches:
                async for batch in batches:
                    for event in batch.events:
                        seen[event.mod_revision] = seen.get(event.mod_revision, 0) + 1
                    assert all(seen[event.mod_revision] == 20 for event in batch.events)
                    if batch.revision >= last:
                        break
        assert list(seen) == list(range(start, last + 1))


async def _write_much(store: EtcdStore, revisions: int, keys: int) -> int:
    """So many revisions, each of so many keys of 100 bytes; the last."""
    last = 0

    async def write(worker: int) -> None:
        nonlocal last
        mods = [0] * keys
        for _ in range(revisions // 8):
            names = [PREFIX + b"m/%d/%d" % (worker, number) for number in range(keys)]
            guards = [Guard(name, mod) for name, mod in zip(names, mods, strict=True)]
            result = await store.txn(guards, [Put(name, bytes(100)) for name in names])
            assert result.succeeded
            mods = [result.revision] * keys
            last = max(last, result.revision)

    async with trio.open_nursery() as nursery:
        for worker in range(8):
            nursery.start_soon(write, worker)
    return last


async def test_an_etcd_without_space_says_so_and_sessions_go_on(program: Path, tmp_path: Path) -> None:
    async with servers.etcd(program, tmp_path) as members:
        (member,) = members
        member.kill()
        member.start(members, "--quota-backend-bytes", str(16 << 20))
        await member.wait_healthy()
        async with servers.opened(members, RealClock()) as store, store.session(TTL_S) as session:
            with pytest.raises(Unavailable, match="out of space"):
                for number in range(1_000):
                    await put(store, PREFIX + b"t/%d" % number, bytes(500_000))
            assert await store.get(PREFIX + b"t/0") is not None
            assert await store.refresh(session.id)


async def test_another_etcd_at_the_same_place_is_not_taken_for_the_same(program: Path, tmp_path: Path) -> None:
    async with servers.etcd(program, tmp_path) as members:
        (member,) = members
        async with servers.opened(members, RealClock()) as store:
            for number in range(5):
                await put(store, PREFIX + b"t/%d" % number, b"")
            for options, told in (
                ((), "gone back from revision 6 to 1"),
                (("--initial-cluster-token", "other"), "another etcd answers"),
            ):
                member.kill()
                member.forget()
                member.start(members, *options)
                await member.wait_healthy()
                with pytest.raises(Unavailable, match=told):
                    await store.get(PREFIX + b"t/0")
                with pytest.raises(Unavailable, match=told):
                    async with store.watch(PREFIX, 7) as batches:
                        await anext(batches)


async def test_members_of_two_clusters_are_refused(program: Path, tmp_path: Path) -> None:
    async with servers.etcd(program, tmp_path / "1") as one, servers.etcd(program, tmp_path / "2") as two:
        with pytest.raises(Unavailable, match=f"members of different clusters: .*{two[0].address}"):
            async with servers.opened([*one, *two], RealClock()):
                pass


async def test_nobody_there_is_told_soon(program: Path, tmp_path: Path) -> None:
    members = [Member(program, tmp_path, f"m{number}") for number in range(3)]
    with trio.fail_after(PATIENCE_S), pytest.raises(Unavailable, match=f"{members[0].address}: .*refused"):
        async with servers.opened(members, RealClock()):
            pass
