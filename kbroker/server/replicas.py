"""Keeps this broker's partitions in step with the picture of the cluster.

The image is desired state; `Services.partitions` and the logs on disk are actual state. Whenever there is a new image,
the difference to the last one carried out is: deleted partitions are removed, ours are opened and led, configs are
taken over. It is done a few dozen partitions between two checkpoints, so that a topic of thousands does not stop the
broker; images that arrive meanwhile are taken together. `Services.applied` tells how far it has come: CreateTopics
answers when that has passed its change.

A log that cannot be opened leaves its partition out (its clients are told KAFKA_STORAGE_ERROR) and the rest running.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import trio

from kafka_wire.errors import KafkaError
from kbroker.api.context import Services
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage, changes
from kbroker.config import topic_config
from kbroker.coordinators.shell import OFFSETS_TOPIC
from kbroker.replication.partition import Partition

CHUNK = 32  # partitions between two checkpoints

log = logging.getLogger("kbroker.replicas")


class Replicas:
    """The one that changes `Services.partitions`."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.carried_out = ClusterImage()
        self._news = trio.Event()

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Be told of a new image."""
        self.services.announced = new.revision
        self._news.set()

    def on_lost(self) -> None:
        """This broker is no member any more: lead nothing until an image brings new epochs."""
        self.services.groups.resign_all()
        for partition in self.services.partitions.values():
            partition.resign()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out image after image until cancelled. started() when the first has been."""
        await self._catch_up()
        self._report_strays()
        task_status.started()
        while True:
            await self._news.wait()
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Carry out the difference between the last image carried out and the present one."""
        self._news = trio.Event()
        target = self.services.image
        for done, _ in enumerate(self._steps(self.carried_out, target), start=1):
            if done % CHUNK == 0:
                await trio.lowlevel.checkpoint()
        self.carried_out = target
        self.services.applied.advance(target.revision)

    def _report_strays(self) -> None:
        """Logs of topics the cluster does not know are left alone: deleting data needs more than a missing name."""
        known = self.services.image.topics_by_id
        strays = [f"{topic}-{index}" for topic, index, id in self.services.logs.on_disk() if id not in known]
        if strays:
            log.warning("%d logs belong to no topic and are left alone: %s", len(strays), ", ".join(strays[:5]))

    def _steps(self, old: ClusterImage, new: ClusterImage) -> Iterator[None]:
        """One step for every partition touched; nothing is done between the steps."""
        difference = changes(old, new)
        for topic, image in difference.partitions_removed:
            self._remove(topic, image)
            yield
        if difference.broker_configs_changed:
            yield from self._reconfigure_all(new)
            self.services.groups.on_configs_changed()
        if difference.group_configs_changed:
            self.services.groups.on_configs_changed(difference.group_configs_changed)
        for topic in difference.topic_configs_changed:
            yield from self._reconfigure(topic)
        for topic, image in (*difference.partitions_added, *difference.partitions_changed):
            self._apply(topic, image)
            yield
        if difference.topics_deleted or difference.partitions_added:
            self.services.groups.on_topics_changed([topic.name for topic in difference.topics_deleted])

    def _reconfigure_all(self, image: ClusterImage) -> Iterator[None]:
        """Take over dynamic broker configs, which are the defaults of every topic's."""
        services, configs = self.services, image.broker_configs
        services.config = services.config.with_dynamic(
            cluster=configs.get("", {}), broker=configs.get(str(services.node_id), {})
        )
        for topic in image.topics.values():
            yield from self._reconfigure(topic)

    def _reconfigure(self, topic: TopicImage) -> Iterator[None]:
        config = topic_config(topic.configs, self.services.config)
        for image in topic.partitions:
            partition = self.services.partitions.get((topic.name, image.index))
            if partition is not None:
                partition.log.reconfigure(config)
                yield

    def _remove(self, topic: TopicImage, image: PartitionImage) -> None:
        self.services.offline.discard((topic.name, image.index))
        partition = self.services.partitions.pop((topic.name, image.index), None)
        if partition is not None:
            partition.resign()
            self._tell_coordinator(partition)
            try:
                self.services.logs.remove(topic.name, image.index)
            except OSError as error:  # what stays is a stray: moved aside should the name come back
                log.error("the log of deleted partition %s-%d stays: %s", topic.name, image.index, error)

    def _apply(self, topic: TopicImage, image: PartitionImage) -> None:
        services = self.services
        if services.node_id not in image.replicas:
            self._remove(topic, image)
            return
        partition = services.partitions.get((topic.name, image.index))
        if partition is None:
            partition = self._open(topic, image)
            if partition is None:
                return
            services.partitions[topic.name, image.index] = partition
        if image.leader == services.node_id:
            partition.lead(image.leader_epoch, image.isr)
        else:
            partition.resign()
        self._tell_coordinator(partition)

    def _tell_coordinator(self, partition: Partition) -> None:
        """Who leads a partition of `__consumer_offsets` coordinates its groups."""
        if partition.topic == OFFSETS_TOPIC:
            if partition.leading:
                self.services.groups.lead(partition)
            else:
                self.services.groups.resign(partition.index)

    def _open(self, topic: TopicImage, image: PartitionImage) -> Partition | None:
        services = self.services
        try:
            opened = services.logs.log_for(
                topic.name, image.index, topic.id, topic_config(topic.configs, services.config),
                leader_epoch_max=image.leader_epoch,
            )  # fmt: skip
        except (OSError, KafkaError) as error:
            log.error("partition %s-%d is offline: %s", topic.name, image.index, error)
            services.offline.add((topic.name, image.index))
            return None
        services.offline.discard((topic.name, image.index))
        return Partition(topic.name, image.index, topic.id, opened, services.node_id)
