"""Who leads a partition, as pure functions of the picture of the cluster: leaders and their epochs."""

from __future__ import annotations

from itertools import chain, islice

from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from kbroker.turns import STRIDE, Work


def take_up(image: ClusterImage, broker_id: int) -> Work[list[PartitionImage]]:
    """What changes when a broker has registered (again): it resumes no leadership of an epoch it led before (R8).

    A partition it led, or that waits for it as the last of its ISR, gets a new leader epoch: led by another live
    member of the ISR, else by this broker.
    """
    changed = []
    partitions = chain.from_iterable(topic.partitions for topic in image.topics.values())
    while chunk := list(islice(partitions, STRIDE)):
        yield
        for partition in chunk:
            if partition.leader == broker_id or (partition.leader == NO_LEADER and broker_id in partition.isr):
                others = [id for id in partition.replicas if id in partition.isr and id != broker_id]
                leader = next((id for id in others if id in image.brokers), broker_id)
                changed.append(led_by(partition, leader))
    return changed


def led_by(partition: PartitionImage, leader: int) -> PartitionImage:
    """The partition with this leader, in its next epoch."""
    return PartitionImage(
        partition.topic_id,
        partition.index,
        partition.replicas,
        partition.isr,
        leader,
        partition.leader_epoch + 1,
        partition.partition_epoch + 1,
        partition.mod_revision,
    )
