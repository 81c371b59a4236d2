"""One sensible request of each API: what the oddities are made from, and what to look at once it was answered.

`before` and `after` are steps around it: `after` tells whether what was said is what was done. A name with `@` is made
for the probe alone (`stage.py`), so an API that changes something speaks of "own-@", one that only reads of "one".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from stage import ASSIGNMENT, BATCHES, MEMBER_ID, SUBSCRIPTION, TIME
from steps import Probe, Ref, Step, id_of, producer_of

from kafka_wire.api import APIS, ApiKey
from kafka_wire.messages import admin as f
from kafka_wire.messages import configs as c
from kafka_wire.messages import consumer_groups as k
from kafka_wire.messages import group_admin as a
from kafka_wire.messages import group_offsets as o
from kafka_wire.messages import groups as g
from kafka_wire.messages import internal as i
from kafka_wire.messages import metadata as m
from kafka_wire.messages import offsets as lo
from kafka_wire.messages import produce_fetch as pf
from kafka_wire.messages import topics as t
from kafka_wire.messages import transactions as x

TOPIC, BROKER, GROUP = 2, 4, 32
MEMBER, CONSUMER = Ref("member of member-@"), Ref("member of consumer-@")


class Sensible(NamedTuple):
    """`request` for each version; steps before and after it."""

    request: Callable[[int], Any]
    after: tuple[Step, ...] = ()


# -- what was done -----------------------------------------------------------------------------------------------------


def look_at_topics(*names: str) -> Step:
    """Which of these topics are there, with how many partitions?"""
    asked = [m.MetadataRequestTopic(name=name) for name in names]
    return Step(m.MetadataRequest(topics=asked, allow_auto_topic_creation=False), 12)


def look_at_offsets(topic: str, *timestamps: int, partition: int = 0) -> tuple[Step, ...]:
    """Beginning, end, or what is at a time."""
    return tuple(
        Step(_list_offsets_request(7, topic, lo.ListOffsetsPartition(partition_index=partition, timestamp=each)), 7)
        for each in timestamps
    )


def look_at_records(topic: str, partition: int = 0, offset: int = 0) -> Step:
    """All batches from the beginning, or an offset."""
    part = pf.FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=1 << 20)
    asked = [pf.FetchTopic(topic=topic, partitions=[part])]
    return Step(pf.FetchRequest(max_wait_ms=0, min_bytes=0, topics=asked), 11)


def look_at_configs(kind: int, name: str, *keys: str) -> Step:
    asked = [c.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=list(keys))]
    return Step(c.DescribeConfigsRequest(resources=asked), 4)


def look_at_group(name: str) -> Step:
    return Step(a.DescribeGroupsRequest(groups=[name]), 6)


def look_at_commits(name: str) -> Step:
    return Step(o.OffsetFetchRequest(groups=[o.OffsetFetchRequestGroup(group_id=name, topics=None)]), 8)


def look_at_transaction(name: str) -> Step:
    return Step(x.DescribeTransactionsRequest(transactional_ids=[name]), 0)


# -- the requests ------------------------------------------------------------------------------------------------------


def _produce(version: int) -> Any:
    data = [pf.PartitionProduceData(index=0, records=BATCHES[0])]
    topic = pf.TopicProduceData(name="own-@", topic_id=id_of("own-@"), partition_data=data)
    return pf.ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[topic])


def _fetch(version: int) -> Any:
    part = pf.FetchPartition(partition=0, fetch_offset=5, partition_max_bytes=1 << 20)
    topic = pf.FetchTopic(topic="one", topic_id=id_of("one"), partitions=[part])
    return pf.FetchRequest(max_wait_ms=50, min_bytes=1, max_bytes=1 << 20, topics=[topic])


def _list_offsets(version: int) -> Any:
    return _list_offsets_request(version, "one", lo.ListOffsetsPartition(partition_index=0, timestamp=TIME + 4500))


def _list_offsets_request(version: int, topic: str, part: Any) -> Any:
    return lo.ListOffsetsRequest(
        replica_id=-1, topics=[lo.ListOffsetsTopic(name=topic, partitions=[part])], timeout_ms=5000
    )


def _metadata(version: int) -> Any:
    return m.MetadataRequest(topics=[m.MetadataRequestTopic(name="one")], allow_auto_topic_creation=False)


def _offset_commit(version: int) -> Any:
    part = o.OffsetCommitRequestPartition(partition_index=0, committed_offset=7, committed_metadata="m")
    topic = o.OffsetCommitRequestTopic(name="one", topic_id=id_of("one"), partitions=[part])
    return o.OffsetCommitRequest(group_id="group-@", topics=[topic])


def _offset_fetch(version: int) -> Any:
    if version < 8:
        topics = [o.OffsetFetchRequestTopic(name="three", partition_indexes=[0, 1])]
        return o.OffsetFetchRequest(group_id="group", topics=topics)
    asked = [o.OffsetFetchRequestTopics(name="three", topic_id=id_of("three"), partition_indexes=[0, 1])]
    return o.OffsetFetchRequest(groups=[o.OffsetFetchRequestGroup(group_id="group", topics=asked)])


def _find_coordinator(version: int) -> Any:
    return (
        g.FindCoordinatorRequest(key="group") if version < 4 else g.FindCoordinatorRequest(coordinator_keys=["group"])
    )


def _join_group(version: int) -> Any:
    protocol = g.JoinGroupRequestProtocol(name="range", metadata=SUBSCRIPTION)
    return g.JoinGroupRequest(
        group_id="group-@", session_timeout_ms=30_000, rebalance_timeout_ms=5000, member_id="",
        protocol_type="consumer", protocols=[protocol],
    )  # fmt: skip


def _heartbeat(version: int) -> Any:
    return g.HeartbeatRequest(group_id="member-@", generation_id=1, member_id=MEMBER)  # type: ignore[arg-type]


def _leave_group(version: int) -> Any:
    if version < 3:
        return g.LeaveGroupRequest(group_id="member-@", member_id=MEMBER)  # type: ignore[arg-type]
    return g.LeaveGroupRequest(group_id="member-@", members=[g.MemberIdentity(member_id=MEMBER)])  # type: ignore[arg-type]


def _sync_group(version: int) -> Any:
    share = g.SyncGroupRequestAssignment(member_id=MEMBER, assignment=ASSIGNMENT)  # type: ignore[arg-type]
    return g.SyncGroupRequest(
        group_id="member-@", generation_id=1, member_id=MEMBER,  # type: ignore[arg-type]
        protocol_type="consumer", protocol_name="range", assignments=[share],
    )  # fmt: skip


def _describe_groups(version: int) -> Any:
    return a.DescribeGroupsRequest(groups=["member"])


def _list_groups(version: int) -> Any:
    return a.ListGroupsRequest()


def _api_versions(version: int) -> Any:
    return m.ApiVersionsRequest(client_software_name="odd", client_software_version="1.0")


def _create_topics(version: int) -> Any:
    topic = t.CreatableTopic(
        name="new-@", num_partitions=1, replication_factor=1, assignments=[],
        configs=[t.CreatableTopicConfig(name="retention.ms", value="100000")],
    )  # fmt: skip
    return t.CreateTopicsRequest(topics=[topic], timeout_ms=5000)


def _delete_topics(version: int) -> Any:
    if version < 6:
        return t.DeleteTopicsRequest(topic_names=["own-@"], timeout_ms=5000)
    return t.DeleteTopicsRequest(topics=[t.DeleteTopicState(name="own-@", topic_id=bytes(16))], timeout_ms=5000)


def _delete_records(version: int) -> Any:
    part = t.DeleteRecordsPartition(partition_index=0, offset=3)
    return t.DeleteRecordsRequest(topics=[t.DeleteRecordsTopic(name="own-@", partitions=[part])], timeout_ms=5000)


def _init_producer_id(version: int) -> Any:
    return x.InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000)


def _describe_producers(version: int) -> Any:
    return x.DescribeProducersRequest(topics=[x.DescribeProducersTopic(name="one", partition_indexes=[0])])


def _offset_for_leader_epoch(version: int) -> Any:
    part = lo.OffsetForLeaderPartition(partition=0, current_leader_epoch=-1, leader_epoch=0)
    return lo.OffsetForLeaderEpochRequest(
        replica_id=-1, topics=[lo.OffsetForLeaderTopic(topic="one", partitions=[part])]
    )


def _describe_configs(version: int) -> Any:
    asked = c.DescribeConfigsResource(
        resource_type=TOPIC, resource_name="one", configuration_keys=["retention.ms", "cleanup.policy"]
    )
    return c.DescribeConfigsRequest(resources=[asked])


def _alter_configs(version: int) -> Any:
    wanted = c.AlterConfigsResource(
        resource_type=TOPIC, resource_name="own-@", configs=[c.AlterableConfig(name="retention.ms", value="5000")]
    )
    return c.AlterConfigsRequest(resources=[wanted], validate_only=False)


def _incremental_alter_configs(version: int) -> Any:
    change = c.IncrementalAlterableConfig(name="retention.ms", config_operation=0, value="5000")
    wanted = c.IncrementalAlterConfigsResource(resource_type=TOPIC, resource_name="own-@", configs=[change])
    return c.IncrementalAlterConfigsRequest(resources=[wanted], validate_only=False)


def _describe_log_dirs(version: int) -> Any:
    return t.DescribeLogDirsRequest(topics=[t.DescribableLogDirTopic(topic="one", partitions=[0])])


def _create_partitions(version: int) -> Any:
    wanted = t.CreatePartitionsTopic(name="own-@", count=3, assignments=None)
    return t.CreatePartitionsRequest(topics=[wanted], timeout_ms=5000, validate_only=False)


def _delete_groups(version: int) -> Any:
    return a.DeleteGroupsRequest(groups_names=["group-@"])


def _offset_delete(version: int) -> Any:
    part = o.OffsetDeleteRequestPartition(partition_index=0)
    return o.OffsetDeleteRequest(
        group_id="group-@", topics=[o.OffsetDeleteRequestTopic(name="three", partitions=[part])]
    )


def _describe_cluster(version: int) -> Any:
    return m.DescribeClusterRequest(include_cluster_authorized_operations=False)


def _consumer_group_heartbeat(version: int) -> Any:
    return k.ConsumerGroupHeartbeatRequest(
        group_id="heard-@", member_id=MEMBER_ID, member_epoch=0, rebalance_timeout_ms=60_000,
        subscribed_topic_names=["one"], topic_partitions=[],
    )  # fmt: skip


def _consumer_group_describe(version: int) -> Any:
    return k.ConsumerGroupDescribeRequest(group_ids=["consumer"], include_authorized_operations=False)


def _list_config_resources(version: int) -> Any:
    return c.ListConfigResourcesRequest()


def _describe_topic_partitions(version: int) -> Any:
    return m.DescribeTopicPartitionsRequest(topics=[m.DescribeTopicPartitionsTopic(name="three")])


def _add_partitions_to_txn(version: int) -> Any:
    topics = [x.AddPartitionsToTxnTopic(name="own-@", partitions=[0, 1])]
    if version < 4:
        return x.AddPartitionsToTxnRequest(
            v3_and_below_transactional_id="idle-@", v3_and_below_producer_id=producer_of("idle-@"),
            v3_and_below_producer_epoch=0, v3_and_below_topics=topics,
        )  # fmt: skip
    wanted = x.AddPartitionsToTxnTransaction(
        transactional_id="idle-@", producer_id=producer_of("idle-@"), producer_epoch=0, topics=topics
    )
    return x.AddPartitionsToTxnRequest(transactions=[wanted])


def _add_offsets_to_txn(version: int) -> Any:
    return x.AddOffsetsToTxnRequest(
        transactional_id="idle-@", producer_id=producer_of("idle-@"), producer_epoch=0, group_id="group-@"
    )


def _end_txn(version: int) -> Any:
    return x.EndTxnRequest(
        transactional_id="open-@", producer_id=producer_of("open-@"), producer_epoch=0, committed=True
    )


def _write_txn_markers(version: int) -> Any:
    topics = [i.WritableTxnMarkerTopic(name="own-@", partition_indexes=[0])]
    marker = i.WritableTxnMarker(
        producer_id=producer_of("open-@"), producer_epoch=0, transaction_result=False, topics=topics,
        coordinator_epoch=0,
    )  # fmt: skip
    return i.WriteTxnMarkersRequest(markers=[marker])


def _txn_offset_commit(version: int) -> Any:
    part = x.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=7, committed_metadata="m")
    return x.TxnOffsetCommitRequest(
        transactional_id="open-@", group_id="group-@", producer_id=producer_of("open-@"), producer_epoch=0,
        topics=[x.TxnOffsetCommitRequestTopic(name="one", partitions=[part])],
    )  # fmt: skip


def _update_features(version: int) -> Any:
    """To what is there, so that every other probe finds the same."""
    update = f.FeatureUpdateKey(feature="transaction.version", max_version_level=2, upgrade_type=1)
    return f.UpdateFeaturesRequest(timeout_ms=5000, feature_updates=[update], validate_only=version > 0)


def _alter_replica_log_dirs(version: int) -> Any:
    topic = t.AlterReplicaLogDirTopic(name="one", partitions=[0])
    return t.AlterReplicaLogDirsRequest(dirs=[t.AlterReplicaLogDir(path=Ref("log directory"), topics=[topic])])  # type: ignore[arg-type]


def _elect_leaders(version: int) -> Any:
    asked = [f.ElectLeadersTopic(topic="own-@", partitions=[0])]
    return f.ElectLeadersRequest(topic_partitions=asked, timeout_ms=5000)


def _alter_partition_reassignments(version: int) -> Any:
    wanted = f.ReassignablePartition(partition_index=0, replicas=[1])
    topic = f.ReassignableTopic(name="own-@", partitions=[wanted])
    return f.AlterPartitionReassignmentsRequest(timeout_ms=5000, topics=[topic])


def _list_partition_reassignments(version: int) -> Any:
    asked = f.ListPartitionReassignmentsTopics(name="one", partition_indexes=[0])
    return f.ListPartitionReassignmentsRequest(timeout_ms=5000, topics=[asked])


def _describe_quorum(version: int) -> Any:
    metadata = f.DescribeQuorumTopic(
        topic_name="__cluster_metadata", partitions=[f.DescribeQuorumPartition(partition_index=0)]
    )
    return f.DescribeQuorumRequest(topics=[metadata])


def _unregister_broker(version: int) -> Any:
    return f.UnregisterBrokerRequest(broker_id=77)


def _describe_transactions(version: int) -> Any:
    return x.DescribeTransactionsRequest(transactional_ids=["open", "idle"])


def _list_transactions(version: int) -> Any:
    return x.ListTransactionsRequest(state_filters=["Ongoing"], producer_id_filters=[producer_of("open")])


CONFIGS_OF_OWN = look_at_configs(TOPIC, "own-@", "retention.ms", "cleanup.policy", "segment.bytes")

SENSIBLE: dict[int, Sensible] = {
    ApiKey.PRODUCE: Sensible(_produce, (look_at_records("own-@"), *look_at_offsets("own-@", -1, -3))),
    ApiKey.FETCH: Sensible(_fetch),
    ApiKey.LIST_OFFSETS: Sensible(_list_offsets),
    ApiKey.METADATA: Sensible(_metadata),
    ApiKey.OFFSET_COMMIT: Sensible(_offset_commit, (look_at_commits("group-@"),)),
    ApiKey.OFFSET_FETCH: Sensible(_offset_fetch),
    ApiKey.FIND_COORDINATOR: Sensible(_find_coordinator),
    ApiKey.JOIN_GROUP: Sensible(_join_group, (look_at_group("group-@"),)),
    ApiKey.HEARTBEAT: Sensible(_heartbeat),
    ApiKey.LEAVE_GROUP: Sensible(_leave_group, (look_at_group("member-@"),)),
    ApiKey.SYNC_GROUP: Sensible(_sync_group, (look_at_group("member-@"),)),
    ApiKey.DESCRIBE_GROUPS: Sensible(_describe_groups),
    ApiKey.LIST_GROUPS: Sensible(_list_groups),
    ApiKey.API_VERSIONS: Sensible(_api_versions),
    ApiKey.CREATE_TOPICS: Sensible(
        _create_topics, (look_at_topics("new-@"), look_at_configs(TOPIC, "new-@", "retention.ms"))
    ),
    ApiKey.DELETE_TOPICS: Sensible(_delete_topics, (look_at_topics("own-@"),)),
    ApiKey.DELETE_RECORDS: Sensible(_delete_records, look_at_offsets("own-@", -2, -1)),
    ApiKey.INIT_PRODUCER_ID: Sensible(_init_producer_id),
    ApiKey.ADD_PARTITIONS_TO_TXN: Sensible(_add_partitions_to_txn, (look_at_transaction("idle-@"),)),
    ApiKey.ADD_OFFSETS_TO_TXN: Sensible(_add_offsets_to_txn, (look_at_transaction("idle-@"),)),
    ApiKey.END_TXN: Sensible(_end_txn, (look_at_transaction("open-@"),)),
    # What Kafka reads ends with a segment, and it begins one where our records of long ago are followed by a marker.
    ApiKey.WRITE_TXN_MARKERS: Sensible(_write_txn_markers, (look_at_records("own-@", offset=10),)),
    ApiKey.TXN_OFFSET_COMMIT: Sensible(_txn_offset_commit, (look_at_commits("group-@"),)),
    ApiKey.UPDATE_FEATURES: Sensible(_update_features),
    ApiKey.DESCRIBE_PRODUCERS: Sensible(_describe_producers),
    ApiKey.DESCRIBE_TRANSACTIONS: Sensible(_describe_transactions),
    ApiKey.LIST_TRANSACTIONS: Sensible(_list_transactions),
    ApiKey.OFFSET_FOR_LEADER_EPOCH: Sensible(_offset_for_leader_epoch),
    ApiKey.DESCRIBE_CONFIGS: Sensible(_describe_configs),
    ApiKey.ALTER_CONFIGS: Sensible(_alter_configs, (CONFIGS_OF_OWN,)),
    ApiKey.INCREMENTAL_ALTER_CONFIGS: Sensible(_incremental_alter_configs, (CONFIGS_OF_OWN,)),
    ApiKey.DESCRIBE_LOG_DIRS: Sensible(_describe_log_dirs),
    ApiKey.ALTER_REPLICA_LOG_DIRS: Sensible(_alter_replica_log_dirs),
    ApiKey.ELECT_LEADERS: Sensible(_elect_leaders, (look_at_topics("own-@"),)),
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: Sensible(_alter_partition_reassignments, (look_at_topics("own-@"),)),
    ApiKey.LIST_PARTITION_REASSIGNMENTS: Sensible(_list_partition_reassignments),
    ApiKey.DESCRIBE_QUORUM: Sensible(_describe_quorum),
    ApiKey.UNREGISTER_BROKER: Sensible(_unregister_broker),
    ApiKey.CREATE_PARTITIONS: Sensible(_create_partitions, (look_at_topics("own-@"),)),
    ApiKey.DELETE_GROUPS: Sensible(_delete_groups, (look_at_commits("group-@"),)),
    ApiKey.OFFSET_DELETE: Sensible(_offset_delete, (look_at_commits("group-@"),)),
    ApiKey.DESCRIBE_CLUSTER: Sensible(_describe_cluster),
    ApiKey.CONSUMER_GROUP_HEARTBEAT: Sensible(
        _consumer_group_heartbeat,
        (Step(k.ConsumerGroupDescribeRequest(group_ids=["heard-@"], include_authorized_operations=False), 1),),
    ),
    ApiKey.CONSUMER_GROUP_DESCRIBE: Sensible(_consumer_group_describe),
    ApiKey.LIST_CONFIG_RESOURCES: Sensible(_list_config_resources),
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: Sensible(_describe_topic_partitions),
}


def single(title: str, request: Any, *versions: int, after: Iterable[Step] | None = None) -> Iterator[Probe]:
    """A probe for each version: the same request, then what its API looks at or `after`."""
    for version in versions:
        step = Step(request, version)
        looks = SENSIBLE[step.key].after if after is None else tuple(after)
        yield Probe(f"{APIS[step.key].name} v{version}: {title}", (step, *looks))
