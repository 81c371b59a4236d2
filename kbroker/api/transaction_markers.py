"""WriteTxnMarkers 1-2: the end of transactions, written into the partitions that took part.

A coordinator sends it to whoever leads the partitions. A client may send it too (`kafka-transactions.sh abort`), as in
Kafka: whoever sends it, the partition judges. A marker of an older epoch of the producer, or of an older coordinator,
is refused and changes nothing; one partition's trouble is no other's.

A partition is answered when its marker is committed (acks=all), within `request.timeout.ms`. Those of
`__consumer_offsets` get it through the group coordinator, which has offsets to settle. Version 2 says by which rules
the transaction ran (KIP-1228).
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.env import Offload
from kbroker.groups.coordinator import OFFSETS_TOPIC
from kbroker.log.derived.transactions import Marker
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import Partition
from kbroker.turns import Effort, Later, Work, answer

MARKERS_A_PAUSE = 2
PENDING_A_TURN = 64

# What a group coordinator says that is no answer yet: the transaction's coordinator looks for the leader again.
NOT_READY = frozenset(
    {ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR}
)

Place = tuple[str, int]  # topic and partition
Results = dict[Place, WritableTxnMarkerPartitionResult]


class Pending(NamedTuple):
    """A partition's result that is not known yet."""

    result: WritableTxnMarkerPartitionResult
    later: Later  # its code, or a KafkaError


@handles(ApiKey.WRITE_TXN_MARKERS, 1, 2)
def write_txn_markers(
    request: WriteTxnMarkersRequest, context: Context
) -> WriteTxnMarkersResponse | Coroutine[Any, Any, WriteTxnMarkersResponse]:
    """Append each marker to each of its partitions; a coroutine if some have to wait for their replicas."""
    return answer(_write_all(request, context.services))


def _write_all(request: WriteTxnMarkersRequest, services: Services) -> Work[Any]:
    """The response, or a coroutine of it. A partition that is named twice in a marker gets it once."""
    results: dict[int, Results] = {}
    pending: list[Pending] = []
    count = 0
    for one in request.markers:
        marker = Marker(
            one.producer_id, one.producer_epoch, one.coordinator_epoch, one.transaction_result, one.transaction_version
        )
        mine: Results = {}
        for topic in one.topics:
            for index in topic.partition_indexes:
                if (topic.name, index) not in mine:
                    mine[topic.name, index] = _write(topic.name, index, marker, services, pending)
                count += 1
                if not count % MARKERS_A_PAUSE:
                    yield
        if mine:  # the later word about a producer's partition counts, as in Kafka
            results.setdefault(marker.producer_id, {}).update(mine)
    response = yield from _response(results)
    return _when_committed(response, pending, services) if pending else response


def _write(
    topic: str, index: int, marker: Marker, services: Services, pending: list[Pending]
) -> WritableTxnMarkerPartitionResult:
    """Append a marker to one partition. Its result, which is not true before what is noted as pending has ended."""
    result = WritableTxnMarkerPartitionResult(partition_index=index)
    try:
        _check(marker)
        partition = services.partition(topic, index)
        if topic == OFFSETS_TOPIC:
            settled = services.groups.write_marker(index, marker)
            if isinstance(settled, ErrorCode):
                result.error_code = _told(settled)
            else:
                pending.append(Pending(result, Later(settled)))
            return result
        now_ms = services.env.clock.data_ms()
        last_offset = partition.write_marker(marker, now_ms).last_offset
        must_flush = partition.log.flushes and partition.log.needs_flush(now_ms)
        if must_flush or partition.high_watermark.value <= last_offset:
            offload = services.env.offload if must_flush else None
            pending.append(Pending(result, Later(_committed(partition, last_offset, offload))))
    except InDoubt as doubt:
        pending.append(Pending(result, Later(_confirmed(doubt, services))))
    except KafkaError as error:
        services.tell_of_disk(topic, index, error)
        result.error_code = error.code
    return result


async def _confirmed(doubt: InDoubt, services: Services) -> ErrorCode:
    """Why the marker is refused, if that is certain (R14)."""
    is_certain = not await services.replicas.unconfirmed([(doubt, doubt)])
    return doubt.found.code if is_certain else doubt.code


def _check(marker: Marker) -> None:
    """What is no marker of anybody's. Raises KafkaError with the codes that it ends with in Kafka."""
    if -1 in (marker.producer_id, marker.producer_epoch, marker.transaction_version):
        raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)
    if marker.producer_epoch < 0:
        raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH)
    if marker.coordinator_epoch < -1:
        raise KafkaError(ErrorCode.TRANSACTION_COORDINATOR_FENCED)


async def _committed(partition: Partition, last_offset: int, offload: Offload | None) -> ErrorCode:
    """offload: what has the marker flushed, if that has to be."""
    if offload is not None:
        await partition.log.flush(offload)
    await partition.high_watermark.wait_past(last_offset)
    return ErrorCode.NONE


def _told(code: ErrorCode) -> ErrorCode:
    return ErrorCode.NOT_LEADER_OR_FOLLOWER if code in NOT_READY else code


def _response(results: Mapping[int, Results]) -> Work[WriteTxnMarkersResponse]:
    """The results by producer and topic."""
    response, effort = WriteTxnMarkersResponse(markers=[]), Effort()
    for producer_id, of_producer in results.items():
        topics: dict[str, WritableTxnMarkerTopicResult] = {}
        for (name, _), result in of_producer.items():
            if name not in topics:
                topics[name] = WritableTxnMarkerTopicResult(name=name, partitions=[])
            topics[name].partitions.append(result)
            if effort.spent(2):
                yield
        response.markers.append(WritableTxnMarkerResult(producer_id=producer_id, topics=list(topics.values())))
    return response


async def _when_committed(
    response: WriteTxnMarkersResponse, pending: list[Pending], services: Services
) -> WriteTxnMarkersResponse:
    """Wait for every pending partition; of those that are not known in time, the marker may count all the same."""
    deadline = trio.current_time() + services.config.get_int("request.timeout.ms") / 1000
    for number, one in enumerate(pending):
        if not number % PENDING_A_TURN:
            await trio.lowlevel.checkpoint()
        one.result.error_code = ErrorCode.REQUEST_TIMED_OUT
        with trio.CancelScope(deadline=deadline):
            try:
                one.result.error_code = _told(await one.later)
            except KafkaError as error:
                one.result.error_code = error.code
    return response
