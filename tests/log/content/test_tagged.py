"""What is found of a batch's tags: never too little, and within a budget."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.primitives import varint
from kafka_wire.records import HEADER_SIZE, ControlType, build_batch, control_batch, read_header
from kbroker.log.content.tagged import NAMES_MAX, NAMES_MIN, NAMES_SUM_MAX, VALUES_BYTES_MAX, Tagger, number_of
from kbroker.log.derived.tags import ABORTS, ANY, FIRST_TAG, LOOK, bounded

NOTHING = frozenset[int]()


def tagged_batch(*tags: bytes | None, codec: int = 0, value: bytes = b"v" * 40) -> bytearray:
    """One record for each tag."""
    headers = [() if each is None else (("kbroker-tags", each),) for each in tags]
    return build_batch([(1, b"k", value, each) for each in headers], compression=codec)


def looked_at(batch: bytearray, tagger: Tagger | None = None) -> frozenset[int]:
    return (tagger or Tagger()).look_at(memoryview(batch), read_header(batch))


def numbers(*tags: bytes) -> frozenset[int]:
    return frozenset(map(number_of, tags))


@pytest.mark.parametrize("codec", range(5))
def test_all_tags_of_a_batch_are_found(codec: int) -> None:
    assert looked_at(tagged_batch(b"eu, vip", None, b"us", codec=codec)) == numbers(b"eu", b"vip", b"us")
    assert looked_at(tagged_batch(None, None, codec=codec)) == NOTHING
    assert looked_at(tagged_batch(b" , ", codec=codec)) == NOTHING


tag = st.binary(min_size=1, max_size=300).filter(lambda each: b"," not in each and each.strip(b" \t") == each)


@settings(deadline=None)
@given(st.lists(st.lists(tag, max_size=3), min_size=1, max_size=5), st.binary(max_size=40))
def test_nothing_is_missed_whatever_stands_around_it(records: list[list[bytes]], noise: bytes) -> None:
    rows = [
        (1, noise, b"kbroker-tags" + noise, [("kbroker-tags", b",".join(tags)), ("x-kbroker-tags", noise)])
        for tags in records
    ]
    found = looked_at(build_batch(rows))
    assert found == {ANY} or found >= numbers(*[each for tags in records for each in tags])


def test_a_name_without_its_end_is_no_tag() -> None:
    assert looked_at(build_batch([(1, b"k", b"kbroker-tags")])) == NOTHING
    assert looked_at(build_batch([(1, b"k", b"kbroker-tags" + b"\xff" * 20)])) == NOTHING


def test_a_name_in_a_text_that_goes_on_takes_no_tags_from_others() -> None:
    text = "kbroker-tags\u5934\u90e8\u7528\u9017\u53f7".encode()  # what follows the name reads as no length
    rows = [(1, b"k", text, ()), (1, b"k", b"v", [("kbroker-tags", b"eu")])]
    assert looked_at(build_batch(rows)) == looked_at(build_batch(rows[::-1])) == numbers(b"eu")


@pytest.mark.parametrize("is_bounded", [True, False])
def test_names_whose_values_would_overlap_cost_no_more_than_the_batch(is_bounded: bool) -> None:
    lie = b"kbroker-tags" + varint(90_000)  # each takes what is behind it, with all other names
    batch = build_batch([(1, b"k", lie * 4 + b"v" * 400, ()) for _ in range(250)])
    tracemalloc.start()
    try:
        found = looked_at(batch, Tagger(is_bounded=is_bounded))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(batch)
    finally:
        tracemalloc.stop()
    assert found == ({LOOK} if is_bounded else {ANY})


def test_too_many_tags_are_any() -> None:
    assert looked_at(tagged_batch(*[b"%d" % n for n in range(200)])) == {ANY}
    assert bounded(frozenset(range(FIRST_TAG, 100)), 100 * 128) != {ANY} == bounded(frozenset(range(100)), 99 * 128)


def test_what_exceeds_the_budget_is_left_for_a_look() -> None:
    many = tagged_batch(*[b"eu", b"us"] * (NAMES_MAX // 2), b"de")
    assert looked_at(many) == {LOOK} and looked_at(many, Tagger(is_bounded=False)) == numbers(b"eu", b"us", b"de")
    assert looked_at(tagged_batch(*[b"eu"] * (9 * NAMES_MAX))) == numbers(b"eu"), "all the same is no work"
    large = tagged_batch(b"eu", codec=4, value=b"v" * 1_000_000)  # a bomb: a few bytes packed
    assert looked_at(large) == {LOOK} and looked_at(large, Tagger(is_bounded=False)) == numbers(b"eu")
    commas = tagged_batch(b"," * VALUES_BYTES_MAX, b"," * VALUES_BYTES_MAX + b"eu")
    assert looked_at(commas) == {LOOK} and looked_at(commas, Tagger(is_bounded=False)) == numbers(b"eu")
    one_record = build_batch([(1, b"k", b"v", [("kbroker-tags", b"%d" % n) for n in range(NAMES_MIN + 9)])])
    assert looked_at(one_record) in ({LOOK}, {ANY})


def test_batches_that_come_together_share_a_budget() -> None:
    tagger = Tagger()
    batch = tagged_batch(*[b"eu", b"us"] * (NAMES_MAX // 2 - 1), b"de")
    found = [looked_at(batch, tagger) for _ in range(6)]
    assert found.count(numbers(b"eu", b"us", b"de")) == NAMES_SUM_MAX // NAMES_MAX and found[-1] == {LOOK}
    tagger, batch = Tagger(), tagged_batch(b"eu", codec=1)
    tagger.packed = len(batch) - HEADER_SIZE
    assert [looked_at(batch, tagger) for _ in range(2)] == [numbers(b"eu"), {LOOK}]


def test_what_is_no_codec_is_left_for_a_look() -> None:
    batch = tagged_batch(b"eu", codec=3)
    batch[70:90] = bytes(20)
    assert looked_at(batch) == {LOOK}


def test_only_markers_that_abort_are_noted() -> None:
    for kind, expected in ((ControlType.ABORT, {ABORTS}), (ControlType.COMMIT, NOTHING)):
        marker = control_batch(kind, producer_id=7, producer_epoch=0, coordinator_epoch=0, timestamp=1)
        assert looked_at(marker) == expected
