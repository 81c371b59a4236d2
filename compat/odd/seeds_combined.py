"""Probes written by hand: two features at once, several requests in a row; what one leaves behind, another meets.

To add one, yield a `Probe` of any steps. Then `python compat/odd/run.py --kafka` takes down what Apache Kafka answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensible import BROKER, TOPIC, look_at_configs, look_at_group, look_at_offsets, look_at_records, look_at_topics
from stage import BATCHES, MEMBER_ID, TIME
from steps import Probe, Step

from kafka_wire.messages import configs as c
from kafka_wire.messages import consumer_groups as k
from kafka_wire.messages import group_offsets as o
from kafka_wire.messages import produce_fetch as pf
from kafka_wire.messages import topics as t
from kafka_wire.records import build_batch

SET, DELETE, APPEND, SUBTRACT = range(4)
OTHER_MEMBER_ID = "YW5vdGhlci1tZW1iZXItLQ"


def probes() -> Iterator[Probe]:
    """All of them."""
    for title, steps in {**_of_configs(), **_of_topics(), **_of_logs(), **_of_groups()}.items():
        yield Probe(f"{steps[0].api} v{steps[0].version}: {title}", steps)


# -- configs -----------------------------------------------------------------------------------------------------------


def _changed(kind: int, name: str, *ops: tuple[int, str, Any], validate_only: bool = False) -> Step:
    configs = [c.IncrementalAlterableConfig(config_operation=op, name=key, value=value) for op, key, value in ops]
    resource = c.IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    return Step(c.IncrementalAlterConfigsRequest(resources=[resource], validate_only=validate_only), 1)


def _replaced(name: str, **configs: str) -> Step:
    wanted = [c.AlterableConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()]
    resource = c.AlterConfigsResource(resource_type=TOPIC, resource_name=name, configs=wanted)
    return Step(c.AlterConfigsRequest(resources=[resource], validate_only=False), 2)


def _with_synonyms(kind: int, name: str, *keys: str) -> Step:
    asked = c.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=list(keys))
    return Step(c.DescribeConfigsRequest(resources=[asked], include_synonyms=True), 4)


def _of_configs() -> dict[str, tuple[Step, ...]]:
    policy, retention = "cleanup.policy", "retention.ms"
    own = look_at_configs(TOPIC, "own-@", policy, retention, "segment.bytes")
    synonyms = _with_synonyms(TOPIC, "own-@", policy, "max.message.bytes")

    def change(*ops: tuple[int, str, Any], validate_only: bool = False) -> Step:
        return _changed(TOPIC, "own-@", *ops, validate_only=validate_only)

    both = (SET, policy, "compact,delete")
    return {
        "appended, then subtracted": (change((APPEND, policy, "compact")), change((SUBTRACT, policy, "delete")), own),
        "subtracted to nothing, then described": (change((SUBTRACT, policy, "delete")), synonyms),
        "both subtracted": (change(both), change((SUBTRACT, policy, "compact,delete")), own),
        "a part subtracted": (change(both), change((SUBTRACT, policy, "compact")), synonyms),
        "subtracted twice the same": (change(both), change((SUBTRACT, policy, "compact,compact")), own),
        "appended twice the same": (change((APPEND, policy, "compact,compact")), own),
        "appended what is no item": (change((APPEND, policy, "shred")), own),
        "subtracted what is no item": (change((SUBTRACT, policy, "shred")), own),
        "appended and subtracted at once": (change((APPEND, policy, "compact"), (SUBTRACT, policy, "delete")), own),
        "a list set to doubled items": (change((SET, policy, "compact,compact")), own),
        "a list set with spaces": (change((SET, policy, " compact , delete ")), own),
        "a list set with a comma behind": (change((SET, policy, "compact,")), own),
        "a default deleted": (change((DELETE, policy, None)), change((DELETE, "segment.bytes", "x")), synonyms),
        "set, deleted, deleted": (
            change((SET, "segment.bytes", "2000000")), change((DELETE, "segment.bytes", None)),
            change((DELETE, "segment.bytes", None)), own,
        ),
        "set, then all replaced": (
            change((SET, "segment.bytes", "2000000")), _replaced("own-@", retention_ms="7"), own,
        ),
        "set to its default": (
            change((SET, "segment.bytes", "1073741824")), _with_synonyms(TOPIC, "own-@", "segment.bytes"),
        ),
        "only validated, then described": (change((SET, retention, "1"), validate_only=True), synonyms),
        "lag first, then its bound": (
            change((SET, "max.compaction.lag.ms", "100")), change((SET, "min.compaction.lag.ms", "200")),
            look_at_configs(TOPIC, "own-@", "min.compaction.lag.ms", "max.compaction.lag.ms"),
        ),
        "local retention above retention": (
            change((SET, "local.retention.bytes", "100")), change((SET, "retention.bytes", "50")),
            look_at_configs(TOPIC, "own-@", "local.retention.bytes", "retention.bytes"),
        ),
        "a limit, then a batch above it": (
            change((SET, "max.message.bytes", "100")), _produced("own-@", BATCHES[0]), look_at_records("own-@"),
        ),
        "a broker's list appended to": (
            _changed(BROKER, "", (APPEND, "log.cleanup.policy", "compact"), validate_only=True),
        ),
        "a broker's number appended to": (
            _changed(BROKER, "", (APPEND, "log.retention.ms", "1"), validate_only=True),
        ),
        "a broker's key deleted though never set": (
            _changed(BROKER, "1", (DELETE, "log.retention.ms", None), validate_only=True),
        ),
        "a broker's key in another unit": (
            _changed(BROKER, "1", (SET, "log.retention.hours", "1"), validate_only=True),
        ),
        "a broker's listener key": (
            _changed(BROKER, "1", (SET, "listener.name.plaintext.max.connections", "7"), validate_only=True),
        ),
    }  # fmt: skip


# -- topics ------------------------------------------------------------------------------------------------------------


def _created(name: str, partitions: int = 1, factor: int = 1, **more: Any) -> Step:
    assignments = [
        t.CreatableReplicaAssignment(partition_index=index, broker_ids=brokers)
        for index, brokers in enumerate(more.get("assignments", ()))
    ]
    configs = [t.CreatableTopicConfig(name=key, value=value) for key, value in more.get("configs", ())]
    topic = t.CreatableTopic(
        name=name, num_partitions=partitions, replication_factor=factor, assignments=assignments, configs=configs
    )
    validate_only = more.get("validate_only", False)
    return Step(t.CreateTopicsRequest(topics=[topic], timeout_ms=5000, validate_only=validate_only), 7)


def _deleted(name: str) -> Step:
    topics = [t.DeleteTopicState(name=name, topic_id=bytes(16))]
    return Step(t.DeleteTopicsRequest(topics=topics, timeout_ms=5000), 6)


def _grown(count: int, assignments: list[list[int]] | None, validate_only: bool) -> Step:
    brokers = None if assignments is None else [t.CreatePartitionsAssignment(broker_ids=each) for each in assignments]
    topic = t.CreatePartitionsTopic(name="own-@", count=count, assignments=brokers)
    return Step(t.CreatePartitionsRequest(topics=[topic], timeout_ms=5000, validate_only=validate_only), 3)


def _of_topics() -> dict[str, tuple[Step, ...]]:
    look = look_at_topics("new-@")
    own = look_at_topics("own-@")
    bad_config, good = [("retention.ms", "soon")], [("retention.ms", "1000")]
    return {
        "only validated with assignments": (
            _created("new-@", -1, -1, assignments=[[1], [1]], validate_only=True), look,
        ),
        "only validated with bad assignments": (_created("new-@", -1, -1, assignments=[[7]], validate_only=True), look),
        "only validated with assignments and numbers": (
            _created("new-@", 2, 1, assignments=[[1], [1]], validate_only=True), look,
        ),
        "only validated with a bad config and a bad number": (
            _created("new-@", 0, 1, configs=bad_config, validate_only=True), look,
        ),
        "assignments and a bad config": (_created("new-@", -1, -1, assignments=[[1]], configs=bad_config), look),
        "assignments to nobody and a good config": (_created("new-@", -1, -1, assignments=[[]], configs=good), look),
        "an illegal name and a bad config": (_created("new @", configs=bad_config), look_at_topics("new @")),
        "one that exists with a bad config": (_created("own-@", configs=bad_config), own),
        "one that exists with a bad number": (_created("own-@", 0), own),
        "made, deleted, made": (_created("new-@", 2), _deleted("new-@"), _created("new-@", 1)),
        "made twice": (_created("new-@"), _created("new-@", 2), look),
        "deleted twice": (_deleted("own-@"), _deleted("own-@"), own),
        "grown in vain with assignments": (_grown(2, [[1]], False), own),
        "grown backwards, only validated": (_grown(1, None, True), own),
        "grown with assignments, only validated": (_grown(4, [[1], [1]], True), own),
        "grown with too few assignments, only validated": (_grown(5, [[1]], True), own),
        "deleted, then grown": (_deleted("own-@"), _grown(5, None, False)),
        "deleted, then changed": (_deleted("own-@"), _changed(TOPIC, "own-@", (SET, "retention.ms", "1"))),
        "deleted, then produced to": (_deleted("own-@"), _produced("own-@", BATCHES[0])),
        "deleted, then looked into": (_deleted("own-@"), *look_at_offsets("own-@", -1, -2, -3)),
    }  # fmt: skip


# -- logs --------------------------------------------------------------------------------------------------------------


def _produced(topic: str, records: Any, acks: int = -1) -> Step:
    data = [pf.PartitionProduceData(index=0, records=records)]
    wanted = [pf.TopicProduceData(name=topic, partition_data=data)]
    return Step(pf.ProduceRequest(acks=acks, timeout_ms=5000, topic_data=wanted), 9)


def _cut(offset: int) -> Step:
    part = t.DeleteRecordsPartition(partition_index=0, offset=offset)
    topics = [t.DeleteRecordsTopic(name="own-@", partitions=[part])]
    return Step(t.DeleteRecordsRequest(topics=topics, timeout_ms=5000), 2)


def _of_logs() -> dict[str, tuple[Step, ...]]:
    times = look_at_offsets("own-@", -1, -2, -3, TIME, TIME + 4500, TIME + 9000, TIME + 9001)
    newer = tuple(Step(request, 10) for step in look_at_offsets("own-@", -4, -5, -6) for request in [step.request])
    same: Any = bytes(build_batch([(TIME + 20_000, b"k", b"v"), (TIME + 20_000, b"k", b"w"), (TIME, b"k", b"x")]))
    packed: Any = bytes(build_batch([(TIME + 20_000, b"k", b"v"), (TIME + 30_000, b"k", b"w")], compression=3))
    old: Any = bytes(build_batch([(-1, b"k", b"v")]))
    return {
        "in a batch's middle, then every time": (_cut(6), *times, *newer, look_at_records("own-@")),
        "all of it, then every time": (_cut(-1), *times, *newer, look_at_records("own-@")),
        "all of it, then produced": (_cut(10), _produced("own-@", BATCHES[0]), *times, look_at_records("own-@")),
        "twice, the second below": (_cut(8), _cut(2), *look_at_offsets("own-@", -2, -4)),
        "above the end, then at it": (_cut(11), _cut(10), *look_at_offsets("own-@", -2)),
        "two largest times in one batch": (_produced("own-@", same), *look_at_offsets("own-@", -3, TIME + 10_000)),
        "a largest time, then cut": (_produced("own-@", same), _cut(11), *look_at_offsets("own-@", -3, TIME + 10_000)),
        "a packed batch, then its times": (
            _produced("own-@", packed), *look_at_offsets("own-@", -3, TIME + 20_001, TIME + 30_000, TIME + 30_001),
        ),
        "no time, then every time": (_produced("own-@", old), *look_at_offsets("own-@", -1, -3, 0, TIME + 9001)),
    }  # fmt: skip


# -- groups ------------------------------------------------------------------------------------------------------------


def _beat(epoch: int, member: str = MEMBER_ID, group: str = "new-@", **fields: Any) -> Step:
    joins: dict[str, Any] = {"rebalance_timeout_ms": 60_000, "topic_partitions": []} if epoch == 0 else {}
    request = k.ConsumerGroupHeartbeatRequest(
        group_id=group, member_id=member, member_epoch=epoch, **{**joins, **fields}
    )
    return Step(request, 1)


def _of_groups() -> dict[str, tuple[Step, ...]]:
    looks = (
        Step(k.ConsumerGroupDescribeRequest(group_ids=["new-@"], include_authorized_operations=False), 1),
        look_at_group("new-@"),
    )
    one = {"subscribed_topic_names": ["one"]}
    static = {"instance_id": "i", **one}
    part = o.OffsetCommitRequestPartition(partition_index=0, committed_offset=3)
    committed = Step(
        o.OffsetCommitRequest(
            group_id="new-@", generation_id_or_member_epoch=1, member_id=MEMBER_ID,
            topics=[o.OffsetCommitRequestTopic(name="own-@", partitions=[part])],
        ),
        9,
    )  # fmt: skip
    return {
        "a static member, then another of its name": (_beat(0, **static), _beat(0, OTHER_MEMBER_ID, **static), *looks),
        "a static member leaves for a while, another comes": (
            _beat(0, **static), _beat(-2, instance_id="i"), _beat(0, OTHER_MEMBER_ID, **static), *looks,
        ),
        "a static member leaves for good": (_beat(0, **static), _beat(-1, instance_id="i"), *looks),
        "a static member leaves without its name": (_beat(0, **static), _beat(-1), *looks),
        "a member that is not static leaves for a while": (_beat(0, **one), _beat(-2, instance_id="i"), *looks),
        "a member leaves twice": (_beat(0, **one), _beat(-1), _beat(-1), *looks),
        "a member says another rack": (_beat(0, rack_id="a", **one), _beat(1, rack_id="b"), *looks),
        "a member says a broken expression": (_beat(0, **one), _beat(1, subscribed_topic_regex="o["), *looks),
        "a member says another assignor": (_beat(0, **one), _beat(1, server_assignor="range"), *looks),
        "a member says an unknown assignor": (_beat(0, **one), _beat(1, server_assignor="no"), *looks),
        "a member of a topic that is deleted": (
            _beat(0, subscribed_topic_names=["own-@"]), _deleted("own-@"), committed,
        ),
        "a static member with an expression over nothing": (
            _beat(0, instance_id="i", subscribed_topic_regex="nothing-@.*"), *looks,
        ),
    }  # fmt: skip
