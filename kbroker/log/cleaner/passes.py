"""One pass over a log: first the newest offset of each key in what is dirty, then all segments anew, group by group.

        start             dirty from                    bound
          |  cleaned before   |  dirty                    |  not yet: the active segment, what is not stable, too young
          +---------+---------+-----------+---------------+----
          |         |         | keys ─▶ offset map         |        1  as far as the map holds
          | group   | group             | group            |        2  each into files that end with .cleaned, durable

What of it takes the place of what, and when, is for the log to say (swap.py). The pass reads segments that nobody
writes to any more, and writes files that nobody else reads: it may run anywhere, beside everything, and be given up at
any moment.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import HEADER_SIZE, MAGIC, BatchHeader, CorruptRecords, check_crc, payload, read_header
from kafka_wire.walk import keyed
from kbroker.env import Buffer, Disk, File
from kbroker.log.cleaner.filtering import Filter, Rules, is_marker
from kbroker.log.cleaner.job import Covered, Group, Job, Last, Source
from kbroker.log.cleaner.offset_map import OffsetMap
from kbroker.log.cleaner.swap import CLEANED, discard
from kbroker.log.cleaner.transactions import Decided
from kbroker.log.derived.aborted import SUFFIX as TRANSACTIONS
from kbroker.log.derived.aborted import AbortedRanges
from kbroker.log.derived.index import Indexes
from kbroker.log.derived.transactions import AbortedRange, read_marker
from kbroker.log.errors import CorruptLog, Uncleanable
from kbroker.log.scan import WHOLE_BYTES
from kbroker.log.segment import RELATIVE_OFFSET_MAX

GROUP_SEGMENTS_MAX = 64  # what takes their place is renamed in one turn of the event loop: 5 ms


@dataclass(slots=True)
class _Keys:
    """What the dirty part tells, of producers and of keys."""

    producers: Mapping[int, Last]
    newest: OffsetMap
    latest: int
    markers: dict[int, int] = field(default_factory=dict)  # by producer: its last one


def run(disk: Disk, job: Job) -> Iterator[int | Group | Covered]:
    """Yields numbers of bytes that were read or written, each group when it is ready, and at last how far it came.

    Raises CorruptLog for damage, Uncleanable, OSError.
    """
    pending = 0  # bytes not told of yet: each step takes two processes a turn
    for step in _steps(disk, job):
        if isinstance(step, int):
            pending += step
        if pending and (pending >= job.step_bytes or not isinstance(step, int)):
            yield pending
            pending = 0
        if not isinstance(step, int):
            yield step


def _steps(disk: Disk, job: Job) -> Iterator[int | Group | Covered]:
    keys = _Keys(job.producers.by_id(), OffsetMap(job.memory_bytes), job.dirty_from - 1)
    aborted = sorted((each for ranges in job.aborted for each in ranges.entries()), key=lambda each: each.first_offset)
    is_full = yield from _map(disk, job, keys, aborted)
    covered = keys.latest + 1 if is_full else job.sources[-1].next_offset
    keys.latest = covered - 1
    rules = Rules(
        keys.newest, keys.latest, job.now_ms, job.delete_retention_ms, keys.producers, keys.markers, job.memory_bytes
    )
    sources = [source for source in job.sources if source.base_offset < covered]
    filter_ = Filter(rules, Decided(aborted, sources[0].base_offset if sources else 0))
    for group in groups(disk, job, sources):
        yield from _clean(disk, job, group, filter_)
    yield Covered(covered)


def groups(disk: Disk, job: Job, sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Segments that together make one of no more than the size of one. (Kafka: Cleaner.groupSegmentsBySize.)"""
    group: list[Source] = []
    size = offsets = times = 0
    for source in sources:
        stem = _stem(job, source.base_offset)
        index_size, time_size = _size(disk, stem + ".index"), _size(disk, stem + ".timeindex")
        if group and (
            size + source.size > job.segment_bytes
            or offsets + index_size > job.segment_index_bytes
            or times + time_size > job.segment_index_bytes
            or source.next_offset - 1 - group[0].base_offset > RELATIVE_OFFSET_MAX
            or len(group) >= GROUP_SEGMENTS_MAX
        ):
            yield group
            group, size, offsets, times = [], 0, 0, 0
        group.append(source)
        size, offsets, times = size + source.size, offsets + index_size, times + time_size
    if group:
        yield group


def _size(disk: Disk, path: str) -> int:
    try:
        return disk.size(path)
    except FileNotFoundError:
        return 0


# reading


def _chunks(disk: Disk, job: Job, source: Source) -> Iterator[tuple[int, list[tuple[memoryview, BatchHeader]]]]:
    """The batches of a segment, found to be whole, with their headers; some at a time, with the bytes read for them."""
    path = f"{_stem(job, source.base_offset)}.log"
    with closing(disk.open(path)) as file:
        position, offset, wanted = 0, source.base_offset, WHOLE_BYTES
        while position < source.size:
            asked = min(wanted, source.size - position)
            view = memoryview(file.pread(asked, position))
            found: list[tuple[memoryview, BatchHeader]] = []
            at, wanted = 0, WHOLE_BYTES
            while at + HEADER_SIZE <= len(view):
                header = _header(view, at, source, offset)
                if header is None or header.size > source.size - position - at:
                    raise _damaged(path, position + at, offset)
                if header.size > len(view) - at:
                    wanted = max(wanted, header.size)
                    break
                if not check_crc(view, at, header):
                    raise _damaged(path, position + at, offset)
                found.append((view[at : at + header.size], header))
                at, offset = at + header.size, header.next_offset
            if len(view) < asked or (not at and asked == source.size - position):  # it ends early, or with a scrap
                raise _damaged(path, position + at, offset)
            if wanted > job.memory_bytes:
                raise _too_large(path, offset, wanted, job)
            position += at
            yield len(view), found


def _header(view: memoryview, at: int, source: Source, offset: int) -> BatchHeader | None:
    """The header of the batch at a position, which is to begin at an offset or later; None if it is none."""
    try:
        header = read_header(view, at)
    except CorruptRecords:
        return None
    is_right = header.magic == MAGIC and offset <= header.base_offset <= header.last_offset < source.next_offset
    return header if is_right else None


def _damaged(path: str, position: int, offset: int) -> CorruptLog:
    return CorruptLog(f"{path}: damage at byte {position}, offset {offset}")


def _too_large(path: str, offset: int, size: int | None, job: Job) -> Uncleanable:
    takes = "too many bytes" if size is None else f"{size} bytes"
    limit = f"log.cleaner.dedupe.buffer.size allows {job.memory_bytes}"
    return Uncleanable(f"{path}: the batch at offset {offset} takes {takes} of memory, {limit}")


def _unreadable(job: Job, source: Source, header: BatchHeader, error: KafkaError) -> Uncleanable:
    path = f"{_stem(job, source.base_offset)}.log"
    if error.code is ErrorCode.MESSAGE_TOO_LARGE:
        return _too_large(path, header.base_offset, None, job)
    return Uncleanable(f"{path}: the batch at offset {header.base_offset} cannot be read: {error.message}")


def _map(disk: Disk, job: Job, keys: _Keys, aborted: Sequence[AbortedRange]) -> Generator[int, None, bool]:
    """Note the keys of what is dirty. Returns whether the map was full before the end."""
    dirty = [source for source in job.sources if source.next_offset > job.dirty_from]
    decided = Decided(aborted, dirty[0].base_offset if dirty else 0)
    for source in dirty:
        for size, batches in _chunks(disk, job, source):
            yield size
            for batch, header in batches:
                try:
                    if not _note(batch, header, job, keys, decided):
                        return True
                except KafkaError as error:
                    raise _unreadable(job, source, header, error) from None
        keys.latest = source.next_offset - 1
    return False


def _note(batch: memoryview, header: BatchHeader, job: Job, keys: _Keys, decided: Decided) -> bool:
    """Note what a batch says. False: there is no room for all of it."""
    if is_marker(header):
        decided.ends(header, read_marker(batch) if header.count else None)
        last = keys.producers.get(header.producer_id)
        if last is not None and last.data_offset < 0 and header.producer_epoch == last.epoch:
            keys.markers[header.producer_id] = header.base_offset
    elif decided.passes(header) or header.is_control:
        pass
    elif header.count and header.last_offset >= job.dirty_from:
        put, base = keys.newest.put, header.base_offset
        for _, delta, key, _ in keyed(payload(batch, max_bytes=job.memory_bytes), header.count):
            if key is not None and base + delta >= job.dirty_from and not put(key, base + delta):
                keys.latest = base + delta - 1
                return False
    keys.latest = max(keys.latest, header.last_offset)
    return True


# writing


class _Writer:
    """The files of a segment that may take the place of others."""

    __slots__ = ("disk", "stem", "interval", "file", "indexes", "size", "_pending", "_pending_bytes")

    def __init__(self, disk: Disk, job: Job, base_offset: int) -> None:
        self.disk = disk
        self.stem = _stem(job, base_offset)
        self.interval = job.index_interval_bytes
        self.file = self._new(".log")
        self.indexes = Indexes(self.stem, base_offset)
        self.size = 0  # bytes
        self._pending: list[Buffer] = []
        self._pending_bytes = 0

    def _new(self, suffix: str) -> File:
        """An empty file. Not an old one emptied: whoever has that open may still write to it."""
        path = self.stem + suffix + CLEANED
        with suppress(FileNotFoundError):
            self.disk.remove(path)
        return self.disk.open(path, create=True)

    def add(self, batch: Buffer, header: BatchHeader) -> int:
        """Add a batch. Returns how many bytes were written for that, of this one or of others. May raise OSError."""
        self.indexes.note(header, header.base_offset, self.size, self.interval)
        self._pending.append(batch)
        self._pending_bytes += len(batch)
        self.size += len(batch)
        return self._write() if self._pending_bytes >= WHOLE_BYTES else 0

    def _write(self) -> int:
        written, self._pending_bytes = self._pending_bytes, 0
        if written:
            self.file.append([b"".join(self._pending)])
            self._pending.clear()
        return written

    def finish(self, aborted: Sequence[AbortedRange]) -> int:
        """Have all of it durable, but for the names. Returns how many bytes were written. May raise OSError."""
        written = self._write()
        self.file.sync()
        self.file.close()
        times = self.indexes.times
        if self.indexes.max_timestamp_ms >= 0:
            times.append(self.indexes.max_timestamp_ms, self.indexes.max_timestamp_offset - self.indexes.base_offset)
        contents = {
            ".timeindex": times.content(),
            ".index": self.indexes.offsets.content(),
            TRANSACTIONS: AbortedRanges(aborted).content(),
        }
        for suffix, content in contents.items():
            with closing(self._new(suffix)) as file:
                file.append([content])
                file.sync()
        return written

    def give_up(self) -> None:
        """Leave nothing of it."""
        self.file.close()
        discard(self.disk, self.stem)


def _clean(disk: Disk, job: Job, sources: Sequence[Source], filter_: Filter) -> Iterator[int | Group]:
    """Write what is left of some segments."""
    writer = _Writer(disk, job, sources[0].base_offset)
    is_new = len(sources) > 1
    for source in sources:
        end = 0
        for size, batches in _chunks(disk, job, source):
            yield size
            for batch, header in batches:
                end += header.size
                is_last = source is sources[-1] and end == source.size
                try:
                    left, now = filter_.judge(batch, header, is_last=is_last)
                except KafkaError as error:
                    raise _unreadable(job, source, header, error) from None
                is_new = is_new or left is not batch
                if left is not None and (written := writer.add(left, now)):
                    yield written
    tally, aborted = filter_.take()
    if is_new:
        yield writer.finish(aborted)
    else:
        writer.give_up()
    yield Group(sources[0].base_offset, sources[-1].next_offset, writer.size, tuple(sources), tally, is_new)


def _stem(job: Job, base_offset: int) -> str:
    return f"{job.directory}/{base_offset:020d}"
