"""The ghost of a partition: what any leader has ever exposed below its high watermark. It only grows. Pure.

    ghost        [ 0 .................................... end )
    a leader     [ ......... high watermark )    below it, the same batches to the last bit (R2)
    elected      [ .................................... end or more )    with all of the ghost (R3)
    joined ISR   the same (R7): who is in sync may be elected
    truncated    nothing of the ghost goes (R4)

A batch is known by its offsets, its CRC and its leader epoch, which lie outside the CRC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.simulation.checker import Violation


class Identity(NamedTuple):
    """What must be the same of a batch on every replica."""

    base: int
    last: int
    crc: int
    epoch: int


class Ghost:
    """Of one partition, of one topic id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches: dict[int, Identity] = {}  # by base offset
        self.end = 0
        self.exposed_by: dict[int, str] = {}  # base offset -> who was first

    def broken(self, what: str) -> Violation:
        """A promise was broken here."""
        return Violation(f"{self.name}: {what}")

    def expose(self, who: str, batches: Iterable[Identity], high_watermark: int) -> list[Identity]:
        """A leader shows these, in order and without a gap, up to its high watermark. Those that are new. (R2)"""
        new: list[Identity] = []
        reached = 0
        for batch in batches:
            if batch.last >= high_watermark:
                raise self.broken(f"{who} has the high watermark {high_watermark} within {batch}")
            known = self.batches.get(batch.base)
            if known is None:
                if batch.base != self.end:
                    raise self.broken(f"{who} shows {batch}, and what was shown ends at {self.end} (R2)")
                self.batches[batch.base] = batch
                self.exposed_by[batch.base] = who
                self.end = batch.last + 1
                new.append(batch)
            elif known != batch:
                first = self.exposed_by[batch.base]
                raise self.broken(f"{who} shows {batch}, where {first} showed {known} (R2)")
            reached = batch.last + 1
        if reached and reached != high_watermark:
            raise self.broken(f"{who} has the high watermark {high_watermark}, and its log ends at {reached}")
        return new

    def check_shown(self, who: str, batches: Iterable[Identity], high_watermark: int) -> None:
        """A follower shows these: nothing that a leader has not shown."""
        if high_watermark > self.end:
            raise self.broken(f"{who}, a follower, shows up to {high_watermark}, and no leader passed {self.end}")
        for batch in batches:
            if self.batches.get(batch.base) != batch:
                raise self.broken(f"{who}, a follower, shows {batch}, a leader {self.batches.get(batch.base)} (R2)")

    def check_complete(self, what: str, batches: Iterable[Identity], start: int) -> None:
        """A log, from its start on, has everything (R3, R7). what: who must have it, and why."""
        there = {batch.base: batch for batch in batches}
        end = max((batch.last + 1 for batch in there.values()), default=start)
        if end < self.end:
            raise self.broken(f"{what}: its log ends at {end}, and up to {self.end} was shown")
        for batch in self.batches.values():
            if batch.base >= start and there.get(batch.base) != batch:
                raise self.broken(f"{what}: it has {there.get(batch.base)} where {batch} was shown")

    def check_truncation(self, who: str, batches: Iterable[Identity], to: int) -> None:
        """A replica gives up these, from offset `to` on: they must not be what was shown (R4)."""
        for batch in batches:
            if batch.last >= to and self.batches.get(batch.base) == batch:
                raise self.broken(f"{who} truncates to {to}, and loses {batch}, which was shown (R4)")
