"""Producer ids and transactions: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit, and the
three that look at them: DescribeProducers, DescribeTransactions, ListTransactions (KIP-98, KIP-664, KIP-890)."""

from __future__ import annotations

from kafka_wire.schema import array, boolean, int16, int32, int64, message, string, struct


@message(key=22, versions=(0, 6), flexible=2)
class InitProducerIdRequest:
    """A producer id, for idempotence or a transactional id; since v3 also a bumped epoch (KIP-360)."""

    transactional_id: str | None = string(nullable=0)  # null: idempotence only
    transaction_timeout_ms: int = int32()
    producer_id: int = int64(since=3, default=-1)  # the one whose epoch is to be bumped (KIP-360)
    producer_epoch: int = int16(since=3, default=-1)
    enable2_pc: bool = boolean(since=6, default=False)  # two-phase commit (KIP-939)
    keep_prepared_txn: bool = boolean(since=6, default=False)


@message(key=22, versions=(0, 6), flexible=2)
class InitProducerIdResponse:
    """The producer's id and epoch."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    producer_id: int = int64(default=-1)
    producer_epoch: int = int16(default=0)
    ongoing_txn_producer_id: int = int64(since=6, default=-1)
    ongoing_txn_producer_epoch: int = int16(since=6, default=-1)


@struct
class AddPartitionsToTxnTopic:
    name: str = string()
    partitions: list[int] = array("int32")


@struct
class AddPartitionsToTxnTransaction:
    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    verify_only: bool = boolean(default=False)  # is the partition in it already?
    topics: list[AddPartitionsToTxnTopic] = array(AddPartitionsToTxnTopic)


@message(key=24, versions=(0, 5), flexible=3)
class AddPartitionsToTxnRequest:
    """Partitions the transaction will write to. From v4 on brokers ask for many transactions at once (KIP-890)."""

    transactions: list[AddPartitionsToTxnTransaction] = array(AddPartitionsToTxnTransaction, since=4, default=[])
    v3_and_below_transactional_id: str = string(until=3, default="")
    v3_and_below_producer_id: int = int64(until=3, default=0)
    v3_and_below_producer_epoch: int = int16(until=3, default=0)
    v3_and_below_topics: list[AddPartitionsToTxnTopic] = array(AddPartitionsToTxnTopic, until=3, default=[])


@struct
class AddPartitionsToTxnPartitionResult:
    partition_index: int = int32()
    partition_error_code: int = int16(default=0)


@struct
class AddPartitionsToTxnTopicResult:
    name: str = string()
    results_by_partition: list[AddPartitionsToTxnPartitionResult] = array(AddPartitionsToTxnPartitionResult, default=[])


@struct
class AddPartitionsToTxnResult:
    transactional_id: str = string()
    topic_results: list[AddPartitionsToTxnTopicResult] = array(AddPartitionsToTxnTopicResult, default=[])


@message(key=24, versions=(0, 5), flexible=3)
class AddPartitionsToTxnResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=4, default=0)
    results_by_transaction: list[AddPartitionsToTxnResult] = array(AddPartitionsToTxnResult, since=4, default=[])
    results_by_topic_v3_and_below: list[AddPartitionsToTxnTopicResult] = array(
        AddPartitionsToTxnTopicResult, until=3, default=[]
    )


@message(key=25, versions=(0, 4), flexible=3)
class AddOffsetsToTxnRequest:
    """The transaction will commit offsets of this group."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    group_id: str = string()


@message(key=25, versions=(0, 4), flexible=3)
class AddOffsetsToTxnResponse:
    """Whether the group's offsets partition is in the transaction."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)


@message(key=26, versions=(0, 5), flexible=3)
class EndTxnRequest:
    """Commit or abort."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    committed: bool = boolean()  # False: abort


@message(key=26, versions=(0, 5), flexible=3)
class EndTxnResponse:
    """Accepted: the markers follow. Since v5 with the producer's next epoch (KIP-890)."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    producer_id: int = int64(since=5, default=-1)  # the one to go on with
    producer_epoch: int = int16(since=5, default=-1)


@struct
class TxnOffsetCommitRequestPartition:
    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=2, default=-1)
    committed_metadata: str | None = string(nullable=0)


@struct
class TxnOffsetCommitRequestTopic:
    name: str = string()
    partitions: list[TxnOffsetCommitRequestPartition] = array(TxnOffsetCommitRequestPartition)


@message(key=28, versions=(0, 5), flexible=3)
class TxnOffsetCommitRequest:
    """Offsets that are committed if the transaction is. Since v3 fenced by generation (KIP-447)."""

    transactional_id: str = string()
    group_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    generation_id: int = int32(since=3, default=-1)
    member_id: str = string(since=3, default="")
    group_instance_id: str | None = string(since=3, nullable=0, default=None)
    topics: list[TxnOffsetCommitRequestTopic] = array(TxnOffsetCommitRequestTopic)


@struct
class TxnOffsetCommitResponsePartition:
    partition_index: int = int32()
    error_code: int = int16(default=0)


@struct
class TxnOffsetCommitResponseTopic:
    name: str = string()
    partitions: list[TxnOffsetCommitResponsePartition] = array(TxnOffsetCommitResponsePartition, default=[])


@message(key=28, versions=(0, 5), flexible=3)
class TxnOffsetCommitResponse:
    """What became of each partition."""

    throttle_time_ms: int = int32(default=0)
    topics: list[TxnOffsetCommitResponseTopic] = array(TxnOffsetCommitResponseTopic, default=[])


@struct
class DescribeProducersTopic:
    name: str = string()
    partition_indexes: list[int] = array("int32")


@message(key=61, versions=(0, 0), flexible=0)
class DescribeProducersRequest:
    """The producers that partitions remember (KIP-664)."""

    topics: list[DescribeProducersTopic] = array(DescribeProducersTopic)


@struct
class ProducerState:
    producer_id: int = int64(default=0)
    producer_epoch: int = int32(default=0)
    last_sequence: int = int32(default=-1)
    last_timestamp: int = int64(default=-1)
    coordinator_epoch: int = int32(default=0)
    current_txn_start_offset: int = int64(default=-1)


@struct
class DescribeProducersPartitionResult:
    partition_index: int = int32()
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)
    active_producers: list[ProducerState] = array(ProducerState, default=[])


@struct
class DescribeProducersTopicResult:
    name: str = string()
    partitions: list[DescribeProducersPartitionResult] = array(DescribeProducersPartitionResult, default=[])


@message(key=61, versions=(0, 0), flexible=0)
class DescribeProducersResponse:
    """Active producers of each partition."""

    throttle_time_ms: int = int32(default=0)
    topics: list[DescribeProducersTopicResult] = array(DescribeProducersTopicResult, default=[])


@message(key=65, versions=(0, 0), flexible=0)
class DescribeTransactionsRequest:
    """Transactions by id (KIP-664)."""

    transactional_ids: list[str] = array("string")


@struct
class TransactionTopic:
    topic: str = string(default="")
    partitions: list[int] = array("int32", default=[])


@struct
class TransactionState:
    error_code: int = int16(default=0)
    transactional_id: str = string()
    transaction_state: str = string(default="")
    transaction_timeout_ms: int = int32(default=0)
    transaction_start_time_ms: int = int64(default=0)
    producer_id: int = int64(default=0)
    producer_epoch: int = int16(default=0)
    topics: list[TransactionTopic] = array(TransactionTopic, default=[])


@message(key=65, versions=(0, 0), flexible=0)
class DescribeTransactionsResponse:
    """The state of each transaction."""

    throttle_time_ms: int = int32(default=0)
    transaction_states: list[TransactionState] = array(TransactionState, default=[])


@message(key=66, versions=(0, 2), flexible=0)
class ListTransactionsRequest:
    """The transactions this broker coordinates, filtered (KIP-664)."""

    state_filters: list[str] = array("string")
    producer_id_filters: list[int] = array("int64")
    duration_filter: int = int64(since=1, default=-1)  # ms; only transactions that run longer (KIP-994)
    transactional_id_pattern: str | None = string(since=2, nullable=0, default=None)  # RE2 (KIP-1152)


@struct
class ListedTransaction:
    transactional_id: str = string()
    producer_id: int = int64(default=0)
    transaction_state: str = string(default="")


@message(key=66, versions=(0, 2), flexible=0)
class ListTransactionsResponse:
    """Transactional ids, producer ids and states."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(default=0)
    unknown_state_filters: list[str] = array("string", default=[])
    transaction_states: list[ListedTransaction] = array(ListedTransaction, default=[])
