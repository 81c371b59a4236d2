"""Share groups: many consumers on one partition, each record acknowledged by itself (KIP-932).

ShareGroupHeartbeat and ShareGroupDescribe, ShareFetch and ShareAcknowledge, and the three that tend their offsets."""

from __future__ import annotations

from typing import Any

from kafka_wire.schema import array, boolean, embed, int8, int16, int32, int64, message, records, string, struct, uuid


@message(key=76, versions=(1, 1), flexible=0)
class ShareGroupHeartbeatRequest:
    """The member is alive, joins (epoch 0) or leaves (-1)."""

    group_id: str = string()
    member_id: str = string()
    member_epoch: int = int32()
    rack_id: str | None = string(nullable=0, default=None)
    subscribed_topic_names: list[str] | None = array("string", nullable=0, default=None)


@struct
class ShareGroupTopicPartitions:
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[int] = array("int32", default=[])


@struct
class ShareGroupAssignment:
    topic_partitions: list[ShareGroupTopicPartitions] = array(ShareGroupTopicPartitions, default=[])


@message(key=76, versions=(1, 1), flexible=0)
class ShareGroupHeartbeatResponse:
    """The member's epoch, and its assignment when that changed."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    member_id: str | None = string(nullable=0, default=None)
    member_epoch: int = int32(default=0)
    heartbeat_interval_ms: int = int32(default=0)
    assignment: ShareGroupAssignment | None = embed(ShareGroupAssignment, nullable=0, default=None)


@message(key=77, versions=(1, 1), flexible=0)
class ShareGroupDescribeRequest:
    """Share groups and their members."""

    group_ids: list[str] = array("string")
    include_authorized_operations: bool = boolean()


@struct
class ShareGroupDescribeTopicPartitions:
    topic_id: bytes = uuid(default=bytes(16))
    topic_name: str = string()
    partitions: list[int] = array("int32", default=[])


@struct
class ShareGroupDescribeAssignment:
    topic_partitions: list[ShareGroupDescribeTopicPartitions] = array(ShareGroupDescribeTopicPartitions, default=[])


@struct
class DescribedShareGroupMember:
    member_id: str = string(default="")
    rack_id: str | None = string(nullable=0, default=None)
    member_epoch: int = int32(default=0)
    client_id: str = string(default="")
    client_host: str = string(default="")
    subscribed_topic_names: list[str] = array("string", default=[])
    assignment: ShareGroupDescribeAssignment = embed(ShareGroupDescribeAssignment)


@struct
class DescribedShareGroup:
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    group_id: str = string()
    group_state: str = string(default="")
    group_epoch: int = int32(default=0)
    assignment_epoch: int = int32(default=0)
    assignor_name: str = string(default="")
    members: list[DescribedShareGroupMember] = array(DescribedShareGroupMember, default=[])
    authorized_operations: int = int32(default=-2147483648)


@message(key=77, versions=(1, 1), flexible=0)
class ShareGroupDescribeResponse:
    """Each group with its members."""

    throttle_time_ms: int = int32(default=0)
    groups: list[DescribedShareGroup] = array(DescribedShareGroup, default=[])


@struct
class AcknowledgementBatch:
    """A range of offsets; one type for all of it, or one for each offset."""

    first_offset: int = int64()
    last_offset: int = int64()
    acknowledge_types: list[int] = array("int8")  # 0 gap, 1 accept, 2 release, 3 reject, 4 renew (KIP-1222)


@struct
class ShareFetchPartition:
    partition_index: int = int32()
    acknowledgement_batches: list[AcknowledgementBatch] = array(AcknowledgementBatch)


@struct
class ShareFetchTopic:
    topic_id: bytes = uuid()
    partitions: list[ShareFetchPartition] = array(ShareFetchPartition)


@struct
class ShareForgottenTopic:
    topic_id: bytes = uuid()
    partitions: list[int] = array("int32")


@message(key=78, versions=(1, 2), flexible=0)
class ShareFetchRequest:
    """Acquire records for this member, and acknowledge earlier ones on the way."""

    group_id: str | None = string(nullable=0, default=None)
    member_id: str | None = string(nullable=0)
    share_session_epoch: int = int32()  # 0 new session, -1 the last request
    max_wait_ms: int = int32()
    min_bytes: int = int32()
    max_bytes: int = int32(default=0x7FFFFFFF)
    max_records: int = int32()
    batch_size: int = int32()
    share_acquire_mode: int = int8(since=2, default=0)  # 0 by batches, 1 no more than max_records (KIP-1206)
    is_renew_ack: bool = boolean(since=2, default=False)
    topics: list[ShareFetchTopic] = array(ShareFetchTopic)
    forgotten_topics_data: list[ShareForgottenTopic] = array(ShareForgottenTopic)


@struct
class LeaderIdAndEpoch:
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(default=0)


@struct
class AcquiredRecords:
    """A range of offsets that the member may now process."""

    first_offset: int = int64(default=0)
    last_offset: int = int64(default=0)
    delivery_count: int = int16(default=0)


@struct
class ShareFetchPartitionData:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    acknowledge_error_code: int = int16(default=0)
    acknowledge_error_message: str | None = string(nullable=0, default=None)
    current_leader: LeaderIdAndEpoch = embed(LeaderIdAndEpoch)
    records: Any = records(default=b"")  # never null
    acquired_records: list[AcquiredRecords] = array(AcquiredRecords, default=[])


@struct
class ShareFetchableTopicResponse:
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[ShareFetchPartitionData] = array(ShareFetchPartitionData, default=[])


@struct
class NodeEndpoint:
    node_id: int = int32()
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(nullable=0, default=None)


@message(key=78, versions=(1, 2), flexible=0)
class ShareFetchResponse:
    """Records, and which of them the member has acquired until the lock times out."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    acquisition_lock_timeout_ms: int = int32(default=0)
    responses: list[ShareFetchableTopicResponse] = array(ShareFetchableTopicResponse, default=[])
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, default=[])


@struct
class AcknowledgePartition:
    partition_index: int = int32()
    acknowledgement_batches: list[AcknowledgementBatch] = array(AcknowledgementBatch)


@struct
class AcknowledgeTopic:
    topic_id: bytes = uuid()
    partitions: list[AcknowledgePartition] = array(AcknowledgePartition)


@message(key=79, versions=(1, 2), flexible=0)
class ShareAcknowledgeRequest:
    """Acknowledge acquired records without fetching."""

    group_id: str | None = string(nullable=0, default=None)
    member_id: str | None = string(nullable=0)
    share_session_epoch: int = int32()
    is_renew_ack: bool = boolean(since=2, default=False)
    topics: list[AcknowledgeTopic] = array(AcknowledgeTopic)


@struct
class ShareAcknowledgePartitionData:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    current_leader: LeaderIdAndEpoch = embed(LeaderIdAndEpoch)


@struct
class ShareAcknowledgeTopicResponse:
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[ShareAcknowledgePartitionData] = array(ShareAcknowledgePartitionData, default=[])


@message(key=79, versions=(1, 2), flexible=0)
class ShareAcknowledgeResponse:
    """What became of the acknowledgements."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    acquisition_lock_timeout_ms: int = int32(since=2, default=0)
    responses: list[ShareAcknowledgeTopicResponse] = array(ShareAcknowledgeTopicResponse, default=[])
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, default=[])


@struct
class DescribeShareGroupOffsetsRequestTopic:
    topic_name: str = string()
    partitions: list[int] = array("int32")


@struct
class DescribeShareGroupOffsetsRequestGroup:
    group_id: str = string()
    topics: list[DescribeShareGroupOffsetsRequestTopic] | None = array(
        DescribeShareGroupOffsetsRequestTopic, nullable=0
    )


@message(key=90, versions=(0, 1), flexible=0)
class DescribeShareGroupOffsetsRequest:
    """Where do the partitions of share groups start?"""

    groups: list[DescribeShareGroupOffsetsRequestGroup] = array(DescribeShareGroupOffsetsRequestGroup)


@struct
class DescribeShareGroupOffsetsResponsePartition:
    partition_index: int = int32()
    start_offset: int = int64(default=0)
    leader_epoch: int = int32(default=0)
    lag: int = int64(since=1, default=-1)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@struct
class DescribeShareGroupOffsetsResponseTopic:
    topic_name: str = string()
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[DescribeShareGroupOffsetsResponsePartition] = array(
        DescribeShareGroupOffsetsResponsePartition, default=[]
    )


@struct
class DescribeShareGroupOffsetsResponseGroup:
    group_id: str = string()
    topics: list[DescribeShareGroupOffsetsResponseTopic] = array(DescribeShareGroupOffsetsResponseTopic, default=[])
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=90, versions=(0, 1), flexible=0)
class DescribeShareGroupOffsetsResponse:
    """Start offsets; -1 where there is none."""

    throttle_time_ms: int = int32(default=0)
    groups: list[DescribeShareGroupOffsetsResponseGroup] = array(DescribeShareGroupOffsetsResponseGroup, default=[])


@struct
class AlterShareGroupOffsetsRequestPartition:
    partition_index: int = int32()
    start_offset: int = int64()


@struct
class AlterShareGroupOffsetsRequestTopic:
    topic_name: str = string()
    partitions: list[AlterShareGroupOffsetsRequestPartition] = array(AlterShareGroupOffsetsRequestPartition)


@message(key=91, versions=(0, 0), flexible=0)
class AlterShareGroupOffsetsRequest:
    """Move the start of an empty share group."""

    group_id: str = string()
    topics: list[AlterShareGroupOffsetsRequestTopic] = array(AlterShareGroupOffsetsRequestTopic)


@struct
class AlterShareGroupOffsetsResponsePartition:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@struct
class AlterShareGroupOffsetsResponseTopic:
    topic_name: str = string()
    topic_id: bytes = uuid(default=bytes(16))
    partitions: list[AlterShareGroupOffsetsResponsePartition] = array(
        AlterShareGroupOffsetsResponsePartition, default=[]
    )


@message(key=91, versions=(0, 0), flexible=0)
class AlterShareGroupOffsetsResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    responses: list[AlterShareGroupOffsetsResponseTopic] = array(AlterShareGroupOffsetsResponseTopic, default=[])


@struct
class DeleteShareGroupOffsetsRequestTopic:
    topic_name: str = string()


@message(key=92, versions=(0, 0), flexible=0)
class DeleteShareGroupOffsetsRequest:
    """Forget topics of an empty share group."""

    group_id: str = string()
    topics: list[DeleteShareGroupOffsetsRequestTopic] = array(DeleteShareGroupOffsetsRequestTopic)


@struct
class DeleteShareGroupOffsetsResponseTopic:
    topic_name: str = string()
    topic_id: bytes = uuid(default=bytes(16))
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=92, versions=(0, 0), flexible=0)
class DeleteShareGroupOffsetsResponse:
    """What became of each topic."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    responses: list[DeleteShareGroupOffsetsResponseTopic] = array(DeleteShareGroupOffsetsResponseTopic, default=[])
