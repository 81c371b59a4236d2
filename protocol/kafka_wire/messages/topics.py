"""Topics and where they lie: CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords, DescribeLogDirs,
AlterReplicaLogDirs."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, int8, int16, int32, int64, message, string, struct, uuid


@struct
class CreatableReplicaAssignment:
    partition_index: int = int32()
    broker_ids: list[int] = array("int32")


@struct
class CreatableTopicConfig:
    name: str = string()
    value: str | None = string(nullable=0)


@struct
class CreatableTopic:
    name: str = string()
    num_partitions: int = int32()  # -1: the default (KIP-464), or as assigned
    replication_factor: int = int16()  # -1: the default (KIP-464), or as assigned
    assignments: list[CreatableReplicaAssignment] = array(CreatableReplicaAssignment)
    configs: list[CreatableTopicConfig] = array(CreatableTopicConfig)


@message(key=19, versions=(2, 7), flexible=5)
class CreateTopicsRequest:
    """Create topics, or only check whether they could be."""

    topics: list[CreatableTopic] = array(CreatableTopic)
    timeout_ms: int = int32(default=60000)
    validate_only: bool = boolean(default=False)


@struct
class CreatableTopicConfigs:
    name: str = string()
    value: str | None = string(nullable=0, default="")
    read_only: bool = boolean(default=False)
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean(default=False)


@struct
class CreatableTopicResult:
    name: str = string()
    topic_id: bytes = uuid(since=7, default=bytes(16))
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    topic_config_error_code: int = int16(since=5, tag=0, default=0)  # why the configs below are missing
    num_partitions: int = int32(since=5, default=-1)
    replication_factor: int = int16(since=5, default=-1)
    configs: list[CreatableTopicConfigs] | None = array(CreatableTopicConfigs, since=5, nullable=0, default=[])


@message(key=19, versions=(2, 7), flexible=5)
class CreateTopicsResponse:
    """The topics as they were created; configs since v5 (KIP-525)."""

    throttle_time_ms: int = int32(default=0)
    topics: list[CreatableTopicResult] = array(CreatableTopicResult, default=[])


@struct
class DeleteTopicState:
    name: str | None = string(nullable=0, default=None)
    topic_id: bytes = uuid()


@message(key=20, versions=(1, 6), flexible=4)
class DeleteTopicsRequest:
    """Delete topics, since v6 by name or ID."""

    topics: list[DeleteTopicState] = array(DeleteTopicState, since=6, default=[])
    topic_names: list[str] = array("string", until=5, default=[])
    timeout_ms: int = int32()


@struct
class DeletableTopicResult:
    name: str | None = string(nullable=6)
    topic_id: bytes = uuid(since=6, default=bytes(16))
    error_code: int = int16(default=0)
    error_message: str | None = string(since=5, nullable=0, default=None)


@message(key=20, versions=(1, 6), flexible=4)
class DeleteTopicsResponse:
    """What became of each topic."""

    throttle_time_ms: int = int32(default=0)
    responses: list[DeletableTopicResult] = array(DeletableTopicResult, default=[])


@struct
class CreatePartitionsAssignment:
    broker_ids: list[int] = array("int32")


@struct
class CreatePartitionsTopic:
    name: str = string()
    count: int = int32()  # the new total
    # null: the broker chooses
    assignments: list[CreatePartitionsAssignment] | None = array(CreatePartitionsAssignment, nullable=0)


@message(key=37, versions=(0, 3), flexible=2)
class CreatePartitionsRequest:
    """Give topics more partitions (KIP-195)."""

    topics: list[CreatePartitionsTopic] = array(CreatePartitionsTopic)
    timeout_ms: int = int32()
    validate_only: bool = boolean()


@struct
class CreatePartitionsTopicResult:
    name: str = string()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=37, versions=(0, 3), flexible=2)
class CreatePartitionsResponse:
    """What became of each topic."""

    throttle_time_ms: int = int32(default=0)
    results: list[CreatePartitionsTopicResult] = array(CreatePartitionsTopicResult, default=[])


@struct
class DeleteRecordsPartition:
    partition_index: int = int32()
    offset: int = int64()  # -1: the high watermark


@struct
class DeleteRecordsTopic:
    name: str = string()
    partitions: list[DeleteRecordsPartition] = array(DeleteRecordsPartition)


@message(key=21, versions=(0, 2), flexible=2)
class DeleteRecordsRequest:
    """Delete the records below an offset (KIP-107)."""

    topics: list[DeleteRecordsTopic] = array(DeleteRecordsTopic)
    timeout_ms: int = int32()


@struct
class DeleteRecordsPartitionResult:
    partition_index: int = int32()
    low_watermark: int = int64(default=0)
    error_code: int = int16(default=0)


@struct
class DeleteRecordsTopicResult:
    name: str = string()
    partitions: list[DeleteRecordsPartitionResult] = array(DeleteRecordsPartitionResult, default=[])


@message(key=21, versions=(0, 2), flexible=2)
class DeleteRecordsResponse:
    """The partitions' new beginnings."""

    throttle_time_ms: int = int32(default=0)
    topics: list[DeleteRecordsTopicResult] = array(DeleteRecordsTopicResult, default=[])


@struct
class DescribableLogDirTopic:
    topic: str = string()
    partitions: list[int] = array("int32")


@message(key=35, versions=(1, 5), flexible=2)
class DescribeLogDirsRequest:
    """Sizes of the partitions on this broker's disks (KIP-113)."""

    topics: list[DescribableLogDirTopic] | None = array(DescribableLogDirTopic, nullable=0)  # null: all


@struct
class DescribeLogDirsPartition:
    partition_index: int = int32()
    partition_size: int = int64(default=0)
    offset_lag: int = int64(default=0)
    is_future_key: bool = boolean(default=False)  # a replica on its way to this directory


@struct
class DescribeLogDirsTopic:
    name: str = string()
    partitions: list[DescribeLogDirsPartition] = array(DescribeLogDirsPartition, default=[])


@struct
class DescribeLogDirsResult:
    error_code: int = int16(default=0)
    log_dir: str = string(default="")
    topics: list[DescribeLogDirsTopic] = array(DescribeLogDirsTopic, default=[])
    total_bytes: int = int64(since=4, default=-1)  # of the volume (KIP-827)
    usable_bytes: int = int64(since=4, default=-1)
    is_cordoned: bool = boolean(since=5, default=False)


@message(key=35, versions=(1, 5), flexible=2)
class DescribeLogDirsResponse:
    """Each directory with its partitions."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=3, default=0)
    results: list[DescribeLogDirsResult] = array(DescribeLogDirsResult, default=[])


@struct
class AlterReplicaLogDirTopic:
    name: str = string()
    partitions: list[int] = array("int32")


@struct
class AlterReplicaLogDir:
    path: str = string()
    topics: list[AlterReplicaLogDirTopic] = array(AlterReplicaLogDirTopic)


@message(key=34, versions=(1, 2), flexible=2)
class AlterReplicaLogDirsRequest:
    """Move replicas between directories of one broker (KIP-113)."""

    dirs: list[AlterReplicaLogDir] = array(AlterReplicaLogDir)


@struct
class AlterReplicaLogDirPartitionResult:
    partition_index: int = int32()
    error_code: int = int16(default=0)


@struct
class AlterReplicaLogDirTopicResult:
    topic_name: str = string()
    partitions: list[AlterReplicaLogDirPartitionResult] = array(AlterReplicaLogDirPartitionResult, default=[])


@message(key=34, versions=(1, 2), flexible=2)
class AlterReplicaLogDirsResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    results: list[AlterReplicaLogDirTopicResult] = array(AlterReplicaLogDirTopicResult, default=[])
