"""What of a timeline goes onto the wire."""

from __future__ import annotations

import pytest

from kafka_wire.codegen import decode, encode
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeResponse, DescribedConsumerGroup
from kafka_wire.messages.group_admin import DescribedGroup, DescribeGroupsResponse
from kafka_wire.messages.rebalances import GroupRebalance, RebalanceMember, RebalancePartition, UnownedSeconds
from kbroker.groups.timeline import Timeline
from kbroker.groups.timeline_views import add_timeline
from kbroker.turns import at_once

MONTH_S = 30 * 86_400


def month_long() -> Timeline:
    """b takes a's partition t 0 over after a month, while a new rebalance is about to wait for it."""
    timeline = Timeline()
    timeline.taken("a", [("t", 0), ("t", 1)], 0.0)
    timeline.begin("b joined", ["a", "gone"], 1.0, 1000)
    timeline.arrived("a", 1.5)
    timeline.released("a", [("t", 0)], 1.5)
    timeline.joined(["gone"], 2.0)
    timeline.taken("b", [("t", 0)], 1.5 + MONTH_S)
    timeline.end(3, 1.0 + MONTH_S)
    timeline.begin("c joined", ["b"], 2.0 + MONTH_S, 9000)
    return timeline


@pytest.mark.parametrize(
    ("response", "group", "version"),
    [
        (DescribeGroupsResponse, DescribedGroup, 5),
        (DescribeGroupsResponse, DescribedGroup, 6),
        (ConsumerGroupDescribeResponse, DescribedConsumerGroup, 1),
    ],
)
def test_both_kinds_of_groups_tell_it(
    response: type[DescribeGroupsResponse] | type[ConsumerGroupDescribeResponse],
    group: type[DescribedGroup] | type[DescribedConsumerGroup],
    version: int,
) -> None:
    """Times longer than an int32 of milliseconds, too."""
    described = group(group_id="g")
    at_once(add_timeline(described, month_long()))
    (read,) = decode(response, version, encode(response(groups=[described]), version)).groups  # type: ignore[list-item]
    assert read == described
    assert read.rebalances == [
        GroupRebalance(
            began_ms=1000,
            reason="b joined",
            generation=3,
            joined_ms=1000,
            took_ms=MONTH_S * 1000,
            awaited=[RebalanceMember(member_id="a", after_ms=500), RebalanceMember(member_id="gone", after_ms=-1)],
            given_up=["gone"],
            partitions_moved=1,
            partitions_unowned=1,
            unowned_ms_max=MONTH_S * 1000,
            unowned=[RebalancePartition(topic="t", partition=0, ms=MONTH_S * 1000)],
        ),
        GroupRebalance(began_ms=9000, reason="c joined", awaited=[RebalanceMember(member_id="b", after_ms=-1)]),
    ]
    assert read.unowned_seconds == [
        UnownedSeconds(topic="t", partition=0, seconds=MONTH_S),
        UnownedSeconds(topic="t", partition=1, seconds=0.0),
    ]


def test_nothing_to_tell_is_not_the_same_as_not_telling() -> None:
    described = DescribedGroup(group_id="g")
    silent = encode(DescribeGroupsResponse(groups=[described]), 6)
    assert decode(DescribeGroupsResponse, 6, silent).groups[0].rebalances is None
    at_once(add_timeline(described, Timeline()))
    told = encode(DescribeGroupsResponse(groups=[described]), 6)
    assert decode(DescribeGroupsResponse, 6, told).groups[0].rebalances == []
    assert encode(DescribeGroupsResponse(groups=[described]), 4) == encode(
        DescribeGroupsResponse(groups=[DescribedGroup(group_id="g")]), 4
    ), "before tagged fields there is no way to tell"
