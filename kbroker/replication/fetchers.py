"""Fetchers: what this broker follows, fetched from its leaders. One task and one session a leader broker.

    follow ──▶ prepared: a truncation is finished first ──▶ wanted ── asked ──▶ the answer, piece by piece
                  ▲                                           ▲                   │ append, truncate, start over,
                  └──────── cut, or to be flushed ────────────┴───────────────────┘ or wait a while

A partition that goes wrong waits by itself, longer each time, up to replica.fetch.backoff.ms: the leader does not know
of its role yet, a batch is damaged (B4), the disk is full (F10). One whose log is offline is given up. A leader that
cannot be reached is asked again after a while, for everything. What a role has become is looked at again after each
pause, so that nothing is appended for a leader that has a successor. (Kafka: ReplicaFetcherThread.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import CoroutineType
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import FetchRequest, FetchResponse
from kbroker.cluster.peers.brokers import Brokers
from kbroker.config import BrokerConfig
from kbroker.log.directory import LogDirectory
from kbroker.log.errors import LogClosed, LogOffline
from kbroker.replication.fetcher import (
    VERSION,
    Append,
    Fetcher,
    Key,
    Limits,
    Position,
    StartOver,
    Step,
    Truncate,
    delay_s,
    pieces,
)
from kbroker.replication.partition import Partition
from kbroker.replication.throttles import Throttle, is_throttled

PREPARING_MAX = 8  # truncations finished and logs flushed at once
SMALL_A_TURN = 16  # answers about partitions with few records or none, between two checkpoints
SMALL_BYTES = 4096

log = logging.getLogger(__name__)


class Leader:
    """A leader broker, as its followers here see it."""

    __slots__ = ("id", "session", "partitions", "news", "failures", "scope")

    def __init__(self, leader_id: int, session: Fetcher) -> None:
        self.id = leader_id
        self.session = session
        self.partitions: dict[Key, Partition] = {}
        self.news = trio.Event()  # rings when there is something to ask that was not
        self.failures = 0  # to be reached, one after the other
        self.scope = trio.CancelScope()


class Fetchers:
    """Made once; `run` once. Its owner tells it of each role as often as it likes."""

    def __init__(
        self,
        node_id: int,
        logs: LogDirectory,
        brokers: Brokers,
        config: Callable[[], BrokerConfig],
        broker_epoch: Callable[[], int],
        throttle: Throttle,
        on_offline: Callable[[Partition, KafkaError], None],
    ) -> None:
        """
        Args:
            logs: of the partitions.
            brokers: to be asked.
            config: of this broker, as it is now.
            broker_epoch: of its registration.
            throttle: for what followers fetch.
            on_offline: told when the log of a partition has failed.
        """
        self._node_id = node_id
        self._env = logs.env
        self._troubles = logs.troubles
        self._brokers = brokers
        self._config = config
        self._broker_epoch = broker_epoch
        self._throttle = throttle
        self._on_offline = on_offline
        self._leaders: dict[int, Leader] = {}
        self._leader_of: dict[Partition, tuple[Leader, int]] = {}  # and in which epoch
        self._preparing: set[Partition] = set()
        self._places = trio.CapacityLimiter(PREPARING_MAX)
        self._nursery: trio.Nursery
        self._is_over = False  # the broker goes down

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._is_over = True

    def follow(self, partition: Partition) -> None:
        """Fetch a partition from its leader, from now on in its leader epoch; nothing new if that is done already."""
        leader, epoch = self._leader_of.get(partition, (None, -1))
        is_known = leader is not None and leader.id == partition.leader_id and epoch == partition.leader_epoch
        if is_known or self._is_over:  # logs may still come from a worker
            return
        self._take_out(partition)  # the session may hold an earlier epoch's delay against it
        present = self._leaders.get(partition.leader_id) or self._begin(partition.leader_id)
        self._leader_of[partition] = present, partition.leader_epoch
        present.partitions[key_of(partition)] = partition
        self._want(partition, present)
        if leader is not None and not leader.partitions:
            self._end(leader)

    def leave(self, partition: Partition) -> None:
        """Fetch a partition no more; one that is not fetched is fine."""
        leader = self._take_out(partition)
        if leader is not None and not leader.partitions:
            self._end(leader)

    def _take_out(self, partition: Partition) -> Leader | None:
        leader, _ = self._leader_of.pop(partition, (None, -1))
        if leader is not None:
            del leader.partitions[key_of(partition)]
            leader.session.leave(key_of(partition))
            leader.news.set()
        return leader

    def leave_all(self) -> None:
        """Fetch nothing: this broker is not registered any more."""
        for leader in tuple(self._leaders.values()):
            self._end(leader)
        self._leader_of.clear()

    def _begin(self, leader_id: int) -> Leader:
        leader = self._leaders[leader_id] = Leader(leader_id, Fetcher(self._node_id, self._broker_epoch()))
        self._nursery.start_soon(self._fetch, leader)
        return leader

    def _end(self, leader: Leader) -> None:
        del self._leaders[leader.id]
        leader.scope.cancel()

    def _want(self, partition: Partition, leader: Leader) -> None:
        """Ask for a partition next, from its log's end on; when its log is as it has to be, if it is not."""
        if self._is_unready(partition):
            leader.session.leave(key_of(partition))
            if partition not in self._preparing:
                self._preparing.add(partition)
                self._nursery.start_soon(self._prepare, partition)
            return
        leader.session.follow(key_of(partition), position_of(partition))
        leader.news.set()

    def _is_unready(self, partition: Partition) -> bool:
        """Whether a truncation is to be finished, or a flush is due: what a follower asks for tells what it has."""
        log = partition.log
        return not log.is_settled or (log.flushes and log.needs_flush(self._env.clock.data_ms()))

    async def _prepare(self, partition: Partition) -> None:
        """Have a log ready; whatever the partition's role has become meanwhile."""
        try:
            async with self._places:
                await partition.log.settle(self._env.offload)
                if self._is_unready(partition):
                    await partition.log.flush(self._env.offload)
        except LogOffline as error:
            self._give_up(partition, error)
        except KafkaError as error:  # the disk is full
            self._troubles.tell(partition.topic, partition.index, error)
            await self._env.clock.sleep(self._delay_s_max())
        finally:
            self._preparing.discard(partition)
        leader, _ = self._leader_of.get(partition, (None, -1))
        if leader is not None:
            self._want(partition, leader)

    # -- one leader ---------------------------------------------------------------------------------------------------

    async def _fetch(self, leader: Leader) -> None:
        """Ask a leader again and again, until nothing is followed there."""
        with leader.scope:
            while True:
                leader.news = trio.Event()
                now_s = self._env.clock.liveness()
                request = leader.session.request(now_s, self._limits())
                if request is None:
                    await self._wait(leader, leader.session.due_s - now_s)
                    continue
                try:
                    response = await self._ask(leader, request)
                    steps = leader.session.take(response)
                except KafkaError as error:
                    await self._pause(leader, error)
                    continue
                leader.failures = 0
                await self._perform(leader, steps)

    async def _ask(self, leader: Leader, request: FetchRequest) -> FetchResponse:
        patience_ms = request.max_wait_ms + self._config().get_int("replica.socket.timeout.ms")
        answer: Any = self._brokers.ask(leader.id, request, VERSION, patience_ms / 1000)
        while isinstance(answer, CoroutineType):
            answer = await answer
        response: FetchResponse = answer
        return response

    def _limits(self) -> Limits:
        config = self._config()
        return Limits(
            config.get_int("replica.fetch.wait.max.ms"),
            config.get_int("replica.fetch.min.bytes"),
            config.get_int("replica.fetch.response.max.bytes"),
            config.get_int("replica.fetch.max.bytes"),
        )

    def _delay_s_max(self) -> float:
        return self._config().get_int("replica.fetch.backoff.ms") / 1000

    async def _wait(self, leader: Leader, seconds: float) -> None:
        """Wait for news, no longer than until a partition is due again."""
        with trio.move_on_after(seconds):
            await leader.news.wait()

    async def _pause(self, leader: Leader, error: KafkaError) -> None:
        """The leader did not answer, or its session is over: ask for everything, after a while."""
        level = logging.DEBUG if leader.failures else logging.INFO
        log.log(level, "broker %d cannot be followed for now: %s", leader.id, error.message)
        leader.session.start_over()
        leader.failures += 1
        await self._env.clock.sleep(delay_s(leader.failures, self._delay_s_max()))

    # -- an answer ----------------------------------------------------------------------------------------------------

    async def _perform(self, leader: Leader, steps: list[tuple[Key, Step]]) -> None:
        """Carry out what an answer means, in turns."""
        small = 0
        for key, step in steps:
            position, partition = leader.session.position(key), leader.partitions.get(key)
            if position is None or partition is None:
                continue  # it was given up meanwhile
            if isinstance(step, Append) and len(step.records) > SMALL_BYTES:
                await self._append_all(leader, key, partition, position, step)
                continue
            self._perform_one(leader, key, partition, position, step)
            small += 1
            if small % SMALL_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _append_all(
        self, leader: Leader, key: Key, partition: Partition, position: Position, step: Append
    ) -> None:
        """Append many records, piece by piece, as long as the partition is followed as it was when they were asked."""
        for piece in pieces(step.records):
            if leader.session.position(key) is not position:
                return
            self._perform_one(leader, key, partition, position, step._replace(records=piece), more=True)
            await trio.lowlevel.checkpoint()
        if leader.session.position(key) is position:
            self._moved(leader, key, partition, step)

    def _moved(self, leader: Leader, key: Key, partition: Partition, step: Append) -> None:
        """Everything of an answer is appended: the next is asked for; not before it is flushed, where that is due, and
        not yet, where a throttle holds it back (KIP-73).
        """
        if partition.log.flushes and self._is_unready(partition):
            self._want(partition, leader)
            return
        position = position_of(partition)
        leader.session.moved(key, position)
        if self._throttle.is_set:
            replicas = partition.log.config.follower_replication_throttled_replicas
            if is_throttled(replicas, partition.index, self._node_id):
                self._throttle.record(len(step.records))
                if position.offset < step.high_watermark and (wait_s := self._throttle.wait_s()):
                    leader.session.hold(key, self._env.clock.liveness() + wait_s)

    def _perform_one(
        self, leader: Leader, key: Key, partition: Partition, position: Position, step: Step, *, more: bool = False
    ) -> None:
        """more: this is a piece; who appends it says when the partition has moved on."""
        epoch = position.leader_epoch
        try:
            if isinstance(step, Append):
                now_ms = self._env.clock.data_ms()
                partition.append_from_leader(step.records, epoch, step.high_watermark, step.log_start, now_ms)
                if not more and (step.records or partition.log.start_offset != position.log_start):
                    self._moved(leader, key, partition, step)
            elif isinstance(step, Truncate):
                partition.diverged(epoch, step.epoch, step.end_offset)
                self._want(partition, leader)
            elif isinstance(step, StartOver):
                partition.start_over(epoch, step.offset)
                self._want(partition, leader)
            else:
                raise KafkaError(step.code)
        except LogOffline as error:
            self._give_up(partition, error)
        except KafkaError as error:
            self._delay(leader, key, partition, error)

    def _delay(self, leader: Leader, key: Key, partition: Partition, error: KafkaError) -> None:
        """Something is wrong with this partition alone: it waits a while."""
        leader.session.follow(key, position_of(partition))  # a part of the answer may be in the log
        times = leader.session.delay(key, self._env.clock.liveness(), self._delay_s_max())
        if error.code is ErrorCode.KAFKA_STORAGE_ERROR and error.own_message:
            self._troubles.tell(partition.topic, partition.index, error)
            return
        text = "%s-%d cannot be fetched from broker %d for now: %s"
        is_bad = error.code is ErrorCode.CORRUPT_MESSAGE and times == 1  # what it is all the time is said once
        level = logging.ERROR if is_bad else logging.DEBUG
        log.log(level, text, partition.topic, partition.index, leader.id, error.message)

    def _give_up(self, partition: Partition, error: KafkaError) -> None:
        """Its log is offline: nobody follows with it until it is opened again."""
        self.leave(partition)
        if not isinstance(error, LogClosed):
            self._on_offline(partition, error)


def key_of(partition: Partition) -> Key:
    """A partition as sessions name it."""
    return partition.topic_id, partition.index


def position_of(partition: Partition) -> Position:
    """Where this follower is."""
    offset, last_fetched_epoch = partition.fetch_position()
    return Position(offset, last_fetched_epoch, partition.leader_epoch, partition.log.start_offset)
