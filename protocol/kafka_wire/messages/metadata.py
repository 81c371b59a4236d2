"""ApiVersions, Metadata, DescribeCluster, DescribeTopicPartitions: what a client learns before it does anything.

"Authorized operations" are bit sets of ACL operations (KIP-430); the lowest int32 means "not asked for"."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, embed, int8, int16, int32, int64, message, string, struct, uuid


@message(key=18, versions=(0, 4), flexible=3)
class ApiVersionsRequest:
    """The first request of a connection. Since v3 the client says what software it is (KIP-511)."""

    client_software_name: str = string(since=3, default="")
    client_software_version: str = string(since=3, default="")


@struct
class ApiVersion:
    """One API's range, both ends included."""

    api_key: int = int16()
    min_version: int = int16(default=0)
    max_version: int = int16(default=0)


@struct
class SupportedFeatureKey:
    """A feature's range in this broker. Up to v3 the minimum must not be 0 (KAFKA-17011)."""

    name: str = string()
    min_version: int = int16(default=0)
    max_version: int = int16(default=0)


@struct
class FinalizedFeatureKey:
    """A feature's level in this cluster (KIP-584)."""

    name: str = string()
    max_version_level: int = int16(default=0)
    min_version_level: int = int16(default=0)


@message(key=18, versions=(0, 4), flexible=3)
class ApiVersionsResponse:
    """The versions of every API that may be used here. Its header is always v0."""

    error_code: int = int16(default=0)
    api_keys: list[ApiVersion] = array(ApiVersion, default=[])
    throttle_time_ms: int = int32(since=1, default=0)  # behind the keys, unlike in other responses
    supported_features: list[SupportedFeatureKey] = array(SupportedFeatureKey, since=3, tag=0, default=[])
    finalized_features_epoch: int = int64(since=3, tag=1, default=-1)
    finalized_features: list[FinalizedFeatureKey] = array(FinalizedFeatureKey, since=3, tag=2, default=[])
    zk_migration_ready: bool = boolean(since=3, tag=3, default=False)


@struct
class MetadataRequestTopic:
    topic_id: bytes = uuid(since=10, default=bytes(16))
    name: str | None = string(nullable=10)  # null: by ID


@message(key=3, versions=(0, 13), flexible=9)
class MetadataRequest:
    """Brokers, and topics with their leaders. v0 asks for all topics by an empty list, later versions by null."""

    topics: list[MetadataRequestTopic] | None = array(MetadataRequestTopic, nullable=1)  # null: all
    allow_auto_topic_creation: bool = boolean(since=4, default=True)  # up to v3 it goes without saying
    include_cluster_authorized_operations: bool = boolean(since=8, until=10, default=False)
    include_topic_authorized_operations: bool = boolean(since=8, default=False)


@struct
class MetadataResponseBroker:
    node_id: int = int32()
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(since=1, nullable=0, default=None)


@struct
class MetadataResponsePartition:
    error_code: int = int16(default=0)
    partition_index: int = int32()
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(since=7, default=-1)  # never goes back (KIP-320)
    replica_nodes: list[int] = array("int32", default=[])
    isr_nodes: list[int] = array("int32", default=[])
    offline_replicas: list[int] = array("int32", since=5, default=[])  # KIP-112


@struct
class MetadataResponseTopic:
    error_code: int = int16(default=0)
    name: str | None = string(nullable=12)
    topic_id: bytes = uuid(since=10, default=bytes(16))  # KIP-516
    is_internal: bool = boolean(since=1, default=False)
    partitions: list[MetadataResponsePartition] = array(MetadataResponsePartition, default=[])
    topic_authorized_operations: int = int32(since=8, default=-2147483648)


@message(key=3, versions=(0, 13), flexible=9)
class MetadataResponse:
    """The cluster as this broker sees it."""

    throttle_time_ms: int = int32(since=3, default=0)
    brokers: list[MetadataResponseBroker] = array(MetadataResponseBroker, default=[])
    cluster_id: str | None = string(since=2, nullable=0, default=None)
    controller_id: int = int32(since=1, default=-1)
    topics: list[MetadataResponseTopic] = array(MetadataResponseTopic, default=[])
    cluster_authorized_operations: int = int32(since=8, until=10, default=-2147483648)
    error_code: int = int16(since=13, default=0)  # REBOOTSTRAP_REQUIRED (KIP-1102)


@message(key=60, versions=(0, 2), flexible=0)
class DescribeClusterRequest:
    """Brokers and cluster id, without topics (KIP-700)."""

    include_cluster_authorized_operations: bool = boolean()
    endpoint_type: int = int8(since=1, default=1)  # 1 brokers, 2 controllers (KIP-919)
    include_fenced_brokers: bool = boolean(since=2, default=False)


@struct
class DescribeClusterBroker:
    broker_id: int = int32()
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(nullable=0, default=None)
    is_fenced: bool = boolean(since=2, default=False)


@message(key=60, versions=(0, 2), flexible=0)
class DescribeClusterResponse:
    """The cluster: its id, controller and brokers."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    endpoint_type: int = int8(since=1, default=1)
    cluster_id: str = string(default="")
    controller_id: int = int32(default=-1)
    brokers: list[DescribeClusterBroker] = array(DescribeClusterBroker, default=[])
    cluster_authorized_operations: int = int32(default=-2147483648)


@struct
class DescribeTopicPartitionsTopic:
    name: str = string()


@struct
class DescribeTopicPartitionsCursor:
    """The first partition that the next page shows."""

    topic_name: str = string()
    partition_index: int = int32()


@message(key=75, versions=(0, 0), flexible=0)
class DescribeTopicPartitionsRequest:
    """Topics page by page, in the order of their names (KIP-966)."""

    topics: list[DescribeTopicPartitionsTopic] = array(DescribeTopicPartitionsTopic)
    response_partition_limit: int = int32(default=2000)
    cursor: DescribeTopicPartitionsCursor | None = embed(DescribeTopicPartitionsCursor, nullable=0, default=None)


@struct
class DescribeTopicPartitionsResponsePartition:
    error_code: int = int16(default=0)
    partition_index: int = int32()
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(default=-1)
    replica_nodes: list[int] = array("int32", default=[])
    isr_nodes: list[int] = array("int32", default=[])
    eligible_leader_replicas: list[int] | None = array("int32", nullable=0, default=None)  # KIP-966
    last_known_elr: list[int] | None = array("int32", nullable=0, default=None)
    offline_replicas: list[int] = array("int32", default=[])


@struct
class DescribeTopicPartitionsResponseTopic:
    error_code: int = int16(default=0)
    name: str | None = string(nullable=0)
    topic_id: bytes = uuid(default=bytes(16))
    is_internal: bool = boolean(default=False)
    partitions: list[DescribeTopicPartitionsResponsePartition] = array(
        DescribeTopicPartitionsResponsePartition, default=[]
    )
    topic_authorized_operations: int = int32(default=-2147483648)


@message(key=75, versions=(0, 0), flexible=0)
class DescribeTopicPartitionsResponse:
    """One page of partitions, and where the next page begins."""

    throttle_time_ms: int = int32(default=0)
    topics: list[DescribeTopicPartitionsResponseTopic] = array(DescribeTopicPartitionsResponseTopic, default=[])
    next_cursor: DescribeTopicPartitionsCursor | None = embed(DescribeTopicPartitionsCursor, nullable=0, default=None)
