"""How quick the pytest plugin is: `python compat/perf/pytest_plugin.py`. Every figure is of a fresh process.

ready          from the first import to a session's broker that serves, in a thread; in a process
first test     what the first test of a session waits for its fixture: pytest has imported a part of the same already
namespace      what a test waits for its own broker: as the plugin does it, while the test before ends
100 tests      each produces and consumes, with clients of its own: of kafka-python with the settings of `client_config`
               and with its own, of others, and of kbroker.testing
unused         what the plugin costs a pytest run that does not use it: modules, and instructions where perf is there
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protocol")])}  # what is measured is this checkout
RUNS = 7
READY = """
import time
before = time.perf_counter()
from kbroker.testing.embedded.backends import make_embedded
broker = make_embedded({backend!r}, "127.0.0.1", 0, {{}})
print((time.perf_counter() - before) * 1000)
broker.close()
"""
NAMESPACE = """
import time
from kbroker.testing.embedded.backends import make_embedded
broker = make_embedded("thread", "127.0.0.1", 0, {})
waits, whole = [], []
for _ in range(200):
    before = time.perf_counter()
    broker.prepare({})
    time.sleep(0.005)  # pytest tells of the test before, and comes to the next one
    since = time.perf_counter()
    broker.renew()
    waits.append((time.perf_counter() - since) * 1000)
for _ in range(200):
    since = time.perf_counter()
    broker.renew()
    whole.append((time.perf_counter() - since) * 1000)
print(sorted(waits)[100], sorted(whole)[100])
broker.close()
"""
FIRST = """
import time

def test_it(request):
    before = time.perf_counter()
    request.getfixturevalue("kbroker")
    print("waited", (time.perf_counter() - before) * 1000)
"""
TESTS = """
import pytest, trio
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka_wire.records import build_batch
from tests.testing.embedded.tools import read, write

@pytest.mark.kbroker(topics={"t": 1})
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
@pytest.mark.parametrize("group", [None, "g"], ids=["assigned", "group"])
@pytest.mark.parametrize("number", range(100))
def test_kafka_python(kbroker, number, group, fast):
    producer = KafkaProducer(**kbroker.client_config("kafka-python", "producer", fast=fast))
    producer.send("t", b"%d" % number).get(timeout=10)
    producer.close()
    settings = kbroker.client_config("kafka-python", "consumer", fast=fast)
    consumer = KafkaConsumer(**settings, auto_offset_reset="earliest", group_id=group)
    if group:
        consumer.subscribe(["t"])
    else:
        consumer.assign([TopicPartition("t", 0)])
    assert next(consumer).value == b"%d" % number
    consumer.close()

@pytest.mark.kbroker(topics={"t": 1})
@pytest.mark.parametrize("number", range(100))
def test_confluent(kbroker, number):
    from confluent_kafka import Consumer, Producer
    producer = Producer({"bootstrap.servers": kbroker.bootstrap_servers, "linger.ms": 0})
    producer.produce("t", b"%d" % number)
    assert producer.flush(10) == 0
    group = {"group.id": "g", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": kbroker.bootstrap_servers, **group})
    consumer.subscribe(["t"])
    assert consumer.poll(10).value() == b"%d" % number
    consumer.close()

@pytest.mark.kbroker(topics={"t": 1})
@pytest.mark.parametrize("number", range(100))
def test_bare(kbroker, number):
    write(kbroker.address, b"%d" % number)
    assert read(kbroker.address) == [b"%d" % number]
"""


def python(code: str) -> list[float]:
    """The numbers that a program prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as installed
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**inherited, **HERE}, capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


def ready(backend: str) -> str:
    """The median and the best of some runs."""
    return told([python(READY.format(backend=backend))[0] for _ in range(RUNS)])


def first(directory: Path) -> str:
    """The same for the first test of a session."""
    lines = [run_pytest(FIRST, directory, "-s").partition("waited ")[2] for _ in range(RUNS)]
    return told([float(line.split()[0]) for line in lines])


def told(times_ms: list[float]) -> str:
    """Some times in few words."""
    return f"{statistics.median(times_ms):.0f} ms (best {min(times_ms):.0f})"


def hundred(which: str, directory: Path) -> str:
    """The time that pytest takes for a hundred tests, all of it."""
    before = time.perf_counter()
    printed = run_pytest(TESTS, directory, "-W", "ignore", "-k", which)
    assert "100 passed" in printed, printed
    return f"{time.perf_counter() - before:.1f} s"


def run_pytest(tests: str, directory: Path, *options: str) -> str:
    """What pytest prints when it runs a file of tests."""
    (directory / "test_it.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", *options, "--rootdir", str(directory), "."]
    return subprocess.run(command, cwd=directory, env=HERE, capture_output=True, text=True).stdout


def main() -> None:
    """Print a table."""
    print(f"ready, thread       {ready('thread')}")
    print(f"ready, process      {ready('process')}")
    clients = {
        "bare": "bare client",
        "assigned and fast": "kafka-python, with client_config",
        "group and fast": "kafka-python in a group, with client_config",
        "assigned and slow": "kafka-python as it is",
        "group and slow": "kafka-python in a group as it is",
    }
    if importlib.util.find_spec("confluent_kafka"):
        clients["confluent"] = "confluent-kafka in a group"
    with tempfile.TemporaryDirectory() as directory:
        print(f"first test          {first(Path(directory))}")
        waits, whole = python(NAMESPACE)
        print(f"namespace           {waits:.2f} ms of waiting; {whole:.2f} ms when not prepared")
        for which, name in clients.items():
            print(f"100 tests           {hundred(which, Path(directory))} {name}")


if __name__ == "__main__":
    main()
