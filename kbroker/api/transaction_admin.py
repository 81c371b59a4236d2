"""DescribeTransactions 0, ListTransactions 0-2: the transactions coordinated here (KIP-664, KIP-994, KIP-1152).

ListTransactions filters by state, producer id, the time that has passed since the transaction began, and (version 2) a
regular expression of RE2 that the whole transactional id matches.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from operator import attrgetter
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    ListedTransaction,
    ListTransactionsRequest,
    ListTransactionsResponse,
    TransactionState,
    TransactionTopic,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.coordinators.routing import pauses_for
from kbroker.transactions.states import BY_NAME, NAMES
from kbroker.transactions.transaction import Transaction
from kbroker.turns import Effort, Work, answer

DescribeAnswer: TypeAlias = "DescribeTransactionsResponse | Coroutine[Any, Any, DescribeTransactionsResponse]"
ListAnswer: TypeAlias = "ListTransactionsResponse | Coroutine[Any, Any, ListTransactionsResponse]"


@handles(ApiKey.DESCRIBE_TRANSACTIONS, 0, 0)
def describe_transactions(request: DescribeTransactionsRequest, context: Context) -> DescribeAnswer:
    """The state of each of these, and its partitions."""
    return answer(_described(request, context))


def _described(request: DescribeTransactionsRequest, context: Context) -> Work[DescribeTransactionsResponse]:
    """Each id once, however often it is named: its partitions may be many."""
    states = []
    for transactional_id in dict.fromkeys(request.transactional_ids):
        states.append((yield from _one(transactional_id, context)))
        yield from pauses_for(transactional_id)
    return DescribeTransactionsResponse(transaction_states=states)


def _one(transactional_id: str, context: Context) -> Work[TransactionState]:
    def refused(code: ErrorCode) -> TransactionState:
        return TransactionState(transactional_id=transactional_id, error_code=code)

    if not transactional_id:
        return refused(ErrorCode.INVALID_REQUEST)
    try:
        shard = context.services.transactions.runtime.leading.shard(transactional_id)
    except KafkaError as error:
        return refused(error.code)
    transaction = shard.transactions.get(transactional_id)
    if transaction is None:
        return refused(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND)
    entry, topics, effort = transaction.entry, list[TransactionTopic](), Effort()
    for topic, indexes in entry.partitions.items():
        topics.append(TransactionTopic(topic=topic, partitions=sorted(indexes)))
        if effort.spent(4 + len(indexes) // 8):
            yield
    return TransactionState(
        transactional_id=transactional_id,
        transaction_state=NAMES[entry.state],
        transaction_timeout_ms=entry.timeout_ms,
        transaction_start_time_ms=entry.start_ms,
        producer_id=entry.producer_id,
        producer_epoch=entry.producer_epoch,
        topics=topics,
    )


@handles(ApiKey.LIST_TRANSACTIONS, 0, 2)
def list_transactions(request: ListTransactionsRequest, context: Context) -> ListAnswer:
    """The transactions coordinated here, filtered. Unknown states are told of."""
    return answer(_listed(request, context))


def _listed(request: ListTransactionsRequest, context: Context) -> Work[ListTransactionsResponse]:
    unknown = [name for name in dict.fromkeys(request.state_filters) if name not in BY_NAME]
    shards = list(context.services.transactions.runtime.leading.shards)
    if not all(shard.is_active for shard in shards):
        return ListTransactionsResponse(
            error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, unknown_state_filters=unknown
        )
    states, producer_ids = frozenset(request.state_filters), frozenset(request.producer_id_filters)
    now_ms, listed, effort = context.services.env.clock.data_ms(), list[ListedTransaction](), Effort()
    for shard in shards:
        for transaction in list(shard.transactions.values()):
            if _is_wanted(transaction, states, producer_ids, request.duration_filter, now_ms):
                listed.append(_row(transaction))
            if effort.spent(5):
                yield
    if request.transactional_id_pattern:
        from kbroker.regex import InvalidRegex, TooCostly  # here, and below: most brokers start faster without it

        try:
            listed = yield from _matching(listed, request.transactional_id_pattern)
        except (InvalidRegex, TooCostly):
            return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
    return ListTransactionsResponse(unknown_state_filters=unknown, transaction_states=listed)


def _matching(listed: list[ListedTransaction], pattern: str) -> Work[list[ListedTransaction]]:
    """Raises InvalidRegex, TooCostly."""
    from kbroker.regex import Regex

    ids = list(map(attrgetter("transactional_id"), listed))
    rows = dict(zip(ids, listed, strict=True))
    matching = yield from Regex(pattern).matching(ids)
    return list(map(rows.__getitem__, matching))


def _is_wanted(
    transaction: Transaction, states: Collection[str], producer_ids: Collection[int], duration_ms: int, now_ms: int
) -> bool:
    entry = transaction.entry
    if states and NAMES[entry.state] not in states:
        return False
    if producer_ids and entry.producer_id not in producer_ids:
        return False
    return duration_ms < 0 or now_ms - entry.start_ms > duration_ms


def _row(transaction: Transaction) -> ListedTransaction:
    entry = transaction.entry
    return ListedTransaction(
        transactional_id=transaction.transactional_id,
        producer_id=entry.producer_id,
        transaction_state=NAMES[entry.state],
    )
