"""What is there before a probe speaks: the same topics, records, groups and members on either broker.

Owns: the state on the broker, and what is known of it (topic IDs, member ids). A probe gets what it names: "own-@"
in a request makes the topic for this probe alone. What the names without `@` stand for is made once and only read.

    one        1 partition   offsets 0-9 in three batches (plain, gzip, plain), a record a second from TIME on
    three      3 partitions  0: as in `one`, but begins at offset 4 · 1: one record · 2: empty
    own-@      2 partitions  0: as in `one` · 1: empty
    compact-@  1 partition   compacted, empty
    stamped-@  1 partition   LogAppendTime, empty
    fresh-@    1 partition   bounds its records' times by an hour before and after, empty
    group      committed offsets of `one` and `three`, nobody in it           (group-@ likewise)
    member     a classic group with one member, in generation 1               (member-@)
    consumer   a group of the consumer protocol with one member               (consumer-@)
    idle       a transactional id with a producer in epoch 0                  (idle-@)
    open       likewise, with an open transaction                             (open-@: own-@ 0 and group-@ are in it)
"""

from __future__ import annotations

import time
from typing import Any

from exchange import Connection
from steps import Probe, names

from kafka_wire.codegen import encode
from kafka_wire.messages import (
    admin,
    consumer_groups,
    group_offsets,
    groups,
    metadata,
    offsets,
    produce_fetch,
    topics,
    transactions,
)
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kafka_wire.records import build_batch
from kafka_wire.schema import layout

TIME = 1_700_000_000_000
PATIENCE_S = 10.0
SETTLED_S = 20.0
MEMBER_ID = "b2RkbmVzcy1pcy1vdXJz"  # a member of the consumer protocol names itself

PARTITIONS = {"one": 1, "three": 3, "own-@": 2, "compact-@": 1, "stamped-@": 1, "fresh-@": 1}
CONFIGS = {
    "compact-@": {"cleanup.policy": "compact"},
    "stamped-@": {"message.timestamp.type": "LogAppendTime"},
    "fresh-@": {"message.timestamp.before.max.ms": "3600000", "message.timestamp.after.max.ms": "3600000"},
}
CONTENT: dict[str, dict[int, int]] = {"one": {0: 3}, "three": {0: 3, 1: 1}, "own-@": {0: 3}}  # batches by partition
BEGINS = {"three": {0: 4}}
BATCHES = (
    bytes(build_batch([(TIME + n * 1000, b"key", b"value %d" % n) for n in range(4)])),
    bytes(build_batch([(TIME + n * 1000, b"key", b"value %d" % n) for n in range(4, 9)], compression=1)),
    bytes(build_batch([(TIME + 9000, None, b"value 9", [("header", b"x")])])),
)
# What members of the classic protocol tell each other (version 0). Kafka reads it too, and on garbage never answers.
SUBSCRIPTION = b"\x00\x00" + encode(ConsumerProtocolSubscription(topics=["one"]), 0)
ASSIGNMENT = b"\x00\x00" + encode(
    ConsumerProtocolAssignment(
        assigned_partitions=[ConsumerProtocolTopicPartitions(topic="one", partitions=[0])], user_data=None
    ),
    0,
)
COMMITS = {"one": {0: 4}, "three": {0: 5, 1: 1}}


class Stage:
    """One broker's state, and what is known of it."""

    def __init__(self, bootstrap: str) -> None:
        self._connection = Connection(bootstrap, PATIENCE_S)
        self.known: dict[str, Any] = {}

    def close(self) -> None:
        self._connection.close()

    def prepare_base(self) -> None:
        """Make what the names without `@` stand for."""
        self._await_producer_ids()
        self._raise_level()
        directories = self.ask(topics.DescribeLogDirsRequest(topics=[]), 4).results
        self.known["log directory"] = directories[0].log_dir
        for name in ("one", "three"):
            self._make_topic(name, name)
        for make, name in (
            (self._make_group, "group"),
            (self._make_member, "member"),
            (self._make_consumer, "consumer"),
            (self._make_idle, "idle"),
        ):
            make(name, name)
        self._make_open("open", "open", {"three": [0, 2]}, None)

    def prepare(self, probe: Probe) -> dict[str, Any]:
        """Make what a probe names; everything that is known, for this probe."""
        outer, self.known = self.known, dict(self.known)
        wanted = {
            name.removeprefix("id of ").removeprefix("member of ").removeprefix("producer of ")
            for s in probe.steps
            for name in names(s.request)
        }
        if "open-@" in wanted:
            wanted |= {"own-@", "group-@"}
        for name in sorted(wanted & PARTITIONS.keys() - CONTENT.keys() | wanted & {"own-@"}):
            self._make_topic(name, name.replace("@", probe.tag))
        makers = {
            "group-@": self._make_group,
            "member-@": self._make_member,
            "consumer-@": self._make_consumer,
            "idle-@": self._make_idle,
        }
        for name in sorted(wanted & makers.keys()):
            makers[name](name, name.replace("@", probe.tag))
        if "open-@" in wanted:
            own, group = (each.replace("@", probe.tag) for each in ("own-@", "group-@"))
            self._make_open("open-@", "open-@".replace("@", probe.tag), {own: [0]}, group)
        found, self.known = self.known, outer
        return found

    def ask(self, request: Any, version: int) -> Any:
        """The answer to a request that has one. Raises RuntimeError otherwise."""
        answer = self._connection.ask(request, layout(type(request)).key or 0, version)
        if answer.fate != "answered":
            raise RuntimeError(f"{type(request).__name__} was {answer.fate} while the stage was set")
        return answer.message

    # -- topics ------------------------------------------------------------------------------------------------------

    def _make_topic(self, name: str, real: str) -> None:
        configs = {"retention.ms": "-1", **CONFIGS.get(name, {})}
        topic = topics.CreatableTopic(
            name=real, num_partitions=PARTITIONS[name], replication_factor=1, assignments=[],
            configs=[topics.CreatableTopicConfig(name=key, value=value) for key, value in configs.items()],
        )  # fmt: skip
        created = self.ask(topics.CreateTopicsRequest(topics=[topic], timeout_ms=10_000), 7).topics[0]
        _succeeded(created.error_code, f"creating {real}")
        self.known[f"id of {name}"] = bytes(created.topic_id)
        self._await_leaders(real, PARTITIONS[name])
        for partition, count in CONTENT.get(name, {}).items():
            for batch in BATCHES[:count]:
                self._produce(real, partition, batch)
        for partition, offset in BEGINS.get(name, {}).items():
            self._delete_records(real, partition, offset)

    def _await_leaders(self, real: str, partitions: int) -> None:
        wanted = metadata.MetadataRequest(
            topics=[metadata.MetadataRequestTopic(name=real)], allow_auto_topic_creation=False
        )
        listed = offsets.ListOffsetsRequest(
            replica_id=-1,
            topics=[
                offsets.ListOffsetsTopic(
                    name=real,
                    partitions=[
                        offsets.ListOffsetsPartition(partition_index=n, timestamp=-1) for n in range(partitions)
                    ],
                )
            ],
        )
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            found = self.ask(wanted, 12).topics[0].partitions
            led = len(found) == partitions and all(p.leader_id >= 0 for p in found)
            if led and not any(p.error_code for p in self.ask(listed, 2).topics[0].partitions):
                return
            time.sleep(0.005)
        raise RuntimeError(f"{real} had no leaders within {SETTLED_S:.0f} s")

    def _produce(self, real: str, partition: int, batch: bytes) -> None:
        data = [produce_fetch.PartitionProduceData(index=partition, records=batch)]
        request = produce_fetch.ProduceRequest(
            acks=-1, timeout_ms=10_000, topic_data=[produce_fetch.TopicProduceData(name=real, partition_data=data)]
        )
        _succeeded(self.ask(request, 9).responses[0].partition_responses[0].error_code, f"producing to {real}")

    def _delete_records(self, real: str, partition: int, offset: int) -> None:
        parts = [topics.DeleteRecordsPartition(partition_index=partition, offset=offset)]
        request = topics.DeleteRecordsRequest(
            topics=[topics.DeleteRecordsTopic(name=real, partitions=parts)], timeout_ms=10_000
        )
        _succeeded(self.ask(request, 2).topics[0].partitions[0].error_code, f"deleting records of {real}")

    def _await_producer_ids(self) -> None:
        """Until the broker has ids to give: Kafka fetches its first ones when it is first asked."""
        request = transactions.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0)
        deadline = time.monotonic() + SETTLED_S
        while self.ask(request, 1).error_code:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no producer ids within {SETTLED_S:.0f} s")
            time.sleep(0.02)

    # -- groups ------------------------------------------------------------------------------------------------------

    def _make_group(self, name: str, real: str) -> None:
        request = group_offsets.OffsetCommitRequest(
            group_id=real,
            topics=[
                group_offsets.OffsetCommitRequestTopic(
                    name=topic,
                    partitions=[
                        group_offsets.OffsetCommitRequestPartition(
                            partition_index=index, committed_offset=offset, committed_metadata="note"
                        )
                        for index, offset in partitions.items()
                    ],
                )
                for topic, partitions in COMMITS.items()
            ],
        )
        self._await_coordinator(real)
        answer = self.ask(request, 8)
        _succeeded(max(p.error_code for t in answer.topics for p in t.partitions), f"committing for {real}")

    def _make_member(self, name: str, real: str) -> None:
        self._await_coordinator(real)
        protocol = groups.JoinGroupRequestProtocol(name="range", metadata=SUBSCRIPTION)
        joined = self.ask(
            groups.JoinGroupRequest(
                group_id=real, session_timeout_ms=1_800_000, rebalance_timeout_ms=1000, member_id="",
                protocol_type="consumer", protocols=[protocol],
            ),
            3,
        )  # fmt: skip
        _succeeded(joined.error_code, f"joining {real}")
        self.known[f"member of {name}"] = joined.member_id
        share = groups.SyncGroupRequestAssignment(member_id=joined.member_id, assignment=ASSIGNMENT)
        synced = self.ask(
            groups.SyncGroupRequest(group_id=real, generation_id=1, member_id=joined.member_id, assignments=[share]), 3
        )
        _succeeded(synced.error_code, f"synchronising {real}")

    def _make_consumer(self, name: str, real: str) -> None:
        self._await_coordinator(real)
        self.known[f"member of {name}"] = MEMBER_ID
        epoch = 0
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            beat = self.ask(
                consumer_groups.ConsumerGroupHeartbeatRequest(
                    group_id=real, member_id=MEMBER_ID, member_epoch=epoch, rebalance_timeout_ms=60_000,
                    subscribed_topic_names=["one"], topic_partitions=[] if epoch == 0 else None,
                ),
                1,
            )  # fmt: skip
            _succeeded(beat.error_code, f"joining {real}")
            if beat.assignment is not None and beat.assignment.topic_partitions:
                return
            epoch = beat.member_epoch
            time.sleep(0.02)
        raise RuntimeError(f"{real} was assigned nothing within {SETTLED_S:.0f} s")

    # -- transactions ------------------------------------------------------------------------------------------------

    def _raise_level(self) -> None:
        """Both brokers run transactions by the same rules, whatever theirs are at first."""
        update = admin.FeatureUpdateKey(feature="transaction.version", max_version_level=2, upgrade_type=1)
        request = admin.UpdateFeaturesRequest(timeout_ms=10_000, feature_updates=[update])
        answer = self.ask(request, 1)
        _succeeded(answer.error_code or max(each.error_code for each in answer.results), "raising transaction.version")

    def _make_idle(self, name: str, real: str) -> transactions.InitProducerIdResponse:
        request = transactions.InitProducerIdRequest(transactional_id=real, transaction_timeout_ms=600_000)
        deadline = time.monotonic() + SETTLED_S
        while True:
            self.ask(groups.FindCoordinatorRequest(key_type=1, key=real), 2)
            made: transactions.InitProducerIdResponse = self.ask(request, 4)
            if not made.error_code or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        _succeeded(made.error_code, f"beginning as {real}")
        self.known[f"producer of {name}"] = made.producer_id
        for sequence in range(2):  # its first batches
            self.known[f"batch {sequence} of {name}"] = bytes(
                build_batch(
                    [(TIME + sequence, b"key", b"value %d" % sequence)], transactional=True,
                    producer_id=made.producer_id, producer_epoch=made.producer_epoch, base_sequence=sequence,
                )
            )  # fmt: skip
        return made

    def _make_open(self, name: str, real: str, partitions: dict[str, list[int]], group: str | None) -> None:
        producer = self._make_idle(name, real)
        added = self.ask(
            transactions.AddPartitionsToTxnRequest(
                v3_and_below_transactional_id=real,
                v3_and_below_producer_id=producer.producer_id,
                v3_and_below_producer_epoch=0,
                v3_and_below_topics=[
                    transactions.AddPartitionsToTxnTopic(name=topic, partitions=indexes)
                    for topic, indexes in partitions.items()
                ],
            ),
            3,
        )
        codes = [p.partition_error_code for t in added.results_by_topic_v3_and_below for p in t.results_by_partition]
        _succeeded(max(codes), f"adding partitions to {real}")
        if group is not None:
            request = transactions.AddOffsetsToTxnRequest(
                transactional_id=real, producer_id=producer.producer_id, producer_epoch=0, group_id=group
            )
            _succeeded(self.ask(request, 3).error_code, f"adding offsets to {real}")

    def _await_coordinator(self, group: str) -> None:
        """Until the group's coordinator has loaded: OffsetFetch is refused before."""
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            found = self.ask(groups.FindCoordinatorRequest(key=group), 2)
            if found.error_code == 0 and self.ask(group_offsets.OffsetFetchRequest(group_id=group), 5).error_code == 0:
                return
            time.sleep(0.02)
        raise RuntimeError(f"no coordinator for {group} within {SETTLED_S:.0f} s")


def _succeeded(error_code: int, what: str) -> None:
    if error_code:
        raise RuntimeError(f"{what}: error {error_code} while the stage was set")
