"""Measurements with the clients people use: Kafka's own Java tools, confluent-kafka and kafka-python.

The client shares the machine with the broker and is often the slower of the two, so these figures say what a user gets
and not what the broker can do; for that, look at its CPU. A client that is not installed makes its rows be skipped.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apache_kafka
from brokers import CACHE, HERE, Broker, Failed, Sample, Scale, run_marked

Measure = Callable[[Broker, Scale], Sample]


def java_missing() -> str | None:
    try:
        java_classpath()
    except (apache_kafka.Unavailable, Failed) as reason:
        return str(reason)
    return None


def java_classpath() -> str:
    """Kafka's jars and, beside them, the one with its performance tools, which the broker itself does not need."""
    broker_jars = apache_kafka.find_or_fetch()
    artifact = f"org.apache.kafka:kafka-tools:{apache_kafka.VERSION}"
    tools = CACHE / f"kafka-tools-{apache_kafka.VERSION}.jar"
    if not tools.exists():
        if shutil.which("mvn") is None:
            raise Failed("no `mvn` on this machine to fetch Kafka's tools with")
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={CACHE}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        if not tools.exists():
            raise Failed(f"Maven could not fetch {artifact}: {(done.stdout + done.stderr).strip()[:200]}")
    return f"{broker_jars}:{tools}"


def java(broker: Broker, tool: str, arguments: list[str], parse: Callable[[str], Sample]) -> Sample:
    command = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", java_classpath()]
    return run_marked(broker, [*command, f"org.apache.kafka.tools.{tool}", *arguments], parse, limit=180)


def java_classes() -> str:
    """The classpath with our own programs, compiled."""
    classes, source = CACHE / "classes", HERE / "Transactions.java"
    classes.mkdir(parents=True, exist_ok=True)
    built = classes / "Transactions.class"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        if shutil.which("javac") is None:
            raise Failed("no `javac` on this machine")
        command = ["javac", "-cp", java_classpath(), "-d", str(classes), str(source)]
        subprocess.run(command, check=True, timeout=120)
    return f"{java_classpath()}:{classes}"


def figures(pattern: str, output: str) -> list[float]:
    """The numbers that a tool's last line to match the pattern holds."""
    found = re.findall(pattern, output)
    if not found:
        raise Failed(f"no result in the tool's output: {output[-200:].strip()}")
    last = found[-1] if isinstance(found[-1], tuple) else (found[-1],)
    return [float(number) for number in last]


def java_produce(record_bytes: int, records_full: int) -> Measure:
    def measure(broker: Broker, scale: Scale) -> Sample:
        records = scale.count(records_full)

        def parse(output: str) -> Sample:
            mb_s, p99 = figures(r"\(([\d.]+) MB/sec\).* ([\d.]+) ms 99th", output)
            return {"bytes": records * record_bytes, "mb_s": mb_s * 1.048576, "p99_ms": p99}

        arguments = ["--bootstrap-server", broker.bootstrap, "--topic", f"java-{record_bytes}"]
        arguments += ["--num-records", str(records), "--record-size", str(record_bytes), "--throughput", "-1"]
        sample = java(broker, "ProducerPerformance", [*arguments, "--command-property", "acks=1"], parse)
        written = broker.memo.get(f"java-{record_bytes}", 0)
        broker.memo[f"java-{record_bytes}"] = written + records
        return sample

    return measure


def java_consume(record_bytes: int, records_full: int) -> Measure:
    produce = java_produce(record_bytes, records_full)

    def measure(broker: Broker, scale: Scale) -> Sample:
        records = scale.count(records_full)
        if broker.memo.get(f"java-{record_bytes}", 0) < records:  # this row alone was asked for
            produce(broker, scale)

        def parse(output: str) -> Sample:
            mb, mb_s = figures(r"\d, ([\d.]+), ([\d.]+), \d+, [\d.]+, \d+, ", output)
            return {"bytes": mb * 2**20, "mb_s": mb_s * 1.048576}

        arguments = ["--bootstrap-server", broker.bootstrap, "--topic", f"java-{record_bytes}"]
        return java(broker, "ConsumerPerformance", [*arguments, "--num-records", str(records)], parse)

    return measure


def java_end_to_end(broker: Broker, scale: Scale) -> Sample:
    records = scale.count(10_000)

    def parse(output: str) -> Sample:
        p50, p99, p999 = figures(r"50th = ([\d.]+), 99th = ([\d.]+), 99.9th = ([\d.]+)", output)
        return {"requests": records, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999}

    return java(broker, "EndToEndLatency", [broker.bootstrap, "java-e2e", str(records), "1", "100"], parse)


def python_missing(module: str, name: str) -> Callable[[], str | None]:
    """A folder of the same name on the path (compat/confluent_kafka) is found too, but has no file to load."""
    spec = importlib.util.find_spec(module)
    reason = None if spec and spec.origin else f"{name} is not installed for this Python"
    return lambda: reason


def python(mode: str, record_bytes: int, records_full: int) -> Measure:
    """One mode of python_client.py, in a process of its own."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        script, records = Path(HERE, "python_client.py"), scale.count(records_full)
        command = [sys.executable, str(script), mode, broker.bootstrap, f"{mode}-{record_bytes}"]
        return run_marked(broker, [*command, str(records), str(record_bytes)], json.loads, limit=180)

    return measure


def confluent_commits(kind: str, size: int, record_bytes: int, commits_full: int) -> Measure:
    return python(f"confluent-{kind}-{size}", record_bytes, commits_full)


def java_commits(kind: str, size: int, record_bytes: int, commits_full: int) -> Measure:
    """Transactions.java, once."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        command = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", java_classes()]
        command += ["Transactions", broker.bootstrap, f"java-{kind}-{size}-{record_bytes}", kind]
        command += [str(scale.count(commits_full)), str(size), str(record_bytes)]
        return run_marked(broker, command, json.loads, limit=180)

    return measure


def transactions(client: Callable[..., Measure], size: int, record_bytes: int, count: int) -> Measure:
    """Transactions of so many records, and what they cost more than the records themselves.

    That is: more than an idempotent producer that sends as many, waits until they are acknowledged, and goes on.
    """
    plain = client("idempotent", size, record_bytes, count)
    wanted = client("transactional", size, record_bytes, count)

    def measure(broker: Broker, scale: Scale) -> Sample:
        without, sample = plain(broker, scale), wanted(broker, scale)
        sample["overhead_us"] = 1e6 / sample["rate"] - 1e6 / without["rate"]
        if "cpu_us_request" in sample and "cpu_us_request" in without:
            sample["overhead_cpu_us"] = sample["cpu_us_request"] - without["cpu_us_request"]
        return sample

    return measure


def java_stream(size: int, record_bytes: int, commits_full: int) -> Measure:
    """What transactions cost a producer that otherwise sends on and on, and never waits."""
    plain = java_commits("streaming", size, record_bytes, commits_full)
    wanted = java_commits("transactional", size, record_bytes, commits_full)

    def measure(broker: Broker, scale: Scale) -> Sample:
        without, sample = plain(broker, scale), wanted(broker, scale)
        sample["overhead_percent"] = 100 * (without["rate"] / sample["rate"] - 1)
        if without.get("cpu_us_request"):
            sample["overhead_cpu_percent"] = 100 * (sample["cpu_us_request"] / without["cpu_us_request"] - 1)
        return sample

    return measure
