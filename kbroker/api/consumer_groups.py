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
    DescribedConsumerGroupMember,
)
from kbroker.api.context import Context
from kbroker.api.group_admin import DESCRIBED_BYTES_MAX, GROUP_OPERATIONS, MEMBER_BYTES
from kbroker.api.groups import asker
from kbroker.api.registry import handles
from kbroker.config.keys import split_list
from kbroker.coordinators.routing import pauses_for
from kbroker.groups import membership
from kbroker.groups.timeline_views import add_timeline
from kbroker.turns import Work, answer, each

DescribeAnswer: TypeAlias = "ConsumerGroupDescribeResponse | Coroutine[Any, Any, ConsumerGroupDescribeResponse]"
HeartbeatAnswer: TypeAlias = "ConsumerGroupHeartbeatResponse | Coroutine[Any, Any, ConsumerGroupHeartbeatResponse]"


@handles(ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, 1)
def consumer_group_heartbeat(request: ConsumerGroupHeartbeatRequest, context: Context) -> HeartbeatAnswer:
    """A member joins, goes on, or leaves; and learns what it may use."""

    def refuse(code: ErrorCode, text: str | None = None) -> ConsumerGroupHeartbeatResponse:
        return ConsumerGroupHeartbeatResponse(error_code=code, error_message=text or code.text)

    if not _is_enabled(context):
        return refuse(ErrorCode.UNSUPPORTED_VERSION)
    if not request.group_id:  # no partition holds it
        from kbroker.groups.consumer.checks import check_heartbeat  # here: most brokers start faster without it

        try:
            check_heartbeat(request, context.version, ())
        except KafkaError as error:
            return refuse(error.code, error.message)
    beat: HeartbeatAnswer = membership.consumer_heartbeat(context.services.groups, request, asker(context), refuse)
    return beat


@handles(ApiKey.CONSUMER_GROUP_DESCRIBE, 0, 1)
def consumer_group_describe(request: ConsumerGroupDescribeRequest, context: Context) -> DescribeAnswer:
    """Consumer groups, their members, what those have and what they should have; if asked for, the last rebalances."""
    if not _is_enabled(context):
        return answer(_refused(request))
    return answer(_all_described(request, context))


def _is_enabled(context: Context) -> bool:
    """Whether there are consumer groups here: the broker may be told not to have them, and so may the cluster."""
    services = context.services
    enabled = split_list(services.config.get_str("group.coordinator.rebalance.protocols"))
    return "consumer" in enabled and services.image.features.group_version >= 1


def _refused(request: ConsumerGroupDescribeRequest) -> Work[ConsumerGroupDescribeResponse]:
    code = ErrorCode.UNSUPPORTED_VERSION

    def refuse(group_id: str) -> DescribedConsumerGroup:
        return DescribedConsumerGroup(group_id=group_id, error_code=code)

    return ConsumerGroupDescribeResponse(groups=(yield from each(refuse, request.group_ids)))


def _all_described(request: ConsumerGroupDescribeRequest, context: Context) -> Work[ConsumerGroupDescribeResponse]:
    """The answer has a bound: a few bytes name a large group, and may do so ten thousand times."""
    timelines = set(request.group_ids) if request.include_rebalances else set[str]()
    groups, size = [], 0
    for group_id in request.group_ids:
        if size > DESCRIBED_BYTES_MAX:
            text = "The answer is too large: ask for groups one by one."
            described = DescribedConsumerGroup(
                group_id=group_id, error_code=ErrorCode.INVALID_REQUEST, error_message=text
            )
        else:
            described = yield from _described(group_id, context, timelines)
            size += yield from _size(described)
        if request.include_authorized_operations and not described.error_code:
            described.authorized_operations = GROUP_OPERATIONS
        groups.append(described)
        yield from pauses_for(group_id)
    return ConsumerGroupDescribeResponse(groups=groups)


def _size(described: DescribedConsumerGroup) -> Work[int]:
    """In bytes, roughly."""

    def of_member(member: DescribedConsumerGroupMember) -> int:
        topics = (*member.assignment.topic_partitions, *member.target_assignment.topic_partitions)
        return (
            MEMBER_BYTES
            + sum(map(len, member.subscribed_topic_names))
            + sum(16 + len(each.topic_name) + 4 * len(each.partitions) for each in topics)
        )

    return sum((yield from each(of_member, described.members)))


def _described(group_id: str, context: Context, timelines: set[str]) -> Work[DescribedConsumerGroup]:
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
    described = yield from group.describe_consumer()
    if group_id in timelines and not described.error_code:
        timelines.remove(group_id)
        yield from add_timeline(described, group.timeline)
    return described
