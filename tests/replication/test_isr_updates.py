"""When partitions are asked for the ISR they want, and what is done with the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.image import ClusterImage, PartitionImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.config import BrokerConfig
from kbroker.replication.isr_updates import BATCH_MAX, IsrUpdates
from kbroker.replication.partition import Partition
from kbroker.testing.clock import SteeredClock

CONFIG = BrokerConfig().with_values({"replica.lag.time.max.ms": "30000"})


class Log:
    """One that is online, until it is said not to be."""

    offline: object = None


class Wishing:
    """A partition that wants what it is told to want."""

    def __init__(self, *wishes: IsrChange) -> None:
        self.wishes = list(wishes)
        self.leading = True
        self.topic_id, self.index = b"t" * 16, 0
        self.followers = {2: None}
        self.log = Log()
        self.asked: list[float] = []
        self.told: list[str] = []

    def end_waits(self, now_s: float) -> None:
        assert now_s >= 0

    def wanted_isr(self, now_s: float, lag_max_s: float) -> IsrChange | None:
        assert lag_max_s == 30
        self.asked.append(trio.current_time())
        return self.wishes.pop(0) if self.wishes else None

    def propose(self, change: IsrChange) -> None:
        self.told.append("propose")

    def settle(self, change: IsrChange, outcome: IsrOutcome, image: PartitionImage | None) -> None:
        self.told.append(outcome.name)


class Store:
    """What becomes of changes: the outcomes in order, then WRITTEN."""

    def __init__(self, *outcomes: IsrOutcome) -> None:
        self.outcomes = list(outcomes)
        self.batches: list[int] = []
        self.open = trio.Event()
        self.open.set()

    async def alter_isr(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        self.batches.append(len(changes))
        await self.open.wait()
        return [self.outcomes.pop(0) if self.outcomes else IsrOutcome.WRITTEN for _ in changes]


def change(*joining: int) -> IsrChange:
    partition = PartitionImage(b"t" * 16, 0, (1, 2), (1,), 1, 0, 0)
    return IsrChange(partition, (1, *joining), dict.fromkeys(joining, 7), 1)


def updates(store: Store, *partitions: Wishing) -> Any:
    return cast(
        Any,
        IsrUpdates(
            store.alter_isr, ClusterImage, lambda: cast(list[Partition], partitions), lambda: CONFIG, SteeredClock()
        ),
    )


async def test_what_is_noted_is_asked_proposed_and_settled(nursery: trio.Nursery) -> None:
    store, partition = Store(), Wishing(change())
    task = updates(store)
    nursery.start_soon(task.run)
    task.note(partition)
    await wait_all_tasks_blocked()
    assert partition.told == ["propose", "WRITTEN"]
    assert store.batches == [1]


async def test_one_batch_is_under_way_and_what_comes_meanwhile_goes_into_the_next(nursery: trio.Nursery) -> None:
    store = Store()
    store.open = trio.Event()
    partitions = [Wishing(change()) for _ in range(BATCH_MAX + 2)]
    task = updates(store)
    nursery.start_soon(task.run)
    for partition in partitions:
        task.note(partition)
    await wait_all_tasks_blocked()
    assert store.batches == [BATCH_MAX]
    task.note(Wishing(change()))
    await wait_all_tasks_blocked()
    assert store.batches == [BATCH_MAX]
    store.open.set()
    await wait_all_tasks_blocked()
    assert store.batches == [BATCH_MAX, 3]
    assert all(partition.told == ["propose", "WRITTEN"] for partition in partitions)


async def test_an_isr_grows_once_a_second(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    store, partition = Store(), Wishing(change(2), change(3))
    task = updates(store)
    nursery.start_soon(task.run)
    began = trio.current_time()
    for _ in range(20):
        task.note(partition)
        await trio.sleep(0.1)
    assert [round(at - began, 1) for at in partition.asked] == [0, 1, 2]
    assert store.batches == [1, 1]


@pytest.mark.parametrize("outcome", [IsrOutcome.REFUSED, IsrOutcome.UNKNOWN])
async def test_R5_what_did_not_happen_for_certain_is_asked_again(
    outcome: IsrOutcome, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store, partition = Store(outcome), Wishing(change(), change())
    task = updates(store)
    nursery.start_soon(task.run)
    task.note(partition)
    await trio.sleep(1.5)
    assert partition.told == ["propose", outcome.name, "propose", "WRITTEN"]


async def test_all_that_is_led_is_looked_at_often_enough_to_find_who_lags(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    led, alone, followed = Wishing(), Wishing(), Wishing()
    alone.followers = {}
    followed.leading = False
    task = updates(Store(), led, alone, followed)
    began = trio.current_time()
    nursery.start_soon(task.run)
    await trio.sleep(4.5)
    assert [round(at - began) for at in led.asked] == [1, 2, 3, 4]
    assert alone.asked == followed.asked == []


async def test_very_many_are_looked_at_a_part_at_a_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    partitions = [Wishing() for _ in range(4000)]
    task = updates(Store(), *partitions)
    nursery.start_soon(task.run)
    for second in range(1, 9):
        await trio.sleep(1 if second > 1 else 1.5)
        assert sum(len(partition.asked) for partition in partitions) == second * 1000
    assert {len(partition.asked) for partition in partitions} == {2}


async def test_F11_a_log_that_failed_shrinks_no_isr(nursery: trio.Nursery) -> None:
    store, partition = Store(), Wishing(change())
    partition.log.offline = KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)
    task = updates(store)
    nursery.start_soon(task.run)
    task.note(partition)
    await wait_all_tasks_blocked()
    assert store.batches == [] and partition.asked == []
