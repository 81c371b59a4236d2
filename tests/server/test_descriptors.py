"""A real broker with few file descriptors and many partitions: files give way to each other, nobody is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kafka_wire.api import ApiKey
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.records import build_batch
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import BareClient, connect
from tests.api.test_topics import create
from tests.server.process import BrokerProcess

PARTITIONS = 150
FILES_LEFT = 50


async def produce_to_all(client: BareClient, value: bytes) -> list[int]:
    """The base offsets, -1 for an error."""
    offsets = []
    for index in range(PARTITIONS):
        data = PartitionProduceData(index=index, records=build_batch([(None, value)]))
        topic = TopicProduceData(name="wide", partition_data=[data])
        answer = await client.call(ProduceRequest(acks=1, timeout_ms=5000, topic_data=[topic]), 9)
        offsets.append(answer.responses[0].partition_responses[0].base_offset)
    return offsets


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the limit of another process")
async def test_more_partitions_than_descriptors_are_written_and_read(tmp_path: Path) -> None:
    import resource

    net = RealNet(Features.detect())
    async with trio.open_nursery() as nursery:
        broker = BrokerProcess(nursery, tmp_path)
        await broker.start()
        async with connect(net, broker.host, broker.port, "few") as client:
            assert (await create(client, "wide", PARTITIONS)).error_code == 0
            limit = len(os.listdir(f"/proc/{broker.pid}/fd")) + FILES_LEFT
            resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (limit, limit))
            assert await produce_to_all(client, b"first") == [0] * PARTITIONS
            assert await produce_to_all(client, b"second") == [1] * PARTITIONS
            for _ in range(5):
                async with connect(net, broker.host, broker.port, "another") as other:
                    partitions = [FetchPartition(partition=n, fetch_offset=0) for n in range(PARTITIONS)]
                    topics = [FetchTopic(topic="wide", partitions=partitions)]
                    key = await other.send(FetchRequest(max_wait_ms=0, min_bytes=1, topics=topics), 12)
                    answer = await other.receive(ApiKey(key), 12)
                    found = answer.responses[0].partitions
                    assert [(p.error_code, p.high_watermark) for p in found] == [(0, 2)] * PARTITIONS
        assert broker.said.count("no file descriptor is left") == 1
        assert await broker.stop() == 0
        nursery.cancel_scope.cancel()


WITHOUT_DESCRIPTORS = """
import resource
from kafka_wire import compression, primitives
from kbroker.api import registry
from kbroker.cli.broker.serve import import_the_rest
from kbroker.coordinators.routing import partition_of
registry.load()
import_the_rest()
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
primitives.crc32c(b"x")
partition_of("group", 50)
for codec in range(5):
    assert compression.decompress(codec, compression.compress(codec, b"x"), 100) == b"x"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the limit of another process")
def test_no_request_is_the_first_to_need_a_module() -> None:
    """Who imports when no descriptor is left fails."""
    subprocess.run([sys.executable, "-c", WITHOUT_DESCRIPTORS], check=True)
