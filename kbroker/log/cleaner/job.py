"""What a pass is told, and what it tells, in the helper's process and in ours. Values; they travel as pickles.

Apart from what a pass does with them, which a broker that never compacts does not import.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kbroker.config.keys import LONG_MAX
from kbroker.log.derived.aborted import AbortedRanges


class Source(NamedTuple):
    """A closed segment."""

    base_offset: int
    next_offset: int
    size: int


class Last(NamedTuple):
    """What an active producer wrote last."""

    data_offset: int  # the last offset of its last batch; -1: none is known, and its epoch stands in a marker
    epoch: int


class Lasts(NamedTuple):
    """What active producers wrote last, in columns: they may be many."""

    ids: array[int]
    data_offsets: array[int]
    epochs: array[int]

    def by_id(self) -> dict[int, Last]:
        """As the filter wants it."""
        return dict(zip(self.ids, map(Last, self.data_offsets, self.epochs), strict=True))


class Job(NamedTuple):
    """All that a pass is told."""

    directory: str
    sources: Sequence[Source]  # from the log's first segment on
    dirty_from: int
    now_ms: int
    delete_retention_ms: int
    segment_bytes: int
    segment_index_bytes: int
    index_interval_bytes: int
    memory_bytes: int  # for the map; no batch may be larger, either
    step_bytes: int  # read or written between two steps, about
    producers: Lasts
    aborted: Sequence[AbortedRanges]  # all that begin below the end of the sources, and maybe others


@dataclass(slots=True)
class Tally:
    """What was looked at, and what is left of it."""

    bytes_before: int = 0
    bytes_after: int = 0
    records_before: int = 0
    records_after: int = 0
    tombstones: int = 0  # of the records after: those that wait for delete.retention.ms to pass
    horizon_ms: int = LONG_MAX  # when the first that is left may go

    def add(self, other: Tally) -> None:
        """Count both."""
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after
        self.records_before += other.records_before
        self.records_after += other.records_after
        self.tombstones += other.tombstones
        self.horizon_ms = min(self.horizon_ms, other.horizon_ms)


class Group(NamedTuple):
    """A segment that is to take the place of others; its files are there, and durable."""

    base_offset: int
    next_offset: int
    size: int
    sources: Sequence[Source]
    tally: Tally
    is_new: bool  # False: there was nothing to take away, and there are no files


class Covered(NamedTuple):
    """The last word of a pass."""

    offset: int  # below it, each key is there once, as far as it is to be
