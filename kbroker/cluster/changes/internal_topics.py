"""Internal topics that were made when there were few brokers, and are to have what they are configured to (pure).

A topic such as `__consumer_offsets` is made when it is first needed, with at most one replica a broker. As brokers
join, it gains replicas by an ordinary reassignment; when those are in sync, its min.insync.replicas rises as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kbroker.cluster.changes.config_changes import MIN_ISR, ConfigChange, ConfigOp
from kbroker.cluster.changes.placement import arranged, spread
from kbroker.cluster.elections import changed
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.config import BrokerConfig
from kbroker.config.keys import Scope
from kbroker.turns import Work, each


class Wanted(NamedTuple):
    """The broker configs that tell what an internal topic is to have."""

    replication_factor: str
    min_isr: str | None  # None: it goes by that of all topics


WANTED: Mapping[str, Wanted] = {
    "__consumer_offsets": Wanted("offsets.topic.replication.factor", None),
    "__transaction_state": Wanted("transaction.state.log.replication.factor", "transaction.state.log.min.isr"),
}


def grown(image: ClusterImage, config: BrokerConfig) -> Work[list[PartitionImage]]:
    """The partitions of internal topics that have fewer replicas than they are to have and could have, with more."""
    racks = arranged(image)
    brokers = list(racks)
    found: list[PartitionImage] = []
    for topic, wanted in _internal(image):
        factor = config.internal_replication_factor(wanted.replication_factor, len(brokers))

        def more(partition: PartitionImage, factor: int = factor) -> PartitionImage | None:
            missing = factor - len(partition.replicas)
            if missing <= 0 or partition.adding or partition.removing:
                return None
            others = [id for id in brokers if id not in partition.replicas]
            first = partition.index % len(others) if others else 0
            adding = spread(others[first:] + others[:first], racks, min(missing, len(others)), partition.replicas)
            replicas = (*partition.replicas, *adding)
            return changed(partition, partition.isr, partition.leader, replicas=replicas, adding=adding)

        found += [partition for partition in (yield from each(more, topic.partitions)) if partition is not None]
    return found


def larger_min_isr(image: ClusterImage, config: BrokerConfig) -> list[ConfigChange]:
    """What to raise min.insync.replicas of internal topics to, now that every partition has the replicas for it."""
    changes = []
    for topic, wanted in _internal(image):
        if wanted.min_isr is not None and not any(p.adding or p.removing for p in topic.partitions):
            isr_min = min((len(partition.isr) for partition in topic.partitions), default=0)
            value = config.internal_replication_factor(wanted.min_isr, isr_min)
            if value > int(topic.configs.get(MIN_ISR, value)):
                changes.append(ConfigChange(Scope.TOPIC, topic.name, [(ConfigOp.SET, MIN_ISR, str(value))]))
    return changes


def _internal(image: ClusterImage) -> Iterator[tuple[TopicImage, Wanted]]:
    for name, wanted in WANTED.items():
        topic = image.topics.get(name)
        if topic is not None:
            yield topic, wanted
