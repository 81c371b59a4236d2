"""However large a change of the cluster is, it does not hold the event loop: lines between two checkpoints count."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import KafkaError
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.registration import Registration
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.test_controller import NOTICED_S, TICK_S, brokers
from tests.cluster.tools import HandClock, make_registration, running
from tests.server.loop_meter import LoopMeter

LINES_MAX = 20_000  # one or two milliseconds
MANY = 1000
PARTITIONS = 8000


@contextmanager
def in_short_steps() -> Iterator[None]:
    """What the block waits for takes no long step; the block's own task counts too, as a handler's would."""
    meter = LoopMeter()
    meter._own = None  # type: ignore[assignment]
    with meter.running():
        yield
    assert meter.steps > 1 and meter.worst <= LINES_MAX, meter.report()


@asynccontextmanager
async def broker(clock: HandClock, store: MemoryStore | None = None, seed: int = 0) -> AsyncIterator[Registration]:
    async with running(make_registration(store or MemoryStore(clock), clock, seed=seed)) as registered:
        yield registered


def none_failed(results: list[object]) -> bool:
    return not any(isinstance(result, KafkaError) for result in results)


@pytest.mark.slow
async def test_many_topics(clock: HandClock) -> None:
    names = [f"topic-{n}" for n in range(MANY)]
    async with broker(clock) as one:
        with in_short_steps():
            assert none_failed([*await one.admin.create_topics([NewTopic(name) for name in names])])
        assert len(one.image.topics) == MANY
        with in_short_steps():
            assert none_failed([*await one.admin.delete_topics(names)])
        assert not one.image.topics


@pytest.mark.slow
async def test_a_wide_topic(clock: HandClock) -> None:
    async with broker(clock) as one:
        with in_short_steps():
            assert none_failed([*await one.admin.create_topics([NewTopic("wide", PARTITIONS)])])
        with in_short_steps():
            await one.admin.create_partitions("wide", PARTITIONS + MANY)
        assert len(one.image.topics["wide"].partitions) == PARTITIONS + MANY
        with in_short_steps():
            assert none_failed([*await one.admin.delete_topics(["wide"])])


@pytest.mark.slow
async def test_names_full_of_dots_cost_no_more_than_others(clock: HandClock) -> None:
    async with broker(clock) as one:
        wishes = [NewTopic("." * 200 + f"x{n}") for n in range(MANY)]
        with in_short_steps():
            assert none_failed([*await one.admin.create_topics(wishes, validate_only=True)])


@pytest.mark.slow
async def test_registering_in_a_large_cluster(clock: HandClock) -> None:
    store = MemoryStore(clock)
    async with broker(clock, store) as one:
        await one.admin.create_topics([NewTopic("wide", PARTITIONS), *(NewTopic(f"t{n}") for n in range(MANY))])
    with in_short_steps():
        async with broker(clock, store, seed=1) as again:
            assert again.image.topics["wide"].partitions[-1].leader_epoch == 1


@pytest.mark.slow
async def test_a_broker_of_a_large_cluster_dies(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        assert none_failed([*await cluster.any.admin.create_topics([NewTopic("wide", PARTITIONS, 3)])])
        await trio.sleep(NOTICED_S)
        before = cluster.store.txns
        with in_short_steps():
            await cluster.kill(1)
            await trio.sleep(NOTICED_S)
        assert all(p.leader in (0, 2) and len(p.isr) == 2 for p in cluster.partitions("wide"))
        assert cluster.store.txns - before <= PARTITIONS // 96 + 5


@pytest.mark.slow
async def test_a_broker_of_a_large_cluster_leaves(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        assert none_failed([*await cluster.any.admin.create_topics([NewTopic("wide", PARTITIONS, 3)])])
        await trio.sleep(NOTICED_S)
        with in_short_steps():
            await cluster.up[1].hand_over()
            await trio.sleep(TICK_S)
        assert all(p.leader in (0, 2) and len(p.isr) == 2 for p in cluster.partitions("wide"))
