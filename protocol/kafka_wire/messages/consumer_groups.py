"""ConsumerGroupHeartbeat and ConsumerGroupDescribe: groups whose assignment the broker computes (KIP-848)."""

from __future__ import annotations

from kafka_wire.messages.rebalances import (
    INCLUDE_REBALANCES_TAG,
    REBALANCES_TAG,
    UNOWNED_SECONDS_TAG,
    GroupRebalance,
    UnownedSeconds,
)
from kafka_wire.schema import array, boolean, embed, int8, int16, int32, message, string, struct, uuid


@struct
class ConsumerGroupTopicPartitions:
    topic_id: bytes = uuid()
    partitions: list[int] = array("int32")


@message(key=68, versions=(0, 1), flexible=0)
class ConsumerGroupHeartbeatRequest:
    """The member is alive, joins (epoch 0), leaves (-1, static -2), or says what changed. Null means "as before"."""

    group_id: str = string()
    member_id: str = string()  # made by the client since v1 (KIP-1082)
    member_epoch: int = int32()
    instance_id: str | None = string(nullable=0, default=None)
    rack_id: str | None = string(nullable=0, default=None)
    rebalance_timeout_ms: int = int32(default=-1)
    subscribed_topic_names: list[str] | None = array("string", nullable=0, default=None)
    subscribed_topic_regex: str | None = string(since=1, nullable=0, default=None)  # RE2, evaluated by the broker
    server_assignor: str | None = string(nullable=0, default=None)
    # what the member owns now
    topic_partitions: list[ConsumerGroupTopicPartitions] | None = array(
        ConsumerGroupTopicPartitions, nullable=0, default=None
    )


@struct
class ConsumerGroupHeartbeatTopicPartitions:
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[int] = array("int32", default=[])


@struct
class ConsumerGroupAssignment:
    topic_partitions: list[ConsumerGroupHeartbeatTopicPartitions] = array(
        ConsumerGroupHeartbeatTopicPartitions, default=[]
    )


@message(key=68, versions=(0, 1), flexible=0)
class ConsumerGroupHeartbeatResponse:
    """The member's epoch, and its assignment when that changed."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    member_id: str | None = string(nullable=0, default=None)
    member_epoch: int = int32(default=0)
    heartbeat_interval_ms: int = int32(default=0)
    # null: unchanged
    assignment: ConsumerGroupAssignment | None = embed(ConsumerGroupAssignment, nullable=0, default=None)


@message(key=69, versions=(0, 1), flexible=0)
class ConsumerGroupDescribeRequest:
    """Groups of the new protocol."""

    group_ids: list[str] = array("string")
    include_authorized_operations: bool = boolean()
    include_rebalances: bool = boolean(tag=INCLUDE_REBALANCES_TAG, default=False)  # kbroker's own


@struct
class ConsumerGroupDescribeTopicPartitions:
    topic_id: bytes = uuid(default=bytes(16))
    topic_name: str = string()
    partitions: list[int] = array("int32", default=[])


@struct
class ConsumerGroupDescribeAssignment:
    topic_partitions: list[ConsumerGroupDescribeTopicPartitions] = array(
        ConsumerGroupDescribeTopicPartitions, default=[]
    )


@struct
class DescribedConsumerGroupMember:
    member_id: str = string(default="")
    instance_id: str | None = string(nullable=0, default=None)
    rack_id: str | None = string(nullable=0, default=None)
    member_epoch: int = int32(default=0)
    client_id: str = string(default="")
    client_host: str = string(default="")
    subscribed_topic_names: list[str] = array("string", default=[])
    subscribed_topic_regex: str | None = string(nullable=0, default=None)
    assignment: ConsumerGroupDescribeAssignment = embed(ConsumerGroupDescribeAssignment)
    target_assignment: ConsumerGroupDescribeAssignment = embed(ConsumerGroupDescribeAssignment)
    member_type: int = int8(since=1, default=-1)  # 0 classic, 1 consumer (KIP-1099)


@struct
class DescribedConsumerGroup:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    group_id: str = string()
    group_state: str = string(default="")
    group_epoch: int = int32(default=0)
    assignment_epoch: int = int32(default=0)
    assignor_name: str = string(default="")
    members: list[DescribedConsumerGroupMember] = array(DescribedConsumerGroupMember, default=[])
    authorized_operations: int = int32(default=-2147483648)
    # kbroker's own; null: not asked for, or a broker that keeps none
    rebalances: list[GroupRebalance] | None = array(GroupRebalance, nullable=0, tag=REBALANCES_TAG, default=None)
    unowned_seconds: list[UnownedSeconds] = array(UnownedSeconds, tag=UNOWNED_SECONDS_TAG, default=[])


@message(key=69, versions=(0, 1), flexible=0)
class ConsumerGroupDescribeResponse:
    """Each group with its members, what they have and what they should have."""

    throttle_time_ms: int = int32(default=0)
    groups: list[DescribedConsumerGroup] = array(DescribedConsumerGroup, default=[])
