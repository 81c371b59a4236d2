"""The throttle of a reassignment, as Kafka's own tool sets and removes it (KIP-73).

A topic says which replicas are throttled (`leader.replication.throttled.replicas`: those that send,
`follower.replication.throttled.replicas`: those that receive, each as "partition:broker,..."), a broker at which rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kbroker.cli.cluster.reads import Partition, TopicPartition, alter_configs, configs
from kbroker.config import Scope

LEADER, FOLLOWER = "leader.replication.throttled", "follower.replication.throttled"


def throttle(
    client: Any,
    rate: int,
    moving: Sequence[Partition],
    targets: Mapping[TopicPartition, Sequence[int]],
    brokers: Iterable[int],
) -> None:
    """Bound what these moves take to rate bytes a second, on each broker, in each direction. Raises Failed."""
    senders: dict[str, list[str]] = {}
    receivers: dict[str, list[str]] = {}
    for each in moving:
        senders.setdefault(each.topic, []).extend(f"{each.partition}:{id}" for id in each.replicas)
        new = [id for id in targets[each.key] if id not in each.replicas]
        receivers.setdefault(each.topic, []).extend(f"{each.partition}:{id}" for id in new)
    changes: dict[tuple[Scope, str], dict[str, str | None]] = {}
    for topic in senders:
        changes[Scope.TOPIC, topic] = {
            f"{LEADER}.replicas": ",".join(senders[topic]),
            f"{FOLLOWER}.replicas": ",".join(receivers[topic]),
        }
    for broker_id in brokers:
        changes[Scope.BROKER, str(broker_id)] = {f"{LEADER}.rate": str(rate), f"{FOLLOWER}.rate": str(rate)}
    alter_configs(client, changes)


def release(client: Any, topics: Iterable[str], brokers: Iterable[int]) -> None:
    """Remove the throttle. Raises Failed."""
    changes: dict[tuple[Scope, str], dict[str, str | None]] = {}
    for topic in topics:
        changes[Scope.TOPIC, topic] = dict.fromkeys((f"{LEADER}.replicas", f"{FOLLOWER}.replicas"))
    for broker_id in brokers:
        changes[Scope.BROKER, str(broker_id)] = dict.fromkeys((f"{LEADER}.rate", f"{FOLLOWER}.rate"))
    alter_configs(client, changes)


def throttled_topics(client: Any, topics: Sequence[str]) -> list[str]:
    """Those of these topics that say which of their replicas are throttled."""
    told = configs(client, topics, [f"{LEADER}.replicas", f"{FOLLOWER}.replicas"])
    return [name for name in topics if told.get(name)]
