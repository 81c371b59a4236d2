"""How a view is read: what need not be looked at, how much is looked at, and what goes back where nothing matches.

    read(offset) ─▶ found before? ──yes──▶ serve it
                        │ no
                        ▼                            a worker reads, judges, encodes
                    plan: the stretches ──some──▶ NotInMemory(Look) ──▶ kept in Results ──▶ read(offset) again
                    that may match           │
                        │ none               └─ mode "prune": slices of the log, nothing is read
                        ▼
                    a skip marker

Plan: with the source's tag index (kbroker.log.derived.tags) what has none of the wanted tags is passed over without
being read, a hundred megabytes at a time; without it, or where the filter says nothing about tags, all is looked at. A
LOOK in the index is looked at, and the index learns what is there.

Budget: one look reads about a megabyte, one batch at least, and ends early when that had very many records. So a fetch
costs a bounded piece of work, whatever filter and data are; where that was not all there is, it is answered at once.
A batch that decompresses to very much ends a look, too, and begins one that is made alone in the whole broker.

What goes back has gaps. Clients go on behind a batch's last offset; so what was looked at and ends without a match ends
with a skip marker: a control batch of no transaction, which every client passes over, at the last offset looked at. Of
real markers those that abort go with the records. (Those that commit tell a client nothing.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import HEADER_SIZE, MAGIC, BatchHeader, payload, read_header
from kbroker.env import Buffer, FileSlice, Handle
from kbroker.filters import Expression
from kbroker.log.cold import NotInMemory
from kbroker.log.content.inspection import DECOMPRESSED_BYTES_MAX
from kbroker.log.content.tagged import BATCH_BYTES_MAX, Tagger, number_of
from kbroker.log.derived.tags import ABORTS, ANY, LOOK, Search, TagIndex
from kbroker.log.derived.transactions import read_marker
from kbroker.log.errors import CorruptLog
from kbroker.log.log import PartitionLog
from kbroker.log.segment import Segment
from kbroker.replication.reads import Scanned
from kbroker.replication.visible import Visible, skip_marker
from kbroker.views.filtering import Filter
from kbroker.views.results import Found, Result, Results, Version, version_of

LOOK_BYTES = 1024 * 1024  # of batches that one look reads
LOOK_RECORDS = 50_000  # after which it ends, at the end of a batch
RECORD_BYTES = 1024  # decompressed, which count as a record: bombs are few
READ_BYTES = 256 * 1024  # at a time
STRETCHES_MAX = 16_384  # of the index gone through by one plan
RUNS_MAX = 256  # separate pieces of the log in one plan
UNPACKED_MAX = DECOMPRESSED_BYTES_MAX  # of a batch; an exact view leaves out a larger one, which clients do not take
UNPACKED_SMALL_MAX = BATCH_BYTES_MAX  # of one that is unpacked while others are, by all workers there are
_ALWAYS = (ANY, LOOK, ABORTS)  # whatever tags are wanted


class Selection:
    """What a view shows of its source."""

    __slots__ = ("expression", "is_exact", "numbers")

    def __init__(self, expression: Expression, *, is_exact: bool = True) -> None:
        """is_exact: only records that match; else whole batches that may have one, as the source's tag index tells."""
        self.expression = expression
        self.is_exact = is_exact
        tags = expression.tags()
        # What the tag index knows the wanted tags by; None: it cannot tell.
        self.numbers = None if tags is None else tuple(n.to_bytes(2) for n in sorted({*_ALWAYS, *map(number_of, tags)}))


class Run(NamedTuple):
    """Batches of one segment that lie back to back and may have matches."""

    segment: Segment
    handle: Handle
    position: int
    end: int
    offset: int  # at which it begins
    next_offset: int
    tags: TagIndex | None  # which is to learn what is there


class Plan(NamedTuple):
    """What is to be looked at."""

    runs: list[Run]
    after: int  # then everything below this offset is known

    @property
    def size(self) -> int:
        """Bytes to be read, at most."""
        return sum([run.end - run.position for run in self.runs])

    def known(self) -> Plan:
        """As much of it as the index knows."""
        for n, run in enumerate(self.runs):
            if run.tags is not None:
                return Plan(self.runs[:n], run.offset)
        return self


class FilteredReader:
    """Reads one partition for one view. Stands in for `log.reading` (kbroker.replication.reads.Reader)."""

    __slots__ = ("selection", "results", "_has_ended")

    def __init__(self, selection: Selection, results: Results) -> None:
        self.selection = selection
        self.results = results
        self._has_ended = False

    def end(self) -> None:
        """Nobody will read through this one any more: keep nothing for it."""
        self._has_ended = True
        self.results.forget(self)

    def read(
        self, log: PartitionLog, offset: int, bytes_max: int, bound: int, at_least_one: bool, now: bool
    ) -> Scanned:
        """What a view shows from offset to below bound, within the limits and the budget.

        For who knows that the log is online, and that start_offset <= offset < bound <= end. now: raise NotInMemory
        where a worker has to look first; without it, nothing is told of what nobody has looked at yet.
        Raises CorruptLog, OSError.
        """
        result = self.results.get(self, offset, version_of(log))
        is_large = result is not None and result.before_large and not result.pieces
        if result is not None and not is_large and (result.pieces or result.is_partial):
            return self._serve(log, offset, result, bytes_max, bound, at_least_one)
        start = result.after if result is not None else offset
        if start >= bound:
            return self._nothing(log, offset, bound, bound)
        if not bytes_max and not at_least_one:
            return Scanned([], offset, 0, True)
        plan = self._plan(log, start, bound, now)
        if not self.selection.is_exact and (known := plan.known()).after > start:
            return self._slices(log, offset, known, bytes_max, bound, at_least_one, now)
        if plan.runs:
            if now:
                look = Look(plan, self.selection, start, bound, UNPACKED_MAX if is_large else UNPACKED_SMALL_MAX)
                take = partial(self._take, log, offset, bound, version_of(log))
                raise NotInMemory(look.run, take, cost=min(plan.size, LOOK_BYTES), is_large=is_large)
            return self._nothing(log, offset, start, bound)._replace(is_partial=True)
        self._keep(log, offset, plan.after, bound)
        return self._nothing(log, offset, plan.after, bound)

    def available(self, log: PartitionLog, offset: int, bound: int, most: int) -> int:
        """About how many bytes `read` may find from offset to below bound, counted no further than `most`; from memory.

        What nobody has looked at counts as found, and what the index knows to be of no use does not: that is kept, so
        that who waits while much is appended has only the newest counted again. May raise OSError.
        """
        result = self.results.get(self, offset, version_of(log))
        start = result.after if result is not None else offset
        found = result.size if result is not None else 0
        if start >= bound:
            return min(found, most)
        try:
            plan = self._plan(log, start, bound, now=True)
        except NotInMemory:
            return most
        if found or plan.runs or plan.after < bound:
            return min(found + max(plan.size, 1), most)
        self._keep(log, offset, plan.after, bound)
        return 0

    def _keep(
        self, log: PartitionLog, offset: int, after: int, bound: int, pieces: Sequence[Found] = (), large: bool = False
    ) -> None:
        size = sum([len(each.data) for each in pieces])
        self.results.put(self, offset, Result(version_of(log), after, pieces, size, after < bound, large))

    def _take(self, log: PartitionLog, offset: int, bound: int, version: Version, looked: Looked) -> None:
        """A worker has looked."""
        if self._has_ended or version_of(log) != version:
            return  # it was cut meanwhile, say
        for segment, tags, learned in looked.learned:
            if segment.tags is tags:
                for piece in learned.pieces:
                    tags.learn(piece)
        if self.selection.is_exact:
            self._keep(log, offset, looked.after, bound, looked.pieces, looked.before_large)

    # what goes back

    def _nothing(self, log: PartitionLog, offset: int, after: int, bound: int) -> Scanned:
        """Nothing matches from offset to below `after`."""
        parts = [skip_marker(log, after - 1)] if after > offset else []
        return Scanned(parts, after, 0, offset < after < bound)

    def _serve(
        self, log: PartitionLog, offset: int, result: Result, bytes_max: int, bound: int, at_least_one: bool
    ) -> Scanned:
        """As much of a result as fits."""
        parts: list[FileSlice | Buffer] = []
        length, after = 0, offset
        for data, base_offset, next_offset in result.pieces:
            if next_offset > bound:
                if not parts:
                    return self._nothing(log, offset, min(base_offset, bound), bound)
                return Scanned(parts, after, length, False)
            if length + len(data) > bytes_max and (parts or not at_least_one):
                return Scanned(parts, after, length, True)
            parts.append(data)
            length, after = length + len(data), next_offset
        end = min(result.after, bound)
        if end > after:
            parts.append(skip_marker(log, end - 1))
        return Scanned(parts, end, length, end < bound)

    def _slices(
        self, log: PartitionLog, offset: int, plan: Plan, bytes_max: int, bound: int, at_least_one: bool, now: bool
    ) -> Scanned:
        """The runs of a plan as they are in the log."""
        parts: list[FileSlice | Buffer] = []
        length, after = 0, offset
        for run in plan.runs:
            first, stop = max(run.offset, offset), min(run.next_offset, bound)
            if first >= stop:
                continue
            if parts and length >= bytes_max:
                return Scanned(parts, after, length, True)
            limit = max(bytes_max - length, 0)
            slices, end, size = _slices_of(log, run, first, stop, limit, at_least_one and not parts, now)
            parts += slices
            length += size
            if end < stop or not slices:
                return Scanned(parts, end if slices else after, length, True)
            after = end
        end = min(plan.after, bound)
        if end > after:
            parts.append(skip_marker(log, end - 1))
        return Scanned(parts, end, length, end < bound)

    # what is to be looked at

    def _plan(self, log: PartitionLog, offset: int, bound: int, now: bool) -> Plan:
        """What lies from offset to below bound and may match, as far as one look goes. Raises NotInMemory, OSError."""
        planning = Planning(self.selection.numbers if log.notes_tags else None, bound, now)
        segment = log.reading.segment_of(offset)
        while True:
            try:
                after = planning.go_through(segment, offset)
            except NotInMemory:
                if offset == planning.begun or planning.begun < 0:
                    raise
                return Plan(planning.runs, offset)
            if after >= bound or after < segment.next_offset or planning.is_over:
                return Plan(planning.runs, min(after, bound))
            offset, segment = after, log.reading.segment_of(after)


def _slices_of(
    log: PartitionLog, run: Run, first: int, stop: int, bytes_max: int, at_least_one: bool, now: bool
) -> tuple[Sequence[FileSlice | Buffer], int, int]:
    """What there is of a run from an offset to below another; the offset behind it, and how many bytes it is."""
    if log.hides:
        return Visible().read(log, first, bytes_max, stop, at_least_one, now)[:3]
    size = run.end - run.position
    if run.offset == first and run.next_offset == stop and size <= bytes_max:
        return [FileSlice(run.handle, run.position, size)], stop, size
    slices, end = log.reading.read(first, bytes_max, stop, at_least_one, now)
    return slices, end, sum(map(len, slices))


class Planning:
    """One plan in the making."""

    __slots__ = ("numbers", "bound", "now", "runs", "begun", "_stretches", "_bytes")

    def __init__(self, numbers: Sequence[bytes] | None, bound: int, now: bool) -> None:
        self.numbers = numbers
        self.bound = bound
        self.now = now
        self.runs: list[Run] = []
        self.begun = -1  # the offset at which it began
        self._stretches = STRETCHES_MAX  # that may yet be gone through
        self._bytes = LOOK_BYTES  # that may yet be read

    @property
    def is_over(self) -> bool:
        """Whether no more is to be looked at by one look."""
        return self._bytes <= 0 or self._stretches <= 0 or len(self.runs) >= RUNS_MAX

    def go_through(self, segment: Segment, offset: int) -> int:
        """Add what is in a segment from offset on. Returns the offset up to which it is planned."""
        if self.begun < 0:
            self.begun = offset
        if self.numbers is None:
            return self._take_all(segment, offset)
        tags, base = segment.tags_loaded(now=self.now), segment.base_offset
        relative, limit = offset - base, self.bound - base
        for number in range(tags.piece_at(relative), len(tags.pieces)):
            piece = tags.pieces[number]
            first = bisect_right(piece.nexts, relative)
            stop = min(bisect_left(piece.nexts, limit) + 1, len(piece), first + self._stretches)
            search = Search(piece, self.numbers, stop)
            n = search.next(first)
            while n < stop:
                if self.is_over:
                    return base + piece.offset_of(n)
                is_look = piece.is_look(n)
                begin, end = piece.begin_of(n), piece.ends[n]
                begins_at = base + piece.offset_of(n)
                if is_look and offset > begins_at:
                    begin = segment.position_of(offset, now=self.now)
                    begins_at = offset
                if begin < end:
                    self._add(segment, begin, end, begins_at, base + piece.nexts[n], tags if is_look else None)
                n = search.next(n + 1)
            self._stretches -= stop - first
            if stop < len(piece) or self._stretches <= 0:
                return base + piece.nexts[stop - 1] if stop > first else offset
        return segment.next_offset

    def _take_all(self, segment: Segment, offset: int) -> int:
        position = segment.position_of(offset, now=self.now)
        if position < segment.size:
            self._add(segment, position, segment.size, offset, segment.next_offset, None)
        return segment.next_offset

    def _add(
        self, segment: Segment, begin: int, end: int, offset: int, next_offset: int, tags: TagIndex | None
    ) -> None:
        self._bytes -= end - begin
        last = self.runs[-1] if self.runs else None
        if last is not None and last.segment is segment and last.end == begin and last.tags is None is tags:
            self.runs[-1] = last._replace(end=end, next_offset=next_offset)
        else:
            self.runs.append(Run(segment, segment.file.handle, begin, end, offset, next_offset, tags))


# the work of a worker


class Looked(NamedTuple):
    """What a worker has found."""

    pieces: list[Found]
    after: int
    learned: list[tuple[Segment, TagIndex, TagIndex]]  # of which segment, into what, and what
    before_large: bool = False  # it ended there


class Look(NamedTuple):
    """What a worker is to look at. It reads, and changes nothing."""

    plan: Plan
    selection: Selection
    offset: int
    bound: int
    unpacked_max: int

    def run(self) -> Looked:
        """Look, up to a batch that is larger. Blocks. Raises CorruptLog, OSError."""
        judge, tagger = Filter(self.selection.expression), Tagger(is_bounded=False)
        looked = Looked([], self.plan.after, [])
        bytes_left, records_left = LOOK_BYTES, LOOK_RECORDS
        for run in self.plan.runs:
            learner = None
            if run.tags is None and not self.selection.is_exact:
                continue
            if run.tags is not None:
                base = run.segment.base_offset
                learner = TagIndex(run.segment.disk, run.segment.stem, run.position, run.offset - base)
                looked.learned.append((run.segment, run.tags, learner))
            for position, batch, header in batches_of(run.handle, run.position, run.end):
                if header.base_offset >= self.bound:
                    return looked._replace(after=self.bound)
                if bytes_left <= 0 or records_left <= 0:
                    return looked._replace(after=max(header.base_offset, self.offset))
                bytes_left -= header.size
                if header.last_offset < self.offset and learner is None:
                    continue
                cost = self._look_at(batch, header, judge, tagger, learner, position, looked.pieces, run)
                if cost is None:
                    return looked._replace(after=max(header.base_offset, self.offset), before_large=True)
                records_left -= cost
        return looked

    def _look_at(
        self,
        batch: memoryview,
        header: BatchHeader,
        judge: Filter,
        tagger: Tagger,
        learner: TagIndex | None,
        position: int,
        pieces: list[Found],
        run: Run,
    ) -> int | None:
        """Judge one batch; how many records that was, or was as much work as. None: it is too large for this look."""
        records, size = _records_of(batch, header, self.unpacked_max)
        is_too_large = records is None and size > self.unpacked_max
        is_shown = self.selection.is_exact and header.last_offset >= self.offset
        if is_too_large and is_shown and self.unpacked_max < UNPACKED_MAX:
            return None
        if learner is not None:
            if header.is_control:
                numbers = tagger.look_at(batch, header)
            elif records is None or size > BATCH_BYTES_MAX:
                numbers = frozenset((ANY,))
            else:
                numbers = tagger.numbers_in(records, header.count)
            offset = header.base_offset - run.segment.base_offset
            learner.note(position, header.size, offset, offset + header.last_offset_delta + 1, numbers, header.crc)
        cost = max(header.count, size // RECORD_BYTES)
        left = left_of(batch, header, judge, records) if is_shown and not is_too_large else None
        if left is not None:
            pieces.append(Found(bytes(left), header.base_offset, header.next_offset))
        return cost


def _records_of(batch: memoryview, header: BatchHeader, bytes_max: int) -> tuple[bytes | None, int]:
    """A batch's records, decompressed, None if they cannot be had; how many bytes that is, or were tried."""
    if header.is_control:
        return None, 0
    try:
        records = payload(batch, max_bytes=bytes_max)
    except KafkaError as error:
        return None, bytes_max + (error.code is ErrorCode.MESSAGE_TOO_LARGE)
    return records, len(records)


def left_of(batch: memoryview, header: BatchHeader, judge: Filter, records: bytes | None) -> bytes | bytearray | None:
    """What a view shows of a batch."""
    if header.is_control:
        marker = read_marker(batch)
        return None if marker is None or marker.is_commit else bytes(batch)
    if records is None:
        return bytes(batch) if header.count else None
    left = judge.left_of(batch, header, records)
    return bytes(left) if left is batch else left  # type: ignore[return-value]


def batches_of(handle: Handle, position: int, end: int) -> Iterator[tuple[int, memoryview, BatchHeader]]:
    """(position, batch, header) of whole batches that lie back to back. Raises CorruptLog where none is, OSError."""
    view, start = memoryview(b""), position
    while position < end:
        at = position - start
        if at + HEADER_SIZE > len(view):
            view, start, at = _read(handle, position, end, READ_BYTES), position, 0
        try:
            header = read_header(view, at)
        except KafkaError as error:
            raise CorruptLog(f"{handle.path}: no batch at {position}: {error.message}") from None
        if header.magic != MAGIC or position + header.size > end:
            raise CorruptLog(f"{handle.path}: no whole batch at {position}")
        if at + header.size > len(view):
            view, start, at = _read(handle, position, end, max(READ_BYTES, header.size)), position, 0
            if header.size > len(view):
                raise CorruptLog(f"{handle.path} ends before {position + header.size}")
        yield position, view[at : at + header.size], header
        position += header.size


def _read(handle: Handle, position: int, end: int, length: int) -> memoryview:
    return memoryview(handle.pread(min(length, end - position), position))
