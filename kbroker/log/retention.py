"""Which segments of a log are too old, too many, or below its start. Decides only; the log deletes.

Files go in two steps: renamed to `<name>.deleted` at once, removed later (`file.delete.delay.ms`). What a crash leaves
between the steps is removed at the next open.
"""

from __future__ import annotations

from collections.abc import Sequence

from kbroker.config.topic import TopicConfig
from kbroker.log.segment import Segment

DELETED = ".deleted"


def count_expired(
    segments: Sequence[Segment], start_offset: int, config: TopicConfig, now_ms: int, bound: int, most: int
) -> int:
    """How many of the oldest segments are to be deleted: none that reaches past bound (L8). It may be all of them.

    Counts no further than most. May raise OSError. (Kafka: UnifiedLog.deleteOldSegments.)
    """
    size = sum([segment.size for segment in segments])
    excess = size - config.retention_bytes if config.deletes and config.retention_bytes >= 0 else -1
    oldest_ms = now_ms - config.retention_ms if config.deletes and config.retention_ms >= 0 else None
    for count, segment in enumerate(segments):
        if segment.next_offset > bound or count == most:
            return count
        is_below_start = segment.next_offset <= start_offset and segment is not segments[-1]
        is_excess = excess >= segment.size > 0
        if not is_below_start and not is_excess and not (oldest_ms is not None and _last_ms(segment) < oldest_ms):
            return count
        excess -= segment.size
    return len(segments)


def _last_ms(segment: Segment) -> int:
    """The largest timestamp; of records without any, when the file was written."""
    if not segment.size:
        return 2**63 - 1
    largest_ms = segment.largest_timestamp_ms()
    return largest_ms if largest_ms >= 0 else segment.disk.modified_ms(segment.path)
