"""One fault on one cluster: the cluster, the clients under load, what was measured and what is wrong.

    up      the cluster starts, topics are made, clients send and read for a moment
    fault   a function of faults.py does its harm and undoes it; `watch` measures the gap that it makes
    whole   every partition has all its replicas in sync again, in so many seconds
    judged  clients stop; checks.py looks at what is there

Owns the directory, the processes and the clients; whatever happens, they do not outlive `carry_out`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import checks
import clusters
import wire
from apache_kafka import CACHE
from clusters import Cluster
from etcd import Etcd, program
from ledger import Ledger
from loads import PRODUCERS, Reader
from network import Network

BROKERS, PARTITIONS = 3, 6
WARM_SECONDS, CALM_SECONDS = 2.0, 1.0
WHOLE_SECONDS_MAX = 30.0
GIVE_UP_SECONDS = 60.0
ALL_LEAD = [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 3, 2], [2, 1, 3], [3, 2, 1]]
THREE_FOLLOWS = [[1, 2, 3], [2, 3, 1], [1, 3, 2], [2, 1, 3], [1, 2, 3], [2, 1, 3]]


class Failed(Exception):
    """The fault did harm; the message says which."""


class Skipped(Exception):
    """This fault cannot be made here; the message says why."""


@dataclass(frozen=True)
class Plan:
    """How a run is to be."""

    target: str = "kbroker"
    coordination: str = "sqlite"
    clients: tuple[str, ...] = ("confluent-kafka",)
    rate: int = 1000  # records a second, of all clients together
    size: int = 100
    seed: int = 1
    full: bool = False  # as long and as often as the matrix of faults says
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class Measure:
    """A time and the most it may be; no limit: for people to read."""

    what: str
    seconds: float
    limit: float | None = None

    @property
    def is_good(self) -> bool:
        return self.limit is None or self.seconds <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f" (of {self.limit:g})"
        return f"{self.what} {self.seconds:.2f} s{limit}{'' if self.is_good else ' TOO LONG'}"


class Trial:
    """What a fault works with."""

    def __init__(
        self, name: str, plan: Plan, directory: Path, placement: list[list[int]], stack: ExitStack, *, proxied: bool
    ) -> None:
        self.name = name
        self.plan, self.directory, self.placement, self.stack = plan, directory, placement, stack
        self.chance = random.Random(plan.seed)
        self.network = stack.enter_context(Network(self._owner_of)) if proxied else None
        self.etcd = self._etcd() if plan.coordination == "etcd" else None
        doors = self._door if self.network else clusters.direct
        self.cluster: Cluster = clusters.make(
            plan.target, directory, BROKERS, plan.properties, doors=doors, store=self._store if self.etcd else None
        )
        self.stack.callback(self._end)
        self.paused: set[int] = set()
        self.measures: list[Measure] = []
        self.wrong: list[str] = []
        self.producers: list[Any] = []
        self.readers: list[Reader] = []

    # the course of it

    def up(self, clients: tuple[str, ...]) -> None:
        self.cluster.start()
        for client in clients:
            ledger = Ledger(f"load-{client}", PARTITIONS)
            self.create(ledger.topic)
            producer = PRODUCERS[client](self.cluster.servers, ledger, self.plan.rate // len(clients), self.plan.size)
            reader = Reader(self.cluster.servers, ledger.topic, PARTITIONS)
            producer.start()
            reader.start()
            self.producers.append(producer)
            self.readers.append(reader)
        self.flow()
        began = time.time()
        time.sleep(WARM_SECONDS)
        if self.producers:
            self.measures.append(Measure("calm: longest gap", self.gap(began)))

    def create(self, topic: str) -> None:
        """A topic of this trial, ready to be written to."""
        wire.create_topic(self.cluster.bootstrap, topic, self.placement, {"min.insync.replicas": "2"})
        self.wait(lambda: len(self.partitions(topic)) == len(self.placement) and self.is_whole(), "the topic is ready")

    def whole(self) -> None:
        """All replicas are in sync again, soon."""
        began = time.monotonic()
        self.wait(self.is_whole, "all replicas are in sync")
        self.measures.append(Measure("whole after", time.monotonic() - began, WHOLE_SECONDS_MAX))

    def judge(self) -> None:
        """Clients stop; what is there is looked at."""
        time.sleep(CALM_SECONDS)
        for client in (*self.producers, *self.readers):
            client.finish()
        for producer, reader in zip(self.producers, self.readers, strict=True):
            errors = [*producer.ledger.errors, *reader.sightings.errors]
            self.wrong += [f"{producer.name_of_client} was told: {error}" for error in errors[:5]]
            self.wrong += checks.contents(self.cluster, producer.ledger, reader.sightings)
        self.wrong += checks.replicas(self.cluster)

    # what a fault asks and does

    def partitions(self, *topics: str, seen_by: Sequence[int] = ()) -> list[wire.Partition]:
        """As the first of these sees them that answers, or of those that run; none while nobody does."""
        for broker in seen_by or self.running:
            try:
                return wire.partitions(self.cluster[broker].bootstrap, *topics)
            except (OSError, ValueError, IndexError):
                continue
        return []

    @property
    def running(self) -> list[int]:
        """The brokers that can answer."""
        up = [broker for broker in self.cluster if broker not in self.paused]
        return [broker for broker in up if self.cluster[broker].process is not None]

    @property
    def loaded(self) -> list[wire.Partition]:
        """The partitions under load."""
        return self.partitions(*self.topics) if self.producers else []

    @property
    def topics(self) -> list[str]:
        return [producer.ledger.topic for producer in self.producers]

    def leader(self) -> int:
        """Who leads the first partition under load."""
        self.wait(lambda: any(each.leader > 0 for each in self.loaded[:1]), "there is a leader")
        return self.loaded[0].leader

    def is_whole(self) -> bool:
        """Every partition of the cluster has a leader and all its replicas in sync, by everyone's account."""
        return self.cluster.is_in_sync()

    def moved_from(self, broker: int) -> bool:
        """No other takes it for a leader any more, and each partition has one."""
        found = self.partitions(*self.topics, seen_by=[other for other in self.running if other != broker])
        return bool(found) and all(each.leader not in (broker, -1) for each in found)

    def pause(self, broker: int) -> None:
        self.paused.add(broker)
        os.kill(self.cluster[broker].pid, signal.SIGSTOP)

    def resume(self, broker: int) -> None:
        os.kill(self.cluster[broker].pid, signal.SIGCONT)
        self.paused.discard(broker)

    def wait(self, is_so: Callable[[], bool], what: str, seconds: float = GIVE_UP_SECONDS) -> float:
        """Until it is so; the seconds it took. Raises Failed."""
        began = time.monotonic()
        while not is_so():
            if time.monotonic() > began + seconds:
                raise Failed(f"never within {seconds:.0f} s: {what}. {self.state()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def flow(self) -> float:
        """Until every partition acknowledges something that is later than now."""
        now = time.time()
        return self.wait(lambda: all(p.ledger.flows_since(now) for p in self.producers), "every partition acknowledges")

    def gap(self, since: float, but: Sequence[str] = ()) -> float:
        gaps = [each.ledger.gap(since, time.time()) for each in self.producers if each.name_of_client not in but]
        return max(gaps, default=0.0)

    @contextmanager
    def watch(self, what: str, limit: float | None = None, but: Sequence[str] = ()) -> Iterator[Measure]:
        """Measure the longest gap between acknowledgements of a partition, from now until all flow again.

        but: clients that are not held to the limit, for a reason of their own; theirs is told apart.
        """
        began = time.time()
        measure = Measure(f"{what}: longest gap", 0.0, limit)
        yield measure
        self.flow()
        measure.seconds = self.gap(began, but)
        self.measures.append(measure)
        for producer in self.producers:
            if producer.name_of_client in but:
                gap = producer.ledger.gap(began, time.time())
                self.measures.append(Measure(f"of {producer.name_of_client}", gap))

    def state(self) -> str:
        return "; ".join(f"{p.topic}-{p.index} led by {p.leader}, in sync {list(p.isr)}" for p in self.loaded)[:600]

    # the network, the store, the end

    def _etcd(self) -> Etcd:
        if program() is None:
            raise Skipped("no etcd on this machine: see tools/etcd_servers.py")
        etcd = Etcd(self.directory)
        self.stack.callback(etcd.kill)
        etcd.start()
        return etcd

    def _store(self, broker: int) -> str:
        """What a broker is told of etcd; with a network between, each has doors of its own."""
        assert self.etcd is not None
        ports = [self._door("store", broker, port) if self.network else port for port in self.etcd.ports]
        return "etcd://" + ",".join(f"127.0.0.1:{port}" for port in ports)

    def _door(self, kind: str, broker: int, port: int) -> int:
        assert self.network is not None
        return self.network.open(kind, broker, ("127.0.0.1", port))

    def _owner_of(self, port: int) -> int | None:
        """The broker whose process has this local port."""
        inode = inode_of(port)
        owned = (broker for broker in self.cluster if inode and has_socket(self.cluster[broker], inode))
        return next(owned, None)

    def _end(self) -> None:
        for broker in list(self.paused):
            self.resume(broker)
        for client in (*self.producers, *self.readers):
            client.abandon()
        logs = CACHE / "logs" / "faults" / self.name
        logs.mkdir(parents=True, exist_ok=True)
        self.cluster.kill()
        for broker in self.cluster:
            if (log := self.cluster[broker].log_file).exists():
                shutil.copy(log, logs / f"broker-{broker}.log")


def inode_of(port: int) -> str:
    """Of the socket on the loopback with this local port that is connected."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "01":
                return fields[9]
    return ""


def has_socket(member: clusters.Member, inode: str) -> bool:
    if member.process is None:
        return False
    try:
        with os.scandir(f"/proc/{member.process.pid}/fd") as files:
            return any(os.readlink(file.path) == f"socket:[{inode}]" for file in files)
    except OSError:
        return False


@contextmanager
def small_file_system(at: Path, size: str) -> Iterator[None]:
    """A tmpfs mounted there. Raises Skipped where none can be."""
    at.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def trial_of(name: str, plan: Plan, placement: list[list[int]], *, proxied: bool) -> Iterator[Trial]:
    """Of the fault of this name; the brokers' logs are kept in .compat/logs/faults/NAME."""
    with TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as directory, ExitStack() as stack:
        yield Trial(name, plan, Path(directory), placement, stack, proxied=proxied)
