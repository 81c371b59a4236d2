"""Reading a partition's log for its delayer, in a worker.

The loop says which pieces of which files are to be read (`Piece`), as they are at that moment; a worker opens them
and walks over their batches by the headers. What was deleted or cut meanwhile is an OSError, or ends early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, CorruptRecords, check_crc
from kbroker.delay.schedule import Entry
from kbroker.env import Disk, File, Offload
from kbroker.log import scan
from kbroker.log.cold import when_told
from kbroker.log.content.delayed import Hidden, HiddenBatch, is_hidden
from kbroker.log.log import PartitionLog

SEGMENTS_MAX = 4  # of one go
CHUNK_BYTES = 4096
FILES_MAX, BATCHES_KEPT = 16, 8

# A header, and what reads the whole batch while it is the latest; that may raise CorruptRecords.
Batch = tuple[BatchHeader, Callable[[], bytes]]


class Piece(NamedTuple):
    """A piece of a segment's file."""

    path: str
    start: int  # bytes; a batch begins there
    end: int


async def pieces_from(
    log: PartitionLog, offset: int, offload: Offload, segments_max: int = SEGMENTS_MAX
) -> list[Piece]:
    """What there is from the batch that holds an offset on, or from shortly before. Raises KafkaError, OSError."""
    log.check_online()
    first = log.reading.number_of(offset)
    segment = log.segments[first]
    indexes = await when_told(segment.loaded, offload)
    start = indexes.offsets.position_before(max(offset - segment.base_offset, 0))
    found = [Piece(segment.path, start, segment.size)]
    at = log.segments.index(segment) if segment in log.segments else len(log.segments)
    found += [Piece(each.path, 0, each.size) for each in log.segments[at + 1 : at + segments_max]]
    return found


def batches(disk: Disk, pieces: Iterable[Piece], offset: int, bound: int) -> Iterator[Batch]:
    """The batches from the one that holds an offset on, which begin below a bound. Blocks. May raise OSError."""
    for piece in pieces:
        if piece.start >= piece.end:
            continue
        with closing(disk.open(piece.path)) as file:
            for position, header in scan.walk(file, piece.start, piece.end, chunk=CHUNK_BYTES):
                if header.base_offset >= bound:
                    return
                if header.last_offset >= offset:
                    yield header, partial(_whole, file, position, header)


def _whole(file: File, position: int, header: BatchHeader) -> bytes:
    """A batch as it was written: what is read here is written anew, so no damage may pass. Raises CorruptRecords."""
    data = file.pread(header.size, position)
    if not check_crc(data, 0, header):
        text = f"the batch at offset {header.base_offset} of {file.path} is not what was written"
        raise CorruptRecords(ErrorCode.CORRUPT_MESSAGE, text)
    return data


class Place(NamedTuple):
    """Where the record of a pending entry is, about."""

    entry: Entry
    piece: Piece


async def places(log: PartitionLog, entries: Iterable[Entry], offload: Offload) -> list[Place]:
    """Where these are. Raises KafkaError, OSError."""
    found = []
    for entry in entries:
        segment = log.reading.segment_of(entry.offset)
        indexes = segment.indexes
        if indexes is None:
            indexes = await when_told(segment.loaded, offload)
        start = indexes.offsets.position_before(max(entry.offset - segment.base_offset, 0))
        found.append(Place(entry, Piece(segment.path, start, segment.size)))
    return found


class Found(NamedTuple):
    """Hidden records of pending entries."""

    records: dict[int, Hidden]  # by their ids; what is not where it should be is not here
    looked_for: int  # so many of the entries, the first ones


def read_places(disk: Disk, wanted: Sequence[Place], bytes_max: int) -> Found:
    """The hidden records that lie there: one at least, and no more when they have so many bytes.

    Blocks. May raise OSError.
    """
    records: dict[int, Hidden] = {}
    size = looked_for = 0
    with closing(_Reader(disk)) as reader:
        while looked_for < len(wanted) and size < bytes_max:
            place = wanted[looked_for]
            looked_for += 1
            hidden = reader.read(place)
            if hidden is not None:
                records[place.entry.id] = hidden
                size += len(hidden.content)
    return Found(records, looked_for)


class _Reader:
    """Reads records here and there; files and batches it came to are kept for the next ones."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.files: dict[str, File] = {}
        self.batches: list[HiddenBatch] = []  # the latest first

    def close(self) -> None:
        """Close the files."""
        for each in self.files.values():
            each.close()
        self.files.clear()

    def read(self, place: Place) -> Hidden | None:
        """The record of a place; None: there is none such."""
        offset = place.entry.offset
        kept = (each for each in self.batches if each.header.base_offset <= offset <= each.header.last_offset)
        try:
            batch = next(kept, None) or self._find(place.piece, offset)
            hidden = batch.record(offset) if batch is not None else None
        except KafkaError:
            return None
        return hidden if hidden is not None and hidden.id == place.entry.id else None

    def _find(self, piece: Piece, offset: int) -> HiddenBatch | None:
        if piece.path not in self.files:
            if len(self.files) >= FILES_MAX:
                self.files.pop(next(iter(self.files))).close()
            self.files[piece.path] = self.disk.open(piece.path)
        file = self.files[piece.path]
        for position, header in scan.walk(file, piece.start, piece.end, chunk=CHUNK_BYTES):
            if header.last_offset >= offset:
                if not is_hidden(header):
                    return None
                found = HiddenBatch(_whole(file, position, header))
                self.batches = [found, *self.batches[: BATCHES_KEPT - 1]]
                return found
        return None


async def read_pending(log: PartitionLog, entries: Sequence[Entry], offload: Offload, bytes_max: int) -> Found:
    """The records of pending entries, in their order, from the log, as read_places does.

    Raises KafkaError, OSError.
    """
    return await offload(partial(read_places, log.disk, await places(log, entries, offload), bytes_max))
