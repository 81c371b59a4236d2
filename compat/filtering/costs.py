#!/usr/bin/env python3
"""What filtering costs where it is done: `python compat/filtering/costs.py` prints the tables of docs/filtering.md.

    --records N       in each topic, of 1 KiB (default 200,000), in batches of 100
    --repeat N        of each reading (default 4): the first of a view, of all others the median

One record in a hundred has the tag "eu": in whole batches ("together": one batch in a hundred is all eu), or one in
every batch ("scattered"). All that match, the last record among them, are read by confluent-kafka and by kafka-python,
each in a process of its own: the whole topic without a filter, the same through `filtered`, and through views of the
topic. The broker keeps for a while what a view's first reader had it find; so that reading is shown by itself.
kafka-python has crc32c, without which it spends a tenth of a millisecond on checking each record. What travels is what
librdkafka says it has received; CPU is that of the process until the last match was read, without its start. The topic
is in the page cache. Leave the machine alone meanwhile.

Owns: the broker and the processes it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

EXPRESSION = 'tags has "eu"'
EVERY, BATCH, SIZE = 100, 100, 1024
TOPICS = ("together", "scattered")
FIRST = "confluent_kafka"  # to read
WAYS = ("whole", "filtered", "view", "view prune")
READ_SECONDS_MAX = 120.0


# one reading, in a client's environment -------------------------------------------------------------------------------


def read(client: str, way: str, bootstrap: str, topic: str, records: int) -> dict[str, float]:
    """Until all that match were seen; {"matches", "seen", "cpu_s", "rx_bytes"}."""
    reading = {"confluent_kafka": read_confluent, "kafka_python": read_kafka_python}[client]
    return reading(way, bootstrap, topic, records // EVERY)


def is_eu(headers: Any) -> bool:
    return headers[0][1] == b"eu"


def read_confluent(way: str, bootstrap: str, topic: str, matches: int) -> dict[str, float]:
    from confluent_kafka import Consumer, TopicPartition

    from kbroker.client.filtering import filtered

    received: list[int] = []
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": "costs",
        "enable.auto.commit": False,
        "statistics.interval.ms": 100,
        "stats_cb": lambda text: received.append(json.loads(text)["rx_bytes"]),
    }
    consumer: Any = Consumer(settings)
    if way in ("filtered", "view prune"):  # which needs its reader to look once more
        consumer = filtered(consumer, EXPRESSION)
    consumer.assign([TopicPartition(topic, 0, 0)])
    began, end = time.process_time(), time.monotonic() + READ_SECONDS_MAX
    found = seen = 0
    while found < matches and time.monotonic() < end:
        for message in consumer.consume(500, 1.0):
            if message.error():
                raise RuntimeError(str(message.error()))
            seen += 1
            found += way != "whole" or is_eu(message.headers())
    cpu = time.process_time() - began
    while not received or received[-1] == 0 or len(received) < 2 or received[-1] != received[-2]:
        consumer.poll(0.3)
    consumer.close()
    return {"matches": found, "seen": seen, "cpu_s": cpu, "rx_bytes": received[-1]}


def read_kafka_python(way: str, bootstrap: str, topic: str, matches: int) -> dict[str, float]:
    from kafka import KafkaConsumer, TopicPartition

    from kbroker.client.filtering import filtered

    partition = TopicPartition(topic, 0)
    consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    if way in ("filtered", "view prune"):
        consumer = filtered(consumer, EXPRESSION)
    began, end = time.process_time(), time.monotonic() + READ_SECONDS_MAX
    found = seen = 0
    while found < matches and time.monotonic() < end:
        for records in consumer.poll(timeout_ms=1000).values():
            seen += len(records)
            found += len(records) if way != "whole" else sum(is_eu(each.headers) for each in records)
    cpu = time.process_time() - began
    consumer.close()
    return {"matches": found, "seen": seen, "cpu_s": cpu, "rx_bytes": 0}


# the whole of it ------------------------------------------------------------------------------------------------------


def fill(bootstrap: str, topic: str, records: int) -> None:
    """A topic in batches of BATCH records, each the value of a random SIZE."""
    from kafka import KafkaAdminClient, KafkaProducer
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"kbroker.tags.enable": "true"})])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=60_000, batch_size=10 << 20, acks="all")
    value = random.Random(1).randbytes(SIZE)
    for first in range(0, records, BATCH):
        for offset in range(first, first + BATCH):
            eu = (first // BATCH if topic == "together" else offset) % EVERY == EVERY - 1
            producer.send(topic, value=value, headers=[("kbroker-tags", b"eu" if eu else b"us")])
        producer.flush()
    producer.close()


def make_views(bootstrap: str, topic: str) -> list[str]:
    """The ways that there are: with views, if this broker has them."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        for mode in ("exact", "prune"):
            configs = {"kbroker.view.source": topic, "kbroker.view.tags": "eu", "kbroker.view.mode": mode}
            admin.create_topics([NewTopic(view_of(topic, mode), -1, -1, topic_configs=configs)])
    except KafkaError as error:
        print(f"no views: {error}")
        return ["whole", "filtered"]
    finally:
        admin.close()
    return list(WAYS)


def view_of(topic: str, mode: str) -> str:
    return f"{topic}.{mode}"


def cpu_of(pid: int) -> float:
    """Seconds, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """A broker with the topics, read in all ways."""

    def __init__(self, broker: Any, records: int, repeat: int) -> None:
        self.broker, self.records, self.repeat = broker, records, repeat

    def show(self, topic: str, name: str, python: Path, way: str) -> None:
        """What it costs for a million records of the topic."""
        found = [self.measure(topic, name, python, way) for _ in range(self.repeat)]
        if way == "view" and name == FIRST and self.repeat > 1:
            self.line(name, "view, first", found[:1])
            found = found[1:]
        self.line(name, way, found)

    def line(self, name: str, way: str, found: list[dict[str, float]]) -> None:
        """The median of some readings."""
        median = {key: statistics.median(one[key] for one in found) * 1e6 / self.records for key in found[0]}
        print(
            f"{name:16} {way:11} seen {median['seen']:9.0f}  received {median['rx_bytes'] / 1e6:8.1f} MB  "
            f"client {median['cpu_s']:7.3f} s  broker {median['broker_s']:7.3f} s",
            flush=True,
        )

    def measure(self, topic: str, client: str, python: Path, way: str) -> dict[str, float]:
        """One reading, with the broker's CPU."""
        name = {"view": view_of(topic, "exact"), "view prune": view_of(topic, "prune")}.get(way, topic)
        command = [str(python), __file__, "--read", client, way, self.broker.bootstrap, name, str(self.records)]
        before = cpu_of(self.broker.pid)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        if found["matches"] != self.records // EVERY:
            raise RuntimeError(f"{client} {way} of {topic}: {found}")
        return {**found, "broker_s": cpu_of(self.broker.pid) - before}


def main() -> int:
    """Fill, read each way, print a table for each arrangement of tags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--read", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        client, way, bootstrap, topic, records = options.read
        print(json.dumps(read(client, way, bootstrap, topic, int(records))))
        return 0

    import wire
    from kbroker_process import Kbroker
    from toolchains import at_hand, read_clients

    ready, skipped = at_hand(read_clients(HERE.parent, [FIRST]))
    for client, reason in skipped:
        print(f"{client.name}: skipped: {reason}")
    clients = [(client.name, client.environment / "bin/python") for client in ready]
    clients.append(("kafka_python", Path(sys.executable)))
    with tempfile.TemporaryDirectory(prefix="costs-") as scratch:
        broker = Kbroker(scratch, wire.free_port())
        broker.start()
        try:
            bench = Bench(broker, options.records, options.repeat)
            for topic in TOPICS:
                fill(broker.bootstrap, topic, options.records)
                ways = make_views(broker.bootstrap, topic)
                print(f"\n{topic}: {SIZE} B a record, 1 % matching; for a million records of the topic")
                for name, python in clients:
                    for way in ways:
                        bench.show(topic, name, python, way)
        finally:
            broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
