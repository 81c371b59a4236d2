"""Which segments of a log are too old, too many, or below its start. Decides only; the log deletes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from kbroker.config.topic import TopicConfig
from kbroker.log.cold import NotInMemory
from kbroker.log.segment import Segment

LOOKED_AT = (8, 256)  # segments, whose times a worker finds out at once: to begin with, and at most


def count_expired(
    segments: Sequence[Segment], size: int, start_offset: int, config: TopicConfig, now_ms: int, bound: int, most: int
) -> int:
    """How many of the oldest segments are to be deleted: none that reaches past bound (L8). It may be all of them.

    size: of all of them. Counts no further than most. Raises NotInMemory when the disk has to be asked how old one is.
    (Kafka: UnifiedLog.deleteOldSegments.)
    """
    excess = size - config.retention_bytes if config.deletes and config.retention_bytes >= 0 else -1
    oldest_ms = now_ms - config.retention_ms if config.deletes and config.retention_ms >= 0 else None
    count = 0
    for segment in islice(segments, most):
        is_below_start = segment.next_offset <= start_offset and segment is not segments[-1]
        if segment.next_offset > bound:
            break
        if not is_below_start and not excess >= segment.size > 0:
            if oldest_ms is None:
                break
            last_ms = segment.last_ms()
            if last_ms is None:
                ahead = min(LOOKED_AT[0] + count, LOOKED_AT[1])
                raise _lacking(segments[count : count + ahead], oldest_ms)
            if last_ms >= oldest_ms:
                break
        excess -= segment.size
        count += 1
    return count


class _Look(NamedTuple):
    """Finding out how old segments are, one after the other up to the first that is to stay."""

    twins: Sequence[Segment]
    oldest_ms: int

    def run(self) -> Sequence[Segment]:
        """In a worker: those it has looked at. May raise OSError, CorruptLog."""
        try:
            for count, twin in enumerate(self.twins, 1):
                if twin.find_last_ms() >= self.oldest_ms:
                    return self.twins[:count]
            return self.twins
        finally:
            for twin in self.twins:
                twin.close()


def _lacking(segments: Sequence[Segment], oldest_ms: int) -> NotInMemory:
    look = _Look([segment.apart() for segment in segments], oldest_ms)
    return NotInMemory(look.run, partial(_adopt, segments))


def _adopt(segments: Sequence[Segment], twins: Sequence[Segment]) -> None:
    for segment, twin in zip(segments, twins, strict=False):
        segment.adopt_times(twin)
