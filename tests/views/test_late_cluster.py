"""A late view of a cluster whose brokers are killed, stopped and started again: nothing early, nothing left out."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.records import build_batch
from kbroker.testing.broker import MemoryCluster, memory_cluster
from tests.api.anywhere import anywhere
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import produce_request
from tests.api.test_views import DAY_MS, make_view

LATE_S = 30.0
TROUBLE_S = 240.0
SETTLING_S = 90.0  # after which everything that was acknowledged is shown


class Story:
    """What was sent when, and when it was shown."""

    def __init__(self, cluster: MemoryCluster, seed: int) -> None:
        self.cluster = cluster
        self.chance = Random(seed)
        self.sent_s: dict[bytes, float] = {}
        self.acked: set[bytes] = set()
        self.shown: list[bytes] = []

    async def produce(self) -> None:
        """Numbered records, whose timestamps say that they are a day old."""
        async with anywhere(self.cluster) as client:
            for number in range(10_000):
                value = b"%d" % number
                self.sent_s[value] = trio.current_time()
                old = self.cluster.machines[1].clock.data_ms() - DAY_MS
                answer = await client.call(produce_request(build_batch([(old, b"k", value, ())]), acks=-1), 9)
                if not answer.responses[0].partition_responses[0].error_code:
                    self.acked.add(value)
                await trio.sleep(self.chance.random() * 3)

    async def read(self) -> None:
        """From the beginning on, in long polls; each record as soon as it is shown."""
        async with anywhere(self.cluster) as client:
            while True:
                asked = fetch_request({("v", 0): len(self.shown)}, max_wait_ms=2000)
                for value in values(await client.call(asked, 11)):
                    assert value is not None
                    late_s = trio.current_time() - self.sent_s[value]
                    assert late_s >= LATE_S, f"{value.decode()} was shown after {late_s:.3f} s"
                    self.shown.append(value)

    async def trouble(self) -> None:
        """One broker at a time goes, cleanly or not, and comes back."""
        while True:
            await trio.sleep(5 + self.chance.random() * 20)
            broker_id = self.chance.choice(sorted(self.cluster.brokers))
            if self.chance.random() < 0.7:
                self.cluster.kill(broker_id)
            else:
                await self.cluster.stop(broker_id)
            await trio.sleep(self.chance.random() * 20)
            await self.cluster.start(broker_id)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_a_late_view_shows_everything_in_order_and_nothing_early(autojump_clock: MockClock, seed: int) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3, seed=seed) as cluster:
        async with cluster.client(1) as client:
            await make_view(client, lag_ms=str(int(LATE_S * 1000)))
        story = Story(cluster, seed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.read)
            with trio.move_on_after(TROUBLE_S):
                async with trio.open_nursery() as troubled:
                    troubled.start_soon(story.produce)
                    troubled.start_soon(story.trouble)
            for broker_id in cluster.machines.keys() - cluster.brokers.keys():
                await cluster.start(broker_id)
            await trio.sleep(SETTLING_S)
            nursery.cancel_scope.cancel()
        assert len(story.acked) > 30 and story.acked <= set(story.shown)
        order = [int(value) for value in story.shown]
        assert order == sorted(order)
