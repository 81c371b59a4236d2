"""What the application of `run.py` is given, what it must make of it, and what is wrong with what a reader got. Pure.

A line lies in a partition and has an event time; the outputs are the topics `by-word` and `by-window`, whose keys are a
word, and a word and the beginning of its window: `w7@1700000000000`. Each update of a count is a record, so the records
of a key are 1, 2, 3 … in that order.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

PARTITIONS = 4
WORDS, WORDS_A_LINE = 40, 5
WINDOW_MS = 10_000

Key = tuple[str, str]  # output topic, and the word or the word and its window


@dataclass(frozen=True)
class Line:
    partition: int
    timestamp_ms: int
    words: list[str]

    def __str__(self) -> str:
        return f"{self.partition} {self.timestamp_ms} {' '.join(self.words)}"


def make_lines(count: int, seed: int, begin_ms: int) -> list[Line]:
    """Lines of event time 100 ms apart, with some disorder."""
    chance = random.Random(seed)
    return [
        Line(
            chance.randrange(PARTITIONS),
            begin_ms + 100 * n + chance.randrange(2000),
            [f"w{min(chance.randrange(WORDS), chance.randrange(WORDS))}" for _ in range(WORDS_A_LINE)],
        )
        for n in range(count)
    ]


def model(lines: list[Line]) -> Counter[Key]:
    """How often each word occurs, and how often in each window."""
    counts: Counter[Key] = Counter()
    for line in lines:
        start = line.timestamp_ms - line.timestamp_ms % WINDOW_MS
        for word in line.words:
            counts["by-word", word] += 1
            counts["by-window", f"{word}@{start}"] += 1
    return counts


@dataclass
class Seen:
    """What a committed reader has got: for each key the counts in the order in which they came."""

    counts: dict[Key, list[int]] = field(default_factory=dict)
    total: int = 0
    at: float = field(default_factory=time.monotonic)

    def add(self, topic: str, key: str, count: int) -> None:
        self.counts.setdefault((topic, key), []).append(count)
        self.total += 1
        self.at = time.monotonic()

    def differences(self, wanted: Counter[Key]) -> list[str]:
        """In what it is not the model; empty if each count came once and in order."""
        found = [f"{key} is in no line" for key in self.counts.keys() - wanted.keys()]
        for key, count in wanted.items():
            got = self.counts.get(key, [])
            if got != list(range(1, count + 1)):
                right = next((i for i, each in enumerate(got) if each != i + 1), len(got))
                found.append(f"{key}: {len(got)} counts for {count}; after {right} right ones {got[right : right + 5]}")
        return found
