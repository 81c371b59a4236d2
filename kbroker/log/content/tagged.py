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
NAMES_MAX = 1024  # found in one piece of work of the event loop; half a millisecond
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

    __slots__ = ("names", "packed", "packed_max", "unpacked_max")

    def __init__(
        self,
        *,
        names_max: int = NAMES_MAX,
        packed_sum_max: int = PACKED_SUM_MAX,
        packed_max: int = PACKED_MAX,
        unpacked_max: int = UNPACKED_MAX,
    ) -> None:
        self.names = names_max  # that may yet be found
        self.packed = packed_sum_max  # bytes that may yet be decompressed
        self.packed_max = packed_max  # bytes of one batch
        self.unpacked_max = unpacked_max

    @classmethod
    def for_worker(cls) -> Tagger:
        """One that looks at all that a broker can have let pass."""
        most = 1 << 62
        return cls(names_max=most, packed_sum_max=most, packed_max=most, unpacked_max=BATCH_BYTES_MAX)

    def look_at(self, batch: memoryview, header: BatchHeader) -> frozenset[int]:
        """The numbers of a whole batch's tags."""
        if header.is_control:
            marker = read_marker(batch)
            return _NONE if marker is None or marker.is_commit else frozenset((ABORTS,))
        payload: bytes | memoryview = batch[HEADER_SIZE:]
        if header.compression:
            if len(payload) > self.packed_max or len(payload) > self.packed:
                return _LOOK
            self.packed -= len(payload)
            try:
                payload = codecs.decompress(header.compression, payload, self.unpacked_max)
            except KafkaError:
                return _LOOK
        return self.numbers_in(payload)

    def numbers_in(self, payload: bytes | memoryview) -> frozenset[int]:
        """The numbers of the tags in a batch's records, decompressed."""
        data = payload if isinstance(payload, bytes) else bytes(payload)
        at = data.find(_NAME)
        if at < 0:
            return _NONE
        numbers, values = set[int](), set[bytes]()
        most = max(TAGS_MIN, min(len(data) // BYTES_A_TAG, TAGS_MAX))
        while at >= 0:
            self.names -= 1
            if self.names < 0:
                return _LOOK
            at += len(_NAME)
            value = _value_at(data, at)
            if value not in values:
                values.add(value)
                numbers.update(map(number_of, split_tags(value)))
                if len(numbers) > most:
                    return _ANY
            at = data.find(_NAME, at)
        return frozenset(numbers)


def _value_at(data: bytes, at: int) -> bytes:
    """The value of the header whose name ends there, if it is one."""
    try:
        size, at = read_varint(data, at)
    except (IndexError, ProtocolError):
        return b""
    return data[at : at + size] if size > 0 else b""
