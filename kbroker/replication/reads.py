"""What a fetch of one partition is told, and who may tell it in place of the log: those who look for something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kafka_wire.messages.produce_fetch import AbortedTransaction
from kbroker.env import Buffer, FileSlice
from kbroker.log.log import PartitionLog

NO_SCAN, SCANNED, SCANNED_IN_PART = 0, 1, 2  # was something looked for; and in all there is, or in a part of it


class ReadResult(NamedTuple):
    """What a fetch of one partition found, all taken at one moment (L7)."""

    slices: Sequence[FileSlice | Buffer]
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    length: int  # bytes in slices, as far as they are what was asked for
    aborted: list[AbortedTransaction] | None  # of read_committed: those that overlap what was read
    scan: int = NO_SCAN


class Scanned(NamedTuple):
    """What was found by who looks for something."""

    parts: Sequence[FileSlice | Buffer]
    after: int  # everything below was looked at
    length: int  # bytes of what was looked for; what the parts have beyond only says how far that was
    is_partial: bool  # there was too much to look at: who asks on from `after` may find more


class Reader(Protocol):
    """Reads for those who are not to have all that is in a log, in place of its `Reading`."""

    def read(
        self, log: PartitionLog, offset: int, bytes_max: int, bound: int, at_least_one: bool, now: bool
    ) -> Scanned:
        """What is to be had from offset to below bound. For the rest see kbroker.log.reading.Reading.read."""

    def available(self, log: PartitionLog, offset: int, bound: int, most: int) -> int:
        """About how many bytes `read` may find, counted no further than `most`; from memory. May raise OSError."""
