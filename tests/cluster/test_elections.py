"""Who leads: leaders and their epochs."""

from __future__ import annotations

import pytest

from kbroker.cluster import elections
from kbroker.cluster.image import NO_LEADER, PartitionImage
from kbroker.turns import at_once
from tests.cluster.tools import T, cluster


@pytest.mark.parametrize(
    ("leader", "isr", "live", "becomes"),
    [
        (0, (0,), (0,), 0),  # alone: itself, in a new epoch
        (-1, (0,), (0,), 0),  # the partition waited for it
        (0, (0, 1), (0, 1), 1),  # another of the ISR is there and need not wait for it
        (0, (0, 1), (0,), 0),  # the other is not there
        (1, (0, 1), (0, 1), None),  # not its own
        (-1, (1,), (0,), None),  # not in the ISR: never (R9)
    ],
)
def test_R8_R9_a_returning_broker_leads_only_in_a_new_epoch(
    leader: int, isr: tuple[int, ...], live: tuple[int, ...], becomes: int | None
) -> None:
    partition = PartitionImage(T, 0, (0, 1), isr, leader, 7, 9)
    changed = at_once(elections.take_up(cluster(*live, partitions=[partition]), 0))
    if becomes is None:
        assert changed == []
    else:
        assert changed == [PartitionImage(T, 0, (0, 1), isr, becomes, 8, 10)]


@pytest.mark.parametrize(
    ("isr", "elr", "min_isr", "to", "becomes"),
    [
        ((0, 1, 2), (), 2, (0, 1), ()),  # still enough
        ((0, 1, 2), (), 2, (0,), (1, 2)),  # too few: whoever leaves has all that is committed
        ((0, 1, 2), (), 9, (0, 1), (2,)),  # no partition needs more than it has
        ((0,), (1,), 2, (0, 2), ()),  # enough again
        ((0,), (1, 2), 3, (0, 2), (1,)),  # a member is not eligible as well
        ((0,), (1,), 2, (), (0, 1)),
        ((0,), (1,), 1, (), (0,)),  # one is enough by now: what was committed since, 1 has not
    ],
)
def test_KIP_966_who_leaves_too_small_an_isr_stays_eligible(
    isr: tuple[int, ...], elr: tuple[int, ...], min_isr: int, to: tuple[int, ...], becomes: tuple[int, ...]
) -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), isr, 0, 7, 9, elr=elr)
    assert elections.with_isr(partition, to, min_isr) == PartitionImage(T, 0, (0, 1, 2), to, 0, 7, 10, elr=becomes)


def test_R10_who_may_have_lost_its_cache_is_not_eligible() -> None:
    partition = PartitionImage(T, 0, (0, 1, 2), (0, 1), 0, 7, 9, elr=(2,))
    assert elections.with_isr(partition, (0,), 3, lossy=(1,)).elr == (2,)
    assert elections.with_isr(partition, (0,), 3, lossy=(1, 2)).elr == ()


def test_a_partition_remembers_who_led_last_until_there_is_another() -> None:
    partition = PartitionImage(T, 0, (0, 1), (0,), 0, 7, 9)
    headless = elections.led_by(partition, NO_LEADER)
    assert headless == PartitionImage(T, 0, (0, 1), (0,), NO_LEADER, 8, 10, last_leader=0)
    assert elections.led_by(headless, NO_LEADER).last_leader == 0
    assert elections.led_by(headless, 1) == PartitionImage(T, 0, (0, 1), (0,), 1, 9, 11)
