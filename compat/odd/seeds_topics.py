"""Probes written by hand: metadata, topics, partitions, configs.

To add one, yield it: `single` for one request in some versions, followed by what its API looks at afterwards
(`sensible.py`), `Probe` for any steps. Then `python compat/odd/run.py --kafka` takes down what Apache Kafka answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensible import BROKER, GROUP, TOPIC, look_at_configs, look_at_offsets, look_at_topics, single
from steps import Probe, Step, id_of

from kafka_wire.messages import configs as c
from kafka_wire.messages import metadata as m
from kafka_wire.messages import topics as t

NO_ID = bytes(16)
UNKNOWN_ID = b"\x22" * 16
LOGGER, CLIENT_METRICS = 8, 16
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3


def probes() -> Iterator[Probe]:
    """All of them."""
    yield from _metadata()
    yield from _api_versions()
    yield from _topics()
    yield from _partitions_and_records()
    yield from _configs()
    yield from _altered()


def _metadata() -> Iterator[Probe]:
    def asked(*topics: tuple[Any, Any], **fields: Any) -> m.MetadataRequest:
        wanted = [m.MetadataRequestTopic(topic_id=topic_id, name=name) for topic_id, name in topics]
        return m.MetadataRequest(topics=wanted, allow_auto_topic_creation=False, **fields)

    yield from single("a topic ID without a name", asked((id_of("one"), None)), 10, 11, 12, 13)
    yield from single("a topic ID beside its own name", asked((id_of("one"), "one")), 10, 11, 12, 13)
    yield from single("a topic ID beside another's name", asked((id_of("one"), "three")), 10, 12, 13)
    yield from single("a topic ID beside an empty name", asked((id_of("one"), "")), 12, 13)
    yield from single("neither name nor ID", asked((NO_ID, None)), 10, 12, 13)
    yield from single("an unknown topic ID", asked((UNKNOWN_ID, None)), 12, 13)
    yield from single("a known and an unknown topic ID", asked((id_of("one"), None), (UNKNOWN_ID, None)), 12)
    yield from single("a name and a topic ID", asked((NO_ID, "three"), (id_of("one"), None)), 12)
    yield from single("a topic by name and by ID", asked((NO_ID, "one"), (id_of("one"), None)), 12)
    yield from single("a topic ID twice", asked((id_of("one"), None), (id_of("one"), None)), 12)
    yield from single("a topic twice", asked((NO_ID, "one"), (NO_ID, "three"), (NO_ID, "one")), 1, 9, 12)
    yield from single("an unknown topic twice", asked((NO_ID, "unknown"), (NO_ID, "unknown")), 1, 12)
    yield from single("an illegal name beside a good one", asked((NO_ID, "not legal!"), (NO_ID, "one")), 1, 12)
    yield from single(
        "an illegal name that may be created", m.MetadataRequest(topics=[m.MetadataRequestTopic(name="a b")]), 4
    )
    yield from single("all topics", m.MetadataRequest(topics=None, allow_auto_topic_creation=False), 1, 5, 12)
    yield from single("no topics", m.MetadataRequest(topics=[]), 0, 1, 12)
    everything = {"include_topic_authorized_operations": True, "include_cluster_authorized_operations": True}
    yield from single("authorized operations", asked((NO_ID, "one"), (NO_ID, "unknown"), **everything), 8, 10)

    def described(*names: str, limit: int = 2000, cursor: tuple[str, int] | None = None) -> Any:
        at = cursor and m.DescribeTopicPartitionsCursor(topic_name=cursor[0], partition_index=cursor[1])
        wanted = [m.DescribeTopicPartitionsTopic(name=name) for name in names]
        return m.DescribeTopicPartitionsRequest(topics=wanted, response_partition_limit=limit, cursor=at)

    yield from single("in pages of two", described("three", "one", limit=2), 0)
    yield from single("in a page that ends with a topic", described("three", "one", limit=1), 0)
    yield from single("a cursor in the middle", described("three", "one", cursor=("three", 1)), 0)
    yield from single("a cursor behind the last partition", described("three", cursor=("three", 3)), 0)
    yield from single("a cursor far behind", described("three", cursor=("three", 99)), 0)
    yield from single("a negative cursor", described("three", cursor=("three", -1)), 0)
    yield from single("a cursor at an unknown topic", described("one", "three", cursor=("open", 0)), 0)
    yield from single("a cursor at a topic not asked for", described("three", cursor=("one", 0)), 0)
    yield from single("all from a cursor", described(cursor=("three", 0)), 0)
    yield from single("all", described(), 0)
    yield from single("unknown, illegal and doubled names", described("unknown", "a b", "one", "one", ""), 0)
    for endpoint in (0, 2, 3):
        request = m.DescribeClusterRequest(include_cluster_authorized_operations=True, endpoint_type=endpoint)
        yield from single(f"endpoint type {endpoint} with operations", request, 1, 2)


def _api_versions() -> Iterator[Probe]:
    for name, version in (
        ("", ""), ("odd", ""), ("", "1"), ("-odd", "1"), ("odd-", "1"), ("o.d-d", "1.0-a"), ("odd_1", "1"),
        ("odd", "1 0"), ("ödd", "1"), ("a", "b"), (".", "1"), ("odd\n", "1"),
    ):  # fmt: skip
        request = m.ApiVersionsRequest(client_software_name=name, client_software_version=version)
        yield from single(f"software {name!r} {version!r}", request, 3, 4)


# -- topics ------------------------------------------------------------------------------------------------------------


def _new(name: str, partitions: int = 1, factor: int = 1, **more: Any) -> t.CreatableTopic:
    configs = [t.CreatableTopicConfig(name=key, value=value) for key, value in more.get("configs", ())]
    assignments = [
        t.CreatableReplicaAssignment(partition_index=index, broker_ids=brokers)
        for index, brokers in more.get("assignments", ())
    ]
    return t.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=factor, assignments=assignments, configs=configs
    )


def _topics() -> Iterator[Probe]:
    def create(*topics: t.CreatableTopic, validate_only: bool = False) -> t.CreateTopicsRequest:
        return t.CreateTopicsRequest(topics=list(topics), timeout_ms=5000, validate_only=validate_only)

    yield from single("only validated", create(_new("new-@"), validate_only=True), 2, 5, 7)
    yield from single("only validated, one that exists", create(_new("own-@"), validate_only=True), 7)
    yield from single("one that exists", create(_new("own-@")), 2, 7)
    yield from single("a name twice", create(_new("new-@"), _new("new-@", 2)), 2, 7)
    yield from single("a name twice beside a good one", create(_new("new-@"), _new("new-@"), _new("other-@")), 7)
    yield from single("names that collide", create(_new("new.@"), _new("new_@")), 7)
    yield from single("a bad one beside a good one", create(_new("new-@"), _new("a b")), 7)
    yield from single("of an internal name", create(_new("__cluster_metadata")), 7)
    for partitions, factor in ((-1, -1), (0, 1), (-2, 1), (1, 0), (1, -2), (1, 2), (1, 32767)):
        yield from single(f"{partitions} partitions {factor} replicas", create(_new("new-@", partitions, factor)), 3, 7)
    yield from single("a million partitions", create(_new("new-@", 1_000_000), validate_only=True), 7)
    for label, assignments in {
        "in order": [(0, [1]), (1, [1])],
        "out of order": [(1, [1]), (0, [1])],
        "not from zero": [(1, [1])],
        "with a hole": [(0, [1]), (2, [1])],
        "twice": [(0, [1]), (0, [1])],
        "to an unknown broker": [(0, [9])],
        "to nobody": [(0, [])],
        "to one broker twice": [(0, [1, 1])],
        "of unequal size": [(0, [1]), (1, [1, 2])],
        "negative": [(-1, [1])],
    }.items():
        yield from single(f"assignments {label}", create(_new("new-@", -1, -1, assignments=assignments)), 7)
    yield from single("assignments and numbers", create(_new("new-@", 1, 1, assignments=[(0, [1])])), 7)
    for label, configs in {
        "unknown": [("no.such.config", "1")],
        "null": [("retention.ms", None)],
        "empty": [("retention.ms", "")],
        "no number": [("retention.ms", "soon")],
        "out of bounds": [("segment.bytes", "1")],
        "twice": [("retention.ms", "1000"), ("retention.ms", "2000")],
        "with spaces": [("retention.ms", " 1000 ")],
        "not of its set": [("cleanup.policy", "shred")],
        "doubled in its set": [("cleanup.policy", "delete,delete")],
        "of a broker": [("log.retention.ms", "1000")],
        "lag the wrong way round": [("min.compaction.lag.ms", "20"), ("max.compaction.lag.ms", "10")],
        "local retention above all": [("local.retention.ms", "20"), ("retention.ms", "10")],
        "one bad of two": [("retention.ms", "1000"), ("cleanup.policy", "x")],
        "a bool in capitals": [("preallocate", "TRUE")],
        "no bool": [("preallocate", "yes")],
        "a level with its codec": [("compression.type", "zstd"), ("compression.zstd.level", "99")],
    }.items():
        request = create(_new("new-@", configs=configs))
        looks = (look_at_topics("new-@"), look_at_configs(TOPIC, "new-@", *dict(configs)))
        yield from single(f"config {label}", request, 7, after=looks)

    def delete(*topics: tuple[Any, Any]) -> t.DeleteTopicsRequest:
        wanted = [t.DeleteTopicState(name=name, topic_id=topic_id) for name, topic_id in topics]
        return t.DeleteTopicsRequest(topics=wanted, timeout_ms=5000)

    yield from single("by ID", delete((None, id_of("own-@"))), 6)
    yield from single("name and ID both", delete(("own-@", id_of("own-@"))), 6)
    yield from single("name and another's ID", delete(("own-@", id_of("compact-@"))), 6)
    yield from single("neither name nor ID", delete((None, NO_ID)), 6)
    yield from single("a name twice", delete(("own-@", NO_ID), ("own-@", NO_ID)), 6)
    yield from single("an ID twice", delete((None, id_of("own-@")), (None, id_of("own-@"))), 6)
    yield from single("by name and by ID", delete(("own-@", NO_ID), (None, id_of("own-@"))), 6)
    yield from single("an unknown ID", delete((None, UNKNOWN_ID)), 6)
    yield from single("an unknown ID twice", delete((None, UNKNOWN_ID), (None, UNKNOWN_ID)), 6)
    yield from single("an unknown name twice", delete(("unknown-@", NO_ID), ("unknown-@", NO_ID)), 6)
    yield from single("a bad one beside a good one", delete(("unknown-@", NO_ID), ("own-@", NO_ID)), 6)
    names = t.DeleteTopicsRequest(topic_names=["own-@", "unknown-@", "own-@"], timeout_ms=5000)
    yield from single("a name twice beside an unknown one", names, 1, 5)


def _partitions_and_records() -> Iterator[Probe]:
    def grow(*topics: tuple[str, int, list[list[int]] | None], validate_only: bool = False) -> Any:
        wanted = [
            t.CreatePartitionsTopic(
                name=name,
                count=count,
                assignments=None if brokers is None else [t.CreatePartitionsAssignment(broker_ids=b) for b in brokers],
            )
            for name, count, brokers in topics
        ]
        return t.CreatePartitionsRequest(topics=wanted, timeout_ms=5000, validate_only=validate_only)

    for count in (-1, 0, 1, 2, 10_002, 10_003):
        yield from single(f"to {count}", grow(("own-@", count, None), validate_only=count > 3), 1, 3)
    yield from single("only validated", grow(("own-@", 3, None), validate_only=True), 3)
    yield from single("a name twice", grow(("own-@", 3, None), ("own-@", 4, None)), 0, 3)
    yield from single("a bad one beside a good one", grow(("own-@", 3, None), ("unknown-@", 3, None)), 3)
    for label, brokers in {
        "none": [], "one too many": [[1], [1]], "to an unknown broker": [[9]], "to nobody": [[]],
        "to one twice": [[1, 1]], "as it should be": [[1]],
    }.items():  # fmt: skip
        yield from single(f"assignments {label}", grow(("own-@", 3, brokers)), 3)

    def cut(*partitions: tuple[int, int], topic: str = "own-@") -> t.DeleteRecordsRequest:
        parts = [t.DeleteRecordsPartition(partition_index=index, offset=offset) for index, offset in partitions]
        return t.DeleteRecordsRequest(topics=[t.DeleteRecordsTopic(name=topic, partitions=parts)], timeout_ms=5000)

    for offset in (-3, -2, -1, 0, 5, 9, 10, 11, 2**63 - 1):
        yield from single(f"to {offset}", cut((0, offset)), 1, 2)
    yield from single("of an empty partition", cut((1, 0), (1, 1)), 2)
    yield from single("a partition twice", cut((0, 2), (0, 5)), 2)
    yield from single("an unknown partition beside a good one", cut((0, 2), (7, 2), (-1, 0)), 2)
    yield from single("of a compacted topic", cut((0, 0), topic="compact-@"), 2)
    back = (Step(cut((0, 6)), 2), Step(cut((0, 3)), 2), *look_at_offsets("own-@", -2, -1))
    yield Probe("DeleteRecords v2: back again", back)


# -- configs -----------------------------------------------------------------------------------------------------------


def _configs() -> Iterator[Probe]:
    def described(*resources: tuple[int, str, list[str] | None], **fields: Any) -> c.DescribeConfigsRequest:
        asked = [
            c.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
            for kind, name, keys in resources
        ]
        return c.DescribeConfigsRequest(resources=asked, **fields)

    some = ["retention.ms"]
    yield from single("all of a topic", described((TOPIC, "one", None), include_synonyms=True), 4)
    yield from single("no keys", described((TOPIC, "one", [])), 1, 4)
    yield from single("keys twice", described((TOPIC, "one", some + some)), 4)
    yield from single("an unknown key", described((TOPIC, "one", ["no.such.config"])), 4)
    yield from single("a resource twice", described((TOPIC, "one", some), (TOPIC, "one", ["cleanup.policy"])), 4)
    yield from single("an unknown topic", described((TOPIC, "unknown", some)), 4)
    yield from single("an empty topic name", described((TOPIC, "", some)), 4)
    yield from single("an illegal topic name", described((TOPIC, "a b", some)), 4)
    for name in ("", "1", "01", "+1", "-1", "2", "one", "99999999999"):
        yield from single(f"broker {name!r}", described((BROKER, name, ["log.retention.ms", "node.id"])), 1, 4)
    for name in ("", "1", "2", "x"):
        yield from single(f"logger of {name!r}", described((LOGGER, name, ["root"])), 4)
    for name in ("", "unknown", "group"):
        yield from single(f"group {name!r}", described((GROUP, name, ["consumer.session.timeout.ms"])), 4)
        yield from single(f"client metrics {name!r}", described((CLIENT_METRICS, name, None)), 4)
    for kind in (-1, 0, 1, 3, 127):
        yield from single(f"resource type {kind}", described((kind, "one", None)), 1, 4)
    for kinds in ([], [2], [4], [8], [16], [32], [2, 2], [2, 32], [0], [3], [-1], [127]):
        yield from single(f"types {kinds}", c.ListConfigResourcesRequest(resource_types=kinds), 1)
    yield from single("client metrics", c.ListConfigResourcesRequest(), 0)


def _altered() -> Iterator[Probe]:
    def change(*resources: tuple[int, str, list[tuple[int, str, Any]]], validate_only: bool = False) -> Any:
        wanted = [
            c.IncrementalAlterConfigsResource(
                resource_type=kind,
                resource_name=name,
                configs=[c.IncrementalAlterableConfig(config_operation=op, name=n, value=v) for op, n, v in ops],
            )
            for kind, name, ops in resources
        ]
        return c.IncrementalAlterConfigsRequest(resources=wanted, validate_only=validate_only)

    retention, policy = "retention.ms", "cleanup.policy"
    for label, ops in {
        "a key twice": [(SET, retention, "1000"), (SET, retention, "2000")],
        "a key set and deleted": [(SET, retention, "1000"), (DELETE, retention, None)],
        "set to null": [(SET, retention, None)],
        "deleted with a value": [(DELETE, retention, "1000")],
        "deleted though never set": [(DELETE, "segment.bytes", None)],
        "appended to no list": [(APPEND, retention, "1")],
        "subtracted from no list": [(SUBTRACT, retention, "1")],
        "appended": [(APPEND, policy, "compact")],
        "appended what is there": [(APPEND, policy, "delete")],
        "appended null": [(APPEND, policy, None)],
        "appended nothing": [(APPEND, policy, "")],
        "subtracted": [(SUBTRACT, policy, "delete")],
        "subtracted what is not there": [(SUBTRACT, policy, "compact")],
        "appended two with a space": [(APPEND, policy, "compact, delete")],
        "an unknown operation": [(9, retention, "1")],
        "an unknown key": [(SET, "no.such.config", "1")],
        "an unknown key deleted": [(DELETE, "no.such.config", None)],
        "an empty key": [(SET, "", "1")],
        "no number": [(SET, retention, "soon")],
        "out of bounds": [(SET, "segment.bytes", "1")],
        "lag the wrong way round": [(SET, "min.compaction.lag.ms", "20"), (SET, "max.compaction.lag.ms", "10")],
        "a good one beside a bad one": [(SET, retention, "1000"), (SET, policy, "shred")],
        "an empty set": [(SET, policy, "")],
        "spaces around": [(SET, retention, " 1000 ")],
        "nothing": [],
    }.items():
        for validate_only in (False, True):
            suffix = ", only validated" if validate_only else ""
            yield from single(label + suffix, change((TOPIC, "own-@", ops), validate_only=validate_only), 1)
    good = [(SET, retention, "1000")]
    yield from single(
        "a resource twice", change((TOPIC, "own-@", good), (TOPIC, "own-@", [(SET, policy, "compact")])), 0, 1
    )
    yield from single(
        "an unknown topic beside a good one", change((TOPIC, "unknown-@", good), (TOPIC, "own-@", good)), 1
    )
    yield from single("an empty topic name", change((TOPIC, "", good)), 1)
    yield from single("an illegal topic name", change((TOPIC, "a b @", good)), 1)
    yield from single("an internal topic", change((TOPIC, "__cluster_metadata", good)), 1)
    dynamic = [(SET, "log.retention.ms", "60000000")]
    for name in ("", "1", "2", "x", "-1"):
        request = change((BROKER, name, dynamic), validate_only=True)
        yield from single(f"broker {name!r}, only validated", request, 1, after=())
    for label, ops in {
        "read-only": [(SET, "node.id", "3")],
        "unknown": [(SET, "no.such.config", "1")],
        "of a topic": [(SET, retention, "1000")],
        "no number": [(SET, "log.retention.ms", "soon")],
        "per broker in the default": [(SET, "advertised.listeners", "PLAINTEXT://x:1")],
    }.items():
        yield from single(f"broker config {label}", change((BROKER, "", ops), validate_only=True), 1, after=())
    for label, ops in {
        "as it should be": [(SET, "consumer.session.timeout.ms", "50000")],
        "out of bounds": [(SET, "consumer.session.timeout.ms", "1")],
        "above the broker's": [(SET, "consumer.session.timeout.ms", "99999999")],
        "unknown": [(SET, "no.such.config", "1")],
        "no number": [(SET, "consumer.session.timeout.ms", "soon")],
        "negative": [(SET, "consumer.heartbeat.interval.ms", "-1")],
    }.items():
        request = change((GROUP, "configured-@", ops), validate_only=False)
        looks = (look_at_configs(GROUP, "configured-@", "consumer.session.timeout.ms"),)
        yield from single(f"group config {label}", request, 1, after=looks)
    yield from single(
        "the empty group", change((GROUP, "", [(SET, "consumer.session.timeout.ms", "50000")])), 1, after=()
    )
    for kind in (-1, 0, 1, 3, 127):
        yield from single(f"resource type {kind}", change((kind, "x-@", good)), 1, after=())
    for name in ("", "1", "2"):
        ops = [(SET, "root", "INFO")]
        yield from single(f"logger of {name!r}", change((LOGGER, name, ops), validate_only=True), 1, after=())

    def replaced(*resources: tuple[int, str, list[tuple[str, Any]]], validate_only: bool = False) -> Any:
        wanted = [
            c.AlterConfigsResource(
                resource_type=kind, resource_name=name, configs=[c.AlterableConfig(name=n, value=v) for n, v in pairs]
            )
            for kind, name, pairs in resources
        ]
        return c.AlterConfigsRequest(resources=wanted, validate_only=validate_only)

    for label, pairs in {
        "a key twice": [(retention, "1000"), (retention, "2000")],
        "null": [(retention, None)],
        "all back to default": [],
        "another key": [(policy, "compact")],
        "no number": [(retention, "soon")],
        "an unknown key": [("no.such.config", "1")],
    }.items():
        yield from single(label, replaced((TOPIC, "own-@", pairs)), 1, 2)
    twice = replaced((TOPIC, "own-@", [(retention, "1000")]), (TOPIC, "own-@", [(policy, "compact")]))
    yield from single("a resource twice", twice, 2)
    yield from single("only validated", replaced((TOPIC, "own-@", [(retention, "1000")]), validate_only=True), 2)
    for kind, name in ((BROKER, "2"), (BROKER, "x"), (GROUP, ""), (LOGGER, "1"), (127, "x"), (0, "x")):
        yield from single(
            f"type {kind} name {name!r}", replaced((kind, name, [("x", "1")]), validate_only=True), 2, after=()
        )
