"""No request, however long, holds the event loop: each API is sent its largest sensible request, and lines are counted.

A row is an API, a version, and how to make a request of some COUNT entries: a handler that spends more than five lines
on an entry without letting others have a turn is found out, and a hundred thousand entries are served the same way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import trio

from kafka_wire.api import ApiKey, request_class
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.admin import (
    AlterPartitionReassignmentsRequest,
    DescribeQuorumPartition,
    DescribeQuorumRequest,
    DescribeQuorumTopic,
    ElectLeadersRequest,
    ElectLeadersTopic,
    FeatureUpdateKey,
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
    ReassignablePartition,
    ReassignableTopic,
    UpdateFeaturesRequest,
)
from kafka_wire.messages.configs import (
    AlterableConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    ListConfigResourcesRequest,
)
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest
from kafka_wire.messages.group_admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
)
from kafka_wire.messages.groups import (
    FindCoordinatorRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    LeaveGroupRequest,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kafka_wire.messages.internal import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest
from kafka_wire.messages.metadata import (
    ApiVersionsRequest,
    DescribeClusterRequest,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsTopic,
    MetadataRequest,
    MetadataRequestTopic,
)
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    ReplicaState,
    TopicProduceData,
)
from kafka_wire.messages.topics import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirTopic,
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
    DescribeProducersRequest,
    DescribeProducersTopic,
    DescribeTransactionsRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    ListTransactionsRequest,
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from kafka_wire.records import build_batch
from kbroker.api.registry import load
from kbroker.cli.broker.serve import import_the_rest
from kbroker.cluster.peers.introductions import introduce
from kbroker.server import connection
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from kbroker.testing.workers import InlineHelper
from tests.api.test_internal import image_of, meeting
from tests.log.content.odd_batches import batch_of, record
from tests.replication.tools import add_replica
from tests.server.loop_meter import LINES_MAX, LoopMeter

COUNT = 10_000
BYTES_MAX = 24_000_000  # of memory for one request, frames on both sides included: some thousand for each entry
LARGE = {  # whose memory is looked at: what they ask for is far larger than what they say
    "DescribeConfigs, brokers", "DescribeConfigs, topics", "DescribeGroups", "ConsumerGroupDescribe",
    "DeleteTopics, absent", "IncrementalAlterConfigs, absent", "OffsetFetch, all offsets over and over",
    "AddPartitionsToTxn, one over and over",
}  # fmt: skip
TOPICS = {"wide": 1000, **{f"topic-{n:03}": 1 for n in range(200)}}


class Row(NamedTuple):
    """One API's largest request; known: it is about what there is, else mostly about what there is not."""

    name: str
    version: int
    request: Callable[[], Any]
    prepare: Callable[[BareClient], Awaitable[None]] | None = None  # what is to be there before


def names(count: int = COUNT) -> list[str]:
    return [f"absent-{n}" for n in range(count)]


def tiny(count: int, codec: int = 0, *, latest: int = EPOCH_MS, delta_ms: int = 0) -> bytes:
    """A batch of tiny records."""
    payload = b"".join(record(delta_ms, offset=n, key=None, value=b"") for n in range(count))
    return bytes(batch_of(payload, count, codec, latest=latest + delta_ms))


def produced(batch: bytes, index: int = 0) -> ProduceRequest:
    data = PartitionProduceData(index=index, records=batch)
    return ProduceRequest(acks=1, timeout_ms=1000, topic_data=[TopicProduceData(name="wide", partition_data=[data])])


MANY_VALUES = "key in (" + ", ".join(['"k"'] * 400) + ")"


def view(name: str, source: str = "wide", **configs: str) -> CreatableTopic:
    own = {"source": source, **configs}
    rows = [CreatableTopicConfig(name=f"kbroker.view.{key}", value=value) for key, value in own.items()]
    return CreatableTopic(name=name, num_partitions=-1, replication_factor=-1, assignments=[], configs=rows)


async def _create_views(client: BareClient, *views: CreatableTopic) -> None:
    with trio.fail_after(60):
        answer = await client.call(CreateTopicsRequest(topics=list(views), timeout_ms=60_000), 7)
    assert not any(told.error_code for told in answer.topics)


async def _views(client: BareClient) -> None:
    """Two views of all partitions, each of which has a batch."""
    await _create_views(client, view("late", **{"lag.ms": "60000"}), view("tagged", tags="eu"))
    data = [PartitionProduceData(index=n, records=tiny(1)) for n in range(1000)]
    topics = [TopicProduceData(name="wide", partition_data=data)]
    await client.call(ProduceRequest(acks=1, timeout_ms=1000, topic_data=topics), 9)


async def _hundred_views(client: BareClient) -> None:
    await _create_views(client, *(view(f"view-{n}", tags="eu") for n in range(100)))


def fetch_of(topic: str) -> FetchRequest:
    asked = [FetchPartition(partition=n, fetch_offset=0, partition_max_bytes=1000) for n in range(1000)]
    topics = [FetchTopic(topic=topic, partitions=asked)] * 10
    return FetchRequest(max_wait_ms=500, min_bytes=1, session_epoch=0, topics=topics)


async def _commit_all(client: BareClient) -> None:
    """The group g has an offset of each partition of `wide`."""
    await client.call(FindCoordinatorRequest(key="g", key_type=0), 3)
    committed = await client.call(commit_request("wide"), 8)
    assert {each.error_code for each in committed.topics[0].partitions} == {0}


async def _many_groups(client: BareClient) -> None:
    await client.call(FindCoordinatorRequest(key="g", key_type=0), 3)
    for n in range(2_000):
        await client.call(commit_request("topic-000", 1, f"group-{n}"), 8)


async def _init(client: BareClient, transactional_id: str) -> int:
    """The producer id of a transactional id."""
    request = InitProducerIdRequest(transactional_id=transactional_id, transaction_timeout_ms=60_000)
    while (response := await client.call(request, 3)).error_code != ErrorCode.NONE:
        assert response.error_code in (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        await trio.lowlevel.checkpoint()
    return int(response.producer_id)


async def _begin_transaction(client: BareClient) -> None:
    """The producer of "x" has the first id there is."""
    assert await _init(client, "x") == 0


async def _wide_transaction(client: BareClient) -> None:
    """An open transaction with all partitions that there are."""
    await _begin_transaction(client)
    topics = [AddPartitionsToTxnTopic(name=name, partitions=list(range(count))) for name, count in TOPICS.items()]
    request = AddPartitionsToTxnRequest(
        v3_and_below_transactional_id="x", v3_and_below_producer_id=0, v3_and_below_producer_epoch=0,
        v3_and_below_topics=topics,
    )  # fmt: skip
    added = await client.call(request, 3)
    assert all(
        each.partition_error_code == 0 for t in added.results_by_topic_v3_and_below for each in t.results_by_partition
    )


async def _many_transactions(client: BareClient) -> None:
    for n in range(1000):
        await _init(client, f"x-{n}")


def transaction_to_add(
    transactional_id: str, topic: str, indexes: list[int], *, verify_only: bool = False
) -> AddPartitionsToTxnTransaction:
    return AddPartitionsToTxnTransaction(
        transactional_id=transactional_id,
        producer_id=0,
        producer_epoch=0,
        verify_only=verify_only,
        topics=[AddPartitionsToTxnTopic(name=topic, partitions=indexes)],
    )


def commit_request(topic: str, count: int = 1000, group: str = "g") -> OffsetCommitRequest:
    partitions = [OffsetCommitRequestPartition(partition_index=n, committed_offset=1) for n in range(count)]
    return OffsetCommitRequest(group_id=group, topics=[OffsetCommitRequestTopic(name=topic, partitions=partitions)])


def of_transaction() -> bytes:
    """A batch of the first producer that asks for an id."""
    return bytes(
        build_batch([(EPOCH_MS, b"", b"")], producer_id=0, producer_epoch=0, base_sequence=0, transactional=True)
    )


async def _coordinated(client: BareClient) -> None:
    """A transactional id has a producer, and the cluster goes by transactions v2."""
    update = FeatureUpdateKey(feature="transaction.version", max_version_level=2, upgrade_type=1)
    await client.call(UpdateFeaturesRequest(feature_updates=[update]), 1)
    await client.call(FindCoordinatorRequest(key="tx", key_type=1), 3)
    made = await client.call(InitProducerIdRequest(transactional_id="tx", transaction_timeout_ms=60_000), 4)
    assert (made.error_code, made.producer_id, made.producer_epoch) == (0, 0, 0)


def offsets_of(topic: str, count: int, group: str = "g") -> TxnOffsetCommitRequest:
    """Offsets of a transaction; partitions that there are not are after those that there are."""
    partitions = [
        TxnOffsetCommitRequestPartition(partition_index=n, committed_offset=1, committed_metadata="")
        for n in range(count)
    ]
    return TxnOffsetCommitRequest(
        transactional_id="x", group_id=group, producer_id=0, producer_epoch=0,
        topics=[TxnOffsetCommitRequestTopic(name=topic, partitions=partitions)],
    )  # fmt: skip


async def _offsets_transaction(client: BareClient) -> None:
    """An open transaction that commits offsets of the group g, which has one of each partition of `wide`."""
    await _commit_all(client)
    await _begin_transaction(client)
    request = AddOffsetsToTxnRequest(transactional_id="x", producer_id=0, producer_epoch=0, group_id="g")
    assert (await client.call(request, 3)).error_code == 0


async def _pending_offsets(client: BareClient) -> None:
    """The same, with an offset of each partition of `wide`."""
    await _offsets_transaction(client)
    answer = await client.call(offsets_of("wide", 1000), 3)
    assert {each.error_code for each in answer.topics[0].partitions} == {0}


def ended(topic: str, indexes: Iterable[int], producer_id: int = 1) -> WritableTxnMarker:
    """A marker for these partitions."""
    topics = [WritableTxnMarkerTopic(name=topic, partition_indexes=list(indexes))]
    return WritableTxnMarker(
        producer_id=producer_id, producer_epoch=0, transaction_result=True, topics=topics, coordinator_epoch=0
    )


ROWS = [
    Row("ApiVersions", 3, lambda: ApiVersionsRequest(client_software_name="x", client_software_version="1")),
    Row("DescribeCluster", 2, lambda: DescribeClusterRequest(include_cluster_authorized_operations=True)),
    Row("Metadata, all topics", 12, lambda: MetadataRequest(topics=None)),
    Row("Metadata, absent topics", 12, lambda: MetadataRequest(
        topics=[MetadataRequestTopic(name=name) for name in names()], allow_auto_topic_creation=False)),
    Row("Metadata, one topic over and over", 9, lambda: MetadataRequest(
        topics=[MetadataRequestTopic(name="wide")] * 1000, allow_auto_topic_creation=False)),
    Row("DescribeTopicPartitions", 0, lambda: DescribeTopicPartitionsRequest(
        topics=[DescribeTopicPartitionsTopic(name=name) for name in names()], response_partition_limit=2**31 - 1)),
    Row("ListOffsets, present", 7, lambda: ListOffsetsRequest(replica_id=-1, topics=[
        ListOffsetsTopic(name="wide", partitions=[
            ListOffsetsPartition(partition_index=n, timestamp=-1) for n in range(1000)])] * (COUNT // 1000))),
    Row("ListOffsets, absent", 7, lambda: ListOffsetsRequest(replica_id=-1, topics=[
        ListOffsetsTopic(name="absent", partitions=[
            ListOffsetsPartition(partition_index=n, timestamp=0) for n in range(COUNT)])])),
    Row("OffsetForLeaderEpoch", 4, lambda: OffsetForLeaderEpochRequest(replica_id=-1, topics=[
        OffsetForLeaderTopic(topic="wide", partitions=[
            OffsetForLeaderPartition(partition=n, leader_epoch=0) for n in range(COUNT)])])),
    Row("Fetch, present", 12, lambda: FetchRequest(max_wait_ms=500, min_bytes=1, session_epoch=0, topics=[
        FetchTopic(topic="wide", partitions=[
            FetchPartition(partition=n, fetch_offset=0, partition_max_bytes=1000) for n in range(1000)])] * 10)),
    Row("Fetch, absent", 12, lambda: FetchRequest(max_wait_ms=500, min_bytes=1, session_epoch=0, topics=[
        FetchTopic(topic="wide", partitions=[
            FetchPartition(partition=1000 + n, fetch_offset=0, partition_max_bytes=1000) for n in range(COUNT)])])),
    Row("Produce, present", 9, lambda: ProduceRequest(acks=1, timeout_ms=1000, topic_data=[
        TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n, records=tiny(1)) for n in range(1000)])] * (COUNT // 1000))),
    Row("Produce, present, acks all", 9, lambda: ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[
        TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n % 1000, records=tiny(1)) for n in range(COUNT)])])),
    Row("Produce, absent", 9, lambda: ProduceRequest(acks=1, timeout_ms=1000, topic_data=[
        TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=1000 + n, records=tiny(1)) for n in range(COUNT)])])),
    Row("Produce, absent topics", 9, lambda: ProduceRequest(acks=1, timeout_ms=1000, topic_data=[
        TopicProduceData(name=name, partition_data=[PartitionProduceData(index=0, records=tiny(1))])
        for name in names()])),
    Row("Produce, no batches", 9, lambda: ProduceRequest(acks=1, timeout_ms=1000, topic_data=[
        TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n % 1000, records=b"none") for n in range(COUNT)])])),
    Row("Produce, tiny records", 9, lambda: produced(tiny(80_000))),
    Row("Produce, tiny records, gzip, no timestamp in the header", 9, lambda: produced(tiny(80_000, 1, latest=-1))),
    Row("Produce, tiny records, zstd, no timestamp in the header", 9, lambda: produced(tiny(80_000, 4, latest=-1))),
    Row("Produce, tiny records, each refused", 9, lambda: produced(tiny(80_000, delta_ms=2 * 10**12))),
    Row("Produce, tiny compressed batches, to be read", 9, lambda: ProduceRequest(
        acks=1, timeout_ms=1000, topic_data=[TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n % 1000, records=tiny(50, 1, latest=-1)) for n in range(1000)])])),
    Row("Produce, a transaction of many partitions", 12, lambda: ProduceRequest(
        acks=1, timeout_ms=1000, transactional_id="tx", topic_data=[TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n % 1000, records=of_transaction()) for n in range(2000)])]), _coordinated),
    Row("Produce, a transaction to be verified", 11, lambda: ProduceRequest(
        acks=1, timeout_ms=1000, transactional_id="tx", topic_data=[TopicProduceData(name="wide", partition_data=[
            PartitionProduceData(index=n % 1000, records=of_transaction()) for n in range(2000)])]), _coordinated),
    Row("DeleteRecords", 2, lambda: DeleteRecordsRequest(timeout_ms=1000, topics=[
        DeleteRecordsTopic(name="wide", partitions=[
            DeleteRecordsPartition(partition_index=n, offset=-1) for n in range(COUNT)])])),
    Row("CreateTopics, validated only", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, validate_only=True, topics=[
        CreatableTopic(name=name, num_partitions=1, replication_factor=1, assignments=[], configs=[])
        for name in names(2000)])),
    Row("CreateTopics, refused", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, validate_only=False, topics=[
        CreatableTopic(name="topic-000", num_partitions=1, replication_factor=1, assignments=[], configs=[])
        for name in names()])),
    Row("CreateTopics, many", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, topics=[
        CreatableTopic(name=name, num_partitions=1, replication_factor=1, assignments=[], configs=[])
        for name in names(500)])),
    Row("CreateTopics, wide", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, topics=[
        CreatableTopic(name="wider", num_partitions=2000, replication_factor=1, assignments=[], configs=[])])),
    Row("CreateTopics, views", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, topics=[
        view(f"view-{n}", filter=MANY_VALUES) for n in range(100)])),
    Row("CreateTopics, views of what is not there", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, topics=[
        view(name, source="absent", tags=",".join(names(64))) for name in names(2000)])),
    Row("CreateTopics, views that say nothing", 7, lambda: CreateTopicsRequest(timeout_ms=60_000, topics=[
        view(name, filter=f"{MANY_VALUES} {n}") for n, name in enumerate(names(500))])),
    Row("Fetch, a view that is late", 12, lambda: fetch_of("late"), _views),
    Row("Fetch, a view by tags", 12, lambda: fetch_of("tagged"), _views),
    Row("ListOffsets, a view that is late", 7, lambda: ListOffsetsRequest(replica_id=-1, topics=[
        ListOffsetsTopic(name="late", partitions=[
            ListOffsetsPartition(partition_index=n, timestamp=-1) for n in range(1000)])] * (COUNT // 1000)), _views),
    Row("Metadata, views", 12, lambda: MetadataRequest(topics=None), _hundred_views),
    Row("CreatePartitions, under views", 3, lambda: CreatePartitionsRequest(timeout_ms=60_000, topics=[
        CreatePartitionsTopic(name="wide", count=2000, assignments=None)], validate_only=False), _hundred_views),
    Row("DeleteTopics, views", 5, lambda: DeleteTopicsRequest(timeout_ms=60_000, topic_names=[
        *(f"view-{n}" for n in range(100)), "wide"]), _hundred_views),
    Row("DeleteTopics, absent", 5, lambda: DeleteTopicsRequest(timeout_ms=60_000, topic_names=names())),
    Row("DeleteTopics, wide", 5, lambda: DeleteTopicsRequest(timeout_ms=60_000, topic_names=["wide"])),
    Row("CreatePartitions, absent", 3, lambda: CreatePartitionsRequest(timeout_ms=60_000, validate_only=False, topics=[
        CreatePartitionsTopic(name=name, count=2, assignments=None) for name in names()])),
    Row("DescribeConfigs, topics", 4, lambda: DescribeConfigsRequest(resources=[
        DescribeConfigsResource(resource_type=2, resource_name=f"topic-{n % 200:03}", configuration_keys=None)
        for n in range(2000)])),
    Row("DescribeConfigs, absent", 4, lambda: DescribeConfigsRequest(resources=[
        DescribeConfigsResource(resource_type=2, resource_name=name, configuration_keys=None) for name in names()])),
    Row("DescribeConfigs, keys", 4, lambda: DescribeConfigsRequest(resources=[
        DescribeConfigsResource(resource_type=2, resource_name="wide", configuration_keys=names())])),
    Row("DescribeConfigs, brokers", 4, lambda: DescribeConfigsRequest(include_synonyms=True, resources=[
        DescribeConfigsResource(resource_type=4, resource_name="1", configuration_keys=None)] * 200)),
    Row("AlterConfigs", 2, lambda: AlterConfigsRequest(validate_only=True, resources=[
        AlterConfigsResource(resource_type=2, resource_name=name,
                             configs=[AlterableConfig(name="retention.ms", value="1000")]) for name in names()])),
    Row("IncrementalAlterConfigs, absent", 1, lambda: IncrementalAlterConfigsRequest(validate_only=False, resources=[
        IncrementalAlterConfigsResource(resource_type=2, resource_name=name, configs=[
            IncrementalAlterableConfig(name="retention.ms", config_operation=0, value="1000")]) for name in names()])),
    Row("IncrementalAlterConfigs, keys", 1, lambda: IncrementalAlterConfigsRequest(validate_only=False, resources=[
        IncrementalAlterConfigsResource(resource_type=2, resource_name="wide", configs=[
            IncrementalAlterableConfig(name=name, config_operation=0, value="1000") for name in names()])])),
    Row("IncrementalAlterConfigs, filters", 1, lambda: IncrementalAlterConfigsRequest(validate_only=False, resources=[
        IncrementalAlterConfigsResource(resource_type=2, resource_name=name, configs=[IncrementalAlterableConfig(
            name="kbroker.view.filter", config_operation=0, value=f"{MANY_VALUES} and key = '{name}'")])
        for name in [*(f"view-{n}" for n in range(100)), *names(400)]]), _hundred_views),
    Row("ListConfigResources", 1, lambda: ListConfigResourcesRequest(resource_types=[2])),
    Row("FindCoordinator", 6, lambda: FindCoordinatorRequest(key_type=0, coordinator_keys=names()), _commit_all),
    Row("FindCoordinator, long names", 6, lambda: FindCoordinatorRequest(
        key_type=0, coordinator_keys=[f"{n}" * 8000 for n in range(200)]), _commit_all),
    Row("TxnOffsetCommit", 3, lambda: offsets_of("wide", COUNT), _offsets_transaction),
    Row("TxnOffsetCommit, absent", 3, lambda: offsets_of("absent", COUNT), _offsets_transaction),
    Row("EndTxn, many offsets", 3, lambda: EndTxnRequest(
        transactional_id="x", producer_id=0, producer_epoch=0, committed=True), _pending_offsets),
    Row("OffsetFetch, pending", 7, lambda: OffsetFetchRequest(group_id="g", require_stable=True, topics=[
        OffsetFetchRequestTopic(name="wide", partition_indexes=list(range(COUNT)))]), _pending_offsets),
    Row("OffsetDelete, pending", 0, lambda: OffsetDeleteRequest(group_id="g", topics=[
        OffsetDeleteRequestTopic(name="wide", partitions=[
            OffsetDeleteRequestPartition(partition_index=n) for n in range(COUNT)])]), _pending_offsets),
    Row("OffsetCommit, present", 8, lambda: commit_request("wide"), _commit_all),
    Row("OffsetCommit, absent", 8, lambda: commit_request("wide", COUNT), _commit_all),
    Row("OffsetFetch, present", 7, lambda: OffsetFetchRequest(group_id="g", topics=[
        OffsetFetchRequestTopic(name="wide", partition_indexes=list(range(COUNT)))]), _commit_all),
    Row("OffsetFetch, all offsets over and over", 8, lambda: OffsetFetchRequest(groups=[
        OffsetFetchRequestGroup(group_id="g", topics=None)] * 20), _commit_all),
    Row("OffsetFetch, absent groups", 8, lambda: OffsetFetchRequest(groups=[
        OffsetFetchRequestGroup(group_id=name, topics=None) for name in names()]), _commit_all),
    Row("OffsetDelete", 0, lambda: OffsetDeleteRequest(group_id="g", topics=[
        OffsetDeleteRequestTopic(name="wide", partitions=[
            OffsetDeleteRequestPartition(partition_index=n) for n in range(COUNT)])]), _commit_all),
    Row("DescribeGroups", 5, lambda: DescribeGroupsRequest(groups=names()), _commit_all),
    Row("ConsumerGroupDescribe", 1, lambda: ConsumerGroupDescribeRequest(group_ids=names()), _commit_all),
    Row("ListGroups", 5, lambda: ListGroupsRequest(states_filter=names(1000)), _many_groups),
    Row("DeleteGroups, absent", 2, lambda: DeleteGroupsRequest(groups_names=names()), _commit_all),
    Row("DeleteGroups", 2, lambda: DeleteGroupsRequest(
        groups_names=[f"group-{n}" for n in range(2_000)]), _many_groups),
    Row("DeleteGroups, many offsets", 2, lambda: DeleteGroupsRequest(groups_names=["g"]), _commit_all),
    Row("LeaveGroup", 5, lambda: LeaveGroupRequest(group_id="g", members=[
        MemberIdentity(member_id=name) for name in names()]), _commit_all),
    Row("SyncGroup", 5, lambda: SyncGroupRequest(
        group_id="g", generation_id=1, member_id="m", protocol_type="consumer", protocol_name="range", assignments=[
            SyncGroupRequestAssignment(member_id=name, assignment=b"all") for name in names()]), _commit_all),
    Row("JoinGroup", 9, lambda: JoinGroupRequest(
        group_id="j", session_timeout_ms=10_000, rebalance_timeout_ms=10_000, member_id="", protocol_type="consumer",
        group_instance_id="i", protocols=[
            JoinGroupRequestProtocol(name=name, metadata=b"m") for name in names()]), _commit_all),
    Row("ConsumerGroupHeartbeat", 1, lambda: ConsumerGroupHeartbeatRequest(
        group_id="h", member_id="m", member_epoch=0, rebalance_timeout_ms=10_000, topic_partitions=[],
        subscribed_topic_names=names(8_000)), _commit_all),
    Row("AddPartitionsToTxn, present", 3, lambda: AddPartitionsToTxnRequest(
        v3_and_below_transactional_id="x", v3_and_below_producer_id=0, v3_and_below_producer_epoch=0,
        v3_and_below_topics=[
            AddPartitionsToTxnTopic(name=name, partitions=list(range(count)) * 10) for name, count in TOPICS.items()
        ]), _begin_transaction),
    Row("AddPartitionsToTxn, absent", 3, lambda: AddPartitionsToTxnRequest(
        v3_and_below_transactional_id="x", v3_and_below_producer_id=0, v3_and_below_producer_epoch=0,
        v3_and_below_topics=[AddPartitionsToTxnTopic(name=name, partitions=[0]) for name in names()]),
        _begin_transaction),
    Row("AddPartitionsToTxn, many transactions", 5, lambda: AddPartitionsToTxnRequest(transactions=[
        transaction_to_add(name, "wide", [0]) for name in names()]), _begin_transaction),
    Row("AddPartitionsToTxn, verified", 5, lambda: AddPartitionsToTxnRequest(transactions=[
        transaction_to_add("x", "wide", list(range(1000)) * 10, verify_only=True)]), _begin_transaction),
    Row("AddPartitionsToTxn, one over and over", 5, lambda: AddPartitionsToTxnRequest(transactions=[
        *[transaction_to_add("x", "wide", [])] * COUNT, transaction_to_add("x", "wide", list(range(1000)))]),
        _begin_transaction),
    Row("DescribeProducers, present", 0, lambda: DescribeProducersRequest(topics=[
        DescribeProducersTopic(name="wide", partition_indexes=list(range(COUNT)))])),
    Row("DescribeProducers, absent", 0, lambda: DescribeProducersRequest(topics=[
        DescribeProducersTopic(name=name, partition_indexes=[0]) for name in names()])),
    Row("EndTxn", 4, lambda: EndTxnRequest(
        transactional_id="x", producer_id=0, producer_epoch=0, committed=True), _wide_transaction),
    Row("DescribeTransactions, wide", 0, lambda: DescribeTransactionsRequest(transactional_ids=["x"] * COUNT),
        _wide_transaction),
    Row("DescribeTransactions, absent", 0, lambda: DescribeTransactionsRequest(transactional_ids=names()),
        _begin_transaction),
    Row("ListTransactions, by a hostile pattern", 2, lambda: ListTransactionsRequest(
        state_filters=[], producer_id_filters=[], transactional_id_pattern="((x?-?0?1?2?){0,20}){0,20}y"),
        _many_transactions),
    Row("ListTransactions", 1, lambda: ListTransactionsRequest(
        state_filters=names(), producer_id_filters=list(range(COUNT)), duration_filter=0), _many_transactions),
    Row("WriteTxnMarkers, one marker", 1, lambda: WriteTxnMarkersRequest(markers=[ended("wide", range(1000))])),
    Row("WriteTxnMarkers, many markers", 1, lambda: WriteTxnMarkersRequest(markers=[
        ended("wide", [n % 1000], producer_id=n) for n in range(2000)])),
    Row("WriteTxnMarkers, absent", 1, lambda: WriteTxnMarkersRequest(markers=[ended("absent", range(COUNT))])),
    Row("UpdateFeatures, one over and over", 1, lambda: UpdateFeaturesRequest(feature_updates=[
        FeatureUpdateKey(feature="group.version", max_version_level=1, upgrade_type=1) for _ in range(COUNT)])),
    Row("DescribeLogDirs, all", 4, lambda: DescribeLogDirsRequest(topics=None)),
    Row("DescribeLogDirs, absent", 4, lambda: DescribeLogDirsRequest(
        topics=[DescribableLogDirTopic(topic="wide", partitions=list(range(COUNT)))])),
    Row("AlterReplicaLogDirs", 2, lambda: AlterReplicaLogDirsRequest(dirs=[AlterReplicaLogDir(
        path="memory", topics=[AlterReplicaLogDirTopic(name="wide", partitions=list(range(COUNT)))])])),
    Row("AlterReplicaLogDirs, many directories", 2, lambda: AlterReplicaLogDirsRequest(dirs=[AlterReplicaLogDir(
        path=name, topics=[AlterReplicaLogDirTopic(name=name, partitions=[0])]) for name in names()])),
    Row("ElectLeaders, present", 2, lambda: ElectLeadersRequest(timeout_ms=60_000, topic_partitions=[
        ElectLeadersTopic(topic="wide", partitions=list(range(1000)) * (COUNT // 1000))])),
    Row("ElectLeaders, absent", 2, lambda: ElectLeadersRequest(timeout_ms=60_000, topic_partitions=[
        ElectLeadersTopic(topic=name, partitions=[0]) for name in names()])),
    Row("ElectLeaders, all", 2, lambda: ElectLeadersRequest(timeout_ms=60_000, topic_partitions=None)),
    Row("ElectLeaders, an unknown kind", 2, lambda: ElectLeadersRequest(election_type=7, topic_partitions=[
        ElectLeadersTopic(topic=name, partitions=[0]) for name in names()])),
    Row("AlterPartitionReassignments, present", 1, lambda: AlterPartitionReassignmentsRequest(
        timeout_ms=60_000, topics=[ReassignableTopic(name="wide", partitions=[
            ReassignablePartition(partition_index=n % 1000, replicas=[1]) for n in range(COUNT)])])),
    Row("AlterPartitionReassignments, refused", 1, lambda: AlterPartitionReassignmentsRequest(
        timeout_ms=60_000, topics=[ReassignableTopic(name="wide", partitions=[
            ReassignablePartition(partition_index=n % 1000, replicas=[7]) for n in range(COUNT)])])),
    Row("AlterPartitionReassignments, absent", 1, lambda: AlterPartitionReassignmentsRequest(timeout_ms=60_000, topics=[
        ReassignableTopic(name=name, partitions=[ReassignablePartition(partition_index=0, replicas=[1])])
        for name in names()])),
    Row("AlterPartitionReassignments, many replicas", 1, lambda: AlterPartitionReassignmentsRequest(
        timeout_ms=60_000, topics=[ReassignableTopic(name="wide", partitions=[
            ReassignablePartition(partition_index=0, replicas=list(range(COUNT)))])])),
    Row("ListPartitionReassignments", 0, lambda: ListPartitionReassignmentsRequest(topics=[
        ListPartitionReassignmentsTopics(name="wide", partition_indexes=list(range(COUNT)))])),
    Row("ListPartitionReassignments, all", 0, lambda: ListPartitionReassignmentsRequest(topics=None)),
    Row("DescribeQuorum", 2, lambda: DescribeQuorumRequest(topics=[DescribeQuorumTopic(
        topic_name="absent", partitions=[DescribeQuorumPartition(partition_index=n) for n in range(COUNT)])])),
    Row("DescribeQuorum, many topics", 2, lambda: DescribeQuorumRequest(topics=[DescribeQuorumTopic(
        topic_name=name, partitions=[DescribeQuorumPartition(partition_index=0)]) for name in names()])),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def everything_imported() -> None:
    """As a broker has it before its clients come."""
    import_the_rest()


@asynccontextmanager
async def metered_broker(config: Mapping[str, str] | None = None) -> AsyncIterator[tuple[MemoryBroker, LoopMeter]]:
    """A broker whose loop is metered from the moment it serves, and whose workers are not."""
    meter = LoopMeter()

    class MeteredMachine(Machine):
        def env(self) -> Any:
            made = super().env()
            return replace(made, offload=meter.offload, helper=InlineHelper(made.disk, meter.offload))

    async with memory_broker(topics=TOPICS, config=config, machine=MeteredMachine()) as broker:
        yield broker, meter


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
async def test_B1_the_largest_request_holds_the_loop_for_a_few_milliseconds_at_a_time(row: Row) -> None:
    async with metered_broker() as (broker, meter), broker.client() as client:
        if row.prepare is not None:
            await row.prepare(client)
        request = row.request()
        with meter.running(memory=row.name in LARGE), trio.fail_after(300):
            await client.send(request, row.version)
            await client.receive_frame()
    assert meter.worst <= LINES_MAX, meter.report()
    assert meter.bytes_max <= BYTES_MAX


@pytest.mark.slow
@pytest.mark.parametrize(("topic", "indexes"), [("wide", range(1000)), ("absent", range(COUNT))])
async def test_B1_neither_does_that_of_a_follower_nor_the_end_of_its_session(topic: str, indexes: range) -> None:
    async with metered_broker() as (broker, meter), broker.client() as client, broker.client() as writer:
        await add_replica(broker, 5)
        image = await image_of(broker.machine)
        await introduce(client.call, meeting(image, broker_id=5), image.secret)
        for index in range(0, 1000, 10):
            await writer.call(produced(bytes(build_batch([(b"k", b"v")])), index=index), 9)
        topic_id = image.topics[topic].id if topic in image.topics else bytes(15) + b"x"
        named = [FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=1000) for index in indexes]
        request = FetchRequest(
            replica_state=ReplicaState(replica_id=5, replica_epoch=1), max_wait_ms=0, min_bytes=1, session_epoch=0,
            topics=[FetchTopic(topic_id=topic_id, partitions=named)],
        )  # fmt: skip
        with meter.running(), trio.fail_after(300):
            for _ in range(2):
                answer = await client.call(request, 17)
                assert len(answer.responses[0].partitions) >= 500
    assert meter.worst <= LINES_MAX, meter.report()


@pytest.mark.slow
@pytest.mark.parametrize("request_of_many", [
    MetadataRequest(topics=[MetadataRequestTopic(name="")] * 22_000),
    OffsetFetchRequest(group_id="g", topics=[
        OffsetFetchRequestTopic(name="t", partition_indexes=[0] * 400_000)]),
], ids=["entries", "integers"])  # fmt: skip
async def test_B5_a_request_of_absurdly_many_entries_costs_its_sender_the_connection(
    request_of_many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame may have 100 MB; decoded it would be gigabytes."""
    monkeypatch.setattr(connection, "ENTRIES_MAX", 20_000)
    async with memory_broker() as broker, broker.client() as client, broker.client() as good:
        meter = LoopMeter()
        with meter.running(memory=True), trio.fail_after(300):
            await client.send(request_of_many, 7)
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await client.receive_frame()
        assert meter.worst <= LINES_MAX, meter.report()
        assert meter.bytes_max <= BYTES_MAX
        await good.call(MetadataRequest(topics=[]), 7)


def test_every_api_has_its_row() -> None:
    """But those whose requests have no lists: nothing in them is long."""
    listless = {
        ApiKey.HEARTBEAT, ApiKey.INIT_PRODUCER_ID, ApiKey.ADD_OFFSETS_TO_TXN, ApiKey.UNREGISTER_BROKER,
        ApiKey.INTRODUCE, ApiKey.WAIT_APPLIED, ApiKey.COMPACT_LOG, ApiKey.LIST_DELAYED,
    }  # fmt: skip
    asked = {type(row.request()) for row in ROWS}
    assert {key for key in map(ApiKey, load()) if request_class(key) not in asked} == listless
