"""What the brokers tell of their cluster: who is there, where the partitions are, what moves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.api import ApiKey
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import check_code, check_topic, error_text, topic_problem
from kbroker.cli.errors import Failed, check_none
from kbroker.config import Scope
from kbroker.config.views import VIEW_SOURCE

TopicPartition: TypeAlias = tuple[str, int]
NOBODY = -1
FENCED_SINCE = 2  # version of DescribeCluster that tells of brokers that are registered and not there
ALL = ""  # the name of the resource that stands for all brokers
SET, DELETE = 0, 1  # a config
TOPICS_AT_ONCE = 200  # in a request for configs
ANY_TIMEOUT_MS = 10_000
ATTEMPTS_MAX, RETRY_S = 10, 0.1


class Broker(NamedTuple):
    """A registered broker. fenced: it is not there."""

    id: int
    host: str
    port: int
    rack: str | None
    fenced: bool


class Members(NamedTuple):
    """Who belongs to the cluster."""

    cluster_id: str
    controller: int  # NOBODY: there is none just now
    brokers: tuple[Broker, ...]  # by id

    @property
    def live(self) -> list[Broker]:
        """Those that are there."""
        return [broker for broker in self.brokers if not broker.fenced]

    @property
    def fenced(self) -> list[Broker]:
        """Those that are not."""
        return [broker for broker in self.brokers if broker.fenced]

    def one(self, broker_id: int) -> Broker:
        """A broker that is there. Raises Failed."""
        for broker in self.live:
            if broker.id == broker_id:
                return broker
        there = ", ".join(str(broker.id) for broker in self.live)
        raise Failed(f"broker {broker_id} is not there; those that are: {there}")


class Partition(NamedTuple):
    """A partition as the cluster has agreed on it."""

    topic: str
    partition: int
    leader: int  # NOBODY: none
    replicas: tuple[int, ...]  # the first is the one preferred to lead
    isr: tuple[int, ...]
    internal: bool = False

    @property
    def key(self) -> TopicPartition:
        """Which it is."""
        return self.topic, self.partition


class Move(NamedTuple):
    """A reassignment that is under way. replicas: the old ones and the new ones."""

    topic: str
    partition: int
    replicas: tuple[int, ...]
    adding: tuple[int, ...]
    removing: tuple[int, ...]

    @property
    def key(self) -> TopicPartition:
        """Of which partition."""
        return self.topic, self.partition


class Usage(NamedTuple):
    """A broker's log directory. sizes: bytes by partition."""

    sizes: Mapping[TopicPartition, int]
    free: int | None
    total: int | None


def members(client: Any) -> Members:
    """The brokers, the fenced ones among them where the cluster can tell. Raises Failed."""
    from kafka_wire.messages.metadata import DescribeClusterRequest

    version = bridge.supported_version(client, ApiKey.DESCRIBE_CLUSTER)
    if version is None:
        raise Failed("this broker does not describe its cluster (KIP-700)")
    request = DescribeClusterRequest(
        include_cluster_authorized_operations=False, include_fenced_brokers=version >= FENCED_SINCE
    )
    told = _ask(client, request, ApiKey.DESCRIBE_CLUSTER, version)
    check_code(told.error_code, "the cluster was not described", told.error_message)
    brokers = [Broker(each.broker_id, each.host, each.port, each.rack, each.is_fenced) for each in told.brokers]
    return Members(told.cluster_id, told.controller_id, tuple(sorted(brokers)))


def partitions(
    client: Any, topics: Iterable[str] | None = None, *, with_views: bool = False, if_there: bool = False
) -> list[Partition]:
    """Partitions in order, of these topics, or of all but views, which have none of their own.

    with_views: as others see them, with the partitions of their sources. if_there: topics that are gone are left out;
    else Failed is raised.
    """
    from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic

    asked = None if topics is None else [MetadataRequestTopic(name=name) for name in dict.fromkeys(topics)]
    request = MetadataRequest(topics=asked, allow_auto_topic_creation=False)
    told = _ask(client, request, ApiKey.METADATA)
    for topic in told.topics:
        if not if_there:
            check_topic(topic.error_code, topic.name or "")
    found = [
        Partition(
            topic.name,
            each.partition_index,
            each.leader_id,
            tuple(each.replica_nodes),
            tuple(each.isr_nodes),
            topic.is_internal,
        )
        for topic in told.topics
        for each in topic.partitions
    ]
    if topics is None and not with_views:
        told = configs(client, {each.topic for each in found}, [VIEW_SOURCE])
        found = [each for each in found if not told.get(each.topic)]
    return sorted(found)


def min_isr(client: Any, topics: Iterable[str]) -> dict[str, int]:
    """min.insync.replicas of each of these topics."""
    told = configs(client, topics, ["min.insync.replicas"])
    return {name: int(value) for name, values in told.items() for value in values.values()}


def configs(client: Any, topics: Iterable[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Some configs of each of these topics, of those that have a value."""
    from kafka_wire.messages.configs import DescribeConfigsRequest, DescribeConfigsResource

    names, found = sorted(set(topics)), dict[str, dict[str, str]]()
    for start in range(0, len(names), TOPICS_AT_ONCE):
        resources = [
            DescribeConfigsResource(resource_type=Scope.TOPIC, resource_name=name, configuration_keys=list(keys))
            for name in names[start : start + TOPICS_AT_ONCE]
        ]
        told = _ask(client, DescribeConfigsRequest(resources=resources), ApiKey.DESCRIBE_CONFIGS)
        for result in told.results:
            found[result.resource_name] = {each.name: each.value for each in result.configs if each.value}
    return found


def moves(client: Any) -> list[Move]:
    """The reassignments that are under way, in order."""
    from kafka_wire.messages.admin import ListPartitionReassignmentsRequest

    request = ListPartitionReassignmentsRequest(timeout_ms=ANY_TIMEOUT_MS, topics=None)
    told = _ask(client, request, ApiKey.LIST_PARTITION_REASSIGNMENTS)
    check_code(told.error_code, "reassignments were not listed", told.error_message)
    return sorted(
        Move(
            topic.name,
            each.partition_index,
            tuple(each.replicas),
            tuple(each.adding_replicas),
            tuple(each.removing_replicas),
        )
        for topic in told.topics
        for each in topic.partitions
    )


def full_disks(client: Any, brokers: Sequence[int], free_min: int) -> list[int]:
    """Those of the brokers whose disks have fewer bytes left."""
    found = usages(client, brokers, [])
    return [broker for broker, usage in found.items() if usage.free is not None and usage.free < free_min]


def usages(client: Any, brokers: Sequence[int], topics: list[Any] | None = None) -> dict[int, Usage]:
    """What the partitions of these brokers take on their disks, of those that tell: one may have died a moment ago.

    topics: of which topics; None: of all.
    """
    from kafka_wire.messages.topics import DescribeLogDirsRequest

    key = ApiKey.DESCRIBE_LOG_DIRS
    version = bridge.supported_version(client, key)
    if version is None:
        return {}
    request = DescribeLogDirsRequest(topics=topics)
    told = bridge.send_all(client, [bridge.Asked(broker, request, key, version) for broker in brokers])
    found = {broker: _usage(answer) for broker, answer in zip(brokers, told, strict=True)}
    return {broker: usage for broker, usage in found.items() if usage is not None}


def sizes(client: Any, partitions: Sequence[Partition]) -> dict[TopicPartition, int]:
    """The bytes that their leaders have of partitions, of those that tell."""
    found = usages(client, sorted({each.leader for each in partitions if each.leader != NOBODY}))
    return {
        each.key: found[each.leader].sizes[each.key]
        for each in partitions
        if each.leader in found and each.key in found[each.leader].sizes
    }


def _usage(told: Any) -> Usage | None:
    good = [] if isinstance(told, Exception) else [result for result in told.results if not result.error_code]
    if not good or told.error_code:
        return None
    sizes = {
        (topic.name, each.partition_index): each.partition_size
        for result in good
        for topic in result.topics
        for each in topic.partitions
        if not each.is_future_key
    }
    volumes = [(result.usable_bytes, result.total_bytes) for result in good if result.total_bytes >= 0]
    free, total = (sum(column) for column in zip(*volumes, strict=True)) if volumes else (None, None)
    return Usage(sizes, free, total)


def elect(client: Any, wanted: Sequence[TopicPartition] | None, *, unclean: bool) -> dict[TopicPartition, str | None]:
    """Hold elections; None: everywhere. Why not, by partition that an election was for; None: it was held."""
    from kafka_wire.errors import ErrorCode
    from kafka_wire.messages.admin import ElectLeadersRequest, ElectLeadersTopic

    version = bridge.version_of(client, ApiKey.ELECT_LEADERS)
    if unclean and version < 1:
        raise Failed("this broker holds no unclean elections (KIP-460)")
    by_topic: dict[str, list[int]] = {}
    for topic, index in wanted or ():
        by_topic.setdefault(topic, []).append(index)
    asked = [ElectLeadersTopic(topic=topic, partitions=indexes) for topic, indexes in by_topic.items()]
    request = ElectLeadersRequest(
        election_type=int(unclean), topic_partitions=None if wanted is None else asked, timeout_ms=ANY_TIMEOUT_MS
    )
    told = bridge.send(client, None, request, ApiKey.ELECT_LEADERS, version)
    check_code(told.error_code, "no election was held")
    return {
        (topic.topic, each.partition_id): error_text(each.error_code, each.error_message) if each.error_code else None
        for topic in told.replica_election_results
        for each in topic.partition_result
        if each.error_code != ErrorCode.ELECTION_NOT_NEEDED
    }


def reassign(client: Any, targets: Mapping[TopicPartition, tuple[int, ...] | None]) -> dict[TopicPartition, str | None]:
    """Begin reassignments, or cancel those with None. Why not, by partition; None: it is done."""
    from kafka_wire.messages.admin import (
        AlterPartitionReassignmentsRequest,
        ReassignablePartition,
        ReassignableTopic,
    )

    by_topic: dict[str, list[ReassignablePartition]] = {}
    for (topic, index), replicas in targets.items():
        wanted = ReassignablePartition(partition_index=index, replicas=None if replicas is None else list(replicas))
        by_topic.setdefault(topic, []).append(wanted)
    topics = [ReassignableTopic(name=topic, partitions=wanted) for topic, wanted in by_topic.items()]
    request = AlterPartitionReassignmentsRequest(timeout_ms=ANY_TIMEOUT_MS, topics=topics)
    told = bridge.send(client, None, request, ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    check_code(told.error_code, "nothing was reassigned", told.error_message)
    return {
        (topic.name, each.partition_index): error_text(each.error_code, each.error_message) if each.error_code else None
        for topic in told.responses
        for each in topic.partitions
    }


def described_configs(client: Any, scope: Scope, name: str) -> list[Any]:
    """All configs of a topic or a broker, as DescribeConfigs tells them. Raises Failed."""
    from kafka_wire.messages.configs import DescribeConfigsRequest, DescribeConfigsResource

    resource = DescribeConfigsResource(resource_type=scope, resource_name=name, configuration_keys=None)
    request, node = DescribeConfigsRequest(resources=[resource]), _who_has(scope, name)
    ask = partial(_ask, client) if node is None else partial(bridge.send, client, node)
    told = ask(request, ApiKey.DESCRIBE_CONFIGS).results[0]
    check_none(_config_problems([told]))
    return list(told.configs)


def alter_configs(client: Any, changes: Mapping[tuple[Scope, str], Mapping[str, str | None]]) -> None:
    """Set configs of topics and brokers, by what they are called; None: back to the default. Raises Failed."""
    from kafka_wire.messages.configs import (
        IncrementalAlterableConfig,
        IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResource,
    )

    by_broker: dict[int | None, list[IncrementalAlterConfigsResource]] = {}
    for (scope, name), settings in changes.items():
        wanted = [
            IncrementalAlterableConfig(name=key, config_operation=DELETE if value is None else SET, value=value)
            for key, value in settings.items()
        ]
        resource = IncrementalAlterConfigsResource(resource_type=scope, resource_name=name, configs=wanted)
        by_broker.setdefault(_who_has(scope, name), []).append(resource)
    problems = []
    for broker_id, resources in by_broker.items():
        request = IncrementalAlterConfigsRequest(resources=resources, validate_only=False)
        told = bridge.send(client, broker_id, request, ApiKey.INCREMENTAL_ALTER_CONFIGS)
        problems += _config_problems(told.responses)
    check_none(problems)


def _who_has(scope: Scope, name: str) -> int | None:
    """Topics are any broker's business (None), as is what holds for ALL brokers; a broker's configs are its own."""
    return int(name) if scope == Scope.BROKER and name != ALL else None


def _config_problems(results: Iterable[Any]) -> list[str]:
    """What is wrong with configs, of those that an answer tells of."""
    return [
        topic_problem(each.resource_name, each.error_code, each.error_message)
        if each.resource_type == Scope.TOPIC
        else f"{whose(each.resource_name)}: {error_text(each.error_code, each.error_message)}"
        for each in results
        if each.error_code
    ]


def altered(changes: Mapping[str, str | None]) -> list[str]:
    """Changes of configs, for people: "retention.ms=1", "retention.ms back to its default"."""
    return [f"{name} back to its default" if value is None else f"{name}={value}" for name, value in changes.items()]


def whose(broker: str) -> str:
    """Of which broker configs are, for people. broker: its id, or ALL."""
    return f"broker {broker}" if broker != ALL else "all brokers"


def unregister(client: Any, broker_id: int) -> None:
    """Have the cluster forget a broker. Raises Failed."""
    from kafka_wire.messages.admin import UnregisterBrokerRequest

    request = UnregisterBrokerRequest(broker_id=broker_id)
    told = bridge.send(client, None, request, ApiKey.UNREGISTER_BROKER)
    check_code(told.error_code, f"broker {broker_id}", told.error_message)


def _ask(client: Any, request: object, key: ApiKey, version: int | None = None) -> Any:
    """What any broker answers to a question. One that died a moment ago may be asked first: then another is."""
    from kafka.errors import KafkaConnectionError, NodeNotReadyError

    for attempt in range(ATTEMPTS_MAX):
        try:
            return bridge.send(client, None, request, key, version)
        except (KafkaConnectionError, NodeNotReadyError):
            if attempt + 1 == ATTEMPTS_MAX:
                raise
        time.sleep(RETRY_S)
    raise AssertionError
