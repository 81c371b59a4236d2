#!/usr/bin/env python3
"""Exactly once, under kills: `python compat/exactly_once/run.py` or `make test-eos`.

Messages with keys lie in three partitions of one topic. A copier (copier.py, Copier.java) copies them to another topic
in transactions of 750, each with the offsets of what it has read. Meanwhile the broker is killed (kill -9) and started
again on the same port and data, and the copier is killed and started again, each so many times, at random moments. In
the end, to readers of committed records, each partition of the copy equals its source, record by record.

    run.py                                    100,000 messages, 10 kills of each, with every client that is here
    run.py --client java --level 2            Kafka's own client, transaction.version 2 finalized
    run.py --target kafka                     Apache Kafka instead: is it the test that is wrong?
    run.py --messages 5000 --kills 2          short
    run.py --seed 7                           other moments

A reader of committed records lives through the whole run, and compares each record as it comes: what was aborted, or
is not committed yet, shows at once. Another one reads everything anew at the end. Exit status 0: exact.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import apache_kafka  # noqa: E402
import copier  # noqa: E402
import wire  # noqa: E402
from kbroker_process import Kbroker  # noqa: E402

SOURCE, TARGET, NAME = "source", "target", "copier"
PARTITIONS = 3
KEYS = 1_000
STEP_SECONDS_MAX = 60.0  # without any progress
RESTART_SECONDS_MAX = 60.0
ENDED_MAX = 20  # copiers that gave up
MOMENT_SECONDS_MAX = 0.03  # a kill comes at a random moment of a transaction, which takes about so long
CLIENTS = ("kafka-python", "confluent-kafka", "java")

Values = list[list[bytes]]  # by partition


class Failed(Exception):
    """The copy is not exact, or there is none; the message says how."""


class Broker(Protocol):
    """Kbroker or ApacheKafka."""

    bootstrap: str

    def start(self, timeout: float) -> object: ...
    def kill(self) -> None: ...


@dataclass
class Plan:
    """A run. The same seed makes the same plan; the moments depend on the machine as well."""

    client: str
    messages: int = 100_000
    broker_kills: int = 10
    copier_kills: int = 10
    records: int = 750  # in a transaction, at most
    level: int | None = None  # of transaction.version; None: the broker's default
    seed: int = 1
    replicas: int = 1

    def kills(self) -> list[tuple[int, str]]:
        """After how many transactions which of the two is killed; maybe both at once, or while one heals."""
        chance = random.Random(self.seed)
        whom = ["broker"] * self.broker_kills + ["copier"] * self.copier_kills
        chance.shuffle(whom)
        last = self.messages // self.records * 4 // 5
        return list(zip(sorted(chance.randint(1, last) for _ in whom), whom, strict=True))


@dataclass
class Seen:
    """What happened, for the report."""

    begun: int = 0
    committed: int = 0
    aborted: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    gap_seconds: float = 0.0  # the longest time without a committed record
    seconds: float = 0.0

    def __str__(self) -> str:
        unheard = self.begun - self.committed - self.aborted.total()
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in (self.aborted + self.ended).most_common())
        return (
            f"killed: the broker {self.kills['broker']} times, the copier {self.kills['copier']} times; transactions: "
            f"{self.begun} begun, {self.committed} committed, {self.aborted.total()} aborted by the copier, {unheard} "
            f"of which a killed copier did not hear the end; copiers that gave up: {self.ended.total()}; "
            f"longest gap {self.gap_seconds:.2f} s; {self.seconds:.1f} s in all{reasons}"
        )


# -- the copier -------------------------------------------------------------------------------------------------------


class Copier:
    """The process that copies: started, killed, started again; also when it gives up."""

    def __init__(self, plan: Plan, bootstrap: str, seen: Seen, log: Path) -> None:
        self.command = [*command_of(plan.client), bootstrap, SOURCE, TARGET, NAME, str(plan.records)]
        self.seen, self.log = seen, log
        self.process: subprocess.Popen[str] | None = None
        self.listener: threading.Thread | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.listener = threading.Thread(target=self._listen, args=(self.process,))
        self.listener.start()

    def kill(self) -> None:
        if self.process is not None and self.listener is not None:
            self.process.kill()
            self.process.wait()
            self.listener.join()

    def see_to_it(self) -> None:
        """Start it again if it has given up."""
        if self.process is not None and self.process.poll() is not None:
            self.kill()
            self.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            word, _, rest = line.strip().partition(" ")
            if word == "begun":
                self.seen.begun += 1
            elif word == "committed":
                self.seen.committed += 1
            elif word == "aborted":
                self.seen.aborted[rest[:200]] += 1
            elif word == "ended":
                self.seen.ended[rest[:200]] += 1


def command_of(client: str) -> list[str]:
    """The copier with this client. Raises Failed where it is not here."""
    if client != "java":
        return [sys.executable, str(HERE / "copier.py"), client]
    try:
        jars = apache_kafka.find_or_fetch()
    except apache_kafka.Unavailable as reason:
        raise Failed(str(reason)) from None
    classes = apache_kafka.CACHE / "exactly_once"
    classes.mkdir(parents=True, exist_ok=True)
    source = HERE / "Copier.java"
    if not (built := classes / "Copier.class").exists() or built.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-cp", jars, "-d", str(classes), str(source)], check=True, timeout=120)
    return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars}:{classes}", "Copier"]  # fmt: skip


# -- the reader -------------------------------------------------------------------------------------------------------


class Reader(threading.Thread):
    """Reads what is committed of the copy, and compares it with what should be there, until it is told to stop."""

    def __init__(self, bootstrap: str, expected: Values, seen: Seen) -> None:
        super().__init__()
        self.consumer = committed_consumer(bootstrap)
        self.expected, self.seen = expected, seen
        self.counts = [0] * PARTITIONS
        self.failure: BaseException | None = None
        self.is_stopped = False

    @property
    def total(self) -> int:
        return sum(self.counts)

    def run(self) -> None:
        last = time.monotonic()
        try:
            self.consumer.assign(PLACES)
            self.consumer.seek_to_beginning(*PLACES)
            while not self.is_stopped:
                if compare(self.consumer.poll(timeout_ms=100), self.expected, self.counts):
                    now = time.monotonic()
                    self.seen.gap_seconds, last = max(self.seen.gap_seconds, now - last), now
        except BaseException as failure:
            self.failure = failure
        finally:
            self.consumer.close()


PLACES = [TopicPartition(TARGET, partition) for partition in range(PARTITIONS)]


def committed_consumer(bootstrap: str) -> Any:
    return KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="none", reconnect_backoff_ms=20, reconnect_backoff_max_ms=200,
    )  # fmt: skip


def compare(polled: dict[Any, list[Any]], expected: Values, counts: list[int]) -> int:
    """Compare records with those expected next in their partitions; how many came. Raises Failed."""
    came = 0
    for place, records in polled.items():
        wanted = expected[place.partition]
        for record in records:
            at = counts[place.partition]
            should_be = wanted[at] if at < len(wanted) else b"nothing"
            if record.value != should_be:
                raise Failed(
                    f"{TARGET}-{place.partition}, record {at} at offset {record.offset}: {record.value!r} where "
                    f"{should_be!r} should be"
                )
            counts[place.partition] += 1
        came += len(records)
    return came


def read_anew(bootstrap: str, expected: Values) -> None:
    """Everything once more, to the very end, when nothing is open any more. Raises Failed."""
    consumer, counts = committed_consumer(bootstrap), [0] * PARTITIONS
    try:
        ends = {place: wire.offset(bootstrap, TARGET, place.partition) for place in PLACES}
        until(lambda: consumer.end_offsets(PLACES) == ends, "a transaction stays open")
        consumer.assign(PLACES)
        consumer.seek_to_beginning(*PLACES)

        def is_read() -> bool:
            compare(consumer.poll(timeout_ms=500), expected, counts)
            return all(consumer.position(place) >= end for place, end in ends.items())

        until(is_read, "the copy cannot be read to its end")
    finally:
        consumer.close()
    if counts != [len(values) for values in expected]:
        raise Failed(f"{sum(map(len, expected)) - sum(counts)} records are missing")


# -- the run ----------------------------------------------------------------------------------------------------------


def carry_out(plan: Plan, broker: Broker, log: Path) -> Seen:
    """A whole run, on a broker that is up. Raises Failed."""
    seen, began = Seen(), time.monotonic()
    finalize(broker.bootstrap, plan.level)
    source = fill(broker.bootstrap, plan.messages, plan.replicas)
    expected = [[copier.transformed(value) for value in values] for values in source]
    process, reader = Copier(plan, broker.bootstrap, seen, log), Reader(broker.bootstrap, expected, seen)
    reader.start()
    process.start()
    try:
        chance = random.Random(plan.seed)
        for begun, whom in plan.kills():
            progress(lambda: seen.begun >= begun, reader, process)  # noqa: B023
            time.sleep(chance.uniform(0, MOMENT_SECONDS_MAX))  # the moment of the kill is the test's input
            seen.kills[whom] += 1
            if whom == "broker":
                broker.kill()
                broker.start(RESTART_SECONDS_MAX)
            else:
                process.kill()
                process.start()
        progress(lambda: reader.total >= plan.messages, reader, process)
    finally:
        process.kill()
        reader.is_stopped = True
        reader.join()
    if reader.failure is not None:
        raise reader.failure
    fence(broker.bootstrap)
    read_anew(broker.bootstrap, expected)
    check_offsets(broker.bootstrap, source)
    seen.seconds = time.monotonic() - began
    return seen


def progress(is_enough: Callable[[], bool], reader: Reader, process: Copier) -> None:
    """Wait until there is so much of it."""
    known, moved = (0, 0), time.monotonic()
    while not is_enough():
        if reader.failure is not None:
            raise reader.failure
        process.see_to_it()
        if process.seen.ended.total() > ENDED_MAX:
            raise Failed(f"the copier gives up again and again; {process.seen}")
        now = (process.seen.begun, reader.total)
        if now != known:
            known, moved = now, time.monotonic()
        elif time.monotonic() > moved + STEP_SECONDS_MAX:
            raise Failed(f"no progress for {STEP_SECONDS_MAX:.0f} s, after {reader.total} records; {process.seen}")
        time.sleep(0.001)


def fill(bootstrap: str, messages: int, replicas: int) -> Values:
    """Write the source, and make the target; the values that lie in each partition."""
    for topic in (SOURCE, TARGET):
        wire.create_topic(
            bootstrap, topic, PARTITIONS, {"min.insync.replicas": "2"} if replicas > 2 else None, replicas
        )
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    values: Values = [[] for _ in range(PARTITIONS)]
    for number in range(messages):
        key = number % KEYS
        value = b"%d" % number
        producer.send(SOURCE, value, b"key %d" % key, partition=key % PARTITIONS)
        values[key % PARTITIONS].append(value)
    producer.flush(STEP_SECONDS_MAX)
    producer.close()
    for partition, written in enumerate(values):
        if wire.offset(bootstrap, SOURCE, partition) != len(written):
            raise Failed("the source could not be written")
    return values


def finalize(bootstrap: str, level: int | None) -> None:
    """Have transaction.version at this level."""
    if level is not None:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        admin.update_features({"transaction.version": level})
        admin.close()


def fence(bootstrap: str) -> None:
    """Whatever the last copier left open ends now."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=NAME)
    producer.init_transactions()
    producer.close()


def check_offsets(bootstrap: str, source: Values) -> None:
    """The group's offsets are at the end of the source."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=NAME, isolation_level="read_committed")
    try:
        found = [consumer.committed(TopicPartition(SOURCE, partition)) for partition in range(PARTITIONS)]
    finally:
        consumer.close()
    if found != [len(values) for values in source]:
        raise Failed(f"the group's offsets are {found}, the source has {[len(values) for values in source]}")


def until(is_so: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + STEP_SECONDS_MAX
    while not is_so():
        if time.monotonic() > end:
            raise Failed(otherwise)


@contextmanager
def running(target: str, directory: Path) -> Iterator[Broker]:
    """A broker in a directory of its own, with its data; whatever happens, it does not outlive this block."""
    make = apache_kafka.ApacheKafka if target == "kafka" else Kbroker
    broker = make(directory, wire.free_port())
    broker.start(RESTART_SECONDS_MAX)
    try:
        yield broker
    finally:
        broker.kill()


def run(plan: Plan, target: str = "kbroker") -> Seen:
    """A run on a new broker. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="eos-", ignore_cleanup_errors=True) as directory:
        try:
            with running(target, Path(directory, "broker")) as broker:
                return carry_out(plan, broker, Path(directory, "copier.log"))
        except Exception:
            for log in (Path(directory, "copier.log"), Path(directory, "broker", "broker.log")):
                if log.exists():
                    print(f"-- {log.name}:", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=CLIENTS, action="append", help="default: all that are here")
    parser.add_argument("--target", choices=("kbroker", "kafka"), default="kbroker")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=750, help="in a transaction, at most")
    parser.add_argument("--kills", type=int, default=10, help="of the broker, and of the copier")
    parser.add_argument("--level", type=int, help="of transaction.version, to be finalized first")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    failed = False
    for client in chosen.client or CLIENTS:
        kills, level = chosen.kills, chosen.level
        plan = Plan(client, chosen.messages, kills, kills, chosen.records, level=level, seed=chosen.seed)
        try:
            print(f"{client}, seed {plan.seed}: exact. {run(plan, chosen.target)}", flush=True)
        except (Failed, KafkaError, RuntimeError) as reason:
            failed = True
            print(f"{client}, seed {plan.seed}: NOT exact: {reason}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
