"""Changes of ISRs by the leaders of partitions: what guards them, and what is told of them when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.changes.features import ELIGIBLE, FeatureUpdate, UpgradeType
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import PartitionImage
from kbroker.cluster.isr_changes import BATCH, MEMBERS_MAX, IsrChange, IsrOutcome, _batches
from kbroker.cluster.registration import Registration
from kbroker.cluster.store import Delete, Guard
from tests.cluster.tools import FaultyStore, HandClock, RunClock, T, eventually, make_registration, running

WRITTEN, REFUSED, UNKNOWN = IsrOutcome


@asynccontextmanager
async def two_brokers(
    store: FaultyStore, clock: HandClock | RunClock
) -> AsyncIterator[tuple[Registration, Registration]]:
    async with running(make_registration(store, clock)) as one:
        async with running(make_registration(store, clock, seed=1, id=1, directory="dir-1")) as two:
            await eventually(lambda: 1 in one.image.brokers)
            yield one, two


async def led_by_0(broker: Registration, partitions: int) -> list[PartitionImage]:
    """The partitions of a new topic that broker 0 leads and broker 1 follows."""
    (topic,) = await broker.admin.create_topics([NewTopic("t", assignments=[(n, (0, 1)) for n in range(partitions)])])
    assert not isinstance(topic, KafkaError), topic
    return list(topic.partitions)


def shrunk(partition: PartitionImage) -> IsrChange:
    return IsrChange(partition, (0,), {}, 1)


def grown(partition: PartitionImage, broker_epoch: int) -> IsrChange:
    return IsrChange(partition, (0, 1), {1: broker_epoch}, 1)


async def test_an_isr_shrinks_and_grows_and_the_image_shows_it_first(clock: HandClock) -> None:
    async with two_brokers(FaultyStore(clock), clock) as (one, two):
        (partition,) = await led_by_0(one, 1)
        assert await one.alter_isr([shrunk(partition)]) == [WRITTEN]
        (small,) = one.image.topics["t"].partitions
        assert (small.isr, small.leader_epoch, small.partition_epoch) == ((0,), 0, 1)
        assert await one.alter_isr([grown(small, two.broker_epoch)]) == [WRITTEN]
        (grew,) = one.image.topics["t"].partitions
        assert (grew.isr, grew.leader_epoch, grew.partition_epoch) == ((0, 1), 0, 2)


async def test_many_changes_are_few_transactions(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with two_brokers(store, clock) as (one, _):
        partitions = await led_by_0(one, 2 * BATCH + 1)
        before = store.txns
        assert await one.alter_isr([shrunk(partition) for partition in partitions]) == [WRITTEN] * len(partitions)
        assert store.txns == before + 3


async def test_what_somebody_else_has_changed_is_refused_and_nothing_else(clock: HandClock) -> None:
    async with two_brokers(FaultyStore(clock), clock) as (one, _):
        partitions = await led_by_0(one, 8)
        await one.alter_isr([shrunk(partitions[5])])
        outcomes = await one.alter_isr([shrunk(partition) for partition in partitions])
        assert outcomes == [WRITTEN] * 5 + [REFUSED] + [WRITTEN] * 2


async def test_R7_who_has_registered_again_since_it_fetched_does_not_join(clock: HandClock) -> None:
    """KIP-903: it may have lost what it had then."""
    async with two_brokers(FaultyStore(clock), clock) as (one, two):
        (partition,) = await led_by_0(one, 1)
        await one.alter_isr([shrunk(partition)])
        (partition,) = one.image.topics["t"].partitions
        assert await one.alter_isr([grown(partition, two.broker_epoch - 1)]) == [REFUSED]
        assert one.image.topics["t"].partitions == (partition,)


async def test_R7_the_guard_of_a_join_is_in_the_transaction(clock: HandClock) -> None:
    """The leader's image may be late: a broker that registers, or is gone, just then must not slip in."""
    store = FaultyStore(clock)
    async with two_brokers(store, clock) as (one, two):
        (partition,) = await led_by_0(one, 1)
        await one.alter_isr([shrunk(partition)])
        (partition,) = one.image.topics["t"].partitions

        async def die() -> None:
            key = b"/kb/kbroker/brokers/1"
            entry = await store.get(key)
            assert entry is not None
            await store.txn([Guard(key, entry.mod_revision)], [Delete(key)])

        store.before_txn = die
        assert await one.alter_isr([grown(partition, two.broker_epoch)]) == [REFUSED]
        assert one.image.topics["t"].partitions == (partition,)


async def test_R5_who_is_no_longer_registered_changes_nothing(clock: HandClock) -> None:
    store = FaultyStore(clock)
    async with two_brokers(store, clock) as (one, _):
        (partition,) = await led_by_0(one, 1)
        key = b"/kb/kbroker/brokers/0"
        entry = await store.get(key)
        assert entry is not None
        image = one.image  # as it was before it is told
        await store.txn([Guard(key, entry.mod_revision)], [Delete(key)])
        one.image = image
        assert await one.alter_isr([shrunk(partition)]) == [REFUSED]


async def test_R5_a_lost_reply_is_no_refusal(autojump_clock: trio.testing.MockClock) -> None:
    store = FaultyStore(RunClock())
    async with two_brokers(store, RunClock()) as (one, _):
        (partition,) = await led_by_0(one, 1)
        store.lose_replies = 1
        assert await one.alter_isr([shrunk(partition)]) == [WRITTEN]  # asked again, and found to have happened
        (partition,) = one.image.topics["t"].partitions
        store.lose_requests = 100
        assert await one.alter_isr([IsrChange(partition, (0, 1), {1: 2}, 1)]) == [UNKNOWN]
        store.lose_requests = 0
        assert await one.alter_isr([IsrChange(partition, (0, 1), {1: 2}, 1)]) == [WRITTEN]


async def test_R5_what_became_of_an_unknown_change_is_shown_before_it_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It has happened after all. To its repetition the answer is REFUSED, so the image must show it by then."""
    store = FaultyStore(RunClock())
    async with two_brokers(store, RunClock()) as (one, _):
        (partition,) = await led_by_0(one, 1)
        store.lose_replies = 100
        assert await one.alter_isr([shrunk(partition)]) in ([UNKNOWN], [WRITTEN])
        store.lose_replies = 0
        assert await one.alter_isr([shrunk(partition)]) == [REFUSED]
        assert one.image.topics["t"].partitions[0].isr == (0,)


async def test_who_leaves_is_eligible_only_where_the_cluster_has_agreed_on_that(clock: HandClock) -> None:
    async with two_brokers(FaultyStore(clock), clock) as (one, _):
        first, second = await led_by_0(one, 2)
        await one.alter_isr([shrunk(first)._replace(min_isr=2)])
        await one.admin.update_features([FeatureUpdate(ELIGIBLE, 0, UpgradeType.SAFE_DOWNGRADE)])
        await one.alter_isr([shrunk(second)._replace(min_isr=2)])
        assert one.image.topics["t"].partitions[1].elr == ()


@pytest.mark.parametrize("each_joins", [1, 20, MEMBERS_MAX - 1])
def test_a_batch_has_no_more_guards_than_a_transaction_may(each_joins: int) -> None:
    changes = []
    for n in range(120):
        joining = {1000 + (n * each_joins + i) % 400: 1 for i in range(each_joins)}
        partition = PartitionImage(T, n, (0, *joining), (0,), 0, 0, 0)
        changes.append(IsrChange(partition, (0, *joining), joining, 1))
    batches = list(_batches(changes, range(120)))
    assert [number for batch in batches for number in batch] == list(range(120))
    for batch in batches:
        members = {id for number in batch for id in changes[number].joining}
        assert batch and len(batch) <= BATCH and len(members) < MEMBERS_MAX
