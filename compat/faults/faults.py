"""The faults, F1 to F14: what is done to a cluster under load, and how long it may take.

A fault is a function that takes a trial, does its harm, undoes it, and measures what its row of the table is about.
What must hold after each of them is in trial.py. What a machine cannot do is skipped, by name; nothing is faked.

Times of kbroker: a broker that is silent for 6 s (the lease) is dead; a follower that lags for 10 s leaves the ISR.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import wire
from clusters import LAG_SECONDS, SESSION_SECONDS
from etcd import NODES
from loads import Impatient
from network import SILENT, Rule
from trial import ALL_LEAD, THREE_FOLLOWS, Failed, Measure, Skipped, Trial, small_file_system

FAILOVER_SECONDS = SESSION_SECONDS + 2.0
SOON_SECONDS = 10.0
FOLLOWER = 3  # of THREE_FOLLOWS


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    title: str
    act: Callable[[Trial], None]
    proxied: bool = False  # needs the network between
    placement: tuple[tuple[int, ...], ...] = tuple(map(tuple, ALL_LEAD))
    under_load: bool = True
    beside: tuple[str, ...] = ()  # clients in any case, if they are here
    prepare: Callable[[Trial], None] | None = None  # before anything starts


def restarts(trial: Trial) -> None:
    """Each broker is stopped in order and started again, one after the other."""
    for broker in trial.cluster:
        with trial.watch(f"restart of broker {broker}", 1.0):
            trial.cluster[broker].stop()
            trial.cluster[broker].start()
        trial.wait(trial.is_whole, "all replicas are in sync")


def kills(trial: Trial) -> None:
    """kill -9 of the leader at a random moment.

    kafka-python waits twice as long after each failure to connect, up to 30 s: so a broker that was down for six
    seconds and leads again soon after is left alone by it for six more. The limit is for one that does not.
    """
    for _ in range(20 if trial.plan.full else 3):
        time.sleep(trial.chance.uniform(0.0, 0.5))
        broker = trial.leader()
        with trial.watch(f"kill -9 of broker {broker}", FAILOVER_SECONDS, but=("kafka-python",)):
            trial.cluster[broker].kill()
            trial.wait(lambda: trial.moved_from(broker), f"others lead what broker {broker} led")  # noqa: B023
        trial.cluster[broker].start()
        trial.wait(trial.is_whole, "all replicas are in sync")


def kill_all(trial: Trial) -> None:
    """kill -9 of all three together."""
    for _ in range(10 if trial.plan.full else 2):
        time.sleep(trial.chance.uniform(0.0, 0.5))
        with trial.watch("kill -9 of all") as measure:
            trial.cluster.kill()
            measure.limit = FAILOVER_SECONDS + trial.cluster.start()
        trial.wait(trial.is_whole, "all replicas are in sync")


def pauses(trial: Trial) -> None:
    """SIGSTOP of the leader, shorter and longer than its lease, then SIGCONT.

    Its connections stay up: a client that waits for an answer there learns nothing before its own timeout, which by
    default is longer. So the limit is for one that is impatient.
    """
    for seconds in (3, 12, 60) if trial.plan.full else (3, 12):
        broker, began = trial.leader(), time.time()
        trial.pause(broker)
        time.sleep(seconds)
        trial.resume(broker)
        trial.flow()
        for producer in trial.producers:
            limit = SOON_SECONDS if isinstance(producer, Impatient) else None
            words = f"broker {broker} stands still for {seconds} s, {producer.name_of_client}: longest gap"
            trial.measures.append(Measure(words, producer.ledger.gap(began, time.time()), limit))
        trial.wait(trial.is_whole, "all replicas are in sync")


def follower_cut_off(trial: Trial) -> None:
    """A broker that leads nothing hears nothing of the others."""
    assert trial.network is not None
    with trial.watch("a follower is cut off", LAG_SECONDS + 2.0):
        trial.network.isolate(FOLLOWER)
        shrunk = trial.wait(lambda: all(FOLLOWER not in each.isr for each in trial.loaded), "it leaves the ISR")
        trial.measures.append(Measure("it left the ISR after", shrunk, LAG_SECONDS + 2.0))
        time.sleep(60 - shrunk if trial.plan.full else 3.0)
    trial.network.heal()


def leader_cut_off(trial: Trial) -> None:
    """The leader is cut off from the other brokers only; from clients only; one way and the other; from the store."""
    network = trial.network
    assert network is not None
    seconds = 20.0 if trial.plan.full else 8.0
    cuts: list[tuple[str, Callable[[int], None]]] = [
        ("from the others", lambda broker: network.isolate(broker)),
        ("from its clients", lambda broker: network.rule(SILENT, "client", target=broker)),
        ("from hearing the others", lambda broker: network.isolate(broker, Rule(back=False))),
        ("from being heard by the others", lambda broker: network.isolate(broker, Rule(forth=False))),
    ]
    for words, cut in cuts:
        broker = trial.leader()
        cut(broker)
        time.sleep(seconds)
        network.heal()
        trial.measures.append(Measure(f"cut off {words} for {seconds:g} s: all flow again after", trial.flow(), 10.0))
        trial.wait(trial.is_whole, "all replicas are in sync")
    if trial.etcd:
        cut_off_from_the_store(trial, trial.leader())


def cut_off_from_the_store(trial: Trial, broker: int) -> None:
    """Its lease ends, another leads, and it acknowledges nothing any more."""
    assert trial.network is not None
    with trial.watch("the leader is cut off from the store", FAILOVER_SECONDS):
        trial.network.rule(SILENT, "store", target=broker)
        trial.wait(lambda: trial.moved_from(broker), f"others lead what broker {broker} led")
    time.sleep(2.0)
    trial.network.heal()
    trial.wait(trial.is_whole, "all replicas are in sync")


def store_silent(trial: Trial) -> None:
    """The coordination store answers nobody. Data flows, nobody is elected."""
    if trial.plan.target != "kbroker":
        raise Skipped("Apache Kafka has its own coordination")
    for words, silence in ETCD_SILENCES if trial.etcd else SQLITE_SILENCES:
        epochs = {(each.topic, each.index): each.leader_epoch for each in trial.loaded}
        with trial.watch(words, 1.0), silence(trial):
            time.sleep(60 if trial.plan.full else 12)
        after = {(each.topic, each.index): each.leader_epoch for each in trial.loaded}
        if after != epochs:
            trial.wrong.append(f"elected, {words}: epochs {epochs} became {after}")
        took = trial.wait(lambda: is_created(trial, words.replace(" ", "-")), "the store is used again")  # noqa: B023
        trial.measures.append(Measure("a topic could be created after", took, SOON_SECONDS))


def is_created(trial: Trial, topic: str) -> bool:
    try:
        wire.create_topic(trial.cluster.bootstrap, topic, trial.placement)
        return True
    except RuntimeError as error:
        return str(error).endswith(f"error {TOPIC_ALREADY_EXISTS}")  # the first attempt was late, not lost
    except OSError:
        return False


TOPIC_ALREADY_EXISTS = 36


@contextmanager
def locked(trial: Trial) -> Iterator[None]:
    """SQLite: somebody holds the lock that a writer needs."""
    held = sqlite3.connect(trial.directory / "cluster.db", isolation_level=None, timeout=5)
    try:
        held.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        held.execute("ROLLBACK")
        held.close()


@contextmanager
def standing_still(trial: Trial) -> Iterator[None]:
    """All of etcd is stopped (SIGSTOP)."""
    assert trial.etcd is not None
    trial.etcd.pause()
    try:
        yield
    finally:
        trial.etcd.resume()


@contextmanager
def without_its_leader(trial: Trial) -> Iterator[None]:
    """kill -9 of the server that leads etcd."""
    yield from killed(trial, 1)


@contextmanager
def without_quorum(trial: Trial) -> Iterator[None]:
    """kill -9 of two servers of etcd's three, its leader among them."""
    yield from killed(trial, 2)


def killed(trial: Trial, count: int) -> Iterator[None]:
    etcd = trial.etcd
    assert etcd is not None
    first = etcd.leader()
    nodes = [(first + n) % NODES for n in range(count)]
    for node in nodes:
        etcd.kill_node(node)
    yield
    for node in nodes:
        etcd.start_node(node)


SQLITE_SILENCES = (("the store is silent", locked),)
ETCD_SILENCES = (
    ("etcd stands still", standing_still),
    ("etcd loses its leader", without_its_leader),
    ("etcd loses its quorum", without_quorum),
)


def compaction(trial: Trial) -> None:
    """A broker cannot see the store for less than its lease, and what it would have seen is compacted away."""
    if trial.etcd is None:
        raise Skipped("needs --coordination etcd")
    assert trial.network is not None
    with trial.watch("compacted while a broker does not watch", 1.0):
        trial.network.rule(SILENT, "store", target=FOLLOWER)
        for number in range(3):
            wire.create_topic(trial.cluster.bootstrap, f"unseen-{number}", trial.placement)
        trial.etcd.compact()
        trial.network.heal()

    def knows_all() -> bool:
        found = trial.partitions(seen_by=[FOLLOWER])
        return {f"unseen-{number}" for number in range(3)} <= {each.topic for each in found}

    took = trial.wait(knows_all, "it knows what it has not seen")
    trial.measures.append(Measure("it knew of all after", took, SOON_SECONDS))


def slow_follower(trial: Trial) -> None:
    """100 ms and 3 Mbit/s between a follower and the others, which is slow; then 40 kbit/s, which is too slow."""
    assert trial.network is not None
    trial.network.isolate(FOLLOWER, Rule(delay_s=0.1, bytes_per_s=375_000))
    time.sleep(30 if trial.plan.full else 5)
    longest = max(producer.ledger.longest_wait_s for producer in trial.producers)
    trial.measures.append(Measure("longest wait for an acknowledgement", longest, float(LAG_SECONDS)))
    with trial.watch("the follower is too slow", LAG_SECONDS + 2.0):
        trial.network.isolate(FOLLOWER, Rule(delay_s=0.1, bytes_per_s=5_000))
        took = trial.wait(lambda: all(FOLLOWER not in each.isr for each in trial.loaded), "it leaves the ISR")
        trial.measures.append(Measure("it left the ISR after", took))
    trial.network.heal()


DISK_OF, DISK_BYTES = 1, 48 << 20


def small_disk(trial: Trial) -> None:
    if trial.plan.target == "kafka":
        raise Skipped("Apache Kafka stops when the only log directory fails")
    trial.stack.enter_context(small_file_system(trial.directory / str(DISK_OF), str(DISK_BYTES)))


def full_disk(trial: Trial) -> None:
    """No room is left where a broker's logs are, until something else there is deleted."""
    filler = trial.directory / str(DISK_OF) / "filler"
    with trial.watch("a full disk"):
        fill_up(filler)
        time.sleep(20 if trial.plan.full else 6)
        filler.unlink()
        freed = time.monotonic()
    trial.measures.append(Measure("room again: all flow after", time.monotonic() - freed, SOON_SECONDS))


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


WRITES = "write,writev,pwrite64,pwritev,pwritev2"
SYNCS = "fsync,fdatasync"


def failing_disk(trial: Trial) -> None:
    """EIO for each write to one log, from now on: others lead it soon. The broker is started again in the end."""
    if shutil.which("strace") is None:
        raise Skipped("no `strace` on this machine")
    each = trial.loaded[0]
    broker, began = each.leader, time.monotonic()
    log = max((trial.cluster[broker].directory / "data" / f"{each.topic}-{each.index}").glob("*.log"))
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(trial.cluster[broker].pid), "-P", str(log)]
    command += ["-e", f"trace={WRITES},{SYNCS}", "-e", f"inject={WRITES},{SYNCS}:error=EIO"]
    with trial.watch("writes fail", FAILOVER_SECONDS):
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            if tracer.poll() is not None:
                raise Skipped("needs the right to trace processes")
            trial.wait(lambda: trial.loaded[0].leader != broker, "another leads")
            trial.measures.append(Measure("another leads after", time.monotonic() - began, 5.0 + 0.5))
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait(10)
    trial.cluster[broker].kill()
    trial.cluster[broker].start()


def rot_and_power(trial: Trial) -> None:
    """Bits rot on a follower and on a leader that are down for a moment; a broker loses what was not yet durable."""
    for words, of_leader in (("follower", False), ("leader", True)):
        each = trial.loaded[0]
        broker = each.leader if of_leader else next(other for other in each.replicas if other != each.leader)
        with trial.watch(f"a bit rots on a {words}", LAG_SECONDS + 2.0):
            trial.cluster[broker].kill()
            rot(trial.cluster[broker].directory / "data" / f"{each.topic}-{each.index}", trial.chance.random())
            trial.cluster[broker].start()
        trial.wait(trial.is_whole, "all replicas are in sync")
    for _ in range(3 if trial.plan.full else 1):
        broker = trial.leader()
        with trial.watch("the power fails one broker", FAILOVER_SECONDS):
            trial.cluster[broker].kill()
            lose_power(trial, trial.cluster[broker].directory / "data")
            trial.cluster[broker].start()
        trial.wait(trial.is_whole, "all replicas are in sync")


def rot(log: Path, where: float) -> None:
    """Flip one bit of a record."""
    file = min(log.glob("*.log"))
    data = bytearray(file.read_bytes())
    at = 61 + int(where * 0.8 * (len(data) - 122))
    data[at] ^= 0x10
    file.write_bytes(data)


def lose_power(trial: Trial, data: Path) -> None:
    """Cut each log somewhere behind its recovery point, and have the machine appear to have been started since."""
    (data / ".kafka_cleanshutdown").unlink(missing_ok=True)
    if (boot := data / "boot-id").exists():
        boot.write_text("00000000-0000-4000-8000-000000000000")
    points = recovery_points(data / "recovery-point-offset-checkpoint")
    for folder in data.glob("*-*/"):
        logs = sorted(folder.glob("*.log"))
        if logs and points.get(folder.name, 0) <= int(logs[-1].stem):  # nothing of the last segment is durable
            size = logs[-1].stat().st_size
            os.truncate(logs[-1], int(size * trial.chance.uniform(0.3, 1.0)))


def recovery_points(file: Path) -> dict[str, int]:
    """Kafka's format: version, count, then topic, partition, offset."""
    lines = file.read_text().splitlines()[2:] if file.exists() else []
    points = (line.rsplit(" ", 2) for line in lines)
    return {f"{topic}-{partition}": int(offset) for topic, partition, offset in points}


def exactly_once(trial: Trial, client: str) -> None:
    """Copies in transactions while brokers and the copier are killed: `compat/exactly_once` on a cluster."""
    eos = exactly_once_runner()
    messages, count = (100_000, 9) if trial.plan.full else (15_000, 3)
    plan = eos.Plan(client, messages, count, count, seed=trial.plan.seed, replicas=3)
    try:
        seen = eos.carry_out(plan, OneOf(trial), trial.directory / "copier.log")
    except eos.Failed as reason:
        raise Failed(str(reason)) from reason
    trial.measures.append(Measure(f"{messages} messages: longest gap", seen.gap_seconds))


def exactly_once_runner() -> Any:
    """`run.py` of that folder, under another name."""
    folder = Path(__file__).resolve().parent.parent / "exactly_once"
    sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location("exactly_once_run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class OneOf:
    """A cluster as the one broker that a test kills and starts: each time another of them, each time another way.

    It is killed and started at once; killed and dead until others lead; or it stands still until they do.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.bootstrap = trial, trial.cluster.servers
        self.broker = 1
        self.ways = itertools.cycle(("kill", "dead", "still"))
        self.way = ""

    def kill(self) -> None:
        self.broker, self.way = self.trial.chance.choice(list(self.trial.cluster)), next(self.ways)
        if self.way == "still":
            self.trial.pause(self.broker)
        else:
            self.trial.cluster[self.broker].kill()

    def start(self, timeout: float) -> None:
        if self.way != "kill":
            time.sleep(FAILOVER_SECONDS)
        if self.way == "still":
            self.trial.resume(self.broker)
        else:
            self.trial.cluster[self.broker].start(timeout)
        self.trial.wait(self.trial.is_whole, "all replicas are in sync")


def group(trial: Trial) -> None:
    """A group of ten, whose members and coordinator are killed in turn."""
    import groups

    groups.live_through_kills(trial)


OTHERS = ("kafka-python", "java")
FOLLOWS = tuple(map(tuple, THREE_FOLLOWS))
FAULTS = (
    Fault("F1", "restarts in order, one broker after the other", restarts, beside=OTHERS),
    Fault("F2", "kill -9 of the leader", kills, beside=(*OTHERS, "prompt")),
    Fault("F3", "kill -9 of all together", kill_all),
    Fault("F4", "the leader stands still (SIGSTOP)", pauses, beside=("impatient",)),
    Fault("F5", "a follower is cut off", follower_cut_off, proxied=True, placement=FOLLOWS),
    Fault("F6", "the leader is cut off, from others, from clients, one way", leader_cut_off, proxied=True),
    Fault("F7", "the coordination store is silent", store_silent),
    Fault("F8", "the store is compacted while a broker does not watch", compaction, proxied=True),
    Fault("F9", "a slow follower", slow_follower, proxied=True, placement=FOLLOWS),
    Fault("F10", "a full disk", full_disk, prepare=small_disk),
    Fault("F11", "writes fail", failing_disk),
    Fault("F12", "bits rot, power fails", rot_and_power),
    *(
        Fault("F13", f"exactly once under kills, {client}", partial(exactly_once, client=client), under_load=False)
        for client in ("confluent-kafka", "kafka-python", "java")
    ),
    Fault("F14", "a group of ten under kills", group, under_load=False),
)
