"""ElectLeaders 0-2: have partitions led by their preferred replica, or by any that lives (KIP-183, KIP-460).

Version 0 knows preferred elections only. Without a list it is about every partition, and those that need no election
are left out of the answer (ReplicationControlManager.electLeaders).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.admin import (
    ElectLeadersPartitionResult,
    ElectLeadersRequest,
    ElectLeadersResponse,
    ElectLeadersTopic,
    ReplicaElectionResult,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.api.topics import timeout_s
from kbroker.cluster.image import ClusterImage
from kbroker.turns import Effort, Work, finish

PREFERRED, UNCLEAN = 0, 1


@handles(ApiKey.ELECT_LEADERS, 0, 2)
async def elect_leaders(request: ElectLeadersRequest, context: Context) -> ElectLeadersResponse:
    """Elect, and answer when it is carried out. A timeout answers REQUEST_TIMED_OUT, and it may still happen."""
    services = context.services
    if request.election_type not in (PREFERRED, UNCLEAN):
        error = KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown election type {request.election_type}")
        rows = await finish(_answered(request.topic_partitions or (), repeat(error)))
        return ElectLeadersResponse(error_code=error.code, replica_election_results=rows)
    everywhere = request.topic_partitions is None
    topics = await finish(_all(services.image)) if request.topic_partitions is None else request.topic_partitions
    asked = await finish(_pairs(topics))
    election = services.admin.elect_leaders(asked, unclean=request.election_type == UNCLEAN)
    outcomes = await services.carry_out(election, len(asked), timeout_s(request.timeout_ms))
    rows = await finish(_answered(topics, outcomes, only_needed=everywhere))
    return ElectLeadersResponse(replica_election_results=rows)


def _all(image: ClusterImage) -> Work[list[ElectLeadersTopic]]:
    topics, effort = list[ElectLeadersTopic](), Effort()
    for topic in image.topics.values():
        topics.append(ElectLeadersTopic(topic=topic.name, partitions=list(range(len(topic.own_partitions)))))
        if effort.spent(5 + len(topic.own_partitions) // 8):
            yield
    return topics


def _pairs(topics: Iterable[ElectLeadersTopic]) -> Work[list[tuple[str, int]]]:
    pairs, effort = list[tuple[str, int]](), Effort()
    for topic in topics:
        for index in topic.partitions:
            pairs.append((topic.topic, index))
            if effort.spent():
                yield
    return pairs


def _answered(
    topics: Iterable[ElectLeadersTopic], outcomes: Iterable[None | KafkaError], *, only_needed: bool = False
) -> Work[list[ReplicaElectionResult]]:
    """outcomes: of each partition, in order. only_needed: without those whose leader is the desired one already."""
    results, effort, rest = list[ReplicaElectionResult](), Effort(), iter(outcomes)
    for topic in topics:
        rows = []
        for index in topic.partitions:
            error = next(rest)
            if not only_needed or error is None or error.code is not ErrorCode.ELECTION_NOT_NEEDED:
                rows.append(_row(index, error))
            if effort.spent(5):
                yield
        results.append(ReplicaElectionResult(topic=topic.topic, partition_result=rows))
        if effort.spent(5):
            yield
    return results


def _row(index: int, error: KafkaError | None) -> ElectLeadersPartitionResult:
    if error is None:
        return ElectLeadersPartitionResult(partition_id=index)
    return ElectLeadersPartitionResult(partition_id=index, error_code=error.code, error_message=error.message)
