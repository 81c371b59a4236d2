"""Which member is asked, for how long, and what failures mean: with members played by the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kbroker.cluster.store import Ambiguous, Compacted, Event, Guard, Put, SessionLost, Unavailable
from kbroker.cluster.stores.etcd import opening
from kbroker.cluster.stores.etcd.client import CALL_S, PAUSE_S, TRY_S, Cluster
from kbroker.cluster.stores.etcd.messages import (
    AUTHENTICATE,
    LEASE_KEEP_ALIVE,
    RANGE,
    STATUS,
    TXN,
    WATCH,
    Method,
    pb,
)
from kbroker.cluster.stores.etcd.opening import open_etcd
from kbroker.cluster.stores.etcd.store import EtcdStore
from kbroker.cluster.stores.etcd.watch import SILENCE_S
from kbroker.env import CallFailed, Metadata
from tests.cluster.tools import RunClock

CLUSTER_ID = 77
UNSENT = CallFailed(14, "failed to connect to all addresses", is_unsent=True)
BROKEN = CallFailed(14, "Socket closed")
SILENT = object()  # as an answer: there is none


def header(revision: int = 1, cluster_id: int = CLUSTER_ID) -> Any:
    return pb.ResponseHeader(cluster_id=cluster_id, revision=revision)


class FakeMember:
    """Answers from a list, then as usual."""

    def __init__(self) -> None:
        self.answers: dict[Method, list[Any]] = {}
        self.asked: list[tuple[Method, Any]] = []
        self.streams: list[FakeStream] = []
        self.tokens = 0

    def usual(self, method: Method) -> Any:
        if method == STATUS:
            return pb.StatusResponse(header=header(), version="3.7.3")
        if method == AUTHENTICATE:
            self.tokens += 1
            return pb.AuthenticateResponse(header=header(), token=f"{id(self)}-{self.tokens}")
        if method == TXN:
            return pb.TxnResponse(header=header(2), succeeded=True)
        return method.answer(header=header())

    async def call(self, path: str, message: bytes, timeout_s: float, metadata: Metadata = ()) -> bytes:
        await trio.lowlevel.checkpoint()
        method = next(each for each in (STATUS, AUTHENTICATE, RANGE, TXN, LEASE_KEEP_ALIVE) if each.path == path)
        self.asked.append((method, dict(metadata).get("token")))
        answer = self.answers.get(method, []).pop(0) if self.answers.get(method) else self.usual(method)
        if answer is SILENT:
            await trio.sleep(timeout_s)
            raise CallFailed(4, "Deadline Exceeded")
        if isinstance(answer, CallFailed):
            raise answer
        packed: bytes = answer.SerializeToString()
        return packed

    def stream(self, path: str, metadata: Metadata = ()) -> FakeStream:
        assert path == WATCH.path and ("hasleader", "true") in metadata
        self.streams.append(FakeStream(self.answers.setdefault(WATCH, [])))
        return self.streams[-1]

    def close(self) -> None:
        pass


class FakeStream:
    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self.sent: list[Any] = []

    def send(self, message: bytes) -> None:
        self.sent.append(pb.WatchRequest.FromString(message))

    async def receive(self) -> bytes:
        if not self._answers:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        answer = self._answers.pop(0)
        if isinstance(answer, CallFailed):
            raise answer
        packed: bytes = answer.SerializeToString()
        return packed

    def close(self) -> None:
        pass


class World:
    """Two members and the store of one who uses them."""

    def __init__(self) -> None:
        self.members = {"one:2379": FakeMember(), "two:2379": FakeMember()}
        self.one, self.two = self.members.values()

    async def opened(self, nursery: trio.Nursery, user: str = "") -> EtcdStore:
        async def run(*, task_status: trio.TaskStatus[EtcdStore]) -> None:
            async with open_etcd(
                list(self.members), dial=self.dial, clock=RunClock(), prefix=b"/kb/", user=user, password=user
            ) as store:
                task_status.started(store)
                await trio.sleep_forever()

        store: EtcdStore = await nursery.start(run)
        for member in self.members.values():
            member.asked.clear()
        return store

    def dial(self, address: str) -> FakeMember:
        return self.members[address]

    def asked(self, method: Method) -> list[int]:
        """How often each member was asked for it."""
        return [sum(asked == method for asked, _ in member.asked) for member in (self.one, self.two)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def store(world: World, nursery: trio.Nursery) -> EtcdStore:
    return await world.opened(nursery)


async def write(store: EtcdStore, lease: int = 0) -> bool:
    return (await store.txn([Guard(b"/kb/a", 0)], [Put(b"/kb/a", b"1", lease)])).succeeded


async def test_who_does_not_answer_is_left_for_the_next(
    world: World, store: EtcdStore, autojump_clock: MockClock
) -> None:
    world.one.answers[RANGE] = [SILENT]
    begun = trio.current_time()
    assert await store.get(b"/kb/a") is None
    assert trio.current_time() - begun == pytest.approx(TRY_S)
    assert await store.get(b"/kb/a") is None
    assert world.asked(RANGE) == [1, 2]


async def test_what_cannot_have_happened_is_asked_of_the_next(world: World, store: EtcdStore) -> None:
    world.one.answers[TXN] = [UNSENT]
    assert await write(store)
    assert world.asked(TXN) == [1, 1]


@pytest.mark.parametrize("failure", [BROKEN, SILENT, CallFailed(14, "etcdserver: request timed out")])
async def test_what_may_have_happened_is_ambiguous_and_the_next_one_is_asked_from_then_on(
    world: World, store: EtcdStore, autojump_clock: MockClock, failure: object
) -> None:
    world.one.answers[TXN] = [failure]
    with pytest.raises(Ambiguous, match="one:2379"):
        await write(store)
    assert await write(store)
    assert world.asked(TXN) == [1, 1]


async def test_only_looking_at_guards_may_be_repeated(world: World, store: EtcdStore) -> None:
    world.one.answers[TXN] = [BROKEN]
    assert (await store.txn([Guard(b"/kb/a", 0)], [])).succeeded


async def test_a_busy_etcd_is_asked_again(world: World, store: EtcdStore, autojump_clock: MockClock) -> None:
    world.one.answers[TXN] = world.two.answers[TXN] = [CallFailed(8, "etcdserver: too many requests")] * 5
    begun = trio.current_time()
    assert await write(store)
    assert trio.current_time() - begun == pytest.approx(2 * PAUSE_S)


async def test_every_call_ends(world: World, store: EtcdStore, autojump_clock: MockClock) -> None:
    for member in (world.one, world.two):
        member.answers = {RANGE: [SILENT] * 100, TXN: [UNSENT] * 1000, LEASE_KEEP_ALIVE: [SILENT] * 100}
    calls: list[Callable[[], Any]] = [lambda: store.get(b"a"), lambda: write(store), lambda: store.refresh(1)]
    for call in calls:
        begun = trio.current_time()
        with pytest.raises(Unavailable):
            await call()
        assert trio.current_time() - begun == pytest.approx(CALL_S)


async def test_a_lease_that_is_gone_ends_the_session(world: World, store: EtcdStore) -> None:
    world.one.answers[TXN] = [CallFailed(5, "etcdserver: requested lease not found")]
    with pytest.raises(SessionLost, match="7"):
        await write(store, lease=7)
    assert not await store.refresh(7)  # no error to etcd: no TTL


async def test_a_token_that_is_not_known_any_more_is_renewed_once_for_all(world: World, nursery: trio.Nursery) -> None:
    store = await world.opened(nursery, user="kbroker")
    world.one.answers[RANGE] = [CallFailed(16, "etcdserver: invalid auth token")] * 10
    async with trio.open_nursery() as asking:
        for _ in range(10):
            asking.start_soon(store.get, b"/kb/a")
    assert world.asked(AUTHENTICATE) == [1, 0]
    tokens = [token for method, token in world.one.asked if method == RANGE]
    assert len(tokens) == 20 and set(tokens[:10]) != set(tokens[10:]) == {f"{id(world.one)}-{world.one.tokens}"}


async def test_an_etcd_that_forgets_is_not_believed(world: World, store: EtcdStore) -> None:
    world.one.answers[RANGE] = [
        pb.RangeResponse(header=header(50)),
        pb.RangeResponse(header=header(49)),
        pb.RangeResponse(header=header(51, cluster_id=78)),
    ]
    await store.get(b"/kb/a")
    with pytest.raises(Unavailable, match="gone back from revision 50 to 49"):
        await store.get(b"/kb/a")
    with pytest.raises(Unavailable, match="another etcd answers, with cluster id 4e instead of 4d"):
        await store.get(b"/kb/a")


def told(*revisions: int) -> Any:
    events = [pb.Event(kv=pb.KeyValue(key=b"/kb/a", value=b"%d" % r, mod_revision=r)) for r in revisions]
    return pb.WatchResponse(header=header(10), events=events)


CREATED = pb.WatchResponse(header=header(10), created=True)


async def test_a_watch_goes_on_at_the_next_member_where_it_was(
    world: World, store: EtcdStore, autojump_clock: MockClock
) -> None:
    """Whether the first one breaks or falls silent: then it is asked for a sign of life before."""
    world.one.answers[WATCH] = [CREATED, told(3, 4)]
    world.two.answers[WATCH] = [CREATED, told(5), BROKEN]
    async with store.watch(b"/kb/", 3) as batches:
        assert (await anext(batches)).events == (Event(b"/kb/a", b"3", 3), Event(b"/kb/a", b"4", 4))
        begun = trio.current_time()
        assert (await anext(batches)).revision == 5
        assert trio.current_time() - begun == pytest.approx(SILENCE_S)
        world.one.answers[WATCH] = [CREATED, told(6)]
        assert (await anext(batches)).revision == 6
    assert [stream.sent[0].create_request.start_revision for stream in world.one.streams] == [3, 6]
    assert [stream.sent[0].create_request.start_revision for stream in world.two.streams] == [5]
    assert sum(request.HasField("progress_request") for request in world.one.streams[0].sent) == 3


async def test_a_sign_of_life_is_no_progress(world: World, store: EtcdStore) -> None:
    """Servers before 3.4.25 may name a revision whose events they have yet to send."""
    world.one.answers[WATCH] = [CREATED, told(3), pb.WatchResponse(header=header(9)), told(4)]
    async with store.watch(b"/kb/", 3) as batches:
        assert [(await anext(batches)).revision for _ in range(3)] == [3, 3, 4]


async def test_a_watch_that_no_member_takes_ends(world: World, store: EtcdStore) -> None:
    for member in (world.one, world.two):
        member.answers[WATCH] = [CallFailed(14, "etcdserver: no leader")] * 10
    with pytest.raises(Unavailable, match="no leader"):
        async with store.watch(b"/kb/", 3) as batches:
            await anext(batches)


@pytest.mark.parametrize(
    "answer",
    [
        pb.WatchResponse(header=header(10), created=True, canceled=True, compact_revision=9),
        CallFailed(8, "CLIENT: Received message larger than max (40000000 vs. 33554432)"),
    ],
)
async def test_a_watch_too_far_behind_has_to_read_anew(world: World, store: EtcdStore, answer: object) -> None:
    world.one.answers[WATCH] = [answer]
    with pytest.raises(Compacted):
        async with store.watch(b"/kb/", 3) as batches:
            await anext(batches)


async def test_a_revision_of_the_future_is_refused_unless_the_member_is_behind(world: World, store: EtcdStore) -> None:
    world.one.answers = {WATCH: [CREATED], RANGE: [pb.RangeResponse(header=header(12))]}
    with pytest.raises(Compacted):
        async with store.watch(b"/kb/", 14) as batches:
            await anext(batches)
    world.one.answers = {WATCH: [CREATED, told(14)], RANGE: [pb.RangeResponse(header=header(13))]}
    async with store.watch(b"/kb/", 14) as batches:
        assert (await anext(batches)).revision == 14


@pytest.mark.parametrize(
    ("version", "is_refused", "is_warned"),
    [
        ("3.3.27", True, False),
        ("3.4.22", True, False),
        ("3.4.23", False, True),
        ("3.5.32", False, True),
        ("3.5.33", False, False),
        ("3.6.0-rc.2", False, True),
        ("3.7.1", False, False),
        ("3.8.0", False, False),
        ("4.0.0", False, False),
    ],
)
async def test_versions(
    world: World,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    version: str,
    is_refused: bool,
    is_warned: bool,
) -> None:
    world.two.answers[STATUS] = [pb.StatusResponse(header=header(), version=version)]
    if is_refused:
        with pytest.raises(Unavailable, match=f"two:2379 is etcd {version}, which is too old: at least 3.4.23"):
            await opening._look(Cluster(list(world.members), world.dial, "", "", b"/kb/"))
    else:
        store = await world.opened(nursery)
        assert (await store.info()).version == min(version, "3.7.3")
    assert ("has faults" in caplog.text) == is_warned


async def test_a_member_that_is_down_at_the_start_is_told_and_does_no_harm(
    world: World, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    world.one.answers = {STATUS: [UNSENT], RANGE: [UNSENT]}
    store = await world.opened(nursery)
    assert await write(store)
    assert "members of etcd that cannot be used now: one:2379: failed to connect" in caplog.text
