"""F10: a real broker on a full disk. It refuses what needs room, does all the rest, and goes on when there is some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_wire.messages.metadata import MetadataRequest
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.topics import CreatableTopic, CreateTopicsRequest, DeleteTopicsRequest
from kafka_wire.records import build_batch, headers, read_records
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import BareClient, connect
from tests.api.group_tools import beat, enter, find
from tests.server.process import BrokerProcess
from tests.volumes import fill_up

MEGABYTE = 1024 * 1024
FILLER_BYTES = 12 * MEGABYTE
BATCH_BYTES = 100_000
SESSION_S = 6.0
# What a consumer answers by trying again, after it has looked for its coordinator anew.
RETRIABLE = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR)


class Client:
    """Produces values that tell their number to a topic, and reads them back."""

    def __init__(self, bare: BareClient, topic: str = "t") -> None:
        self.bare = bare
        self.topic = topic
        self.acked: list[int] = []

    async def produce(self, count: int) -> int:
        """Up to count batches, until one is refused; the last error code."""
        for number in range(len(self.acked), len(self.acked) + count):
            value = b"%08d" % number + bytes(BATCH_BYTES)
            partitions = [PartitionProduceData(index=0, records=bytes(build_batch([(None, value)])))]
            topics = [TopicProduceData(name=self.topic, partition_data=partitions)]
            answer = await self.bare.call(ProduceRequest(acks=-1, timeout_ms=5000, topic_data=topics), 9)
            result = answer.responses[0].partition_responses[0]
            if result.error_code:
                return int(result.error_code)
            assert result.base_offset == number
            self.acked.append(number)
        return 0

    async def read_all(self) -> list[int]:
        """The numbers of all values, from offset 0 to the high watermark."""
        found: list[int] = []
        while True:
            partition = FetchPartition(partition=0, fetch_offset=len(found), partition_max_bytes=MEGABYTE)
            topics = [FetchTopic(topic=self.topic, partitions=[partition])]
            request = FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=MEGABYTE, topics=topics)
            answer = (await self.bare.call(request, 11)).responses[0].partitions[0]
            assert answer.error_code == 0, ErrorCode(answer.error_code)
            if len(found) >= answer.high_watermark:
                return found
            data = bytes(answer.records)
            for at, _ in headers(data):
                found += [int((record.value or b"")[:8]) for record in read_records(data, at, max_bytes=MEGABYTE)]

    async def commit(self, joined: Any, offset: int) -> int:
        """OffsetCommit by a member of group g; the partition's error code."""
        partitions = [OffsetCommitRequestPartition(partition_index=0, committed_offset=offset)]
        request = OffsetCommitRequest(
            group_id="g",
            generation_id_or_member_epoch=joined.generation_id,
            member_id=joined.member_id,
            topics=[OffsetCommitRequestTopic(name="t", partitions=partitions)],
        )
        return int((await self.bare.call(request, 8)).topics[0].partitions[0].error_code)

    async def described(self) -> tuple[int, int]:
        """The topic's error code and number of partitions, as Metadata has them."""
        topic = (await self.bare.call(MetadataRequest(topics=None), 9)).topics
        (mine,) = [one for one in topic if one.name == "t"]
        return int(mine.error_code), len(mine.partitions)


@pytest.mark.slow
async def test_F10_a_full_disk_stops_only_what_needs_room(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER_BYTES))
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            broker = BrokerProcess(nursery, small_disk / "data", "--topic", "t:1", "--log-level", "info")
            await broker.start()
            async with connect(RealNet(Features.detect()), broker.host, broker.port) as bare:
                client = Client(bare)
                assert (await find(bare, "g")).coordinators[0].error_code == 0
                joined = await enter(bare, "g")
                assert await client.commit(joined, 0) == 0
                assert await client.produce(1000) == ErrorCode.KAFKA_STORAGE_ERROR
                assert len(client.acked) > 50
                fill_up(small_disk / "rest")
                while (refused := await client.commit(joined, 1)) == 0:
                    pass  # the last page of the log has room for some
                assert refused in RETRIABLE

                full_at = trio.current_time()
                while trio.current_time() < full_at + 2 * SESSION_S:
                    assert await client.read_all() == client.acked
                    assert await beat(bare, "g", joined) == 0
                    assert await client.described() == (0, 1)
                    assert await client.produce(1) == ErrorCode.KAFKA_STORAGE_ERROR
                    assert await client.commit(joined, 1) in RETRIABLE
                    await trio.sleep(0.5)  # what is tried is that nothing ends while time passes
                assert "lost its session" not in broker.said

                filler.unlink()
                while await client.produce(1) or await client.commit(joined, len(client.acked)):
                    await trio.sleep(0.1)
                assert await client.produce(20) == 0
                assert await client.read_all() == client.acked
                assert await client.commit(joined, len(client.acked)) == 0
            assert await broker.stop() == 0
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_F10_deleting_topics_frees_a_full_disk(small_disk: Path) -> None:
    """Which is what people do then. A topic that is made meanwhile is usable when there is room."""
    options = ["--override", "log.segment.delete.delay.ms=0", "--override", "log.retention.check.interval.ms=100"]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            broker = BrokerProcess(nursery, small_disk / "data", "--topic", "large:1", "--topic", "t:1", *options)
            await broker.start()
            async with connect(RealNet(Features.detect()), broker.host, broker.port) as bare:
                large, client, late = Client(bare, "large"), Client(bare, "t"), Client(bare, "late")
                assert await client.produce(10) == 0
                assert await large.produce(1000) == ErrorCode.KAFKA_STORAGE_ERROR
                fill_up(small_disk / "rest")
                wish = CreatableTopic(name="late", num_partitions=1, replication_factor=1, assignments=[], configs=[])
                created = await bare.call(CreateTopicsRequest(topics=[wish], timeout_ms=5000), 7)
                assert created.topics[0].error_code == 0, created
                assert await late.produce(1) == ErrorCode.KAFKA_STORAGE_ERROR
                deleted = await bare.call(DeleteTopicsRequest(topic_names=["large"], timeout_ms=5000), 5)
                assert deleted.responses[0].error_code == 0, deleted
                for each in (client, late):
                    while await each.produce(1):
                        await trio.sleep(0.1)
                    assert await each.produce(10) == 0
                    assert await each.read_all() == each.acked
            assert await broker.stop() == 0
            nursery.cancel_scope.cancel()
