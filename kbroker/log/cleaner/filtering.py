"""What compaction leaves of a batch: all of it, some records, an empty one, or nothing. Pure: bytes in, bytes out.

    of a record     stays if it has the newest offset of its key, and is no tombstone whose time has passed; or if the
                    map does not reach up to it. One without a key goes
    of a batch      what stays keeps its offset; the batch its base and last offset, producer, sequence, epoch: so it
                    is empty rather than gone when it is the last of an active producer. Where a segment ends, or a
                    leader epoch begins, a batch without records and producer says so
    of a marker     stays while anything of its transaction is there, and as long as tombstones do after that
    what is hidden  (delayed records in their own log) is none of this, and goes

A tombstone and a marker stay for delete.retention.ms after they first passed here: that moment is written into the
batch as its base timestamp, with attribute bit 6 (KIP-534). (Kafka: Cleaner, MemoryRecords.filterTo.)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from kafka_wire import compression as codecs
from kafka_wire.primitives import read_varint, varint
from kafka_wire.records import CODEC, DELETE_HORIZON, NO_SEQUENCE, BatchHeader, payload, with_records
from kafka_wire.walk import Keyed, keyed, stamps
from kbroker.config.keys import LONG_MAX
from kbroker.log.cleaner.job import Last, Tally
from kbroker.log.cleaner.offset_map import OffsetMap
from kbroker.log.cleaner.transactions import Decided
from kbroker.log.derived.transactions import AbortedRange, read_marker

Buffer: TypeAlias = "bytes | bytearray | memoryview"

NO_TIMESTAMP = -1


class Rules(NamedTuple):
    """What stays."""

    newest: OffsetMap
    latest: int  # the map tells of all offsets up to this one
    now_ms: int
    delete_retention_ms: int
    producers: Mapping[int, Last]  # the active ones
    markers: Mapping[int, int]  # the last marker of those without data, where it was seen
    batch_bytes_max: int  # decompressed


class Filter:
    """Judges batches in the order of their offsets."""

    __slots__ = ("rules", "decided", "tally", "aborted", "_leader_epoch")

    def __init__(self, rules: Rules, decided: Decided) -> None:
        self.rules = rules
        self.decided = decided
        self.tally = Tally()
        self.aborted: list[AbortedRange] = []  # what the transaction index of these batches has to say
        self._leader_epoch: int | None = None  # of the batch before

    def take(self) -> tuple[Tally, list[AbortedRange]]:
        """What was counted since the last time."""
        found = self.tally, self.aborted
        self.tally, self.aborted = Tally(), []
        return found

    def judge(self, batch: memoryview, header: BatchHeader, *, is_last: bool) -> tuple[Buffer | None, BatchHeader]:
        """What is left of a whole batch, and its header: the very bytes if that is all, None if nothing is.

        is_last: it stays, if empty, to say where its segment ends. Raises KafkaError for records that cannot be read.
        """
        self.tally.bytes_before += header.size
        self.tally.records_before += header.count
        if is_marker(header):
            left, now = self._judge_marker(batch, header)
        else:
            left, now = self._judge_data(batch, header)
        begins_epoch, self._leader_epoch = header.leader_epoch != self._leader_epoch, header.leader_epoch
        if left is None and self._is_last_of_producer(header):
            now = _emptied(header)
            left = with_records(now, b"")
        elif left is None and (is_last or begins_epoch):
            now = _nameless(_emptied(header))
            left = with_records(now, b"")
        if left is not None:
            self.decided.stays(now)
            self.tally.bytes_after += len(left)
            self.tally.records_after += now.count
        return left, now

    def _is_last_of_producer(self, header: BatchHeader) -> bool:
        last = self.rules.producers.get(header.producer_id)
        if last is None or header.producer_id < 0:
            return False
        if last.data_offset >= 0:
            return header.last_offset == last.data_offset
        return (
            header.is_control
            and header.producer_epoch == last.epoch
            and header.base_offset >= self.rules.markers.get(header.producer_id, -1)
        )

    def _judge_marker(self, batch: memoryview, header: BatchHeader) -> tuple[Buffer | None, BatchHeader]:
        marker = read_marker(batch) if header.count else None
        is_empty, aborted = self.decided.ends(header, marker)
        if aborted is not None:
            self.aborted.append(aborted)
        if not is_empty:
            return batch, header
        if not header.count:
            return None, header
        if not header.has_delete_horizon:
            records = payload(batch, max_bytes=self.rules.batch_bytes_max)
            return self._rebuilt(header, [records], 1, is_dated=True)
        if header.base_timestamp <= self.rules.now_ms:
            return None, header
        self._waits_until(header.base_timestamp)
        return batch, header

    def _judge_data(self, batch: memoryview, header: BatchHeader) -> tuple[Buffer | None, BatchHeader]:
        if self.decided.passes(header) or not header.count or header.is_control:
            return None, header
        records = payload(batch, max_bytes=self.rules.batch_bytes_max)
        found = keyed(records, header.count)
        kept, count, tombstones = self._kept(header, found, records)
        if not count:
            return None, header
        self.tally.tombstones += tombstones
        if tombstones and header.has_delete_horizon:
            self._waits_until(header.base_timestamp)
        is_dated = tombstones > 0 and not header.has_delete_horizon
        if count == header.count and not is_dated:
            return batch, header
        return self._rebuilt(header, kept, count, is_dated=is_dated)

    def _kept(self, header: BatchHeader, found: list[Keyed], records: bytes) -> tuple[list[bytes], int, int]:
        """Of the records: those that stay, as runs of bytes; how many; how many of them are tombstones."""
        rules, base = self.rules, header.base_offset
        newest, latest = rules.newest.get, rules.latest
        is_over = header.has_delete_horizon and header.base_timestamp <= rules.now_ms
        runs: list[bytes] = []
        start = -1  # of the run that goes on
        count = tombstones = 0
        for position, delta, key, has_value in found:
            offset = base + delta
            if offset > latest or (key is not None and offset >= newest(key) and (has_value or not is_over)):
                count += 1
                tombstones += not has_value
                if start < 0:
                    start = position
            elif start >= 0:
                runs.append(records[start:position])
                start = -1
        if start >= 0:
            runs.append(records[start:])
        return runs, count, tombstones

    def _rebuilt(
        self, header: BatchHeader, runs: list[bytes], count: int, *, is_dated: bool
    ) -> tuple[Buffer, BatchHeader]:
        """The batch with those records alone. is_dated: their time to go begins now."""
        records, now = b"".join(runs), header._replace(count=count)
        if is_dated:
            horizon_ms = min(self.rules.now_ms + self.rules.delete_retention_ms, LONG_MAX)
            self._waits_until(horizon_ms)
            records = _shifted(records, count, header.base_timestamp - horizon_ms)
            now = now._replace(attributes=header.attributes | DELETE_HORIZON, base_timestamp=horizon_ms)
        if not header.log_append_time:
            now = now._replace(max_timestamp=now.base_timestamp + max(delta for delta, _ in stamps(records, count)))
        return with_records(now, records), now

    def _waits_until(self, horizon_ms: int) -> None:
        self.tally.horizon_ms = min(self.tally.horizon_ms, horizon_ms)


def is_marker(header: BatchHeader) -> bool:
    """Whether a batch may end a transaction: what is hidden from consumers otherwise has a sequence, or another number
    in its place. Nothing below the bound of compaction needs that any more (`PartitionLog.held_from`)."""
    return header.is_control and header.base_sequence == NO_SEQUENCE


def _emptied(header: BatchHeader) -> BatchHeader:
    """The header of what a batch is without records. (Kafka: DefaultRecordBatch.writeEmptyHeader.)"""
    attributes = header.attributes & ~(CODEC | DELETE_HORIZON) | codecs.NONE
    return header._replace(attributes=attributes, base_timestamp=NO_TIMESTAMP, count=0)


def _nameless(header: BatchHeader) -> BatchHeader:
    """The header of a batch that only says which offsets there were: no transaction waits for its marker."""
    return header._replace(attributes=codecs.NONE, producer_id=-1, producer_epoch=-1, base_sequence=NO_SEQUENCE)


def _shifted(records: bytes, count: int, by_ms: int) -> bytes:
    """The same records with timestamps relative to another base."""
    parts: list[bytes] = []
    starts = [position for position, _, _, _ in keyed(records, count)] + [len(records)]
    for start, end in pairwise(starts):
        _, at = read_varint(records, start)
        delta, rest = read_varint(records, at + 1)
        body = records[at : at + 1] + varint(delta + by_ms) + records[rest:end]
        parts += (varint(len(body)), body)
    return b"".join(parts)
