"""OffsetCommit, OffsetFetch, OffsetDelete: the committed offsets of a group.

From OffsetCommit 10 and OffsetFetch 10 on a topic travels as its ID instead of its name (KIP-848)."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, int16, int32, int64, message, string, struct, uuid


@struct
class OffsetCommitRequestPartition:
    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=6, default=-1)  # KIP-320
    commit_timestamp: int = int64(until=1, default=-1)
    committed_metadata: str | None = string(nullable=0)


@struct
class OffsetCommitRequestTopic:
    name: str = string(until=9, default="")
    topic_id: bytes = uuid(since=10, default=bytes(16))
    partitions: list[OffsetCommitRequestPartition] = array(OffsetCommitRequestPartition)


@message(key=8, versions=(1, 10), flexible=8)
class OffsetCommitRequest:
    """Remember how far a group has read. v1 is older than Kafka 4 answers; some clients still send it."""

    group_id: str = string()
    generation_id_or_member_epoch: int = int32(default=-1)  # the epoch in a consumer group (KIP-848)
    member_id: str = string()
    group_instance_id: str | None = string(since=7, nullable=0, default=None)
    retention_time_ms: int = int64(since=2, until=4, default=-1)  # -1: the broker's
    topics: list[OffsetCommitRequestTopic] = array(OffsetCommitRequestTopic)


@struct
class OffsetCommitResponsePartition:
    partition_index: int = int32()
    error_code: int = int16(default=0)


@struct
class OffsetCommitResponseTopic:
    name: str = string(until=9, default="")
    topic_id: bytes = uuid(since=10, default=bytes(16))
    partitions: list[OffsetCommitResponsePartition] = array(OffsetCommitResponsePartition, default=[])


@message(key=8, versions=(1, 10), flexible=8)
class OffsetCommitResponse:
    """Which partitions were written."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: list[OffsetCommitResponseTopic] = array(OffsetCommitResponseTopic, default=[])


@struct
class OffsetFetchRequestTopic:
    name: str = string()
    partition_indexes: list[int] = array("int32")


@struct
class OffsetFetchRequestTopics:
    name: str = string(until=9, default="")
    topic_id: bytes = uuid(since=10, default=bytes(16))
    partition_indexes: list[int] = array("int32")


@struct
class OffsetFetchRequestGroup:
    group_id: str = string()
    member_id: str | None = string(since=9, nullable=0, default=None)
    member_epoch: int = int32(since=9, default=-1)
    topics: list[OffsetFetchRequestTopics] | None = array(OffsetFetchRequestTopics, nullable=0)  # null: all


@message(key=9, versions=(1, 10), flexible=6)
class OffsetFetchRequest:
    """How far has a group read? Several groups since v8 (KIP-709)."""

    group_id: str = string(until=7, default="")
    # null: all
    topics: list[OffsetFetchRequestTopic] | None = array(OffsetFetchRequestTopic, until=7, nullable=2, default=[])
    groups: list[OffsetFetchRequestGroup] = array(OffsetFetchRequestGroup, since=8, default=[])
    require_stable: bool = boolean(since=7, default=False)  # wait for transactions to end (KIP-447)


@struct
class OffsetFetchResponsePartition:
    partition_index: int = int32()
    committed_offset: int = int64(default=0)  # -1: none
    committed_leader_epoch: int = int32(since=5, default=-1)
    metadata: str | None = string(nullable=0, default="")
    error_code: int = int16(default=0)


@struct
class OffsetFetchResponseTopic:
    name: str = string()
    partitions: list[OffsetFetchResponsePartition] = array(OffsetFetchResponsePartition, default=[])


@struct
class OffsetFetchResponsePartitions:
    partition_index: int = int32()
    committed_offset: int = int64(default=0)  # -1: none
    committed_leader_epoch: int = int32(default=-1)
    metadata: str | None = string(nullable=0, default="")
    error_code: int = int16(default=0)


@struct
class OffsetFetchResponseTopics:
    name: str = string(until=9, default="")
    topic_id: bytes = uuid(since=10, default=bytes(16))
    partitions: list[OffsetFetchResponsePartitions] = array(OffsetFetchResponsePartitions, default=[])


@struct
class OffsetFetchResponseGroup:
    group_id: str = string()
    topics: list[OffsetFetchResponseTopics] = array(OffsetFetchResponseTopics, default=[])
    error_code: int = int16(default=0)


@message(key=9, versions=(1, 10), flexible=6)
class OffsetFetchResponse:
    """Committed offsets; -1 and empty metadata where there is no commit."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: list[OffsetFetchResponseTopic] = array(OffsetFetchResponseTopic, until=7, default=[])
    error_code: int = int16(since=2, until=7, default=0)
    groups: list[OffsetFetchResponseGroup] = array(OffsetFetchResponseGroup, since=8, default=[])


@struct
class OffsetDeleteRequestPartition:
    partition_index: int = int32()


@struct
class OffsetDeleteRequestTopic:
    name: str = string()
    partitions: list[OffsetDeleteRequestPartition] = array(OffsetDeleteRequestPartition)


@message(key=47, versions=(0, 0))
class OffsetDeleteRequest:
    """Forget offsets of partitions that the group does not subscribe to (KIP-496)."""

    group_id: str = string()
    topics: list[OffsetDeleteRequestTopic] = array(OffsetDeleteRequestTopic)


@struct
class OffsetDeleteResponsePartition:
    partition_index: int = int32()
    error_code: int = int16(default=0)


@struct
class OffsetDeleteResponseTopic:
    name: str = string()
    partitions: list[OffsetDeleteResponsePartition] = array(OffsetDeleteResponsePartition, default=[])


@message(key=47, versions=(0, 0))
class OffsetDeleteResponse:
    """What became of each partition."""

    error_code: int = int16(default=0)
    throttle_time_ms: int = int32(default=0)
    topics: list[OffsetDeleteResponseTopic] = array(OffsetDeleteResponseTopic, default=[])
