"""Which partitions this broker holds, and in which role: kept in step with the picture of the cluster.

The image is desired state; `partitions` and the logs on disk are actual state. Whenever there is a new image, the
difference to the last one carried out is: deleted partitions are removed, ours are opened and led, configs are taken
over. It is done a few dozen partitions between two checkpoints, so that a topic of thousands does not stop the broker;
images that arrive meanwhile are taken together. `wait_applied` waits until that has passed a change: CreateTopics
answers then.

    following ── on_lost ──▶ nothing is led, a catch-up under way ends where it is ── on_image ──▶ following
                                                            (it brings later leader epochs, R8)

A log that cannot be opened leaves its partition out (its clients are told KAFKA_STORAGE_ERROR) and the rest running.
Who leads a partition of an internal topic coordinates what is kept there: its `Coordinator` is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage, changes
from kbroker.config import BrokerConfig, topic_config
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.watermark import Watermark

CHUNK = 32  # partitions between two checkpoints

log = logging.getLogger(__name__)


class Coordinator(Protocol):
    """Keeps state in the partitions of one internal topic. Its methods must not wait."""

    def lead(self, partition: Partition) -> None:
        """The partition is led here, in its leader epoch. Told again and again."""

    def resign(self, index: int) -> None:
        """The partition of this index is not led here. Told again and again."""

    def on_topics_changed(self, deleted: Iterable[str]) -> None:
        """There are other topics or more partitions; those of these names are gone, or made anew."""

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        """The configs of these groups are others; None: the broker's are."""


class ReplicaManager:
    """The owner of this broker's partitions and of its configs, as far as the cluster's metadata decides on them."""

    def __init__(
        self, node_id: int, logs: LogDirectory, config: BrokerConfig, coordinators: Mapping[str, Coordinator]
    ) -> None:
        """coordinators: by the name of their topic."""
        self.node_id = node_id
        self.logs = logs
        self.config = config  # as the cluster's dynamic configs have it now
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.offline: set[tuple[str, int]] = set()  # should be in `partitions`; the disk says no
        self._coordinators = coordinators
        self._wanted: ClusterImage | None = None  # to be carried out; None: this broker is not registered
        self._carried_out = ClusterImage()
        self._is_torn = False  # a catch-up ended amid it: `partitions` is somewhere past _carried_out
        self._losses = 0  # of the session
        self._announced = 0  # revision of the newest image
        self._applied = Watermark()  # revision of _carried_out
        self._news = trio.Event()

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Be told of a new image."""
        self._wanted = new
        self._announced = new.revision
        self._news.set()

    def on_lost(self) -> None:
        """This broker is not registered any more: lead nothing until an image brings new epochs."""
        self._wanted = None
        self._losses += 1
        for partition in self.partitions.values():
            partition.resign()
            self._tell_coordinator(partition)

    async def wait_applied(self) -> None:
        """Wait until `partitions` has caught up with the image as it is now. The caller bounds the wait."""
        await self._applied.wait_past(self._announced - 1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out image after image until cancelled. started() when the first has been."""
        while not await self._catch_up():
            await self._news.wait()
        self._report_strays()
        task_status.started()
        while True:
            await self._news.wait()
            await self._catch_up()

    async def _catch_up(self) -> bool:
        """Carry out the difference between the last image carried out and the wanted one; whether that was done.

        A session that is lost ends it at the next checkpoint: what the image says of leaders holds no longer.
        """
        self._news = trio.Event()
        target, losses = self._wanted, self._losses
        if target is None:
            return False
        for done, _ in enumerate(self._steps(self._carried_out, target), start=1):
            if done % CHUNK == 0:
                await trio.lowlevel.checkpoint()
                if self._losses != losses:
                    self._is_torn = True
                    return False
        self._carried_out = target
        self._is_torn = False
        self._applied.advance(target.revision)
        return True

    def _report_strays(self) -> None:
        """Logs of topics the cluster does not know are left alone: deleting data needs more than a missing name."""
        known = self._carried_out.topics_by_id
        strays = [f"{topic}-{index}" for topic, index, id in self.logs.on_disk() if id not in known]
        if strays:
            log.warning("%d logs belong to no topic and are left alone: %s", len(strays), ", ".join(strays[:5]))

    def _steps(self, old: ClusterImage, new: ClusterImage) -> Iterator[None]:
        """One step for every partition touched; nothing is done between the steps."""
        difference = changes(old, new)
        if self._is_torn:
            yield from self._realign(new)
        for topic, image in difference.partitions_removed:
            self._remove(topic.name, image.index)
            yield
        if difference.broker_configs_changed:
            yield from self._reconfigure_all(new)
            self._tell_configs()
        if difference.group_configs_changed:
            self._tell_configs(difference.group_configs_changed)
        for topic in difference.topic_configs_changed:
            yield from self._reconfigure(topic)
        for topic, image in (*difference.partitions_added, *difference.partitions_changed):
            self._apply(topic, image)
            yield
        if difference.topics_deleted or difference.partitions_added:
            deleted = [topic.name for topic in difference.topics_deleted]
            for coordinator in self._coordinators.values():
                coordinator.on_topics_changed(deleted)

    def _realign(self, image: ClusterImage) -> Iterator[None]:
        """Undo what an image did that was carried out in part, as far as this one does not want it."""
        for (name, index), partition in tuple(self.partitions.items()):
            topic = image.topics.get(name)
            if topic is None or topic.id != partition.topic_id or index >= len(topic.partitions):
                self._remove(name, index)
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

    def _reconfigure(self, topic: TopicImage) -> Iterator[None]:
        config = topic_config(topic.configs, self.config)
        for image in topic.partitions:
            partition = self.partitions.get((topic.name, image.index))
            if partition is not None:
                partition.log.reconfigure(config)
                yield

    def _remove(self, topic: str, index: int) -> None:
        self.offline.discard((topic, index))
        partition = self.partitions.pop((topic, index), None)
        if partition is not None:
            partition.resign()
            self._tell_coordinator(partition)
            try:
                self.logs.remove(topic, index)
            except OSError as error:  # what stays is a stray: moved aside should the name come back
                log.error("the log of deleted partition %s-%d stays: %s", topic, index, error)

    def _apply(self, topic: TopicImage, image: PartitionImage) -> None:
        if self.node_id not in image.replicas:
            self._remove(topic.name, image.index)
            return
        partition = self.partitions.get((topic.name, image.index))
        if partition is None:
            partition = self._open(topic, image)
            if partition is None:
                return
            self.partitions[topic.name, image.index] = partition
        if image.leader == self.node_id:
            partition.lead(image.leader_epoch, image.isr)
        else:
            partition.resign()
        self._tell_coordinator(partition)

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

    def _open(self, topic: TopicImage, image: PartitionImage) -> Partition | None:
        try:
            opened = self.logs.log_for(
                topic.name, image.index, topic.id, topic_config(topic.configs, self.config),
                leader_epoch_max=image.leader_epoch,
            )  # fmt: skip
        except (OSError, KafkaError) as error:
            log.error("partition %s-%d is offline: %s", topic.name, image.index, error)
            self.offline.add((topic.name, image.index))
            return None
        self.offline.discard((topic.name, image.index))
        return Partition(topic.name, image.index, topic.id, opened, self.node_id)
