"""Before the first batch of a transaction is appended to a partition: its coordinator's word that it may be (KIP-890).

    partitions without an open transaction of the producer ─▶ one Question ─▶ the coordinator ─▶ codes of those refused

Without it a batch that comes late, after its transaction has ended, would begin one that nobody ever ends (T4). Old
clients have told the coordinator before (AddPartitionsToTxn), and it is asked whether that is so. Newer ones leave that
to the broker: the question adds the partitions. What may happen between answer and append the log's guard finds out.

(Kafka: AddPartitionsToTxnManager, ReplicaManager.handleProduceAppend.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from kbroker.api.context import Services
from kbroker.turns import Effort, Later, Work, finish

VERSION = 5  # of AddPartitionsToTxn

Refusals: TypeAlias = "dict[tuple[str, int], ErrorCode]"  # by topic and partition


class Rules(IntEnum):
    """What a client that writes to a transaction understands."""

    OLD = 0
    ABORTABLE = 1  # it knows TRANSACTION_ABORTABLE
    ADDING = 2  # it tells nobody of partitions before it writes to them


def rules_of_produce(version: int) -> Rules:
    """Those of a Produce version."""
    return Rules.ADDING if version > 11 else Rules.ABORTABLE if version > 10 else Rules.OLD


def rules_of_offset_commit(version: int) -> Rules:
    """Those of a TxnOffsetCommit version."""
    return Rules.ADDING if version > 4 else Rules.ABORTABLE if version > 3 else Rules.OLD


class Question(NamedTuple):
    """May a producer write to these partitions within its transaction?"""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    topics: Mapping[str, Collection[int]]  # partitions, each once
    rules: Rules


def is_to_be_asked(services: Services, rules: Rules) -> bool:
    """Whether there is a question at all: who runs the broker may have switched off what only verifies."""
    return rules is Rules.ADDING or services.config.get_bool("transaction.partition.verification.enable")


def ask(services: Services, question: Question) -> Work[Refusals | Later]:
    """Which of the partitions may not be written to, and why; or what to await for that."""
    answer = _asked(services, question)
    if isinstance(answer, CoroutineType):
        return Later(_ask_on(services, question, Later(answer)))
    refusals = yield from _read(question, answer)
    if _is_for_later(question, refusals):
        return Later(_ask_on(services, question, answer))
    return refusals


async def _ask_on(services: Services, question: Question, answer: Any) -> Refusals:
    """Wait for the answer. While the transaction before is ending, ask again, for a short time (Kafka: KAFKA-18575).

    A client of ADDING rules begins its next transaction at once, and would wait for longer before it tried again.
    """
    config = services.config
    patience_ms = min(
        config.get_int("add.partitions.to.txn.retry.backoff.max.ms"), config.get_int("request.timeout.ms")
    )
    give_up = trio.current_time() + patience_ms / 1000
    while True:
        if isinstance(answer, Later | CoroutineType):
            try:
                answer = await answer
            except KafkaError:
                answer = ErrorCode.NETWORK_EXCEPTION
        refusals = await finish(_read(question, answer))
        if not _is_for_later(question, refusals) or trio.current_time() >= give_up:
            return refusals
        await services.env.clock.sleep(config.get_int("add.partitions.to.txn.retry.backoff.ms") / 1000)
        answer = _asked(services, question)


def _asked(services: Services, question: Question) -> Any:
    """The coordinator's answer, a coroutine of it, or the code that stands for none."""
    transactional_id, producer_id, producer_epoch, topics, rules = question
    request = AddPartitionsToTxnRequest(
        transactions=[
            AddPartitionsToTxnTransaction(
                transactional_id=transactional_id,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                verify_only=rules is not Rules.ADDING,
                topics=[
                    AddPartitionsToTxnTopic(name=name, partitions=list(indexes)) for name, indexes in topics.items()
                ],
            )
        ]
    )
    try:
        coordinator = services.transactions.topic.leader_of(transactional_id)
    except KafkaError as error:
        return error.code
    try:
        return services.brokers.ask(coordinator, request, VERSION, services.config.get_int("request.timeout.ms") / 1000)
    except KafkaError:
        return ErrorCode.NETWORK_EXCEPTION


def _read(question: Question, answer: AddPartitionsToTxnResponse | ErrorCode) -> Work[Refusals]:
    """What an answer says of the partitions that were asked for. One that does not name them all says nothing."""
    refusals: Refusals = {}
    effort, count = Effort(), 0
    code = answer if isinstance(answer, ErrorCode) else ErrorCode(answer.error_code)
    for transaction in () if isinstance(answer, ErrorCode) else answer.results_by_transaction:
        for topic in transaction.topic_results:
            for row in topic.results_by_partition:
                if row.partition_error_code:
                    refusals[topic.name, row.partition_index] = _told(row.partition_error_code, question.rules)
                count += 1
                if effort.spent():
                    yield
    if code is ErrorCode.NONE and count == sum(map(len, question.topics.values())):
        return refusals
    if code is ErrorCode.NONE:
        code = ErrorCode.NETWORK_EXCEPTION
    elif code is ErrorCode.CLUSTER_AUTHORIZATION_FAILED:  # of this broker, not of the client
        code = ErrorCode.INVALID_TXN_STATE
    for name, indexes in question.topics.items():
        refusals.update(dict.fromkeys([(name, index) for index in indexes], code))
        yield
    return refusals


def _told(code: int, rules: Rules) -> ErrorCode:
    """What a producer is told in place of what its coordinator says."""
    if code == ErrorCode.PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    if code == ErrorCode.TRANSACTION_ABORTABLE and rules is Rules.OLD:
        return ErrorCode.INVALID_TXN_STATE
    return ErrorCode(code)


def _is_for_later(question: Question, refusals: Refusals) -> bool:
    return question.rules is Rules.ADDING and ErrorCode.CONCURRENT_TRANSACTIONS in refusals.values()
