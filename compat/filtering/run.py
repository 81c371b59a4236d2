#!/usr/bin/env python3
"""Filtered consumers (`kbroker.client.filtering`) of the real clients: `python compat/filtering/run.py`.

    run.py                          kbroker, started as a user starts it
    run.py --kafka                  Apache Kafka instead: the module is for any broker
    run.py --target HOST:PORT       a broker that is there
    … --clients aiokafka            only these

Each client runs `checks.py` in its own environment (`compat/toolchains.py`). Exit status 1 if anything failed.

Owns: the broker and the processes it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]
import wire  # noqa: E402
from apache_kafka import ApacheKafka, Unavailable, find_or_fetch  # noqa: E402
from checks import COUNT, EVERY, PARTITIONS, value_of  # noqa: E402
from kbroker_process import Kbroker  # noqa: E402
from toolchains import Client, at_hand, read_clients  # noqa: E402

CLIENTS = ["kafka_python", "confluent_kafka", "aiokafka"]
TOPIC = "filtering"
CLIENT_SECONDS_MAX = 600.0
SETTINGS = {"group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000"}


@contextmanager
def broker(options: argparse.Namespace) -> Iterator[str]:
    """The address of one to use."""
    if options.target:
        yield options.target
        return
    with tempfile.TemporaryDirectory(prefix="filtering-") as scratch:
        port = wire.free_port()
        kind = ApacheKafka if options.kafka else Kbroker
        one = kind(scratch, port, SETTINGS)
        one.start()
        try:
            yield one.bootstrap
        finally:
            one.stop()


def fill(bootstrap: str) -> None:
    """The topic as `checks.py` tells, its tags among others, in batches of many records."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(name=TOPIC, num_partitions=PARTITIONS, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, acks="all")
    for partition in range(PARTITIONS):
        for offset in range(COUNT):
            eu = partition < 2 and offset % EVERY == 0
            headers = [("kbroker-tags", b"vip,eu" if eu else b"vip"), ("number", b"%d" % offset)]
            value = value_of(partition, offset) if eu else b"not for you"
            producer.send(TOPIC, value=value, key=b"k%d" % offset, partition=partition, headers=headers)
    producer.close()


def run(client: Client, bootstrap: str) -> list[dict[str, str]]:
    """What its checks found."""
    python = client.environment / "bin" / "python"
    done = subprocess.run(
        [str(python), str(HERE / "checks.py"), client.name, bootstrap, TOPIC],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=CLIENT_SECONDS_MAX,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode not in (0, 1) or not lines:
        why = f"it ended with {done.returncode}"
        lines.append({"form": "-", "check": "runs", "result": "FAIL", "why": why})
    return lines


def main() -> int:
    """Fill a topic, let each client read it, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("--target")
    parser.add_argument("--clients", type=lambda text: text.split(","), default=CLIENTS)
    options = parser.parse_args()
    if options.kafka:
        find_or_fetch()
    ready, skipped = at_hand(read_clients(HERE.parent, options.clients))
    results: Counter[str] = Counter()
    with broker(options) as bootstrap:
        fill(bootstrap)
        for client in ready:
            for line in run(client, bootstrap):
                results[line["result"]] += 1
                said = f"{line['result']} {line['why']}".strip()
                print(f"{client.name:16} {line['form']:14} {line['check']:52} {said}", flush=True)
    for client, reason in skipped:
        print(f"{client.name:16} skipped: {reason}")
    print(f"\nfiltering: {results['ok']} passed, {results['FAIL']} failed, {results['absent']} absent")
    return 1 if results["FAIL"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        print(f"skipped: {reason}\n\nfiltering: 0 passed, 0 failed")
