"""ListOffsets 1-10 and OffsetForLeaderEpoch 2-4: questions about where things are in a partition's log.

A timestamp of zero or more asks for the first record at or after it; negative ones have meanings of their own:

    -1 latest (the high watermark; under read_committed the last stable offset)    -2 earliest
    -3 the record with the largest timestamp (v7)     -4 earliest local (v8)       -5 latest tiered (v9): none here

No match is offset -1, error 0.
"""

from __future__ import annotations

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

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5
KNOWN_SINCE = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}
READ_COMMITTED = 1
NOTHING = (-1, -1, -1)

Found = tuple[int, int, int]  # timestamp in ms or -1, offset or -1, leader epoch or -1


@handles(ApiKey.LIST_OFFSETS, 1, 10)
def list_offsets(request: ListOffsetsRequest, context: Context) -> ListOffsetsResponse:
    """Answer for every partition asked about; one asked about twice gets INVALID_REQUEST, as in Kafka."""
    return ListOffsetsResponse(
        topics=[
            ListOffsetsTopicResponse(
                name=topic.name,
                partitions=[
                    _list(topic.name, asked, request.isolation_level, context)
                    if sum(p.partition_index == asked.partition_index for p in topic.partitions) == 1
                    else _failed(asked, ErrorCode.INVALID_REQUEST)
                    for asked in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def _list(topic: str, asked: ListOffsetsPartition, isolation: int, context: Context) -> ListOffsetsPartitionResponse:
    try:
        if context.version < KNOWN_SINCE.get(asked.timestamp, 0) or asked.timestamp < LATEST_TIERED:
            raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
        partition = context.services.partition(topic, asked.partition_index)
        partition.check_leader(asked.current_leader_epoch)
        timestamp, offset, epoch = _look_up(partition, asked.timestamp, isolation)
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


def _look_up(partition: Partition, timestamp: int, isolation: int) -> Found:
    log = partition.log
    bound = partition.last_stable_offset if isolation == READ_COMMITTED else partition.high_watermark.value
    if timestamp == LATEST:
        return -1, bound, partition.leader_epoch
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        return -1, log.start_offset, log.epochs.epoch_at(log.start_offset)
    if timestamp == MAX_TIMESTAMP:
        return log.max_timestamp(bound) or NOTHING
    if timestamp == LATEST_TIERED:
        return NOTHING
    return log.first_at_or_after(timestamp, bound) or NOTHING


@handles(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4)
def offset_for_leader_epoch(request: OffsetForLeaderEpochRequest, context: Context) -> OffsetForLeaderEpochResponse:
    """Where the last epoch at or before the one asked about ends; (-1, -1) when there is none (KIP-320, KIP-279)."""
    return OffsetForLeaderEpochResponse(
        topics=[
            OffsetForLeaderTopicResult(
                topic=topic.topic,
                partitions=[_epoch_end(topic.topic, asked, context.services) for asked in topic.partitions],
            )
            for topic in request.topics
        ]
    )


def _epoch_end(topic: str, asked: OffsetForLeaderPartition, services: Services) -> OffsetForLeaderPartitionResult:
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
