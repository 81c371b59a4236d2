"""What a log knows of its idempotent producers: the last five batches of each. Owns the snapshot format.

A producer numbers its records per partition. The log accepts the next number only, answers a repetition of any of
the last five batches with the offsets it had (P1), and refuses what leaves a gap. An unknown producer may begin
with any number: its history may have been deleted. (Kafka: ProducerStateManager, ProducerAppendInfo.)

`<offset>.snapshot` is the state after all batches below an offset, big-endian:

    +-------------+-----------------+-----------+----------------------------------------------------------+
    | version i16 | CRC-32C of what | count i32 | count entries: producer id i64, epoch i16,               |
    | 1           | follows     u32 |           | last sequence i32, last offset i64, offset delta i32,    |
    |             |                 |           | timestamp i64, coordinator epoch i32, txn first off. i64 |
    +-------------+-----------------+-----------+----------------------------------------------------------+

Kafka writes one entry a producer, its last batch. We write up to five, oldest first: Kafka keeps the last it reads of
a producer, and we keep the power to recognise every repetition after a restart.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kafka_wire import primitives
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader

BATCHES_KEPT = 5
SEQUENCE_MAX = 2**31 - 1
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
    timestamp_ms: int


class Producer:
    """One producer: its epoch and last batches, oldest first. Batches of an older epoch are forgotten."""

    __slots__ = ("epoch", "batches", "coordinator_epoch", "txn_first_offset", "seen_ms", "packed")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.batches: list[SeenBatch] = []
        self.coordinator_epoch = -1
        self.txn_first_offset = -1  # of the open transaction; -1 when there is none
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


class CorruptSnapshot(Exception):
    """A snapshot file that cannot be trusted; an older one, or the whole log, takes its place."""


class ProducerStates:
    """All producers of a log."""

    __slots__ = ("by_id",)

    def __init__(self) -> None:
        self.by_id: dict[int, Producer] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def check(self, header: BatchHeader) -> SeenBatch | None:
        """Judge a client's batch: None to append it, or the earlier batch it repeats.

        Raises KafkaError: OUT_OF_ORDER_SEQUENCE_NUMBER for a gap, INVALID_PRODUCER_EPOCH for an old epoch (P3).
        """
        producer = self.by_id.get(header.producer_id)
        if producer is None:
            return None
        sequence = header.base_sequence
        if header.producer_epoch == producer.epoch:
            last = producer.batches[-1].last_sequence if producer.batches else NO_SEQUENCE
            if sequence == last + 1 or (sequence == 0 and last == SEQUENCE_MAX):
                return None
            last_sequence = header.last_sequence
            for seen in producer.batches:
                if seen.first_sequence == sequence and seen.last_sequence == last_sequence:
                    return seen
            raise KafkaError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {header.producer_id} sent sequence {sequence} after {last}",
            )
        if header.producer_epoch < producer.epoch:
            raise KafkaError(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"producer {header.producer_id} has epoch {producer.epoch}, this batch {header.producer_epoch}",
            )
        if sequence != 0:
            raise KafkaError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {header.producer_id} begins epoch {header.producer_epoch} with sequence {sequence}, not 0",
            )
        return None

    def refused(self, header: BatchHeader) -> None:
        """Note that a batch was refused for now: it will come again, and those sent behind it must not come first.

        A producer nobody knows may otherwise begin with any number.
        """
        if header.producer_id >= 0 and header.base_sequence == 0 and header.producer_id not in self.by_id:
            self.by_id[header.producer_id] = Producer(header.producer_epoch)

    def update(self, header: BatchHeader, base_offset: int, now_ms: int = -1) -> None:
        """Note a batch that is now in the log at base_offset. Never refuses: replay of the log comes here too (P2)."""
        producer = self.by_id.get(header.producer_id)
        if producer is None:
            producer = self.by_id[header.producer_id] = Producer(header.producer_epoch)
        elif header.producer_epoch != producer.epoch:
            producer.epoch = header.producer_epoch
            producer.batches.clear()
        producer.packed = b""
        producer.seen_ms = now_ms
        if header.is_control:  # a marker ends the transaction and carries no sequence
            producer.txn_first_offset = -1
            return
        if header.is_transactional and producer.txn_first_offset < 0:
            producer.txn_first_offset = base_offset
        last_offset = base_offset + header.last_offset_delta
        batches = producer.batches
        batches.append(
            SeenBatch(header.base_sequence, header.last_sequence, base_offset, last_offset, header.max_timestamp)
        )
        if len(batches) > BATCHES_KEPT:
            del batches[0]

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers without an open transaction that wrote nothing for expiration_ms. Returns how many.

        Kafka goes by the timestamps in the records, and so forgets at once who writes old data. Here the clock counts.
        """
        for producer in self.by_id.values():
            if producer.seen_ms < 0:
                producer.seen_ms = now_ms
        old = [
            producer_id
            for producer_id, producer in self.by_id.items()
            if producer.txn_first_offset < 0 and now_ms - producer.seen_ms >= expiration_ms
        ]
        for producer_id in old:
            del self.by_id[producer_id]
        return len(old)

    def touch(self, now_ms: int) -> None:
        """Count all as seen now: how long they were silent before, nobody knows."""
        for producer in self.by_id.values():
            producer.seen_ms = now_ms

    @property
    def first_open_transaction(self) -> int | None:
        """The first offset of the oldest open transaction: the last stable offset stops there."""
        open_ = [producer.txn_first_offset for producer in self.by_id.values() if producer.txn_first_offset >= 0]
        return min(open_) if open_ else None

    def snapshot(self) -> bytes:
        """The state as a snapshot file's content."""
        entries = b"".join([each.packed or each.pack(producer_id) for producer_id, each in self.by_id.items()])
        body = struct.pack(">i", len(entries) // _ENTRY.size) + entries
        return struct.pack(">hI", _VERSION, primitives.crc32c(body)) + body

    def load(self, data: bytes) -> None:
        """Replace the state by a snapshot's. Raises CorruptSnapshot."""
        if len(data) < _HEAD.size:
            raise CorruptSnapshot("too short")
        version, crc, count = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise CorruptSnapshot(f"version {version}")
        if primitives.crc32c(memoryview(data)[6:]) != crc:
            raise CorruptSnapshot("wrong CRC")
        if len(data) != _HEAD.size + count * _ENTRY.size:
            raise CorruptSnapshot(f"{count} entries do not make {len(data)} bytes")
        self.by_id = {}
        for entry in _ENTRY.iter_unpack(data[_HEAD.size :]):
            self._load_entry(*entry)

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
