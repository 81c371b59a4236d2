"""Where consuming begins and ends, without a broker: a client made of dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from kbroker.cli.client.presence import Presence
from kbroker.cli.topics.consume import Reader, seek
from kbroker.cli.topics.formats import Shown
from kbroker.cli.topics.reading import Start, limited, parse_start, parse_topics


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("start", Start("start")),
        ("end", Start("end")),
        ("7", Start("at", 7)),
        ("+7", Start("start", 7)),
        ("-7", Start("end", -7)),
        ("@1700000000", Start("time", 1_700_000_000_000)),
        ("@1700000000000", Start("time", 1_700_000_000_000)),
        ("@2023-11-14T22:13:20Z", Start("time", 1_700_000_000_000)),
    ],
)
def test_parse_start(text: str, start: Start) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "x", "@", "@yesterday", "1.5"])
def test_not_a_start(text: str) -> None:
    with pytest.raises(ValueError):
        parse_start(text)


class Found(NamedTuple):
    offset: int


class Arrived(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int = 0
    timestamp_type: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class FakeClient:
    """Partition 0 with offsets 10 to 19, handed out three at a time."""

    def __init__(self) -> None:
        self.next = 10

    def beginning_offsets(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 10)

    def offsets_for_times(self, times: dict[int, int]) -> dict[int, Any]:
        return {partition: Found(15) if time <= 5 else None for partition, time in times.items()}

    def seek(self, partition: int, offset: int) -> None:
        self.next = offset

    def position(self, partition: int) -> int:
        return self.next

    def poll(self, timeout_ms: int) -> dict[int, list[Arrived]]:
        first, self.next = self.next, min(self.next + 3, 20)
        return {0: [Arrived("t", 0, offset) for offset in range(first, self.next)]}


def records(ends: dict[int, int] | None) -> Iterator[Shown | None]:
    return Reader(FakeClient(), Presence(), parse_topics(["t"], is_regex=False, wait=False), None).records(ends)


@pytest.mark.parametrize(
    ("start", "offset"),
    [
        (Start("start"), 10),
        (Start("start", 2), 12),
        (Start("start", 99), 20),
        (Start("end"), 20),
        (Start("end", -3), 17),
        (Start("end", -99), 10),
        (Start("at", 13), 13),
        (Start("at", 3), 10),
        (Start("time", 5), 15),
        (Start("time", 6), 20),
    ],
)
def test_seek(start: Start, offset: int) -> None:
    client = FakeClient()
    seek(client, [0], start, {0: 20})
    assert client.next == offset


def test_exit_at_end_leaves_out_what_came_later() -> None:
    offsets = [record.offset for record in records({0: 14}) if record]
    assert offsets == [10, 11, 12, 13]


def test_count() -> None:
    assert [record.offset for record, _ in limited(records(None), 4) if record] == [10, 11, 12, 13]


def test_count_counts_what_matches() -> None:
    found = list(limited(records(None), 2, lambda record: record.offset % 4 == 0))
    assert [record.offset for record, matches in found if record and matches] == [12, 16]
    assert found[-1] == (None, False)
