"""What the tests of delayed delivery share: producing to and reading from brokers in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import trio

from kafka_wire import records
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kbroker.testing.client import BareClient

MINUTE_MS = 60_000
READ_COMMITTED = 1

Row = tuple[bytes | None, bytes, Mapping[str, bytes | None]]


def after(ms: int, value: bytes, key: bytes | None = b"k") -> Row:
    """A record that is to be delivered later."""
    return key, value, {"kbroker-deliver-after": b"%d" % ms}


def at_once(value: bytes, key: bytes | None = b"k") -> Row:
    return key, value, {}


def cancel(key: bytes | None = b"k", ids: Iterable[int] = ()) -> Row:
    return key, b"", {"kbroker-delay-cancel": b",".join(b"%d" % each for each in ids)}


def now(key: bytes | None = b"k", ids: Iterable[int] = ()) -> Row:
    return key, b"", {"kbroker-delay-now": b",".join(b"%d" % each for each in ids)}


async def create(client: BareClient, name: str = "t", replicas: int = 1, **configs: str) -> None:
    """A topic of one partition with delay. configs: dots as `__`."""
    wanted = {"kbroker.delay.enable": "true"} | {key.replace("__", "."): value for key, value in configs.items()}
    pairs = [CreatableTopicConfig(name=key, value=value) for key, value in wanted.items()]
    topic = CreatableTopic(name=name, num_partitions=1, replication_factor=replicas, assignments=[], configs=pairs)
    answer = await client.call(CreateTopicsRequest(topics=[topic], timeout_ms=10_000), 7)
    assert answer.topics[0].error_code == 0, answer


async def produce(client: BareClient, *rows: Row, acks: int = -1, **options: Any) -> PartitionProduceResponse:
    """The answer for a batch to t-0."""
    transactional_id = options.pop("transactional_id", None)
    at = options.pop("at", 1_700_000_000_000)
    batch = records.build_batch([(at, key, value, tuple(fields.items())) for key, value, fields in rows], **options)
    data = TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=batch)])
    request = ProduceRequest(acks=acks, timeout_ms=10_000, topic_data=[data], transactional_id=transactional_id)
    found: PartitionProduceResponse = (await client.call(request, 9)).responses[0].partition_responses[0]
    return found


async def send(client: BareClient, *rows: Row, **options: Any) -> int:
    """The offset that is answered for a batch."""
    answer = await produce(client, *rows, **options)
    assert answer.error_code == 0, answer
    return answer.base_offset


async def read(client: BareClient, offset: int = 0, isolation: int = 0) -> list[records.Record]:
    """Everything a consumer gets of t-0, from an offset on."""
    found: list[records.Record] = []
    while True:
        part = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
        request = FetchRequest(
            max_wait_ms=0, min_bytes=0, isolation_level=isolation, topics=[FetchTopic(topic="t", partitions=[part])]
        )
        answer = (await client.call(request, 11)).responses[0].partitions[0]
        assert answer.error_code == 0, answer
        data = bytes(answer.records or b"")
        aborted = {(each.producer_id, each.first_offset) for each in answer.aborted_transactions or ()}
        before = offset
        for position, header in records.headers(data):
            is_aborted = any(id == header.producer_id and first <= header.base_offset for id, first in aborted)
            if not header.is_control and not (is_aborted and header.is_transactional):
                some = records.read_records(data, position, max_bytes=1 << 24)
                found += [each for each in some if each.offset >= offset]
            offset = header.next_offset
        if offset == before:
            return found


async def values(client: BareClient, **options: Any) -> list[bytes | None]:
    """The values of what a consumer gets."""
    return [each.value for each in await read(client, **options)]


async def wait_for(client: BareClient, count: int, seconds: float = 30, **options: Any) -> list[records.Record]:
    """What a consumer gets, once it is so many."""
    with trio.fail_after(seconds):
        while len(found := await read(client, **options)) < count:
            await trio.sleep(0.05)
    return found


def id_of(record: records.Record) -> int:
    """What a record that was delivered names as its id."""
    name, value = record.headers[-1]
    assert name == "kbroker-delay-id" and value is not None
    return int(value)
