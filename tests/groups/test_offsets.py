"""Offsets, held against a naive reading of the log: what is settled is shown, what is staged is what the log says."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kbroker.groups.offsets import Offsets, is_of, records_of
from kbroker.groups.pending import TRANSACTIONS_MAX, Transaction
from kbroker.groups.storage.records import OffsetCommitValue, decode_key, decode_value
from tests.groups.offset_log import LOGS, Event, Marker, read
from tests.groups.tools import Change, of

ID, OTHER = b"i" * 16, b"o" * 16


def value(offset: int, **fields: int | bytes | str) -> OffsetCommitValue:
    return OffsetCommitValue(offset=offset, **{"metadata": "", "commit_timestamp": 0, **fields})  # type: ignore[arg-type]


def filled(*changes: Change) -> Offsets:
    offsets = Offsets()
    for number, each in enumerate(changes):
        offsets.settle(each[0], of([each]), number)
    return offsets


PLACES = [(group, topic, n) for group in "gh" for topic in "tu" for n in range(2)]


class Held:
    """Offsets beside the log that they are of, a part of which is committed."""

    def __init__(self) -> None:
        self.offsets = Offsets()
        self.log: list[Event] = []
        self.settled = 0  # events
        self._waiting: list[Callable[[], None]] = []
        self.folding: list[Generator[None, None, None]] = []

    def append(self, event: Event) -> None:
        at, offsets = len(self.log), self.offsets
        self.log.append(event)
        if isinstance(event, Marker):
            transaction = offsets.end(event.producer_id, event.is_commit)
            self._waiting.append(lambda: self._fold(transaction))
            return
        changes = of([(*place, found) for place, found in event.values.items()])
        if event.producer_id >= 0:
            offsets.pend(event.producer_id, 0, event.group, changes, at)
            self._waiting.append(lambda: None)
        else:
            offsets.stage(event.group, changes, at)
            self._waiting.append(lambda: offsets.settle_staged(event.group, changes, at))

    def settle_one(self) -> None:
        self._waiting.pop(0)()
        self.settled += 1

    def _fold(self, transaction: Transaction | None) -> None:
        if transaction is not None:
            self.folding.append(self.offsets.fold(transaction))

    def fold_on(self, n: int) -> None:
        try:
            next(self.folding[n])
        except StopIteration:
            del self.folding[n]

    def check(self) -> None:
        offsets, said, logged = self.offsets, read(self.log[: self.settled]).values, read(self.log)
        unstable = {place for n in range(self.settled, len(self.log) + 1) for place in read(self.log[:n]).unstable()}
        for place in PLACES:
            if not offsets.is_unstable(*place):
                assert place not in unstable
                assert offsets.get(*place) == said.get(place), "T6: what is stable is what the log says"
            found = offsets.logged(*place)
            assert found.value == logged.values.get(place)
            assert [(at, each.producer_id, value) for each, at, value in found.open] == logged.open_at(place)
        if not self.folding:
            assert {place for place in PLACES if offsets.is_unstable(*place)} == unstable
            assert {place: offsets.get(*place) for place in said} == said and offsets.count == len(said)


@settings(deadline=None)
@given(LOGS, st.data())
def test_G7_T6_settled_values_are_shown_in_the_order_of_the_log(log: list[Event], data: Any) -> None:
    held = Held()
    for event in log:
        held.append(event)
        while held.settled < len(held.log) and data.draw(st.booleans()):
            held.settle_one()
        while held.folding and data.draw(st.booleans()):
            held.fold_on(data.draw(st.integers(0, len(held.folding) - 1)))
        held.check()
    while held.settled < len(held.log):
        held.settle_one()
    while held.folding:
        held.fold_on(0)
    held.check()
    offsets, said = held.offsets, read(held.log)
    for group in "gh":
        assert offsets.is_known(group) == any(place[0] == group for place in {*said.values, *said.unstable()})
        offsets.settle(group, {topic: dict.fromkeys(partitions) for topic, partitions in offsets.places(group)}, 1000)
    assert not any(offsets.logged(*place).is_anything for place in PLACES), "a removal ends what is pending"
    assert not offsets.groups() and not offsets.topic_names()


def test_records_say_the_changes() -> None:
    pairs = records_of("g", {"t": {1: value(7), 2: None}})
    key = decode_key(pairs[0][0])
    assert (key.group, key.topic, key.partition) == ("g", "t", 1)
    assert pairs[0][1] is not None and decode_value(1, pairs[0][1]) == value(7)
    assert pairs[1][1] is None


def test_G5_retention_counts_from_the_later_of_commit_and_emptiness() -> None:
    offsets = filled(
        ("g", "t", 0, value(1, commit_timestamp=1000)),
        ("g", "t", 1, value(1, commit_timestamp=5000)),
        ("g", "t", 2, value(1, commit_timestamp=1000, expire_timestamp=1200)),
    )

    def expired(now_ms: int, since_ms: int) -> list[int]:
        return [each for each in range(3) if offsets.is_over("g", "t", each, now_ms, 3000, since_ms)]

    assert expired(1199, 0) == []
    assert expired(1200, 0) == [2]
    assert expired(3999, 0) == [2]
    assert expired(4000, 0) == [0, 2]
    assert expired(4000, 1001) == [2]
    assert expired(8000, 5000) == [0, 1, 2]
    offsets.pend(1, 0, "g", {"t": {0: value(2)}}, 10)
    assert expired(8000, 5000) == [1, 2], "a transaction may still change it"


def test_an_offset_of_another_topic_of_the_same_name_is_none() -> None:
    assert is_of(value(1, topic_id=ID), ID)
    assert not is_of(value(1, topic_id=OTHER), ID)
    assert is_of(value(1), ID), "it does not say which topic it was for"
    assert not is_of(value(1), None) and not is_of(value(1, topic_id=ID), None)


def test_so_many_transactions_are_pending_at_one_place_and_no_more() -> None:
    offsets = Offsets()
    for producer_id in range(TRANSACTIONS_MAX):
        assert not offsets.is_crowded(producer_id, "g", {"t": {0: value(1)}})
        offsets.pend(producer_id, 0, "g", {"t": {0: value(1)}}, producer_id)
    assert offsets.is_crowded(1000, "g", {"t": {0: value(1), 1: value(1)}})
    assert not offsets.is_crowded(1000, "g", {"t": {1: value(1)}})
    assert not offsets.is_crowded(5, "g", {"t": {0: value(1)}}), "it is one of them"
