"""Produce 3-11: append each partition's batch, answer when it is as safe as acks asked for.

Versions 0-2 are advertised though refused (the connection is closed), exactly as Apache Kafka 4 does: librdkafka up to
2.11 takes their absence for a broker without compression (KAFKA-18659). Versions 12 and 13 carry the semantics of
KIP-890 and topic IDs, and come with transactions.

    acks=0    nothing is answered; a failure closes the connection, which is the only thing the client can notice
    acks=1    answered once the leader has it (and has flushed it, where flush.messages asks for that)
    acks=-1   answered once the high watermark has passed it: every in-sync replica has it (R6)

Nearly every request is appended at once. One of many partitions, or whose records have to be read and are many, is
appended in turns, as a coroutine; requests of the same connection that come behind it then wait, too, and are appended
after it, so that records keep the order in which they were sent.

A partition that is named twice gets both batches and two answers. (Apache Kafka forgets the first of the two.)
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, NamedTuple

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from kafka_wire.records import HEADER_SIZE, check_crc, read_header
from kbroker.api.context import Context
from kbroker.api.registry import CloseConnection, handles
from kbroker.cluster.image import INTERNAL_TOPICS
from kbroker.log.log import Appended
from kbroker.log.validation import BadRecords, check_batch, first_batch
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.turns import PAUSES_A_TURN, Errand, Errands, finish_errands
from kbroker.watermark import Watermark

ATTRIBUTES_LOW_BYTE = 22  # of a v2 batch: codec in bits 0-2, transactional is bit 4
CODEC_MASK, ZSTD, TRANSACTIONAL = 0x07, 4, 0x10
REFUSED_FOR_NOW = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR)
# with these no log start is told (Kafka: ReplicaManager.appendToLocalLog)
WITHOUT_LOG_START = (
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.MESSAGE_TOO_LARGE,
    ErrorCode.CORRUPT_MESSAGE, ErrorCode.KAFKA_STORAGE_ERROR,
)  # fmt: skip
PARTITIONS_A_PAUSE = 8  # appended between two pauses
RECORD_ERRORS_MAX = 10_000  # in one answer; what is refused beyond is told by its partition's error alone
FLUSH_S_MAX = 30.0  # a flush is the leader's own work, whatever the client's timeout; beyond, the disk is at fault
PENDING_A_TURN = 64
_DONE: Any = object()


class Pending(NamedTuple):
    """A partition's answer that is not true yet."""

    answer: PartitionProduceResponse
    partition: Partition
    high_watermark: Watermark | None  # to be passed by last_offset; None: not asked for
    last_offset: int
    must_flush: bool


class _Produce:
    """One request under way: what was appended, and what has to happen before the client may be told."""

    __slots__ = ("request", "context", "responses", "pending", "record_errors")

    def __init__(self, request: ProduceRequest, context: Context) -> None:
        self.request = request
        self.context = context
        self.responses: list[TopicProduceResponse] = []
        self.pending: list[Pending] = []
        self.record_errors = 0  # named in the responses


@handles(ApiKey.PRODUCE, 3, 11, advertised_min=0, overlaps=True)
def produce(request: ProduceRequest, context: Context) -> ProduceResponse | Coroutine[Any, Any, Any] | None:
    """Append a batch of records to each partition.

    Returns the response, or a coroutine of it if some partition has to wait, or None for acks=0.
    """
    under_way = _Produce(request, context)
    work = _append_all(under_way)
    peer = context.peer
    errand = None
    if not peer.appending:
        for _ in range(PAUSES_A_TURN):
            errand = next(work, _DONE)
            if errand is _DONE:
                return _conclude(under_way)
            if errand is not None:
                break
    peer.appending += 1
    return _append_in_turns(under_way, work, errand)


async def _append_in_turns(under_way: _Produce, work: Errands[None], errand: Errand | None) -> ProduceResponse | None:
    """Finish what did not go at once. A connection's coroutines run one after the other, as their requests came."""
    context = under_way.context
    try:
        await finish_errands(work, errand, context.services.env.offload)
    finally:
        context.peer.appending -= 1
    response = _conclude(under_way)
    return await response if isinstance(response, CoroutineType) else response  # type: ignore[return-value]


def _append_all(under_way: _Produce) -> Errands[None]:
    request, context, count = under_way.request, under_way.context, 0
    now_ms = context.services.env.clock.data_ms()
    flaw = _flaw(request)
    for topic in request.topic_data:
        answers: list[PartitionProduceResponse] = []
        under_way.responses.append(TopicProduceResponse(name=topic.name, partition_responses=answers))
        for data in topic.partition_data:
            answers.append((yield from _append(topic.name, data, under_way, flaw, now_ms)))
            count += 1
            if not count % PARTITIONS_A_PAUSE:
                yield None


def _flaw(request: ProduceRequest) -> KafkaError | None:
    """Why nothing of a request may be appended, if so."""
    if request.acks not in (-1, 0, 1):
        return KafkaError(ErrorCode.INVALID_REQUIRED_ACKS, f"acks is {request.acks}, not -1, 0 or 1")
    return None


def _append(
    topic: str, data: PartitionProduceData, under_way: _Produce, flaw: KafkaError | None, now_ms: int
) -> Errands[PartitionProduceResponse]:
    context, acks, log_start = under_way.context, under_way.request.acks, -1
    partition = None
    try:
        partition = context.services.partition(topic, data.index)
        batch = _batch_of(data, under_way.request, context.version)
        if flaw is not None:
            raise flaw
        if topic in INTERNAL_TOPICS:  # they are written by the broker alone
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{topic} is written by the broker alone")
        log_start = partition.log.start_offset
        partition.check_append(acks)
        rules = partition.log.rules
        header = check_batch(batch, rules.config)
        if not rules.passes(batch, header, now_ms):
            batch, header = yield from rules.examine(batch, now_ms)
        appended = partition.append(batch, acks, now_ms, header)
    except KafkaError as error:
        if partition is not None and error.code in REFUSED_FOR_NOW:
            _note_refusal(partition, data.records)
        return _refusal(data.index, error, -1 if error.code in WITHOUT_LOG_START else log_start, under_way)
    answer = PartitionProduceResponse(
        index=data.index,
        base_offset=appended.base_offset,
        log_append_time_ms=appended.append_time_ms,
        log_start_offset=log_start,
    )
    if acks == ACKS_ALL or partition.log.flushes:
        _note_pending(answer, partition, appended, now_ms, under_way)
    return answer


def _batch_of(data: PartitionProduceData, request: ProduceRequest, version: int) -> bytearray | memoryview:
    """The one batch that was sent for a partition. Raises KafkaError where it may not be sent with this request."""
    if data.records is None:
        raise KafkaError(ErrorCode.INVALID_RECORD, "a produce request must have a record batch for each partition")
    batch = first_batch(data.records)
    attributes = batch[ATTRIBUTES_LOW_BYTE]
    if attributes & CODEC_MASK == ZSTD and version < 7:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or later (KIP-110)")
    if attributes & TRANSACTIONAL:
        if request.transactional_id is None:
            text = "a transactional batch needs a transactional id in its request"
            raise KafkaError(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, text)
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, "this broker does not offer transactions")
    return batch


def _note_refusal(partition: Partition, batch: Any) -> None:
    """The batch will come again: those of its producer that are behind it on the way must not be taken before it."""
    if batch is not None and len(batch) >= HEADER_SIZE:
        header = read_header(batch)
        if header.size == len(batch) and check_crc(batch, 0, header):
            partition.log.refuse(header)


def _refusal(index: int, error: KafkaError, log_start: int, under_way: _Produce) -> PartitionProduceResponse:
    """The answer for a batch that was refused; where certain records are to blame it names them (KIP-467)."""
    bad = error.records if isinstance(error, BadRecords) else ()
    bad = bad[: RECORD_ERRORS_MAX - under_way.record_errors]
    under_way.record_errors += len(bad)
    return PartitionProduceResponse(
        index=index,
        error_code=error.code,
        base_offset=-1,
        log_start_offset=log_start,
        error_message=error.message,
        record_errors=[
            BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=why) for index, why in bad
        ],
    )


def _note_pending(
    answer: PartitionProduceResponse, partition: Partition, appended: Appended, now_ms: int, under_way: _Produce
) -> None:
    """Note what has to happen before the client may be told, if anything."""
    acks = under_way.request.acks
    must_flush = partition.log.needs_flush(now_ms)
    if acks == 0:
        if must_flush:
            partition.log.flush_later()  # nobody waits for it
        return
    last_offset = appended.last_offset
    behind = acks == ACKS_ALL and partition.high_watermark.value <= last_offset
    if must_flush or behind:
        under_way.pending.append(
            Pending(answer, partition, partition.high_watermark if behind else None, last_offset, must_flush)
        )


def _conclude(under_way: _Produce) -> ProduceResponse | Coroutine[Any, Any, ProduceResponse] | None:
    """The answer to a request that is appended as far as it can be."""
    response = ProduceResponse(responses=under_way.responses)
    if under_way.request.acks == 0:
        _check_unanswered(response)
        return None
    if under_way.pending:
        return _when_safe(under_way, response)
    return response


async def _when_safe(under_way: _Produce, response: ProduceResponse) -> ProduceResponse:
    """Wait for every pending partition; those that did not make it answer why not.

    What has to be flushed is, whatever the client's timeout: in Kafka it is part of the append.
    """
    begun, offload = trio.current_time(), under_way.context.services.env.offload
    answer_by = begun + under_way.request.timeout_ms / 1000
    for number, one in enumerate(under_way.pending):
        if not number % PENDING_A_TURN:
            await trio.lowlevel.checkpoint()
        try:
            with trio.CancelScope(deadline=begun + FLUSH_S_MAX) as scope:
                if one.must_flush:
                    await one.partition.log.flush(offload)
            if one.high_watermark is not None and not scope.cancelled_caught:
                with trio.CancelScope(deadline=answer_by) as scope:
                    await one.high_watermark.wait_past(one.last_offset)
        except KafkaError as error:
            one.answer.error_code = error.code
            one.answer.base_offset = -1
        if scope.cancelled_caught:  # it is in the log all the same: its offset stays in the answer, as in Kafka
            one.answer.error_code = ErrorCode.REQUEST_TIMED_OUT
    return response


def _check_unanswered(response: ProduceResponse) -> None:
    for topic in response.responses:
        for answer in topic.partition_responses:
            if answer.error_code:
                raise CloseConnection(f"acks=0 produce to {topic.name}-{answer.index} failed: {answer.error_code!r}")
