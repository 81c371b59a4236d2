"""`kbroker transaction`, and what `group describe --lag` tells of transactions: with fakes, then with a broker."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kafka_wire.api import ApiKey, request_header_version, response_class, response_header_version
from kafka_wire.codegen import decode, encode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    EndTxnRequest,
    InitProducerIdRequest,
)
from kafka_wire.records import build_batch
from kafka_wire.schema import layout
from kbroker.cli import cli
from kbroker.cli.groups.group import _holder_line
from kbroker.cli.times import DurationType, moment, span
from kbroker.cli.transactions import reads
from kbroker.cli.transactions.reads import Described, Holder, Open, find_hanging, hanging, holders
from tests.cli.process import broker_process

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("90s", 90_000), ("15m", 900_000), ("1h", HOUR_MS), ("2d", 48 * HOUR_MS), ("7", 7000)],
)
def test_durations(text: str, ms: int) -> None:
    assert DurationType().convert(text, None, None) == ms


@pytest.mark.parametrize("text", ["", "m", "-1s", "1w", "1.5h", "1h 3m", "9" * 20])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.UsageError):
        DurationType().convert(text, None, None)


def test_spans_and_moments() -> None:
    spans = [span(ms) for ms in (-5, 0, 59_999, 200_000, 2 * HOUR_MS + 300_000, 97 * HOUR_MS, 168 * HOUR_MS)]
    assert spans == ["0 s", "0 s", "59 s", "3 min 20 s", "2 h 5 min", "4 d 1 h", "7 d"]
    assert moment(-1) == ""
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", moment(1_795_860_791_453))


def opened(producer_id: int, partition: int = 0, start: int = 5, last_ms: int = 0) -> Open:
    return Open("t", partition, producer_id, 0, -1, start, last_ms)


def known(name: str, producer_id: int, *partitions: int) -> Described:
    places = tuple(("t", partition) for partition in partitions)
    return Described(name, "Ongoing", producer_id, 0, 60_000, 1000, places, 1)


def test_what_a_coordinator_has_in_a_transaction_does_not_hang() -> None:
    transactions = [opened(1), opened(1, partition=1), opened(2)]
    assert hanging(transactions, {1: known("a", 1, 0)}) == transactions[1:]
    assert hanging(transactions, {1: known("a", 1, 0, 1), 2: known("b", 2, 0)}) == []


class Asked:
    """A broker, as the functions that ask it are replaced by: each answer in turn, the last again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, opens: list[list[Open]], knows: dict[int, Described]) -> None:
        self.opens = opens
        monkeypatch.setattr(reads, "open_in", self._open_in)
        monkeypatch.setattr(reads, "coordinated", lambda client, transactions: knows)
        monkeypatch.setattr(reads.bridge, "supported_version", lambda client, key: 0)

    def _open_in(self, client: Any, partitions: Any) -> list[Open]:
        return self.opens.pop(0) if len(self.opens) > 1 else self.opens[0]


def test_what_ended_while_it_was_looked_at_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(1), opened(2, partition=1)
    Asked(monkeypatch, [[first, second], [second]], {})
    assert find_hanging(SimpleNamespace(), [("t", 0), ("t", 1)], 0) == [second]


def test_what_is_young_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = int(time.time() * 1000)
    Asked(monkeypatch, [[opened(1, last_ms=now_ms - 60_000), opened(2, last_ms=now_ms - HOUR_MS)]], {})
    assert [each.producer_id for each in find_hanging(SimpleNamespace(), [("t", 0)], 900_000)] == [2]


def test_the_first_open_transaction_holds_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(
        monkeypatch, [[opened(1, start=5), opened(2, start=9), opened(3, partition=1, start=2)]], {1: known("a", 1, 0)}
    )
    positions = {("t", 0): 5, ("t", 1): 4}  # of the second, a reader of uncommitted records has read more
    assert holders(SimpleNamespace(), positions) == {("t", 0): Holder(5, 1, "a", 1000)}


def test_holders_for_people() -> None:
    assert "held at 5 by transaction a (producer 1), open since" in _holder_line(("t", 0), Holder(5, 1, "a", 1000))
    text = _holder_line(("t", 0), Holder(5, 1, None, 1000))
    assert "a transaction of producer 1 that no coordinator knows" in text and "find-hanging" in text


# -- with a broker ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """A kbroker that believes every producer, so that a transaction can be left hanging."""
    with broker_process("--override", "transaction.partition.verification.enable=false") as address:
        yield address


class Client:
    """Bare requests, one by one."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 10)
        self.stream = self.socket.makefile("rb")

    def call(self, request: Any, version: int) -> Any:
        key = ApiKey(layout(type(request)).key or 0)
        head = struct.pack(">hhih", key, version, 1, -1) + (b"\0" if request_header_version(key, version) >= 2 else b"")
        frame = head + encode(request, version)
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)
        (size,) = struct.unpack(">i", self.stream.read(4))
        body = 5 if response_header_version(key, version) >= 1 else 4
        return decode(response_class(key), version, self.stream.read(size), body)

    def init(self, name: str) -> Any:
        """A producer id."""
        assert self.call(FindCoordinatorRequest(key=name, key_type=1), 3).error_code == 0
        while (
            made := self.call(InitProducerIdRequest(transactional_id=name, transaction_timeout_ms=600_000), 4)
        ).error_code:
            assert made.error_code in (14, 15, 16)
        return made

    def produce(self, name: str, partition: int, producer_id: int, *, age_ms: int = 0) -> int:
        """One transactional record; its offset."""
        records = build_batch(
            [(int(time.time() * 1000) - age_ms, b"k", b"v")],
            producer_id=producer_id, producer_epoch=0, base_sequence=0, transactional=True,
        )  # fmt: skip
        data = [PartitionProduceData(index=partition, records=bytes(records))]
        topics = [TopicProduceData(name="t", partition_data=data)]
        request = ProduceRequest(acks=-1, timeout_ms=1000, transactional_id=name, topic_data=topics)
        answer = self.call(request, 9).responses[0].partition_responses[0]
        assert answer.error_code == 0
        offset: int = answer.base_offset
        return offset


def run(broker: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "-b", broker])


def as_json(broker: str, *arguments: str) -> Any:
    result = run(broker, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_transactions_are_listed_described_found_and_aborted(broker: str) -> None:
    client = Client(broker)
    made = client.init("tx")
    add = AddPartitionsToTxnRequest(
        v3_and_below_transactional_id="tx", v3_and_below_producer_id=made.producer_id,
        v3_and_below_producer_epoch=0, v3_and_below_topics=[AddPartitionsToTxnTopic(name="t", partitions=[0])],
    )  # fmt: skip
    assert client.call(add, 3).results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code == 0
    start = client.produce("tx", 0, made.producer_id)
    ghost = client.produce("ghost", 1, 777, age_ms=HOUR_MS)

    assert as_json(broker, "transaction", "list", "--state", "Ongoing") == [
        {"transactional_id": "tx", "state": "Ongoing", "producer_id": made.producer_id, "coordinator": 1}
    ]
    assert as_json(broker, "transaction", "list", "--longer-than", "1h") == []
    assert as_json(broker, "transaction", "list", "--producer-id", "777") == []
    (found,) = as_json(broker, "transaction", "describe", "tx")
    assert found["partitions"] == [{"topic": "t", "partition": 0}] and found["timeout_ms"] == 600_000
    missing = run(broker, "transaction", "describe", "tx", "absent")
    assert missing.exit_code == 1 and "tx: Ongoing" in missing.stdout

    (hung,) = as_json(broker, "transaction", "find-hanging")
    assert (hung["partition"], hung["producer_id"], hung["start_offset"]) == (1, 777, ghost)
    assert as_json(broker, "transaction", "find-hanging", "-t", "t:0") == []
    assert run(broker, "transaction", "find-hanging", "-t", "absent").exit_code == 1

    assert run(broker, "transaction", "abort", "t:1").exit_code == 2
    assert run(broker, "transaction", "abort", "t", "--start", "0").exit_code == 2
    assert run(broker, "transaction", "abort", "t:9", "--start", "0").exit_code == 1
    assert run(broker, "transaction", "abort", "t:1", "--start", str(ghost + 5)).exit_code == 1
    refused = run(broker, "transaction", "abort", "t:0", "--start", str(start))
    assert refused.exit_code == 1
    assert run(broker, "transaction", "abort", "t:1", "--producer-id", "777").exit_code == 0
    assert as_json(broker, "transaction", "find-hanging", "--older-than", "0") == []

    end = EndTxnRequest(transactional_id="tx", producer_id=made.producer_id, producer_epoch=0, committed=True)
    assert client.call(end, 3).error_code == 0
    assert as_json(broker, "transaction", "list", "--state", "Ongoing") == []


@pytest.mark.slow
def test_group_describe_names_the_transaction_that_holds_a_group(broker: str) -> None:
    from kafka import KafkaConsumer, TopicPartition
    from kafka.structs import OffsetAndMetadata

    ghost = Client(broker).produce("ghost", 1, 778, age_ms=HOUR_MS)
    consumer = KafkaConsumer(bootstrap_servers=broker, group_id="g", enable_auto_commit=False)
    place = TopicPartition("t", 1)
    consumer.assign([place])
    consumer.commit({place: OffsetAndMetadata(ghost, "", -1)})
    consumer.close()
    told = run(broker, "group", "describe", "g", "--lag")
    assert f"held at {ghost} by a transaction of producer 778" in told.stdout, told.output
    (group,) = as_json(broker, "group", "describe", "g")
    assert group["partitions"][0]["held_by"]["producer_id"] == 778
    assert run(broker, "transaction", "abort", "t:1", "--start", str(ghost)).exit_code == 0
    (group,) = as_json(broker, "group", "describe", "g")
    assert group["partitions"][0]["held_by"] is None
