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
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.config import topic_config
from kbroker.replication.partition import Partition

CHUNK = 32  # partitions between two checkpoints

log = logging.getLogger("kbroker.replicas")


class Replicas:
    """The one that changes `Services.partitions`."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.carried_out = ClusterImage.empty()
        self._news = trio.Event()

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Be told of a new image."""
        self._news.set()

    async def run(self) -> None:
        """Carry out image after image until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Carry out the difference between the last image carried out and the present one."""
        target = self.services.image
        for done, _ in enumerate(self._steps(self.carried_out, target), start=1):
            if done % CHUNK == 0:
                await trio.lowlevel.checkpoint()
        self.carried_out = target
        self.services.applied.advance(target.revision)

    def _steps(self, old: ClusterImage, new: ClusterImage) -> Iterator[None]:
        """One step for every partition touched; nothing is done between the steps."""
        for topic in old.topics.values():
            if topic.name not in new.topics or new.topics[topic.name].id != topic.id:
                for partition in topic.partitions:
                    self._remove(topic, partition)
                    yield
        for topic in new.topics.values():
            before = old.topics.get(topic.name)
            if before is topic:
                continue
            known = before.partitions if before is not None and before.id == topic.id else ()
            reconfigured = before is not None and before.configs != topic.configs
            for partition in topic.partitions:
                if reconfigured or partition.index >= len(known) or known[partition.index] is not partition:
                    self._apply(topic, partition, reconfigured)
                    yield

    def _remove(self, topic: TopicImage, image: PartitionImage) -> None:
        partition = self.services.partitions.pop((topic.name, image.index), None)
        if partition is not None:
            partition.resign()
            self.services.logs.remove(topic.name, image.index)

    def _apply(self, topic: TopicImage, image: PartitionImage, reconfigured: bool) -> None:
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
        elif reconfigured:
            partition.log.reconfigure(topic_config(topic.configs, services.config))
        if image.leader == services.node_id:
            partition.lead(image.leader_epoch, image.isr)
        else:
            partition.resign()

    def _open(self, topic: TopicImage, image: PartitionImage) -> Partition | None:
        services = self.services
        try:
            opened = services.logs.log_for(
                topic.name, image.index, topic.id, topic_config(topic.configs, services.config)
            )
        except (OSError, KafkaError) as error:
            log.error("partition %s-%d is offline: %s", topic.name, image.index, error)
            return None
        return Partition(topic.name, image.index, topic.id, opened, services.node_id)
