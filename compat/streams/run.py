"""A Kafka Streams application with `exactly_once_v2` under kills: its counts must be exact.

    python compat/streams/run.py                    kbroker, started as a user starts it
    python compat/streams/run.py --kafka            Apache Kafka instead
    … --kills 10 --lines 20000 --seed 3             more of it
    … --transaction-version 1                       another level of that feature than the broker's own choice

The application (`WordCounts.java`) counts words, and words by window of event time; its state is in RocksDB, rebuilt
from changelog topics after a kill. Two instances of two threads each share the work. While lines come in, an instance,
the broker, or both are killed (kill -9) by turns and started again, each time after more counts were committed. Each
update is an output, so what a committed reader has to see is known: for every word, and for every word and window,
1, 2, 3 … up to the model's count, each once and in that order.

Exit status 1 if anything else is seen. Where Java or Maven are missing it is skipped by name.

Owns: `.compat/streams/` (jars, classes, logs), the broker and the processes it starts, and a directory for their state.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import wire
from apache_kafka import CACHE, LOGGING, VERSION, ApacheKafka, Unavailable, fetch_jars, find_or_fetch
from kbroker_process import Kbroker, find
from streams.counts import PARTITIONS, WINDOW_MS, Line, Seen, make_lines, model

HERE = Path(__file__).resolve().parent
HOME = CACHE / "streams"
PREFIX = "words-"
INSTANCES = 2
LINES_A_SECOND = 400
VICTIMS = ("an instance", "the broker", "an instance and the broker")
STANDSTILL_SECONDS_MAX = 60.0  # without a single further count
QUIET_SECONDS = 3.0  # at the end: nothing may come that is too many
FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
BROKER = {
    "group.min.session.timeout.ms": "1000",
    "transaction.state.log.num.partitions": "8",
    "offsets.topic.num.partitions": "8",
}
HURRY = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}  # as in `compat/run.py`

# ---- Processes -------------------------------------------------------------------------------------------------------


class Java:
    """One process of the application's class."""

    def __init__(self, classpath: str, bootstrap: str, *arguments: str) -> None:
        name = "-".join(Path(argument).name for argument in arguments)
        environment = {**os.environ, "BOOTSTRAP": bootstrap, "PREFIX": PREFIX, "WINDOW_MS": str(WINDOW_MS)}
        with (HOME / "logs" / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["java", *FLAGS, "-cp", classpath, "WordCounts", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def watch(java: Java, seen: Seen) -> None:
    for line in java.process.stdout or ():
        topic, _partition, _offset, key, count = line.split()
        seen.add(topic, key, int(count))


def feed(java: Java, lines: list[Line], acknowledged: list[str]) -> None:
    """So many lines a second."""
    began = time.monotonic()
    assert java.process.stdin
    assert java.process.stdout
    for n, line in enumerate(lines):
        java.process.stdin.write(f"{line}\n")
        if n % 50 == 49:
            java.process.stdin.flush()
            time.sleep(max(0.0, began + n / LINES_A_SECOND - time.monotonic()))
    java.process.stdin.close()
    acknowledged.append(java.process.stdout.read().strip())


def build() -> str:
    """The classpath; the jars and the class are made once."""
    for program in ("java", "javac"):
        if shutil.which(program) is None:
            raise Unavailable(f"no `{program}` on this machine")
    shutil.rmtree(HOME / "logs", ignore_errors=True)
    (HOME / "logs").mkdir(parents=True)
    jars = fetch_jars([f"org.apache.kafka:kafka-streams:{VERSION}", LOGGING], HOME / f"jars-{VERSION}")
    classes, source = HOME / f"classes-{VERSION}", HERE / "WordCounts.java"
    made = classes / "WordCounts.class"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["javac", "-nowarn", "-cp", jars, "-d", str(classes), str(source)], check=True, timeout=120)
    return f"{classes}:{jars}"


# ---- The run ---------------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, classpath: str, broker: Kbroker | ApacheKafka, directory: Path, lines: list[Line]) -> None:
        self.classpath, self.broker, self.directory = classpath, broker, directory
        self.lines, self.wanted, self.seen = lines, model(lines), Seen()
        self.acknowledged: list[str] = []
        self.instances: list[Java] = []
        self.others: list[Java] = []

    def start(self) -> None:
        for topic in ("lines", "by-word", "by-window"):
            wire.create_topic(self.broker.bootstrap, PREFIX + topic, PARTITIONS)
        self.instances = [self.instance(number) for number in range(INSTANCES)]
        watching, feeding = self.java("watch"), self.java("feed")
        self.others = [watching, feeding]
        threading.Thread(target=watch, args=(watching, self.seen), daemon=True).start()
        threading.Thread(target=feed, args=(feeding, self.lines, self.acknowledged), daemon=True).start()

    def java(self, *arguments: str) -> Java:
        return Java(self.classpath, self.broker.bootstrap, *arguments)

    def instance(self, number: int) -> Java:
        return self.java("count", str(self.directory / f"state-{number}"))

    def kills(self, count: int) -> None:
        """Each after another part of the counts."""
        total = self.wanted.total()
        for n in range(count):
            self.wait_until(total * (n + 1) // (count + 2))
            victim = VICTIMS[n % len(VICTIMS)]
            print(f"  {self.seen.total} of {total}: kill {victim}", file=sys.stderr)
            self.kill(n // len(VICTIMS) % INSTANCES if "instance" in victim else None, "broker" in victim)

    def kill(self, number: int | None, broker: bool) -> None:
        """An instance and the broker, whichever is wanted, at the same time; and start them again."""
        if number is not None:
            self.instances[number].kill()
        if broker:
            self.broker.kill()
            self.broker.start()
        if number is not None:
            self.instances[number] = self.instance(number)

    def wait_until(self, total: int) -> None:
        self.seen.at = time.monotonic()
        while self.seen.total < total:
            time.sleep(0.02)
            if time.monotonic() - self.seen.at > STANDSTILL_SECONDS_MAX:
                raise TimeoutError(f"{self.seen.total} of {self.wanted.total()} counts, and no further one came")

    def finish(self) -> list[str]:
        """What is not as it must be: to the reader that was there all the time, and to a new one."""
        self.wait_until(self.wanted.total())
        afresh = Seen()
        watching = self.java("watch")
        self.others.append(watching)
        threading.Thread(target=watch, args=(watching, afresh), daemon=True).start()
        while afresh.total < self.wanted.total() and time.monotonic() - afresh.at < STANDSTILL_SECONDS_MAX:
            time.sleep(0.1)
        time.sleep(QUIET_SECONDS)
        found = [] if self.acknowledged == [str(len(self.lines))] else [f"lines written: {self.acknowledged}"]
        for who, seen in (("reader", self.seen), ("new reader", afresh)):
            found += [f"{who}: {each}" for each in seen.differences(self.wanted)]
        return found

    def close(self) -> None:
        for java in (*self.instances, *self.others):
            java.kill()


@contextmanager
def broker(options: argparse.Namespace, directory: Path) -> Iterator[Kbroker | ApacheKafka]:
    place, port = directory / "broker", wire.free_port()
    level = options.transaction_version
    if options.kafka:
        find_or_fetch()
        features = {} if level is None else {"transaction.version": level}
        made: Kbroker | ApacheKafka = ApacheKafka(place, port, HURRY | BROKER, features=features)
    else:
        made = Kbroker(place, port, BROKER)
    made.start()
    try:
        if level is not None and isinstance(made, Kbroker):
            set_level(made.bootstrap, level)
        yield made
    finally:
        made.kill()


def set_level(bootstrap: str, level: int) -> None:
    """Where it has that level, nothing is done and nothing is wrong."""
    for way in ("upgrade", "downgrade"):
        command = [*find(), "feature", way, "--feature", f"transaction.version={level}", "-b", bootstrap]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode == 0:
            return
    raise RuntimeError(f"transaction.version={level}: {done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", action="store_true", help=f"Apache Kafka {VERSION} instead of kbroker")
    parser.add_argument("--kills", type=int, default=6, help="of instances and broker together; default: 6")
    parser.add_argument("--lines", type=int, default=8000, help="default: 8000")
    parser.add_argument("--seed", type=int, default=1, help="of the lines")
    parser.add_argument("--transaction-version", type=int, metavar="LEVEL", help="default: the broker's own")
    options = parser.parse_args()
    classpath, began = build(), time.monotonic()
    lines = make_lines(options.lines, options.seed, int(time.time() * 1000) - 3_600_000)
    with tempfile.TemporaryDirectory(prefix="compat-streams-", ignore_cleanup_errors=True) as work:
        with broker(options, Path(work)) as made:
            run = Run(classpath, made, Path(work), lines)
            try:
                run.start()
                run.kills(options.kills)
                found = run.finish()
            except TimeoutError as problem:
                found = [str(problem)]
            finally:
                run.close()
            if found:
                shutil.copy(made.log_file, HOME / "logs" / "broker.log")
    for each in found[:20]:
        print(f"FAIL {each}")
    took = time.monotonic() - began
    print(f"{run.seen.total} counts, {options.kills} kills, {took:.0f} s: {'exact' if not found else 'not exact'}")
    print(f"\nstreams: {0 if found else 1} passed, {1 if found else 0} failed")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        print(f"skipped: {reason}\n\nstreams: 0 passed, 0 failed, 1 skipped")
