"""ListOffsets 1-10 and OffsetForLeaderEpoch 2-4: questions about where things are in a partition's log.

A timestamp of zero or more asks for the first record at or after it; negative ones have meanings of their own:

    -1 latest (the high watermark; under read_committed the last stable offset)    -2 earliest
    -3 the record with the largest timestamp (v7)     -4 earliest local (v8)       -5 latest tiered (v9): none here

No match is offset -1, error 0.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderPartitionResult,
    OffsetForLeaderTopicResult,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.replication.partition import Partition
from kbroker.turns import STRIDE, Work, answer, each

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5
KNOWN_SINCE = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
CONSUMER = -1  # as replica id
NOTHING = (-1, -1, -1)

Found = tuple[int, int, int]  # timestamp in ms or -1, offset or -1, leader epoch or -1


@handles(ApiKey.LIST_OFFSETS, 1, 10)
def list_offsets(
    request: ListOffsetsRequest, context: Context
) -> ListOffsetsResponse | Coroutine[Any, Any, ListOffsetsResponse]:
    """Answer for every partition asked about, once; one asked about twice gets INVALID_REQUEST, as in Kafka."""
    return answer(_list_all(request, context))


def _list_all(request: ListOffsetsRequest, context: Context) -> Work[ListOffsetsResponse]:
    asked: dict[tuple[str, int], ListOffsetsPartition] = {}
    doubled = set()
    topics: dict[str, ListOffsetsTopicResponse] = {}

    def note(named: tuple[str, ListOffsetsPartition]) -> None:
        key = named[0], named[1].partition_index
        if key in asked:
            doubled.add(key)
        asked[key] = named[1]

    def respond(item: tuple[tuple[str, int], ListOffsetsPartition]) -> None:
        key, one = item
        if key in doubled:
            row = _failed(one, ErrorCode.INVALID_REQUEST)
        else:
            row = _list(key[0], one, request, context)
        topic = topics.get(key[0])
        if topic is None:
            topic = topics[key[0]] = ListOffsetsTopicResponse(name=key[0], partitions=[])
        topic.partitions.append(row)

    yield from each(note, _named(request))
    yield from each(respond, asked.items())
    return ListOffsetsResponse(topics=list(topics.values()))


def _named(request: ListOffsetsRequest) -> Iterator[tuple[str, ListOffsetsPartition]]:
    for topic in request.topics:
        for asked in topic.partitions:
            yield topic.name, asked


def _list(
    topic: str, asked: ListOffsetsPartition, request: ListOffsetsRequest, context: Context
) -> ListOffsetsPartitionResponse:
    try:
        if context.version < KNOWN_SINCE.get(asked.timestamp, 0) or asked.timestamp < LATEST_TIERED:
            raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
        partition = context.services.partition(topic, asked.partition_index)
        partition.check_leader(asked.current_leader_epoch)
        bound = _bound(partition, request)
        timestamp, offset, epoch = _look_up(partition, asked.timestamp, bound)
    except KafkaError as error:
        return _failed(asked, error.code)
    except OSError:
        return _failed(asked, ErrorCode.KAFKA_STORAGE_ERROR)
    return ListOffsetsPartitionResponse(
        partition_index=asked.partition_index, timestamp=timestamp, offset=offset, leader_epoch=epoch
    )


def _failed(asked: ListOffsetsPartition, code: ErrorCode) -> ListOffsetsPartitionResponse:
    return ListOffsetsPartitionResponse(
        partition_index=asked.partition_index, error_code=code, timestamp=-1, offset=-1, leader_epoch=-1
    )


def _bound(partition: Partition, request: ListOffsetsRequest) -> int:
    """Below which offset the answer lies. Only consumers are kept from what is not committed yet."""
    if request.replica_id != CONSUMER:
        return partition.log.end.value
    if request.isolation_level == READ_COMMITTED:
        return partition.last_stable_offset
    if request.isolation_level == READ_UNCOMMITTED:
        return partition.high_watermark.value
    raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)  # as Kafka says, which has no better word for it here


def _look_up(partition: Partition, timestamp: int, bound: int) -> Found:
    log = partition.log
    if timestamp == LATEST:
        return -1, bound, partition.leader_epoch
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        start = log.start_offset
        return -1, start, log.epochs.epoch_at(start) if start < log.end.value else partition.leader_epoch
    if timestamp == MAX_TIMESTAMP:
        return log.max_timestamp(bound) or NOTHING
    if timestamp == LATEST_TIERED:
        return NOTHING
    return log.first_at_or_after(timestamp, bound) or NOTHING


@handles(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4)
def offset_for_leader_epoch(
    request: OffsetForLeaderEpochRequest, context: Context
) -> OffsetForLeaderEpochResponse | Coroutine[Any, Any, OffsetForLeaderEpochResponse]:
    """Where the last epoch at or before the one asked about ends; (-1, -1) when there is none (KIP-320, KIP-279)."""
    return answer(_epoch_ends(request, context.services))


def _epoch_ends(request: OffsetForLeaderEpochRequest, services: Services) -> Work[OffsetForLeaderEpochResponse]:
    results = []
    for topic in request.topics:
        ends = yield from each(partial(_epoch_end, topic.topic, services), topic.partitions)
        results.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=ends))
        if not len(results) % STRIDE:
            yield
    return OffsetForLeaderEpochResponse(topics=results)


def _epoch_end(topic: str, services: Services, asked: OffsetForLeaderPartition) -> OffsetForLeaderPartitionResult:
    try:
        partition = services.partition(topic, asked.partition)
        partition.check_leader(asked.current_leader_epoch)
        epoch, end_offset = partition.epoch_end(asked.leader_epoch)
        code = ErrorCode.NONE
    except KafkaError as error:
        epoch, end_offset, code = -1, -1, error.code
    return OffsetForLeaderPartitionResult(
        error_code=code, partition=asked.partition, leader_epoch=epoch, end_offset=end_offset
    )
