"""ListPartitionReassignments 0: which partitions are on their way to other replicas (KIP-455)."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.messages.admin import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.turns import Effort, Work, answer


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
            if 0 <= index < len(topic.partitions):
                partition = topic.partitions[index]
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
            yield topic, range(len(topic.partitions))
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
