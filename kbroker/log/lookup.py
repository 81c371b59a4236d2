"""Finding records by their timestamps, across segments. What ListOffsets asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kafka_wire.records import Record
from kbroker.log.segment import Segment


class Found(NamedTuple):
    """A record found by its timestamp."""

    timestamp_ms: int
    offset: int
    leader_epoch: int


def first_at_or_after(segments: Sequence[Segment], timestamp_ms: int, start: int, bound: int) -> Found | None:
    """The first record from start on, below bound, whose timestamp is at least timestamp_ms."""
    for segment in segments:
        if segment.next_offset > start and segment.base_offset < bound and segment.size:
            found = segment.first_at_or_after(timestamp_ms, start, bound)
            if found is not None:
                return _found(*found)
    return None


def with_largest_timestamp(segments: Sequence[Segment], start: int, bound: int) -> Found | None:
    """The first record with the largest timestamp of all, unless it is outside start to bound."""
    filled = [segment for segment in segments if segment.size]
    if not filled:
        return None
    found = max(filled, key=Segment.largest_timestamp_ms).with_largest_timestamp()
    if found is None or not start <= found[0].offset < bound:
        return None
    return _found(*found)


def _found(record: Record, leader_epoch: int) -> Found:
    return Found(record.timestamp, record.offset, leader_epoch)
