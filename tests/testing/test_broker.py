"""A cluster in memory: brokers that come, go and find each other."""

from __future__ import annotations

from kafka_wire.messages.metadata import MetadataRequest, MetadataResponse
from kbroker.testing.broker import MemoryCluster, memory_cluster
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce

TOPICS = {"t": 6}


async def metadata(cluster: MemoryCluster, broker_id: int) -> MetadataResponse:
    async with cluster.client(broker_id) as client:
        response: MetadataResponse = await client.call(MetadataRequest(topics=None), 12)
        return response


async def test_partitions_are_spread_over_the_brokers_and_served_where_metadata_says() -> None:
    async with memory_cluster(3, topics=TOPICS) as cluster:
        told = await metadata(cluster, 2)
        assert {broker.node_id: (broker.host, broker.port) for broker in told.brokers} == {
            1: ("b1", 9092),
            2: ("b2", 9092),
            3: ("b3", 9092),
        }
        partitions = {partition.partition_index: partition.leader_id for partition in told.topics[0].partitions}
        assert sorted(partitions.values()) == [1, 1, 2, 2, 3, 3]
        for index, leader in partitions.items():
            value = b"of %d" % index
            async with cluster.client(leader) as client:
                assert (await produce(client, batch(value), index=index)).error_code == 0
                assert values(await client.call(fetch_request({("t", index): 0}), 12)) == [value]


async def test_a_broker_stopped_or_killed_finds_what_it_wrote() -> None:
    async with memory_cluster(2, topics={"t": 2}) as cluster:
        led = {p.leader_id: p.partition_index for p in (await metadata(cluster, 1)).topics[0].partitions}
        for broker_id, index in led.items():
            async with cluster.client(broker_id) as client:
                assert (await produce(client, batch(b"kept"), index=index)).error_code == 0
        await cluster.stop(1)
        cluster.kill(2)
        for broker_id, index in led.items():
            await cluster.start(broker_id)
            async with cluster.client(broker_id) as client:
                assert values(await client.call(fetch_request({("t", index): 0}), 12)) == [b"kept"]
