"""TxnOffsetCommit 0-5: offsets that are committed if the producer's transaction is (KIP-98).

From version 3 on a consumer says who it is in its group, and is fenced like one that commits by itself (KIP-447).
Before the first offsets of a transaction its coordinator is asked whether it has the group's partition of
`__consumer_offsets`. A client of version 5 goes by transaction.version 2: the question adds the partition (KIP-890).
Until version 1 a coordinator that loads is said not to be available: those clients cannot bear the truth (KAFKA-7296).
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.transactions import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from kbroker.api.context import Context
from kbroker.api.offset_changes import Taker
from kbroker.api.registry import handles
from kbroker.api.transaction_verification import Question, Refusals, ask, is_to_be_asked, rules_of_offset_commit
from kbroker.groups import transaction_requests
from kbroker.groups.group import Committer
from kbroker.groups.transaction_requests import Writer
from kbroker.replication.partition import Partition
from kbroker.turns import STRIDE, Work, answer, at_once, each, then

LOADING_SINCE = 2  # versions that know COORDINATOR_LOAD_IN_PROGRESS

Answer: TypeAlias = "TxnOffsetCommitResponse | Coroutine[Any, Any, TxnOffsetCommitResponse]"


@handles(ApiKey.TXN_OFFSET_COMMIT, 0, 5)
def txn_offset_commit(request: TxnOffsetCommitRequest, context: Context) -> Answer:
    """Store offsets with a transaction; every partition that can be stored is, the others are answered why not."""
    return answer(_commit(request, context))


def _commit(request: TxnOffsetCommitRequest, context: Context) -> Work[Answer]:
    taker = Taker(context.services)

    def take(topic: str, partition: TxnOffsetCommitRequestPartition) -> TxnOffsetCommitResponsePartition:
        code = taker.take(topic, partition)
        return TxnOffsetCommitResponsePartition(partition_index=partition.partition_index, error_code=code)

    response = TxnOffsetCommitResponse()
    for number, topic in enumerate(request.topics, 1):
        partitions = yield from each(partial(take, topic.name), topic.partitions)
        if partitions or topic.name not in taker.topics:  # as in OffsetCommit
            response.topics.append(TxnOffsetCommitResponseTopic(name=topic.name, partitions=partitions))
        if number % STRIDE == 0:
            yield
    if not taker.changes:
        return response
    if not request.group_id:
        return (yield from _told(response, ErrorCode.INVALID_GROUP_ID, context))
    committer = Committer(
        request.member_id, request.group_instance_id, request.generation_id, context.version, transactional=True
    )
    code = transaction_requests.commit(
        context.services.groups, request.group_id, committer, taker.changes, _writer(request, context)
    )
    return then(code, lambda code: answer(_told(response, code, context)))


def _told(response: TxnOffsetCommitResponse, code: ErrorCode, context: Context) -> Work[TxnOffsetCommitResponse]:
    """The response, with what became of the partitions that there was nothing against."""
    if code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS and context.version < LOADING_SINCE:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE

    def tell(partition: TxnOffsetCommitResponsePartition) -> None:
        partition.error_code = partition.error_code or code

    for topic in response.topics if code else ():
        yield from each(tell, topic.partitions)
        yield
    return response


def _writer(request: TxnOffsetCommitRequest, context: Context) -> Writer:
    """The producer, and how its coordinator is asked."""
    services, rules = context.services, rules_of_offset_commit(context.version)

    def verify(group_partition: Partition) -> ErrorCode | Coroutine[Any, Any, ErrorCode]:
        place = {group_partition.topic: [group_partition.index]}
        question = Question(request.transactional_id, request.producer_id, request.producer_epoch, place, rules)
        return then(at_once(ask(services, question)), _only)

    return Writer(request.producer_id, request.producer_epoch, verify if is_to_be_asked(services, rules) else None)


def _only(refusals: Refusals) -> ErrorCode:
    """What is said of the one partition that was asked for."""
    return next(iter(refusals.values()), ErrorCode.NONE)
