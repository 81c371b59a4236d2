"""Coordinator: the groups of this broker. The shell around the pure cores: it loads, performs, wakes, keeps house.

    __consumer_offsets-17 led here in epoch 5 ──lead──▶ Shard, loading ──replay──▶ Shard, active ──┐
                          resigned, or led in epoch 6 ──────────────────────────▶ closed ◀─────────┘

A group belongs to the partition that its name hashes to, and whoever leads that partition coordinates it. What a shard
is in is decided by the leader epoch alone: an epoch that is led already changes nothing, a later one starts over from
the log (G3). Requests are answered COORDINATOR_LOAD_IN_PROGRESS until the replay has reached the log's end and all of
that is committed. A load that fails is tried again for as long as the partition is led.

The topic is made when somebody first asks for a coordinator.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kbroker.cluster.image import NO_LEADER, TopicImage
from kbroker.cluster.placement import NewTopic
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.coordinators.alarms import Alarms
from kbroker.coordinators.consumer_group import ConsumerGroup, ConsumerGroupLimits, Topics
from kbroker.coordinators.effects import Effect, GroupSnapshot, StateRecord
from kbroker.coordinators.group import Group
from kbroker.coordinators.offsets import Change
from kbroker.coordinators.replay import TURN, replay
from kbroker.coordinators.rewrite import rewrite
from kbroker.coordinators.settings import Settings, settings_of
from kbroker.coordinators.shard import APPEND_ERRORS, Shard, Ticket
from kbroker.env import Env
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition

OFFSETS_TOPIC = "__consumer_offsets"
GROUP_ID_COMMON_MAX = 256  # the hash of a longer name is not remembered
CREATE_WAIT_S = 10.0
RETRY_S = 1.0  # after a load failed
REWRITE_RETRY_S = 30.0
ALARM_TICK_S = 0.5  # how late an alarm may be when liveness jumps ahead

Refuse = Callable[[ErrorCode], Any]
log = logging.getLogger("kbroker.groups")


def partition_of(group_id: str, partitions: int) -> int:
    """The partition of `__consumer_offsets` that a group belongs to: Utils.abs(String.hashCode) % partitions."""
    return (_hash if len(group_id) > GROUP_ID_COMMON_MAX else _remembered_hash)(group_id) % partitions


def _hash(group_id: str) -> int:
    code = 0
    units = group_id.encode("utf-16-be", "surrogatepass")
    for at in range(0, len(units), 2):
        code = (31 * code + (units[at] << 8 | units[at + 1])) & 0xFFFFFFFF
    if code & 0x80000000:
        return 0 if code == 0x80000000 else 0x100000000 - code
    return code


_remembered_hash = lru_cache(maxsize=8192)(_hash)


class Coordinator:
    """All groups whose partition is led here. Made once; `run` it before partitions are led."""

    def __init__(
        self, env: Env, registration: Registration, logs: LogDirectory, config: Callable[[], BrokerConfig]
    ) -> None:
        """config: the broker's configs as they are now."""
        self.env = env
        self.registration = registration
        self.logs = logs
        self.config = config
        self.alarms = Alarms()
        self._shards: dict[int, Shard] = {}
        self._nursery: trio.Nursery | None = None
        self._creating = trio.Lock()
        self._settings: Settings | None = None
        self._topics: tuple[object, Topics] = (None, {})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake groups, expire offsets, load and rewrite; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._ring_alarms)
                nursery.start_soon(self._keep_house)
                task_status.started()
        finally:
            self._nursery = None

    def _start(self, work: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is not None:  # else the broker is going down, and nothing new begins
            self._nursery.start_soon(work, *args)

    @property
    def settings(self) -> Settings:
        """What the configs say about groups."""
        config = self.config()
        if self._settings is None or self._settings.config is not config:
            self._settings = settings_of(config)
        return self._settings

    # -- who coordinates ----------------------------------------------------------------------------------------------

    async def ensure_topic(self) -> None:
        """Have `__consumer_offsets`. Raises KafkaError COORDINATOR_NOT_AVAILABLE when that cannot be had now."""
        with trio.move_on_after(CREATE_WAIT_S):
            async with self._creating:
                if OFFSETS_TOPIC in self.registration.image.topics:
                    return
                result = (await self.registration.admin.create_topics([self.offsets_topic()]))[0]
                if isinstance(result, TopicImage) or result.code == ErrorCode.TOPIC_ALREADY_EXISTS:
                    return
                log.error("%s cannot be created: %s", OFFSETS_TOPIC, result.message)
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)

    def offsets_topic(self) -> NewTopic:
        """How `__consumer_offsets` is made. With fewer brokers than replicas asked for, it has as many as there are."""
        config = self.config()
        factor = min(config.get_int("offsets.topic.replication.factor"), max(1, len(self.registration.image.brokers)))
        return NewTopic(
            OFFSETS_TOPIC,
            config.get_int("offsets.topic.num.partitions"),
            factor,
            configs={
                "cleanup.policy": "compact",
                "compression.type": "producer",
                "segment.bytes": str(config.get_int("offsets.topic.segment.bytes")),
            },
        )

    def leader_of(self, group_id: str) -> int:
        """The broker that coordinates a group. Raises KafkaError COORDINATOR_NOT_AVAILABLE."""
        topic = self.registration.image.topics.get(OFFSETS_TOPIC)
        leader = NO_LEADER
        if topic is not None:
            leader = topic.partitions[partition_of(group_id, len(topic.partitions))].leader
        if leader == NO_LEADER:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        return leader

    def shard(self, group_id: str) -> Shard:
        """The active shard a group belongs to.

        Raises KafkaError: COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS.
        """
        topic = self.registration.image.topics.get(OFFSETS_TOPIC)
        if topic is None:
            if not self._creating.locked():
                self._start(self._create_quietly)
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        index = partition_of(group_id, len(topic.partitions))
        found = self._shards.get(index)
        if found is not None:
            if found.is_active:
                return found
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        leader = topic.partitions[index].leader
        if leader == self.registration.broker.id:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE if leader == NO_LEADER else ErrorCode.NOT_COORDINATOR)

    async def _create_quietly(self) -> None:
        try:
            await self.ensure_topic()
        except KafkaError:
            pass  # the next request will try again

    @property
    def shards(self) -> Collection[Shard]:
        """Of all partitions led here, loading ones too."""
        return self._shards.values()

    # -- leading and resigning ----------------------------------------------------------------------------------------

    def lead(self, partition: Partition) -> None:
        """A partition of the topic is led here in its leader epoch. Idempotent; older epochs change nothing (G3)."""
        present = self._shards.get(partition.index)
        if present is not None:
            if present.partition is partition and present.epoch >= partition.leader_epoch:
                return
            present.close(ErrorCode.NOT_COORDINATOR)
        self._begin(partition)

    def _begin(self, partition: Partition) -> None:
        shard = Shard(partition, self.env.clock, self._on_waiting)
        self._shards[shard.index] = shard
        if partition.log.start_offset == partition.log.end.value:
            shard.is_active = True  # there is nothing to load
        else:
            self._start(self._load, shard)

    def resign(self, index: int) -> None:
        """A partition is not led here (any more)."""
        present = self._shards.pop(index, None)
        if present is not None:
            present.close(ErrorCode.NOT_COORDINATOR)

    def on_topics_changed(self, deleted: Iterable[str] = ()) -> None:
        """There are other topics, or more partitions: consumer groups learn of it, offsets of deleted topics go."""
        gone = set(deleted)
        for shard in self._active():
            if gone:
                self._forget_topics(shard, gone)
            self._tell_topics(shard)

    def _tell_topics(self, shard: Shard) -> None:
        for group_id, group in list(shard.groups.items()):
            if isinstance(group, ConsumerGroup) and shard.closed is None:
                now, now_ms = self.env.clock.liveness(), self.env.clock.data_ms()
                try:
                    self.perform(shard, group_id, group.on_topics_changed(self.topics, now, now_ms))
                except KafkaError:
                    pass  # the shard starts over

    def _active(self) -> list[Shard]:
        return [shard for shard in self._shards.values() if shard.is_active]

    def _forget_topics(self, shard: Shard, names: Iterable[str]) -> None:
        topics = self.registration.image.topics
        changes = shard.offsets.of_topics({name: topics[name].id if name in topics else None for name in names})
        if changes:
            self._forget(shard, changes)

    def _forget(self, shard: Shard, changes: Sequence[Change]) -> None:
        """Remove offsets, as housekeeping: what fails is tried again when it comes round."""
        try:
            shard.forget_offsets(changes)
        except KafkaError as error:
            log.warning("%s-%d: offsets were not removed: %s", OFFSETS_TOPIC, shard.index, error)
        for group_id in {change[0] for change in changes}:
            shard.drop_if_idle(group_id)
        self._note_growth(shard)

    async def _load(self, shard: Shard) -> None:
        """Bring a shard up, however often it takes."""
        while shard.closed is None:
            try:
                await self._load_once(shard)
                return
            except (KafkaError, ProtocolError, OSError) as error:
                if shard.closed is None:
                    log.error("%s-%d cannot be loaded, and will be tried again: %s", OFFSETS_TOPIC, shard.index, error)
            except Exception:
                log.exception("%s-%d cannot be loaded, and will be tried again", OFFSETS_TOPIC, shard.index)
            await self.env.clock.sleep(RETRY_S)

    async def _load_once(self, shard: Shard) -> None:
        partition, began = shard.partition, trio.current_time()
        end = partition.log.end.value
        found = await replay(partition.log, end, self.env.offload)
        topics = self.topics
        for done, _ in enumerate(shard.restore(found.live, self), start=1):
            if done % TURN == 0:
                await trio.lowlevel.checkpoint()
        shard.logged = found.records
        if partition.high_watermark.value < end:
            await partition.high_watermark.wait_past(end - 1)
        if shard.closed is not None:
            return
        shard.is_active = True
        for group_id, group in shard.groups.items():
            self.alarms.note(shard, group_id, group.deadline)
        if self.topics is not topics:
            self._tell_topics(shard)
        self._forget_topics(shard, shard.offsets.topic_names())
        self._note_growth(shard)
        log.debug(
            "%s-%d: %d groups and %d offsets loaded from %d records in %.0f ms",
            OFFSETS_TOPIC, shard.index, len(shard.groups), shard.offsets.count, found.records,
            (trio.current_time() - began) * 1000,
        )  # fmt: skip

    def restart(self, shard: Shard, code: ErrorCode) -> None:
        """Memory is ahead of the log: answer who waits, and load again if the partition is still led."""
        shard.close(code)
        if self._shards.get(shard.index) is shard:
            del self._shards[shard.index]
            if shard.partition.leading:
                self._begin(shard.partition)

    # -- requests -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        group_id: str,
        event: Callable[[Shard, Ticket], Iterable[Effect]],
        refuse: Refuse,
        wait_s: float,
        *,
        late: ErrorCode = ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ) -> Any | Coroutine[Any, Any, Any]:
        """Give a group's core an event, and perform what it returns.

        Args:
            event: called with the shard and the request's ticket; may raise KafkaError before it changes anything.
            refuse: the answer that stands for an error.
            wait_s: how long an answer may take.
            late: the error when it took longer.

        Returns the answer, or a coroutine of it when it has to wait.
        """
        try:
            shard = self.shard(group_id)
            ticket = Ticket(refuse)
            self.perform(shard, group_id, event(shard, ticket))
        except KafkaError as error:
            return refuse(APPEND_ERRORS.get(error.code, error.code))
        if ticket.response is not None:
            return ticket.response
        return _answer(shard, ticket, wait_s, late)

    def perform(self, shard: Shard, group_id: str, effects: Iterable[Effect]) -> None:
        """Perform a core's effects and see to its deadline. Raises KafkaError with what a client is told."""
        try:
            shard.perform(group_id, effects)
        except KafkaError as error:
            code = APPEND_ERRORS.get(error.code, ErrorCode.UNKNOWN_SERVER_ERROR)
            log.error("%s-%d: group %s was not stored: %s", OFFSETS_TOPIC, shard.index, group_id, error)
            self.restart(shard, code)
            raise KafkaError(code) from error
        group = shard.groups.get(group_id)
        if isinstance(group, ConsumerGroup) and group.replaced_by is not None:
            now = self.env.clock.liveness()
            classic = shard.groups[group_id] = Group.restore(group.replaced_by, self.settings.classic, now=now)
            classic.timeline = group.timeline  # as an upgrade takes it along
            self.perform(shard, group_id, classic.rebalance("downgrade", now, self.env.clock.data_ms()))
            return
        self.note(shard, group_id)

    def note(self, shard: Shard, group_id: str) -> None:
        """Something happened to a group: set its alarm, forget it if nothing is left, see how long the log is."""
        group = shard.groups.get(group_id)
        if group is not None:
            if group.forgettable:
                shard.drop_if_idle(group_id)
            else:
                self.alarms.note(shard, group_id, group.deadline)
        self._note_growth(shard)

    def new_group(self, group_id: str) -> Group:
        """A classic group that nobody has heard of."""
        return Group(group_id, self.settings.classic, now_ms=self.env.clock.data_ms())

    def restored_group(self, group_id: str, stored: Sequence[StateRecord]) -> Group | ConsumerGroup:
        """A group as it was stored, of the type that its records are of."""
        now = self.env.clock.liveness()
        for state in stored:
            if isinstance(state, GroupSnapshot):
                return Group.restore(state, self.settings.classic, now=now)
        return ConsumerGroup.restore(group_id, stored, self.consumer_limits(group_id), self.topics, now=now)

    def consumer_limits(self, group_id: str) -> ConsumerGroupLimits:
        """What the configs say about a group of the consumer protocol, its own included."""
        return self.settings.consumer_of(self.registration.image.group_configs.get(group_id, {}))

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        """The configs of these groups are others; None: the broker's."""
        wanted = None if group_ids is None else set(group_ids)
        for shard in self._active():
            for group_id, group in shard.groups.items():
                if isinstance(group, ConsumerGroup) and (wanted is None or group_id in wanted):
                    group.limits = self.consumer_limits(group_id)

    @property
    def topics(self) -> Topics:
        """All topics of the cluster, as consumer groups see them; the same object while they are the same."""
        topics = self.registration.image.topics
        if self._topics[0] is not topics:
            view = {name: (topic.id, len(topic.partitions)) for name, topic in topics.items()}
            self._topics = topics, self._topics[1] if view == self._topics[1] else view
        return self._topics[1]

    def token(self) -> str:
        """A random UUID's text."""
        text = self.env.rng.token(16).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    # -- duties -------------------------------------------------------------------------------------------------------

    def _on_waiting(self, shard: Shard) -> None:
        self._start(self._settle, shard)

    async def _settle(self, shard: Shard) -> None:
        try:
            await shard.wait_committed()
        except KafkaError:
            self.restart(shard, ErrorCode.NOT_COORDINATOR)

    async def _ring_alarms(self) -> None:
        clock, alarms = self.env.clock, self.alarms
        while True:
            alarms.bell = trio.Event()
            rung = 0
            while (due := alarms.pop_due(clock.liveness())) is not None:
                self._ring(*due)
                rung += 1
                if rung % 50 == 0:
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if alarms.next is None:
                await alarms.bell.wait()
            else:
                with trio.move_on_after(min(max(alarms.next - clock.liveness(), 0.0), ALARM_TICK_S)):
                    await alarms.bell.wait()

    def _ring(self, shard: Shard, group_id: str) -> None:
        """Wake a group. Whatever goes wrong with it stays with its shard."""
        group, now = shard.groups.get(group_id), self.env.clock.liveness()
        if group is None or group.deadline is None:
            return
        try:
            effects: Iterable[Effect] = ()
            if group.deadline <= now:
                effects = group.on_alarm(now, self.env.clock.data_ms())
            self.perform(shard, group_id, effects)
        except KafkaError:
            pass  # the shard starts over
        except Exception:
            log.exception("%s-%d: group %s failed, its partition is loaded again", OFFSETS_TOPIC, shard.index, group_id)
            self.restart(shard, ErrorCode.COORDINATOR_NOT_AVAILABLE)

    async def _keep_house(self) -> None:
        while True:
            await self.env.clock.sleep(self.config().get_int("offsets.retention.check.interval.ms") / 1000)
            for shard in self._active():
                try:
                    await self.expire(shard)
                except Exception:
                    log.exception("%s-%d: old offsets were not removed", OFFSETS_TOPIC, shard.index)

    async def expire(self, shard: Shard) -> None:
        """Forget what is too old in groups without members (G5), then the groups that have nothing left."""
        retention_ms = self.config().get_int("offsets.retention.minutes") * 60_000
        for done, group_id in enumerate(list(shard.groups), start=1):
            if done % TURN == 0:
                await trio.lowlevel.checkpoint()
            group = shard.groups.get(group_id)
            since_ms = None if group is None or shard.closed is not None else group.empty_since_ms
            if group is None or since_ms is None:
                continue
            now_ms = self.env.clock.data_ms()
            changes = shard.offsets.expired(group_id, now_ms, retention_ms, since_ms)
            if changes:
                self._forget(shard, changes)
            if not shard.offsets.is_known(group_id):
                self._forget_group(shard, group_id, now_ms)

    def _forget_group(self, shard: Shard, group_id: str, now_ms: int) -> None:
        group = shard.groups.get(group_id)
        if group is None:
            return
        try:
            self.perform(shard, group_id, group.delete(now_ms))
            shard.groups.pop(group_id, None)
        except KafkaError:
            pass  # somebody is just joining; or the shard starts over

    def _note_growth(self, shard: Shard) -> None:
        if shard.is_active and shard.closed is None and not shard.is_rewriting and shard.is_bloated:
            shard.is_rewriting = True
            self._start(self._rewrite, shard)

    async def _rewrite(self, shard: Shard) -> None:
        try:
            await rewrite(shard, self.logs, self.env.offload)
        except (KafkaError, OSError) as error:
            if shard.closed is None:
                log.warning("%s-%d was not rewritten: %s", OFFSETS_TOPIC, shard.index, error)
                await self.env.clock.sleep(REWRITE_RETRY_S)
        shard.is_rewriting = False
        self._note_growth(shard)


async def _answer(shard: Shard, ticket: Ticket, wait_s: float, late: ErrorCode) -> Any:
    """Wait for a ticket's answer, for so long."""
    if shard.closed is not None:
        ticket.answer(ticket.refuse(shard.closed))
    shard.tickets.add(ticket)
    try:
        with trio.move_on_after(wait_s):
            return await ticket.wait()
        return ticket.refuse(late)
    finally:
        shard.tickets.discard(ticket)
