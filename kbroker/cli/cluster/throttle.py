"""The throttle of a reassignment, as Kafka's own tool sets and removes it (KIP-73).

A topic says which replicas are throttled (`leader.replication.throttled.replicas`: those that send,
`follower.replication.throttled.replicas`: those that receive, each as "partition:broker,..."), a broker at which rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka_wire.api import ApiKey
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import check_code
from kbroker.cli.cluster.reads import Partition, TopicPartition

TOPIC, BROKER = 2, 4
SET, DELETE = 0, 1
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
    changes: dict[tuple[int, str], dict[str, str | None]] = {}
    for topic in senders:
        changes[TOPIC, topic] = {
            f"{LEADER}.replicas": ",".join(senders[topic]),
            f"{FOLLOWER}.replicas": ",".join(receivers[topic]),
        }
    for broker_id in brokers:
        changes[BROKER, str(broker_id)] = {f"{LEADER}.rate": str(rate), f"{FOLLOWER}.rate": str(rate)}
    _alter(client, changes)


def release(client: Any, topics: Iterable[str], brokers: Iterable[int]) -> None:
    """Remove the throttle. Raises Failed."""
    changes: dict[tuple[int, str], dict[str, str | None]] = {}
    for topic in topics:
        changes[TOPIC, topic] = dict.fromkeys((f"{LEADER}.replicas", f"{FOLLOWER}.replicas"))
    for broker_id in brokers:
        changes[BROKER, str(broker_id)] = dict.fromkeys((f"{LEADER}.rate", f"{FOLLOWER}.rate"))
    _alter(client, changes)


def throttled_topics(client: Any, topics: Sequence[str]) -> list[str]:
    """Those of these topics that say which of their replicas are throttled."""
    from kafka_wire.messages.configs import DescribeConfigsRequest, DescribeConfigsResource

    version = bridge.supported_version(client, ApiKey.DESCRIBE_CONFIGS)
    if version is None:
        return []
    keys = [f"{LEADER}.replicas", f"{FOLLOWER}.replicas"]
    resources = [
        DescribeConfigsResource(resource_type=TOPIC, resource_name=name, configuration_keys=keys) for name in topics
    ]
    told = bridge.send(client, None, DescribeConfigsRequest(resources=resources), ApiKey.DESCRIBE_CONFIGS, version)
    return [result.resource_name for result in told.results if any(config.value for config in result.configs)]


def _alter(client: Any, changes: Mapping[tuple[int, str], Mapping[str, str | None]]) -> None:
    """Topics are any broker's business, a broker's configs its own."""
    from kafka_wire.messages.configs import (
        IncrementalAlterableConfig,
        IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResource,
    )

    by_broker: dict[int | None, list[IncrementalAlterConfigsResource]] = {}
    for (kind, name), settings in changes.items():
        configs = [
            IncrementalAlterableConfig(name=key, config_operation=DELETE if value is None else SET, value=value)
            for key, value in settings.items()
        ]
        resource = IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
        by_broker.setdefault(int(name) if kind == BROKER else None, []).append(resource)
    for broker_id, resources in by_broker.items():
        request = IncrementalAlterConfigsRequest(resources=resources, validate_only=False)
        told = bridge.send(client, broker_id, request, ApiKey.INCREMENTAL_ALTER_CONFIGS)
        for response in told.responses:
            check_code(response.error_code, f"the throttle of {response.resource_name}", response.error_message)
