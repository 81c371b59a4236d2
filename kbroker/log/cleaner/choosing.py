"""What of a log may be compacted, and whether it is worth it. Decides only.

      start          cleaned to                   bound
        |   clean        |   dirty                  |   not yet
        +----------------+--------------------------+-----------------

The bound is the beginning of a segment: the active one, or the first that is not wholly stable and committed, or that
somebody needs as it is, or that has a record younger than min.compaction.lag.ms. Worth it is a log of which more than
min.cleanable.dirty.ratio is dirty, or in which something has waited for longer than max.compaction.lag.ms; or in which
a tombstone or marker has stood for delete.retention.ms, so that it is to go. (Kafka: LogCleanerManager, LogToClean; a
tombstone waits there for the next records.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kbroker.log.segment import Segment

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


class Span(NamedTuple):
    """What may be compacted."""

    segments: Sequence[Segment]  # from the log's first on, all below the bound
    dirty_from: int
    clean_bytes: int
    dirty_bytes: int
    is_due: bool  # whatever the ratio

    @property
    def ratio(self) -> float:
        """How much of it is dirty."""
        return self.dirty_bytes / max(self.clean_bytes + self.dirty_bytes, 1)

    def is_worth_it(self, ratio_min: float) -> bool:
        """Whether it is to be compacted now."""
        return self.is_due or (self.dirty_bytes > 0 and self.ratio > ratio_min)


def span_of(log: PartitionLog, now_ms: int, *, now: bool = False) -> Span | None:
    """What of a log may be compacted; None: nothing. now: raise NotInMemory rather than wait for the disk.

    May raise CorruptLog, OSError.
    """
    if log.offline is not None or log.high_watermark is None or not log.is_settled:
        return None
    dirty_from = max(log.cleaned_to, log.start_offset)
    segments = _below_bound(log, dirty_from, now_ms, now)
    if not segments:
        return None
    dirty = [segment for segment in segments if segment.next_offset > dirty_from]
    clean_bytes = sum([segment.size for segment in segments if segment.base_offset < dirty_from])
    dirty_bytes = sum([segment.size for segment in dirty])
    is_due = bool(dirty_bytes) and _is_late(dirty, now_ms - log.config.max_compaction_lag_ms, now)
    return Span(segments, dirty_from, clean_bytes, dirty_bytes, is_due or now_ms >= log.horizon_ms)


def _below_bound(log: PartitionLog, dirty_from: int, now_ms: int, now: bool) -> list[Segment]:
    """The closed segments that may be compacted."""
    assert log.high_watermark is not None
    stable = min(log.stable_below(log.high_watermark.value), log.held_from)
    lag_ms = log.config.min_compaction_lag_ms
    found: list[Segment] = []
    for segment in log.segments[:-1]:
        is_young = lag_ms > 0 and segment.next_offset > dirty_from and segment.largest(now=now)[0] > now_ms - lag_ms
        if segment.next_offset > stable or is_young:
            break
        found.append(segment)
    return found


def _is_late(dirty: Sequence[Segment], before_ms: int, now: bool) -> bool:
    """Whether one of the segments begins with a batch from before that time."""
    if before_ms <= 0:
        return False
    return any(segment.size and 0 < segment.first_batch_ms(now=now) < before_ms for segment in dirty)
