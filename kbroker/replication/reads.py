"""What a fetch of one partition is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kafka_wire.messages.produce_fetch import AbortedTransaction
from kbroker.env import Buffer, FileSlice

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
