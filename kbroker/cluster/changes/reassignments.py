"""What clients ask to be changed of partitions: elections, other replicas, no other replicas after all. Pure.

Each function takes a partition as it is and returns it as it shall be, or the very same where nothing is to be done; or
raises KafkaError, with Kafka's codes and texts.

    asked:  t 0 [1, 2] to [2, 3]  ──▶  replicas 2, 3, 1   adding 3   removing 1  ── 3 in sync ──▶  replicas 2, 3
                                                                                └─ called off ──▶  replicas 2, 1

Who is being added and is no longer wanted goes at once: the partition was never its. (Kafka:
ReplicationControlManager, PartitionReassignmentReplicas, PartitionReassignmentRevert.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.views import check_no_view
from kbroker.cluster.elections import Rules, changed, electorate, settled
from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage
from kbroker.turns import Effort, Work

Election: TypeAlias = tuple[str, int]  # topic, partition
Wish: TypeAlias = "tuple[str, int, tuple[int, ...] | None]"  # and the replicas it is to have; None: call it off
Change: TypeAlias = "PartitionImage | KafkaError | None"  # what to write; why not; nothing is to be done

W = TypeVar("W", bound="tuple[Any, ...]")


def elections(asked: Iterable[Election], image: ClusterImage, rules: Rules, *, unclean: bool) -> Work[list[Change]]:
    """What is to be written so that these partitions are led by their preferred replicas, or by any that lives."""
    brokers = electorate(image)

    def one(wish: Election, topic: TopicImage | None) -> PartitionImage:
        name, index = wish
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such topic as {name}")
        partition = _partition(topic, index)
        if partition is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such partition as {name}-{index}")
        if partition.leader != NO_LEADER if unclean else partition.leader == partition.replicas[0]:
            raise KafkaError(ErrorCode.ELECTION_NOT_NEEDED)
        elected = settled(partition, brokers, rules.min_isr(topic), unclean, is_preferred=not unclean)
        if elected.leader in (partition.leader, NO_LEADER):
            raise KafkaError(
                ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE if unclean else ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
            )
        return elected

    return (yield from _each(asked, image, one))


def reassignments(
    wishes: Iterable[Wish], image: ClusterImage, rules: Rules, *, allow_replication_factor_change: bool
) -> Work[list[Change]]:
    """What is to be written so that these partitions get other replicas, or keep those they had."""
    registered = {*image.registrations, *image.brokers}

    def one(wish: Wish, topic: TopicImage | None) -> PartitionImage:
        name, index, target = wish
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find a topic named {name}.")
        partition = _partition(topic, index)
        if partition is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find partition {name}:{index}.")
        if target is None:
            return _called_off(partition, topic, image, rules)
        _check_target(target, registered)
        if not allow_replication_factor_change:
            _check_factor(partition, target)
        return _reassigned(partition, target, topic, image, rules)

    return (yield from _each(wishes, image, one))


def _each(
    wishes: Iterable[W], image: ClusterImage, one: Callable[[W, TopicImage | None], PartitionImage]
) -> Work[list[Change]]:
    changes, effort = list[Change](), Effort()
    for wish in wishes:
        topic = image.topics.get(wish[0])
        try:
            check_no_view(topic)
            wanted = one(wish, topic)
            changes.append(None if topic is not None and wanted is topic.partitions[wish[1]] else wanted)
        except KafkaError as error:
            changes.append(error.with_traceback(None))  # which holds all these, in a circle
        if effort.spent(20 + sum(len(each) for each in wish[2:] if each)):
            yield
    return changes


def _partition(topic: TopicImage, index: int) -> PartitionImage | None:
    return topic.partitions[index] if 0 <= index < len(topic.partitions) else None


def _check_target(target: Sequence[int], registered: Collection[int]) -> None:
    """ReplicationControlManager.validateManualPartitionAssignment."""
    if not target:
        raise _invalid("The manual partition assignment includes an empty replica list.")
    before = None
    for broker_id in sorted(target):
        if broker_id not in registered:
            raise _invalid(
                f"The manual partition assignment includes broker {broker_id}, but no such broker is registered."
            )
        if broker_id == before:
            raise _invalid(f"The manual partition assignment includes the broker {broker_id} more than once.")
        before = broker_id


def _check_factor(partition: PartitionImage, target: Sequence[int]) -> None:
    """What a reassignment under way would come to counts."""
    factor = len({*partition.replicas, *partition.adding}.difference(partition.removing))
    if factor != len(target):
        text = f"The replication factor is changed from {factor} to {len(target)}"
        raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, text)


def _reassigned(
    partition: PartitionImage, target: tuple[int, ...], topic: TopicImage, image: ClusterImage, rules: Rules
) -> PartitionImage:
    unwanted = {*partition.adding}.difference(target)
    if unwanted.issuperset(partition.isr):
        unwanted = set()  # nobody else is in sync: they go when others are
    removing = tuple(sorted({*partition.replicas}.difference(target, unwanted)))
    adding = tuple(sorted({*target}.difference(partition.replicas) | {*partition.adding}.intersection(target)))
    return _settled(partition, (*target, *removing), unwanted, adding, removing, topic, image, rules)


def _called_off(partition: PartitionImage, topic: TopicImage, image: ClusterImage, rules: Rules) -> PartitionImage:
    if not (partition.adding or partition.removing):
        raise KafkaError(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS)
    replicas = tuple(id for id in partition.replicas if id not in partition.adding)
    if {*partition.adding}.issuperset(partition.isr) and not rules.is_unclean(topic):
        raise _invalid(
            f"Unable to revert partition assignment for {topic.name}:{partition.index} because it would require an "
            "unclean leader election."
        )
    return _settled(partition, replicas, {*partition.adding}, (), (), topic, image, rules)


def _settled(
    partition: PartitionImage,
    replicas: tuple[int, ...],
    unwanted: Collection[int],
    adding: tuple[int, ...],
    removing: tuple[int, ...],
    topic: TopicImage,
    image: ClusterImage,
    rules: Rules,
) -> PartitionImage:
    """With these replicas, without the unwanted in its ISR, and settled by that; the very same if nothing differs."""
    start = replace(
        partition,
        replicas=replicas,
        isr=tuple(id for id in replicas if id in partition.isr and id not in unwanted),
        elr=tuple(id for id in replicas if id in partition.elr and id not in unwanted),
        adding=adding,
        removing=removing,
    )
    end = settled(start, electorate(image), rules.min_isr(topic), rules.is_unclean(topic))
    if _content(end) == _content(partition):
        return partition
    return changed(
        partition, end.isr, end.leader, elr=end.elr, replicas=end.replicas, adding=end.adding, removing=end.removing
    )


def _content(partition: PartitionImage) -> tuple[object, ...]:
    """What a change is about."""
    return (
        partition.replicas, {*partition.isr}, {*partition.elr}, partition.leader, partition.adding, partition.removing
    )  # fmt: skip


def _invalid(text: str) -> KafkaError:
    return KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text)
