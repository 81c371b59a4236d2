"""Brokers in memory, inside the test's own trio run: started in milliseconds, reached by bare clients.

    async with memory_broker(topics={"orders": 3}) as broker:
        async with broker.client() as client:
            answer = await client.call(ProduceRequest(...), version=9)
        broker.clock.jump_data(3_600_000)

    async with memory_cluster(3, topics={"orders": 3}, replication_factor=3) as cluster:
        async with cluster.client(2) as client:
            ...
        cluster.kill(1)                       # -9; `await cluster.stop(1)` is the clean end
        await cluster.start(1)                # the next process, over the same disk

The disk, the network, the clock and the coordination store are the fakes of this package; the broker is the real one.
A second `memory_broker` over the same `Machine` is the same broker started again. Brokers of a cluster share a store
and a network (hosts b1, b2 …, to be cut from each other); each has a machine of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from random import Random
from typing import TypeVar

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.topics import CreatableTopic, CreateTopicsRequest
from kbroker.api.registry import Api
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.store import CoordinationStore
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.config import BrokerConfig
from kbroker.env import Env, Net
from kbroker.server.broker import Beside, Ready, run_broker
from kbroker.testing.client import BareClient, connect
from kbroker.testing.clock import SteeredClock
from kbroker.testing.control.controls import Controls
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.net import Mark, MemoryNet, MemoryNetwork
from kbroker.testing.store import ProcessStore
from kbroker.testing.workers import InlineHelper
from kbroker.testing.world import Killed, ProcessClock, SeededRng, cancelled_part

HOST = "127.0.0.1"
PORT = 9092  # of the brokers of a cluster
CREATE_WAIT_S = 30.0
T = TypeVar("T")


async def inline(work: Callable[[], T]) -> T:
    """An Offload that does the work here and now."""
    await trio.lowlevel.checkpoint()
    return work()


class Machine:
    """What outlives a broker's process: disk, clock, coordination store. seed decides what is left to chance.

    name: of the host. network, store: shared with other machines; new ones if not given. clock: its own if not given.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        name: str = "broker",
        network: MemoryNetwork | None = None,
        store: MemoryStore | None = None,
        clock: SteeredClock | None = None,
    ) -> None:
        self.name = name
        self.clock = clock or SteeredClock()
        self.disk = MemoryDisk(seed=seed)
        self.network = network or MemoryNetwork(seed=seed)
        self.store = store or MemoryStore(self.clock)
        self.random = Random(f"{seed}/machine/{name}")
        self.starts = 0
        self.life = Life()

    def env(self) -> Env:
        """The world of a new process."""
        self.starts += 1
        alive = self.life.check
        disk = MemoryDisk(self.disk.volume, holder=f"a process of {self.name}", alive=alive)
        rng, helper = SeededRng(self.random, alive), InlineHelper(disk, inline)
        return Env(ProcessClock(self.clock, alive), disk, self.new_net(alive), rng, inline, helper)

    def new_net(self, alive: Callable[[], None]) -> Net:
        """The network as a new process has it."""
        return self.network.host(self.name, alive=alive)

    def hang_up(self) -> None:
        """Break every connection of the process, and stop listening."""
        self.network.hosts[self.name].abort(Mark.RESET)

    def kill(self) -> None:
        """End the process as kill -9 does: connections break, locks are released, the page cache stays."""
        self.life.end()
        self.hang_up()
        self.disk.volume.kill()
        self.life = Life()


class Life:
    """One life of a process: what belongs to it asks whether it goes on."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_over = False

    def check(self) -> None:
        """Raise Killed when it is over."""
        if self.is_over:
            raise Killed

    def end(self) -> None:
        """From here on nothing it does counts; its tasks unwind."""
        self.is_over = True
        self.scope.cancel()

    async def live(self, program: Callable[[], Awaitable[None]]) -> None:
        """Run a program. What it raises is passed on, unless that is because the life is over."""
        try:
            with self.scope:
                await program()
        except BaseException as error:
            if not self.is_over:
                raise
            if (cancelled := cancelled_part(error)) is not None:
                raise cancelled from None


class MemoryBroker:
    """A running broker."""

    def __init__(self, machine: Machine, env: Env) -> None:
        self.machine = machine
        self.env = env
        self.life = machine.life
        self.ready: Ready  # once it serves
        self._serves = trio.Event()
        self._ended = trio.Event()

    @property
    def clock(self) -> SteeredClock:
        """The broker's clock, with a lever per domain."""
        return self.machine.clock

    @property
    def disk(self) -> MemoryDisk:
        """The broker's disk, to be looked at and broken."""
        return self.machine.disk

    @property
    def port(self) -> int:
        """Of the first listener."""
        return next(iter(self.ready.listeners.values()))[1]

    def client(self, client_id: str | None = "bare") -> AbstractAsyncContextManager[BareClient]:
        """A connected client, of the broker's own host."""
        return connect(self.env.net, HOST, self.port, client_id)

    async def run(
        self,
        settings: BrokerConfig,
        store: CoordinationStore,
        topics: Mapping[str, int] | None = None,
        *,
        apis: Mapping[int, Api] | None = None,
        beside: Beside | None = None,
    ) -> None:
        """Be a broker until stopped or killed. apis, beside: as for `run_broker`."""
        wishes, on_ready = [NewTopic(*each) for each in (topics or {}).items()], self._on_ready
        serve = partial(run_broker, store=store, topics=wishes, on_ready=on_ready, beside=beside, apis=apis)
        try:
            await self.life.live(partial(serve, self.env, settings))
        finally:
            self._ended.set()

    def _on_ready(self, ready: Ready) -> None:
        self.ready = ready
        self._serves.set()

    async def wait_serving(self) -> None:
        """Until clients are served."""
        await self._serves.wait()

    async def stop(self) -> None:
        """Stop it cleanly."""
        self.life.scope.cancel()
        await self._ended.wait()


@asynccontextmanager
async def memory_broker(
    *,
    topics: Mapping[str, int] | None = None,
    config: Mapping[str, str] | None = None,
    machine: Machine | None = None,
    controls: Controls | None = None,
) -> AsyncIterator[MemoryBroker]:
    """A broker that serves while the block runs, and stops cleanly after it.

    topics: name -> partitions, created if absent. config: Kafka's names. machine: to be started on, else a new one.
    controls: of that machine's clock, to break answers and to read which requests came.
    """
    machine = machine or Machine()
    machine.life = Life()
    settings = BrokerConfig().with_values({"listeners": f"PLAINTEXT://{HOST}:0", **(config or {})})
    broker = MemoryBroker(machine, machine.env())
    async with trio.open_nursery() as nursery:
        apis = controls.apis() if controls is not None else None
        nursery.start_soon(partial(broker.run, settings, machine.store, topics, apis=apis))
        await broker.wait_serving()
        yield broker
        nursery.cancel_scope.cancel()


class MemoryCluster:
    """Brokers of one cluster, by id: 1, 2 …; their machines stay while their processes come and go."""

    def __init__(
        self,
        size: int,
        config: Mapping[str, str],
        own_config: Callable[[int], Mapping[str, str]],
        seed: int,
        nursery: trio.Nursery,
        beside: Callable[[int], Beside | None] = lambda broker_id: None,
    ) -> None:
        self.network = MemoryNetwork(seed=seed)
        self.store = MemoryStore(SteeredClock())
        self.machines = {
            id: Machine(seed, name=f"b{id}", network=self.network, store=self.store) for id in range(1, size + 1)
        }
        self.ways: dict[int, ProcessStore] = {}  # of the latest process of each, to the store
        self.brokers: dict[int, MemoryBroker] = {}  # those that run
        self._config = config
        self._own_config = own_config
        self._beside = beside
        self._clients: MemoryNet = self.network.host("client")
        self._nursery = nursery

    def client(self, broker_id: int, client_id: str | None = "bare") -> AbstractAsyncContextManager[BareClient]:
        """A client connected to that broker, from a host of its own ("client")."""
        return connect(self._clients, self.machines[broker_id].name, PORT, client_id)

    async def start(self, broker_id: int, **config: str) -> MemoryBroker:
        """Start a broker that does not run, and wait until it serves. config: what differs, dots as `__`."""
        assert broker_id not in self.brokers, f"broker {broker_id} runs already"
        machine = self.machines[broker_id]
        machine.life = Life()
        broker = self.brokers[broker_id] = MemoryBroker(machine, machine.env())
        way = self.ways[broker_id] = ProcessStore(self.store, broker.env.clock, broker.life.check)
        own = {"node.id": str(broker_id), "listeners": f"PLAINTEXT://{machine.name}:{PORT}"}
        differing = {name.replace("__", "."): value for name, value in config.items()}
        settings = BrokerConfig().with_values({**own, **self._config, **self._own_config(broker_id), **differing})
        self._nursery.start_soon(partial(broker.run, settings, way, beside=self._beside(broker_id)))
        await broker.wait_serving()
        return broker

    async def stop(self, broker_id: int) -> None:
        """Stop a broker cleanly."""
        await self.brokers.pop(broker_id).stop()

    def kill(self, broker_id: int) -> None:
        """End a broker as kill -9 does. Its session in the store ends when nobody keeps it alive."""
        del self.brokers[broker_id]
        self.machines[broker_id].kill()

    async def create(self, topics: Mapping[str, int], replication_factor: int = 1) -> None:
        """Create topics (name -> partitions), through any broker."""
        wishes = [
            CreatableTopic(
                name=name, num_partitions=count, replication_factor=replication_factor, assignments=[], configs=[]
            )
            for name, count in topics.items()
        ]
        async with self.client(next(iter(self.brokers))) as client:
            with trio.fail_after(CREATE_WAIT_S):
                answer = await client.call(CreateTopicsRequest(topics=wishes, timeout_ms=10_000), 7)
        for told in answer.topics:
            assert told.error_code == ErrorCode.NONE, f"{told.name}: {told.error_message}"


@asynccontextmanager
async def memory_cluster(
    size: int = 3,
    *,
    topics: Mapping[str, int] | None = None,
    replication_factor: int = 1,
    config: Mapping[str, str] | None = None,
    own_config: Callable[[int], Mapping[str, str]] = lambda broker_id: {},
    seed: int = 0,
    beside: Callable[[int], Beside | None] = lambda broker_id: None,
) -> AsyncIterator[MemoryCluster]:
    """Brokers 1..size that serve while the block runs. All are killed after it.

    topics: name -> partitions, created when all brokers serve. config: Kafka's names, for all brokers. own_config: the
    same for a broker of an id; beside: what runs beside it (`run_broker`).
    """
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(size, config or {}, own_config, seed, nursery, beside)
        async with trio.open_nursery() as starting:
            for broker_id in cluster.machines:
                starting.start_soon(cluster.start, broker_id)
        if topics:
            await cluster.create(topics, replication_factor)
        yield cluster
        for broker_id in tuple(cluster.brokers):
            cluster.kill(broker_id)
