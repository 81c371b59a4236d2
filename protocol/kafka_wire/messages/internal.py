"""What brokers tell each other, and what consumers tell each other through a group.

WriteTxnMarkers ends a transaction in the partitions that took part. Introduce and WaitApplied are kbroker's own:
brokers prove to each other who they are, and wait for each other to have carried out a change. The consumer protocol's
two values travel inside JoinGroup and SyncGroup, opaque to a broker that need not look; each begins with its version as
int16."""

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


@message(key=31000, versions=(0, 0), flexible=0)
class IntroduceRequest:
    """A broker says who it is and whom it takes the other for; then, in a second request, proves it."""

    broker_id: int = int32(default=-1)
    broker_epoch: int = int64(default=-1)
    asked_id: int = int32(default=-1)
    asked_epoch: int = int64(default=-1)
    nonce: Buffer = bytes_(default=b"")
    proof: Buffer = bytes_(default=b"")  # of the second request, in which all else has its default


@message(key=31000, versions=(0, 0), flexible=0)
class IntroduceResponse:
    """The other broker's nonce and proof; nothing but the code in answer to the second request."""

    error_code: int = int16(default=0)
    nonce: Buffer = bytes_(default=b"")
    proof: Buffer = bytes_(default=b"")


@message(key=31001, versions=(0, 0), flexible=0)
class WaitAppliedRequest:
    """Answer when this revision of the cluster's store is carried out."""

    revision: int = int64()
    timeout_ms: int = int32()


@message(key=31001, versions=(0, 0), flexible=0)
class WaitAppliedResponse:
    """REQUEST_TIMED_OUT when it took too long."""

    error_code: int = int16(default=0)


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
