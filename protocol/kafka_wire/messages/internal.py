"""What brokers tell each other, and what consumers tell each other through a group.

WriteTxnMarkers ends a transaction in the partitions that took part. The consumer protocol's two values travel inside
JoinGroup and SyncGroup, opaque to a broker that need not look; each begins with its version as int16."""

from __future__ import annotations

from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, boolean, bytes_, int8, int16, int32, int64, message, string, struct


@struct
class WritableTxnMarkerTopic:
    name: str = string()
    partition_indexes: list[int] = array("int32")


@struct
class WritableTxnMarker:
    producer_id: int = int64()
    producer_epoch: int = int16()
    transaction_result: bool = boolean()  # True: committed
    topics: list[WritableTxnMarkerTopic] = array(WritableTxnMarkerTopic)
    coordinator_epoch: int = int32()
    transaction_version: int = int8(since=2, default=0)  # KIP-1228


@message(key=27, versions=(1, 2), flexible=1)
class WriteTxnMarkersRequest:
    """The coordinator has partitions write the end of transactions."""

    markers: list[WritableTxnMarker] = array(WritableTxnMarker)


@struct
class WritableTxnMarkerPartitionResult:
    partition_index: int = int32()
    error_code: int = int16(default=0)


@struct
class WritableTxnMarkerTopicResult:
    name: str = string()
    partitions: list[WritableTxnMarkerPartitionResult] = array(WritableTxnMarkerPartitionResult, default=[])


@struct
class WritableTxnMarkerResult:
    producer_id: int = int64(default=0)
    topics: list[WritableTxnMarkerTopicResult] = array(WritableTxnMarkerTopicResult, default=[])


@message(key=27, versions=(1, 2), flexible=1)
class WriteTxnMarkersResponse:
    """What became of each marker."""

    markers: list[WritableTxnMarkerResult] = array(WritableTxnMarkerResult, default=[])


@struct
class ConsumerProtocolTopicPartitions:
    topic: str = string()
    partitions: list[int] = array("int32")


@message(versions=(0, 3))
class ConsumerProtocolSubscription:
    """What a consumer tells the group's leader: its topics, and what it owns (KIP-429)."""

    topics: list[str] = array("string")
    user_data: Buffer | None = bytes_(nullable=0, default=None)
    # KIP-429
    owned_partitions: list[ConsumerProtocolTopicPartitions] = array(
        ConsumerProtocolTopicPartitions, since=1, default=[]
    )
    generation_id: int = int32(since=2, default=-1)  # KIP-792
    rack_id: str | None = string(since=3, nullable=0, default=None)  # KIP-881


@message(versions=(0, 3))
class ConsumerProtocolAssignment:
    """What the leader tells a consumer: its partitions."""

    assigned_partitions: list[ConsumerProtocolTopicPartitions] = array(ConsumerProtocolTopicPartitions)
    user_data: Buffer | None = bytes_(nullable=0, default=None)
