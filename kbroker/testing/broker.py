"""A broker in memory, inside the test's own trio run: started in milliseconds, reached by bare clients.

    async with memory_broker(topics={"orders": 3}) as broker:
        async with broker.client() as client:
            answer = await client.call(ProduceRequest(...), version=9)
        broker.clock.jump_data(3_600_000)

The disk, the network, the clock and the coordination store are the fakes of this package; the broker is the real one.
A second `memory_broker` over the same `Machine` is the same broker started again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import TypeVar

import trio

from kbroker.cluster.stores.memory import MemoryStore
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.server.broker import Ready, run_broker
from kbroker.testing.client import BareClient, connect
from kbroker.testing.clock import SteeredClock
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.net import MemoryNetwork
from kbroker.testing.world import SeededRng

HOST = "127.0.0.1"
T = TypeVar("T")


async def inline(work: Callable[[], T]) -> T:
    """An Offload that does the work here and now."""
    await trio.lowlevel.checkpoint()
    return work()


class Machine:
    """What outlives a broker's process: disk, clock, coordination store. seed decides what is left to chance."""

    def __init__(self, seed: int = 0) -> None:
        self.clock = SteeredClock()
        self.disk = MemoryDisk(seed=seed)
        self.network = MemoryNetwork(seed=seed)
        self.store = MemoryStore(self.clock)
        self.random = Random(f"{seed}/machine")
        self.starts = 0

    def env(self) -> Env:
        """The world of a new process."""
        self.starts += 1
        disk = MemoryDisk(self.disk.volume)
        return Env(self.clock, disk, self.network.host("broker"), SeededRng(self.random), inline)


class MemoryBroker:
    """A running broker."""

    def __init__(self, machine: Machine, env: Env, ready: Ready) -> None:
        self.machine = machine
        self.env = env
        self.ready = ready

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
        """A connected client."""
        return connect(self.env.net, HOST, self.port, client_id)


@asynccontextmanager
async def memory_broker(
    *,
    topics: Mapping[str, int] | None = None,
    config: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> AsyncIterator[MemoryBroker]:
    """A broker that serves while the block runs, and stops cleanly after it.

    topics: name -> partitions, created if absent. config: Kafka's names. machine: to be started on, else a new one.
    """
    machine = machine or Machine()
    env = machine.env()
    settings = BrokerConfig().with_values({"listeners": f"PLAINTEXT://{HOST}:0", **(config or {})})
    ready: list[Ready] = []
    is_ready = trio.Event()

    def on_ready(told: Ready) -> None:
        ready.append(told)
        is_ready.set()

    async def run() -> None:
        await run_broker(env, settings, store=machine.store, topics=(topics or {}).items(), on_ready=on_ready)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await is_ready.wait()
        yield MemoryBroker(machine, env, ready[0])
        nursery.cancel_scope.cancel()
