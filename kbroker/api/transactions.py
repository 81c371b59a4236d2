"""InitProducerId 0-5, AddPartitionsToTxn 0-5, AddOffsetsToTxn 0-4, EndTxn 0-5: what producers, idempotent or
transactional, ask for (KIP-98, KIP-360, KIP-890).

Producer ids come in blocks from the coordination store, so that no two producers of the cluster ever get the same (P4).
A producer without a transactional id always gets a fresh one, whatever it says it had, as in Kafka. All the rest is
decided by `transactions/transaction.py`, found and asked by `transactions/requests.py`.

AddPartitionsToTxn 4 and 5 come from brokers, for a producer whose batch they hold in their hands: of many transactions
at once, either to add (transaction.version 2) or to verify. EndTxn 5 is of producers that go by transaction.version 2.
Where transaction.version is 0 there is no place in a record for what these need, and they are refused.
Old versions know no PRODUCER_FENCED, and are told INVALID_PRODUCER_EPOCH.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from operator import attrgetter
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
    EndTxnRequest,
    EndTxnResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
)
from kbroker.api.context import NO_BROKER, Context
from kbroker.api.registry import handles
from kbroker.cluster.changes.views import refusal
from kbroker.cluster.image import TopicImage
from kbroker.coordinators.routing import partition_of, pauses_for
from kbroker.transactions import requests
from kbroker.transactions.storage import Partitions, measured
from kbroker.transactions.transaction import EPOCH_BUMP_SINCE, Producer
from kbroker.turns import Effort, Later, Work, answer, each, finish, then

INIT_FENCED_SINCE = 4  # versions that know PRODUCER_FENCED
FENCED_SINCE = 2
BATCHED_SINCE = 4  # AddPartitionsToTxn: many transactions
BUMPED_SINCE = 5  # EndTxn: the producer goes by transaction.version 2
PAUSE_S_MIN = 0.001  # before it is looked again whether a transaction has ended
SLICE = 1024  # partitions that are looked at between two pauses

InitAnswer: TypeAlias = "InitProducerIdResponse | Coroutine[Any, Any, InitProducerIdResponse]"
AddAnswer: TypeAlias = "AddPartitionsToTxnResponse | Coroutine[Any, Any, AddPartitionsToTxnResponse]"
OffsetsAnswer: TypeAlias = "AddOffsetsToTxnResponse | Coroutine[Any, Any, AddOffsetsToTxnResponse]"
EndAnswer: TypeAlias = "EndTxnResponse | Coroutine[Any, Any, EndTxnResponse]"


# -- InitProducerId ---------------------------------------------------------------------------------------------------


@handles(ApiKey.INIT_PRODUCER_ID, 0, 5)
def init_producer_id(request: InitProducerIdRequest, context: Context) -> InitAnswer:
    """A producer id and an epoch; with a transactional id, those that fence whoever had it before."""

    def refuse(code: ErrorCode) -> InitProducerIdResponse:
        if context.version < INIT_FENCED_SINCE:
            code = _for_old_clients(code)
        return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)

    producer, transactional_id = Producer(request.producer_id, request.producer_epoch), request.transactional_id
    if (producer.id == -1) != (producer.epoch == -1):
        return refuse(ErrorCode.INVALID_REQUEST)
    if transactional_id is None:
        return _fresh(context, refuse)
    if transactional_id == "":
        return refuse(ErrorCode.INVALID_REQUEST)
    expected, timeout_ms = None if producer.id == -1 else producer, request.transaction_timeout_ms
    begun: InitAnswer = requests.init_producer(
        context.services.transactions, transactional_id, expected, timeout_ms, refuse
    )
    return begun


async def _fresh(context: Context, refuse: Callable[[ErrorCode], InitProducerIdResponse]) -> InitProducerIdResponse:
    try:
        producer_id = await context.services.producer_ids.next()
    except KafkaError as error:
        return refuse(error.code)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


def _for_old_clients(code: ErrorCode) -> ErrorCode:
    return ErrorCode.INVALID_PRODUCER_EPOCH if code == ErrorCode.PRODUCER_FENCED else code


# -- AddPartitionsToTxn -----------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """What became of one transaction of a request. found: its partitions, where that was asked for, else a code."""

    transaction: AddPartitionsToTxnTransaction
    found: Any  # Partitions | ErrorCode | Later of these


@handles(ApiKey.ADD_PARTITIONS_TO_TXN, 0, 5)
def add_partitions_to_txn(request: AddPartitionsToTxnRequest, context: Context) -> AddAnswer:
    """Transactions will write to these partitions, or (verify_only) do they?"""
    return answer(_added(request, context))


def _added(request: AddPartitionsToTxnRequest, context: Context) -> Work[AddAnswer]:
    transactions = request.transactions
    if context.version < BATCHED_SINCE:
        transactions = [
            AddPartitionsToTxnTransaction(
                transactional_id=request.v3_and_below_transactional_id,
                producer_id=request.v3_and_below_producer_id,
                producer_epoch=request.v3_and_below_producer_epoch,
                topics=request.v3_and_below_topics,
            )
        ]
    elif not context.services.transactions.is_bumping_known:
        are_verified = yield from each(lambda transaction: transaction.verify_only, transactions)
        if not all(are_verified):
            return AddPartitionsToTxnResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    # Of an id that is named twice the last counts, as in Kafka; it is told once, as it may have very many partitions.
    last = dict(zip(map(attrgetter("transactional_id"), transactions), transactions, strict=True))
    asked, is_to_come = [], False
    for transaction in last.values():
        one = yield from _asked(transaction, context)
        if isinstance(one.found, CoroutineType):
            one, is_to_come = one._replace(found=Later(one.found)), True
        asked.append(one)
        yield from pauses_for(transaction.transactional_id)
    if is_to_come:
        return _wait_and_respond(asked, context)
    return (yield from _response(asked, context))


def _asked(transaction: AddPartitionsToTxnTransaction, context: Context) -> Work[_Asked]:
    images = context.services.image.topics
    wanted, is_whole = yield from _gathered(transaction.topics, images)
    if not is_whole:  # one that is unknown, and none is added
        return _Asked(transaction, ErrorCode.OPERATION_NOT_ATTEMPTED)
    transactional_id, coordinator = transaction.transactional_id, context.services.transactions
    producer = Producer(transaction.producer_id, transaction.producer_epoch)
    if not transactional_id:
        return _Asked(transaction, ErrorCode.INVALID_REQUEST)
    if transaction.verify_only:
        return _Asked(transaction, requests.verify(coordinator, transactional_id, producer))
    size = yield from measured(wanted)
    client_version = EPOCH_BUMP_SINCE if context.version >= BATCHED_SINCE else 0
    add = partial(requests.add, coordinator, transactional_id, producer, wanted, size, client_version)
    return _Asked(transaction, _patiently(add, context))


def _patiently(add: Callable[[], Any], context: Context) -> Any:
    """What add() comes to; again and again, for a short time, while the transaction before is ending.

    With other brokers that takes a few milliseconds, and who is told of it comes again after 20 (Java), 100 or more.
    """
    found = add()
    return _again(add, context) if found is ErrorCode.CONCURRENT_TRANSACTIONS else found


async def _again(add: Callable[[], Any], context: Context) -> Any:
    """A client waits for its own answer, a broker for those of other clients, too: it will ask again anyway."""
    config = context.services.config
    if context.peer.broker_id == NO_BROKER:
        patience_ms = config.get_int("add.partitions.to.txn.retry.backoff.max.ms")
    else:
        patience_ms = config.get_int("add.partitions.to.txn.retry.backoff.ms") // 2
    give_up = trio.current_time() + patience_ms / 1000
    pause_s = PAUSE_S_MIN
    while True:
        await context.services.env.clock.sleep(pause_s)
        found = add()
        if isinstance(found, CoroutineType):
            found = await found
        if found is not ErrorCode.CONCURRENT_TRANSACTIONS or trio.current_time() >= give_up:
            return found
        pause_s *= 2


def _gathered(
    topics: Iterable[AddPartitionsToTxnTopic], images: Mapping[str, TopicImage]
) -> Work[tuple[Partitions, bool]]:
    """The partitions, each once; and whether all of them exist."""
    partitions, is_whole, effort = Partitions(), True, Effort()
    for topic in topics:
        count = _count(images.get(topic.name))
        for start in range(0, len(topic.partitions), SLICE):
            some = topic.partitions[start : start + SLICE]
            partitions.setdefault(topic.name, set()).update(some)
            is_whole = is_whole and min(some) >= 0 and max(some) < count
            if effort.spent(5 + len(some) // 16):
                yield
    return partitions, is_whole


def _count(image: TopicImage | None) -> int:
    return 0 if image is None else len(image.own_partitions)


async def _wait_and_respond(asked: list[_Asked], context: Context) -> AddPartitionsToTxnResponse:
    """All of them are waited for no longer than one alone would be."""
    with trio.move_on_after(context.services.transactions.wait_s):
        for n, one in enumerate(asked):
            if isinstance(one.found, Later):
                asked[n] = one._replace(found=await one.found)
    for n, one in enumerate(asked):
        if isinstance(one.found, Later):
            asked[n] = one._replace(found=ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return await finish(_response(asked, context))


def _response(asked: list[_Asked], context: Context) -> Work[AddPartitionsToTxnResponse]:
    results = []
    for one in asked:
        topics = yield from _rows(one, context)
        results.append(
            AddPartitionsToTxnResult(transactional_id=one.transaction.transactional_id, topic_results=topics)
        )
        yield
    if context.version < BATCHED_SINCE:
        return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=results[0].topic_results)
    return AddPartitionsToTxnResponse(results_by_transaction=results)


def _rows(asked: _Asked, context: Context) -> Work[list[AddPartitionsToTxnTopicResult]]:
    """A code for each partition that was named, as often as it was."""
    rows, effort = [], Effort()
    for topic in asked.transaction.topics:
        code_of = _code_of(asked, topic.name, context)
        results = []
        for index in topic.partitions:
            results.append(
                AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=code_of(index))
            )
            if effort.spent(2):
                yield
        rows.append(AddPartitionsToTxnTopicResult(name=topic.name, results_by_partition=results))
        if effort.spent(5):
            yield
    return rows


def _code_of(asked: _Asked, topic: str, context: Context) -> Callable[[int], ErrorCode]:
    found = asked.found
    if isinstance(found, dict):
        return partial(_verified, found.get(topic, ()))
    if found is ErrorCode.OPERATION_NOT_ATTEMPTED:
        image = context.services.image.topics.get(topic)
        why = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if image is None or image.view is None else refusal(image).code
        return partial(_not_attempted, _count(image), why)
    code = _for_old_clients(found) if context.version < FENCED_SINCE else found
    return lambda index: code


def _verified(present: set[int] | tuple[()], index: int) -> ErrorCode:
    return ErrorCode.NONE if index in present else ErrorCode.TRANSACTION_ABORTABLE


def _not_attempted(count: int, why: ErrorCode, index: int) -> ErrorCode:
    return ErrorCode.OPERATION_NOT_ATTEMPTED if 0 <= index < count else why


# -- AddOffsetsToTxn --------------------------------------------------------------------------------------------------


@handles(ApiKey.ADD_OFFSETS_TO_TXN, 0, 4)
def add_offsets_to_txn(request: AddOffsetsToTxnRequest, context: Context) -> OffsetsAnswer:
    """A transaction will commit offsets of a group: the partition that the group is kept in becomes one of it."""
    if context.services.groups.topic.image is None:
        return _make_topic_and_add_offsets(request, context)
    return _add_offsets(request, context)


async def _make_topic_and_add_offsets(request: AddOffsetsToTxnRequest, context: Context) -> AddOffsetsToTxnResponse:
    try:
        await context.services.groups.topic.ensure()
        await context.services.wait_applied()
    except KafkaError:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)
    added = _add_offsets(request, context)
    return await added if isinstance(added, CoroutineType) else added  # type: ignore[return-value]


def _add_offsets(request: AddOffsetsToTxnRequest, context: Context) -> OffsetsAnswer:
    topic = context.services.groups.topic.image
    if topic is None:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)
    if not request.transactional_id:
        return AddOffsetsToTxnResponse(error_code=ErrorCode.INVALID_REQUEST)
    added = {topic.name: {partition_of(request.group_id, len(topic.partitions))}}
    add = partial(
        requests.add,
        context.services.transactions,
        request.transactional_id,
        Producer(request.producer_id, request.producer_epoch),
        added,
        len(topic.name),
        0,
    )

    def respond(code: ErrorCode) -> AddOffsetsToTxnResponse:
        return AddOffsetsToTxnResponse(error_code=_for_old_clients(code) if context.version < FENCED_SINCE else code)

    return then(_patiently(add, context), respond)


# -- EndTxn -----------------------------------------------------------------------------------------------------------


@handles(ApiKey.END_TXN, 0, 5)
def end_txn(request: EndTxnRequest, context: Context) -> EndAnswer:
    """Commit or abort. Answered when it is decided, and will happen whatever comes."""

    def refuse(code: ErrorCode) -> EndTxnResponse:
        return EndTxnResponse(error_code=_for_old_clients(code) if context.version < FENCED_SINCE else code)

    if context.version >= BUMPED_SINCE and not context.services.transactions.is_bumping_known:
        return refuse(ErrorCode.UNSUPPORTED_VERSION)
    if not request.transactional_id:
        return refuse(ErrorCode.INVALID_REQUEST)
    ended: EndAnswer = requests.end(
        context.services.transactions,
        request.transactional_id,
        Producer(request.producer_id, request.producer_epoch),
        request.committed,
        EPOCH_BUMP_SINCE if context.version >= BUMPED_SINCE else 0,
        refuse,
    )
    return ended
