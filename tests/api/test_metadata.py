"""ApiVersions, Metadata and the two describes, through a whole broker in memory."""

from __future__ import annotations

import struct

import pytest
import trio

from kafka_wire.api import OWN_KEY_MIN, ApiKey
from kafka_wire.codegen import decode
from kafka_wire.errors import ErrorCode
from kafka_wire.frames import request_header
from kafka_wire.messages.metadata import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    DescribeClusterRequest,
    DescribeTopicPartitionsCursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsTopic,
    MetadataRequest,
    MetadataRequestTopic,
)
from kbroker.api.registry import APIS, load
from kbroker.testing.broker import HOST, Machine, memory_broker, memory_cluster


def asked(*names: str) -> list[MetadataRequestTopic]:
    return [MetadataRequestTopic(name=name) for name in names]


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_tells_what_is_registered(version: int) -> None:
    load()
    async with memory_broker() as broker, broker.client() as client:
        response = await client.call(ApiVersionsRequest(client_software_name="t", client_software_version="1"), version)
        told = {key.api_key: (key.min_version, key.max_version) for key in response.api_keys}
        assert told == {key: (api.advertised_min, api.version_max) for key, api in APIS.items() if key < OWN_KEY_MIN}
        assert told[ApiKey.PRODUCE] == (0, 13)


@pytest.mark.parametrize("name", ["", "-odd", "odd-", "odd_1", "o d", "ödd", "."])
async def test_ill_formed_software_names_are_refused(name: str) -> None:
    async with memory_broker() as broker, broker.client() as client:
        for odd in (
            ApiVersionsRequest(client_software_name=name, client_software_version="1"),
            ApiVersionsRequest(client_software_name="odd", client_software_version=name),
        ):
            response = await client.call(odd, 3)
            assert (response.error_code, response.api_keys) == (ErrorCode.INVALID_REQUEST, [])
        assert (await client.call(ApiVersionsRequest(), 2)).error_code == ErrorCode.NONE


async def test_trap_2_an_unknown_api_versions_version_is_answered_in_version_0() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await client.send_frame(request_header(ApiKey.API_VERSIONS, 99, 7, "x"), b"whatever this is")
        frame = await client.receive_frame()
        assert struct.unpack_from(">i", frame) == (7,)
        response = decode(ApiVersionsResponse, 0, frame, 4)
        assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert [(k.api_key, k.max_version) for k in response.api_keys] == [(18, 4)]


@pytest.mark.parametrize(("key", "version"), [(999, 0), (-1, 0), (ApiKey.METADATA, 99), (ApiKey.PRODUCE, 2)])
async def test_any_other_unknown_version_closes_the_connection(key: int, version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await client.send_frame(request_header(key, version, 1, "x"), bytes(20))
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()


@pytest.mark.parametrize("version", range(14))
async def test_every_version_describes_topics_and_brokers(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        everything = [] if version == 0 else None
        response = await client.call(MetadataRequest(topics=everything), version)
        assert [(b.host, b.port) for b in response.brokers] == [(HOST, broker.port)]
        assert [(t.name, len(t.partitions)) for t in response.topics] == [("t", 2)]
        assert response.topics[0].partitions[0].leader_id == broker.ready.node_id
        if version >= 1:
            assert response.controller_id == broker.ready.node_id
            assert (await client.call(MetadataRequest(topics=[]), version)).topics == []
        if version >= 2:
            assert response.cluster_id == broker.ready.cluster_id


@pytest.mark.parametrize("version", [0, 3, 4, 12])
async def test_a_missing_topic_is_created_and_usable_at_once(version: int) -> None:
    async with memory_broker(config={"num.partitions": "2"}) as broker, broker.client() as client:
        response = await client.call(MetadataRequest(topics=asked("new")), version)
        assert [(t.error_code, len(t.partitions)) for t in response.topics] == [(0, 2)]


async def test_a_missing_topic_is_not_created_against_the_clients_or_brokers_will() -> None:
    async with memory_broker() as broker, broker.client() as client:
        response = await client.call(MetadataRequest(topics=asked("no"), allow_auto_topic_creation=False), 12)
        assert response.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    async with memory_broker(config={"auto.create.topics.enable": "false"}) as broker, broker.client() as client:
        response = await client.call(MetadataRequest(topics=asked("no")), 1)
        assert response.topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("create", [True, False])
async def test_an_invalid_name_is_named_so(create: bool) -> None:
    async with memory_broker() as broker, broker.client() as client:
        response = await client.call(MetadataRequest(topics=asked("bad name"), allow_auto_topic_creation=create), 12)
        assert response.topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_topics_by_id() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        known = (await client.call(MetadataRequest(topics=asked("t")), 12)).topics[0].topic_id
        for name in (None, ""):  # Java 4.3 sends an empty name
            wanted = [MetadataRequestTopic(topic_id=id, name=name) for id in (bytes(known), b"?" * 16)]
            response = await client.call(MetadataRequest(topics=wanted), 12)
            assert [(t.name, t.error_code) for t in response.topics] == [("t", 0), (None, ErrorCode.UNKNOWN_TOPIC_ID)]


async def test_a_topic_named_twice_is_described_once() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for version in (1, 9, 12):
            response = await client.call(MetadataRequest(topics=[*asked("t"), *asked("t")]), version)
            assert [(t.name, t.error_code) for t in response.topics] == [("t", 0)]


@pytest.mark.parametrize("version", [10, 11])
async def test_versions_that_may_not_ask_by_id_are_refused_and_the_connection_goes_on(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for name in (None, "t"):
            wanted = [MetadataRequestTopic(topic_id=b"?" * 16, name=name)]
            response = await client.call(MetadataRequest(topics=wanted), version)
            assert {t.error_code for t in response.topics} == {ErrorCode.INVALID_REQUEST}
        assert (await client.call(MetadataRequest(topics=asked("t")), version)).topics[0].error_code == 0


async def test_R8_leader_epochs_rise_with_every_start_and_never_fall() -> None:
    machine = Machine()
    epochs, ids = [], []
    for _ in range(3):
        async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
            topic = (await client.call(MetadataRequest(topics=asked("t")), 12)).topics[0]
            epochs.append(topic.partitions[0].leader_epoch)
            ids.append((bytes(topic.topic_id), broker.ready.cluster_id))
    assert epochs == sorted(set(epochs)) and len(set(ids)) == 1


async def test_authorized_operations_only_when_asked_for() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for wanted in (False, True):
            request = MetadataRequest(topics=asked("t"), include_topic_authorized_operations=wanted)
            operations = (await client.call(request, 12)).topics[0].topic_authorized_operations
            assert (operations != -(2**31)) == wanted


async def test_a_wildcard_listener_advertises_the_address_the_client_came_in_on() -> None:
    async with memory_broker(config={"listeners": "PLAINTEXT://:0"}) as broker, broker.client() as client:
        response = await client.call(MetadataRequest(topics=[]), 12)
        assert response.brokers[0].host == HOST


@pytest.mark.parametrize("version", range(3))
async def test_describe_cluster(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        response = await client.call(DescribeClusterRequest(include_cluster_authorized_operations=True), version)
        assert (response.cluster_id, response.controller_id) == (broker.ready.cluster_id, broker.ready.node_id)
        assert [b.port for b in response.brokers] == [broker.port]
        if version:
            request = DescribeClusterRequest(include_cluster_authorized_operations=False, endpoint_type=2)
            assert (await client.call(request, version)).error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE


async def test_a_fenced_broker_is_described_to_those_who_ask_for_it() -> None:
    async with memory_cluster(2) as cluster:
        await cluster.stop(2)
        async with cluster.client(1) as client:
            for version, include, expected in [
                (1, True, [(1, False)]),
                (2, False, [(1, False)]),
                (2, True, [(1, False), (2, True)]),
            ]:
                request = DescribeClusterRequest(
                    include_cluster_authorized_operations=False, include_fenced_brokers=include
                )
                brokers = (await client.call(request, version)).brokers
                assert sorted((each.broker_id, each.is_fenced) for each in brokers) == expected


async def test_a_leader_that_is_gone_is_none_and_its_replicas_are_offline() -> None:
    async with memory_cluster(2, topics={"t": 2}) as cluster:
        await cluster.stop(2)
        async with cluster.client(1) as client:
            for version in (0, 5, 13):
                answer = await client.call(MetadataRequest(topics=asked("t")), version)
                by_code = {each.error_code: each for each in answer.topics[0].partitions}
                assert by_code[ErrorCode.NONE].leader_id == 1
                gone = by_code[ErrorCode.LEADER_NOT_AVAILABLE]
                assert (gone.leader_id, gone.replica_nodes) == (-1, [] if version == 0 else [2])
                assert gone.offline_replicas == ([] if version < 5 else [2])
            described = await client.call(DescribeTopicPartitionsRequest(topics=[], response_partition_limit=9), 0)
            assert sorted(each.offline_replicas for each in described.topics[0].partitions) == [[], [2]]


async def test_describe_topic_partitions_goes_on_from_its_cursor() -> None:
    async with memory_broker(topics={"a": 3, "b": 2}) as broker, broker.client() as client:
        seen: list[tuple[str, int]] = []
        cursor: DescribeTopicPartitionsCursor | None = None
        for _ in range(9):
            request = DescribeTopicPartitionsRequest(topics=[], response_partition_limit=2, cursor=cursor)
            response = await client.call(request, 0)
            seen += [(t.name, p.partition_index) for t in response.topics for p in t.partitions]
            cursor = response.next_cursor
            if cursor is None:
                break
        assert seen == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
        absent = [DescribeTopicPartitionsTopic(name="no")]
        request = DescribeTopicPartitionsRequest(topics=absent, response_partition_limit=9)
        assert (await client.call(request, 0)).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_a_broker_describes_no_more_partitions_at_once_than_its_config_says() -> None:
    limited = {"max.request.partition.size.limit": "3"}
    async with memory_broker(topics={"t": 5}, config=limited) as broker, broker.client() as client:
        answer = await client.call(DescribeTopicPartitionsRequest(topics=[], response_partition_limit=2000), 0)
        assert [len(topic.partitions) for topic in answer.topics] == [3]
        assert answer.next_cursor.partition_index == 3


@pytest.mark.parametrize(
    ("topics", "cursor"), [(["a", "b"], ("c", 0)), (["a"], ("a", -1)), (["b"], ("a", 0)), ([], ("a", -1))]
)
async def test_a_cursor_that_cannot_be_refuses_the_whole_describe(topics: list[str], cursor: tuple[str, int]) -> None:
    async with memory_broker(topics={"a": 3, "b": 2}) as broker, broker.client() as client:
        request = DescribeTopicPartitionsRequest(
            topics=[DescribeTopicPartitionsTopic(name=name) for name in topics],
            cursor=DescribeTopicPartitionsCursor(topic_name=cursor[0], partition_index=cursor[1]),
        )
        response = await client.call(request, 0)
        assert response.next_cursor is None
        refused = [(name, ErrorCode.INVALID_REQUEST, []) for name in topics]
        assert [(t.name, t.error_code, t.partitions) for t in response.topics] == refused
