"""New topics and partitions, as pure functions: their names, how many, and on which brokers their replicas lie.

Refusals are KafkaErrors with the codes and texts of Kafka's ReplicationControlManager, so that clients and their tests
find what they expect.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.image import NOTHING, ClusterImage, PartitionImage, TopicImage, unified
from kbroker.turns import STRIDE, Work, each

TOPIC_NAME_LENGTH_MAX = 249
PARTITIONS_PER_REQUEST_MAX = 10_000  # ReplicationControlManager.MAX_PARTITIONS_PER_BATCH
REPLICATION_FACTOR_MAX = 32_767
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]+")

Assignment = tuple[int, ...]


class NewTopic(NamedTuple):
    """A topic that is wished for. -1 means the default; or assignments say (partition, replicas) instead of numbers."""

    name: str
    partitions: int = -1
    replication_factor: int = -1
    assignments: Sequence[tuple[int, Sequence[int]]] = ()
    configs: Mapping[str, str | None] = NOTHING


def check_topic_name(name: str, *taken: Mapping[str, str]) -> None:
    """Raise INVALID_TOPIC_EXCEPTION for a name Kafka's Topic.validate refuses, or one that collides with a taken name.

    '.' and '_' count as the same character, because metric names cannot tell them apart.

    taken: unified name -> name, of topics whose name has one of them.
    """
    problem = ""
    if not name:
        problem = "the empty string is not allowed"
    elif name in (".", ".."):
        problem = f"'{name}' is not allowed"
    elif len(name) > TOPIC_NAME_LENGTH_MAX:
        problem = f"the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
    elif not _TOPIC_NAME.fullmatch(name):
        problem = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    if problem:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
    for names in taken:
        if (other := names.get(unified(name), name)) != name:
            text = f"Topic '{name}' collides with existing topic: {other}"
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, text)


def plan_topic(
    new: NewTopic, image: ClusterImage, *, partitions: int, replication_factor: int, start: int
) -> Iterable[Assignment]:
    """The replicas of each partition of a wished-for topic.

    Args:
        new: the wish; its name is not looked at.
        image: which brokers there are.
        partitions, replication_factor: the defaults for -1.
        start: random; placement is a function of it.

    Raises KafkaError.
    """
    if new.assignments:
        return _manual(new, image)
    if new.replication_factor < -1 or new.replication_factor == 0 or new.replication_factor > REPLICATION_FACTOR_MAX:
        text = "Replication factor must be larger than 0, or -1 to use the default value."
        raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, text)
    if new.partitions < -1 or new.partitions == 0:
        text = "Number of partitions was set to an invalid non-positive value."
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, text)
    count = partitions if new.partitions == -1 else new.partitions
    factor = replication_factor if new.replication_factor == -1 else new.replication_factor
    return place(count, factor, image, start)


def partitions_asked(wish: NewTopic, default: int) -> int:
    """How many partitions a wish is for; none where it is impossible."""
    if wish.assignments:
        return len(wish.assignments)
    return default if wish.partitions == -1 else max(0, wish.partitions)


def too_many_partitions() -> KafkaError:
    """More than one request may make (ReplicationControlManager.validateTotalNumberOfPartitions)."""
    return KafkaError(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")


def place(count: int, factor: int, image: ClusterImage, start: int, first: int = 0) -> Iterator[Assignment]:
    """Replicas for count partitions, round robin over the brokers as in Kafka's AdminUtils: racks alternate.

    The leaders go round; each time they have gone round, the distance of the followers from their leader grows by one,
    so that the followers of one broker's partitions lie on all others. No rack has two replicas of a partition before
    each has one. Brokers that are fenced (registered, but not alive or about to stop) are taken only where there are
    not enough others, and never come first (Kafka: StripedReplicaPlacer).

    Args:
        count: how many partitions.
        factor: replicas of each.
        image: which brokers there are.
        start: the broker (its place among them, modulo their number) of partition 0, and the first distance.
        first: index of the first new partition.

    Raises INVALID_REPLICATION_FACTOR when there are too few brokers.
    """
    order = arranged(image)
    fenced = sorted(image.registrations.keys() - order.keys())
    problem = ""
    if not order:
        problem = "All brokers are currently fenced, or have all their log directories cordoned."
    elif factor > len(order) + len(fenced):
        problem = (
            f"The target replication factor of {factor} cannot be reached because only {len(order) + len(fenced)} "
            "broker(s) are registered or some brokers have all their log directories cordoned."
        )
    if problem:
        text = f"Unable to replicate the partition {factor} time(s): {problem}"
        raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, text)
    return _round_robin(order, fenced, count, factor, start, first)


def arranged(image: ClusterImage) -> dict[int, str | None]:
    """The brokers that take new replicas, and their racks, such that racks alternate."""
    racks: dict[str | None, list[int]] = {}
    for broker in sorted(image.brokers.values(), key=lambda broker: (broker.rack or "", broker.id)):
        if not broker.leaving:
            racks.setdefault(broker.rack, []).append(broker.id)
    rows = zip_longest(*racks.values())
    return {id: rack for row in rows for id, rack in zip(row, racks, strict=True) if id is not None}


def _round_robin(
    order: Mapping[int, str | None], fenced: list[int], count: int, factor: int, start: int, first: int
) -> Iterator[Assignment]:
    brokers = list(order)
    number, racks = len(brokers), len({*order.values()})
    for index in range(first, first + count):
        leader = start + index
        distance = (start // number + index // number) * (racks if racks < number else 1)
        far = factor - 1 if racks == 1 else number - 1
        followers = ((leader + 1 + (distance + i) % (number - 1)) % number for i in range(min(far, number - 1)))
        candidates = [brokers[leader % number], *(brokers[follower] for follower in followers)]
        more = (fenced[(index + i) % len(fenced)] for i in range(factor - number))
        yield (*spread(candidates, order, min(factor, number)), *more)


def spread(
    candidates: Sequence[int], racks: Mapping[int, str | None], wanted: int, has: Iterable[int] = ()
) -> Assignment:
    """The first so many candidates, passing over racks that have a replica as long as there are others.

    has: brokers that have a replica already.
    """
    if len({*racks.values()}) == 1:
        return tuple(candidates[:wanted])
    taken: list[int] = []
    times = Counter(racks.get(id) for id in has)
    left = list(candidates)
    while len(taken) < wanted:
        fewest = min(times[racks[id]] for id in left)
        broker = next(id for id in left if times[racks[id]] == fewest)
        taken.append(broker)
        left.remove(broker)
        times[racks[broker]] += 1
    return tuple(taken)


def _manual(new: NewTopic, image: ClusterImage) -> list[Assignment]:
    for value, what in ((new.replication_factor, "replication factor"), (new.partitions, "numPartitions")):
        if value != -1:
            text = f"A manual partition assignment was specified, but {what} was not set to -1."
            raise KafkaError(ErrorCode.INVALID_REQUEST, text)
    indexes = [index for index, _ in new.assignments]
    doubled = next((index for index, times in Counter(indexes).items() if times > 1), None)
    if doubled is not None:
        text = f"Found multiple manual partition assignments for partition {doubled}"
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text)
    assignments = [tuple(replicas) for _, replicas in sorted(new.assignments)]
    check_assignments(assignments, image)
    if sorted(indexes) != list(range(len(indexes))):
        text = "partitions should be a consecutive 0-based integer sequence"
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text)
    return assignments


def check_assignments(assignments: Iterable[Assignment], image: ClusterImage, factor: int | None = None) -> None:
    """Raise INVALID_REPLICA_ASSIGNMENT for replica lists no cluster could have.

    factor: what each must have, None: as many as the first.
    """
    for replicas in assignments:
        problem = ""
        if not replicas:
            problem = "includes an empty replica list."
        for place_, broker in enumerate(replicas):
            if broker not in image.registrations:
                problem = problem or f"includes broker {broker}, but no such broker is registered."
            if broker in replicas[:place_]:
                problem = problem or f"includes the broker {broker} more than once."
        factor = len(replicas) if factor is None else factor
        if len(replicas) != factor:
            problem = problem or (
                f"includes a partition with {len(replicas)} replica(s), but this is not consistent with previous "
                f"partitions, which have {factor} replica(s)."
            )
        if problem:
            raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment {problem}")


def plan_growth(
    topic: TopicImage, total: int, assignments: Sequence[Sequence[int]] | None, image: ClusterImage, start: int
) -> Iterable[Assignment]:
    """The replicas of the partitions a topic gains. Raises KafkaError when it would not grow."""
    current = len(topic.partitions)
    if total == current:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {current} partition(s).")
    if total < current:
        text = f"The topic {topic.name} currently has {current} partition(s); {total} would not be an increase."
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, text)
    gained = total - current
    if gained > PARTITIONS_PER_REQUEST_MAX:
        raise too_many_partitions()
    factor = len(topic.partitions[0].replicas)
    if assignments is None:
        return place(gained, factor, image, start, first=current)
    if len(assignments) != gained:
        text = (
            f"Attempted to add {gained} additional partition(s), but only {len(assignments)} assignment(s) were "
            "specified."
        )
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text)
    wished = [tuple(replicas) for replicas in assignments]
    check_assignments(wished, image, factor)
    return wished


def new_partitions(
    topic_id: bytes, assignments: Iterable[Assignment], image: ClusterImage, first: int = 0
) -> Work[tuple[PartitionImage, ...]]:
    """Partitions as they begin: replicas on brokers that live are in sync, the first of them leads.

    Raises KafkaError INVALID_REPLICA_ASSIGNMENT where there is none.
    """
    active = frozenset(arranged(image))

    def begin(numbered: tuple[int, Assignment]) -> PartitionImage:
        index, replicas = numbered
        isr = replicas if active.issuperset(replicas) else tuple(id for id in replicas if id in active)
        if not isr:
            text = f"All brokers specified in the manual partition assignment for partition {index} are fenced or in "
            raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text + "controlled shutdown.")
        return PartitionImage(topic_id, index, replicas, isr, isr[0], 0, 0)

    return tuple((yield from each(begin, enumerate(assignments, first), STRIDE // 2)))
