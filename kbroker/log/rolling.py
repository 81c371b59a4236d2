"""When a segment is full or old enough for the next to begin (Kafka: LogSegment.shouldRoll)."""

from __future__ import annotations

from kafka_wire import primitives
from kafka_wire.records import LENGTH_OFFSET, BatchHeader
from kbroker.config.topic import TopicConfig
from kbroker.log.index import ENTRY_SIZE
from kbroker.log.segment import Segment

RELATIVE_OFFSET_MAX = 2**31 - 1


def must_roll(config: TopicConfig, segment: Segment, header: BatchHeader, base_offset: int, now_ms: int) -> bool:
    """Whether a batch that begins at base_offset must go into a new segment. segment holds something.

    Age counts from the first batch's timestamp to this one's; where there is none, the clock takes its place.
    """
    if segment.size + header.length + LENGTH_OFFSET > config.segment_bytes:
        return True
    first_ms = segment.first_timestamp_ms
    if first_ms is None:
        first_ms = segment.opening_timestamp_ms(now_ms)
    latest_ms = header.max_timestamp if header.max_timestamp >= 0 else now_ms
    if latest_ms - first_ms > config.segment_ms - jitter_ms(config, segment):
        return True
    indexes = segment.indexes or segment.tail
    if indexes is not None and len(indexes.offsets) * ENTRY_SIZE >= config.segment_index_bytes:
        return True
    return base_offset + header.last_offset_delta - segment.base_offset > RELATIVE_OFFSET_MAX


def jitter_ms(config: TopicConfig, segment: Segment) -> int:
    """Spreads the rolls of many partitions (`segment.jitter.ms`); the same after a restart."""
    spread = config.segment_jitter_ms
    return primitives.crc32c(segment.stem.encode()) % spread if spread else 0
