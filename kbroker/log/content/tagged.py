"""Which tags the records of a batch have, as numbers of the tag index (derived/tags.py). Pure: bytes in, numbers out.

What is found is never too little, and may be too much: wherever the name of the header stands in the records' bytes,
what follows is taken for its value. That takes one search through the bytes instead of a walk through all records.
"""

from __future__ import annotations

from kafka_wire import compression as codecs
from kafka_wire.errors import KafkaError, ProtocolError
from kafka_wire.primitives import crc32c, read_varint
from kafka_wire.records import HEADER_SIZE, BatchHeader
from kbroker.filters import TAGS_HEADER, split_tags
from kbroker.log.derived.tags import ABORTS, ANY, FIRST_TAG, LOOK, bounded
from kbroker.log.derived.transactions import read_marker

NAMES_MAX, NAMES_SUM_MAX = 1024, 4096  # found in a batch, and in several that came together: two milliseconds
NAMES_MIN, NAMES_A_RECORD = 64, 4  # in a batch: more than so many is no honest one
VALUES_BYTES_MAX = 32 * 1024  # of different values, read in the event loop: a millisecond, should they be mostly commas
PACKED_MAX, UNPACKED_MAX = 16 * 1024, 128 * 1024  # bytes decompressed in the event loop
PACKED_SUM_MAX = 64 * 1024  # of all batches that came together
BATCH_BYTES_MAX = 16 * 1024 * 1024  # decompressed, by a worker: a larger batch stays a LOOK

_NAME = TAGS_HEADER.encode()
_LOOK, _NONE = frozenset((LOOK,)), frozenset[int]()


def number_of(tag: bytes) -> int:
    """The number that stands for a tag: 16 bits."""
    return FIRST_TAG + crc32c(tag) % (0x10000 - FIRST_TAG)


class Tagger:
    """Looks for tags within a budget: what exceeds it is left for a LOOK. One for each piece of work."""

    __slots__ = ("is_bounded", "names", "values", "packed")

    def __init__(self, *, is_bounded: bool = True) -> None:
        """is_bounded: in the event loop. Without that, all batches that are not very large."""
        self.is_bounded = is_bounded
        self.names = NAMES_SUM_MAX  # that may yet be found
        self.values = VALUES_BYTES_MAX  # bytes that may yet be taken apart
        self.packed = PACKED_SUM_MAX  # bytes that may yet be decompressed

    def look_at(self, batch: memoryview, header: BatchHeader) -> frozenset[int]:
        """The numbers of a whole batch's tags."""
        if header.is_control:
            marker = read_marker(batch)
            return _NONE if marker is None or marker.is_commit else frozenset((ABORTS,))
        payload: bytes | memoryview = batch[HEADER_SIZE:]
        if header.compression:
            self.packed -= len(payload)
            if self.is_bounded and (len(payload) > PACKED_MAX or self.packed < 0):
                return _LOOK
            try:
                most = UNPACKED_MAX if self.is_bounded else BATCH_BYTES_MAX
                payload = codecs.decompress(header.compression, payload, most)
            except KafkaError:
                return _LOOK
        return self.numbers_in(payload, header.count)

    def numbers_in(self, payload: bytes | memoryview, count: int) -> frozenset[int]:
        """The numbers of the tags in so many records, decompressed."""
        data = payload if isinstance(payload, bytes) else bytes(payload)
        names = data.count(_NAME)
        if not names:
            return _NONE
        at = data.find(_NAME)
        start, end = _value_at(data, at + len(_NAME))
        if names == 1 or (start and data.count(data[at:end]) == names):  # all have the same
            names = 1
        elif self.is_bounded and names > min(NAMES_MIN + NAMES_A_RECORD * count, NAMES_MAX, self.names):
            return _LOOK
        self.names -= names
        values = _values(data, names)
        if values is None:
            return _LOOK if self.is_bounded else frozenset((ANY,))
        self.values -= sum(map(len, values))
        if self.is_bounded and self.values < 0:
            return _LOOK
        numbers = frozenset([number_of(tag) for each in values for tag in split_tags(each)])
        return bounded(numbers, len(data))


def _values(data: bytes, names: int) -> set[bytes] | None:
    """What follows the first so many names. None: it is more than there is, as some of it overlaps: no honest batch."""
    values, left, at = set[bytes](), max(len(data), VALUES_BYTES_MAX), 0
    for _ in range(names):
        at = data.find(_NAME, at) + len(_NAME)
        start, end = _value_at(data, at)
        left -= end - start
        if left < 0:
            return None
        values.add(data[start:end])
    return values


def _value_at(data: bytes, at: int) -> tuple[int, int]:
    """Where the value of the header begins and ends whose name ends there; (0, 0) if it is none."""
    try:
        size, start = read_varint(data, at)
    except (IndexError, ProtocolError):
        return 0, 0
    end = start + max(size, 0)
    return (start, end) if end <= len(data) else (0, 0)
