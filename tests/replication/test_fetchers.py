"""Following, with a leader that answers what it is told: appends, truncations, errors that stay with one partition."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    EpochEndOffset,
    FetchableTopicResponse,
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from kafka_wire.records import assign, build_batch, read_header
from kbroker.cluster.image import NO_LEADER, PartitionImage
from kbroker.config import BrokerConfig, TopicConfig
from kbroker.config.keys import LONG_MAX
from kbroker.log.directory import LogDirectory
from kbroker.replication.fetcher import PIECE_BATCHES
from kbroker.replication.fetchers import Fetchers
from kbroker.replication.partition import Partition
from kbroker.replication.throttles import Throttle
from kbroker.testing.broker import Machine

ID = b"t" * 16
NODE, LEADER, OTHER = 2, 1, 3
CONFIG = BrokerConfig().with_values({"replica.fetch.backoff.ms": "1000"})
Answer = Callable[[FetchPartition], FetchPartitionData | None]


def stored(base_offset: int, epoch: int, *values: bytes) -> bytes:
    """A batch as a leader has it."""
    batch = build_batch([(b"k", value) for value in values])
    assign(batch, 0, read_header(batch), base_offset, epoch)
    return bytes(batch)


def data(index: int, **fields: Any) -> FetchPartitionData:
    return FetchPartitionData(partition_index=index, **fields)


class Leaders:
    """All other brokers: what each partition is answered, once, in order; else there is no news, as long as one waits.

    A session as a leader keeps it: what was named stays, until it is forgotten.
    """

    def __init__(self) -> None:
        self.answers: dict[int, list[Answer]] = {}
        self.sessions: dict[int, dict[int, FetchPartition]] = {}
        self.requests: list[tuple[float, int, FetchRequest]] = []
        self.failure: KafkaError | None = None
        self.news = trio.Event()

    def tell(self, index: int, answer: Answer | FetchPartitionData) -> None:
        self.answers.setdefault(index, []).append(answer if callable(answer) else lambda wanted: answer)
        self.news.set()

    def ask(self, broker_id: int, request: FetchRequest, version: int, timeout_s: float) -> Any:
        self.requests.append((trio.current_time(), broker_id, request))
        if self.failure is not None:
            raise self.failure
        return self._answer(broker_id, request)

    async def _answer(self, broker_id: int, request: FetchRequest) -> FetchResponse:
        if request.session_epoch == 0:
            self.sessions[broker_id] = {}
        session = self.sessions[broker_id]
        for topic in request.topics:
            assert topic.topic_id == ID
            session.update((partition.partition, partition) for partition in topic.partitions)
        for forgotten in request.forgotten_topics_data:
            for index in forgotten.partitions:
                del session[index]
        with trio.move_on_after(request.max_wait_ms / 1000):
            while not any(self.answers.get(index) for index in session):
                self.news = trio.Event()
                await self.news.wait()
        rows = [self.answers[index].pop(0)(wanted) for index, wanted in session.items() if self.answers.get(index)]
        topics = [FetchableTopicResponse(topic_id=ID, partitions=[row for row in rows if row is not None])]
        await trio.lowlevel.checkpoint()
        return FetchResponse(session_id=1, responses=topics)


class Rig:
    """A follower's partitions, and the leaders it asks."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine()
        self.logs = LogDirectory(self.machine.env(), CONFIG)
        self.logs.open()
        self.leaders = Leaders()
        self.offline: list[int] = []
        self.rate = LONG_MAX
        self.fetchers = Fetchers(
            NODE,
            self.logs,
            self.leaders,
            lambda: CONFIG,
            lambda: 77,
            Throttle(lambda: self.rate, trio.current_time),
            lambda partition, _: self.offline.append(partition.index),
        )

    def partition(
        self, index: int, *batches: bytes, epoch: int = 5, leader: int = LEADER, config: TopicConfig | None = None
    ) -> Partition:
        """A partition with these batches, that follows."""
        opening = self.logs.opening("t", index, ID, config or TopicConfig())
        partition = Partition("t", index, ID, self.logs.adopt(opening, None), NODE)
        if batches:
            self.follow(partition, epoch - 1)
            partition.append_from_leader(b"".join(batches), epoch - 1, 0, 0, 0)
        self.follow(partition, epoch, leader)
        return partition

    def follow(self, partition: Partition, epoch: int, leader: int = LEADER) -> None:
        partition.follow(
            PartitionImage(ID, partition.index, (1, 2, 3), (1, 2, 3), leader, epoch, epoch, mod_revision=epoch)
        )
        if leader != NO_LEADER:
            self.fetchers.follow(partition)


@asynccontextmanager
async def running(machine: Machine | None = None) -> AsyncIterator[Rig]:
    rig = Rig(machine)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.fetchers.run)
        yield rig
        nursery.cancel_scope.cancel()
    await rig.logs.close()


async def test_what_the_leader_has_is_appended_and_the_next_is_asked_for() -> None:
    async with running() as rig:
        partition = rig.partition(0)
        rig.leaders.tell(0, data(0, records=stored(0, 5, b"a", b"b"), high_watermark=1))
        rig.leaders.tell(0, data(0, records=stored(2, 5, b"c"), high_watermark=2))
        await wait_all_tasks_blocked()
        assert (partition.log.end.value, partition.high_watermark.value) == (3, 2)
        rig.leaders.tell(0, data(0, high_watermark=3))  # no records: nothing to be named
        await wait_all_tasks_blocked()
        assert partition.high_watermark.value == 3
        named = [
            [
                (p.fetch_offset, p.last_fetched_epoch, p.current_leader_epoch)
                for topic in request.topics
                for p in topic.partitions
            ]
            for _, _, request in rig.leaders.requests
        ]
        assert named == [[(0, -1, 5)], [(2, 5, 5)], [(3, 5, 5)], []]
        assert [request.session_epoch for _, _, request in rig.leaders.requests] == [0, 1, 2, 3]


async def test_many_batches_are_appended_in_turns() -> None:
    count = 1000
    async with running() as rig:
        partition = rig.partition(0)
        records = b"".join(stored(n, 5, b"v") for n in range(count))
        turns = []

        async def watch() -> None:
            while partition.log.end.value < count:
                turns.append(partition.log.end.value)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            rig.leaders.tell(0, data(0, records=records, high_watermark=count))
        steps = [after - before for before, after in zip(turns, turns[1:], strict=False)]
        assert max(steps) <= 2 * PIECE_BATCHES  # two turns, when chance has it
        assert len(rig.leaders.requests) <= 2


async def test_R4_a_history_that_parts_is_cut_and_settled_before_anything_else() -> None:
    async with running() as rig:
        rig.leaders.tell(0, data(0, diverging_epoch=EpochEndOffset(epoch=3, end_offset=1)))
        rig.leaders.tell(0, lambda wanted: data(0, records=stored(wanted.fetch_offset, 5, b"new"), high_watermark=2))
        partition = rig.partition(0, stored(0, 3, b"a"), stored(1, 4, b"b"), stored(2, 4, b"c"))
        await wait_all_tasks_blocked()
        assert partition.log.end.value == 2
        assert partition.log.epochs.entries == [(3, 0), (5, 1)]
        first, *_, last = [p for _, _, r in rig.leaders.requests for topic in r.topics for p in topic.partitions]
        assert (first.fetch_offset, first.last_fetched_epoch) == (3, 4)
        assert (last.fetch_offset, last.last_fetched_epoch) == (2, 5)


async def test_who_lags_behind_the_leaders_log_start_starts_over_there() -> None:
    async with running() as rig:
        rig.leaders.tell(0, data(0, error_code=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=100))
        rig.leaders.tell(0, data(0, records=stored(100, 5, b"new"), high_watermark=101, log_start_offset=100))
        partition = rig.partition(0, stored(0, 3, b"a"))
        await wait_all_tasks_blocked()
        assert (partition.log.start_offset, partition.log.end.value) == (100, 101)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.INCONSISTENT_TOPIC_ID, ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.UNKNOWN_SERVER_ERROR,
    ],
)  # fmt: skip
async def test_an_error_delays_its_partition_alone(code: ErrorCode, autojump_clock: MockClock) -> None:
    async with running() as rig:
        bad, good = rig.partition(0), rig.partition(1)
        rig.leaders.tell(0, data(0, error_code=code))
        await trio.sleep(0.01)
        rig.leaders.tell(1, data(1, records=stored(0, 5, b"v"), high_watermark=1))
        await trio.sleep(0.01)
        assert good.log.end.value == 1
        rig.leaders.tell(0, data(0, records=stored(0, 5, b"v"), high_watermark=1))
        await trio.sleep(0.02)
        assert bad.log.end.value == 0
        await trio.sleep(0.05)
        assert bad.log.end.value == 1


async def test_B4_a_damaged_batch_stops_its_partition_alone_and_is_asked_for_again(autojump_clock: MockClock) -> None:
    async with running() as rig:
        bad, good = rig.partition(0), rig.partition(1)
        damaged = bytearray(stored(0, 5, b"value"))
        damaged[-1] ^= 1
        rig.leaders.tell(0, data(0, records=bytes(damaged), high_watermark=1))
        rig.leaders.tell(1, data(1, records=stored(0, 5, b"v"), high_watermark=1))
        await trio.sleep(0.01)
        assert (bad.log.end.value, good.log.end.value) == (0, 1)
        rig.leaders.tell(0, data(0, records=stored(0, 5, b"value"), high_watermark=1))
        await trio.sleep(0.1)
        assert bad.log.end.value == 1


async def test_F10_a_full_disk_pauses_a_follower_until_there_is_room(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with running(machine) as rig:
        partition = rig.partition(0, stored(0, 3, b"a"))
        machine.disk.volume.capacity = machine.disk.used
        for _ in range(12):
            rig.leaders.tell(0, lambda wanted: data(0, records=stored(wanted.fetch_offset, 5, b"v"), high_watermark=9))
        await trio.sleep(3)
        assert partition.log.end.value == 1
        assert rig.offline == []
        assert 4 < len(rig.leaders.requests) < 20
        machine.disk.volume.capacity = machine.disk.used + 100_000
        await trio.sleep(2)
        assert partition.log.end.value > 1


async def test_L2_a_log_that_failed_is_given_up_and_the_others_go_on(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with running(machine) as rig:
        partition, good = rig.partition(0, stored(0, 3, b"a")), rig.partition(1)
        machine.disk.fail("append", "t-0/*.log")
        rig.leaders.tell(0, data(0, records=stored(1, 5, b"v"), high_watermark=1))
        rig.leaders.tell(1, data(1, records=stored(0, 5, b"v"), high_watermark=1))
        await trio.sleep(0.1)
        assert rig.offline == [0]
        assert partition.log.offline is not None
        assert good.log.end.value == 1


async def test_a_leader_that_cannot_be_reached_is_asked_again_for_everything(autojump_clock: MockClock) -> None:
    async with running() as rig:
        rig.leaders.failure = KafkaError(ErrorCode.NETWORK_EXCEPTION)
        partition = rig.partition(0)
        await trio.sleep(5)
        assert 5 <= len(rig.leaders.requests) <= 12
        rig.leaders.failure = None
        rig.leaders.tell(0, data(0, records=stored(0, 5, b"v"), high_watermark=1))
        await trio.sleep(1.1)
        assert partition.log.end.value == 1


async def test_a_partition_that_has_another_leader_is_asked_of_that_one() -> None:
    async with running() as rig:
        partition = rig.partition(0)
        await wait_all_tasks_blocked()
        rig.follow(partition, 6, OTHER)
        rig.leaders.tell(0, data(0, records=stored(0, 6, b"v"), high_watermark=1))
        await wait_all_tasks_blocked()
        assert partition.log.end.value == 1
        assert {broker for _, broker, _ in rig.leaders.requests} == {LEADER, OTHER}


async def test_R11_what_was_asked_of_an_earlier_leader_is_not_appended() -> None:
    async with running() as rig:
        partition = rig.partition(0)
        await wait_all_tasks_blocked()

        def deposed(wanted: FetchPartition) -> FetchPartitionData:
            partition.follow(PartitionImage(ID, 0, (1, 2, 3), (1, 2, 3), NO_LEADER, 6, 6, mod_revision=6))
            rig.fetchers.leave(partition)
            return data(0, records=stored(0, 5, b"late"), high_watermark=1)

        rig.leaders.tell(0, deposed)
        await wait_all_tasks_blocked()
        assert partition.log.end.value == 0


async def test_nothing_is_fetched_once_all_is_left() -> None:
    async with running() as rig:
        rig.partition(0)
        await wait_all_tasks_blocked()
        rig.fetchers.leave_all()
        count = len(rig.leaders.requests)
        rig.leaders.tell(0, data(0, records=stored(0, 5, b"v"), high_watermark=1))
        await wait_all_tasks_blocked()
        assert len(rig.leaders.requests) == count


async def test_a_throttle_holds_back_who_lags_and_nobody_else(autojump_clock: MockClock) -> None:
    throttled = TopicConfig(follower_replication_throttled_replicas=f"0:{NODE},1:{OTHER}")
    async with running() as rig:
        rig.rate = 1000
        lagging, other = rig.partition(0, config=throttled), rig.partition(1, config=throttled)

        def lags(wanted: FetchPartition) -> FetchPartitionData:
            records = stored(wanted.fetch_offset, 5, b"x" * 2000)
            return data(wanted.partition, records=records, high_watermark=100)

        for index in (0, 1):
            for _ in range(20):
                rig.leaders.tell(index, lags)
        await trio.sleep(9)
        assert lagging.log.end.value == 5  # 2 KB each, 1 KB a second
        assert other.log.end.value == 20


async def test_a_throttle_takes_nobody_out_of_sync(autojump_clock: MockClock) -> None:
    throttled = TopicConfig(follower_replication_throttled_replicas="*")
    async with running() as rig:
        rig.rate = 1
        partition = rig.partition(0, config=throttled)
        for _ in range(10):
            rig.leaders.tell(
                0, lambda wanted: data(0, records=stored(wanted.fetch_offset, 5, b"x" * 2000), high_watermark=0)
            )
        await trio.sleep(1)
        assert partition.log.end.value == 10


async def test_what_must_be_flushed_is_flushed_before_a_follower_says_that_it_has_it() -> None:
    flushing = TopicConfig(flush_messages=1)
    async with running() as rig:
        partition = rig.partition(0, config=flushing)
        flushed: list[tuple[int, int]] = []

        def lags(wanted: FetchPartition) -> FetchPartitionData:
            flushed.append((wanted.fetch_offset, partition.log.flushed.value))
            return data(0, records=stored(wanted.fetch_offset, 5, b"v"), high_watermark=9)

        for _ in range(3):
            rig.leaders.tell(0, lags)
        await wait_all_tasks_blocked()
        assert partition.log.end.value == 3
        assert flushed == [(0, 0), (1, 1), (2, 2)]
