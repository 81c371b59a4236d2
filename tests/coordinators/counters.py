"""A kind of state that is neither groups nor transactions, on the runtime of coordinators: counters.

A counter is a pure core. `add` answers with the sum, once that is stored; a counter that was given a time is cleared
when that has passed; `wait` is answered by the next `add`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import trio

from kafka_wire.errors import ErrorCode
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig, topic_config
from kbroker.coordinators.effects import Compute, Effect, Pair, Reply, StateRecord, Store, Ticket
from kbroker.coordinators.routing import InternalTopic
from kbroker.coordinators.runtime import Runtime
from kbroker.coordinators.shard import Shard, Tasks
from kbroker.env import Clock
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.turns import Work
from tests.coordinators.running import running
from tests.log.tools import log_for
from tests.replication.tools import image

TOPIC = "__counters"
TOPIC_ID = b"counter-topic-id"


class Counter:
    """One counter. deadline: when it is cleared."""

    def __init__(self, name: str, value: int = 0) -> None:
        self.name = name
        self.value = value
        self.deadline: float | None = None
        self.waiting: list[Ticket] = []

    def add(self, ticket: Ticket, n: int) -> list[Effect]:
        self.value += n
        waiting, self.waiting = self.waiting, []
        return [self._store(), *(Reply(each, self.value) for each in (*waiting, ticket))]

    def fill(self, ticket: Ticket, n: int) -> list[Effect]:
        records = tuple((f"{self.name}-{each}".encode(), b"1" * 1000) for each in range(n))
        return [Store(records), Reply(ticket, n)]

    def add_slowly(self, ticket: Ticket, n: int) -> list[Effect]:
        def count() -> Work[int]:
            for _ in range(n):
                yield
            return n

        return [Compute(count(), lambda found, now, now_ms: self.add(ticket, found))]

    def wait(self, ticket: Ticket) -> list[Effect]:
        self.waiting.append(ticket)
        return []

    def clear(self) -> list[Effect]:
        self.value, self.deadline = 0, None
        return [Store(((self.name.encode(), None),))]

    def _store(self) -> Store:
        return Store(((self.name.encode(), str(self.value).encode()),))


class CounterShard(Shard):
    """The counters of one partition."""

    __slots__ = ("counters", "taken_up")

    def __init__(self, partition: Partition, clock: Clock, tasks: Tasks) -> None:
        super().__init__(partition, clock, tasks)
        self.counters: dict[str, Counter] = {}
        self.taken_up = False

    def counter(self, name: str) -> Counter:
        return self.counters.setdefault(name, Counter(name))

    def pair_of(self, record: StateRecord | Pair) -> Pair:
        assert isinstance(record, tuple)
        return record

    def restore(self, live: dict[bytes, bytes]) -> Work[None]:
        self.counters = {}
        for key, value in live.items():
            self.counters[key.decode()] = Counter(key.decode(), int(value))
            yield

    def summary(self) -> str:
        return f"{len(self.counters)} counters"

    def names(self) -> Collection[str]:
        return self.counters.keys()

    def deadline(self, name: str) -> float | None:
        found = self.counters.get(name)
        return None if found is None else found.deadline

    def on_alarm(self, name: str, now: float, now_ms: int) -> Iterable[Effect]:
        return self.counters[name].clear()

    def resign(self, code: ErrorCode) -> Iterable[Effect]:
        for each in self.counters.values():
            for ticket in each.waiting:
                yield Reply(ticket, code)


class Rig:
    """A runtime of counters on one partition, led by hand as the broker of id 1."""

    def __init__(self, machine: Machine, **configs: str) -> None:
        self.env = machine.env()
        config = BrokerConfig()
        self.logs = LogDirectory(self.env, config)
        self.logs.open()
        image = PartitionImage(TOPIC_ID, 0, (1,), (1,), 1, 1, 1)
        self.registration = SimpleNamespace(
            image=ClusterImage(topics={TOPIC: TopicImage(TOPIC, TOPIC_ID, (image,), {})}),
            broker=SimpleNamespace(id=1),
        )
        topic = InternalTopic(TOPIC, cast(Registration, self.registration), lambda: NewTopic(TOPIC, 1))
        self.runtime: Runtime[CounterShard] = Runtime(self.env, self.logs, topic, self._make, self._take_up)
        log = log_for(self.logs, TOPIC, 0, TOPIC_ID, topic_config({"cleanup.policy": "compact", **configs}, config))
        self.partition = Partition(TOPIC, 0, TOPIC_ID, log, 1)

    def _make(self, partition: Partition, tasks: Tasks) -> CounterShard:
        return CounterShard(partition, self.env.clock, tasks)

    def _take_up(self, shard: CounterShard) -> Work[None]:
        shard.taken_up = True
        yield

    def lead(self, epoch: int) -> None:
        self.partition.lead(image(epoch, (1,)))
        self.runtime.leading.lead(self.partition)

    @property
    def shard(self) -> CounterShard:
        return self.runtime.leading.shard("any")

    async def loaded(self) -> CounterShard:
        """Wait until the shard is active."""
        with trio.fail_after(60):
            while not all(shard.is_active for shard in self.runtime.leading.shards):
                await trio.lowlevel.checkpoint()
        return self.shard

    def add(self, name: str, n: int) -> Any:
        """The sum, or an error's code; a coroutine of it when it has to wait."""
        return self.runtime.submit(name, lambda shard, ticket: shard.counter(name).add(ticket, n), _same, 5.0)

    def fill(self, name: str, n: int) -> Any:
        """Store n records of 1,000 bytes at once."""
        return self.runtime.submit(name, lambda shard, ticket: shard.counter(name).fill(ticket, n), _same, 5.0)

    def add_slowly(self, name: str, n: int) -> Any:
        """A coroutine of the sum."""
        return self.runtime.submit(name, lambda shard, ticket: shard.counter(name).add_slowly(ticket, n), _same, 5.0)

    def wait(self, name: str) -> Any:
        """A coroutine of the next sum."""
        return self.runtime.submit(name, lambda shard, ticket: shard.counter(name).wait(ticket), _same, 5.0)


def _same(code: ErrorCode) -> ErrorCode:
    return code


@asynccontextmanager
async def rig(machine: Machine | None = None, *, epoch: int = 1, **configs: str) -> AsyncIterator[Rig]:
    """A running runtime that leads its partition in that epoch; stopped as by kill -9. configs: of the topic."""
    made = Rig(machine or Machine(), **configs)
    async with running(made, made.runtime.run, epoch):
        yield made
