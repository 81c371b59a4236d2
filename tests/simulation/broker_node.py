"""A broker on a simulated node: started and ended, with what must outlive it, each log judged when it is opened.

Cluster       the node, the coordination store, and what the disk held when the last process ended
FencedStore   one process's way to that store: with latency and lost replies; gone with the process
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import trio

from kbroker.cluster.store import (
    Ambiguous,
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
from kbroker.config import BrokerConfig
from kbroker.env import DirectoryLocked, Env
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.log.opening import Opening
from kbroker.server.broker import Ready, run_broker
from kbroker.server.identity import StartFailed
from kbroker.testing.scheduler import replaced
from kbroker.testing.volume import Volume
from kbroker.testing.world import Node, Process, World, current_process
from tests.simulation.checker import (
    NOTHING,
    Checker,
    Image,
    Violation,
    compare_images,
    durable_ends,
    log_images,
)
from tests.simulation.clients import HOST, PORT, TEMP

CONFIG = BrokerConfig().with_values(
    {
        "listeners": f"PLAINTEXT://{HOST}:{PORT}",
        "auto.create.topics.enable": "false",
        "log.retention.check.interval.ms": "1000",
        "log.flush.offset.checkpoint.interval.ms": "1500",
        "log.cleaner.backoff.ms": "700",
    }
)


class FencedStore:
    """One process's way to the store that outlives it: with latency, lost requests, lost replies; gone with it."""

    def __init__(self, store: MemoryStore, process: Process, cluster: Cluster) -> None:
        self._store = store
        self._process = process
        self._cluster = cluster
        self._random = cluster.world.random("store")

    async def _reach(self) -> None:
        await self._process.env.clock.sleep(self._random.expovariate(1000))
        self._process.check()
        if self._random.random() < self._cluster.store_trouble:
            raise Unavailable("the store is out of reach")

    async def get(self, key: bytes) -> Entry | None:
        await self._reach()
        return await self._store.get(key)

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        await self._reach()
        return await self._store.range(prefix, after=after, limit=limit, revision=revision, keys_only=keys_only)

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        await self._reach()
        result = await self._store.txn(guards, ops)
        await self._process.env.clock.sleep(self._random.expovariate(1000))
        if self._random.random() < self._cluster.store_trouble:
            raise Ambiguous("the reply is lost")
        return result

    def watch(self, prefix: bytes, from_revision: int) -> AbstractAsyncContextManager[Any]:
        return self._store.watch(prefix, from_revision)

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        return hold(self, self._process.env.clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        await self._reach()
        await self._store.compact(before_revision)

    async def info(self) -> StoreInfo:
        await self._reach()
        return await self._store.info()

    async def grant(self, ttl_s: float) -> int:
        await self._reach()
        return await self._store.grant(ttl_s)

    async def refresh(self, lease: int) -> bool:
        await self._reach()
        return await self._store.refresh(lease)

    async def revoke(self, lease: int) -> None:
        await self._reach()
        await self._store.revoke(lease)


class Cluster:
    """A node with a broker, started and ended by the nemesis; what its disk held when it ended."""

    def __init__(self, world: World, checker: Checker, config: BrokerConfig = CONFIG) -> None:
        self.world = world
        self.checker = checker
        self.config = config
        self.node: Node = world.node(HOST)
        self.store = MemoryStore(world.node("store").clock)
        self.store_trouble = 0.0  # how often it fails
        self.disk_trouble = False  # orders to fail, or no space
        self.ready = False
        self._stop = trio.Event()
        self._opened: set[str] = set()  # logs that the present process serves, or served
        self._before: dict[str, Image] = {}  # of each log, when the last process ended that served it
        self._power_lost: set[str] = set()  # logs not served since power went
        self._durable: dict[str, int] = {}

    def start(self) -> None:
        """Start the broker, if it does not run."""
        if not self.node.running:
            self._stop = trio.Event()
            self.node.start(self._serve)

    async def stop(self) -> None:
        """Ask the broker to stop, and wait for it."""
        self._stop.set()
        while self.node.running and not (self.node.process and self.node.process.frozen):
            await trio.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self._note_end()
        self.node.kill()

    def power_loss(self) -> None:
        """Power goes."""
        self._note_end()
        self.node.power_loss()
        self._power_lost = {str(history) for history in self.checker.histories}
        for name, offset in durable_ends(self.node.volume).items():
            self._durable[name] = max(offset, self._durable.get(name, 0))
        for history in self.checker.histories:
            history.power_lost()

    def replace(self, take_over: Callable[[Volume], list[str]]) -> None:
        """Another broker takes over, which has other logs on its disk.

        take_over: changes the disk; tells the directories of logs that are shorter then.
        """
        self.kill()
        shorter = take_over(self.node.volume)
        images = log_images(self.node.volume)
        self._before.update((name, images[name]) for name in shorter)
        self.world.trace("replaced", [(name, images[name].end) for name in shorter])

    async def _serve(self, env: Env) -> None:
        process = current_process.get()
        assert process is not None
        had_trouble = self.disk_trouble
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, self._stop, nursery.cancel_scope)
                store = FencedStore(self.store, process, self)
                await run_broker(env, self.config, store=store, on_ready=self._on_ready)
        except* (OSError, StartFailed, StoreError, DirectoryLocked) as group:
            self.world.trace("broker ended", repr(group.exceptions[0]))
            gone = group.subgroup(_is_of_the_store) is not None  # the session may have ended meanwhile
            if self.ready or not (had_trouble or self.disk_trouble or gone):
                raise
        self._note_end()

    def _note_end(self) -> None:
        """Keep what the disk holds as the process ends; of a log that it never opened, what was there before counts."""
        images = log_images(self.node.volume)
        self._before.update((name, images.get(name, NOTHING)) for name in self._opened)
        self._opened.clear()
        self.ready = False

    def on_opened(self, name: str, log_start: int) -> None:
        """A log is open, no client can have used it yet: compare with what it was.

        log_start: where it begins; of an empty log no file need tell that (DeleteRecords is noted elsewhere).
        """
        power_lost, durable = name in self._power_lost, self._durable.pop(name, 0)
        self._power_lost.discard(name)
        self._opened.add(name)
        after = log_images(self.node.volume)
        for history in self.checker.histories:
            if str(history) != name:
                continue
            if history.topic == TEMP:  # several of one name: nothing is demanded of them
                if power_lost:
                    history.recovered(0)
                continue
            compare_images(self._before, after, name, power_loss=power_lost)
            if power_lost:
                end = max(after.get(name, NOTHING).end, log_start)
                if self._before.get(name, NOTHING).batches and end < durable:
                    raise history.broken(f"the log ends at {end}, its recovery point was {durable}")
                history.recovered(end)

    def _on_ready(self, ready: Ready) -> None:
        self.ready = True
        ends = sorted((name, image.end) for name, image in log_images(self.node.volume).items())
        self.world.trace("ready", ends)


def _is_of_the_store(error: BaseException) -> bool:
    return isinstance(error, StoreError) or isinstance(error.__cause__, StoreError)


@contextmanager
def judging_each_opened_log(cluster: Cluster) -> Iterator[None]:
    """While the block runs, the cluster hears of each log that its broker opens, before anybody can use it."""
    adopt = LogDirectory.adopt

    broken: list[Violation] = []

    def judge(directory: LogDirectory, opening: Opening, opened: PartitionLog | None) -> PartitionLog:
        log = adopt(directory, opening, opened)
        try:
            cluster.on_opened(opening.directory, log.start_offset)
        except Violation as violation:
            broken.append(violation)
            if len(broken) == 1:  # one is enough, and others come at the same moment
                raise
        return log

    with replaced(LogDirectory, "adopt", judge):
        yield


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
