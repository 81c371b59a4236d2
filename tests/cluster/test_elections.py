"""Who leads: leaders and their epochs."""

from __future__ import annotations

import pytest

from kbroker.cluster import elections
from kbroker.cluster.image import PartitionImage
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
