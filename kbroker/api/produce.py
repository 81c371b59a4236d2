"""Produce 3-11: append each partition's batch at once, answer when it is as safe as acks asked for.

Versions 0-2 are advertised though refused (the connection is closed), exactly as Apache Kafka 4 does: librdkafka up to
2.11 takes their absence for a broker without compression (KAFKA-18659). Versions 12 and 13 carry the semantics of
KIP-890 and topic IDs, and come with transactions.

    acks=0    nothing is answered; a failure closes the connection, which is the only thing the client can notice
    acks=1    answered once the leader has it (and has flushed it, where flush.messages asks for that)
    acks=-1   answered once the high watermark has passed it: every in-sync replica has it (R6)
"""

from __future__ import annotations

from collections.abc import Coroutine
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
from kbroker.env import Offload
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.watermark import Watermark

ATTRIBUTES_LOW_BYTE = 22  # of a v2 batch: codec in bits 0-2, transactional is bit 4
REFUSED_FOR_NOW = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR)
CODEC_MASK, ZSTD, TRANSACTIONAL = 0x07, 4, 0x10


class Pending(NamedTuple):
    """A partition's answer that is not true yet."""

    answer: PartitionProduceResponse
    partition: Partition
    high_watermark: Watermark | None  # to be passed by last_offset; None: not asked for
    last_offset: int
    must_flush: bool


@handles(ApiKey.PRODUCE, 3, 11, advertised_min=0, overlaps=True)
def produce(request: ProduceRequest, context: Context) -> ProduceResponse | Coroutine[Any, Any, ProduceResponse] | None:
    """Append a batch of records to each partition.

    Returns the response, or a coroutine of it if some partition has to wait, or None for acks=0.
    """
    pending: list[Pending] = []
    now_ms = context.services.env.clock.data_ms()
    response = ProduceResponse(
        responses=[
            TopicProduceResponse(
                name=topic.name,
                partition_responses=[
                    _append(topic.name, data, request, context, now_ms, pending) for data in topic.partition_data
                ],
            )
            for topic in request.topic_data
        ]
    )
    if request.acks == 0:
        _check_unanswered(response)
        return None
    if pending:
        deadline = trio.current_time() + request.timeout_ms / 1000
        return _when_safe(response, pending, deadline, context.services.env.offload)
    return response


def _append(
    topic: str,
    data: PartitionProduceData,
    request: ProduceRequest,
    context: Context,
    now_ms: int,
    pending: list[Pending],
) -> PartitionProduceResponse:
    index, partition = data.index, None
    try:
        if topic in INTERNAL_TOPICS:  # they are written by the broker alone
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION)
        partition = context.services.partition(topic, index)
        batch = data.records
        _check_request(request, batch, context.version)
        appended = partition.append(batch, request.acks, now_ms)
    except KafkaError as error:
        if partition is not None and error.code in REFUSED_FOR_NOW:
            _note_refusal(partition, data.records)
        return _refusal(index, error)
    answer = PartitionProduceResponse(
        index=index,
        base_offset=appended.base_offset,
        log_append_time_ms=appended.append_time_ms,
        log_start_offset=partition.log.start_offset,
    )
    _note_pending(answer, partition, appended.last_offset, request.acks, now_ms, pending)
    return answer


def _check_request(request: ProduceRequest, batch: Any, version: int) -> None:
    if request.acks not in (-1, 0, 1):
        raise KafkaError(ErrorCode.INVALID_REQUIRED_ACKS)
    if batch is None or len(batch) <= ATTRIBUTES_LOW_BYTE:
        raise KafkaError(ErrorCode.INVALID_RECORD, "A produce request must have a record batch for each partition.")
    attributes = batch[ATTRIBUTES_LOW_BYTE]
    if attributes & CODEC_MASK == ZSTD and version < 7:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or later (KIP-110).")
    if attributes & TRANSACTIONAL or request.transactional_id is not None:
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, "This broker does not offer transactions.")


def _note_refusal(partition: Partition, batch: Any) -> None:
    """The batch will come again: those of its producer that are behind it on the way must not be taken before it."""
    if len(batch) >= HEADER_SIZE:
        header = read_header(batch)
        if header.size == len(batch) and check_crc(batch, 0, header):
            partition.log.producers.refused(header)


def _refusal(index: int, error: KafkaError) -> PartitionProduceResponse:
    named = error.code in (ErrorCode.INVALID_RECORD, ErrorCode.INVALID_TIMESTAMP)
    return PartitionProduceResponse(
        index=index,
        error_code=error.code,
        base_offset=-1,
        error_message=error.message,
        record_errors=[BatchIndexAndErrorMessage(batch_index=0)] if named else [],
    )


def _note_pending(
    answer: PartitionProduceResponse,
    partition: Partition,
    last_offset: int,
    acks: int,
    now_ms: int,
    pending: list[Pending],
) -> None:
    """Note what has to happen before the client may be told, if anything."""
    must_flush = partition.log.needs_flush(now_ms)
    if acks == 0:
        if must_flush:
            partition.log.flush_later()  # nobody waits for it
        return
    behind = acks == ACKS_ALL and partition.high_watermark.value <= last_offset
    if must_flush or behind:
        pending.append(
            Pending(answer, partition, partition.high_watermark if behind else None, last_offset, must_flush)
        )


async def _when_safe(
    response: ProduceResponse, pending: list[Pending], deadline: float, offload: Offload
) -> ProduceResponse:
    """Wait for every pending partition until the deadline; those that did not make it answer why not."""
    with trio.CancelScope(deadline=deadline):
        while pending:
            one = pending[-1]
            try:
                if one.must_flush:
                    await one.partition.log.flush(offload)
                if one.high_watermark is not None:
                    await one.high_watermark.wait_past(one.last_offset)
            except KafkaError as error:
                _fail(one.answer, error.code)
            pending.pop()
    for one in pending:
        _fail(one.answer, ErrorCode.REQUEST_TIMED_OUT)
    return response


def _fail(answer: PartitionProduceResponse, code: ErrorCode) -> None:
    answer.error_code = code
    answer.base_offset = -1


def _check_unanswered(response: ProduceResponse) -> None:
    for topic in response.responses:
        for answer in topic.partition_responses:
            if answer.error_code:
                raise CloseConnection(f"acks=0 produce to {topic.name}-{answer.index} failed: {answer.error_code!r}")
