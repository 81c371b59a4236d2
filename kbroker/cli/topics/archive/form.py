"""The file of an exported topic: one line that says what it is, then frames. It is written and read in one go, through
a pipe if need be, and tells by itself whether it is whole: docs/formats.md.

    kbroker topic export 1\\n
    frame:  length uint32, of what follows the crc | crc uint32, CRC-32C of that
            | kind: T, B or E | codec uint8: 0 none, 4 zstd | body, compressed by the codec

    T  the topic, JSON; the first frame, once
    B  partition uint32, then record batches as they are in a segment, back to back, in order
    E  what was written, JSON; the last frame, once: a file without it was cut
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

from kafka_wire import compression
from kafka_wire.errors import KafkaError
from kafka_wire.primitives import crc32c
from kafka_wire.records import BatchHeader, check_crc, read_header
from kbroker.cli.topics.archive.batches import MAGIC, Packed

FIRST_LINE = b"kbroker topic export 1\n"
TOPIC, BATCHES, END = b"T", b"B", b"E"
FRAME_BYTES = 1 << 20  # about; a larger batch has a frame of its own
FRAME_BYTES_MAX = 256 << 20
BATCH_BYTES_MAX = FRAME_BYTES_MAX - 64
WORTH_IT = 0.9  # compressed to less than that

_HEAD = struct.Struct(">II")
_PARTITION = struct.Struct(">I")
_KIND_AND_CODEC = 2


class Damaged(Exception):
    """The file is not whole, or no export. position: the byte."""

    def __init__(self, position: int, text: str) -> None:
        super().__init__(f"at byte {position}: {text}")


class Span(NamedTuple):
    """Which offsets of a partition were exported."""

    partition: int
    first: int
    end: int


class Topic(NamedTuple):
    """What was exported."""

    topic: str
    topic_id: str
    cluster_id: str
    exported_at_ms: int
    isolation: str  # read_committed, read_uncommitted
    partitions: tuple[Span, ...]
    configs: Mapping[str, str]  # the topic's own


class Stored(NamedTuple):
    """A batch in a file. position: of its frame."""

    partition: int
    batch: memoryview
    header: BatchHeader
    position: int


class Writer:
    """Writes the file of a topic. Whole only after `finish`."""

    def __init__(self, out: BinaryIO, topic: Topic) -> None:
        self.bytes = self.records = self.batches = 0
        self._out = out
        self._partition = -1
        self._frame = bytearray()
        self._compresses = False
        self._write(FIRST_LINE)
        partitions = [span._asdict() for span in topic.partitions]
        self._write_frame(TOPIC, _json({**topic._asdict(), "partitions": partitions}))

    def batch(self, partition: int, packed: Packed) -> None:
        """Add a batch."""
        if partition != self._partition or len(self._frame) + len(packed.batch) > FRAME_BYTES:
            self._end_frame()
            self._partition = partition
            self._frame += _PARTITION.pack(partition)
        self._frame += packed.batch
        self._compresses |= packed.header.compression == compression.NONE
        self.records += packed.header.count
        self.batches += 1

    def finish(self) -> None:
        """The last frame: now the file is whole."""
        self._end_frame()
        self._write_frame(END, _json({"records": self.records, "batches": self.batches}))
        self._out.flush()

    def _end_frame(self) -> None:
        if self._frame:
            self._write_frame(BATCHES, self._frame, compresses=self._compresses)
        self._frame, self._compresses = bytearray(), False

    def _write_frame(self, kind: bytes, body: bytes | bytearray, *, compresses: bool = False) -> None:
        codec: int = compression.NONE
        if compresses:
            packed = compression.compress(compression.ZSTD, body)
            if len(packed) < WORTH_IT * len(body):
                codec, body = compression.ZSTD, packed
        content = b"".join((kind, bytes((codec,)), body))
        self._write(_HEAD.pack(len(content), crc32c(content)) + content)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.bytes += len(data)


class Reader:
    """Reads such a file from the beginning. `position`: up to where it is read and whole."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises Damaged, as everything here does."""
        self._file = file
        self.position = 0
        line = self._file.read(len(FIRST_LINE))
        if line != FIRST_LINE:
            if line.startswith(FIRST_LINE[: FIRST_LINE.rindex(b" ")]) and line.endswith(b"\n"):
                self._fail("a later version of this format; a newer kbroker can read it")
            self._fail("this is no file that kbroker topic export wrote" if line else "the file is empty")
        self.position = len(FIRST_LINE)
        kind, body = self._frame()
        if kind != TOPIC:
            self._fail("the first frame does not tell of a topic")
        self.topic = self._topic(body)

    def batches(self) -> Iterator[Stored]:
        """All batches, each checked; ends where the last frame says that the file is whole."""
        known = {span.partition for span in self.topic.partitions}
        records = count = 0
        while True:
            at = self.position
            kind, body = self._frame()
            if kind == END:
                break
            if kind != BATCHES:
                raise Damaged(at, f"a frame of the unknown kind {ascii(kind.decode('latin-1'))}")
            for stored in self._of_frame(at, body, known):
                records, count = records + stored.header.count, count + 1
                yield stored
        told = self._object(body)
        if (told.get("records"), told.get("batches")) != (records, count):
            raise Damaged(at, f"{records} records in {count} batches are there, and not what the last frame says")
        if self._file.read(1):
            self._fail("something follows the last frame")

    def _of_frame(self, at: int, body: memoryview, known: set[int]) -> Iterator[Stored]:
        if len(body) < _PARTITION.size:
            raise Damaged(at, "a frame of batches without a partition")
        (partition,) = _PARTITION.unpack_from(body)
        if partition not in known:
            raise Damaged(at, f"partition {partition} is not one of the topic")
        pos = _PARTITION.size
        while pos < len(body):
            try:
                header = read_header(body, pos)
            except KafkaError as error:
                raise Damaged(at, error.message) from None
            if header.magic != MAGIC or header.count < 1 or not check_crc(body, pos, header):
                raise Damaged(at, f"the batch at offset {header.base_offset} is none, or not whole")
            yield Stored(partition, body[pos : pos + header.size], header, at)
            pos += header.size

    def _frame(self) -> tuple[bytes, memoryview]:
        """The next frame: its kind and body."""
        head = self._exactly(_HEAD.size, 0)
        length, crc = _HEAD.unpack(head)
        if not _KIND_AND_CODEC <= length <= FRAME_BYTES_MAX:
            self._fail(f"a frame of {length} bytes: {_KIND_AND_CODEC} to {FRAME_BYTES_MAX} are possible")
        content = memoryview(self._exactly(length, _HEAD.size))
        if crc32c(content) != crc:
            self._fail("the CRC of a frame does not match what is in it")
        kind, codec, body = bytes(content[:1]), content[1], content[_KIND_AND_CODEC:]
        if codec == compression.ZSTD:
            try:
                body = memoryview(compression.decompress(codec, body, FRAME_BYTES_MAX))
            except KafkaError as error:
                self._fail(f"a frame that cannot be decompressed: {error.message}")
        elif codec != compression.NONE:
            self._fail(f"a frame with the unknown codec {codec}")
        self.position += _HEAD.size + length
        return kind, body

    def _exactly(self, size: int, taken: int) -> bytes:
        """So many bytes. Read in pieces: a length that lies costs no more memory than there are bytes."""
        data = bytearray()  # taken: what of the frame was read before
        while len(data) < size:
            piece = self._file.read(min(size - len(data), FRAME_BYTES))
            if not piece:
                taken += len(data)
                where = "in the middle of a frame" if taken else "between two frames"
                self._fail(f"the file ends after {self.position + taken} bytes, {where}: it was cut")
            data += piece
        return bytes(data)

    def _topic(self, body: memoryview) -> Topic:
        told = self._object(body)
        try:
            spans = tuple(Span(*(_whole(each[name]) for name in Span._fields)) for each in told["partitions"])
            configs = {str(name): str(value) for name, value in dict(told["configs"]).items()}
            texts = [told[name] for name in ("topic", "topic_id", "cluster_id", "isolation")]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError
            name, topic_id, cluster_id, isolation = texts
            at_ms = _whole(told["exported_at_ms"])
        except (KeyError, TypeError, ValueError):
            self._fail("the first frame does not tell what a topic needs")
        if not spans or [span.partition for span in spans] != list(range(len(spans))):
            self._fail("the partitions of the topic are not 0, 1, 2, …")
        return Topic(name, topic_id, cluster_id, at_ms, isolation, spans, configs)

    def _object(self, body: memoryview) -> dict[str, Any]:
        try:
            told = json.loads(bytes(body))
        except ValueError:
            told = None
        if not isinstance(told, dict):
            self._fail("a frame that should be JSON is none")
        return told

    def _fail(self, text: str) -> NoReturn:
        raise Damaged(self.position, text)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
