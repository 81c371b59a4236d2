"""A consume-transform-produce loop, as a process of its own: `copier.py CLIENT BOOTSTRAP SOURCE TARGET NAME RECORDS`.

NAME is its group, its instance in it, and its transactional id; RECORDS is the most that go into one transaction. It
copies until it is killed. On stdout it says what it does, a line each:

    begun            a transaction has begun
    committed 750    it is committed, with so many records
    aborted REASON   it is aborted; the records are read again
    ended REASON     nothing can be done but to start anew

It is written as the clients' own manuals have it: an error that can be tried again is, one that wants an abort gets it,
any other ends the process. The loop is here once; `Copier.java` is the same for Kafka's own client.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

Place = tuple[str, int]
INIT_SECONDS_MAX = 60
TRANSACTION_MS_MAX = 60_000
READ_SECONDS = 0.5  # after so long a transaction begins with what there is
SESSION_MS = 30_000
NOT_READY_SECONDS = 0.02


class Aborted(Exception):
    """The transaction cannot be committed, and is to be aborted."""


class Record(Protocol):
    """Fields of a record that was read; each client has its own class."""

    key: bytes
    value: bytes
    partition: int
    offset: int


class Client(Protocol):
    """What the loop asks of a client."""

    def read(self, count: int) -> list[Any]:
        """The next records, maybe none."""

    def copy(self, records: list[Any]) -> None:
        """One transaction, from its beginning to its end. Raises Aborted."""

    def give_up(self) -> None:
        """Abort, and read again what was read since the last commit."""


def say(*words: object) -> None:
    print(*words, flush=True)


def transformed(value: bytes) -> bytes:
    """What a copy says."""
    return b"copy of " + value


def run(client: Client, count: int) -> None:
    while True:
        records = client.read(count)
        if not records:
            continue
        say("begun")
        try:
            client.copy(records)
        except Aborted as reason:
            client.give_up()
            say("aborted", reason)
        else:
            say("committed", len(records))


class Confluent:
    """confluent-kafka."""

    def __init__(self, bootstrap: str, source: str, target: str, name: str) -> None:
        from confluent_kafka import Consumer, Producer

        # Rebootstrap, the default, leaves a broker handle behind that TxnOffsetCommit then waits for, without end, when
        # the only broker was gone for a moment (librdkafka 2.16; on Apache Kafka as well).
        common = {"bootstrap.servers": bootstrap, "metadata.recovery.strategy": "none", "reconnect.backoff.ms": 20,
                  "reconnect.backoff.max.ms": 200}  # fmt: skip
        self.target = target
        self.producer = Producer({**common, "transactional.id": name, "transaction.timeout.ms": TRANSACTION_MS_MAX})
        self._insist(lambda: self.producer.init_transactions(INIT_SECONDS_MAX))
        self.consumer = Consumer({
            **common, "group.id": name, "group.instance.id": name, "session.timeout.ms": SESSION_MS,
            "enable.auto.commit": False, "auto.offset.reset": "earliest", "isolation.level": "read_committed",
        })  # fmt: skip
        self.consumer.subscribe([source])

    def read(self, count: int) -> list[Any]:
        return [each for each in self.consumer.consume(count, READ_SECONDS) if each.error() is None]

    def copy(self, records: list[Any]) -> None:
        from confluent_kafka import TopicPartition

        ends = {(each.topic(), each.partition()): each.offset() + 1 for each in records}
        offsets = [TopicPartition(*place, offset) for place, offset in ends.items()]
        self.producer.begin_transaction()
        for each in records:
            self.producer.produce(self.target, transformed(each.value()), each.key(), partition=each.partition())
        membership = self.consumer.consumer_group_metadata()
        self._insist(lambda: self.producer.send_offsets_to_transaction(offsets, membership))
        self._insist(self.producer.commit_transaction)

    def give_up(self) -> None:
        self._insist(self.producer.abort_transaction)
        mine = self.consumer.assignment()
        for place in self._insist(lambda: self.consumer.committed(mine)):
            place.offset = max(place.offset, 0)
            self.consumer.seek(place)

    @staticmethod
    def _insist(call: Callable[[], Any]) -> Any:
        """Until it is done, or is not to be tried again."""
        from confluent_kafka import KafkaException

        while True:
            try:
                return call()
            except KafkaException as reason:
                error = reason.args[0]
                if error.txn_requires_abort():
                    raise Aborted(error) from reason
                if not error.retriable():
                    raise


class KafkaPython:
    """kafka-python."""

    def __init__(self, bootstrap: str, source: str, target: str, name: str) -> None:
        from kafka import KafkaConsumer, KafkaProducer

        common = {"bootstrap_servers": bootstrap, "reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 200}
        self.target = target
        self.producer = KafkaProducer(**common, transactional_id=name, transaction_timeout_ms=TRANSACTION_MS_MAX)
        _mend(self.producer)
        self.producer.init_transactions()
        self.consumer = KafkaConsumer(
            source, **common, group_id=name, group_instance_id=name, session_timeout_ms=SESSION_MS,
            enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed",
        )  # fmt: skip

    def read(self, count: int) -> list[Any]:
        polled = self.consumer.poll(timeout_ms=int(1000 * READ_SECONDS), max_records=count)
        return [record for records in polled.values() for record in records]

    def copy(self, records: list[Any]) -> None:
        from kafka import OffsetAndMetadata, TopicPartition
        from kafka.errors import KafkaError, ProducerFencedError

        ends = {(each.topic, each.partition): each.offset + 1 for each in records}
        offsets = {TopicPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in ends.items()}
        try:
            self.producer.begin_transaction()
            for each in records:
                self.producer.send(self.target, transformed(each.value), each.key, partition=each.partition)
            self.producer.send_offsets_to_transaction(offsets, self.consumer.group_metadata())
            self.producer.commit_transaction()
        except ProducerFencedError:
            raise
        except KafkaError as reason:
            raise Aborted(repr(reason)) from reason

    def give_up(self) -> None:
        self.producer.abort_transaction()
        for place in self.consumer.assignment():
            self.consumer.seek(place, self.consumer.committed(place) or 0)


def _mend(producer: Any) -> None:
    """Have no transactional request lost: kafka-python 3.0.12 forgets one when the connection for it cannot be made.

    Its sender then waits for an answer to what was never sent. It does try again when it is told that there is none.
    """
    from kafka.errors import KafkaError

    client = producer._sender._client
    await_ready = client.await_ready

    def is_ready(node: Any, timeout_ms: float) -> bool:
        try:
            return bool(await_ready(node, timeout_ms=timeout_ms))
        except KafkaError:
            time.sleep(NOT_READY_SECONDS)
            return False

    client.await_ready = is_ready


CLIENTS: dict[str, Callable[[str, str, str, str], Client]] = {"confluent-kafka": Confluent, "kafka-python": KafkaPython}


def main() -> None:
    client, bootstrap, source, target, name, records = sys.argv[1:]
    try:
        run(CLIENTS[client](bootstrap, source, target, name), int(records))
    except Exception as reason:
        say("ended", repr(reason))
        raise


if __name__ == "__main__":
    main()
