"""Offsets, held against a plain dict: what is settled is shown, what is staged is what the log says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kbroker.groups.offsets import Offsets, Place, is_of, records_of
from kbroker.groups.storage.records import OffsetCommitValue, decode_key, decode_value
from tests.groups.tools import Change, of

ID, OTHER = b"i" * 16, b"o" * 16


def value(offset: int, **fields: int | bytes | str) -> OffsetCommitValue:
    return OffsetCommitValue(offset=offset, **{"metadata": "", "commit_timestamp": 0, **fields})  # type: ignore[arg-type]


def filled(*changes: Change) -> Offsets:
    offsets = Offsets()
    for each in changes:
        offsets.settle(each[0], of([each]))
    return offsets


CHANGES = st.tuples(
    st.just("g"),
    st.sampled_from("tu"),
    st.integers(0, 2),
    st.none() | st.integers(0, 99).map(value),
)


@given(st.lists(st.tuples(st.sampled_from("gh"), st.lists(CHANGES, min_size=1, max_size=4)), max_size=12), st.data())
def test_G7_settled_values_are_shown_in_the_order_of_the_log(
    batches: list[tuple[str, list[Change]]], data: Any
) -> None:
    offsets = Offsets()
    shown: dict[Place, OffsetCommitValue] = {}
    logged: dict[Place, OffsetCommitValue] = {}
    waiting: list[tuple[str, list[Change]]] = []

    def settle_one() -> None:
        group, batch = waiting.pop(0)
        offsets.settle_staged(group, of(batch))
        apply(shown, group, batch)

    for group, batch in batches:
        offsets.stage(group, of(batch))
        apply(logged, group, batch)
        waiting.append((group, batch))
        while waiting and data.draw(st.booleans()):
            settle_one()
        assert {place: offsets.get(*place) for place in shown} == shown
        assert offsets.count == len(shown)
        assert {(g, t, p): v for g, t, p, v in offsets.items()} == logged
    while waiting:
        settle_one()
    assert shown == logged == {(g, t, p): v for g, t, p, v in offsets.items()}
    for group in "gh":
        assert offsets.is_known(group) == any(place[0] == group for place in shown)
        offsets.settle(group, {topic: dict.fromkeys(partitions) for topic, partitions in offsets.places(group)})
    assert offsets.count == 0 and not offsets.groups() and not offsets.topic_names()


def apply(state: dict[Place, OffsetCommitValue], group: str, batch: list[Change]) -> None:
    for _, topic, partition, found in batch:
        if found is None:
            state.pop((group, topic, partition), None)
        else:
            state[group, topic, partition] = found


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
    offsets.unstable.add(("g", "t", 0))
    assert expired(8000, 5000) == [1, 2], "a transaction may still change it"


def test_an_offset_of_another_topic_of_the_same_name_is_none() -> None:
    assert is_of(value(1, topic_id=ID), ID)
    assert not is_of(value(1, topic_id=OTHER), ID)
    assert is_of(value(1), ID), "it does not say which topic it was for"
    assert not is_of(value(1), None) and not is_of(value(1, topic_id=ID), None)
