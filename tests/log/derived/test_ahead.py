"""What a log knows of what was hidden in it and not read back: nothing is delivered that this speaks against (D2)."""

from __future__ import annotations

from typing import Any

from kafka_wire.records import BatchHeader, build_batch, read_header
from kbroker.config.keys import LONG_MAX
from kbroker.log.content.delayed import NO_EFFECTS, Effects
from kbroker.log.derived.ahead import BATCHES_MAX, NAMES_MAX, NAMES_OF_ONE_MAX, Ahead, joined

PLAIN = read_header(build_batch([(b"k", b"v")], control=True))
K, L = b"k" * 8, b"l" * 8


def of(producer_id: int) -> BatchHeader:
    batch = build_batch([(b"k", b"v")], control=True, transactional=True, producer_id=producer_id, producer_epoch=0)
    return read_header(batch)


def effects(due: int = LONG_MAX, keys: Any = (), ids: Any = ()) -> Effects:
    return Effects(due, frozenset(keys), frozenset(ids), False)


def test_nothing_overtakes_what_is_due_earlier_until_that_was_read() -> None:
    ahead = Ahead()
    assert ahead.due_bound == LONG_MAX
    ahead.add(10, PLAIN, effects(500))
    ahead.add(11, PLAIN, effects(300))
    assert ahead.due_bound == 300
    ahead.read_to(11)
    assert ahead.due_bound == 300
    ahead.read_to(12)
    assert ahead.due_bound == LONG_MAX and ahead.last == 11


def test_a_cancel_is_for_what_came_before_it() -> None:
    ahead = Ahead()
    ahead.add(10, PLAIN, effects(keys=[K], ids=[3]))
    assert ahead.cancels(9, K) and not ahead.cancels(11, K) and not ahead.cancels(9, L)
    assert ahead.cancels(3, L)
    ahead.read_to(11)
    assert not ahead.cancels(9, K) and not ahead.cancels(3, L)


def test_a_transaction_counts_from_its_commit_on() -> None:
    ahead, told = Ahead(), []
    ahead.on_news = lambda: told.append(ahead.last)
    ahead.add(10, of(1), effects(500, [K]))
    ahead.add(11, of(2), effects(400, [L]))
    assert ahead.due_bound == LONG_MAX and not ahead.cancels(0, K) and not told
    ahead.end(2, 12, is_commit=False)
    ahead.end(1, 13, is_commit=True)
    ahead.end(3, 14, is_commit=True)
    assert ahead.due_bound == 500 and ahead.cancels(12, K) and not ahead.cancels(0, L)
    assert told == [13]


def test_a_new_leader_is_told_what_open_transactions_have_hidden_before() -> None:
    ahead = Ahead()
    ahead.add(20, of(1), effects(ids=[5]))
    ahead.take_over({1: effects(ids=[4]), 2: effects(7)})
    ahead.end(1, 30, is_commit=True)
    ahead.end(2, 31, is_commit=True)
    assert ahead.cancels(4, K) and ahead.cancels(5, K) and ahead.due_bound == 7
    ahead.resign()
    assert not ahead.cancels(4, K) and ahead.due_bound == LONG_MAX and ahead.last == -1


def test_of_too_much_only_the_offset_is_kept_before_which_nothing_is_delivered() -> None:
    ahead = Ahead()
    for offset in range(BATCHES_MAX):
        ahead.add(offset, PLAIN, effects(offset))
    assert ahead.blind_to == 0
    ahead.add(BATCHES_MAX, PLAIN, effects(1))
    assert ahead.blind_to == BATCHES_MAX + 1 and ahead.due_bound == LONG_MAX
    ahead.add(5000, PLAIN, effects(ids=range(NAMES_MAX + 1)))
    assert ahead.blind_to == 5001 and not ahead.cancels(3, K)


def test_of_a_transaction_that_cancels_too_much_it_is_known_that_it_does() -> None:
    many = effects(5, ids=range(NAMES_OF_ONE_MAX))
    assert joined(NO_EFFECTS, many) == many
    assert joined(many, effects(3, [K])) == Effects(3, frozenset(), frozenset(), True)
    ahead = Ahead()
    ahead.add(10, of(1), many)
    ahead.add(11, of(1), effects(ids=[-1]))
    ahead.end(1, 12, is_commit=True)
    assert ahead.blind_to == 13
