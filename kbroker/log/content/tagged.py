"""Which tags the records of a batch have, as small numbers for the tag index. Pure: bytes in, numbers out.

What is found is never too little, and may be too much: wherever the name of the header stands in the records' bytes,
what follows is taken for its value. That takes one search through the bytes instead of a walk through all records.

    0 ANY      too many tags to be named: may have any
    1 LOOK     not known: somebody has to read the batch
    2 ABORTS   a marker that aborts a transaction, which readers of committed records must see
    3          not used
    4 ...      a tag, by its CRC-32C: two tags may share a number, which costs a look at what has the other one
"""

from __future__ import annotations

from kafka_wire import compression as codecs
from kafka_wire.errors import KafkaError, ProtocolError
from kafka_wire.primitives import crc32c, read_varint
from kafka_wire.records import HEADER_SIZE, BatchHeader
from kbroker.filters import TAGS_HEADER, split_tags
from kbroker.log.derived.transactions import read_marker

ANY, LOOK, ABORTS, FIRST_TAG = 0, 1, 2, 4
NAMES_MAX, NAMES_SUM_MAX = 1024, 4096  # found in a batch, and in several that came together: two milliseconds
NAMES_MIN, NAMES_A_RECORD = 64, 4  # in a batch: more than so many is no honest one
VALUES_BYTES_MAX = 32 * 1024  # of different values, read in the event loop: a millisecond, should they be mostly commas
PACKED_MAX, UNPACKED_MAX = 16 * 1024, 128 * 1024  # bytes decompressed in the event loop
PACKED_SUM_MAX = 64 * 1024  # of all batches that came together
BATCH_BYTES_MAX = 16 * 1024 * 1024  # decompressed, by a worker: no broker lets more pass
TAGS_MIN, TAGS_MAX, BYTES_A_TAG = 16, 1024, 128  # named of a stretch of batches: one for so many bytes

_NAME = TAGS_HEADER.encode()
_ANY, _LOOK, _NONE = frozenset((ANY,)), frozenset((LOOK,)), frozenset[int]()


def number_of(tag: bytes) -> int:
    """The number that stands for a tag: 16 bits."""
    return FIRST_TAG + crc32c(tag) % (0x10000 - FIRST_TAG)


def bounded(numbers: frozenset[int], size: int) -> frozenset[int]:
    """What is kept of the numbers of a stretch of so many bytes: all, or ANY where they are too many."""
    if len(numbers) > TAGS_MIN and len(numbers) > min(size // BYTES_A_TAG, TAGS_MAX):
        return _ANY
    return numbers


class Tagger:
    """Looks for tags within a budget: what exceeds it is left for a LOOK. One for each piece of work."""

    __slots__ = ("is_bounded", "names", "values", "packed")

    def __init__(self, *, is_bounded: bool = True) -> None:
        """is_bounded: in the event loop. Without that, all that a broker can have let pass is looked at."""
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
        value, end = _value_at(data, at + len(_NAME))
        if names == 1 or data.count(data[at:end]) == names:  # all have the same
            names = 1
        elif self.is_bounded and names > min(NAMES_MIN + NAMES_A_RECORD * count, NAMES_MAX, self.names):
            return _LOOK
        self.names -= names
        values = {value}
        for _ in range(names - 1):
            at = data.find(_NAME, at + len(_NAME))
            values.add(_value_at(data, at + len(_NAME))[0])
        self.values -= sum(map(len, values))
        if self.is_bounded and self.values < 0:
            return _LOOK
        numbers = frozenset([number_of(tag) for each in values for tag in split_tags(each)])
        return bounded(numbers, len(data))


def _value_at(data: bytes, at: int) -> tuple[bytes, int]:
    """The value of the header whose name ends there, if it is one, and where it ends."""
    try:
        size, start = read_varint(data, at)
    except (IndexError, ProtocolError):
        return b"", at
    return (data[start : start + size], start + size) if size > 0 else (b"", start)
