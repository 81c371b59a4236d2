"""R12: only a broker reads as a replica. What a client says it has moves no high watermark (CVE-2018-1288)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_wire.messages.produce_fetch import FetchRequest, ReplicaState
from kbroker.cluster.peers.introductions import introduce
from kbroker.testing.broker import MemoryCluster, memory_cluster
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request
from tests.api.test_internal import image_of, meeting
from tests.api.test_produce import batch, produce

REFUSED = ErrorCode.TOPIC_AUTHORIZATION_FAILED
NO_REPLICA = ErrorCode.NOT_LEADER_OR_FOLLOWER
LATEST = -1


def forged(
    version: int,
    topic_id: bytes,
    replica_id: int,
    *partitions: tuple[int, int],
    epoch: int = -1,
    max_wait_ms: int = 60_000,
) -> FetchRequest:
    """A fetch that says it comes from a replica. partitions: (index, offset)."""
    name = topic_id if version >= 13 else "t"
    request = fetch_request({(name, index): offset for index, offset in partitions}, max_wait_ms=max_wait_ms)
    request.session_epoch = 0
    if version >= 15:
        request.replica_state = ReplicaState(replica_id=replica_id, replica_epoch=epoch)
    else:
        request.replica_id = replica_id
    return request


@pytest.mark.parametrize("version", range(4, 18))
async def test_R12_a_client_that_fetches_as_a_replica_is_refused(version: int, autojump_clock: MockClock) -> None:
    """As by a Kafka whose authorizer does not let it act for the cluster; who is no replica at all is told so."""
    async with memory_cluster(2, topics={"t": 1}, replication_factor=2) as cluster:
        image = await image_of(cluster)
        topic, leader = image.topics["t"], image.topics["t"].partitions[0].leader
        async with cluster.client(leader) as client:
            assert (await produce(client, batch(b"a"))).error_code == 0
            for replica_id, code in ((3 - leader, REFUSED), (leader, NO_REPLICA), (0, NO_REPLICA), (9, NO_REPLICA)):
                answer = await client.call(forged(version, topic.id, replica_id, (0, 0)), version)
                (row,) = [row for topic in answer.responses for row in topic.partitions]
                assert (row.error_code, row.high_watermark, bytes(row.records)) == (code, -1, b"")


@asynccontextmanager
async def led_by(leader: int, cluster: MemoryCluster) -> AsyncIterator[BareClient]:
    """A client of the leader of t-0, while the other broker of two is dead."""
    cluster.kill(3 - leader)
    async with cluster.client(leader) as client:
        yield client


async def end(client: BareClient) -> int:
    """The high watermark, as consumers are told it."""
    partition = ListOffsetsPartition(partition_index=0, timestamp=LATEST)
    topics = [ListOffsetsTopic(name="t", partitions=[partition])]
    answer = await client.call(ListOffsetsRequest(replica_id=-1, topics=topics), 7)
    (row,) = answer.topics[0].partitions
    assert row.error_code == 0
    return int(row.offset)


@pytest.mark.parametrize("version", [4, 11, 12, 13, 15, 17])
async def test_R12_what_a_client_forges_moves_no_high_watermark(version: int, autojump_clock: MockClock) -> None:
    async with memory_cluster(2, topics={"t": 1}, replication_factor=2) as cluster:
        image = await image_of(cluster)
        leader = image.topics["t"].partitions[0].leader
        follower = 3 - leader
        epoch = image.brokers[follower].epoch
        async with led_by(leader, cluster) as client:
            before = await end(client)
            assert (await produce(client, batch(b"a"), acks=1)).error_code == 0
            for offset in (0, 1, 2**40):
                await client.call(forged(version, image.topics["t"].id, follower, (0, offset), epoch=epoch), version)
            topics = [
                ListOffsetsTopic(name="t", partitions=[ListOffsetsPartition(partition_index=0, timestamp=LATEST)])
            ]
            await client.call(ListOffsetsRequest(replica_id=follower, topics=topics), 7)
            asked = OffsetForLeaderPartition(partition=0, current_leader_epoch=-1, leader_epoch=0)
            epochs = [OffsetForLeaderTopic(topic="t", partitions=[asked])]
            await client.call(OffsetForLeaderEpochRequest(replica_id=follower, topics=epochs), 4)
            assert await end(client) == before


async def test_R12_a_broker_fetches_as_itself_alone(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3) as cluster:
        image = await image_of(cluster)
        topic, leader = image.topics["t"], image.topics["t"].partitions[0].leader
        one, other = {1, 2, 3} - {leader}
        async with cluster.client(leader) as client:
            await introduce(client.call, meeting(image, one, asked=leader), image.secret)
            for replica_id, is_refused in ((other, True), (one, False)):
                epoch = image.brokers[replica_id].epoch
                answer = await client.call(forged(17, topic.id, replica_id, (0, 0), epoch=epoch, max_wait_ms=0), 17)
                codes = [row.error_code for topic in answer.responses for row in topic.partitions]
                assert codes == ([REFUSED] if is_refused else [0])
