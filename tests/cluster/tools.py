"""What the tests of this room share: a clock moved by hand, a seeded rng, stores that fail on purpose."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from kbroker.cluster.image import BrokerImage, Changes, ClusterImage, PartitionImage, TopicImage, compared
from kbroker.cluster.joining import BrokerIdentity
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Ambiguous, CoordinationStore, Guard, Op, TxnResult, Unavailable
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.cluster.stores.sqlite import SqliteStore, open_sqlite
from kbroker.env import Clock
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
from kbroker.turns import at_once

T = TypeVar("T")
T = bytes([1]) * 16  # a topic id
PATIENCE_S = 10  # before a test that waits for something is given up


class HandClock:
    """Liveness moves when the test says so, and sleepers with it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, trio.Event]] = []

    def data_ms(self) -> int:
        return int(self.now * 1000)

    def liveness(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        sleeper = (self.now + seconds, trio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for due, event in self._sleepers:
            if due <= self.now:
                event.set()
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self.now]


class RunClock:
    """The clock of the trio run: for tests with autojump_clock."""

    def data_ms(self) -> int:
        return int(trio.current_time() * 1000)

    def liveness(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def sleep_data(self, seconds: float) -> bool:
        await trio.sleep(seconds)
        return False


class SeededRng:
    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)


class Inline:
    """Offload without threads."""

    async def __call__(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()


class Stuck:
    """A disk that takes its time: what is begun while `held` waits until it is let go."""

    def __init__(self) -> None:
        self.held: trio.Event | None = None

    def hold(self) -> None:
        self.held = trio.Event()

    def let_go(self) -> None:
        assert self.held is not None
        self.held.set()
        self.held = None

    async def __call__(self, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.held is not None:
            await self.held.wait()
        return work()


class Threads:
    async def __call__(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work)


async def eventually(condition: Callable[[], bool]) -> None:
    """Let others run until condition holds."""
    end = time.monotonic() + PATIENCE_S  # real time: a clock that jumps when all are idle stands still here
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await trio.lowlevel.checkpoint()


class FaultyStore(MemoryStore):
    """A memory store that loses replies, refuses, or dies without a farewell, when told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.lose_replies = 0  # of the next transactions, which happen
        self.lose_requests = 0  # the next transactions do not happen; nobody is told
        self.refuse = 0
        self.killed = False  # the process is gone: nothing is revoked
        self.before_txn: Callable[[], Awaitable[None]] | None = None
        self.txns = 0

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        self.txns += 1
        if self.before_txn is not None:
            hook, self.before_txn = self.before_txn, None
            await hook()
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("refused")
        if self.lose_requests:
            self.lose_requests -= 1
            raise Ambiguous("request lost")
        result = await super().txn(guards, ops)
        if self.lose_replies:
            self.lose_replies -= 1
            raise Ambiguous("reply lost")
        return result

    async def revoke(self, lease: int) -> None:
        if not self.killed:
            await super().revoke(lease)


class MortalSqlite(SqliteStore):
    """Leaves without revoking its sessions, as after kill -9."""

    killed = False

    async def revoke(self, lease: int) -> None:
        if not self.killed:
            await super().revoke(lease)


class InTurn:
    """One file that several have open: each thing that is asked for is asked of the next one."""

    def __init__(self, *stores: CoordinationStore) -> None:
        self._stores = stores
        self._next = itertools.cycle(stores)

    async def compact(self, before_revision: int) -> None:
        """Of all: what a process has seen lately it knows from memory, whatever another one deletes in the file."""
        for store in self._stores:
            await store.compact(before_revision)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._next), name)


class Watcher:
    """Takes the images of a broker."""

    def __init__(self) -> None:
        self.seen: list[tuple[ClusterImage, ClusterImage]] = []
        self.lost = 0

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        self.seen.append((old, new))

    def on_lost(self) -> None:
        self.lost += 1

    @property
    def changes(self) -> list[Changes]:
        return [at_once(compared(old, new)) for old, new in self.seen]


def cluster(*brokers: int, partitions: list[PartitionImage] | None = None) -> ClusterImage:
    """A picture of live brokers and, if given, of a topic "t"."""
    topics = {"t": TopicImage("t", T, tuple(partitions), {})} if partitions else {}
    live = {id: BrokerImage(id, 1, None, {}, f"d{id}", "i") for id in brokers}
    return ClusterImage(brokers=live, registrations=live, topics=topics)


def make_registration(store: Any, clock: Any, watcher: Watcher | None = None, **options: Any) -> Registration:
    """A broker with id 0, unless told otherwise."""
    watcher = watcher or Watcher()
    broker = BrokerIdentity(
        options.pop("id", 0),
        options.pop("directory", "dir-0"),
        {"PLAINTEXT": ("localhost", options.pop("port", 9092))},
        rack=options.pop("rack", None),
        is_lossy=options.pop("is_lossy", False),
    )
    rng = SeededRng(options.pop("seed", 0))
    return Registration(store, clock, broker, watcher.on_image, rng=rng, on_lost=watcher.on_lost, **options)


@asynccontextmanager
async def running(registration: Registration) -> AsyncIterator[Registration]:
    """A broker that has registered, and leaves at the end of the block."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            await nursery.start(registration.run)
        yield registration
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def sqlite_at(path: Any, clock: Any, **options: Any) -> AsyncIterator[SqliteStore]:
    """boot_id: where the file is opened."""
    options = {"offload": Threads(), "poll_s": 0.01, **options}
    disk = RealDisk(str(Path(path).parent), Features.detect())
    disk.boot_id = options.pop("boot_id", "boot-1")
    async with open_sqlite(disk, Path(path).name, clock=clock, **options) as store:
        yield store
