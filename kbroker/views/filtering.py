"""What a filter leaves of a batch: all of it, some records, or nothing. Pure: bytes in, bytes out.

Records keep their offsets, timestamps, headers; the batch its base and last offset, producer, sequence, epoch, codec.
What cannot be judged, as its CRC is wrong or its records cannot be read, stays as it is: a consumer finds that out here
as he would at the source. (Kafka: MemoryRecords.filterTo.)

Measured: 0.2 µs for a record without tags where tags are asked for; 0.7 µs for one whose headers were seen before.
"""

from __future__ import annotations

from typing import TypeAlias

from kafka_wire.errors import KafkaError, ProtocolError
from kafka_wire.primitives import read_varint
from kafka_wire.records import BatchHeader, Headers, check_crc, with_records
from kbroker.filters import TAGS_HEADER, Expression, split_tags

Buffer: TypeAlias = "bytes | bytearray | memoryview"

SEEN_MAX = 4096  # headers, or keys and headers, of which the verdict is remembered while a piece is filtered
SEEN_BYTES_MAX = 256  # of each
SEARCHED_MAX = 16 * 1024 * 1024  # bytes searched for tags in one go: all other threads wait for it

_NAME = TAGS_HEADER.encode()


class Filter:
    """Judges the records of some batches. One for each piece of work."""

    __slots__ = ("expression", "tags", "reads_key", "seen")

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.tags = expression.tags()
        self.reads_key = expression.reads_key
        self.seen: dict[bytes, bool] = {}  # headers as they stand -> whether they match

    def left_of(self, batch: memoryview, header: BatchHeader, records: bytes) -> Buffer | None:
        """What is left of a whole batch of data: itself if that is all, None if nothing is. records: decompressed."""
        if not header.count:
            return None
        try:
            runs, count, latest = self._select(records, header.count)
        except (KafkaError, ProtocolError, IndexError):
            return batch
        if count == header.count or not check_crc(batch, 0, header):
            return batch
        if not count:
            return None
        now = header._replace(count=count)
        if not header.log_append_time:
            now = now._replace(max_timestamp=header.base_timestamp + latest)
        return with_records(now, b"".join(runs))

    def _select(self, data: bytes, count: int) -> tuple[list[bytes], int, int]:
        """The records that match, as runs of bytes; how many; the largest of their timestamp deltas, in ms.

        Raises KafkaError, ProtocolError, IndexError for records that are not what they say.
        """
        names = count if self.tags is None or len(data) > SEARCHED_MAX else _names_in(data, self.tags)
        if not names:
            return [], 0, 0
        runs: list[bytes] = []
        is_sparse, judge = 2 * names < count, self._judge  # most need not be judged
        kept, latest = 0, -(1 << 63)
        pos, start, whole, tags_at = 0, -1, len(data), 0
        for _ in range(count):
            size = data[pos]
            if size < 0x80 and not size & 1:
                size, at = size >> 1, pos + 1
            elif (byte := data[pos + 1]) < 0x80 and not size & 1:
                size, at = (size + (byte << 7) - 0x80) >> 1, pos + 2
            else:
                size, at = read_varint(data, pos)
            end = at + size
            if not at <= end <= whole:
                raise IndexError
            if is_sparse and tags_at < at:
                tags_at = data.find(_NAME, at)
                if tags_at < 0:
                    tags_at = whole
            delta = None if is_sparse and tags_at >= end else judge(data, at, end)
            if delta is not None:
                kept += 1
                if delta > latest:
                    latest = delta
                if start < 0:
                    start = pos
            elif start >= 0:
                runs.append(data[start:pos])
                start = -1
            pos = end
        if pos != whole:
            raise IndexError
        if start >= 0:
            runs.append(data[start:])
        return runs, kept, latest

    def _judge(self, data: bytes, at: int, end: int) -> int | None:
        """The timestamp delta of a record whose fields begin at a position; None if it does not match.

        Numbers of one byte, and lengths of two, are read here: nearly all are.
        """
        delta = data[at + 1]
        if delta >= 0x80:
            delta, at = read_varint(data, at + 1)
        else:
            delta, at = (delta >> 1) ^ -(delta & 1), at + 2
        while data[at] >= 0x80:  # the offset's, which does not count
            at += 1
        key_at = at = at + 1
        size = data[at]
        if size >= 0x80 or size & 1:
            size, at = read_varint(data, at)
        else:
            size, at = size >> 1, at + 1
        key_start, has_key = at, size >= 0
        if size > 0:
            at += size
        key_end, size = at, data[at]
        if size < 0x80:
            at += 1 if size & 1 else 1 + (size >> 1)
        elif (byte := data[at + 1]) < 0x80 and not size & 1:
            at += 2 + ((size + (byte << 7) - 0x80) >> 1)
        else:
            size, at = read_varint(data, at)
            at += max(size, 0)
        if at >= end:
            raise IndexError
        seen = data[key_at:key_end] + data[at:end] if self.reads_key else data[at:end]
        found = self.seen.get(seen)
        if found is None:
            key = data[key_start:key_end] if has_key else None
            found = self._look(key, data, at, end, seen)
        return delta if found else None

    def _look(self, key: bytes | None, data: bytes, at: int, end: int, seen: bytes) -> bool:
        found = self.expression.matches(key, read_headers(data, at, end))
        if len(seen) <= SEEN_BYTES_MAX:
            if len(self.seen) >= SEEN_MAX:
                self.seen.clear()
            self.seen[seen] = found
        return found


def _names_in(data: bytes, tags: frozenset[bytes]) -> int:
    """How often the header's name stands in these records; 0 also where it is seen at once that none has the tags."""
    at = data.find(_NAME)
    if at < 0:
        return 0
    names = data.count(_NAME)
    try:
        size, start = read_varint(data, at + len(_NAME))
    except ProtocolError:
        return names
    end = start + max(size, 0)
    is_other = tags.isdisjoint(split_tags(data[start:end]))
    return 0 if is_other and data.count(data[at:end]) == names else names


def read_headers(data: bytes, at: int, end: int) -> Headers:
    """A record's headers, from their count on. Raises IndexError, KafkaError unless they end there."""
    count, at = read_varint(data, at)
    if not 0 <= 2 * count <= end - at:
        raise IndexError
    found = []
    for _ in range(count):
        size, at = read_varint(data, at)
        if size < 0 or at + size > end:
            raise IndexError
        name = data[at : at + size].decode(errors="surrogateescape")
        size, at = read_varint(data, at + size)
        found.append((name, data[at : at + size] if size >= 0 else None))
        at += max(size, 0)
    if at != end:
        raise IndexError
    return tuple(found)
