"""What a Python client gets from a broker: `python_client.py MODE BOOTSTRAP TOPIC RECORDS RECORD_BYTES`.

One process per measurement. "start" and "stop" on stderr bound the measured part; the result is one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

SECONDS_MAX = 120.0
Mode = Callable[[str, str, int, int], dict[str, Any]]


class Window:
    """The measured part: a `with` block that marks its two ends and takes the time."""

    def __enter__(self) -> Window:
        print("start", file=sys.stderr, flush=True)
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.began
        print("stop", file=sys.stderr, flush=True)


def throughput(window: Window, records: int, record_bytes: int) -> dict[str, Any]:
    return {
        "records": records,
        "bytes": records * record_bytes,
        "seconds": window.seconds,
        "records_s": records / window.seconds,
    }


def latency(send: Callable[[], object], records: int) -> dict[str, Any]:
    """One record after the other, each waited for; a tenth of them first, to get warm."""
    for _ in range(max(1, records // 10)):
        send()
    taken = []
    with Window() as window:
        for _ in range(records):
            began = time.perf_counter()
            send()
            taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    p50, p99 = taken[len(taken) // 2], taken[min(len(taken) - 1, len(taken) * 99 // 100)]
    return {"requests": records, "seconds": window.seconds, "p50_ms": p50, "p99_ms": p99}


def confluent_producer(bootstrap: str, failures: list[object]) -> Any:
    from confluent_kafka import Producer

    def report(error: object, _: object) -> None:
        if error is not None:
            failures.append(error)

    return Producer({"bootstrap.servers": bootstrap, "acks": 1, "queue.buffering.max.messages": 1_000_000,
                     "on_delivery": report})  # fmt: skip


def confluent_produce(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    failures: list[object] = []
    producer, value = confluent_producer(bootstrap, failures), os.urandom(record_bytes)
    producer.produce(topic, value)
    producer.flush(30)  # the topic exists and the metadata is here
    with Window() as window:
        for _ in range(records):
            while True:
                try:
                    producer.produce(topic, value)
                    break
                except BufferError:
                    producer.poll(0.01)
            producer.poll(0)
        left = producer.flush(SECONDS_MAX)
    if left or failures:
        sys.exit(f"{left} records not delivered, {len(failures)} failed: {failures[:1]}")
    return throughput(window, records, record_bytes)


def confluent_consume(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    partition = TopicPartition(topic.replace("consume", "produce"), 0, OFFSET_BEGINNING)
    if consumer.get_watermark_offsets(partition, timeout=10)[1] < records:
        confluent_produce(bootstrap, partition.topic, records, record_bytes)
    with Window() as window:
        consumer.assign([partition])
        seen, end = 0, time.perf_counter() + SECONDS_MAX
        while seen < records:
            if time.perf_counter() > end:
                sys.exit(f"{seen} of {records} records within {SECONDS_MAX:.0f} s")
            for message in consumer.consume(10_000, timeout=0.1):
                if message.error():
                    sys.exit(str(message.error()))
                seen += 1
    consumer.close()
    return throughput(window, seen, record_bytes)


def confluent_commits(is_transactional: bool, size: int) -> Mode:
    """Transactions of so many records; or as many records of an idempotent producer, waited for in the same way."""

    def measure(bootstrap: str, topic: str, transactions: int, record_bytes: int) -> dict[str, Any]:
        from confluent_kafka import Producer

        settings = {"transactional.id": f"{topic}-{size}"} if is_transactional else {"enable.idempotence": True}
        producer, value = Producer({"bootstrap.servers": bootstrap, **settings}), os.urandom(record_bytes)
        if is_transactional:
            producer.init_transactions(60)

        def send() -> None:
            if is_transactional:
                producer.begin_transaction()
            for _ in range(size):
                producer.produce(topic, value)
            if is_transactional:
                producer.commit_transaction(60)
            elif producer.flush(60):
                sys.exit("records were not delivered within 60 s")

        for _ in range(max(5, transactions // 10)):
            send()
        with Window() as window:
            for _ in range(transactions):
                send()
        return commits(window, transactions, size, record_bytes)

    return measure


def commits(window: Window, transactions: int, size: int, record_bytes: int) -> dict[str, Any]:
    """A transaction counts as a request."""
    found = throughput(window, transactions * size, record_bytes)
    return {**found, "requests": transactions, "rate": transactions / window.seconds}


def confluent_flush(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    producer, value = confluent_producer(bootstrap, []), os.urandom(record_bytes)

    def send() -> None:
        producer.produce(topic, value)
        if producer.flush(30):
            sys.exit("a record was not delivered within 30 s")

    return latency(send, records)


def kafka_python_produce(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    from kafka import KafkaProducer

    producer, value = KafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True), os.urandom(record_bytes)
    producer.send(topic, value).get(30)
    with Window() as window:
        futures = [producer.send(topic, value) for _ in range(records)]
        producer.flush(SECONDS_MAX)
    futures[-1].get(1)
    producer.close()
    return throughput(window, records, record_bytes)


def kafka_python_get(bootstrap: str, topic: str, records: int, record_bytes: int) -> dict[str, Any]:
    from kafka import KafkaProducer

    producer, value = KafkaProducer(bootstrap_servers=bootstrap), os.urandom(record_bytes)
    try:
        return latency(lambda: producer.send(topic, value).get(30), records)
    finally:
        producer.close()


def first_messages(receive_first: Callable[[str], Any], groups: int) -> dict[str, Any]:
    """From nothing to the first message, in one new group after the other; leaving is not counted."""
    receive_first(f"warm-{time.time_ns()}").close()
    taken = []
    with Window() as window:
        for _ in range(groups):
            began = time.perf_counter()
            consumer = receive_first(f"first-{time.time_ns()}")
            taken.append((time.perf_counter() - began) * 1000)
            consumer.close()
    return {"seconds": window.seconds, "p50_ms": median(taken), "worst_ms": max(taken)}


def confluent_first(bootstrap: str, topic: str, groups: int, record_bytes: int) -> dict[str, Any]:
    from confluent_kafka import Consumer

    confluent_produce(bootstrap, topic, 1, record_bytes)

    def receive_first(group: str) -> Any:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        message = consumer.poll(30)
        if message is None or message.error():
            sys.exit(f"no message within 30 s: {message and message.error()}")
        return consumer

    return first_messages(receive_first, groups)


def kafka_python_first(bootstrap: str, topic: str, groups: int, record_bytes: int) -> dict[str, Any]:
    from kafka import KafkaConsumer, KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(topic, os.urandom(record_bytes)).get(30)
    producer.close()

    def receive_first(group: str) -> Any:
        consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest",
                                 consumer_timeout_ms=30_000)  # fmt: skip
        if next(consumer, None) is None:
            sys.exit("no message within 30 s")
        return consumer

    return first_messages(receive_first, groups)


MODES: dict[str, Mode] = {
    "confluent-produce": confluent_produce,
    "confluent-consume": confluent_consume,
    "confluent-flush": confluent_flush,
    "confluent-first": confluent_first,
    **{f"confluent-transactional-{size}": confluent_commits(True, size) for size in (1, 750)},
    **{f"confluent-idempotent-{size}": confluent_commits(False, size) for size in (1, 750)},
    "kafka-python-first": kafka_python_first,
    "kafka-python-produce": kafka_python_produce,
    "kafka-python-get": kafka_python_get,
}

if __name__ == "__main__":
    mode, bootstrap, topic, records, record_bytes = sys.argv[1:]
    print(json.dumps(MODES[mode](bootstrap, topic, int(records), int(record_bytes))))
