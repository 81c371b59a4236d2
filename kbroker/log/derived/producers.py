"""What a log knows of its producers: the last five batches of each, its transaction. Owns the snapshot format.

A producer numbers its records per partition. The log accepts the next number only, answers a repetition of any of
the last five batches with the offsets it had (P1), and refuses what leaves a gap. An unknown producer may begin
with any number: its history may have been deleted. (Kafka: ProducerStateManager, ProducerAppendInfo.)

The first batch of a transaction needs the word of its coordinator, which takes time, and a marker may come meanwhile
(T4). A guard stands for one such question: it is good until something of that producer is appended, but for the marker
that raised its epoch to that of the guard.

    guard = verification(header) ──▶ the coordinator is asked ──▶ check(header, guard) ──▶ update, or INVALID_TXN_STATE

`<offset>.snapshot` is the state after all batches below an offset, big-endian:

    +-------------+-----------------+-----------+----------------------------------------------------------+
    | version i16 | CRC-32C of what | count i32 | count entries: producer id i64, epoch i16,               |
    | 1           | follows     u32 |           | last sequence i32, last offset i64, offset delta i32,    |
    |             |                 |           | timestamp i64, coordinator epoch i32, txn first off. i64 |
    +-------------+-----------------+-----------+----------------------------------------------------------+

A batch that was delayed as a whole counts as any other of its producer; the complement of its timestamp tells it apart.
What lies hidden beside the rest of a batch counts for nothing: the rest does (content/delayed.py).

Kafka writes one entry a producer, its last batch. We write up to five, oldest first: Kafka keeps the last it reads of
a producer, and we keep the power to recognise every repetition after a restart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kafka_wire import primitives
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader
from kbroker.log.derived.transactions import Marker, Transactions, may_begin
from kbroker.turns import Work

BATCHES_KEPT = 5
PRODUCERS_A_PAUSE = 100
GUARDS_MAX = 20_000
TRANSACTIONAL, CONTROL = 0x10, 0x20  # of a batch's attributes
SEQUENCE_MAX = 2**31 - 1
EPOCH_MAX = 2**15 - 1
NO_SEQUENCE = -1

_HEAD = struct.Struct(">hIi")
_ENTRY = struct.Struct(">qhiqiqiq")
_VERSION = 1


class SeenBatch(NamedTuple):
    """A batch of a producer, as far as a repetition of it is concerned."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int  # below -1: all of it was delayed, and it was hidden at the complement of that

    @property
    def is_hidden(self) -> bool:
        return self.timestamp_ms < -1


class Producer:
    """One producer: its epoch and last batches, oldest first. Batches of an older epoch are forgotten."""

    __slots__ = ("epoch", "batches", "coordinator_epoch", "txn_first_offset", "marker_ms", "seen_ms", "packed")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.batches: list[SeenBatch] = []
        self.coordinator_epoch = -1
        self.txn_first_offset = -1  # of the open transaction; -1 when there is none
        self.marker_ms = -1  # the timestamp of its last marker, if that is known
        self.packed = b""  # its entries in a snapshot, while they are right: most producers are silent between two
        self.seen_ms = -1  # when it last wrote, by the data clock; `touch` says so of what was read back

    def pack(self, producer_id: int) -> bytes:
        """Its entries in a snapshot: one for each batch, or one that tells of none."""
        tail = (self.coordinator_epoch, self.txn_first_offset)
        if not self.batches:
            return _ENTRY.pack(producer_id, self.epoch, NO_SEQUENCE, -1, 0, self.seen_ms, *tail)
        entries = [
            _ENTRY.pack(
                producer_id, self.epoch, each.last_sequence, each.last_offset, each.last_offset - each.base_offset,
                each.timestamp_ms, *tail,
            )
            for each in self.batches
        ]  # fmt: skip
        self.packed = b"".join(entries)
        return self.packed

    @property
    def is_in_transaction(self) -> bool:
        return self.txn_first_offset >= 0

    @property
    def last_sequence(self) -> int:
        """Of its last batch; NO_SEQUENCE when there is none of its epoch."""
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    @property
    def last_data_offset(self) -> int:
        """The last offset of its last batch; -1 when there is none of its epoch."""
        return self.batches[-1].last_offset if self.batches else -1

    @property
    def last_timestamp_ms(self) -> int:
        """Of its last batch or marker; -1 when there is none."""
        last_ms = self.batches[-1].timestamp_ms if self.batches else -1
        return max(last_ms if last_ms >= -1 else ~last_ms, self.marker_ms)

    def find(self, header: BatchHeader) -> SeenBatch | None:
        """The batch that this one repeats, if it is among the last."""
        if header.producer_epoch == self.epoch and header.base_sequence != NO_SEQUENCE:
            last_sequence = header.last_sequence
            for seen in self.batches:
                if seen.first_sequence == header.base_sequence and seen.last_sequence == last_sequence:
                    return seen
        return None


class Guard:
    """The question whether a producer's transaction has this partition, while nothing of that producer is appended.

    What is refused for now comes again: `lowest_sequence` keeps what was sent behind it from coming first. (Kafka:
    VerificationStateEntry.)
    """

    __slots__ = ("epoch", "lowest_sequence", "begins_at_zero", "seen_ms")

    def __init__(self, epoch: int, lowest_sequence: int, begins_at_zero: bool) -> None:
        self.epoch = epoch
        self.lowest_sequence = lowest_sequence
        self.begins_at_zero = begins_at_zero  # an unknown producer: its epoch is new in each transaction (KIP-890)
        self.seen_ms = -1  # when it was first found by `expire`


UNVERIFIED = Guard(-1, SEQUENCE_MAX, False)  # of those who need none: the broker itself, or verification is off


class CorruptSnapshot(Exception):
    """A snapshot file that cannot be trusted; an older one, or the whole log, takes its place."""


class ProducerStates:
    """All producers of a log."""

    __slots__ = ("by_id", "transactions", "guards")

    def __init__(self) -> None:
        self.by_id: dict[int, Producer] = {}
        self.transactions = Transactions()
        self.guards: dict[int, Guard] = {}  # by producer id, the oldest first

    def __len__(self) -> int:
        return len(self.by_id)

    def clear(self) -> None:
        """Know nothing."""
        self.by_id = {}
        self.guards.clear()
        self.transactions.restore(())

    def check(self, header: BatchHeader, guard: Guard | None = None) -> SeenBatch | None:
        """Judge a batch: None to append it, or the earlier batch it repeats. guard: see `verification`.

        Raises KafkaError: OUT_OF_ORDER_SEQUENCE_NUMBER for a gap, INVALID_PRODUCER_EPOCH for an old epoch (P3),
        INVALID_TXN_STATE for what is not of the transaction that is, or is not, ongoing.
        """
        producer = self.by_id.get(header.producer_id)
        if header.attributes & TRANSACTIONAL:
            if producer is None or not producer.is_in_transaction or producer.epoch != header.producer_epoch:
                seen = producer.find(header) if producer is not None else None
                if seen is not None:
                    return seen
                self._check_epoch(header.producer_id, header.producer_epoch)
                self._check_guard(header, producer, guard)
        elif producer is not None and producer.txn_first_offset >= 0:
            return self._check_outside(header, producer)
        return self._check_sequence(header, producer) if producer is not None else None

    def _check_outside(self, header: BatchHeader, producer: Producer) -> SeenBatch:
        """A batch without a transaction, of a producer that has one open: it may be an old one, at best."""
        seen = self._check_sequence(header, producer)
        if seen is None:
            text = f"producer {header.producer_id} wrote outside of the transaction it has open"
            raise KafkaError(ErrorCode.INVALID_TXN_STATE, text)
        return seen

    def _check_sequence(self, header: BatchHeader, producer: Producer) -> SeenBatch | None:
        sequence = header.base_sequence
        if header.producer_epoch == producer.epoch:
            last = producer.batches[-1].last_sequence if producer.batches else NO_SEQUENCE
            if sequence == last + 1 or (sequence == 0 and last == SEQUENCE_MAX) or sequence == NO_SEQUENCE:
                return None  # without a number: the group coordinator's, who sends nothing twice
            seen = producer.find(header)
            if seen is not None:
                return seen
            raise KafkaError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {header.producer_id} sent sequence {sequence} after {last}",
            )
        self._check_epoch(header.producer_id, header.producer_epoch)
        if sequence > 0:
            raise KafkaError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {header.producer_id} begins epoch {header.producer_epoch} with sequence {sequence}, not 0",
            )
        return None

    def _check_epoch(self, producer_id: int, epoch: int) -> None:
        producer = self.by_id.get(producer_id)
        if producer is not None and epoch < producer.epoch:
            text = f"producer {producer_id} has epoch {producer.epoch}, this is of {epoch}"
            raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, text)

    def check_marker(self, marker: Marker) -> None:
        """Raise KafkaError unless it may be appended: INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED (P3).

        A marker of transactions v2 has an epoch of its own, so that a late one cannot end the transaction that is open
        now (T5). One that is sent again finds none open. (Kafka: ProducerAppendInfo.checkProducerEpoch.)
        """
        self._check_epoch(marker.producer_id, marker.producer_epoch)
        producer = self.by_id.get(marker.producer_id)
        if producer is None:
            return
        is_of_its_own = marker.producer_epoch > producer.epoch or marker.producer_epoch == EPOCH_MAX
        if marker.transaction_version >= 2 and producer.is_in_transaction and not is_of_its_own:
            text = f"the transaction of producer {marker.producer_id} that is open is of epoch {producer.epoch}, too"
            raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, text)
        if marker.coordinator_epoch < producer.coordinator_epoch:
            text = f"a coordinator of epoch {producer.coordinator_epoch} ended the last transaction of producer"
            text = f"{text} {marker.producer_id}, this one is of {marker.coordinator_epoch}"
            raise KafkaError(ErrorCode.TRANSACTION_COORDINATOR_FENCED, text)

    # verification

    def verification(self, header: BatchHeader, *, begins_at_zero: bool = False) -> Guard | None:
        """What stands for the question whether a batch's transaction has this partition; None: it need not be asked.

        begins_at_zero: the client raises its epoch with each transaction (Produce 12 and later).
        Raises KafkaError INVALID_PRODUCER_EPOCH.
        """
        if not header.attributes & TRANSACTIONAL:
            return None
        producer_id, epoch, sequence = header.producer_id, header.producer_epoch, header.base_sequence
        self._check_epoch(producer_id, epoch)
        producer = self.by_id.get(producer_id)
        if producer is not None and producer.is_in_transaction and producer.epoch == epoch:
            return None
        guard = self.guards.get(producer_id)
        if guard is None or guard.epoch < epoch:
            self.guards.pop(producer_id, None)
            guard = self.guards[producer_id] = Guard(epoch, sequence, begins_at_zero)
            if len(self.guards) > GUARDS_MAX:
                del self.guards[next(iter(self.guards))]
        elif guard.epoch == epoch:
            guard.lowest_sequence = min(guard.lowest_sequence, sequence)
        return guard

    def _check_guard(self, header: BatchHeader, producer: Producer | None, guard: Guard | None) -> None:
        """The first batch of a transaction: was it verified, and did nothing happen since?"""
        if guard is UNVERIFIED:
            return
        if guard is None or guard is not self.guards.get(header.producer_id):
            text = f"producer {header.producer_id} has no transaction here that was verified"
            raise KafkaError(ErrorCode.INVALID_TXN_STATE, text)
        if guard.epoch != header.producer_epoch:  # of a batch that only says so: what is fenced the log knows itself
            return
        is_first = producer is None or not producer.batches
        lowest = 0 if guard.begins_at_zero and is_first else guard.lowest_sequence
        if header.base_sequence > lowest:
            text = f"producer {header.producer_id} sent sequence {header.base_sequence}, {lowest} comes first"
            raise KafkaError(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, text)

    def refused(self, header: BatchHeader) -> None:
        """Note that a batch was refused for now: it will come again, and those sent behind it must not come first.

        A producer nobody knows may otherwise begin with any number.
        """
        if header.producer_id >= 0 and header.base_sequence == 0 and header.producer_id not in self.by_id:
            self.by_id[header.producer_id] = Producer(header.producer_epoch)

    def update(self, header: BatchHeader, base_offset: int, now_ms: int = -1, marker: Marker | None = None) -> None:
        """Note a batch that is now in the log at base_offset. Never refuses: replay of the log comes here too (P2).

        marker: what a control batch says.
        """
        is_hidden = header.attributes & CONTROL and header.base_sequence != NO_SEQUENCE
        if is_hidden and header.base_sequence < 0:
            return
        producer = self.by_id.get(header.producer_id)
        if producer is None:
            producer = self.by_id[header.producer_id] = Producer(header.producer_epoch)
        elif header.producer_epoch != producer.epoch:
            producer.epoch = header.producer_epoch
            producer.batches.clear()
        producer.packed = b""
        producer.seen_ms = now_ms
        if header.attributes & (TRANSACTIONAL | CONTROL):
            self._update_transaction(producer, header, base_offset, marker)
        if header.base_sequence == NO_SEQUENCE:
            return
        last_offset = base_offset + header.last_offset_delta
        batches = producer.batches
        at_ms = ~header.max_timestamp if is_hidden else header.max_timestamp
        batches.append(SeenBatch(header.base_sequence, header.last_sequence, base_offset, last_offset, at_ms))
        if len(batches) > BATCHES_KEPT:
            del batches[0]

    def _update_transaction(
        self, producer: Producer, header: BatchHeader, base_offset: int, marker: Marker | None
    ) -> None:
        guard = self.guards.get(header.producer_id)
        # The epoch of a marker of transactions v2 is that of the next transaction: its guard stands.
        is_of_the_next = marker is not None and guard is not None and guard.begins_at_zero
        if guard is not None and not (is_of_the_next and guard.epoch == header.producer_epoch):
            del self.guards[header.producer_id]
        if marker is not None:
            producer.coordinator_epoch = marker.coordinator_epoch
            producer.marker_ms = header.max_timestamp
            producer.txn_first_offset = -1
            self.transactions.end(header.producer_id, base_offset)
        elif not producer.is_in_transaction and may_begin(header):
            producer.txn_first_offset = base_offset
            self.transactions.begin(header.producer_id, base_offset)

    def expire(self, now_ms: int, expiration_ms: int) -> Work[int]:
        """Forget producers without an open transaction that wrote nothing for expiration_ms. Returns how many. Pauses:
        who writes meanwhile stays.

        Kafka goes by the timestamps in the records, and so forgets at once who writes old data. Here the clock counts.
        """
        self._expire_guards(now_ms, expiration_ms)
        gone = 0
        for number, producer_id in enumerate(tuple(self.by_id), 1):
            producer = self.by_id.get(producer_id)
            if producer is None:
                continue
            if producer.seen_ms < 0:
                producer.seen_ms = now_ms
            if producer.txn_first_offset < 0 and now_ms - producer.seen_ms >= expiration_ms:
                del self.by_id[producer_id]
                gone += 1
            if not number % PRODUCERS_A_PAUSE:
                yield
        return gone

    def _expire_guards(self, now_ms: int, expiration_ms: int) -> None:
        for producer_id, guard in tuple(self.guards.items()):
            if guard.seen_ms < 0:
                guard.seen_ms = now_ms
            if now_ms - guard.seen_ms >= expiration_ms:
                del self.guards[producer_id]

    def touch(self, now_ms: int) -> None:
        """Count all as seen now: how long they were silent before, nobody knows."""
        for producer in self.by_id.values():
            producer.seen_ms = now_ms

    def snapshot(self) -> bytes:
        """The state as a snapshot file's content."""
        entries = b"".join([each.packed or each.pack(producer_id) for producer_id, each in self.by_id.items()])
        body = struct.pack(">i", len(entries) // _ENTRY.size) + entries
        return struct.pack(">hI", _VERSION, primitives.crc32c(body)) + body

    def load(self, data: bytes) -> None:
        """Replace the state by a snapshot's. Raises CorruptSnapshot."""
        entries = _entries(data)
        self.clear()
        for entry in entries:
            self._load_entry(*entry)
        self.transactions.restore(
            (producer_id, each.txn_first_offset) for producer_id, each in self.by_id.items() if each.is_in_transaction
        )

    def _load_entry(
        self,
        producer_id: int,
        epoch: int,
        last_sequence: int,
        last_offset: int,
        delta: int,
        timestamp_ms: int,
        coordinator_epoch: int,
        txn_first_offset: int,
    ) -> None:
        producer = self.by_id.get(producer_id)
        if producer is None or producer.epoch != epoch:
            producer = self.by_id[producer_id] = Producer(epoch)
        producer.coordinator_epoch = coordinator_epoch
        producer.txn_first_offset = txn_first_offset
        producer.packed = b""
        if last_sequence != NO_SEQUENCE:
            first = (last_sequence - delta) & SEQUENCE_MAX
            producer.batches.append(SeenBatch(first, last_sequence, last_offset - delta, last_offset, timestamp_ms))
            del producer.batches[:-BATCHES_KEPT]


def _entries(data: bytes) -> Iterator[tuple[int, ...]]:
    """The entries of a snapshot. Raises CorruptSnapshot."""
    if len(data) < _HEAD.size:
        raise CorruptSnapshot("too short")
    version, crc, count = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise CorruptSnapshot(f"version {version}")
    if primitives.crc32c(memoryview(data)[6:]) != crc:
        raise CorruptSnapshot("wrong CRC")
    if len(data) != _HEAD.size + count * _ENTRY.size:
        raise CorruptSnapshot(f"{count} entries do not make {len(data)} bytes")
    return _ENTRY.iter_unpack(memoryview(data)[_HEAD.size :])


def read_transactions(data: bytes) -> Transactions:
    """The ongoing transactions of a snapshot alone: it may be of many producers. Raises CorruptSnapshot."""
    transactions = Transactions()
    transactions.restore({entry[0]: entry[7] for entry in _entries(data) if entry[7] >= 0}.items())
    return transactions
