"""Which partitions this broker holds, and in which role: kept in step with the picture of the cluster.

The image is desired state; `partitions` and the logs on disk are actual state. Whenever there is a new image, the
difference to the last one carried out is: deleted partitions are removed, ours are opened and led, configs are taken
over. It is done a few dozen partitions between two checkpoints, so that a topic of thousands does not stop the broker;
images that arrive meanwhile are taken together. `wait_applied` waits until that has passed a change: CreateTopics
answers then.

    following ── on_lost ──▶ nothing is led, a catch-up under way ends where it is ── on_image ──▶ following
                                                            (it brings later leader epochs, R8)

    absent ──▶ opening, in a worker ──▶ held: led here, or followed (fetchers.py), or neither ──▶ removed
                       └──▶ offline: its log cannot be opened; its clients are told KAFKA_STORAGE_ERROR

What a log needs before it can serve (a look at its files, or after a crash a scan of gigabytes) happens in workers, a
few at a time, while images are carried out and everybody else is served; its clients are told NOT_LEADER_OR_FOLLOWER
and come back. What becomes of it is decided when it is open, by the image as it is then. The log of a partition that is
new is made at once.

Who leads a partition of an internal topic coordinates what is kept there: its `Coordinator` is told.

A partition is removed, and its log with it, when the image says that its topic is gone or that it has its replicas
elsewhere, and for no other reason. What becomes of one whose log fails, `failures` says.

That it is gone has to have been seen, in images that follow each other. One that was read anew, after a lost session,
may only lack the topic: the store may have been restored from an older copy. Then the log is left as it is, as it is at
a start. Nor does an image count that says in no later epoch than the log's own that the replicas are elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import trio

from kafka_wire.errors import KafkaError
from kafka_wire.records import BatchHeader
from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage, compared
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.cluster.peers.brokers import Brokers
from kbroker.config import BrokerConfig, TopicConfig, topic_config
from kbroker.log.directory import LogDirectory
from kbroker.log.opening import Opening, Outcome
from kbroker.log.recovery import Stopped
from kbroker.replication.doubt import InDoubt, unconfirmed
from kbroker.replication.failures import Failures
from kbroker.replication.fetchers import Fetchers
from kbroker.replication.isr_updates import IsrUpdates
from kbroker.replication.openings import Openings
from kbroker.replication.partition import Partition
from kbroker.replication.sessions import ReplicaSessions
from kbroker.replication.throttles import Throttle
from kbroker.replication.traffic import Traffic
from kbroker.watermark import Watermark

CHUNK = 32  # partitions between two checkpoints

T = TypeVar("T")
log = logging.getLogger(__name__)


class Coordinator(Protocol):
    """Keeps state in the partitions of one internal topic. Its methods must not wait."""

    def lead(self, partition: Partition) -> None:
        """The partition is led here, in its leader epoch. Told again and again."""

    def resign(self, index: int) -> None:
        """The partition of this index is not led here. Told again and again."""

    def lose(self, index: int) -> None:
        """The log of the partition of this index cannot be opened; until `lead` or `resign` are told again."""

    def on_topics_changed(self, deleted: Iterable[str]) -> None:
        """There are other topics or more partitions; those of these names are gone, or made anew."""

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        """The configs of these groups are others; None: the broker's are."""


class Roles(Protocol):
    """Is told of all partitions that are held here, whatever their topic. Its methods must not wait."""

    def assume(self, partition: Partition) -> None:
        """It has a role, perhaps another one, and configs. Told again and again."""

    def leave(self, topic: str, index: int) -> None:
        """It is not held here any more."""


class Membership(Protocol):
    """This broker's part in the cluster: its Registration."""

    @property
    def broker_epoch(self) -> int:
        """Of the registration; -1 when there is none."""

    @property
    def is_proven(self) -> bool:
        """Whether the cluster certainly still takes this broker for alive."""

    @property
    def image(self) -> ClusterImage:
        """The cluster as this broker knows it."""

    async def alter_isr(self, changes: Sequence[IsrChange]) -> list[IsrOutcome]:
        """Change ISRs of partitions that this broker leads; what became of each."""

    async def hand_over(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        """Let others have this broker's part in these partitions, where there are any."""


class ReplicaManager:
    """The owner of this broker's partitions and of its configs, as far as the cluster's metadata decides on them."""

    def __init__(
        self,
        node_id: int,
        logs: LogDirectory,
        config: BrokerConfig,
        coordinators: Mapping[str, Coordinator],
        registration: Membership,
        brokers: Brokers,
        roles: Roles,
    ) -> None:
        """
        Args:
            coordinators: by the name of their topic.
            registration: this broker's part in the cluster.
            brokers: to fetch from.
            roles: who is to be told of every partition.
        """
        self.node_id = node_id
        self.logs = logs
        self.config = config  # as the cluster's dynamic configs have it now
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.failures = Failures(
            node_id, logs.env.clock, self.partitions, lambda: self._carried_out, registration.hand_over
        )
        self.traffic = Traffic()
        self.elections = self.unclean_elections = 0  # of leaders, while this broker was the controller
        self.sessions = ReplicaSessions(first_id=1 + logs.env.rng.below(2**30))  # of this broker's followers
        self.leader_throttle = self._throttle("leader.replication.throttled.rate")
        self.follower_throttle = self._throttle("follower.replication.throttled.rate")
        self.fetchers = Fetchers(
            node_id, logs, brokers, lambda: self.config, lambda: registration.broker_epoch, self.follower_throttle,
            self._on_failure,
        )  # fmt: skip
        self.isr_updates = IsrUpdates(
            registration.alter_isr,
            lambda: registration.image,
            lambda: self.partitions.values(),
            lambda: self.config,
            logs.env.clock,
        )
        self._coordinators = coordinators
        self._roles = roles
        self._registration = registration
        self._newest_config: tuple[object, BrokerConfig, TopicConfig] = (None, config, TopicConfig())
        self._wanted: ClusterImage | None = None  # to be carried out; None: this broker is not registered
        self._target: ClusterImage | None = None  # being carried out, or the last that was, in this registration
        self._carried_out = ClusterImage()
        self._is_lost = False  # a registration ended, and what it led is still to be resigned
        self._is_torn = False  # a registration ended: `partitions` may be somewhere past _carried_out
        self._is_read_anew = False  # _wanted does not follow on _carried_out: deletions were not seen
        self._spared: set[tuple[str, int]] = set()  # partitions in _opening that such an image does not know
        self._opening = Openings(logs, self._take)
        self._announced = 0  # revision of the newest image
        self._applied = Watermark()  # revision of _carried_out
        self._news = trio.Event()

    def _throttle(self, name: str) -> Throttle:
        return Throttle(lambda: self.config.get_int(name), self.logs.env.clock.liveness)

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Be told of a new image."""
        self._wanted = new
        self._is_read_anew |= new.base != old.revision or self._is_torn
        self._announced = new.revision
        self._news.set()

    def on_lost(self) -> None:
        """This broker is not registered any more: lead nothing until an image brings new epochs.

        What is shared with others is refused from now on, as the session is not proven (R14). All are resigned, in
        turns, before anything else is done here.
        """
        self._wanted = self._target = None
        self._is_torn = self._is_lost = True
        self._news.set()

    async def wait_applied(self) -> None:
        """Wait until `partitions` has caught up with the image as it is now. The caller bounds the wait."""
        await self._applied.wait_past(self._announced - 1)

    async def unconfirmed(self, rows: Sequence[tuple[T, InDoubt]]) -> list[T]:
        """What of this must not be said for good (R14): NOT_LEADER_OR_FOLLOWER takes its place, and clients ask on.

        Waits for the followers, a second at most.
        """
        return await unconfirmed(rows, self.sessions.hurry, self.logs.env.clock)

    def refuse(self, topic: str, index: int, header: BatchHeader) -> None:
        """Note that a batch was refused for now, in case that the log is being opened; see PartitionLog.refuse."""
        self._opening.refuse((topic, index), header)

    @property
    def opening(self) -> tuple[int, int]:
        """Of the logs that were to be opened of late: how many are, and of how many."""
        return self._opening.progress

    async def wait_open(self) -> None:
        """Wait until no log is being opened: each is in `partitions`, or its partition in `failures.offline`."""
        await self._opening.wait_idle()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out image after image until cancelled. started() when the first has been, but for what `wait_open`
        waits for.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._opening.run)
            nursery.start_soon(self.isr_updates.run)
            await nursery.start(self.fetchers.run)
            while not await self._catch_up():
                await self._news.wait()
            task_status.started()
            nursery.start_soon(self._see_to_strays)
            nursery.start_soon(self.failures.run, self._begin_anew)
            while True:
                await self._news.wait()
                await self._catch_up()

    async def _catch_up(self) -> bool:
        """Carry out the difference between the last image carried out and the wanted one; whether that was done.

        A session that is lost ends it at the next checkpoint: what the image says of leaders holds no longer.
        """
        self._news = trio.Event()
        if self._is_lost:
            await self._resign_all()
        target = self._target = self._wanted
        if target is None:
            return False
        is_read_anew, self._is_read_anew = self._is_read_anew, False
        for done, errand in enumerate(self._steps(self._carried_out, target, is_read_anew), start=1):
            if errand is not None:
                await errand()
            elif done % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            if self._target is not target:
                return False
        self._carried_out = target
        self._is_torn = False
        self._applied.advance(target.revision)
        return True

    async def _resign_all(self) -> None:
        """A registration ended: its leaderships do."""
        self._is_lost = False
        self.fetchers.leave_all()
        for done, partition in enumerate(tuple(self.partitions.values()), start=1):
            partition.resign()
            self._tell_coordinator(partition)
            self._roles.assume(partition)
            if done % CHUNK == 0:
                await trio.lowlevel.checkpoint()

    async def _see_to_strays(self) -> None:
        """Remove the logs of partitions that went elsewhere while this broker was down.

        Logs of topics the cluster does not know are left alone: deleting data needs more than a missing name. So are
        those with records of an epoch in which the cluster says nothing of them.
        """
        try:
            found = await self.logs.env.offload(self.logs.on_disk)
        except OSError as error:
            log.warning("logs that belong to no topic were not looked for: %s", error)
            return
        strays = []
        for topic, index, id in found:
            await trio.lowlevel.checkpoint()
            if (image := self._image_of(id, index)) is None:
                strays.append(f"{topic}-{index}")
            elif self.node_id not in image.replicas:
                last_epoch = await self.logs.env.offload(partial(self.logs.last_epoch, topic, index))
                image = self._image_of(id, index)
                if (topic, index) in self.partitions or (topic, index) in self._opening:
                    continue  # a newer image, which is being carried out, has brought it back
                if image is not None and self.node_id not in image.replicas and last_epoch < image.leader_epoch:
                    self._remove_log(topic, index)
                else:
                    strays.append(f"{topic}-{index}")
        if strays:
            log.warning("%d logs belong to no topic and are left alone: %s", len(strays), ", ".join(strays[:5]))

    def _image_of(self, topic_id: bytes | None, index: int) -> PartitionImage | None:
        topic = self._carried_out.topics_by_id.get(topic_id) if topic_id is not None else None
        return topic.own_partitions[index] if topic is not None and index < len(topic.own_partitions) else None

    def _steps(
        self, old: ClusterImage, new: ClusterImage, is_read_anew: bool
    ) -> Iterator[Callable[[], Awaitable[None]] | None]:
        """One step for every partition touched; nothing is done between the steps. Yields what is to be waited for.

        is_read_anew: what new lacks may be there.
        """
        difference = yield from compared(old, new)
        if self._is_torn:
            yield from self._realign(new)
        for topic, image in difference.partitions_removed:
            self._remove(topic.name, image.index, spare=is_read_anew)
            yield None
        for broker in difference.brokers_removed:
            yield from self.sessions.drop(broker.id, broker.epoch)
        if difference.broker_configs_changed:
            yield from self._reconfigure_all(new)
            self._tell_configs()
        if difference.group_configs_changed:
            self._tell_configs(difference.group_configs_changed)
        for topic in difference.topic_configs_changed:
            yield from self._reconfigure(topic)
        for gone in difference.topics_deleted:
            self.traffic.forget(gone.name)
        if difference.partitions_added:
            yield self._forget_removed
        for topic, image in (*difference.partitions_added, *difference.partitions_changed):
            self._apply(topic, image)
            if new.controller_id == self.node_id:
                self._note_election(old, topic, image)
            yield None
        if difference.topics_deleted or difference.topics_created or difference.partitions_added:
            deleted = [topic.name for topic in difference.topics_deleted if not is_read_anew]
            for coordinator in self._coordinators.values():
                coordinator.on_topics_changed(deleted)

    def _note_election(self, old: ClusterImage, topic: TopicImage, image: PartitionImage) -> None:
        """Count a leader that is another than before, and one that may lack what was committed."""
        before = old.topics_by_id.get(topic.id)
        if before is None or image.index >= len(before.own_partitions) or image.leader == NO_LEADER:
            return
        was = before.own_partitions[image.index]
        if image.leader != was.leader:
            self.elections += 1
            self.unclean_elections += image.leader not in was.isr and image.leader not in was.elr

    def _realign(self, image: ClusterImage) -> Iterator[None]:
        """Have everything in the role that an image gives it, of whatever a lost registration and a catch-up that was
        broken off have left. What is the same in both images is resigned all the same.
        """
        for (name, index), partition in tuple(self.partitions.items()):
            topic = image.topics.get(name)
            if topic is None or topic.id != partition.topic_id or index >= len(topic.own_partitions):
                self._remove(name, index, spare=True)
            else:
                self._apply(topic, topic.own_partitions[index])
            yield
        yield from self._reconfigure_all(image)
        self._tell_configs()

    def _reconfigure_all(self, image: ClusterImage) -> Iterator[None]:
        """Take over dynamic broker configs, which are the defaults of every topic's."""
        of_all, own = (image.broker_configs.get(name, {}) for name in ("", str(self.node_id)))
        self.config = self.config.with_dynamic(cluster=of_all, broker=own)
        self.logs.reconfigure(self.config)
        for topic in image.topics.values():
            yield from self._reconfigure(topic)

    def _config_of(self, topic: TopicImage) -> TopicConfig:
        """A topic's settings, kept as most often the next partition is one of the same topic."""
        configs, config, found = self._newest_config
        if topic.configs is not configs or self.config is not config:
            found = topic_config(topic.configs, self.config)
            self._newest_config = topic.configs, self.config, found
        return found

    def _reconfigure(self, topic: TopicImage) -> Iterator[None]:
        config = self._config_of(topic)
        for image in topic.own_partitions:
            partition = self.partitions.get((topic.name, image.index))
            if partition is not None:
                partition.log.reconfigure(config)
                self._roles.assume(partition)
                yield

    def _remove(self, topic: str, index: int, *, spare: bool = False) -> None:
        """Give a partition up. One whose log is being opened goes when that is done. spare: its log stays as it is."""
        key = topic, index
        partition = self.partitions.pop(key, None)
        if partition is not None:
            partition.resign()
            self.fetchers.leave(partition)
            self._tell_coordinator(partition)
            self._roles.leave(topic, index)
        if partition is not None or key in self.failures.offline:
            self.failures.forget(key)
            if spare:
                log.warning("the log of partition %s-%d, of which the cluster knows nothing, is left alone", *key)
                self.logs.leave(*key)
            else:
                self._remove_log(topic, index)
        elif spare and key in self._opening:
            self._spared.add(key)

    async def _forget_removed(self) -> None:
        """Before logs begin: let no checkpoint speak of earlier ones of their names. In a worker, as it syncs files."""
        try:
            await self.logs.forget_removed()
        except OSError as error:
            log.warning("checkpoints still speak of removed logs: %s", error)

    def _remove_log(self, topic: str, index: int) -> None:
        try:
            self.logs.remove(topic, index)
        except OSError as error:  # what stays is a stray: moved aside should the name come back
            log.error("the log of deleted partition %s-%d stays: %s", topic, index, error)

    def _apply(self, topic: TopicImage, image: PartitionImage) -> None:
        """Have a partition as an image wants it; once its log is open."""
        key = topic.name, image.index
        if self.node_id not in image.replicas:
            held = self.partitions.get(key)  # a replica goes in a later epoch than any of its records
            self._remove(*key, spare=held is not None and held.log.epochs.latest >= image.leader_epoch)
        elif key not in self.partitions:
            if key not in self._opening:
                self._open(topic, image)
        else:
            self._assume(self.partitions[key], image)

    def _assume(self, partition: Partition, image: PartitionImage) -> None:
        """Take the role that an image gives this broker."""
        epoch = partition.leader_epoch
        if image.leader == self.node_id:
            partition.lead(image)
            if partition.leader_epoch != epoch:
                self.sessions.hurry(partition.followers, self.logs.env.clock.liveness())
        else:
            partition.follow(image)
        if partition.following and partition.log.offline is None:
            self.fetchers.follow(partition)
        else:
            self.fetchers.leave(partition)
        self._tell_coordinator(partition)
        self._roles.assume(partition)

    def _tell_coordinator(self, partition: Partition) -> None:
        coordinator = self._coordinators.get(partition.topic)
        if coordinator is None:
            return
        if partition.leading:
            coordinator.lead(partition)
        else:
            coordinator.resign(partition.index)

    def _tell_configs(self, group_ids: Iterable[str] | None = None) -> None:
        for coordinator in self._coordinators.values():
            coordinator.on_configs_changed(group_ids)

    # opening

    def _open(self, topic: TopicImage, image: PartitionImage) -> None:
        """Have the log of a partition opened. What is new is made at once."""
        key = topic.name, image.index
        try:
            opening = self.logs.opening(*key, topic.id, self._config_of(topic), leader_epoch_max=image.leader_epoch)
        except OSError as error:
            self._refuse(key, error)
            return
        if opening.is_new:
            self._take(opening, None)
        else:
            self._opening.add(opening)

    def _take(self, opening: Opening, outcome: Outcome) -> None:
        """A log is open, or cannot be. None: its partition is new."""
        if isinstance(outcome, Stopped):
            return
        topic, index = key = opening.key
        try:
            if isinstance(outcome, OSError | KafkaError):
                raise outcome
            opened = self.logs.adopt(opening, outcome)
        except (OSError, KafkaError) as error:
            self._refuse(key, error)
        else:
            self.failures.forget(key)
            self.partitions[key] = Partition(
                topic, index, opening.topic_id, opened, self.node_id, lambda: self._registration.is_proven,
                liveness=self.logs.env.clock.liveness, on_isr_news=self.isr_updates.note, is_welcome=self._is_welcome,
                high_watermark=self.logs.high_watermark(topic, index), traffic=self.traffic.of(topic),
            )  # fmt: skip
        if self._target is not None:  # else the next image decides
            self._settle(opening, self._target)
        self._spared.discard(key)

    def _is_welcome(self, broker_id: int, broker_epoch: int) -> bool:
        """Whether a broker may join an ISR, as far as the newest image tells."""
        broker = self._wanted.brokers.get(broker_id) if self._wanted is not None else None
        return broker is not None and broker.epoch == broker_epoch and not broker.leaving

    def _refuse(self, key: tuple[str, int], error: OSError | KafkaError) -> None:
        log.error("partition %s-%d is offline: %s", *key, error)
        self.failures.note(key, error)
        coordinator = self._coordinators.get(key[0])
        if coordinator is not None:
            coordinator.lose(key[1])

    def _settle(self, opening: Opening, image: ClusterImage) -> None:
        """Give a partition whose log was opened the role that it has by now, or give it up."""
        name, index = key = opening.key
        topic = image.topics.get(name)
        wanted = topic.own_partitions[index] if topic is not None and index < len(topic.own_partitions) else None
        if topic is None or wanted is None or topic.id != opening.topic_id or self.node_id not in wanted.replicas:
            self._remove(name, index, spare=key in self._spared)
            if topic is not None and wanted is not None:
                self._apply(topic, wanted)
        elif key in self.partitions:
            self.partitions[key].log.reconfigure(self._config_of(topic))
            self._assume(self.partitions[key], wanted)

    # failing

    def _on_failure(self, partition: Partition, error: KafkaError) -> None:
        self.logs.troubles.tell(partition.topic, partition.index, error)

    def _begin_anew(self, key: tuple[str, int]) -> None:
        """A partition's log is damaged, and others have all of it: make room for one that its leader fills (L4).

        Not while a worker has another look at it, as it does when the image has changed: it will find what it found.
        """
        if key in self._opening:
            return
        topic = self._carried_out.topics[key[0]]
        try:
            aside = self.logs.set_aside(*key)
        except OSError as error:
            self.failures.note(key, error)
            return
        log.error("partition %s-%d is filled anew by its leader: its damaged log is kept as %s", *key, aside)
        self.failures.forget(key)
        self._apply(topic, topic.partitions[key[1]])
