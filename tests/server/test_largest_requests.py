"""No request, however long, holds the event loop: each API is sent its largest sensible request, and lines are counted.

A row is an API, a version, and how to make a request of some COUNT entries: a handler that spends more than five lines
on an entry without letting others have a turn is found out, and a hundred thousand entries are served the same way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import trio

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
    TopicProduceData,
)
from kafka_wire.messages.topics import (
    CreatableTopic,
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
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.clock import EPOCH_MS
from tests.log.odd_batches import batch_of, record
from tests.server.loop_meter import LINES_MAX, LoopMeter

COUNT = 10_000
TOPICS = {"wide": 1000, **{f"topic-{n:03}": 1 for n in range(200)}}


class Row(NamedTuple):
    """One API's largest request; known: it is about what there is, else mostly about what there is not."""

    name: str
    version: int
    request: Callable[[], Any]


def names(count: int = COUNT) -> list[str]:
    return [f"absent-{n}" for n in range(count)]


def tiny(count: int, codec: int = 0, *, latest: int = EPOCH_MS, delta_ms: int = 0) -> bytes:
    """A batch of tiny records."""
    payload = b"".join(record(delta_ms, offset=n, key=None, value=b"") for n in range(count))
    return bytes(batch_of(payload, count, codec, latest=latest + delta_ms))


def produced(batch: bytes) -> ProduceRequest:
    data = PartitionProduceData(index=0, records=batch)
    return ProduceRequest(acks=1, timeout_ms=1000, topic_data=[TopicProduceData(name="wide", partition_data=[data])])


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
    Row("ListConfigResources", 1, lambda: ListConfigResourcesRequest(resource_types=[2])),
    Row("DescribeLogDirs, all", 4, lambda: DescribeLogDirsRequest(topics=None)),
    Row("DescribeLogDirs, absent", 4, lambda: DescribeLogDirsRequest(
        topics=[DescribableLogDirTopic(topic="wide", partitions=list(range(COUNT)))])),
]  # fmt: skip


STILL_HELD = {  # by cluster/admin.py
    "CreateTopics, validated only", "CreateTopics, refused", "CreateTopics, many", "CreateTopics, wide",
    "DeleteTopics, absent", "CreatePartitions, absent", "AlterConfigs", "IncrementalAlterConfigs, absent",
}  # fmt: skip


@asynccontextmanager
async def metered_broker() -> AsyncIterator[tuple[MemoryBroker, LoopMeter]]:
    """A broker whose loop is metered from the moment it serves, and whose workers are not."""
    meter = LoopMeter()

    class MeteredMachine(Machine):
        def env(self) -> Any:
            return replace(super().env(), offload=meter.offload)

    async with memory_broker(topics=TOPICS, machine=MeteredMachine()) as broker:
        yield broker, meter


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[pytest.mark.xfail] * (row.name in STILL_HELD)) for row in ROWS],
)
async def test_B1_the_largest_request_holds_the_loop_for_a_few_milliseconds_at_a_time(row: Row) -> None:
    async with metered_broker() as (broker, meter), broker.client() as client:
        request = row.request()
        with meter.running(), trio.fail_after(300):
            await client.call(request, row.version)
    assert meter.worst <= LINES_MAX, meter.report()
