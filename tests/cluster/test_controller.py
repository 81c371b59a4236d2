"""Several brokers on one store: a controller at a time, elections, brokers that die, leave, and come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import KafkaError
from kbroker.cluster.changes.config_changes import ConfigChange, ConfigOp
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.controller import TICK_S
from kbroker.cluster.elections import led_by
from kbroker.cluster.image import NO_LEADER, PartitionImage, TopicImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.cluster.joining import BrokerIdInUse
from kbroker.cluster.registration import SESSION_TTL_S, Registration
from kbroker.cluster.store import Delete, Guard, Put, Unavailable
from kbroker.config import BrokerConfig
from kbroker.config.keys import Scope
from kbroker.testing.store import ProcessStore
from tests.cluster.tools import FaultyStore, RunClock, Watcher, make_registration

NOTICED_S = SESSION_TTL_S + 3 * TICK_S  # after this a death has had its consequences
MIN_2 = BrokerConfig().with_values({"min.insync.replicas": 2})


class Brokers:
    """Brokers on one store, started and ended one by one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = FaultyStore(RunClock())
        self.up: dict[int, Registration] = {}
        self.ways: dict[int, ProcessStore] = {}
        self.watchers: dict[int, Watcher] = {}
        self._nursery = nursery
        self._scopes: dict[int, trio.CancelScope] = {}
        self._starts = 0

    async def start(self, *ids: int, **options: Any) -> None:
        for id in ids:
            self._starts += 1
            self.ways[id], self.watchers[id] = ProcessStore(self.store, RunClock()), Watcher()
            own = {"config": lambda: MIN_2, "directory": f"dir-{id}", "id": id, "seed": self._starts, **options}
            broker = make_registration(self.ways[id], RunClock(), self.watchers[id], **own)
            self._scopes[id] = trio.CancelScope()
            await self._nursery.start(self._run, broker, self._scopes[id])
            self.up[id] = broker

    async def _run(
        self,
        broker: Registration,
        scope: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            await broker.run(task_status=task_status)

    async def stop(self, id: int) -> None:
        """Without a word beforehand, but the session is given back."""
        self.up.pop(id)
        self._scopes[id].cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def kill(self, id: int) -> None:
        self.ways[id].failure = Unavailable("dead")
        await self.stop(id)

    @property
    def any(self) -> Registration:
        return next(iter(self.up.values()))

    @property
    def controllers(self) -> set[int]:
        return {broker.image.controller_id for broker in self.up.values()}

    async def create(self, *assignments: Sequence[int], name: str = "t", **configs: str) -> TopicImage:
        wish = NewTopic(name, assignments=list(enumerate(assignments)), configs=configs)
        (topic,) = await self.any.admin.create_topics([wish])
        assert not isinstance(topic, KafkaError), topic
        await trio.sleep(TICK_S)  # every broker knows of it
        return topic

    def partitions(self, name: str = "t") -> tuple[PartitionImage, ...]:
        """As everybody sees them."""
        (seen,) = {broker.image.topics[name].partitions for broker in self.up.values()}
        return seen

    def states(self, name: str = "t") -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        return [(p.leader, p.isr, p.elr) for p in self.partitions(name)]


@asynccontextmanager
async def brokers(*ids: int, **options: Any) -> AsyncIterator[Brokers]:
    async with trio.open_nursery() as nursery:
        made = Brokers(nursery)
        await made.start(*ids, **options)
        await trio.sleep(TICK_S)
        yield made
        nursery.cancel_scope.cancel()


async def test_one_broker_is_the_controller_and_another_when_it_dies(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        assert cluster.controllers == {0} and cluster.any.image.controller_epoch == 1
        await cluster.kill(0)
        await trio.sleep(NOTICED_S)
        (second,) = cluster.controllers
        assert second in (1, 2) and cluster.any.image.controller_epoch == 2
        await cluster.start(0)
        await trio.sleep(NOTICED_S)
        assert cluster.controllers == {second}, "it stays"
        await cluster.stop(second)
        await trio.sleep(3 * TICK_S)
        assert cluster.controllers in ({0}, {3 - second}) and cluster.any.image.controller_epoch == 3


async def test_a_dead_broker_leads_nothing_and_is_in_no_isr(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2), (0, 1, 2), (2, 0, 1))
        await cluster.create((1,), name="alone")
        await cluster.kill(1)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(0, (0, 2), ()), (0, (0, 2), ()), (2, (2, 0), ())]
        assert cluster.states("alone") == [(NO_LEADER, (), (1,))]
        both = (*cluster.partitions(), *cluster.partitions("alone"))
        assert [p.leader_epoch for p in both] == [1, 0, 0, 1]
        assert [p.partition_epoch for p in both] == [1, 1, 1, 1]
        await cluster.start(1)
        await trio.sleep(TICK_S)
        assert cluster.states("alone") == [(1, (1,), ())], "the last one comes back"
        assert cluster.partitions("alone")[0].leader_epoch == 2


async def test_R9_without_anybody_in_sync_a_partition_waits(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 2), (0, 1))
        await cluster.kill(1)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(2, (2,), (1,)), (0, (0,), (1,))]
        await cluster.kill(2)
        await trio.sleep(NOTICED_S)
        assert cluster.states()[0] == (NO_LEADER, (), (1, 2))
        await cluster.start(1)  # it was in sync when less was than is needed to commit anything
        await trio.sleep(TICK_S)
        assert cluster.states()[0] == (1, (1,), (2,))


async def test_an_unclean_election_takes_place_where_it_is_configured(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, config=BrokerConfig) as cluster:
        await cluster.create((1, 0), name="clean")
        await cluster.create((1, 0), name="unclean", **{"unclean.leader.election.enable": "true"})
        for name in ("clean", "unclean"):
            (partition,) = cluster.partitions(name)
            outcomes = await cluster.up[1].alter_isr([IsrChange(partition, (1,), {}, 1)])
            assert outcomes == [IsrOutcome.WRITTEN]
        await cluster.kill(1)
        await trio.sleep(NOTICED_S)
        assert cluster.states("clean") == [(NO_LEADER, (), (1,))]
        assert cluster.states("unclean") == [(0, (0,), ())]
        (changed,) = await cluster.any.admin.alter_configs(
            [ConfigChange(Scope.TOPIC, "clean", [(ConfigOp.SET, "unclean.leader.election.enable", "true")])]
        )
        assert changed is None
        await trio.sleep(TICK_S)
        assert cluster.states("clean") == [(0, (0,), ())]


async def test_R8_a_restarted_broker_leads_in_no_epoch_it_led_before(autojump_clock: MockClock) -> None:
    """Whoever is faster, the controller that saw it die or the broker itself, and whatever it was."""
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2), (2, 1, 0), (0, 1, 2))
        await cluster.create((1,), name="alone")
        for pause_s in (0, 1, 5, 7, 20):
            before = (*cluster.partitions(), *cluster.partitions("alone"))
            led = {(p.topic_id, p.index): p.leader_epoch for p in before if p.leader == 1}
            await cluster.kill(1)
            await trio.sleep(pause_s)
            await cluster.start(1)
            first = cluster.watchers[1].seen[0][1]
            for p in (p for topic in first.topics.values() for p in topic.partitions):
                assert p.leader != 1 or p.leader_epoch > led.get((p.topic_id, p.index), -1)
            await trio.sleep(NOTICED_S)
            assert all(p.leader != NO_LEADER for p in (*cluster.partitions(), *cluster.partitions("alone")))


async def test_R10_after_a_power_failure_a_broker_is_in_no_isr_when_it_appears(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2), (0, 1, 2))
        await cluster.create((1,), name="alone")
        for pause_s in (0.0, NOTICED_S):  # its old session may live on
            await cluster.kill(1)
            await trio.sleep(pause_s)
            await cluster.start(1, is_lossy=True)
            first = cluster.watchers[1].seen[0][1].topics
            for partition in first["t"].partitions:
                assert partition.leader in (0, 2) and 1 not in (*partition.isr, *partition.elr)
            assert first["alone"].partitions[0].leader == 1, "what nobody else has"
            await trio.sleep(TICK_S)


async def test_R10_the_last_one_in_sync_leads_on_only_as_the_last_that_led(autojump_clock: MockClock) -> None:
    async with brokers(0, 1) as cluster:
        await cluster.create((1, 0))
        await cluster.kill(0)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(1, (1,), (0,))]
        await cluster.kill(1)
        await cluster.start(1, is_lossy=True)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(NO_LEADER, (), (0,))], "0 has all that was committed, 1 may have lost some"
        await cluster.start(0)
        await trio.sleep(TICK_S)
        assert cluster.states() == [(0, (0,), ())]
        await cluster.kill(0)
        await cluster.start(0, is_lossy=True)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(0, (0,), ())], "nobody else: as in Kafka it leads with what it has left"
        assert cluster.partitions()[0].leader_epoch >= 4


async def test_R10_another_disk_is_an_empty_one(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2))
        await cluster.kill(1)
        with pytest.raises(ExceptionGroup) as raised:
            async with trio.open_nursery() as nursery:
                other = make_registration(cluster.store, RunClock(), id=1, directory="new-disk", seed=99)
                await nursery.start(other.run)
        assert raised.group_contains(BrokerIdInUse)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(0, (0, 2), ())]
        await cluster.start(1, directory="new-disk")
        assert cluster.up[1].image.registrations[1].directory_id == "new-disk"
        assert cluster.up[1].image.topics["t"].partitions[0].isr == (0, 2)


async def test_R7_nobody_joins_between_its_last_word_and_its_death(autojump_clock: MockClock) -> None:
    """A broker that may have lost data takes its registration away first: a leader cannot let it join any more."""
    async with brokers(0, 1) as cluster:
        await cluster.create((0, 1))
        (partition,) = cluster.partitions()
        await cluster.up[0].alter_isr([IsrChange(partition, (0,), {}, 1)])
        (partition,) = cluster.up[0].image.topics["t"].partitions
        image, epoch = cluster.up[0].image, cluster.up[1].broker_epoch
        await cluster.kill(1)
        key = b"/kb/kbroker/brokers/1"
        entry = await cluster.store.get(key)
        assert entry is not None
        await cluster.store.txn([Guard(key, entry.mod_revision)], [Delete(key)])
        cluster.up[0].image = image  # it has not heard of it
        assert await cluster.up[0].alter_isr([IsrChange(partition, (0, 1), {1: epoch}, 1)]) == [IsrOutcome.REFUSED]


async def test_a_broker_that_leaves_hands_over_and_is_given_nothing_more(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2), (0, 1, 2))
        await cluster.create((1,), name="alone")
        leaving = cluster.up[1]
        with trio.fail_after(TICK_S):
            await leaving.hand_over()
        await trio.sleep(TICK_S)
        assert cluster.states() == [(0, (0, 2), ()), (0, (0, 2), ())]
        assert cluster.states("alone") == [(1, (1,), ())]
        assert all(broker.image.brokers[1].leaving for broker in cluster.up.values())
        (topic,) = await cluster.any.admin.create_topics([NewTopic("u", 6, 2)])
        assert isinstance(topic, TopicImage) and not {1} & {id for p in topic.partitions for id in p.replicas}
        (partition,) = [p for p in cluster.partitions() if p.index == 1]
        epoch = leaving.broker_epoch
        assert await cluster.up[0].alter_isr([IsrChange(partition, (0, 1, 2), {1: epoch}, 1)]) == [IsrOutcome.REFUSED]
        await cluster.stop(1)
        await trio.sleep(TICK_S)
        assert cluster.states("alone") == [(NO_LEADER, (), (1,))]


async def test_a_controller_that_leaves_has_a_successor_before_it_is_gone(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.up[0].hand_over()
        await trio.sleep(2 * TICK_S)
        assert cluster.controllers in ({1}, {2})


async def test_the_last_broker_has_nobody_to_hand_over_to(autojump_clock: MockClock) -> None:
    async with brokers(0) as cluster:
        await cluster.create((0,))
        before = cluster.store.txns
        await cluster.up[0].hand_over()
        assert cluster.store.txns == before and not cluster.up[0].image.brokers[0].leaving


async def test_partitions_on_a_disk_that_failed_are_led_by_others(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0), (1, 0), (0, 1))
        await cluster.create((1,), name="alone")
        await cluster.up[1].hand_over([("t", 0), ("t", 2), ("alone", 0), ("gone", 0)])
        await trio.sleep(TICK_S)
        assert cluster.states() == [(0, (0,), ()), (1, (1, 0), ()), (0, (0,), ())]
        assert cluster.states("alone") == [(1, (1,), ())]
        assert not cluster.up[1].image.brokers[1].leaving


async def test_a_deposed_controller_changes_nothing(autojump_clock: MockClock) -> None:
    """It stood still and has not heard that another is it: what it had decided is guarded by its key."""
    async with brokers(0, 1, 2) as cluster:
        await cluster.create((1, 0, 2))
        image = cluster.up[0].image
        await cluster.up[0].hand_over()
        await trio.sleep(2 * TICK_S)
        (partition,) = cluster.partitions()
        cluster.up[0].image = image
        await cluster.up[0]._controller._write([led_by(partition, 2)])
        await trio.sleep(TICK_S)
        assert cluster.up[1].image.topics["t"].partitions == (partition,)


async def test_what_fails_is_decided_anew(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with brokers(0, 1, 2) as cluster:
        await cluster.create(*[(1, 0, 2)] * 300)
        await cluster.kill(1)
        cluster.store.refuse = 40  # of the transactions that follow
        await trio.sleep(4 * NOTICED_S)
        assert cluster.states() == [(0, (0, 2), ())] * 300


async def test_many_partitions_are_led_again_in_few_transactions(autojump_clock: MockClock) -> None:
    async with brokers(0, 1, 2) as cluster:
        (topic,) = await cluster.any.admin.create_topics([NewTopic("wide", 1500, 3)])
        assert isinstance(topic, TopicImage)
        before = cluster.store.txns
        await cluster.kill(1)
        await trio.sleep(NOTICED_S)
        assert all(
            p.leader in (0, 2) and p.isr == tuple(id for id in p.replicas if id != 1)
            for p in cluster.partitions("wide")
        )
        assert cluster.store.txns - before <= 1500 // 96 + 1 + 2


async def test_preferred_leaders_come_back_in_time(autojump_clock: MockClock) -> None:
    config = MIN_2.with_values({"leader.imbalance.check.interval.seconds": 60})
    async with brokers(0, 1, 2, config=lambda: config) as cluster:
        await cluster.create((1, 0, 2))
        await cluster.kill(1)
        await trio.sleep(NOTICED_S)
        await cluster.start(1, config=lambda: config)
        await rejoin(cluster, 1)
        await trio.sleep(NOTICED_S)
        assert cluster.states() == [(0, (1, 0, 2), ())]
        await trio.sleep(60)
        assert cluster.states() == [(1, (1, 0, 2), ())]


async def rejoin(cluster: Brokers, id: int, name: str = "t") -> None:
    """A broker has caught up with all it follows: their leaders take it into the ISRs."""
    await trio.sleep(TICK_S)
    for partition in cluster.partitions(name):
        if id in partition.replicas and id not in partition.isr:
            change = IsrChange(partition, (*partition.isr, id), {id: cluster.up[id].broker_epoch}, 2)
            assert await cluster.up[partition.leader].alter_isr([change]) == [IsrOutcome.WRITTEN]
    await trio.sleep(TICK_S)


async def test_internal_topics_grow_with_the_cluster(autojump_clock: MockClock) -> None:
    config = BrokerConfig().with_values({"transaction.state.log.min.isr": 2})
    async with brokers(0, config=lambda: config) as cluster:
        await cluster.create((0,), (0,), name="__transaction_state", **{"min.insync.replicas": "1"})
        await cluster.create((0,), (0,))
        await cluster.start(1, 2, 3, config=lambda: config)
        await trio.sleep(NOTICED_S)
        half = cluster.partitions("__transaction_state")
        assert [(p.replicas, p.isr, p.adding) for p in half] == [((0, 1), (0,), (1,))] * 2
        assert cluster.any.image.topics["__transaction_state"].configs == {"min.insync.replicas": "1"}
        for id in (1, 1, 2, 3):
            await rejoin(cluster, id, "__transaction_state")
        await trio.sleep(3 * TICK_S)
        grown = cluster.partitions("__transaction_state")
        assert {p.replicas for p in grown} == {(0, 1, 2), (0, 1, 3)}, "spread"
        assert all(p.adding == () and p.isr == p.replicas for p in grown)
        assert cluster.any.image.topics["__transaction_state"].configs == {"min.insync.replicas": "2"}
        assert all(p.replicas == (0,) for p in cluster.partitions("t"))


async def test_a_store_that_went_back_is_told_of(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Restored from an older copy: epochs of brokers never repeat within a process, nothing waits for what is gone."""
    async with brokers(0, config=BrokerConfig) as cluster:
        await cluster.create((0,))
        saved = [entry for entry in cluster.store._entries.values() if not entry.lease]
        epoch = cluster.any.broker_epoch
        for n in range(3):
            await cluster.create((0,), name=f"u{n}")
        waiting = trio.Event()

        async def wait() -> None:
            assert not await cluster.up[0].wait_shown(10_000)
            waiting.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            older = FaultyStore(RunClock())
            older._apply([Put(entry.key, entry.value) for entry in saved])
            cluster.ways[0]._store = older
            await trio.sleep(NOTICED_S)
            assert waiting.is_set()
        assert "went back from revision" in caplog.text
        assert set(cluster.any.image.topics) == {"t"} and cluster.any.broker_epoch > epoch


async def test_a_controller_that_stands_down_misses_nobody(autojump_clock: MockClock) -> None:
    """All brokers stop: who was faster is in sync still when they start again."""
    async with brokers(1, 2, 3) as some:
        await some.create((1, 2, 3), (2, 3, 1))
        before = some.states()
        for broker in some.up.values():
            broker.stand_down()
        await some.stop(1)
        await some.stop(2)
        await trio.sleep(NOTICED_S)
        assert some.states() == before
        assert some.controllers <= {NO_LEADER, 3}
