"""Reading a log: from an offset to slices of segments, across as many as it takes.

Nothing is decoded but a few headers, near the two ends. The ends of recent reads are remembered: that is where readers
come back for the next bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter

from kbroker.env import FileSlice
from kbroker.log.cold import NotInMemory
from kbroker.log.segment import Segment, tick

POSITIONS_KEPT = 32


_base_offset = attrgetter("base_offset")


class Reading:
    """The reading side of a log, over the list of segments that the log changes."""

    __slots__ = ("segments", "_recent")

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self._recent: dict[int, tuple[Segment, int]] = {}  # offset -> where its batch begins

    def forget(self) -> None:
        """The segments are others now."""
        self._recent.clear()

    def read(
        self, offset: int, max_bytes: int, bound: int, at_least_one: bool, now: bool
    ) -> tuple[list[FileSlice], int]:
        """Whole batches as PartitionLog.read has them, and the offset behind the last.

        For who knows that the log is online, and that start_offset <= offset < bound <= end.
        Raises NotInMemory, CorruptLog, OSError.
        """
        segment, position = self._locate(offset, now)
        segment.used = tick()
        slices: list[FileSlice] = []
        while True:
            if bound >= segment.next_offset:
                limit, after = segment.size, segment.next_offset
            else:
                limit, after = self._locate(bound, now)[1], bound
            stop = limit
            if limit - position > max_bytes:
                stop, after = segment.cut(position, max_bytes, at_least_one=at_least_one, now=now)
                if stop >= limit:
                    stop, after = limit, min(bound, segment.next_offset)
            if stop > position:
                slices.append(FileSlice((segment.open_file or segment.file).handle, position, stop - position))
            max_bytes -= stop - position
            if after >= bound or stop < limit or max_bytes <= 0:
                self._remember(after, segment, stop)
                return slices, after
            segment, position, at_least_one = self.segment_of(after), 0, False
            segment.used = tick()

    def _locate(self, offset: int, now: bool) -> tuple[Segment, int]:
        """The segment that holds an offset, and where its batch begins there."""
        found = self._recent.get(offset)
        if found is not None:
            return found
        segment = self.segment_of(offset)
        found = segment, segment.position_of(offset, now=now)
        if found[1] == segment.size and segment is not self.segments[-1]:  # nothing of it is left there (compaction)
            found = self.segments[self.segments.index(segment) + 1], 0
        self._remember(offset, *found)
        return found

    def _remember(self, offset: int, segment: Segment, position: int) -> None:
        recent = self._recent
        if offset not in recent:
            if position == segment.size and segment is not self.segments[-1]:
                segment, position = self.segment_of(offset), 0
            if len(recent) >= POSITIONS_KEPT:
                del recent[next(iter(recent))]
            recent[offset] = segment, position

    def segment_of(self, offset: int) -> Segment:
        """The segment that holds an offset."""
        last = self.segments[-1]
        return last if offset >= last.base_offset else self.segments[self.number_of(offset)]

    def number_of(self, offset: int) -> int:
        """Which segment holds an offset, counted from the first."""
        return max(bisect_right(self.segments, offset, key=_base_offset) - 1, 0)

    def bytes_between(self, offset: int, bound: int, most: int) -> int:
        """As PartitionLog.bytes_between. May raise OSError."""
        try:
            return self._bytes_between(offset, bound, most)
        except NotInMemory:
            return most

    def _bytes_between(self, offset: int, bound: int, most: int) -> int:
        segment, position = self._locate(offset, True)
        found = -position
        while bound > segment.next_offset and found + segment.size < most:
            found += segment.size
            segment = self.segment_of(segment.next_offset)
        return min(found + (segment.size if bound >= segment.next_offset else self._locate(bound, True)[1]), most)
