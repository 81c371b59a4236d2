"""What handlers ask of the coordinator.

Every answer waits until what it says is committed, a refusal too: it may be owed to an epoch that was just stored.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from types import CoroutineType
from typing import Any, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.effects import Effect, Reply
from kbroker.coordinators.shard import Refuse, Ticket, same, told
from kbroker.transactions.coordinator import TransactionCoordinator
from kbroker.transactions.shard import TransactionShard
from kbroker.transactions.storage import Partitions
from kbroker.transactions.transaction import EPOCH_BUMP_SINCE, Producer, Transaction

Answer: TypeAlias = "Any | Coroutine[Any, Any, Any]"
Code: TypeAlias = "ErrorCode | Coroutine[Any, Any, ErrorCode]"
Verified: TypeAlias = "Partitions | ErrorCode | Coroutine[Any, Any, Partitions | ErrorCode]"


def init_producer(
    coordinator: TransactionCoordinator,
    transactional_id: str,
    expected: Producer | None,
    timeout_ms: int,
    refuse: Refuse,
) -> Answer:
    """InitProducerId of a transactional id: an InitProducerIdResponse.

    expected: what the producer has, and wants to go on with (KIP-360).
    """
    timeout_ms_max = coordinator.config().get_int("transaction.max.timeout.ms")
    if not 0 < timeout_ms <= timeout_ms_max:
        return refuse(ErrorCode.INVALID_TRANSACTION_TIMEOUT)
    now_ms = coordinator.env.clock.data_ms

    def begin(fresh_id: int | None) -> Answer:
        def event(shard: TransactionShard, ticket: Ticket) -> Iterable[Effect]:
            transaction = shard.transactions.get(transactional_id) or Transaction(transactional_id)
            effects = transaction.init(
                ticket, expected, timeout_ms, shard.terms, refuse, fresh_id=fresh_id, now_ms=now_ms()
            )
            shard.keep(transaction)
            return effects

        return _submit(coordinator, transactional_id, event, refuse)

    return _with_id(coordinator, transactional_id, begin, refuse, is_new_welcome=True)


def end(
    coordinator: TransactionCoordinator,
    transactional_id: str,
    producer: Producer,
    commit: bool,
    client_version: int,
    refuse: Refuse,
) -> Answer:
    """EndTxn: an EndTxnResponse. client_version: 2 if the producer goes by transaction.version 2."""
    now_ms = coordinator.env.clock.data_ms

    def begin(fresh_id: int | None) -> Answer:
        def event(shard: TransactionShard, ticket: Ticket) -> Iterable[Effect]:
            return shard.transaction(transactional_id).end(
                ticket, producer, commit, client_version, shard.terms, fresh_id=fresh_id, now_ms=now_ms()
            )

        return _submit(coordinator, transactional_id, event, refuse)

    if client_version < EPOCH_BUMP_SINCE:
        return begin(None)
    return _with_id(coordinator, transactional_id, begin, refuse, is_new_welcome=False)


def add(
    coordinator: TransactionCoordinator,
    transactional_id: str,
    producer: Producer,
    added: Partitions,
    added_size: int,
    client_version: int,
) -> Code:
    """AddPartitionsToTxn, and AddOffsetsToTxn: one code for all of these partitions.

    added: not to be changed afterwards; added_size: what `storage.measured` says of them.
    """
    clock = coordinator.env.clock

    def event(shard: TransactionShard, ticket: Ticket) -> Iterable[Effect]:
        return shard.transaction(transactional_id).add(
            ticket,
            producer,
            added,
            added_size,
            client_version,
            shard.terms,
            now=clock.liveness(),
            now_ms=clock.data_ms(),
        )

    return _submit(coordinator, transactional_id, event, same)


def verify(coordinator: TransactionCoordinator, transactional_id: str, producer: Producer) -> Verified:
    """Which partitions a producer's transaction has (KIP-890), or why that is not to be said."""

    def event(shard: TransactionShard, ticket: Ticket) -> Iterable[Effect]:
        return shard.transaction(transactional_id).verify(ticket, producer)

    return _submit(coordinator, transactional_id, event, same)


def _with_id(
    coordinator: TransactionCoordinator,
    transactional_id: str,
    begin: Callable[[int | None], Answer],
    refuse: Refuse,
    *,
    is_new_welcome: bool,
) -> Answer:
    """Begin with a fresh producer id if the transaction may want one; else at once."""
    try:
        found = coordinator.runtime.leading.shard(transactional_id).transactions.get(transactional_id)
    except KafkaError as error:
        return refuse(error.code)
    if found.wants_id if found is not None else is_new_welcome:
        return _begin_with_id(coordinator, begin, refuse)
    return begin(None)


async def _begin_with_id(
    coordinator: TransactionCoordinator, begin: Callable[[int | None], Answer], refuse: Refuse
) -> Any:
    try:
        fresh_id = await coordinator.producer_ids.next()
    except KafkaError as error:
        return refuse(error.code)
    answer = begin(fresh_id)
    return await answer if isinstance(answer, CoroutineType) else answer


def _submit(
    coordinator: TransactionCoordinator,
    transactional_id: str,
    event: Callable[[TransactionShard, Ticket], Iterable[Effect]],
    refuse: Refuse,
) -> Answer:
    """Give a transaction an event. What it refuses it refuses as its record would, not before that is committed."""

    def answered(shard: TransactionShard, ticket: Ticket) -> Iterable[Effect]:
        try:
            return event(shard, ticket)
        except KafkaError as error:
            return [Reply(ticket, refuse(told(error)))]

    return coordinator.runtime.submit(transactional_id, answered, refuse, coordinator.wait_s)
