"""One partition as this broker holds it: its role, leader epoch, in-sync replicas and high watermark, around a log.

    absent ──lead(epoch 7)──▶ leading epoch 7 ──lead(epoch 8)──▶ leading epoch 8 ──resign()──▶ absent
                                   │ every change of epoch closes the old high watermark: its waiters answer
                                   └ NOT_LEADER_OR_FOLLOWER, and nothing of the old epoch is acknowledged any more

A partition whose only replica is here has the ISR {self}; its high watermark follows its own log. With followers the
same arithmetic (`isr.py`) takes their progress into account. The log owns bytes and offsets, this class all the rest.

A broker that the cluster took for dead may have a successor and not know it. What it then appends with acks=all is
never acknowledged, as its followers have gone; but what it says of itself might be false. So every other answer, a
refusal as well as a success, needs a leadership that is proven (R14).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import AbortedTransaction
from kafka_wire.records import BatchHeader
from kbroker.env import FileSlice
from kbroker.log.derived.epochs import NO_EPOCH
from kbroker.log.derived.producers import Guard
from kbroker.log.derived.transactions import ALL_STABLE, Marker
from kbroker.log.log import Appended, PartitionLog
from kbroker.replication import isr
from kbroker.replication.stable import StableOffset
from kbroker.watermark import Watermark

ACKS_ALL = -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1  # isolation levels
# What an append says of the partition, not of the batch: clients act on it for good (R14).
DEFINITIVE = frozenset(
    {
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.UNKNOWN_PRODUCER_ID,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.DUPLICATE_SEQUENCE_NUMBER,
        ErrorCode.INVALID_TXN_STATE,
        ErrorCode.TRANSACTION_COORDINATOR_FENCED,
    }
)


class ReadResult(NamedTuple):
    """What a fetch of one partition found, all taken at one moment (L7)."""

    slices: list[FileSlice]
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    length: int  # bytes in slices
    aborted: list[AbortedTransaction] | None  # of read_committed: those that overlap what was read


class NotLeader(KafkaError):
    """This broker does not lead the partition (any more)."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.NOT_LEADER_OR_FOLLOWER)


class Partition:
    """A partition of the local broker. Every method is a `def`: what it changes, it changes at once."""

    __slots__ = (
        "topic", "index", "topic_id", "log", "node_id", "leader_epoch", "leading", "isr", "high_watermark",
        "_epoch_start_offset", "_alone", "_is_session_proven", "_stable",
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        index: int,
        topic_id: bytes,
        log: PartitionLog,
        node_id: int,
        is_session_proven: Callable[[], bool] = lambda: True,
    ) -> None:
        """is_session_proven: whether the cluster certainly still takes this broker for alive (Registration)."""
        self.topic = topic
        self.index = index
        self.topic_id = topic_id
        self.log = log
        self.node_id = node_id
        self.leader_epoch = -1
        self.leading = False
        self.isr: tuple[int, ...] = ()
        self._epoch_start_offset = 0  # the log's end when the leadership began
        self._alone = (node_id,)  # the ISR when no other is in it
        self._is_session_proven = is_session_proven
        self.high_watermark = Watermark(log.start_offset)
        self._stable: StableOffset | None = None  # of this high watermark; None: nobody has asked for it
        log.guard(self.high_watermark)

    def lead(self, leader_epoch: int, isr: tuple[int, ...]) -> None:
        """Become (or go on as) leader in leader_epoch with the agreed ISR. An epoch that is not newer changes no epoch.

        The log notes the epoch with the first batch of it (KIP-101).
        """
        if leader_epoch > self.leader_epoch:
            self._end_epoch()
            self.leader_epoch = leader_epoch
            self.high_watermark = Watermark(self.high_watermark.value)
            self._stable = None
            self.log.guard(self.high_watermark)
            self._epoch_start_offset = self.log.end.value
            self.leading = True
        self.isr = isr
        self.follow_log()
        self.log.producers.transactions.settle(self.high_watermark.value)

    @property
    def is_catching_up(self) -> bool:
        """Whether the high watermark may still be below one that the leader before has told (KIP-207).

        It is not once everything of earlier epochs is known to be committed.
        """
        return self.high_watermark.value < self._epoch_start_offset

    def resign(self) -> None:
        """Stop leading: waiters answer NOT_LEADER_OR_FOLLOWER."""
        self._end_epoch()

    def _end_epoch(self) -> None:
        self.leading = False
        self.high_watermark.close(NotLeader())

    @property
    def is_proven(self) -> bool:
        """Whether certainly no other broker leads this partition at this moment, if this one does (R14).

        When no other is in sync, nobody can have been elected (R9). Otherwise the broker's session has to be certain.
        """
        return self.isr == self._alone or self._is_session_proven()

    def check_leader(self, current_leader_epoch: int = NO_EPOCH) -> None:
        """Raise unless this broker certainly leads (R14), in the epoch the client believes in; -1: none (KIP-320, R11).

        Raises KafkaError FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR.
        """
        if current_leader_epoch not in (self.leader_epoch, NO_EPOCH):
            if current_leader_epoch < self.leader_epoch:
                raise KafkaError(ErrorCode.FENCED_LEADER_EPOCH)
            raise KafkaError(ErrorCode.UNKNOWN_LEADER_EPOCH)
        if not self.leading or not self.is_proven:
            raise NotLeader
        if self.log.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

    def check_follower(self, replica_id: int, current_leader_epoch: int) -> None:
        """Raise unless another broker of that id has a replica. One that knows the epoch may know more than we do yet.

        (Kafka: Partition.followerReplicaOrThrow.)
        """
        if replica_id == self.node_id or replica_id not in self.isr:
            is_old = current_leader_epoch == NO_EPOCH
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER if is_old else ErrorCode.UNKNOWN_LEADER_EPOCH)

    def check_append(self, acks: int) -> None:
        """Raise unless a client may append: those of check_leader, NOT_ENOUGH_REPLICAS.

        acks: -1, 0 or 1; -1 demands min.insync.replicas in the ISR before anything is written (R6).
        """
        if not self.leading or self.log.offline is not None or (acks != ACKS_ALL and not self.is_proven):
            self.check_leader()
        if acks == ACKS_ALL and not isr.may_acknowledge(self.isr, self.log.config.min_insync_replicas):
            raise KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS)

    def append(self, batch: bytearray | memoryview, acks: int, now_ms: int) -> Appended:
        """Check and append a batch, patched in place with its offsets and leader epoch.

        Args:
            batch: one record batch; see PartitionLog.append for what is checked.
            acks: see check_append.
            now_ms: data time, for LogAppendTime and the timestamp window.

        Raises KafkaError; LogOffline when the disk failed.
        """
        self.check_append(acks)
        return self.write(batch, None, now_ms)

    def write(
        self, batch: bytearray | memoryview, header: BatchHeader | None, now_ms: int, guard: Guard | None = None
    ) -> Appended:
        """The same after check_append. header: of a batch that the log's rules have let pass already.

        guard: what `verification` gave for a transactional batch. INVALID_TXN_STATE when none is ongoing here, and the
        guard is not the current one any more: a marker came while it was verified (T4).
        """
        try:
            appended = self.log.append(batch, header, leader_epoch=self.leader_epoch, now_ms=now_ms, guard=guard)
        except KafkaError as error:
            self._check_refusal(error)
            raise
        self.follow_log()
        return appended

    def _check_refusal(self, error: KafkaError) -> None:
        """Raise NotLeader where a refusal is definitive, and another broker might know better (R14)."""
        if error.code in DEFINITIVE and not self.is_proven:
            raise NotLeader from error

    def verification(self, header: BatchHeader, *, begins_at_zero: bool = False) -> Guard | None:
        """What is to be handed to `write`, once the coordinator has said that a batch's transaction has this partition.

        None: there is nothing to ask, as it is ongoing here or the batch is not transactional. begins_at_zero: the
        client raises its epoch with each transaction, so what is unknown here begins with sequence 0 (KIP-890).
        Raises KafkaError INVALID_PRODUCER_EPOCH.
        """
        try:
            return self.log.producers.verification(header, begins_at_zero=begins_at_zero)
        except KafkaError as error:
            self._check_refusal(error)
            raise

    def has_open(self, header: BatchHeader) -> bool:
        """Whether the transaction of a batch is open here: then `verification` would have nothing to ask."""
        producer = self.log.producers.by_id.get(header.producer_id)
        return producer is not None and producer.is_in_transaction and producer.epoch == header.producer_epoch

    def write_marker(self, marker: Marker, now_ms: int) -> Appended:
        """End a producer's transaction. It counts for readers once the high watermark has passed the marker.

        Raises KafkaError: those of check_append with acks=all, INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED,
        KAFKA_STORAGE_ERROR; LogOffline.
        """
        self.check_append(ACKS_ALL)
        try:
            appended = self.log.append_marker(marker, leader_epoch=self.leader_epoch, now_ms=now_ms)
        except KafkaError as error:
            self._check_refusal(error)
            raise
        self.follow_log()
        self.log.producers.transactions.settle(self.high_watermark.value)  # nobody else may ever ask
        return appended

    def follow_log(self) -> None:
        """Let the high watermark follow what the replicas have; to be called when the log grew or was flushed."""
        if not self.leading:
            return
        end = self.log.end.value
        if self.isr == self._alone:  # who asks nobody need not reckon
            self.high_watermark.advance(end)
        else:
            ends = {self.node_id: end}
            self.high_watermark.advance(isr.high_watermark(isr.maximal(self.isr), ends, self.high_watermark.value))

    @property
    def last_stable_offset(self) -> int:
        """The bound of read_committed readers: what is below it is decided, and committed itself."""
        return self._stable_below(self.high_watermark.value)

    def _stable_below(self, high_watermark: int) -> int:
        transactions = self.log.producers.transactions
        if transactions.first_unstable >= high_watermark:
            return high_watermark
        transactions.settle(high_watermark)
        return min(high_watermark, max(transactions.first_unstable, self.log.start_offset))

    def bound(self, isolation: int) -> int:
        """Up to where a reader of that isolation level may see."""
        return self.high_watermark.value if isolation == READ_UNCOMMITTED else self.last_stable_offset

    def watermark(self, isolation: int) -> Watermark:
        """What a reader of that isolation level waits for: it rings when `bound` has moved, if not more often."""
        if isolation == READ_UNCOMMITTED or self.log.producers.transactions.first_unstable == ALL_STABLE:
            return self.high_watermark
        if self._stable is None:
            high_watermark = self.high_watermark
            self._stable = StableOffset(high_watermark, lambda: self._stable_below(high_watermark.value))
        return self._stable

    def read(
        self,
        offset: int,
        bytes_max: int,
        current_leader_epoch: int = NO_EPOCH,
        *,
        isolation: int = READ_UNCOMMITTED,
        at_least_one: bool = True,
        now: bool = False,
    ) -> ReadResult:
        """What a consumer may see from offset on: whole batches below the bound of its isolation level; nothing beyond.

        Args:
            offset: first offset wanted; the first batch may begin before it.
            bytes_max: stop before exceeding it.
            current_leader_epoch: what the client believes, or -1.
            isolation: READ_UNCOMMITTED or READ_COMMITTED.
            at_least_one: let the first batch exceed bytes_max.
            now: raise NotInMemory rather than wait for the disk.

        Raises KafkaError OFFSET_OUT_OF_RANGE, KAFKA_STORAGE_ERROR, UNKNOWN_SERVER_ERROR for a negative bytes_max where
        there is something to read (as Kafka), or those of check_leader.
        """
        self.check_leader(current_leader_epoch)
        log, aborted = self.log, None
        bound = last_stable = high_watermark = self.high_watermark.value
        if log.producers.transactions.first_unstable < high_watermark:
            last_stable = self._stable_below(high_watermark)
        if isolation != READ_UNCOMMITTED:
            bound, aborted = last_stable, list[AbortedTransaction]()
        slices: list[FileSlice] = []
        end = log.end.value
        if not log.start_offset <= offset <= end:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        if offset < bound:
            assert bound <= end
            if bytes_max < 0:
                raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR)
            if bytes_max or at_least_one:
                try:
                    slices, end = log.reading.read(offset, bytes_max, bound, at_least_one, now)
                    if aborted is not None:
                        aborted = log.aborted_between(offset, end, now=now)
                except OSError as error:
                    raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        length = slices[0].length if len(slices) == 1 else sum(map(len, slices))
        return ReadResult(slices, high_watermark, last_stable, log.start_offset, length, aborted)

    def available(self, offset: int, most: int, isolation: int = READ_UNCOMMITTED) -> int:
        """About how many bytes read would find from offset on, counted no further than `most`; at once, from memory.

        Raises KafkaError KAFKA_STORAGE_ERROR.
        """
        bound = self.bound(isolation)
        if offset >= bound:
            return 0
        try:
            return self.log.bytes_between(offset, bound, most)
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error

    def parting(self, offset: int, current_leader_epoch: int, last_fetched_epoch: int) -> tuple[int, int] | None:
        """Where a reader's history leaves this log's: the last common epoch, and where it ends here; None: it does not.

        Args:
            offset: the next the reader wants; the record before it was of last_fetched_epoch.
            current_leader_epoch: what the reader believes, or -1.

        Raises KafkaError OFFSET_OUT_OF_RANGE when the epoch is unknown here or offset is below the log start, or those
        of check_leader. (KIP-595; Kafka: Partition.readRecords.)
        """
        self.check_leader(current_leader_epoch)
        epoch, end_offset = self.epoch_end(last_fetched_epoch)
        if end_offset < 0 or offset < self.log.start_offset:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        return (epoch, end_offset) if epoch < last_fetched_epoch or end_offset < offset else None

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """The last epoch of this log at or before epoch, and where it ends; (-1, -1) when there is none (R4).

        The current epoch ends at the log end. Raises those of check_leader.
        """
        self.check_leader()
        if epoch == self.leader_epoch:
            return epoch, self.log.end.value
        return self.log.epochs.end_offset_for(epoch, self.log.end.value)

    def deletable_to(self, offset: int) -> int:
        """Where the log would start if everything below offset (-1: the high watermark) were given up.

        Raises KafkaError OFFSET_OUT_OF_RANGE above the high watermark, POLICY_VIOLATION for a compacted-only topic.
        """
        self.check_leader()
        if "delete" not in self.log.config.cleanup_policy:
            raise KafkaError(ErrorCode.POLICY_VIOLATION)
        bound = self.high_watermark.value
        offset = bound if offset == -1 else offset
        if not 0 <= offset <= bound:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        return max(offset, self.log.start_offset)
