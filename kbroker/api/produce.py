"""Produce 3-13: append each partition's batch, answer when it is as safe as acks asked for.

Versions 0-2 are advertised though refused (the connection is closed), exactly as Apache Kafka 4 does: librdkafka up to
2.11 takes their absence for a broker without compression (KAFKA-18659). From 12 on partitions need not be added to a
transaction before (KIP-890), 13 names topics by ID (KIP-516).

    acks=0    nothing is answered; a failure closes the connection, which is the only thing the client can notice
    acks=1    answered once the leader has it (and has flushed it, where flush.messages asks for that)
    acks=-1   answered once the high watermark has passed it: every in-sync replica has it, and they are enough (R6)

Nearly every request is appended at once. One of many partitions, or whose records have to be read and are many, is
appended in turns, as a coroutine; requests of the same connection that come behind it then wait, too, and are appended
after it, so that records keep the order in which they were sent. The same holds for a request whose transaction has to
be verified by a coordinator that does not answer at once (transaction_verification.py).

A partition that is named twice gets both batches and two answers. (Apache Kafka forgets the first of the two.)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    BatchIndexAndErrorMessage,
    NodeEndpoint,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from kafka_wire.records import HEADER_SIZE, BatchHeader, check_crc, read_header
from kafka_wire.schema import maker
from kbroker.api.context import Context, Services
from kbroker.api.leaders import current_leader
from kbroker.api.produce_transactions import NotVerified, Verdicts
from kbroker.api.registry import CloseConnection, handles
from kbroker.awaited import Awaited
from kbroker.cluster.image import INTERNAL_TOPICS
from kbroker.log.content.validation import BadRecords, NoBatch, check_batch, first_batch
from kbroker.log.derived.producers import TRANSACTIONAL
from kbroker.log.writing import Appended
from kbroker.replication.doubt import InDoubt, LedOn, NotLeader
from kbroker.replication.partition import ACKS_ALL, HEARD_S, Partition
from kbroker.turns import PAUSES_A_TURN, Errand, Errands, Later, Work, advance, finish, finish_errands
from kbroker.watermark import Bell, Watermark

CODEC_MASK, ZSTD = 0x07, 4  # of a batch's attributes
REFUSED_FOR_NOW = (
    ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.CONCURRENT_TRANSACTIONS,
)  # fmt: skip
# Errors that tell the partition's log start; the others, and whatever was found before the log was asked, tell -1.
# (Kafka: ReplicaManager.appendToLocalLog lists the others.)
WITH_LOG_START = (
    ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.INVALID_TIMESTAMP,
    ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.UNKNOWN_PRODUCER_ID,
    ErrorCode.INVALID_RECORD,
)  # fmt: skip
LEADERS_SINCE = 10  # version (KIP-951)
TOPIC_IDS_SINCE = 13  # version (KIP-516)
UNITS_A_PAUSE = 3  # a unit is a partition, or so many of its records:
RECORDS_A_UNIT = 16
RECORD_ERRORS_MAX = 10_000  # in one answer; what is refused beyond is told by its partition's error alone
FLUSH_S_MAX = 30.0  # a flush is the leader's own work, whatever the client's timeout; beyond, the disk is at fault
PENDING_A_TURN = 64
_DONE: Any = object()

_new_answer = maker(PartitionProduceResponse, "index", "base_offset", "log_append_time_ms", "log_start_offset")
_new_topic = maker(TopicProduceResponse, "name", "partition_responses", "topic_id")
_new_response = maker(ProduceResponse, "responses")


class Pending(NamedTuple):
    """A partition's answer that is not true yet."""

    answer: PartitionProduceResponse
    partition: Partition
    high_watermark: Watermark | None  # to be passed by last_offset; None: not asked for
    last_offset: int
    must_flush: bool


class _Produce:
    """One request under way: what was appended, and what has to happen before the client may be told."""

    __slots__ = ("request", "context", "responses", "pending", "doubts", "nodes", "record_errors", "units", "verdicts")

    def __init__(self, request: ProduceRequest, context: Context) -> None:
        self.request = request
        self.context = context
        self.responses: list[TopicProduceResponse] = []
        self.pending: list[Pending] = []
        # Refusals that are to be confirmed, with their topics.
        self.doubts: list[tuple[tuple[str, PartitionProduceResponse], InDoubt]] = []
        self.nodes: list[NodeEndpoint] = []  # brokers that the responses name as leaders
        self.record_errors = 0  # named in the responses
        self.units = 0  # of work since the last pause
        self.verdicts: Verdicts | None = None  # of a request with a transactional id


@handles(ApiKey.PRODUCE, 3, 13, advertised_min=0, overlaps=True)
def produce(request: ProduceRequest, context: Context) -> ProduceResponse | Safe | Coroutine[Any, Any, Any] | None:
    """Append a batch of records to each partition.

    Returns the response, or has it awaited if replicas have to have it; a coroutine if something else is to be waited
    for; or None for acks=0.
    """
    under_way = _Produce(request, context)
    if request.transactional_id is not None and (later := _verify_first(under_way)) is not None:
        return later
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


async def _append_in_turns(
    under_way: _Produce, work: Errands[None], errand: Errand | None, verified: Later | None = None
) -> ProduceResponse | Safe | None:
    """Finish what did not go at once. A connection's coroutines run one after the other, as their requests came.

    verified: to be awaited before.
    """
    context = under_way.context
    try:
        if verified is not None:
            await verified
        await finish_errands(work, errand, context.services.env.offload)
    finally:
        context.peer.appending -= 1
    response = _conclude(under_way)
    return (await response) if isinstance(response, CoroutineType) else response  # type: ignore[return-value]


def _verify_first(under_way: _Produce) -> Coroutine[Any, Any, ProduceResponse | Safe | None] | None:
    """Find out which batches of a transaction may be appended; None when that is known, else the coroutine that waits
    for it, and appends.
    """
    context = under_way.context
    under_way.verdicts = verdicts = Verdicts(context.version, context.services)
    if not context.peer.appending and verdicts.are_clear(under_way.request):
        return None
    verifying = verdicts.find_out(under_way.request)
    done = None if context.peer.appending else advance(verifying, PAUSES_A_TURN)
    if done == (None,):
        return None
    context.peer.appending += 1
    return _append_in_turns(under_way, _append_all(under_way), None, Later(_verified(verdicts, verifying, done)))


async def _verified(verdicts: Verdicts, verifying: Work[Later | None], done: tuple[Later | None] | None) -> None:
    """done: what verifying has come to, if it has."""
    later = done[0] if done is not None else await finish(verifying)
    if later is not None:
        verdicts.take(await later)


def _append_all(under_way: _Produce) -> Errands[None]:
    services = under_way.context.services
    now_ms, by_id = services.env.clock.data_ms(), under_way.context.version >= TOPIC_IDS_SINCE
    by_topic: dict[str | bytes, list[PartitionProduceResponse]] = {}  # a topic that is named twice gets one answer
    for topic in under_way.request.topic_data:
        name = topic.name or services.topic_name(topic.topic_id)
        key = name or topic.topic_id
        if key in by_topic:
            answers = by_topic[key]
        elif topic.partition_data:
            answers = by_topic[key] = []
            under_way.responses.append(_new_topic(topic.name, answers, topic.topic_id))
        for data in topic.partition_data:
            while under_way.units >= UNITS_A_PAUSE:  # for what was done before
                under_way.units -= UNITS_A_PAUSE
                yield None
            if by_id and not _is_of(topic.topic_id, name, data.index, services):
                answers.append(_refuse(name, data, KafkaError(ErrorCode.UNKNOWN_TOPIC_ID), None, under_way))
                continue
            answer = _append(name, data, under_way, now_ms)
            answers.append(answer if answer is not None else (yield from _examine(name, data, under_way, now_ms)))
            under_way.units += 1


def _is_of(topic_id: bytes, name: str, index: int, services: Services) -> bool:
    """Whether a name stands for a topic, and what is held under it is no part of an earlier topic of that name."""
    held = services.partitions.get((name, index))
    return name != "" and (held is None or held.topic_id == topic_id)


def _append(
    topic: str, data: PartitionProduceData, under_way: _Produce, now_ms: int
) -> PartitionProduceResponse | None:
    """Append to one partition; its answer, or None when the records have to be examined first."""
    partition = None
    try:
        partition = under_way.context.services.partition(topic, data.index)
        batch, header = _batch_of(topic, data, partition, under_way)
        if not partition.log.rules.passes(batch, header, now_ms):
            return None
        verdicts = under_way.verdicts
        guard = None if verdicts is None else verdicts.guard(topic, data.index)
        appended = partition.write(batch, header, now_ms, guard)
    except KafkaError as error:
        return _refuse(topic, data, error, partition, under_way)
    return _accept(data.index, appended, partition, under_way, now_ms)


def _examine(
    topic: str, data: PartitionProduceData, under_way: _Produce, now_ms: int
) -> Errands[PartitionProduceResponse]:
    """The same for a batch whose records have to be read, or changed. Much may happen meanwhile."""
    partition = None
    try:
        partition = under_way.context.services.partition(topic, data.index)
        batch, header = _batch_of(topic, data, partition, under_way)
        batch, header, diverted = yield from partition.log.rules.examine(batch, now_ms)
        partition.check_append(under_way.request.acks)
        verdicts = under_way.verdicts
        guard = None if verdicts is None else verdicts.guard(topic, data.index)
        appended = partition.write(batch, header, now_ms, guard, diverted)
    except KafkaError as error:
        return _refuse(topic, data, error, partition, under_way)
    return _accept(data.index, appended, partition, under_way, now_ms)


def _batch_of(
    topic: str, data: PartitionProduceData, partition: Partition, under_way: _Produce
) -> tuple[bytearray | memoryview, BatchHeader]:
    """The one batch that was sent for a partition, its header checked. Raises KafkaError where it may not be appended.

    (Kafka: KafkaApis.handleProduceRequest, ReplicaManager.appendRecords, Partition.appendRecordsToLeader.)
    """
    acks = under_way.request.acks
    if data.records is None:
        raise NoBatch(ErrorCode.INVALID_RECORD, "a produce request must have a record batch for each partition")
    batch, header = first_batch(data.records)
    attributes = header.attributes
    if attributes & TRANSACTIONAL or (attributes & CODEC_MASK == ZSTD and under_way.context.version < 7):
        _check_attributes(attributes, topic, data.index, under_way)
    if acks not in (-1, 0, 1):
        raise KafkaError(ErrorCode.INVALID_REQUIRED_ACKS, f"acks is {acks}, not -1, 0 or 1")
    if topic in INTERNAL_TOPICS:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{topic} is written by the broker alone")
    partition.check_append(acks)
    check_batch(batch, header, partition.log.config)
    under_way.units += header.count // RECORDS_A_UNIT
    return batch, header


def _check_attributes(attributes: int, topic: str, index: int, under_way: _Produce) -> None:
    """Raise if a transactional batch, or one in zstd, may not come with this request."""
    if attributes & CODEC_MASK == ZSTD and under_way.context.version < 7:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or later (KIP-110)")
    if not attributes & TRANSACTIONAL:
        return
    if under_way.verdicts is None:
        text = "a transactional batch needs a transactional id in its request"
        raise KafkaError(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, text)
    under_way.verdicts.guard(topic, index)


def _refuse(
    topic: str, data: PartitionProduceData, error: KafkaError, partition: Partition | None, under_way: _Produce
) -> PartitionProduceResponse:
    """The answer for a batch that was refused; where certain records are to blame it names them (KIP-467)."""
    services = under_way.context.services
    services.tell_of_disk(topic, data.index, error)
    doubt = error if isinstance(error, InDoubt) else None
    if doubt is not None:
        error = doubt.found
    log_start, bad = -1, error.records if isinstance(error, BadRecords) else ()
    if error.code in REFUSED_FOR_NOW:
        refuse = partition.log.refuse if partition else partial(services.replicas.refuse, topic, data.index)
        _note_refusal(data.records, refuse)
    if topic in services.image.topics:
        services.replicas.traffic.of(topic).refused(error.code, len(data.records or b""))
    if partition is not None and error.code in WITH_LOG_START and not isinstance(error, NoBatch | NotVerified):
        log_start = partition.log.start_offset
    bad = bad[: RECORD_ERRORS_MAX - under_way.record_errors]
    under_way.record_errors += len(bad)
    answer = PartitionProduceResponse(
        index=data.index,
        error_code=error.code,
        base_offset=-1,
        log_start_offset=log_start,
        error_message=error.own_message if isinstance(error, NotVerified) else error.message,
        record_errors=[
            BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=why) for index, why in bad
        ],
    )
    if doubt is not None:
        under_way.doubts.append(((topic, answer), doubt))
    _name_leader(topic, answer, under_way)
    return answer


async def _confirm(under_way: _Produce) -> None:
    """Have confirmed what batches were refused for; where another broker may know better, clients ask on (R14)."""
    for topic, answer in await under_way.context.services.replicas.unconfirmed(under_way.doubts):
        answer.error_code, answer.error_message = ErrorCode.NOT_LEADER_OR_FOLLOWER, None
        answer.log_start_offset = -1
        _name_leader(topic, answer, under_way)


def _name_leader(topic: str, answer: PartitionProduceResponse, under_way: _Produce) -> None:
    """Tell a client that is refused for asking the wrong broker which is the right one (KIP-951)."""
    context = under_way.context
    if answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER and context.version >= LEADERS_SINCE:
        image = context.services.image.topics.get(topic)
        answer.current_leader = current_leader(image, answer.index, context, under_way.nodes)


def _note_refusal(batch: Any, note: Callable[[BatchHeader], None]) -> None:
    """The batch will come again: those of its producer that are behind it on the way must not be taken before it."""
    if batch is not None and len(batch) >= HEADER_SIZE:
        header = read_header(batch)
        if header.size == len(batch) and check_crc(batch, 0, header):
            note(header)


def _accept(
    index: int, appended: Appended, partition: Partition, under_way: _Produce, now_ms: int
) -> PartitionProduceResponse:
    """The answer for a batch that was appended; it may have to wait until it is true."""
    log = partition.log
    answer = _new_answer(index, appended.base_offset, appended.append_time_ms, log.start_offset)
    if under_way.request.acks == ACKS_ALL or log.flushes:
        _note_pending(answer, partition, appended, now_ms, under_way)
    return answer


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


def _conclude(under_way: _Produce) -> ProduceResponse | Safe | Coroutine[Any, Any, Safe] | None:
    """The answer to a request that is appended as far as it can be."""
    response = _new_response(under_way.responses)
    response.node_endpoints = under_way.nodes
    if under_way.request.acks == 0:
        _check_unanswered(response)
        return None
    if not (under_way.pending or under_way.doubts):
        return response
    safe = Safe(under_way, response)
    must_flush = any(one.must_flush for one in under_way.pending)
    return _when_safe(under_way, safe) if must_flush or under_way.doubts else safe


async def _when_safe(under_way: _Produce, safe: Safe) -> Safe:
    """Have refusals confirmed, and flush what has to be; what was not flushed answers why not. The rest is awaited.

    A flush is not bounded by the client's timeout: in Kafka it is part of the append.
    """
    if under_way.doubts:
        await _confirm(under_way)
    until, kept = trio.current_time() + FLUSH_S_MAX, []
    for one in under_way.pending:
        if not one.must_flush or await _is_flushed(one, until, safe):
            kept.append(one)
    under_way.pending = kept
    return safe


async def _is_flushed(one: Pending, until: float, safe: Safe) -> bool:
    try:
        with trio.CancelScope(deadline=until):
            await one.partition.log.flush(safe.services.env.offload)
            return True
        one.answer.error_code = ErrorCode.REQUEST_TIMED_OUT
    except KafkaError as error:
        safe.refuse(one, error)
    return False


class Safe(Awaited):
    """The response, when enough replicas have what was appended or it is too late. (Kafka: DelayedProduce.)"""

    __slots__ = (
        "services", "_under_way", "_response", "_settled", "_high_watermark", "_answer_by", "_heard_at", "_bell",
    )  # fmt: skip

    def __init__(self, under_way: _Produce, response: ProduceResponse) -> None:
        self.services = under_way.context.services
        self._under_way = under_way
        self._response = response
        self._settled = 0  # of those that are pending, from the first on
        self._high_watermark: Watermark | None = None  # that the next one waits for
        self._bell: Bell | None = None  # hangs there
        now = trio.current_time()
        self._answer_by = now + under_way.request.timeout_ms / 1000
        self._heard_at = now + HEARD_S  # when to see whether anybody still follows

    def look(self) -> ProduceResponse | None:
        """The response; what did not make it answers why not."""
        pending, now = self._under_way.pending, trio.current_time()
        for one in pending[self._settled : self._settled + PENDING_A_TURN]:
            try:
                if not self._is_settled(one, now):
                    self.until = min(self._answer_by, self._heard_at)
                    return None
            except KafkaError as error:
                self.refuse(one, error)
            self._settled += 1
        self.until = now
        return self._response if self._settled >= len(pending) else None

    def _is_settled(self, one: Pending, now: float) -> bool:
        """Whether enough replicas have it, or it is too late; then it is in the log all the same, and its offset stays
        in the answer, as in Kafka.

        Raises KafkaError: NOT_ENOUGH_REPLICAS_AFTER_APPEND; NOT_LEADER_OR_FOLLOWER where another broker may lead by now
        and the replicas follow that one, so that the client looks for it.
        """
        high_watermark = one.high_watermark
        if high_watermark is None:
            return True
        while isinstance(high_watermark.error, LedOn):
            high_watermark = high_watermark.error.high_watermark
        high_watermark.check()
        if high_watermark.value > one.last_offset:
            if not one.partition.has_min_isr:
                raise KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
            return True
        if now >= self._answer_by:
            one.answer.error_code = ErrorCode.REQUEST_TIMED_OUT
            return True
        if now >= self._heard_at:
            if not one.partition.is_heard:
                raise NotLeader
            self._heard_at = now + HEARD_S
        if high_watermark is not self._high_watermark:
            bell = self._bell
            self.leave()
            self._high_watermark = high_watermark
            if bell is not None:
                self.listen(bell)
        return False

    def refuse(self, one: Pending, error: KafkaError) -> None:
        """What was appended is not safe."""
        self.services.tell_of_disk(one.partition.topic, one.partition.index, error)
        one.answer.error_code = error.code
        one.answer.base_offset = -1
        _name_leader(one.partition.topic, one.answer, self._under_way)

    def listen(self, bell: Bell) -> None:
        """Ring this bell when the high watermark that is waited for has moved, or is closed."""
        self._bell = bell
        if self._high_watermark is not None:
            self._high_watermark.attach(bell)

    def leave(self) -> None:
        """Ring no more."""
        if self._high_watermark is not None and self._bell is not None:
            self._high_watermark.detach(self._bell)
        self._bell = None


def _check_unanswered(response: ProduceResponse) -> None:
    for topic in response.responses:
        for answer in topic.partition_responses:
            if answer.error_code:
                raise CloseConnection(f"acks=0 produce to {topic.name}-{answer.index} failed: {answer.error_code!r}")
