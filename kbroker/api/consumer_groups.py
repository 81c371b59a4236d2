"""ConsumerGroupHeartbeat 0-1, ConsumerGroupDescribe 0-1: groups whose assignment the broker computes (KIP-848).

What a heartbeat means is decided by `groups/consumer/group.py`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    DescribedConsumerGroup,
)
from kbroker.api.context import Context
from kbroker.api.group_admin import GROUP_OPERATIONS
from kbroker.api.groups import asker
from kbroker.api.registry import handles
from kbroker.config.keys import split_list
from kbroker.groups import membership
from kbroker.groups.timeline_views import add_timeline

HeartbeatAnswer: TypeAlias = "ConsumerGroupHeartbeatResponse | Coroutine[Any, Any, ConsumerGroupHeartbeatResponse]"


@handles(ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, 1)
def consumer_group_heartbeat(request: ConsumerGroupHeartbeatRequest, context: Context) -> HeartbeatAnswer:
    """A member joins, goes on, or leaves; and learns what it may use."""

    def refuse(code: ErrorCode) -> ConsumerGroupHeartbeatResponse:
        return ConsumerGroupHeartbeatResponse(error_code=code, error_message=code.text)

    if "consumer" not in split_list(context.services.config.get_str("group.coordinator.rebalance.protocols")):
        return refuse(ErrorCode.UNSUPPORTED_VERSION)
    if not request.group_id:
        return refuse(ErrorCode.INVALID_REQUEST)  # as Kafka: throwIfEmptyString
    answer: HeartbeatAnswer = membership.consumer_heartbeat(context.services.groups, request, asker(context), refuse)
    return answer


@handles(ApiKey.CONSUMER_GROUP_DESCRIBE, 0, 1)
def consumer_group_describe(request: ConsumerGroupDescribeRequest, context: Context) -> ConsumerGroupDescribeResponse:
    """Consumer groups, their members, what those have and what they should have; if asked for, the last rebalances."""
    timelines = set(request.group_ids) if request.include_rebalances else set[str]()
    groups = [_described(group_id, context, timelines) for group_id in request.group_ids]
    if request.include_authorized_operations:
        for group in groups:
            if not group.error_code:
                group.authorized_operations = GROUP_OPERATIONS
    return ConsumerGroupDescribeResponse(groups=groups)


def _described(group_id: str, context: Context, timelines: set[str]) -> DescribedConsumerGroup:
    """timelines: as in group_admin.py, of which groups to tell the timeline, each once."""
    if not group_id:
        return DescribedConsumerGroup(group_id=group_id, error_code=ErrorCode.INVALID_GROUP_ID)
    try:
        group = context.services.groups.shard(group_id).groups.get(group_id)
    except KafkaError as error:
        return DescribedConsumerGroup(group_id=group_id, error_code=error.code, error_message=error.message)
    if group is None:
        text = f"Group {group_id} not found."
        return DescribedConsumerGroup(group_id=group_id, error_code=ErrorCode.GROUP_ID_NOT_FOUND, error_message=text)
    described = group.describe_consumer()
    if group_id in timelines and not described.error_code:
        timelines.remove(group_id)
        add_timeline(described, group.timeline)
    return described
