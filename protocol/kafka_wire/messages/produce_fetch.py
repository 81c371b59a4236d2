"""Produce and Fetch: the two messages that carry records.

From Produce 13 and Fetch 13 on a topic travels as its ID instead of its name (KIP-516)."""

from __future__ import annotations

from typing import Any

from kafka_wire.schema import array, embed, int8, int16, int32, int64, message, records, string, struct, uuid


@struct
class PartitionProduceData:
    index: int = int32()
    records: Any = records(nullable=0)  # decodes to a memoryview of the frame


@struct
class TopicProduceData:
    name: str = string(until=12, default="")
    topic_id: bytes = uuid(since=13, default=bytes(16))
    partition_data: list[PartitionProduceData] = array(PartitionProduceData)


@message(key=0, versions=(3, 13), flexible=9)
class ProduceRequest:
    """Append record batches to partitions. v10 leader hints (KIP-951), v12 transactions without AddPartitionsToTxn
    (KIP-890), v13 topic IDs.
    """

    transactional_id: str | None = string(nullable=0, default=None)
    acks: int = int16()  # 0 none, 1 leader, -1 all in-sync replicas
    timeout_ms: int = int32()
    topic_data: list[TopicProduceData] = array(TopicProduceData)


@struct
class BatchIndexAndErrorMessage:
    batch_index: int = int32(default=0)
    batch_index_error_message: str | None = string(nullable=0, default=None)


@struct
class LeaderIdAndEpoch:
    leader_id: int = int32(default=-1)
    leader_epoch: int = int32(default=-1)


@struct
class PartitionProduceResponse:
    index: int = int32()
    error_code: int = int16(default=0)
    base_offset: int = int64(default=-1)  # -1 with an error
    log_append_time_ms: int = int64(default=-1)  # -1 when the records keep their own timestamps
    log_start_offset: int = int64(since=5, default=-1)
    # which records broke the batch (KIP-467)
    record_errors: list[BatchIndexAndErrorMessage] = array(BatchIndexAndErrorMessage, since=8, default=[])
    error_message: str | None = string(since=8, nullable=0, default=None)
    # with NOT_LEADER_OR_FOLLOWER (KIP-951)
    current_leader: LeaderIdAndEpoch | None = embed(LeaderIdAndEpoch, since=10, tag=0, default=None)


@struct
class TopicProduceResponse:
    name: str = string(until=12, default="")
    topic_id: bytes = uuid(since=13, default=bytes(16))
    partition_responses: list[PartitionProduceResponse] = array(PartitionProduceResponse, default=[])


@struct
class NodeEndpoint:
    node_id: int = int32()
    host: str = string(default="")
    port: int = int32(default=0)
    rack: str | None = string(nullable=0, default=None)


@message(key=0, versions=(3, 13), flexible=9)
class ProduceResponse:
    """Where the batches went. There is none for acks=0."""

    responses: list[TopicProduceResponse] = array(TopicProduceResponse, default=[])
    throttle_time_ms: int = int32(default=0)
    # of the current leaders above (KIP-951)
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, since=10, tag=0, default=[])


@struct
class ReplicaState:
    replica_id: int = int32(default=-1)
    replica_epoch: int = int64(default=-1)


@struct
class FetchPartition:
    partition: int = int32()
    current_leader_epoch: int = int32(since=9, default=-1)  # fences a stale client or a stale leader (KIP-320)
    fetch_offset: int = int64()
    last_fetched_epoch: int = int32(since=12, default=-1)  # lets the leader see a divergence (KIP-595)
    log_start_offset: int = int64(since=5, default=-1)  # the follower's
    partition_max_bytes: int = int32()
    replica_directory_id: bytes = uuid(since=17, tag=0, default=bytes(16))  # KIP-853
    # the highest the follower knows (KIP-1166)
    high_watermark: int = int64(since=18, tag=1, default=9223372036854775807)


@struct
class FetchTopic:
    topic: str = string(until=12, default="")
    topic_id: bytes = uuid(since=13, default=bytes(16))
    partitions: list[FetchPartition] = array(FetchPartition)


@struct
class ForgottenTopic:
    """Partitions to remove from the fetch session (KIP-227)."""

    topic: str = string(until=12, default="")
    topic_id: bytes = uuid(since=13, default=bytes(16))
    partitions: list[int] = array("int32")


@message(key=1, versions=(4, 18), flexible=12)
class FetchRequest:
    """Read record batches, waiting for some if need be; also how followers copy. Sessions since v7 (KIP-227),
    truncation by epoch since v12 (KIP-595).
    """

    # checked when a raft follower sends it (KIP-595)
    cluster_id: str | None = string(since=12, nullable=0, tag=0, default=None)
    replica_id: int = int32(until=14, default=-1)  # -1 for consumers
    # a follower, with its epoch (KIP-903)
    replica_state: ReplicaState | None = embed(ReplicaState, since=15, tag=1, default=None)
    max_wait_ms: int = int32()
    min_bytes: int = int32()
    max_bytes: int = int32(default=0x7FFFFFFF)
    isolation_level: int = int8(default=0)  # 0 read uncommitted, 1 read committed
    session_id: int = int32(since=7, default=0)  # 0: none yet
    session_epoch: int = int32(since=7, default=-1)  # 0 full fetch and a new session, -1 full fetch and none
    topics: list[FetchTopic] = array(FetchTopic)
    forgotten_topics_data: list[ForgottenTopic] = array(ForgottenTopic, since=7, default=[])
    rack_id: str = string(since=11, default="")  # for reading from a near replica (KIP-392)


@struct
class EpochEndOffset:
    epoch: int = int32(default=-1)
    end_offset: int = int64(default=-1)


@struct
class SnapshotId:
    end_offset: int = int64(default=-1)
    epoch: int = int32(default=-1)


@struct
class AbortedTransaction:
    """A transaction that a reader of committed records has to skip, from first_offset to its marker."""

    producer_id: int = int64(default=0)
    first_offset: int = int64(default=0)


@struct
class FetchPartitionData:
    """One partition's answer."""

    partition_index: int = int32()
    error_code: int = int16(default=0)
    high_watermark: int = int64(default=0)
    last_stable_offset: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    # where the follower's log leaves the leader's (KIP-595)
    diverging_epoch: EpochEndOffset | None = embed(EpochEndOffset, since=12, tag=0, default=None)
    current_leader: LeaderIdAndEpoch | None = embed(LeaderIdAndEpoch, since=12, tag=1, default=None)  # KIP-951
    snapshot_id: SnapshotId | None = embed(SnapshotId, since=12, tag=2, default=None)
    # for readers of committed records
    aborted_transactions: list[AbortedTransaction] | None = array(AbortedTransaction, nullable=0, default=[])
    preferred_read_replica: int = int32(since=11, default=-1)  # KIP-392
    records: Any = records(nullable=0, default=b"")  # never null: librdkafka cannot read that


@struct
class FetchableTopicResponse:
    topic: str = string(until=12, default="")
    topic_id: bytes = uuid(since=13, default=bytes(16))
    partitions: list[FetchPartitionData] = array(FetchPartitionData, default=[])


@message(key=1, versions=(4, 18), flexible=12)
class FetchResponse:
    """Record batches of each partition. In an incremental session only what is new (KIP-227)."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=7, default=0)  # of the session; partitions have their own
    session_id: int = int32(since=7, default=0)  # 0: no session
    responses: list[FetchableTopicResponse] = array(FetchableTopicResponse, default=[])
    # of the current leaders (KIP-951)
    node_endpoints: list[NodeEndpoint] = array(NodeEndpoint, since=16, tag=0, default=[])
