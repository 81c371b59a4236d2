"""ListOffsets 1-10 and OffsetForLeaderEpoch 2-4: questions about where things are in a partition's log.

A timestamp of zero or more asks for the first record at or after it; negative ones have meanings of their own:

    -1 latest (the high watermark; under read_committed the last stable offset)    -2 earliest
    -3 the record with the largest timestamp (v7)     -4 earliest local (v8)       -5 latest tiered (v9): none here

No match is offset -1, error 0. What takes a look at records is searched for after the rest, bounded by the request's
timeout, and one log at a time in the whole broker: that bounds what decompressed batches take in memory.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import trio

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
from kbroker.log.content.lookup import Found
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import READ_COMMITTED, READ_UNCOMMITTED, Partition
from kbroker.turns import STRIDE, Errands, Work, answer, each, finish_errands, one_at_a_time

if TYPE_CHECKING:
    from kbroker.views.view import ViewPartition

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5
KNOWN_SINCE = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9}
CONSUMER = -1  # as replica id
NOT_AVAILABLE_SINCE = 5  # clients before it know no OFFSET_NOT_AVAILABLE (KIP-207)
TIMEOUT_MS = 30_000  # of requests that do not say, as with Kafka's remote.list.offsets.request.timeout.ms

Doubts: TypeAlias = list[tuple[OffsetForLeaderPartitionResult, InDoubt]]  # answers that are to be confirmed


class Search(NamedTuple):
    """An answer that needs a look at records."""

    row: ListOffsetsPartitionResponse
    work: Errands[Found | None]
    partition: Partition | ViewPartition
    leader_epoch: int  # in which it was begun
    if_none: ErrorCode  # what to answer when it finds nothing


@handles(ApiKey.LIST_OFFSETS, 1, 10)
def list_offsets(
    request: ListOffsetsRequest, context: Context
) -> ListOffsetsResponse | Coroutine[Any, Any, ListOffsetsResponse]:
    """Answer for every partition asked about, once; one asked about twice gets INVALID_REQUEST, as in Kafka.

    Returns the response, or a coroutine of it when records have to be looked at, or partitions are many.
    """
    return answer(_list_all(request, context))


def _list_all(
    request: ListOffsetsRequest, context: Context
) -> Work[ListOffsetsResponse | Coroutine[Any, Any, ListOffsetsResponse]]:
    searches: list[Search] = []
    asked: dict[tuple[str, int], ListOffsetsPartition] = {}
    doubled = set()
    topics: dict[str, ListOffsetsTopicResponse] = {}

    def note(named: tuple[str, ListOffsetsPartition]) -> None:
        key = named[0], named[1].partition_index
        if key in asked:
            doubled.add(key)
        asked[key] = named[1]

    def respond(item: tuple[tuple[str, int], ListOffsetsPartition]) -> None:
        (name, index), one = item
        row = ListOffsetsPartitionResponse(partition_index=index, timestamp=-1, offset=-1, leader_epoch=-1)
        try:
            if (name, index) in doubled:
                raise KafkaError(ErrorCode.INVALID_REQUEST)
            _look_up(row, name, one, request, context, searches)
        except KafkaError as error:
            row.error_code = error.code
        topic = topics.get(name)
        if topic is None:
            topic = topics[name] = ListOffsetsTopicResponse(name=name, partitions=[])
        topic.partitions.append(row)

    yield from each(note, _named(request))
    yield from each(respond, asked.items())
    response = ListOffsetsResponse(topics=list(topics.values()))
    if not searches:
        return response
    timeout_ms = request.timeout_ms if request.timeout_ms > 0 else TIMEOUT_MS
    return _search_all(response, searches, timeout_ms, context.services)


def _named(request: ListOffsetsRequest) -> Iterator[tuple[str, ListOffsetsPartition]]:
    for topic in request.topics:
        for asked in topic.partitions:
            yield topic.name, asked


def _look_up(
    row: ListOffsetsPartitionResponse,
    topic: str,
    asked: ListOffsetsPartition,
    request: ListOffsetsRequest,
    context: Context,
    searches: list[Search],
) -> None:
    """Fill in what is known without a look at records; else note the search for it. Raises KafkaError."""
    timestamp = asked.timestamp
    if context.version < KNOWN_SINCE.get(timestamp, 0) or timestamp < LATEST_TIERED:
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
    partition = context.services.reading(topic, asked.partition_index)
    partition.check_leader(asked.current_leader_epoch)
    log, bound = partition.log, _bound(partition, request)
    unsure = ErrorCode.NONE
    if request.replica_id == CONSUMER and partition.is_catching_up:
        is_known = context.version >= NOT_AVAILABLE_SINCE
        unsure = ErrorCode.OFFSET_NOT_AVAILABLE if is_known else ErrorCode.LEADER_NOT_AVAILABLE
    if timestamp == LATEST:
        if unsure:
            raise KafkaError(unsure)
        row.offset, row.leader_epoch = bound, partition.leader_epoch
    elif timestamp in (EARLIEST, EARLIEST_LOCAL):
        start = log.start_offset
        row.offset = start
        row.leader_epoch = log.epochs.epoch_at(start) if start < log.end.value else partition.leader_epoch
    elif timestamp == MAX_TIMESTAMP:
        searches.append(Search(row, log.max_timestamp(bound), partition, partition.leader_epoch, unsure))
    elif timestamp != LATEST_TIERED:
        work = log.first_at_or_after(timestamp, bound)
        searches.append(Search(row, work, partition, partition.leader_epoch, unsure))


def _bound(partition: Partition | ViewPartition, request: ListOffsetsRequest) -> int:
    """Below which offset the answer lies. Only consumers are kept from what is not committed yet."""
    if request.replica_id != CONSUMER:
        return partition.log.end.value
    if request.isolation_level == READ_COMMITTED:
        return partition.last_stable_offset
    if request.isolation_level == READ_UNCOMMITTED:
        return partition.high_watermark.value
    raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)  # as Kafka says, which has no better word for it here


async def _search_all(
    response: ListOffsetsResponse, searches: list[Search], timeout_ms: int, services: Services
) -> ListOffsetsResponse:
    """Search one log after the other; those that the time does not suffice for answer REQUEST_TIMED_OUT."""
    searches.reverse()
    with trio.move_on_after(timeout_ms / 1000):
        while searches:
            row, work, partition, leader_epoch, if_none = searches[-1]
            try:
                async with one_at_a_time("searches of logs"):
                    found = await finish_errands(work, None, services.env.offload)
                partition.check_leader(leader_epoch)  # else the log may be another one's by now
                if found is not None:
                    row.timestamp, row.offset, row.leader_epoch = found
                else:
                    row.error_code = if_none
            except (OSError, KafkaError) as error:
                services.tell_of_disk(partition.topic, partition.index, error)
                row.error_code = ErrorCode.KAFKA_STORAGE_ERROR if isinstance(error, OSError) else error.code
            searches.pop()
    for search in searches:
        search.row.error_code = ErrorCode.REQUEST_TIMED_OUT
    return response


@handles(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4)
def offset_for_leader_epoch(
    request: OffsetForLeaderEpochRequest, context: Context
) -> OffsetForLeaderEpochResponse | Coroutine[Any, Any, OffsetForLeaderEpochResponse]:
    """Where the last epoch at or before the one asked about ends; (-1, -1) when there is none (KIP-320, KIP-279)."""
    return answer(_epoch_ends(request, context.services))


def _epoch_ends(request: OffsetForLeaderEpochRequest, services: Services) -> Work[Any]:
    """The response, or a coroutine of it, if some of it has to be confirmed: who is told acts on it for good (R14)."""
    results = []
    doubts: Doubts = []
    for topic in request.topics:
        ends = yield from each(partial(_epoch_end, topic.topic, services, doubts), topic.partitions)
        results.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=ends))
        if not len(results) % STRIDE:
            yield
    response = OffsetForLeaderEpochResponse(topics=results)
    return _confirmed(response, doubts, services) if doubts else response


async def _confirmed(
    response: OffsetForLeaderEpochResponse, doubts: Doubts, services: Services
) -> OffsetForLeaderEpochResponse:
    for row in await services.replicas.unconfirmed(doubts):
        row.error_code, row.leader_epoch, row.end_offset = ErrorCode.NOT_LEADER_OR_FOLLOWER, -1, -1
    return response


def _epoch_end(
    topic: str, services: Services, doubts: Doubts, asked: OffsetForLeaderPartition
) -> OffsetForLeaderPartitionResult:
    doubt = None
    try:
        partition = services.reading(topic, asked.partition)
        partition.check_leader(asked.current_leader_epoch)
        epoch, end_offset = partition.epoch_end(asked.leader_epoch)
        code, doubt = ErrorCode.NONE, partition.doubt()
    except KafkaError as error:
        epoch, end_offset, code = -1, -1, error.code
    row = OffsetForLeaderPartitionResult(
        error_code=code, partition=asked.partition, leader_epoch=epoch, end_offset=end_offset
    )
    if doubt is not None:
        doubts.append((row, doubt))
    return row
