"""Records what Apache Kafka makes of the odd sequences of tests/transactions/sequences.py, in tests/data.

    python compat/transaction_sequences.py          a minute, with Java and Maven

An epoch near the last one is not reached by asking 32,766 times: such ids are written into `__transaction_state`, as
Kafka's own admin clients may, and read when the broker starts again. So Kafka reads records that kbroker makes, too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "protocol"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "odd"))

import exchange
import wire
from apache_kafka import ApacheKafka

from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.records import build_batch
from kbroker.coordinators.routing import partition_of
from kbroker.transactions.states import TransactionState
from kbroker.transactions.storage import Entry, encode_key, encode_value
from kbroker.turns import at_once
from tests.transactions import sequences
from tests.transactions.sequences import Sequence

PROPERTIES = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "100"}
FIRST_PRIMED_ID = 500_000
STATE_TOPIC, STATE_PARTITIONS = "__transaction_state", 50


def main() -> None:
    recorded = {}
    for level in (2, 1, 0):
        chosen = [each for each in sequences.SEQUENCES if each.transaction_version == level]
        with tempfile.TemporaryDirectory(prefix="apache-kafka-") as directory:
            kafka = ApacheKafka(directory, wire.free_port(), PROPERTIES, features={"transaction.version": level})
            with kafka:
                recorded.update(_record(kafka, chosen))
    in_order = {each.name: recorded[each.name] for each in sequences.SEQUENCES}
    sequences.RECORDED.write_text(json.dumps(in_order, indent=1) + "\n")


def _record(kafka: ApacheKafka, chosen: list[Sequence]) -> dict[str, list[str]]:
    wire.create_topic(kafka.bootstrap, sequences.TOPIC, sequences.PARTITIONS)
    _make_state_topic(kafka.bootstrap)
    primed = {each.name: FIRST_PRIMED_ID + n for n, each in enumerate(chosen) if each.epoch is not None}
    if primed:
        _prime(kafka.bootstrap, [(each, primed[each.name]) for each in chosen if each.name in primed])
        kafka.stop()
        kafka.start()
    connection = exchange.Connection(kafka.bootstrap, 30.0)
    outcomes = {}
    for each in chosen:
        known = {primed[each.name]: "A"} if each.name in primed else {}
        outcomes[each.name] = _run(connection, each, known)
        print(f"{each.name}\n    " + "\n    ".join(map(" -> ".join, zip(each.steps, outcomes[each.name], strict=True))))
    return outcomes


def _run(connection: exchange.Connection, sequence: Sequence, known: dict[int, str]) -> list[str]:
    talk, reply = sequences.talk(sequence, sequence.name, known), None
    while True:
        try:
            wanted = talk.send(reply)
        except StopIteration as stop:
            outcomes: list[str] = stop.value
            return outcomes
        if isinstance(wanted, float):
            time.sleep(wanted)
            reply = None
        else:
            reply = _ask(connection, *wanted)


def _ask(connection: exchange.Connection, request: Any, version: int) -> Any:
    answer = connection.ask(request, type(request).__wire__.key, version)
    if answer.fate != "answered":
        raise RuntimeError(f"{request} {version}: {answer.fate}")
    return answer.message


def _make_state_topic(bootstrap: str) -> None:
    connection = exchange.Connection(bootstrap, 30.0)
    request = FindCoordinatorRequest(key_type=1, coordinator_keys=["x"])
    while _ask(connection, request, 4).coordinators[0].error_code:
        time.sleep(0.05)
    connection.close()


def _prime(bootstrap: str, wanted: list[tuple[Sequence, int]]) -> None:
    """Have Kafka know these ids, Empty, with the epoch that each sequence begins with."""
    exchange.CLIENT_ID = b"__admin_client"  # which may write to internal topics
    connection = exchange.Connection(bootstrap, 30.0)
    for sequence, producer_id in wanted:
        assert sequence.epoch is not None
        entry = entry_of(producer_id, sequence.epoch, now_ms=int(time.time() * 1000))
        batch = build_batch([(encode_key(sequence.name), at_once(encode_value(entry, 1)))], timestamp=entry.updated_ms)
        index = partition_of(sequence.name, STATE_PARTITIONS)
        partition = PartitionProduceData(index=index, records=batch)
        request = ProduceRequest(
            acks=-1, timeout_ms=10_000, topic_data=[TopicProduceData(name=STATE_TOPIC, partition_data=[partition])]
        )
        while (code := _ask(connection, request, 9).responses[0].partition_responses[0].error_code) in wire.NOT_YET:
            time.sleep(0.05)
        if code:
            raise RuntimeError(f"{STATE_TOPIC}-{index} was not written: error {code}")
    connection.close()


def entry_of(producer_id: int, epoch: int, now_ms: int) -> Entry:
    """A producer of which nothing is under way."""
    return Entry(TransactionState.EMPTY, producer_id, epoch, -1, -1, -1, 60_000, {}, -1, now_ms, 0)


if __name__ == "__main__":
    main()
