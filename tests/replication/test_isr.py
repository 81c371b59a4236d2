"""Pure rules of the in-sync replicas."""

from __future__ import annotations

from kbroker.replication import isr


def test_R1_high_watermark_never_decreases() -> None:
    assert isr.high_watermark([1, 2], {1: 10, 2: 3}, current=5) == 5


def test_high_watermark_is_the_smallest_end() -> None:
    assert isr.high_watermark([1, 2, 3], {1: 10, 2: 7, 3: 9}, current=5) == 7


def test_a_member_never_heard_from_holds_it_back() -> None:
    assert isr.high_watermark([1, 2], {1: 10}, current=0) == 0


def test_R5_a_proposed_member_counts_until_the_answer_is_known() -> None:
    members = isr.maximal([1, 2], [1])
    assert members == {1, 2}
    assert isr.high_watermark(members, {1: 10, 2: 4}, current=0) == 4


def test_R6_acks_all_needs_min_isr() -> None:
    assert isr.may_acknowledge([1, 2], 2)
    assert not isr.may_acknowledge([1], 2)
