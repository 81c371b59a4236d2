"""A group's timeline as DescribeGroups and ConsumerGroupDescribe tell it to who asks (messages/rebalances.py)."""

from __future__ import annotations

from kafka_wire.messages.consumer_groups import DescribedConsumerGroup
from kafka_wire.messages.group_admin import DescribedGroup
from kafka_wire.messages.rebalances import GroupRebalance, RebalanceMember, RebalancePartition, UnownedSeconds
from kbroker.groups.timeline import Rebalance, Timeline, TopicPartition
from kbroker.turns import Work, each


def add_timeline(described: DescribedGroup | DescribedConsumerGroup, timeline: Timeline) -> Work[None]:
    """Complete a description with the group's rebalances, oldest first, and the unowned time of its partitions."""
    unowned = sorted(timeline.unowned_s().items())
    described.rebalances = rebalances = []
    for rebalance in list(timeline.rebalances):
        rebalances.append((yield from _rebalance(rebalance)))
    described.unowned_seconds = yield from each(_unowned_seconds, unowned)


def _rebalance(rebalance: Rebalance) -> Work[GroupRebalance]:
    told = GroupRebalance(
        began_ms=rebalance.began_ms,
        reason=rebalance.reason,
        generation=rebalance.generation,
        joined_ms=_known(rebalance.joined_after_ms),
        took_ms=_known(rebalance.ended_after_ms),
        given_up=list(rebalance.given_up),
        partitions_moved=rebalance.partitions_moved,
        partitions_unowned=rebalance.partitions_unowned,
        unowned_ms_max=rebalance.unowned_ms_max,
    )
    told.awaited = yield from each(_awaited, list(rebalance.waits_ms.items()))
    told.unowned = yield from each(_unowned, sorted(rebalance.unowned_ms.items()))
    return told


def _awaited(wait: tuple[str, int | None]) -> RebalanceMember:
    return RebalanceMember(member_id=wait[0], after_ms=_known(wait[1]))


def _unowned(gap: tuple[TopicPartition, int]) -> RebalancePartition:
    return RebalancePartition(topic=gap[0][0], partition=gap[0][1], ms=gap[1])


def _unowned_seconds(gap: tuple[TopicPartition, float]) -> UnownedSeconds:
    return UnownedSeconds(topic=gap[0][0], partition=gap[0][1], seconds=gap[1])


def _known(after_ms: int | None) -> int:
    return -1 if after_ms is None else after_ms
