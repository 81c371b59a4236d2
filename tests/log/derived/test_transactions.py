"""Which transactions are undecided, against a plain list; markers as batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.records import build_batch, control_batch, read_header
from kbroker.log.derived.transactions import ALL_STABLE, AbortedRange, Marker, Transactions, read_marker


@pytest.mark.parametrize("is_commit", [True, False])
def test_a_marker_is_read_as_it_was_written(is_commit: bool) -> None:
    marker = Marker(7, 3, 11, is_commit)
    data = marker.batch(1000)
    header = read_header(data)
    assert (header.is_control, header.is_transactional, header.max_timestamp) == (True, True, 1000)
    assert read_marker(data) == marker


def test_what_is_no_marker_ends_nothing() -> None:
    leader_change = build_batch([(0, b"\0\0\0\2", b"")], control=True, producer_id=1, producer_epoch=0)
    short = build_batch([(0, b"\0", b"")], control=True, producer_id=1, producer_epoch=0)
    assert read_marker(leader_change) is None and read_marker(short) is None
    nothing = control_batch(1, producer_id=-1, producer_epoch=-1, coordinator_epoch=0, timestamp=0, transactional=False)
    assert read_marker(nothing) == Marker(-1, -1, 0, True), "its producer id says whose: nobody's"


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "settle"]), st.integers(0, 4)), max_size=60))
def test_the_first_unstable_offset_is_the_lowest_of_the_undecided(steps: list[tuple[str, int]]) -> None:
    transactions = Transactions()
    undecided: list[tuple[int, int, int | None]] = []  # first offset, producer, offset of the marker
    high_watermark = 0
    for offset, (step, producer) in enumerate(steps):
        open_ = {each[1]: each[0] for each in undecided if each[2] is None}
        if step == "begin" and producer not in open_:
            transactions.begin(producer, offset)
            undecided.append((offset, producer, None))
        elif step == "end":
            others = [first for other, first in open_.items() if other != producer]
            aborted = transactions.aborted_by(Marker(producer, 0, 0, False), offset)
            expected = AbortedRange(producer, open_.get(producer, 0), offset, min(others, default=offset + 1))
            assert aborted == (expected if producer in open_ else None)
            assert transactions.aborted_by(Marker(producer, 0, 0, True), offset) is None
            transactions.end(producer, offset)
            undecided = [(*each[:2], offset) if each[1:] == (producer, None) else each for each in undecided]
        elif step == "settle":
            high_watermark = min(high_watermark + 4 * producer, offset)
        transactions.settle(high_watermark)
        undecided = [each for each in undecided if each[2] is None or each[2] >= high_watermark]
        assert transactions.first_unstable == min((each[0] for each in undecided), default=ALL_STABLE)
    ongoing = [(producer, first) for first, producer, marker in undecided if marker is None]
    transactions.restore(reversed(ongoing))
    assert transactions.first_unstable == min((first for _, first in ongoing), default=ALL_STABLE)
    assert list(transactions.ongoing.items()) == ongoing


def test_a_snapshot_does_not_tell_what_ended_so_nothing_is_stable_until_it_is_committed() -> None:
    transactions = Transactions()
    transactions.restore([(1, 50)])
    transactions.hold_below(100)
    transactions.settle(99)
    assert transactions.first_unstable == 0
    transactions.settle(100)
    assert transactions.first_unstable == 50


def test_a_hundred_thousand_open_transactions_end_at_the_cost_of_one_each() -> None:
    """In the order they began, which leaves a plain dict full of holes before its first entry."""
    steps = 0

    class Counted(Transactions):
        __slots__ = ()

        @property
        def first_ongoing(self) -> int:
            nonlocal steps
            steps += 1
            return super().first_ongoing

    transactions, count = Counted(), 100_000
    for number in range(count):
        transactions.begin(number, number)
    for number in range(count):
        transactions.end(number, count + number)
        transactions.settle(count + number + 1)
        assert transactions.first_unstable == (number + 1 if number + 1 < count else ALL_STABLE)
    assert steps == count and len(transactions._ended) == 0


def test_what_ended_above_the_high_watermark_is_held_in_no_more_than_it_takes() -> None:
    transactions = Transactions()
    transactions.begin(0, 0)
    for number in range(1, 1000):  # one long transaction, many short ones within it
        transactions.begin(1, number * 10)
        transactions.end(1, number * 10 + 1)
    transactions.end(0, 10_000)
    assert len(transactions._ended) == 1
    transactions.settle(10_000)
    assert transactions.first_unstable == 0
    transactions.settle(10_001)
    assert transactions.first_unstable == ALL_STABLE
