"""The cluster as a whole: ElectLeaders, partition reassignments, DescribeQuorum, UnregisterBroker, UpdateFeatures."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, int8, int16, int32, int64, message, string, struct, uint16, uuid


@struct
class ElectLeadersTopic:
    topic: str = string()
    partitions: list[int] = array("int32")


@message(key=43, versions=(0, 2), flexible=2)
class ElectLeadersRequest:
    """Make the preferred replica lead, or any replica at all (KIP-460)."""

    election_type: int = int8(since=1, default=0)  # 0 preferred, 1 unclean
    topic_partitions: list[ElectLeadersTopic] | None = array(ElectLeadersTopic, nullable=0)
    timeout_ms: int = int32(default=60000)


@struct
class ElectLeadersPartitionResult:
    partition_id: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@struct
class ReplicaElectionResult:
    topic: str = string(default="")
    partition_result: list[ElectLeadersPartitionResult] = array(ElectLeadersPartitionResult, default=[])


@message(key=43, versions=(0, 2), flexible=2)
class ElectLeadersResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=1, default=0)
    replica_election_results: list[ReplicaElectionResult] = array(ReplicaElectionResult, default=[])


@struct
class ReassignablePartition:
    partition_index: int = int32()
    replicas: list[int] | None = array("int32", nullable=0, default=None)  # null: cancel


@struct
class ReassignableTopic:
    name: str = string()
    partitions: list[ReassignablePartition] = array(ReassignablePartition)


@message(key=45, versions=(0, 1), flexible=0)
class AlterPartitionReassignmentsRequest:
    """Give partitions other replicas, or stop doing so (KIP-455)."""

    timeout_ms: int = int32(default=60000)
    allow_replication_factor_change: bool = boolean(since=1, default=True)  # KIP-860
    topics: list[ReassignableTopic] = array(ReassignableTopic)


@struct
class ReassignablePartitionResponse:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@struct
class ReassignableTopicResponse:
    name: str = string()
    partitions: list[ReassignablePartitionResponse] = array(ReassignablePartitionResponse, default=[])


@message(key=45, versions=(0, 1), flexible=0)
class AlterPartitionReassignmentsResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    allow_replication_factor_change: bool = boolean(since=1, default=True)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    responses: list[ReassignableTopicResponse] = array(ReassignableTopicResponse, default=[])


@struct
class ListPartitionReassignmentsTopics:
    name: str = string()
    partition_indexes: list[int] = array("int32")


@message(key=46, versions=(0, 0), flexible=0)
class ListPartitionReassignmentsRequest:
    """Reassignments that are under way (KIP-455)."""

    timeout_ms: int = int32(default=60000)
    topics: list[ListPartitionReassignmentsTopics] | None = array(
        ListPartitionReassignmentsTopics, nullable=0, default=None
    )


@struct
class OngoingPartitionReassignment:
    partition_index: int = int32()
    replicas: list[int] = array("int32", default=[])
    adding_replicas: list[int] = array("int32", default=[])
    removing_replicas: list[int] = array("int32", default=[])


@struct
class OngoingTopicReassignment:
    name: str = string()
    partitions: list[OngoingPartitionReassignment] = array(OngoingPartitionReassignment, default=[])


@message(key=46, versions=(0, 0), flexible=0)
class ListPartitionReassignmentsResponse:
    """Partitions with the replicas they gain and lose."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    topics: list[OngoingTopicReassignment] = array(OngoingTopicReassignment, default=[])


@struct
class DescribeQuorumPartition:
    partition_index: int = int32()


@struct
class DescribeQuorumTopic:
    topic_name: str = string()
    partitions: list[DescribeQuorumPartition] = array(DescribeQuorumPartition)


@message(key=55, versions=(0, 2), flexible=0)
class DescribeQuorumRequest:
    """The controllers' quorum (KIP-595); tools show it."""

    topics: list[DescribeQuorumTopic] = array(DescribeQuorumTopic)


@struct
class QuorumReplicaState:
    replica_id: int = int32(default=0)
    replica_directory_id: bytes = uuid(since=2, default=bytes(16))
    log_end_offset: int = int64(default=0)
    last_fetch_timestamp: int = int64(since=1, default=-1)
    last_caught_up_timestamp: int = int64(since=1, default=-1)


@struct
class DescribeQuorumPartitionResult:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(since=2, nullable=0, default=None)
    leader_id: int = int32(default=0)
    leader_epoch: int = int32(default=0)
    high_watermark: int = int64(default=0)
    current_voters: list[QuorumReplicaState] = array(QuorumReplicaState, default=[])
    observers: list[QuorumReplicaState] = array(QuorumReplicaState, default=[])


@struct
class DescribeQuorumTopicResult:
    topic_name: str = string()
    partitions: list[DescribeQuorumPartitionResult] = array(DescribeQuorumPartitionResult, default=[])


@struct
class QuorumListener:
    name: str = string()
    host: str = string(default="")
    port: int = uint16(default=0)


@struct
class QuorumNode:
    node_id: int = int32()
    listeners: list[QuorumListener] = array(QuorumListener, default=[])


@message(key=55, versions=(0, 2), flexible=0)
class DescribeQuorumResponse:
    """Voters and observers of the metadata partition."""

    error_code: int = int16(default=0)
    error_message: str | None = string(since=2, nullable=0, default=None)
    topics: list[DescribeQuorumTopicResult] = array(DescribeQuorumTopicResult, default=[])
    nodes: list[QuorumNode] = array(QuorumNode, since=2, default=[])


@message(key=64, versions=(0, 0), flexible=0)
class UnregisterBrokerRequest:
    """Forget a broker that will not come back (KIP-631)."""

    broker_id: int = int32()


@message(key=64, versions=(0, 0), flexible=0)
class UnregisterBrokerResponse:
    """Whether it is forgotten."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@struct
class FeatureUpdateKey:
    feature: str = string()
    max_version_level: int = int16()
    allow_downgrade: bool = boolean(until=0, default=False)
    upgrade_type: int = int8(since=1, default=1)  # 1 upgrade, 2 safe downgrade, 3 unsafe downgrade (KIP-778)


@message(key=57, versions=(0, 2), flexible=0)
class UpdateFeaturesRequest:
    """Raise or lower the cluster's feature levels (KIP-584)."""

    timeout_ms: int = int32(default=60000)
    feature_updates: list[FeatureUpdateKey] = array(FeatureUpdateKey)
    validate_only: bool = boolean(since=1, default=False)


@struct
class UpdatableFeatureResult:
    feature: str = string(default="")
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=57, versions=(0, 2), flexible=0)
class UpdateFeaturesResponse:
    """What became of each feature."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    results: list[UpdatableFeatureResult] = array(UpdatableFeatureResult, until=1, default=[])
