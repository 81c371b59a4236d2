"""Brokers on nodes of their own, one coordination store, and how brokers start, stop, die and lose power.

The fault budget: with min.insync.replicas 2 a cluster survives the loss of one page cache between two moments in which
every replica is in sync, with 1 that of none (KIP-966). A broker that is killed keeps its page cache, so of that there
may be any number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import trio

from kbroker.cluster.keys import Keys, decode, id_bytes
from kbroker.cluster.store import Op, Put, StoreError, TxnResult
from kbroker.config import BrokerConfig
from kbroker.env import AddressInUse, DirectoryLocked, Env
from kbroker.server.broker import Ready, run_broker
from kbroker.server.identity import StartFailed
from kbroker.testing.store_server import StoreServer
from kbroker.testing.world import Process, World, current_process

Place: TypeAlias = "tuple[bytes, int]"  # topic id, index
PORT = 9092
SESSION_S = 2.0  # of brokers with the store: shorter than in production, as faults are denser
DRIFT_MAX = 0.02
KEEP_UP_S = 0.3
SETTINGS = {
    "auto.create.topics.enable": "false",
    "log.retention.check.interval.ms": "1000",
    "log.flush.offset.checkpoint.interval.ms": "1500",
    "log.cleaner.backoff.ms": "700",
    "replica.high.watermark.checkpoint.interval.ms": "700",
    "replica.lag.time.max.ms": "1200",
    "replica.fetch.wait.max.ms": "300",
    "replica.fetch.backoff.ms": "100",
    "leader.imbalance.check.interval.seconds": "3",
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    "default.replication.factor": "3",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.num.partitions": "2",
}


class Stored(NamedTuple):
    """A partition, as it is in the store."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...]
    leader: int
    leader_epoch: int
    partition_epoch: int

    @classmethod
    def parse(cls, value: bytes) -> Stored:
        """From its value."""
        fields = decode(value)
        lists = (tuple(fields.get(name, ())) for name in ("replicas", "isr", "elr"))
        return cls(*lists, fields["leader"], fields["leader_epoch"], fields["partition_epoch"])


class BrokerNode:
    """A machine that is to run a broker."""

    def __init__(self, cluster: Cluster, broker_id: int) -> None:
        world = cluster.world
        self.id = broker_id
        self.name = f"b{broker_id}"
        self.cluster = cluster
        self.node = world.node(self.name, drift=1 + cluster.random.uniform(-DRIFT_MAX, DRIFT_MAX))
        self.is_wanted = False  # to run
        self.is_ready = False
        self.disk_trouble = False  # orders to fail, or no space, now or when the process started
        self.registered: Process | None = None  # the process that registered last
        values = {**SETTINGS, **cluster.settings, "node.id": str(broker_id)}
        values["broker.rack"] = f"rack-{broker_id}"
        values["listeners"] = f"PLAINTEXT://{self.name}:{PORT}"
        self.config = BrokerConfig().with_values(values)
        self._stop = trio.Event()

    def __str__(self) -> str:
        return self.name

    @property
    def is_current(self) -> bool:
        """Whether the live process is the one that the cluster knows."""
        return self.node.process is not None and self.registered is self.node.process

    @property
    def is_frozen(self) -> bool:
        """Whether it is paused."""
        return self.node.process is not None and self.node.process.frozen

    def start(self) -> None:
        """Run the broker, now and whenever it ends by itself."""
        self.is_wanted = True
        if not self.node.running:
            self._stop = trio.Event()
            self.node.start(self._serve)

    async def stop(self, seconds: float = 10.0) -> bool:
        """Ask the broker to stop, and wait for it; whether it did."""
        self.is_wanted = False
        self._stop.set()
        with trio.move_on_after(seconds):
            while self.node.running and not self.is_frozen:
                await trio.sleep(0.05)
        return not self.node.running

    def kill(self) -> None:
        """kill -9: the page cache stays."""
        self.is_wanted = self.is_ready = False
        self.node.kill()

    def lose_power(self) -> None:
        """Power goes, and with it what was not flushed."""
        self.is_wanted = self.is_ready = False
        self.cluster.lossy.add(self.id)
        self.node.power_loss()

    async def _serve(self, env: Env) -> None:
        process = current_process.get()
        assert process is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, self._stop, nursery.cancel_scope)
                store = self.cluster.store.link(process)
                await run_broker(env, self.config, store=store, on_ready=self._on_ready)
        except* (OSError, StartFailed, StoreError, DirectoryLocked, AddressInUse) as group:
            self.cluster.world.trace("broker ended", self.name, repr(group.exceptions[0]))
        self.is_ready = False

    def _on_ready(self, ready: Ready) -> None:
        self.is_ready = True
        self.cluster.world.trace("ready", self.name)


class Cluster:
    """The nodes, the store between them, and what the store says of partitions."""

    def __init__(self, world: World, size: int, settings: Mapping[str, str] | None = None, *, min_isr: int = 2) -> None:
        self.world = world
        self.random = world.random("cluster")
        self.settings = {"min.insync.replicas": str(min_isr), **(settings or {})}
        self.may_lose = min_isr - 1  # page caches, between two moments in which all are in sync
        self.on_partition: Callable[[Place, Stored | None, Stored], None] = lambda place, old, new: None
        self.partitions: dict[Place, Stored] = {}  # as the store has them now
        self.store = StoreServer(world, self._on_commit, SESSION_S)
        self.keys = Keys("kbroker")
        self.lossy: set[int] = set()  # brokers that lost their page cache since all were in sync
        self.nodes = {n: BrokerNode(self, n) for n in range(1, size + 1)}
        self.by_name = {node.name: node for node in self.nodes.values()}

    @property
    def names(self) -> list[str]:
        """Of all hosts."""
        return list(self.by_name)

    def start(self) -> None:
        """Run all brokers."""
        for node in self.nodes.values():
            node.start()

    def kill(self) -> None:
        """All brokers at once."""
        for node in self.nodes.values():
            node.kill()

    async def keep_up(self) -> None:
        """Start again what ended by itself, as a supervisor does."""
        while True:
            await trio.sleep(KEEP_UP_S)
            for node in self.nodes.values():
                if node.is_wanted:
                    node.start()

    def may_lose_power(self, node: BrokerNode) -> bool:
        """Whether the fault budget has room for it."""
        if self.is_whole:
            self.lossy.clear()
        return len(self.lossy | {node.id}) <= self.may_lose

    @property
    def is_whole(self) -> bool:
        """Whether every broker serves as the one the cluster knows, and every replica is in sync."""
        return all(node.is_current and node.is_ready for node in self.nodes.values()) and all(
            set(partition.isr) == set(partition.replicas) for partition in self.partitions.values()
        )

    def leader_of(self, place: Place) -> BrokerNode | None:
        """Who leads a partition, by the store."""
        partition = self.partitions.get(place)
        return self.nodes.get(partition.leader) if partition is not None else None

    def _on_commit(self, process: Process, ops: Sequence[Op], result: TxnResult) -> None:
        """A transaction happened: at this moment, and no other came between."""
        written = [op.key.decode().removeprefix(self.keys.prefix.decode()) for op in ops]
        self.world.trace("commit", process.node.name, result.revision, written)
        for op, key in zip(ops, written, strict=True):
            kind, _, rest = key.partition("/")
            if kind == "p":
                topic, _, index = rest.partition("/")
                self._on_partition((id_bytes(topic), int(index)), op)
            elif kind == "brokers" and isinstance(op, Put):
                self._on_registered(int(rest), process)

    def _on_partition(self, place: Place, op: Op) -> None:
        old = self.partitions.pop(place, None)
        if isinstance(op, Put):
            self.partitions[place] = new = Stored.parse(op.value)
            self.world.trace("partition", place[1], new)
            self.on_partition(place, old, new)

    def _on_registered(self, broker_id: int, process: Process) -> None:
        node = self.nodes[broker_id]
        if process is node.node.process:
            node.registered = process


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
