"""Every API that a certain broker has to answer, asked of another one: it says so, and the client looks further."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages import group_offsets as go
from kafka_wire.messages import groups, offsets, topics
from kafka_wire.messages import transactions as tx
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest
from kafka_wire.messages.group_admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.internal import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest
from kbroker.testing.broker import memory_cluster
from tests.api.anywhere import GROUP, TRANSACTION, anywhere, codes_in
from tests.api.test_fetch import fetch_request
from tests.api.test_internal import image_of
from tests.api.test_produce import batch, produce_request

KEY = "key"  # of a group, or a transaction
CONFIG = {"offsets.topic.num.partitions": "3", "transaction.state.log.num.partitions": "3"}

OF_GROUPS: list[tuple[Any, int]] = [
    (groups.JoinGroupRequest(
        group_id=KEY, session_timeout_ms=10_000, rebalance_timeout_ms=10_000, protocol_type="consumer", member_id="",
        protocols=[groups.JoinGroupRequestProtocol(name="range", metadata=b"")]), 9),
    (groups.SyncGroupRequest(
        group_id=KEY, member_id="m", generation_id=1, protocol_type="consumer", protocol_name="range"), 5),
    (groups.HeartbeatRequest(group_id=KEY, member_id="m", generation_id=1), 4),
    (groups.LeaveGroupRequest(group_id=KEY, members=[groups.MemberIdentity(member_id="m")]), 5),
    (go.OffsetCommitRequest(group_id=KEY, topics=[go.OffsetCommitRequestTopic(name="t", partitions=[
        go.OffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata=None)])]), 9),
    (go.OffsetFetchRequest(groups=[go.OffsetFetchRequestGroup(group_id=KEY, topics=None)]), 9),
    (go.OffsetDeleteRequest(group_id=KEY, topics=[]), 0),
    (DescribeGroupsRequest(groups=[KEY]), 6),
    (DeleteGroupsRequest(groups_names=[KEY]), 2),
    (ConsumerGroupHeartbeatRequest(
        group_id=KEY, member_id="m", member_epoch=0, subscribed_topic_names=["t"], topic_partitions=[],
        rebalance_timeout_ms=10_000), 1),
    (ConsumerGroupDescribeRequest(group_ids=[KEY]), 1),
    (tx.TxnOffsetCommitRequest(
        transactional_id="x", group_id=KEY, producer_id=1, producer_epoch=0,
        topics=[tx.TxnOffsetCommitRequestTopic(name="t", partitions=[
            tx.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata=None)])]), 3),
]  # fmt: skip

OF_TRANSACTIONS: list[tuple[Any, int]] = [
    (tx.InitProducerIdRequest(transactional_id=KEY, transaction_timeout_ms=10_000), 4),
    (tx.AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=KEY, v3_and_below_producer_id=1, v3_and_below_producer_epoch=0,
        v3_and_below_topics=[tx.AddPartitionsToTxnTopic(name="t", partitions=[0])]), 3),
    (tx.AddPartitionsToTxnRequest(transactions=[tx.AddPartitionsToTxnTransaction(
        transactional_id=KEY, producer_id=1, producer_epoch=0, verify_only=True,
        topics=[tx.AddPartitionsToTxnTopic(name="t", partitions=[0])])]), 5),
    (tx.AddOffsetsToTxnRequest(transactional_id=KEY, producer_id=1, producer_epoch=0, group_id="g"), 3),
    (tx.EndTxnRequest(transactional_id=KEY, producer_id=1, producer_epoch=0, committed=True), 3),
    (tx.DescribeTransactionsRequest(transactional_ids=[KEY]), 0),
]  # fmt: skip

MARKER = WritableTxnMarker(
    producer_id=1, producer_epoch=0, transaction_result=True, coordinator_epoch=0,
    topics=[WritableTxnMarkerTopic(name="t", partition_indexes=[0])],
)  # fmt: skip
OF_PARTITIONS: list[tuple[Any, int]] = [
    (produce_request(batch(b"a")), 9),
    (fetch_request({("t", 0): 0}, max_wait_ms=0), 4),  # without the rack that lets a follower answer
    (offsets.ListOffsetsRequest(replica_id=-1, topics=[offsets.ListOffsetsTopic(name="t", partitions=[
        offsets.ListOffsetsPartition(partition_index=0, timestamp=-1)])]), 7),
    (offsets.OffsetForLeaderEpochRequest(replica_id=-1, topics=[offsets.OffsetForLeaderTopic(topic="t", partitions=[
        offsets.OffsetForLeaderPartition(partition=0, leader_epoch=0)])]), 4),
    (topics.DeleteRecordsRequest(timeout_ms=1000, topics=[topics.DeleteRecordsTopic(name="t", partitions=[
        topics.DeleteRecordsPartition(partition_index=0, offset=0)])]), 2),
    (WriteTxnMarkersRequest(markers=[MARKER]), 1),
]  # fmt: skip


def named(pair: tuple[Any, int]) -> str:
    return f"{type(pair[0]).__name__} {pair[1]}"


@pytest.mark.parametrize(
    ("key_type", "pair"),
    [*((GROUP, pair) for pair in OF_GROUPS), *((TRANSACTION, pair) for pair in OF_TRANSACTIONS)],
    ids=lambda value: named(value) if isinstance(value, tuple) else "",
)
async def test_who_does_not_coordinate_says_so(key_type: int, pair: tuple[Any, int], autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, config=CONFIG) as cluster, anywhere(cluster) as client:
        with trio.fail_after(60):
            while (coordinator := await client.coordinator(KEY, key_type)) is None:
                await trio.sleep(0.1)
        for other in {1, 2, 3} - {coordinator}:
            assert set(codes_in(await client.ask(other, *pair))) - {ErrorCode.NONE} == {ErrorCode.NOT_COORDINATOR}


@pytest.mark.parametrize("pair", OF_PARTITIONS, ids=named)
@pytest.mark.parametrize("replication_factor", [1, 3])
async def test_who_does_not_lead_says_so(
    pair: tuple[Any, int], replication_factor: int, autojump_clock: MockClock
) -> None:
    """Whether it has a replica or none."""
    async with (
        memory_cluster(3, topics={"t": 1}, replication_factor=replication_factor) as cluster,
        anywhere(cluster) as client,
    ):
        leader = (await image_of(cluster)).topics["t"].partitions[0].leader
        for other in {1, 2, 3} - {leader}:
            codes = set(codes_in(await client.ask(other, *pair))) - {ErrorCode.NONE}
            assert codes == {ErrorCode.NOT_LEADER_OR_FOLLOWER}


async def test_each_broker_lists_what_it_coordinates(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, config=CONFIG) as cluster, anywhere(cluster) as client:
        wanted = {f"group {n}" for n in range(12)}
        for group_id in wanted:
            partition = go.OffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata=None)
            committed = [go.OffsetCommitRequestTopic(name="t", partitions=[partition])]
            answer = await client.call(go.OffsetCommitRequest(group_id=group_id, topics=committed), 8)
            assert set(codes_in(answer)) == {ErrorCode.NONE}
        listed = [
            {group.group_id for group in (await client.ask(broker_id, ListGroupsRequest(), 4)).groups}
            for broker_id in (1, 2, 3)
        ]
        assert set.union(*listed) == wanted
        assert sum(map(len, listed)) == len(wanted), "and each once"
        assert sum(map(bool, listed)) > 1
