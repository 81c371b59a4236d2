"""Local partitions follow the images; a session that is lost ends every leadership, also amid a catch-up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.config import BrokerConfig
from kbroker.delay.delays import Delays
from kbroker.env import Disk
from kbroker.log import recovery
from kbroker.log.checkpoints import OffsetCheckpoint
from kbroker.log.directory import LogDirectory
from kbroker.replication.manager import CHUNK, ReplicaManager
from kbroker.replication.openings import OPENERS
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from tests.api.steps import Steps
from tests.log.tools import Worker

NODE, OTHER = 1, 2


class Audience:
    """A coordinator that remembers what it is told."""

    def __init__(self) -> None:
        self.led: dict[int, int] = {}
        self.deleted: list[str] = []
        self.lost: list[int] = []

    def lead(self, partition: Partition) -> None:
        self.led[partition.index] = partition.leader_epoch

    def resign(self, index: int) -> None:
        self.led.pop(index, None)

    def lose(self, index: int) -> None:
        self.lost.append(index)

    def on_topics_changed(self, deleted: Iterable[str]) -> None:
        self.deleted += deleted

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        pass


class Member:
    """A part in a cluster in which nothing happens."""

    broker_epoch = 1
    is_proven = True

    def __init__(self) -> None:
        self.handed_over: list[tuple[str, int]] = []

    async def alter_isr(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        return [IsrOutcome.WRITTEN for _ in changes]

    async def hand_over(self, partitions: Collection[tuple[str, int]] | None = None) -> None:
        self.handed_over += partitions or ()


class Unreachable:
    """Brokers that answer nobody."""

    def ask(self, broker_id: int, request: Any, version: int, timeout_s: float) -> Any:
        raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE)


class Rig:
    """A manager whose images are made by hand: what a member does, without a store."""

    def __init__(self, machine: Machine | None = None, worker: Worker | None = None, **config: str) -> None:
        self.machine = machine or Machine()
        settings = BrokerConfig().with_values(config)
        env = self.machine.env()
        self.logs = LogDirectory(replace(env, offload=worker or env.offload), settings)
        self.logs.open()
        self.audience = Audience()
        self.member = Member()
        audiences = {"t": self.audience}
        self.manager = ReplicaManager(NODE, self.logs, settings, audiences, self.member, Unreachable(), Delays(env))
        self.image = ClusterImage()

    def publish(self, *topics: TopicImage, **configs: str) -> None:
        old = self.image
        broker_configs = {"": configs} if configs else {}
        self.image = ClusterImage(
            revision=old.revision + 1,
            topics={topic.name: topic for topic in topics},
            topics_by_id={topic.id: topic for topic in topics},
            broker_configs=broker_configs,
            touched={**old.topics, **{topic.name: topic for topic in topics}},
            base=old.revision,
        )
        self.manager.on_image(old, self.image)

    def leading(self) -> int:
        return sum(partition.leading for partition in self.manager.partitions.values())


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.manager.run)
        yield rig
        nursery.cancel_scope.cancel()
    await rig.logs.close()


def topic(name: str, partitions: int, epoch: int = 0, leader: int = NODE, mark: bytes = b"a") -> TopicImage:
    topic_id = mark * 16
    images = (PartitionImage(topic_id, n, (NODE, OTHER), (NODE,), leader, epoch, 1) for n in range(partitions))
    return TopicImage(name, topic_id, tuple(images), {})


async def applied(rig: Rig) -> None:
    with trio.fail_after(60):
        await rig.manager.wait_applied()


async def led_somewhat(rig: Rig) -> None:
    """Until a catch-up is under way: something is led, not all."""
    while not rig.leading():
        await trio.lowlevel.checkpoint()


async def test_R14_a_session_lost_amid_a_catch_up_leaves_nothing_led() -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 200))
        await led_somewhat(rig)
        assert rig.leading() < 200, "the test is too late"
        rig.manager.on_lost()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.leading() == 0 and not rig.audience.led


async def test_B1_ten_thousand_leaderships_end_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """And end before the next registration's begin."""
    async with running(Rig()) as rig, trio.open_nursery() as nursery:
        partitions, epochs = 10_000, [1, 2]
        rig.publish(topic("t", partitions, epochs[0]))
        await applied(rig)
        steps = Steps(nursery)
        monkeypatch.setattr(Partition, "resign", steps.counted(Partition.resign))
        rig.manager.on_lost()
        rig.publish(topic("t", partitions, epochs[1]))
        await applied(rig)
        assert steps.calls == partitions and steps.longest <= 2 * CHUNK
        assert rig.leading() == partitions and set(rig.audience.led.values()) == {epochs[1]}
        nursery.cancel_scope.cancel()


async def test_R8_only_the_epochs_of_the_next_registration_are_led_after_a_loss() -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 200, epoch=1))
        await led_somewhat(rig)
        rig.manager.on_lost()
        rig.publish(topic("t", 200, epoch=2))
        await applied(rig)
        assert rig.leading() == 200 and set(rig.audience.led.values()) == {2}
        assert {partition.leader_epoch for partition in rig.manager.partitions.values()} == {2}


async def test_what_did_not_change_is_followed_again_after_a_loss() -> None:
    """Its image is the same before and after: the role is to be taken again all the same."""
    async with running(Rig()) as rig:
        rig.publish(topic("t", 3, leader=OTHER))
        await applied(rig)
        assert all(partition.following for partition in rig.manager.partitions.values())
        rig.manager.on_lost()
        await trio.testing.wait_all_tasks_blocked()
        assert not any(partition.following for partition in rig.manager.partitions.values())
        rig.publish(topic("t", 3, leader=OTHER))
        await applied(rig)
        assert all(partition.following for partition in rig.manager.partitions.values())


async def test_a_loss_before_anything_was_carried_out_waits_for_the_next_registration() -> None:
    rig = Rig()
    rig.publish(topic("t", 3))
    rig.manager.on_lost()
    async with running(rig):
        await trio.testing.wait_all_tasks_blocked()
        assert not rig.manager.partitions
        rig.publish(topic("t", 3, epoch=1))
        await applied(rig)
        assert rig.leading() == 3


@pytest.mark.parametrize("mark", [b"a", b"b"])
async def test_what_an_interrupted_catch_up_had_opened_goes_if_the_next_image_has_it_not(mark: bytes) -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 200), **{"log.retention.ms": "5"})
        await led_somewhat(rig)
        rig.manager.on_lost()
        rig.publish(topic("t", 1, 1, mark=mark), topic("u", 1, mark=b"u"))
        await applied(rig)
        assert sorted(rig.manager.partitions) == [("t", 0), ("u", 0)]
        assert rig.manager.partitions["t", 0].topic_id == mark * 16
        assert rig.manager.config.get("log.retention.ms") is None, "nor do its configs stay"
        assert set(rig.logs.logs) == {("t", 0), ("u", 0)}


async def test_a_partition_led_elsewhere_is_held_and_not_led() -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 1))
        await applied(rig)
        rig.publish(topic("t", 1, epoch=1, leader=OTHER))
        await applied(rig)
        assert rig.leading() == 0 and not rig.audience.led and rig.manager.partitions


async def test_a_topic_made_anew_under_its_name_syncs_nothing_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 3))
        await applied(rig)
        for partition in rig.manager.partitions.values():
            partition.append(build_batch([(None, b"v")]), acks=1, now_ms=1)
            await partition.log.flush(rig.logs.env.offload)
        await rig.logs.move_starts({partition.log: 1 for partition in rig.manager.partitions.values()})
        monkeypatch.setattr(OffsetCheckpoint, "save", None)  # the way that blocks
        rig.publish(topic("t", 3, mark=b"b"))
        await applied(rig)
        assert [partition.log.end.value for partition in rig.manager.partitions.values()] == [0, 0, 0]
        assert b"\nt " not in rig.machine.disk.read("log-start-offset-checkpoint")


async def test_a_deleted_topic_is_removed_and_told() -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 2))
        await applied(rig)
        rig.publish()
        await applied(rig)
        assert not rig.manager.partitions and not rig.logs.logs
        assert rig.audience.deleted == ["t"] and not rig.audience.led


# -- logs that must be opened ------------------------------------------------------------------------------------------


async def killed_with(*topics: TopicImage) -> Machine:
    """A machine whose broker was killed when each partition of these topics held ten records."""
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.manager.run)
        rig.publish(*topics)
        await applied(rig)
        for partition in rig.manager.partitions.values():
            for n in range(10):
                partition.append(build_batch([(None, b"%d" % n)]), acks=1, now_ms=1)
        nursery.cancel_scope.cancel()
    rig.machine.disk.kill()
    return rig.machine


def held_up() -> Worker:
    """A worker that does nothing until its gate is set."""
    worker = Worker()
    worker.gate = trio.Event()
    return worker


async def test_logs_are_opened_in_workers_while_images_go_on() -> None:
    t, worker = topic("t", 3), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t, topic("new", 1, mark=b"n"))
        await applied(rig)
        assert sorted(rig.manager.partitions) == [("new", 0)], "what is new does not wait for what is recovered"
        rig.publish(t, topic("new", 1, mark=b"n"), topic("newer", 1, mark=b"r"))
        await applied(rig)
        assert sorted(rig.manager.partitions) == [("new", 0), ("newer", 0)] and not rig.manager.failures.offline
        worker.gate.set()
        await rig.manager.wait_open()
        assert {partition.log.end.value for partition in rig.manager.partitions.values()} == {0, 10}
        assert rig.leading() == 5 and sorted(rig.audience.led) == [0, 1, 2]


async def test_some_logs_are_opened_at_once_and_no_more() -> None:
    t, worker = topic("t", 100), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        await trio.testing.wait_all_tasks_blocked()
        rig.publish(t)
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.calls == OPENERS + 1, "and one looks for strays"
        worker.gate.set()
        await rig.manager.wait_open()
        assert rig.leading() == 100


async def test_a_log_is_never_opened_twice_at_once() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        for epoch in range(3):
            rig.publish(topic("t", 1, epoch))
            await applied(rig)
        worker.gate.set()
        await rig.manager.wait_open()
        assert worker.calls == 2, "one to open it, one to look for strays"
        assert rig.manager.partitions["t", 0].leader_epoch == 2, "the image of the moment counts"


async def test_a_partition_deleted_while_its_log_is_opened_goes_with_its_files() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t)
        await applied(rig)
        rig.publish()
        await applied(rig)
        worker.gate.set()
        await rig.manager.wait_open()
        assert not rig.manager.partitions and not rig.logs.logs and not rig.audience.led
        assert not rig.machine.disk.exists("t-0")


async def test_R13_a_topic_made_anew_while_the_old_log_is_opened_begins_empty() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t)
        await applied(rig)
        rig.publish(topic("t", 1, mark=b"b"))
        await applied(rig)
        worker.gate.set()
        await rig.manager.wait_open()
        partition = rig.manager.partitions["t", 0]
        assert (partition.topic_id, partition.log.end.value, partition.leading) == (b"b" * 16, 0, True)


async def test_a_config_changed_while_a_log_is_opened_is_taken_over() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t)
        await applied(rig)
        rig.publish(replace(t, configs={"min.insync.replicas": "2"}))
        await applied(rig)
        worker.gate.set()
        await rig.manager.wait_open()
        assert rig.manager.partitions["t", 0].log.config.min_insync_replicas == 2


async def test_R14_a_log_opened_after_the_session_was_lost_is_not_led() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t)
        await applied(rig)
        rig.manager.on_lost()
        worker.gate.set()
        await rig.manager.wait_open()
        assert rig.leading() == 0 and not rig.audience.led
        rig.publish(topic("t", 1, epoch=1))
        await applied(rig)
        assert rig.leading() == 1 and rig.audience.led == {0: 1}


async def test_a_log_of_no_topic_is_left_alone_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Rig(await killed_with(topic("t", 2)))) as rig:
        rig.publish()
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.machine.disk.exists("t-0/partition.metadata")
    assert "2 logs belong to no topic and are left alone: t-0, t-1" in caplog.text


def elsewhere(name: str, partitions: int, *moved: int, mark: bytes = b"a") -> TopicImage:
    """A topic some of whose partitions have their replicas on the other broker."""
    whole = topic(name, partitions, mark=mark)
    images = [
        replace(image, replicas=(OTHER,), isr=(OTHER,), leader=OTHER, leader_epoch=1) if image.index in moved else image
        for image in whole.partitions
    ]
    return replace(whole, partitions=tuple(images))


async def test_a_partition_that_is_reassigned_goes_with_its_log_and_no_other_does() -> None:
    async with running(Rig()) as rig:
        rig.publish(topic("t", 3))
        await applied(rig)
        for index in range(3):
            rig.manager.partitions["t", index].append(build_batch([(b"k", b"v")]), 1, 0)
        rig.publish(elsewhere("t", 3, 1))
        await applied(rig)
        assert set(rig.manager.partitions) == {("t", 0), ("t", 2)}
        assert sorted(name for name in rig.machine.disk.list_dir("") if name in ("t-0", "t-1", "t-2")) == ["t-0", "t-2"]
        assert rig.audience.led.keys() == {0, 2}


async def test_a_partition_that_was_reassigned_while_the_broker_was_down_goes_with_its_log() -> None:
    first = Rig()
    async with running(first):
        first.publish(topic("t", 2), topic("u", 1, mark=b"b"))
        await applied(first)
        for partition in first.manager.partitions.values():
            partition.append(build_batch([(b"k", b"v")]), 1, 0)
    async with running(Rig(first.machine)) as rig:
        rig.publish(elsewhere("t", 2, 1))
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        names = [name for name in first.machine.disk.list_dir("") if name in ("t-0", "t-1", "u-0")]
        assert sorted(names) == ["t-0", "u-0"], "u may be unknown because the store has lost it"


async def test_a_log_that_comes_back_while_it_is_looked_at_stays() -> None:
    """It seems to have gone elsewhere, by the last image that was carried out; by the next it is opened already."""
    many, worker = 2_000, held_up()
    async with running(Rig(await killed_with(topic("t", 1)), worker)) as rig:
        rig.publish(elsewhere("t", many, *range(many)))
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.calls == 1, "the directory is being searched"
        search, worker.gate = worker.gate, trio.Event()
        search.set()
        await trio.testing.wait_all_tasks_blocked()
        assert worker.calls == 2, "one log is being looked at"
        rig.publish(topic("t", many, epoch=2))
        await led_somewhat(rig)
        worker.gate.set()
        await applied(rig)
        await rig.manager.wait_open()
        assert rig.leading() == many and rig.manager.partitions["t", 0].log.end.value == 10


async def test_what_an_image_that_was_read_anew_does_not_know_is_left_alone() -> None:
    """The store may have been restored from an older copy, before the topic, or before its replicas moved here."""
    async with running(Rig()) as rig:
        rig.publish(topic("t", 2), topic("u", 1, epoch=3, mark=b"b"))
        await applied(rig)
        for partition in rig.manager.partitions.values():
            partition.append(build_batch([(b"k", b"v")]), 1, 0)
        rig.manager.on_lost()
        rig.publish(elsewhere("u", 1, 0, mark=b"b"))
        await applied(rig)
        assert not rig.manager.partitions and not rig.audience.led and not rig.audience.deleted
        assert {"t-0", "t-1", "u-0"}.issubset(rig.machine.disk.list_dir(""))
        rig.publish(topic("t", 2), topic("u", 1, epoch=4, mark=b"b"))
        await applied(rig)
        await rig.manager.wait_open()
        assert [partition.log.end.value for partition in rig.manager.partitions.values()] == [1, 1, 1], "it was right"
        rig.publish()
        await applied(rig)
        assert not {"t-0", "t-1", "u-0"}.intersection(rig.machine.disk.list_dir("")), "that was seen"


async def test_a_log_that_is_opened_while_an_image_that_was_read_anew_does_not_know_it_is_left_alone() -> None:
    t, worker = topic("t", 1), held_up()
    async with running(Rig(await killed_with(t), worker)) as rig:
        rig.publish(t)
        await applied(rig)
        rig.manager.on_lost()
        rig.publish()
        await applied(rig)
        worker.gate.set()
        await rig.manager.wait_open()
        assert not rig.manager.partitions and not rig.logs.logs and rig.machine.disk.exists("t-0")


async def test_at_a_start_a_log_with_records_later_than_the_replicas_elsewhere_is_left_alone() -> None:
    machine = await killed_with(topic("t", 1, epoch=3))
    async with running(Rig(machine)) as rig:
        rig.publish(elsewhere("t", 1, 0))
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert machine.disk.exists("t-0")


async def test_F11_what_a_failed_log_lets_nobody_read_is_handed_over(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Rig()) as rig:
        whole = topic("t", 3)
        images = tuple(replace(image, isr=(NODE,) if image.index == 2 else (NODE, OTHER)) for image in whole.partitions)
        rig.publish(replace(whole, partitions=images))
        await applied(rig)
        for index in (1, 2):
            rig.manager.partitions["t", index].log.lose("the test says so")
        await trio.sleep(1.5)
        assert set(rig.member.handed_over) == {("t", 1)}, "of 2 there is no other, 0 is fine"


async def test_a_disk_that_cannot_be_searched_for_strays_stops_nothing() -> None:
    machine = await killed_with(topic("t", 1))
    machine.disk.fail("read", "t-0/*", times=10)
    async with running(Rig(machine)) as rig:
        rig.publish(topic("u", 1, mark=b"u"))
        await applied(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.leading() == 1


async def test_a_log_that_brings_a_bug_to_light_is_offline_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = recovery.recover

    def broken(disk: Disk, directory: str, **options: Any) -> recovery.Recovered:
        assert directory != "t-1"
        return recover(disk, directory, **options)

    t = topic("t", 3)
    machine = await killed_with(t)
    monkeypatch.setattr(recovery, "recover", broken)
    async with running(Rig(machine)) as rig:
        rig.publish(t)
        await applied(rig)
        await rig.manager.wait_open()
        assert rig.audience.lost == [1]
        assert set(rig.manager.failures.offline) == {("t", 1)} and sorted(rig.manager.partitions) == [
            ("t", 0),
            ("t", 2),
        ]


async def test_a_deleted_topic_whose_log_could_not_be_opened_leaves_no_files() -> None:
    t = topic("t", 1)
    machine = await killed_with(t)
    machine.disk.fail("size", "t-0/*")
    async with running(Rig(machine)) as rig:
        rig.publish(t)
        await applied(rig)
        await rig.manager.wait_open()
        assert set(rig.manager.failures.offline) == {("t", 0)} and not rig.manager.partitions
        rig.publish()
        await applied(rig)
        assert not rig.manager.failures.offline and not machine.disk.exists("t-0")


async def test_a_stop_amid_a_recovery_ends_it_like_a_kill() -> None:
    t, worker = topic("t", 2), held_up()
    worker.is_thread = True
    rig = Rig(await killed_with(t), worker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.manager.run)
        rig.publish(t)
        await applied(rig)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            worker.gate.set()
    assert not rig.manager.partitions and not rig.manager.failures.offline
    await rig.logs.close()
    assert b'"logs": {}' in rig.machine.disk.read(".kafka_cleanshutdown")
    async with running(Rig(rig.machine)) as again:
        again.publish(t)
        await applied(again)
        await again.manager.wait_open()
        assert [partition.log.end.value for partition in again.manager.partitions.values()] == [10, 10]


async def test_it_is_said_how_far_opening_has_come(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    t, worker = topic("t", 3), held_up()
    with caplog.at_level("INFO"):
        async with running(Rig(await killed_with(t), worker)) as rig:
            rig.publish(t)
            await applied(rig)
            await trio.sleep(7)
            worker.gate.set()
            await rig.manager.wait_open()
    assert [record.getMessage() for record in caplog.records] == [
        "opening logs: 0 of 3 partitions done, 0 MiB read",
        "opening logs: 0 of 3 partitions done, 0 MiB read",
        "3 logs opened in 7.0 s, 0 MiB read",
    ]


async def test_a_dynamic_expiration_of_producers_takes_effect(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(**{"log.retention.check.interval.ms": "1000"})
    async with running(rig), trio.open_nursery() as nursery:
        rig.publish(topic("t", 1))
        await applied(rig)
        partition = rig.manager.partitions["t", 0]
        now_ms = rig.machine.clock.data_ms()
        value = build_batch([(now_ms, None, b"v", [])], producer_id=7, producer_epoch=0, base_sequence=0)
        partition.append(value, acks=1, now_ms=now_ms)
        await nursery.start(rig.logs.run)
        await trio.sleep(5)
        assert 7 in partition.log.producers.by_id
        rig.publish(topic("t", 1), **{"producer.id.expiration.ms": "1000"})
        await trio.sleep(5)
        assert 7 not in partition.log.producers.by_id
        nursery.cancel_scope.cancel()
