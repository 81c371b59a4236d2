"""Who leads a partition and who is in sync, as pure functions of the picture of the cluster.

Every change of a partition is made by two functions, which keep what belongs together in step: `with_isr` (the eligible
replicas of KIP-966) and `led_by` (epochs, and the leader that was the last).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice

from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from kbroker.turns import STRIDE, Work


def with_isr(
    partition: PartitionImage, isr: Collection[int], min_isr: int, lossy: Collection[int] = ()
) -> PartitionImage:
    """The partition with this ISR, in its next epoch.

    Who leaves an ISR that is too small for acks=all stays eligible as a leader, as nothing is committed without it: the
    high watermark stands still while eligible replicas are told (KIP-966).

    Args:
        partition: as it is.
        isr: the members it is to have, all of them replicas; kept in the order of the replicas.
        min_isr: min.insync.replicas of the topic. A partition with fewer replicas needs no more than it has.
        lossy: brokers that may have lost what they had. They are eligible no more (R10).
    """
    needed = min(min_isr, len(partition.replicas))
    members = tuple(id for id in partition.replicas if id in isr)
    eligible: tuple[int, ...] = ()
    if len(members) < needed:
        before = {*partition.isr, *partition.elr} if len(partition.isr) < needed else {*partition.isr}
        eligible = tuple(id for id in partition.replicas if id in before and id not in members and id not in lossy)
    return PartitionImage(
        partition.topic_id, partition.index, partition.replicas, members, partition.leader, partition.leader_epoch,
        partition.partition_epoch + 1, partition.mod_revision, eligible, partition.last_leader,
        partition.adding, partition.removing,
    )  # fmt: skip


def led_by(partition: PartitionImage, leader: int) -> PartitionImage:
    """The partition with this leader (NO_LEADER: none), in its next epochs.

    Whom it loses as its leader it remembers, until there is another (KIP-966's last known leader).
    """
    last = NO_LEADER
    if leader == NO_LEADER:
        last = partition.leader if partition.last_leader == NO_LEADER else partition.last_leader
    return PartitionImage(
        partition.topic_id, partition.index, partition.replicas, partition.isr, leader, partition.leader_epoch + 1,
        partition.partition_epoch + 1, partition.mod_revision, partition.elr, last, partition.adding, partition.removing
    )  # fmt: skip


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
