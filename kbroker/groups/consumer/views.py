"""A consumer group as others see it: ConsumerGroupDescribe, DescribeGroups, ListGroups."""

from __future__ import annotations

from functools import partial

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupDescribeAssignment,
    ConsumerGroupDescribeTopicPartitions,
    DescribedConsumerGroup,
    DescribedConsumerGroupMember,
)
from kafka_wire.messages.group_admin import DescribedGroup, ListedGroup
from kbroker.groups.consumer.core import Core
from kbroker.groups.consumer.member import ConsumerMember, Target
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE
from kbroker.turns import Work, each

MEMBER_CLASSIC, MEMBER_CONSUMER = 0, 1  # member_type (KIP-1099)
MEMBERS_STRIDE = 4  # described between two pauses


def state_of(core: Core) -> str:
    """Kafka's name of the group's state (ConsumerGroup.ConsumerGroupState)."""
    if not core.members:
        return "Empty"
    if core.epoch > core.target_epoch:
        return "Assigning"
    return "Reconciling" if core.unreconciled else "Stable"


def describe(core: Core) -> Work[DescribedConsumerGroup]:
    """The group with its members, what they have and what they should have."""
    described = DescribedConsumerGroup(
        group_id=core.group_id,
        group_state=state_of(core),
        group_epoch=core.epoch,
        assignment_epoch=core.target_epoch,
        assignor_name=core.assignor,
    )
    described.members = yield from each(partial(_member, core), list(core.members.values()), MEMBERS_STRIDE)
    return described


def _member(core: Core, member: ConsumerMember) -> DescribedConsumerGroupMember:
    return DescribedConsumerGroupMember(
        member_id=member.member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=member.epoch,
        client_id=member.client.id,
        client_host=member.client.host,
        subscribed_topic_names=sorted(member.topics),
        subscribed_topic_regex=member.regex or "",  # not null, as Kafka writes it
        assignment=_assignment(core, member.assigned),
        target_assignment=_assignment(core, core.target_of(member)),
        member_type=MEMBER_CONSUMER if member.classic is None else MEMBER_CLASSIC,
    )


def _assignment(core: Core, partitions: Target) -> ConsumerGroupDescribeAssignment:
    """Topics that do not exist any more are left out, as in Kafka: they have no name."""
    named = sorted((core.names[topic_id], topic_id) for topic_id in partitions if topic_id in core.names)
    return ConsumerGroupDescribeAssignment(
        topic_partitions=[
            ConsumerGroupDescribeTopicPartitions(
                topic_id=topic_id, topic_name=name, partitions=sorted(partitions[topic_id])
            )
            for name, topic_id in named
            if core.topics.get(name, (b"", 0))[0] == topic_id
        ]
    )


def describe_classic(core: Core) -> Work[DescribedGroup]:
    """As DescribeGroups answers from version 6 on; the handler drops the code below (KIP-1043)."""
    yield from ()
    return DescribedGroup(
        group_id=core.group_id,
        group_state="Dead",
        error_code=ErrorCode.GROUP_ID_NOT_FOUND,
        error_message=f"Group {core.group_id} is not a classic group.",
    )


def listing(core: Core) -> ListedGroup:
    """One line of ListGroups."""
    return ListedGroup(
        group_id=core.group_id, protocol_type=PROTOCOL_TYPE, group_state=state_of(core), group_type="consumer"
    )
