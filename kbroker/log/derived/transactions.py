"""What a log knows of its transactions: which are undecided, and so up to where it is stable. Owns no file.

      first batch of it appended        marker appended           marker below the high watermark
    ───────────────────────────▶ ongoing ───────────────▶ ended ───────────────────────────────▶ forgotten

A reader of committed records sees nothing at or above the lowest first offset of those that are ongoing or ended: as
long as a marker is not below the high watermark, another leader may not have it. (Kafka: ProducerStateManager.)

Transactions begin in the order of their first offsets and end in the order of their markers, so that the lowest is
always at hand, however many there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from kafka_wire.errors import KafkaError
from kafka_wire.records import (
    NO_SEQUENCE,
    BatchHeader,
    Buffer,
    ControlType,
    control_batch,
    peek_control,
    read_control,
    read_header,
    read_records,
)

ALL_STABLE = 2**63 - 1  # in place of an offset
_MARKER_BYTES_MAX = 1024  # decompressed
_NONE: OrderedDict[int, int] = OrderedDict()  # what all logs share that never had a transaction


class Marker(NamedTuple):
    """What ends a producer's transaction in a partition."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    is_commit: bool
    transaction_version: int = 0  # from 2 on (KIP-890) the epoch is a new one; not in the log

    def batch(self, timestamp_ms: int) -> bytearray:
        """The control batch that says so."""
        return control_batch(
            ControlType.COMMIT if self.is_commit else ControlType.ABORT,
            producer_id=self.producer_id,
            producer_epoch=self.producer_epoch,
            coordinator_epoch=self.coordinator_epoch,
            timestamp=timestamp_ms,
        )


class AbortedRange(NamedTuple):
    """A transaction that was aborted: its first record, its marker, and up to where all was decided with that."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


def read_marker(batch: Buffer) -> Marker | None:
    """What a control batch says of its producer's transaction; None: nothing, being emptied or of another kind."""
    header = read_header(batch)
    if not may_be_marker(header):
        return None
    control = peek_control(batch)
    if control is None:
        try:
            control = next(map(read_control, read_records(batch, max_bytes=_MARKER_BYTES_MAX)), None)
        except KafkaError:
            return None
    if control is None or control.type not in (ControlType.ABORT, ControlType.COMMIT):
        return None
    is_commit = control.type == ControlType.COMMIT
    return Marker(header.producer_id, header.producer_epoch, control.coordinator_epoch, is_commit)


def may_be_marker(header: BatchHeader) -> bool:
    """Whether a control batch may be a marker: what lies hidden in a log, which may be large, has another sequence."""
    return header.base_sequence == NO_SEQUENCE


def may_begin(header: BatchHeader) -> bool:
    """Whether a batch begins a transaction of its producer, if none is ongoing: one that is all delayed does, too."""
    return header.is_transactional and (not header.is_control or header.base_sequence >= 0)


class Transactions:
    """Those of one log that are not stable yet."""

    __slots__ = ("ongoing", "first_unstable", "_ended")

    def __init__(self) -> None:
        # producer id -> first offset, rising. A plain dict would be slow to tell its first, once many were removed.
        self.ongoing: OrderedDict[int, int] = _NONE
        self.first_unstable = ALL_STABLE  # the lowest first offset of all
        self._ended: list[tuple[int, int]] = []  # (marker's offset, first offset): those that count, both rising

    @property
    def first_ongoing(self) -> int:
        """The lowest first offset of those without a marker, or ALL_STABLE."""
        return next(iter(self.ongoing.values()), ALL_STABLE)

    def begin(self, producer_id: int, first_offset: int) -> None:
        """A producer without a transaction wrote a transactional batch."""
        if self.ongoing is _NONE:
            self.ongoing = OrderedDict()
        self.ongoing[producer_id] = first_offset
        if first_offset < self.first_unstable:
            self.first_unstable = first_offset

    def end(self, producer_id: int, marker_offset: int) -> None:
        """Its marker was appended; there may be no transaction of it."""
        first_offset = self.ongoing.pop(producer_id, None)
        if first_offset is not None:
            ended = self._ended
            while ended and ended[-1][1] >= first_offset:  # it becomes stable earlier, and never is the lowest
                ended.pop()
            ended.append((marker_offset, first_offset))

    def forget(self, producer_id: int) -> None:
        """It has none ongoing any more, and when that becomes stable does not matter."""
        self.ongoing.pop(producer_id, None)

    def settle(self, high_watermark: int) -> None:
        """Forget those that ended below the high watermark."""
        ended = self._ended
        if ended and ended[0][0] < high_watermark:
            del ended[: bisect_left(ended, (high_watermark, 0))]
        first = self.first_ongoing
        self.first_unstable = min(first, ended[0][1]) if ended else first

    def aborted_by(self, marker: Marker, offset: int) -> AbortedRange | None:
        """What a marker at that offset aborts; None: nothing. (Kafka: ProducerStateManager.lastStableOffset.)"""
        first_offset = self.ongoing.get(marker.producer_id)
        if first_offset is None or marker.is_commit:
            return None
        stable = next((first for other, first in self.ongoing.items() if other != marker.producer_id), offset + 1)
        return AbortedRange(marker.producer_id, first_offset, offset, stable)

    def restore(self, ongoing: Iterable[tuple[int, int]]) -> None:
        """Have these (producer id, first offset), and no others."""
        self.ongoing = OrderedDict(sorted(ongoing, key=lambda each: each[1]))
        self._ended.clear()
        self.first_unstable = self.first_ongoing

    def hold_below(self, offset: int) -> None:
        """What ended below that offset is not known: nothing counts as stable before the high watermark has passed it.

        A snapshot tells only what is ongoing; a new leader's high watermark may be far behind it.
        """
        self._ended.append((offset - 1, 0))
        self.first_unstable = 0
