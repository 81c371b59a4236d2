"""Finding which transactions were aborted in segments that nobody knows it of: after a restart, or a loss of files.

    segment wanted ──▶ its .txnindex and the snapshot at its end are there ──────────────────▶ known
                  └──▶ else: who was in a transaction at its base (a snapshot, and batches behind it), then all its
                       batches' headers and markers ──▶ known, and what is written into a new .txnindex

A transaction may end in any later segment than it began. So the search goes on, segment by segment, until none that is
open begins below the bound of what was read. It is a worker's; the event loop then adopts what was found, as far as the
segments are still what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from kafka_wire.messages.produce_fetch import AbortedTransaction
from kbroker.env import Disk
from kbroker.log import recovery, scan
from kbroker.log.cold import NotInMemory
from kbroker.log.derived.aborted import SUFFIX, AbortedRanges, KnownAborted, read_ranges
from kbroker.log.derived.producers import CorruptSnapshot, ProducerStates, read_transactions
from kbroker.log.derived.snapshots import snapshot_path
from kbroker.log.derived.transactions import ALL_STABLE, Transactions, may_be_marker, may_begin, read_marker
from kbroker.log.errors import CorruptLog
from kbroker.log.segment import Segment, tick

AT_ONCE = 1000  # of a list that the event loop makes, some; longer ones are a worker's

SEARCHED_AT_ONCE = 256  # segments; who needs more asks again


class Found(NamedTuple):
    """What is known now of a segment."""

    twin: Segment  # as it was
    aborted: KnownAborted


def is_last(lowest_open: int, segment: Segment, bound: int) -> bool:
    """Whether markers behind a closed segment end only what began at or above bound: open there, or begun behind it."""
    return min(lowest_open, segment.next_offset) >= bound


class Search(NamedTuple):
    """One search, as of one moment."""

    disk: Disk
    directory: str
    earlier: Sequence[tuple[str, int, int, int]]  # stem, base offset, next offset, size of all segments before
    twins: Sequence[Segment]  # of the first segment that is wanted, and of some behind it
    snapshots: Sequence[int]  # offsets, in order
    bound: int  # of what was read
    number: int  # of the searches in this log

    def run(self) -> list[Found]:
        """As find, in a worker: a segment may be deleted meanwhile, which ends the search."""
        found: list[Found] = []
        with suppress(FileNotFoundError):
            self.find(found)
        return found

    def find(self, found: list[Found]) -> None:
        """Add what is known of the first segment wanted, and of as many behind it as it takes. Blocks.

        Raises OSError, CorruptLog.
        """
        open_: Transactions | None = None  # at the beginning of the segment
        try:
            for twin in self.twins:
                one, open_ = self._look_at(twin, open_)
                found.append(one)
                if is_last(one.aborted.lowest_open, one.twin, self.bound):
                    break
        finally:
            for twin in self.twins:
                twin.close()

    def _look_at(self, twin: Segment, open_: Transactions | None) -> tuple[Found, Transactions | None]:
        ranges = read_ranges(self.disk, twin.stem, twin.base_offset)
        if ranges is not None and (not twin.is_closed or (after := self._snapshot(twin.next_offset)) is not None):
            after = after if twin.is_closed else None
            return Found(twin, KnownAborted(ranges, after.first_ongoing if after else -1, True, "")), after
        after = open_ if open_ is not None else self._open_at(twin.base_offset)
        found = _walk(twin, after)
        copy = self._write(twin, found) if ranges is None and twin.is_closed else ""
        return Found(twin, KnownAborted(ranges or found, after.first_ongoing, ranges is not None, copy)), after

    def _snapshot(self, offset: int) -> Transactions | None:
        """The transactions at an offset, if there is a good snapshot of it."""
        if offset not in self.snapshots:
            return None
        try:
            return read_transactions(self.disk.read(snapshot_path(self.directory, offset)))
        except (FileNotFoundError, CorruptSnapshot):
            return None

    def _open_at(self, base: int) -> Transactions:
        """The transactions where the first segment begins: from a snapshot, or from batches behind an older one."""
        known = self._snapshot(base)
        if known is not None:
            return known
        segments = []
        for stem, base_offset, next_offset, size in self.earlier:
            segments.append(Segment(self.disk, stem, base_offset, size))
            segments[-1].next_offset = next_offset
        segments.append(Segment(self.disk, self.twins[0].stem, base))  # nothing of it
        states, snapshots = ProducerStates(), [offset for offset in self.snapshots if offset <= base]
        try:
            recovery.restore_producers(self.disk, self.directory, segments, states, snapshots)
        finally:
            for segment in segments:
                segment.close()
        return states.transactions

    def _write(self, twin: Segment, ranges: AbortedRanges) -> str:
        """Write a file for a closed segment, for the event loop to put in its place; "": the disk refuses.

        There is one such file at most: whose search is given up meanwhile leaves it to the next.
        """
        own, copy = (f"{twin.stem}{SUFFIX}.{name}.tmp" for name in (self.number, "found"))
        try:
            file = self.disk.open(own, create=True)
            try:
                file.append([ranges.content()])
                file.sync()
            finally:
                file.close()
            self.disk.rename(own, copy)
        except OSError:
            with suppress(OSError):
                self.disk.remove(own)
            return ""
        return copy


def _walk(twin: Segment, open_: Transactions) -> AbortedRanges:
    """What markers in a segment aborted. open_ becomes what is ongoing at its end. Raises CorruptLog, OSError."""
    ranges, file, end = AbortedRanges(), twin.file, 0
    for position, header in scan.walk(file, 0, twin.size):
        end = position + header.size
        producer_id = header.producer_id
        if producer_id < 0:
            continue
        if may_begin(header):
            if producer_id not in open_.ongoing:
                open_.begin(producer_id, header.base_offset)
        elif header.is_control and may_be_marker(header):
            marker = read_marker(file.pread(header.size, position))
            if marker is not None:
                aborted = open_.aborted_by(marker, header.base_offset)
                if aborted is not None:
                    ranges.append(aborted)
                open_.forget(producer_id)
    if end != twin.size:
        raise CorruptLog(f"{twin.path}: no whole batch at {end}, though it has {twin.size} bytes")
    return ranges


def _gather(known: list[AbortedRanges], offset: int, bound: int, most: int = ALL_STABLE) -> list[AbortedTransaction]:
    found: list[AbortedTransaction] = []
    for ranges in known:
        if ranges.collect(offset, bound, found, most) or len(found) > most:
            break
    return found


class Rediscovery:
    """The aborted transactions of a log's segments, known or to be found."""

    __slots__ = ("disk", "directory", "segments", "_gathered", "_searches")

    def __init__(self, disk: Disk, directory: str, segments: list[Segment]) -> None:
        self.disk = disk
        self.directory = directory
        self.segments = segments  # the log's own list
        self._searches = 0
        self._gathered: tuple[tuple[int, int], list[AbortedTransaction]] | None = None  # what a worker brought last

    def between(
        self, number: int, offset: int, bound: int, snapshots: Sequence[int], *, now: bool
    ) -> list[AbortedTransaction]:
        """The aborted transactions that overlap what lies from offset to below bound, in the order of their markers.

        number: of the segment that holds offset. snapshots: the offsets of those there are. now: raise NotInMemory
        rather than wait for the disk, or make a long list. May raise CorruptLog, OSError.
        """
        if self._gathered is not None and self._gathered[0] == (offset, bound):
            (_, found), self._gathered = self._gathered, None
            return found
        known = self._all(number, bound, snapshots, now)
        found = _gather(known, offset, bound, AT_ONCE if now else ALL_STABLE)
        if now and len(found) > AT_ONCE:
            raise NotInMemory(partial(_gather, known, offset, bound), partial(self._note, (offset, bound)))
        return found

    def below(self, bound: int, snapshots: Sequence[int], *, now: bool) -> list[AbortedRanges]:
        """What has all aborted transactions that begin below an offset: for compaction.

        now: raise NotInMemory rather than wait for the disk. May raise CorruptLog, OSError.
        """
        return self._all(0, bound, snapshots, now)

    def forget(self) -> None:
        """Nobody has asked again for what a worker brought."""
        self._gathered = None

    def _all(self, number: int, bound: int, snapshots: Sequence[int], now: bool) -> list[AbortedRanges]:
        """The ranges of all segments from the number-th on that may have some below bound, found if need be."""
        while True:
            known, lacking = self._known(number, bound)
            if lacking is None:
                return known
            search = self._search(lacking, bound, snapshots)
            if now:
                raise NotInMemory(search.run, self._adopt)
            news: list[Found] = []
            search.find(news)
            self._adopt(news)

    def _known(self, number: int, bound: int) -> tuple[list[AbortedRanges], int | None]:
        """The ranges of all segments that may have some below bound, or the number of the first that is not known."""
        known: list[AbortedRanges] = []
        for n in range(number, len(self.segments)):
            segment = self.segments[n]
            aborted = segment.aborted
            if not aborted.is_known or (segment.is_closed and aborted.lowest_open < 0):
                return known, n
            if aborted.ranges is not None:
                segment.used = tick()
                known.append(aborted.ranges)
            if segment.is_closed and is_last(aborted.lowest_open, segment, bound):
                break
        return known, None

    def _search(self, number: int, bound: int, snapshots: Sequence[int]) -> Search:
        """What finds out about a segment, and some behind it."""
        self._searches += 1
        earlier = [(each.stem, each.base_offset, each.next_offset, each.size) for each in self.segments[:number]]
        twins = [segment.apart() for segment in self.segments[number : number + SEARCHED_AT_ONCE]]
        return Search(self.disk, self.directory, earlier, twins, tuple(snapshots), bound, self._searches)

    def _note(self, key: tuple[int, int], found: list[AbortedTransaction]) -> None:
        """A worker has made the list: it is asked for again at once."""
        self._gathered = key, found

    def _adopt(self, found: list[Found]) -> None:
        """Have what a search found, as far as it is about segments that are still there, and as they were."""
        by_base = {segment.base_offset: segment for segment in self.segments}
        for one in found:
            segment = by_base.get(one.twin.base_offset)
            if segment is not None:
                segment.adopt_aborted(one.twin, one.aborted)
            else:
                one.aborted.remove_copy(self.disk)
