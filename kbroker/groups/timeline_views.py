"""A group's timeline as DescribeGroups and ConsumerGroupDescribe tell it to who asks (messages/rebalances.py)."""

from __future__ import annotations

from kafka_wire.messages.consumer_groups import DescribedConsumerGroup
from kafka_wire.messages.group_admin import DescribedGroup
from kafka_wire.messages.rebalances import GroupRebalance, RebalanceMember, RebalancePartition, UnownedSeconds
from kbroker.groups.timeline import Rebalance, Timeline


def add_timeline(described: DescribedGroup | DescribedConsumerGroup, timeline: Timeline) -> None:
    """Complete a description with the group's rebalances, oldest first, and the unowned time of its partitions."""
    described.rebalances = [_rebalance(each) for each in timeline.rebalances]
    described.unowned_seconds = [
        UnownedSeconds(topic=topic, partition=partition, seconds=seconds)
        for (topic, partition), seconds in sorted(timeline.unowned_s().items())
    ]


def _rebalance(each: Rebalance) -> GroupRebalance:
    return GroupRebalance(
        began_ms=each.began_ms,
        reason=each.reason,
        generation=each.generation,
        joined_ms=_known(each.joined_after_ms),
        took_ms=_known(each.ended_after_ms),
        awaited=[RebalanceMember(member_id=name, after_ms=_known(after)) for name, after in each.waits_ms.items()],
        given_up=each.given_up,
        partitions_moved=each.partitions_moved,
        partitions_unowned=each.partitions_unowned,
        unowned_ms_max=each.unowned_ms_max,
        unowned=[
            RebalancePartition(topic=topic, partition=partition, ms=ms)
            for (topic, partition), ms in sorted(each.unowned_ms.items())
        ],
    )


def _known(after_ms: int | None) -> int:
    return -1 if after_ms is None else after_ms
