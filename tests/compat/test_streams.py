"""The judgement of the Streams application: what of its counts is not the model's, each kind of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat"))
from streams.counts import WINDOW_MS, Line, Seen, make_lines, model

LINES = [Line(0, WINDOW_MS, ["a", "b", "a"]), Line(1, 2 * WINDOW_MS + 1, ["a"])]
RIGHT = [
    ("by-word", "a", 1),
    ("by-word", "a", 2),
    ("by-word", "b", 1),
    ("by-window", f"a@{WINDOW_MS}", 1),
    ("by-window", f"b@{WINDOW_MS}", 1),
    ("by-window", f"a@{WINDOW_MS}", 2),
    ("by-window", f"a@{2 * WINDOW_MS}", 1),
    ("by-word", "a", 3),
]


def seen(*records: tuple[str, str, int]) -> Seen:
    found = Seen()
    for record in records:
        found.add(*record)
    return found


def test_the_model_counts_by_word_and_by_window() -> None:
    wanted = model(LINES)
    assert wanted["by-word", "a"] == 3
    assert wanted["by-window", f"a@{WINDOW_MS}"] == 2
    assert wanted.total() == len(RIGHT)
    assert seen(*RIGHT).differences(wanted) == []


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (RIGHT[:-1], "2 counts for 3; after 2 right ones []"),
        ([*RIGHT, RIGHT[-1]], "4 counts for 3; after 3 right ones [3]"),
        ([*RIGHT[:1], *RIGHT], "4 counts for 3; after 1 right ones [1, 2, 3]"),
        ([RIGHT[1], RIGHT[0], *RIGHT[2:]], "3 counts for 3; after 0 right ones [2, 1, 3]"),
        ([*RIGHT, ("by-word", "c", 1)], "is in no line"),
    ],
    ids=["lost", "twice", "counted twice", "order", "from nowhere"],
)
def test_whatever_is_not_exact_is_told(records: list[tuple[str, str, int]], told: str) -> None:
    found = seen(*records).differences(model(LINES))
    assert len(found) == 1
    assert told in found[0]


def test_lines_are_the_same_for_the_same_seed() -> None:
    assert make_lines(20, 7, 0) == make_lines(20, 7, 0) != make_lines(20, 8, 0)
