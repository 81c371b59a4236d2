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
from typing import Any

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
from kbroker.api.context import Context
from kbroker.api.registry import CloseConnection, handles
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.watermark import Watermark

ATTRIBUTES_LOW_BYTE = 22  # of a v2 batch: codec in bits 0-2, transactional is bit 4
CODEC_MASK, ZSTD, TRANSACTIONAL = 0x07, 4, 0x10


class Pending:
    """A partition's answer that waits for a watermark to pass the last record."""

    __slots__ = ("answer", "watermark", "last_offset")

    def __init__(self, answer: PartitionProduceResponse, watermark: Watermark, last_offset: int) -> None:
        self.answer = answer
        self.watermark = watermark
        self.last_offset = last_offset


@handles(ApiKey.PRODUCE, 3, 11, advertised_min=0, overlaps=True)
def produce(request: ProduceRequest, context: Context) -> ProduceResponse | Coroutine[Any, Any, ProduceResponse] | None:
    """Append now; return the response, or a coroutine of it if some partition has to wait, or None for acks=0."""
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
        return _when_safe(response, pending, trio.current_time() + request.timeout_ms / 1000)
    return response


def _append(
    topic: str,
    data: PartitionProduceData,
    request: ProduceRequest,
    context: Context,
    now_ms: int,
    pending: list[Pending],
) -> PartitionProduceResponse:
    index = data.index
    try:
        partition = context.services.partition(topic, index)
        batch = data.records
        _check_request(request, batch, context.version)
        appended = partition.append(batch, request.acks, now_ms)  # type: ignore[arg-type]  # null was refused
    except KafkaError as error:
        return _refusal(index, error)
    answer = PartitionProduceResponse(
        index=index,
        base_offset=appended.base_offset,
        log_append_time_ms=appended.append_time_ms,
        log_start_offset=partition.log.start_offset,
    )
    watermark = _must_pass(partition, request.acks, appended.last_offset)
    if watermark is not None:
        pending.append(Pending(answer, watermark, appended.last_offset))
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


def _refusal(index: int, error: KafkaError) -> PartitionProduceResponse:
    named = error.code in (ErrorCode.INVALID_RECORD, ErrorCode.INVALID_TIMESTAMP)
    return PartitionProduceResponse(
        index=index,
        error_code=error.code,
        base_offset=-1,
        error_message=error.message,
        record_errors=[BatchIndexAndErrorMessage(batch_index=0)] if named else [],
    )


def _must_pass(partition: Partition, acks: int, last_offset: int) -> Watermark | None:
    """The watermark that has to pass last_offset before the client may be told, or None if that has happened."""
    if acks == ACKS_ALL and partition.high_watermark.value <= last_offset:
        return partition.high_watermark
    if acks != 0 and partition.log.flush_due and partition.log.flushed.value <= last_offset:
        return partition.log.flushed
    return None


async def _when_safe(response: ProduceResponse, pending: list[Pending], deadline: float) -> ProduceResponse:
    """Wait for every pending partition until the deadline; those that did not make it answer why not."""
    with trio.CancelScope(deadline=deadline):
        while pending:
            one = pending[-1]
            try:
                await one.watermark.wait_past(one.last_offset)
            except KafkaError as error:
                _fail(one.answer, error.code)
            pending.pop()
    for one in pending:
        if one.watermark.value <= one.last_offset:
            _fail(one.answer, ErrorCode.REQUEST_TIMED_OUT)
    return response


def _fail(answer: PartitionProduceResponse, code: ErrorCode) -> None:
    answer.error_code = code
    answer.base_offset = -1


def _check_unanswered(response: ProduceResponse) -> None:
    for topic in response.responses:
        for answer in topic.partition_responses:
            if answer.error_code:
                raise CloseConnection(
                    f"acks=0 produce to {topic.name}-{answer.index} failed: {ErrorCode(answer.error_code).name}"
                )
