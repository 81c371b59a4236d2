"""What clients were told: which record was acknowledged, when, at which offset; and what a reader saw meanwhile.

A record says which it is: `value(n)` is the n-th that its producer sent to its partition. Times are time.time().
Owns nothing but what it is told; any thread may tell.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]


def value(number: int, size: int) -> bytes:
    return b"%d " % number + b"x" * (size - len(str(number)) - 1)


def number_of(found: bytes) -> int:
    return int(found.partition(b" ")[0])


@dataclass
class Acks:
    """Of one partition, in the order in which they came."""

    numbers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Ledger:
    """What producers were told of one topic."""

    def __init__(self, topic: str, partitions: int) -> None:
        self.topic = topic
        self.acks = [Acks() for _ in range(partitions)]
        self.errors: list[str] = []
        self.longest_wait_s = 0.0  # from send to acknowledgement

    def acked(self, partition: int, number: int, offset: int, at: float, sent_at: float | None = None) -> None:
        acks = self.acks[partition]
        acks.numbers.append(number)
        acks.offsets.append(offset)
        acks.times.append(at)
        if sent_at is not None:
            self.longest_wait_s = max(self.longest_wait_s, at - sent_at)

    def failed(self, why: str) -> None:
        """An error reached the application."""
        self.errors.append(why)

    @property
    def total(self) -> int:
        return sum(len(acks.numbers) for acks in self.acks)

    def flows_since(self, since: float) -> bool:
        """Every partition has acknowledged something after that moment."""
        return all(acks.times and acks.times[-1] > since for acks in self.acks)

    def gap(self, since: float, until: float) -> float:
        """The longest time between two acknowledgements of a partition, of all partitions, that lies in this time."""
        return max(longest(acks.times, since, until) for acks in self.acks)


def longest(times: list[float], since: float, until: float) -> float:
    inside = [max(at, since) for at in times if since - 0.5 < at <= until]
    marks = [since, *sorted(inside), until]
    return max(later - earlier for earlier, later in zip(marks, marks[1:], strict=False))


def differences(ledger: Ledger, found: Mapping[int, Iterable[tuple[int, bytes]]]) -> list[str]:
    """What is wrong with the records of a topic, given as (offset, value) by partition, in the order of the log.

    Lost: acknowledged and not there, or not where it was said to be. Duplicated: there twice. Reordered: behind a later
    one of its producer. What was never acknowledged may be there, once.
    """
    wrong = []
    for partition, acks in enumerate(ledger.acks):
        numbers = {offset: number_of(each) for offset, each in found.get(partition, ())}
        told = dict(zip(acks.offsets, acks.numbers, strict=True))
        wrong += [
            f"{kind}: {ledger.topic}-{partition}: {len(those)}, first {those[0]}"
            for kind, those in judged(numbers, told).items()
            if those
        ]
    return wrong


def judged(numbers: Mapping[int, int], told: Mapping[int, int]) -> dict[str, list[str]]:
    """By kind of wrong, which."""
    at: dict[int, list[int]] = defaultdict(list)
    order = list(numbers.values())
    for offset, number in numbers.items():
        at[number].append(offset)
    return {
        "LOST": [f"{n} at {offset}" for offset, n in told.items() if numbers.get(offset, -1) != n and n not in at],
        "MOVED": [f"{n} from {o} to {at[n]}" for o, n in told.items() if numbers.get(o, -1) != n and n in at],
        "DUPLICATED": [f"{number} at {offsets}" for number, offsets in at.items() if len(offsets) > 1],
        "REORDERED": [f"{b} behind {a}" for a, b in zip(order, order[1:], strict=False) if b < a],
    }


class Sightings:
    """What a reader saw, and whether it ever saw anything else in the same place."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def see(self, partition: int, offset: int, found: bytes) -> None:
        with self._lock:
            before = self.seen[partition].setdefault(offset, found)
        if before != found:
            self.wrong.append(f"OTHERWISE: partition {partition}, offset {offset}: {found[:12]!r}, was {before[:12]!r}")

    def missing_from(self, found: Mapping[int, Mapping[int, bytes]]) -> list[str]:
        """What was seen and is not there, or is another."""
        wrong = list(self.wrong)
        for partition, seen in self.seen.items():
            there = found.get(partition, {})
            gone = [offset for offset, each in seen.items() if there.get(offset) != each]
            if gone:
                wrong.append(f"GONE: partition {partition}: {len(gone)} that were read are not there, first {gone[0]}")
        return wrong
