"""What a waiting fetch hears of, and what it looks at then."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kbroker.api.fetch_waits import COUNTS_A_TURN, Hearing
from kbroker.log.errors import LogOffline
from kbroker.replication.partition import Partition
from tests.replication.test_partition import NODE, batch, leader
from tests.replication.tools import image

SIZE = len(batch())


def listening(partitions: list[Partition], bytes_min: int, most: int = 1 << 20) -> Hearing:
    hearing = Hearing(bytes_min)
    for partition in partitions:
        hearing.listen(partition, partition.log.end.value, most, 0)
    return hearing


async def start(hearing: Hearing, nursery: trio.Nursery) -> trio.Event:
    """Wait in a task; set when it is over."""
    over = trio.Event()

    async def wait() -> None:
        await hearing.wait_enough()
        over.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    return over


async def test_waits_until_the_sum_is_enough(nursery: trio.Nursery) -> None:
    partitions = [leader() for _ in range(3)]
    over = await start(listening(partitions, 3 * SIZE), nursery)
    for n, partition in enumerate((partitions[0], partitions[2], partitions[0])):
        assert not over.is_set(), n
        partition.append(batch(), 1, 0)
        await wait_all_tasks_blocked()
    assert over.is_set()


async def test_no_partition_counts_for_more_than_the_client_would_get_of_it(nursery: trio.Nursery) -> None:
    one, other = leader(), leader()
    over = await start(listening([one, other], 2 * SIZE, most=SIZE), nursery)
    for partition in (one, one, one):
        partition.append(batch(), 1, 0)
        await wait_all_tasks_blocked()
        assert not over.is_set()
    other.append(batch(), 1, 0)
    await wait_all_tasks_blocked()
    assert over.is_set()


@pytest.mark.parametrize("end", ["resign", "new epoch", "offline"])
async def test_the_end_of_a_leadership_ends_the_wait(end: str, nursery: trio.Nursery) -> None:
    partition = leader()
    over = await start(listening([leader(), partition], 1), nursery)
    if end == "resign":
        partition.resign()
    elif end == "new epoch":
        partition.lead(image(1, (NODE,)))
    else:
        partition.log.fail(LogOffline("gone"))
    await wait_all_tasks_blocked()
    assert over.is_set()


async def test_what_ended_before_it_was_listened_to_ends_the_wait_too(nursery: trio.Nursery) -> None:
    partition = leader()
    partition.resign()
    with trio.fail_after(1):
        await listening([partition], 1).wait_enough()


async def test_many_that_ring_at_once_are_counted_in_turns(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    partitions = [leader() for _ in range(3 * COUNTS_A_TURN)]
    hearing = listening(partitions, 1 << 30)
    turns = []
    monkeypatch.setattr(Hearing, "_count", lambda self, real=Hearing._count: (real(self), turns.append(len(self.rung))))
    await start(hearing, nursery)
    turns.clear()
    for partition in partitions * 2:
        partition.append(batch(), 1, 0)
    await wait_all_tasks_blocked()
    assert turns == [2 * COUNTS_A_TURN, COUNTS_A_TURN, 0]
    assert hearing.length == 2 * SIZE * len(partitions)
    nursery.cancel_scope.cancel()


async def test_forgetting_leaves_nothing_on_the_watermarks() -> None:
    partition = leader()
    hearing = listening([partition], 1)
    Hearing.forget(hearing.ears)
    partition.append(batch(), 1, 0)
    assert not hearing.rung
