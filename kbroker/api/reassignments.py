"""AlterPartitionReassignments 0-1, ListPartitionReassignments 0: other replicas for partitions (KIP-455, KIP-860).

A reassignment adds the replicas that are new, waits until they are in sync, then drops those that are not wanted any
more. Null for the replicas cancels one that is under way. Version 0 allows any number of replicas; from version 1 on a
request may forbid that their number changes.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import KafkaError
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
    ReassignablePartitionResponse,
    ReassignableTopic,
    ReassignableTopicResponse,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.api.topics import timeout_s
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.turns import Effort, Work, answer, finish

Wish = tuple[str, int, tuple[int, ...] | None]  # topic, partition, the replicas it is to have; None: cancel


@handles(ApiKey.ALTER_PARTITION_REASSIGNMENTS, 0, 1)
async def alter_partition_reassignments(
    request: AlterPartitionReassignmentsRequest, context: Context
) -> AlterPartitionReassignmentsResponse:
    """Begin or cancel reassignments; each partition gets its own answer, as soon as that much is agreed on."""
    services, may_change = context.services, request.allow_replication_factor_change
    if not request.topics:
        return AlterPartitionReassignmentsResponse(error_message="")  # as QuorumController answers at once
    wishes = await finish(_wishes(request.topics))
    change = services.admin.alter_reassignments(wishes, allow_replication_factor_change=may_change)
    outcomes = await services.carry_out(change, len(wishes), timeout_s(request.timeout_ms))
    return AlterPartitionReassignmentsResponse(
        allow_replication_factor_change=may_change, responses=await finish(_answered(request.topics, outcomes))
    )


def _wishes(topics: Iterable[ReassignableTopic]) -> Work[list[Wish]]:
    wishes, effort = list[Wish](), Effort()
    for topic in topics:
        for wanted in topic.partitions:
            replicas = None if wanted.replicas is None else tuple(wanted.replicas)
            wishes.append((topic.name, wanted.partition_index, replicas))
            if effort.spent(4):
                yield
    return wishes


def _answered(
    topics: Iterable[ReassignableTopic], outcomes: Sequence[None | KafkaError]
) -> Work[list[ReassignableTopicResponse]]:
    results, effort, rest = list[ReassignableTopicResponse](), Effort(), iter(outcomes)
    for topic in topics:
        rows = []
        for wanted in topic.partitions:
            rows.append(_row(wanted.partition_index, next(rest)))
            if effort.spent(5):
                yield
        results.append(ReassignableTopicResponse(name=topic.name, partitions=rows))
        if effort.spent(5):
            yield
    return results


def _row(index: int, error: KafkaError | None) -> ReassignablePartitionResponse:
    if error is None:
        return ReassignablePartitionResponse(partition_index=index)
    return ReassignablePartitionResponse(partition_index=index, error_code=error.code, error_message=error.own_message)


# -- those under way --------------------------------------------------------------------------------------------------


@handles(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, 0)
def list_partition_reassignments(
    request: ListPartitionReassignmentsRequest, context: Context
) -> ListPartitionReassignmentsResponse | Coroutine[Any, Any, ListPartitionReassignmentsResponse]:
    """Reassignments under way, all or of these partitions; what is not there, or not moving, is left out."""
    return answer(_listed(request, context.services.image))


def _listed(
    request: ListPartitionReassignmentsRequest, image: ClusterImage
) -> Work[ListPartitionReassignmentsResponse]:
    topics, effort = list[OngoingTopicReassignment](), Effort()
    for topic, indexes in _asked(request, image):
        moving = []
        for index in indexes:
            if 0 <= index < len(topic.own_partitions):
                partition = topic.own_partitions[index]
                if partition.adding or partition.removing:
                    moving.append(_ongoing(partition))
            if effort.spent(2):
                yield
        if moving:
            topics.append(OngoingTopicReassignment(name=topic.name, partitions=moving))
        if effort.spent(5):
            yield
    return ListPartitionReassignmentsResponse(topics=topics)


def _asked(
    request: ListPartitionReassignmentsRequest, image: ClusterImage
) -> Iterable[tuple[TopicImage, Iterable[int]]]:
    if request.topics is None:
        for topic in list(image.topics.values()):
            yield topic, range(len(topic.own_partitions))
        return
    for asked in request.topics:
        found = image.topics.get(asked.name)
        if found is not None:
            yield found, asked.partition_indexes


def _ongoing(partition: PartitionImage) -> OngoingPartitionReassignment:
    return OngoingPartitionReassignment(
        partition_index=partition.index,
        replicas=list(partition.replicas),
        adding_replicas=list(partition.adding),
        removing_replicas=list(partition.removing),
    )
