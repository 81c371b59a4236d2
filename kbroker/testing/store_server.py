"""A coordination store as a machine of its own in a simulated world: far away, slow, cut off, down, forgetful.

    server = StoreServer(world)               # one MemoryStore, on its own clock
    store = server.link(process)              # a broker process's way to it: a CoordinationStore
    world.network.cut("b1", "store")          # what b1 asks is held; what it asked may still be done when it is healed
    server.loss = 0.3                         # so many requests, and as many answers, are lost
    server.stop(), server.start()             # it is down, and its sessions stand still meanwhile, as etcd's do
    server.forget(server.revision)            # compaction under everybody's watch

    a request   broker ──way there──▶ carried out ──way back──▶ broker
                   │ lost: Unavailable, a transaction Ambiguous      │ lost: the same, though it was carried out
                   └── TIMEOUT_S without an answer: the same; it is still under way, and will be carried out

A request under way outlives the process that sent it, as packets do. A watch is a stream of answers: one that is cut
off for long breaks, and has to be opened anew.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Generic, TypeVar

import trio

from kbroker.cluster.store import (
    Ambiguous,
    Batch,
    Entry,
    Guard,
    Op,
    Page,
    Session,
    StoreError,
    StoreInfo,
    TxnResult,
    Unavailable,
)
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.cluster.stores.session import hold
from kbroker.testing.world import Process, World

T = TypeVar("T")
STORE = "store"  # its name in the network
TIMEOUT_S = 1.0  # whoever asks waits so long
SILENCE_S = 4.0  # a watch that is cut off breaks after this
REAP_S = 0.1

OnCommit = Callable[[Process, Sequence[Op], TxnResult], None]


class StoreClock:
    """The store's own clock, which stands still while it is down."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stopped_at: float | None = None
        self._behind = 0.0

    def data_ms(self) -> int:
        """Not asked for."""
        raise NotImplementedError

    def liveness(self) -> float:
        """Seconds while it was up."""
        return (self._now() if self._stopped_at is None else self._stopped_at) - self._behind

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await trio.sleep(seconds)

    async def sleep_data(self, seconds: float) -> bool:
        """Not asked for."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stand still."""
        if self._stopped_at is None:
            self._stopped_at = self._now()

    def start(self) -> None:
        """Go on from where it stood."""
        if self._stopped_at is not None:
            self._behind += self._now() - self._stopped_at
            self._stopped_at = None


class StoreServer:
    """The store itself."""

    def __init__(
        self,
        world: World,
        on_commit: OnCommit = lambda process, ops, result: None,
        session_s_max: float = math.inf,
    ) -> None:
        """
        Args:
            on_commit: called at the moment of each transaction that happened, so that no other comes between.
            session_s_max: no session is longer, whatever is asked for: where faults are dense.
        """
        self.world = world
        self.session_s_max = session_s_max
        self.on_commit = on_commit
        self.clock = StoreClock(world.now)
        self.engine = MemoryStore(self.clock, "simulated")
        self.loss = 0.0  # how many requests are lost, and how many answers
        self.breaks = 0  # of all watches
        self._random = world.random(STORE)
        self._down: trio.Event | None = None  # set when it is up again
        self._spawn(self._reap)

    @property
    def revision(self) -> int:
        """The latest."""
        return self.engine.revision

    def link(self, process: Process) -> StoreLink:
        """A process's way to it."""
        return StoreLink(self, process)

    def stop(self) -> None:
        """Go down: nobody is answered, watches break, sessions stand still."""
        self.clock.stop()
        self._down = trio.Event() if self._down is None else self._down
        self.break_watches()
        self.world.trace("store", "down")

    def start(self) -> None:
        """Come up again, with everything that was."""
        self.clock.start()
        if self._down is not None:
            self.world.trace("store", "up")
            self._down.set()
            self._down = None

    def break_watches(self) -> None:
        """Every watch breaks, as when connections do."""
        self.breaks += 1

    def forget(self, before_revision: int) -> None:
        """Compact: who is further behind has to load everything again."""
        self.world.trace("store", "compacted", before_revision)
        self._spawn(self.engine.compact, before_revision)

    def ask(self, request: _Request[T]) -> None:
        """Carry a request there, do it, and carry the answer back."""
        self._spawn(self._carry, request)

    async def wait_passage(self, host: str, *, back: bool = False) -> None:
        """Until a packet of that host has arrived here, or back: one of ours there. No longer than the store is up."""
        there = (STORE, host) if back else (host, STORE)
        await self.world.network.wait_passage(*there)
        while self._down is not None:
            await self._down.wait()

    def _spawn(self, work: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run work in a context of its own: what was asked by a process does not freeze with that."""
        Context().run(partial(self.world.nursery.start_soon, work, *args))

    async def _carry(self, request: _Request[T]) -> None:
        await self.wait_passage(request.host)
        if self._is_lost():
            request.lose()
            return
        outcome: T | StoreError
        try:
            outcome = await request.work()
        except StoreError as error:
            outcome = error
        await self.wait_passage(request.host, back=True)
        if self._is_lost():
            request.lose()
        else:
            request.answer(outcome)

    def _is_lost(self) -> bool:
        return self.loss > 0 and self._random.random() < self.loss

    async def _reap(self) -> None:
        """End sessions when their time has come, whoever may be asking."""
        while True:
            await trio.sleep(REAP_S)
            if self._down is None:
                await self.engine.get(b"")


class _Request(Generic[T]):
    """Something asked of the store, and its answer."""

    def __init__(self, host: str, work: Callable[[], Awaitable[T]]) -> None:
        self.host = host
        self.work = work
        self.is_over = trio.Event()
        self.outcome: list[T | StoreError] = []  # none when it is lost

    def answer(self, outcome: T | StoreError) -> None:
        """The answer has arrived."""
        self.outcome.append(outcome)
        self.is_over.set()

    def lose(self) -> None:
        """There will be none, and whoever asks is told so: the connection broke."""
        self.is_over.set()


class StoreLink:
    """One process's way to the store. A `CoordinationStore`."""

    def __init__(self, server: StoreServer, process: Process) -> None:
        self._server = server
        self._process = process
        self._host = process.node.name

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        return await self._ask(partial(self._engine.get, key))

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore."""
        work = partial(self._engine.range, prefix, after=after, limit=limit, revision=revision, keys_only=keys_only)
        return await self._ask(work)

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""

        async def commit() -> TxnResult:
            result = await self._engine.txn(guards, ops)
            if result.succeeded and ops:
                self._server.on_commit(self._process, ops, result)
            return result

        return await self._ask(commit, Ambiguous)

    @asynccontextmanager
    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See CoordinationStore."""
        breaks = self._server.breaks
        await self._wait_passage(TIMEOUT_S, back=False)
        async with self._engine.watch(prefix, from_revision) as batches:
            async with aclosing(self._arrive(batches, breaks)) as told:
                yield told

    async def _arrive(self, batches: AsyncIterator[Batch], breaks: int) -> AsyncGenerator[Batch, None]:
        """What a watch tells, some time later."""
        async for batch in batches:
            await self._wait_passage(SILENCE_S, back=True)
            if self._server.breaks != breaks:
                raise Unavailable("the watch broke")
            yield batch

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """See CoordinationStore."""
        return hold(self, self._process.env.clock, min(ttl_s, self._server.session_s_max))

    async def compact(self, before_revision: int) -> None:
        """See CoordinationStore."""
        await self._ask(partial(self._engine.compact, before_revision))

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        return await self._ask(self._engine.info)

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        return await self._ask(partial(self._engine.grant, ttl_s))

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor."""
        return await self._ask(partial(self._engine.refresh, lease))

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        await self._ask(partial(self._engine.revoke, lease))

    @property
    def _engine(self) -> MemoryStore:
        return self._server.engine

    async def _ask(self, work: Callable[[], Awaitable[T]], lost: type[StoreError] = Unavailable) -> T:
        """Have the store do work. Raises lost when there is no answer."""
        self._process.check()
        request = _Request(self._host, work)
        self._server.ask(request)
        with trio.move_on_after(TIMEOUT_S):
            await request.is_over.wait()
        self._process.check()
        if not request.outcome:
            raise lost("the store does not answer")
        outcome = request.outcome[0]
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome

    async def _wait_passage(self, seconds: float, *, back: bool) -> None:
        """The same for a watch, which breaks when that takes too long."""
        with trio.move_on_after(seconds) as scope:
            await self._server.wait_passage(self._host, back=back)
        self._process.check()
        if scope.cancelled_caught:
            raise Unavailable("the watch is cut off")
