"""ListOffsets and OffsetForLeaderEpoch: offsets by time, and where a leader epoch ended."""

from __future__ import annotations

from kafka_wire.schema import array, int8, int16, int32, int64, message, string, struct


@struct
class ListOffsetsPartition:
    partition_index: int = int32()
    current_leader_epoch: int = int32(since=4, default=-1)
    timestamp: int = int64()  # ms, or -1 latest, -2 earliest, -3 of the highest timestamp, -4, -5, -6 tiered (KIP-734)


@struct
class ListOffsetsTopic:
    name: str = string()
    partitions: list[ListOffsetsPartition] = array(ListOffsetsPartition)


@message(key=2, versions=(1, 11), flexible=6)
class ListOffsetsRequest:
    """The offset for a time: of the first record at or after it, or of a special timestamp."""

    replica_id: int = int32()  # -1 for consumers
    isolation_level: int = int8(since=2, default=0)  # read committed: "latest" is the last stable offset
    topics: list[ListOffsetsTopic] = array(ListOffsetsTopic)
    timeout_ms: int = int32(since=10, default=0)  # for offsets that lie in remote storage (KIP-1075)


@struct
class ListOffsetsPartitionResponse:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    timestamp: int = int64(default=-1)
    offset: int = int64(default=-1)
    leader_epoch: int = int32(since=4, default=-1)


@struct
class ListOffsetsTopicResponse:
    name: str = string()
    partitions: list[ListOffsetsPartitionResponse] = array(ListOffsetsPartitionResponse, default=[])


@message(key=2, versions=(1, 11), flexible=6)
class ListOffsetsResponse:
    """The offset found for each partition; -1 if there is none."""

    throttle_time_ms: int = int32(since=2, default=0)
    topics: list[ListOffsetsTopicResponse] = array(ListOffsetsTopicResponse, default=[])


@struct
class OffsetForLeaderPartition:
    partition: int = int32()
    current_leader_epoch: int = int32(default=-1)
    leader_epoch: int = int32()


@struct
class OffsetForLeaderTopic:
    topic: str = string()
    partitions: list[OffsetForLeaderPartition] = array(OffsetForLeaderPartition)


@message(key=23, versions=(2, 4), flexible=4)
class OffsetForLeaderEpochRequest:
    """Where does an epoch end on the leader? Asked before truncating (KIP-101, KIP-320)."""

    replica_id: int = int32(since=3, default=-2)  # -1 consumer, -2 unknown
    topics: list[OffsetForLeaderTopic] = array(OffsetForLeaderTopic)


@struct
class OffsetForLeaderPartitionResult:
    error_code: int = int16(default=0)
    partition: int = int32()
    leader_epoch: int = int32(default=-1)
    end_offset: int = int64(default=-1)


@struct
class OffsetForLeaderTopicResult:
    topic: str = string(default="")
    partitions: list[OffsetForLeaderPartitionResult] = array(OffsetForLeaderPartitionResult, default=[])


@message(key=23, versions=(2, 4), flexible=4)
class OffsetForLeaderEpochResponse:
    """The end of each epoch asked for; -1, -1 where the leader does not know."""

    throttle_time_ms: int = int32(default=0)
    topics: list[OffsetForLeaderTopicResult] = array(OffsetForLeaderTopicResult, default=[])
