"""Views through a whole broker: read like topics, written to by nobody, late where they are to be."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import DescribeConfigsRequest, DescribeConfigsResource
from kafka_wire.messages.metadata import (
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsTopic,
    MetadataRequest,
)
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_wire.messages.produce_fetch import FetchPartitionData, FetchRequest
from kafka_wire.messages.topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kafka_wire.records import build_batch, headers, read_records
from kbroker.config.broker_keys import RACK_AWARE_SELECTOR
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from kbroker.views import results
from kbroker.views.views import FILE_NAME
from tests.api.anywhere import anywhere
from tests.api.group_tools import commit, committed, find
from tests.api.test_configs import alter
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce
from tests.api.test_topics import call_delete
from tests.api.transaction_tools import NEW, OLD, Producer

MINUTES = 60_000
DAY_MS = 24 * 60 * MINUTES


def data(response: Any) -> list[bytes]:
    """The values of records, without those of control batches."""
    records = one(response).records
    positions = [position for position, header in headers(records) if not header.is_control]
    return [row.value for position in positions for row in read_records(records, position, max_bytes=1 << 20)]


async def make_view(client: BareClient, name: str = "v", source: str = "t", **configs: str) -> Any:
    own = {"source": source, **configs}
    rows = [CreatableTopicConfig(name=f"kbroker.view.{key.replace('_', '.')}", value=own[key]) for key in own]
    wish = CreatableTopic(name=name, num_partitions=-1, replication_factor=-1, assignments=[], configs=rows)
    (made,) = (await client.call(CreateTopicsRequest(topics=[wish], timeout_ms=10_000), 7)).topics
    assert not made.error_code, made.error_message
    return made


def tagged(*rows: tuple[bytes, bytes]) -> bytearray:
    """(value, tags) of each record."""
    return build_batch([(0, b"k", value, (("kbroker-tags", tags),)) for value, tags in rows])


def one(response: Any) -> FetchPartitionData:
    (topic,) = response.responses
    (partition,) = topic.partitions
    assert isinstance(partition, FetchPartitionData)
    return partition


async def latest(client: BareClient, topic: str, timestamp: int = -1, **options: Any) -> int:
    asked = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=[asked])], **options)
    found = (await client.call(request, 7)).topics[0].partitions[0]
    assert not found.error_code, found
    return int(found.offset)


# -- read like topics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(4, 18))
async def test_every_version_reads_a_view(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        made = await make_view(client)
        await produce(client, batch(b"a", b"b"))
        await produce(client, batch(b"c"))
        name = made.topic_id if version >= 13 else "v"
        response = await client.call(fetch_request({(name, 0): 1}), version)
        assert values(response) == [b"a", b"b", b"c"]
        assert (one(response).high_watermark, one(response).last_stable_offset) == (3, 3)


async def test_a_view_by_tags_is_read_with_the_offsets_of_its_source() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, tags="eu,vip")
        await produce(client, tagged((b"a", b"eu"), (b"b", b"us"), (b"c", b"us,vip")))
        await produce(client, tagged((b"d", b"us")))
        response = await client.call(fetch_request({("v", 0): 0}), 11)
        assert data(response) == [b"a", b"c"] and one(response).high_watermark == 4
        assert data(await client.call(fetch_request({("t", 0): 0}), 11)) == [b"a", b"b", b"c", b"d"]
        assert await latest(client, "v") == 4


async def test_a_filter_that_changes_is_the_one_that_counts() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, tags="eu")
        await produce(client, tagged((b"a", b"eu"), (b"b", b"us")))
        assert data(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]
        assert not await alter(client, 2, "v", "kbroker.view.tags", "us")
        assert data(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"b"]


@pytest.mark.parametrize("own", [{}, {"tags": "eu"}, {"lag_ms": str(DAY_MS)}])
async def test_a_fetch_that_waits_is_told_when_its_view_is_deleted(
    autojump_clock: MockClock, own: dict[str, str]
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        await make_view(client, **own)

        async def delete() -> None:
            await trio.sleep(5)
            assert not (await call_delete(other, "v")).error_code

        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete)
            begun_s = trio.current_time()
            response = await client.call(fetch_request({("v", 0): 0}, max_wait_ms=20 * MINUTES), 11)
            assert one(response).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert 5 <= trio.current_time() - begun_s < 10


async def test_what_was_found_for_a_view_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = results.Results()
    monkeypatch.setattr(results, "Results", lambda: kept)
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        for name in ("v", "w"):
            await make_view(client, name, tags="eu")
        await produce(client, tagged((b"a", b"eu"), (b"b", b"us")))
        for name in ("v", "w"):
            assert data(await client.call(fetch_request({(name, 0): 0}), 11)) == [b"a"]
        assert kept.count == 2
        assert not await alter(client, 2, "v", "kbroker.view.tags", "us")
        await wait_all_tasks_blocked()
        assert kept.count == 1
        assert not (await call_delete(client, "w")).error_code
        await wait_all_tasks_blocked()
        assert (kept.count, kept.size) == (0, 0)


async def test_a_fetch_that_waits_goes_on_by_the_filter_that_there_is_now(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        await make_view(client, tags="eu")
        await produce(client, tagged((b"a", b"us"), (b"b", b"de")))

        async def change() -> None:
            for tag in ("fr", "us"):
                await trio.sleep(5)
                assert not await alter(other, 2, "v", "kbroker.view.tags", tag)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            begun_s = trio.current_time()
            response = await client.call(fetch_request({("v", 0): 0}, max_wait_ms=20 * MINUTES), 11)
            assert data(response) == [b"a"] and 10 <= trio.current_time() - begun_s < 15


async def test_a_fetch_waits_for_what_is_written_to_the_source() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        await make_view(client)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                response = await client.call(fetch_request({("v", 0): 0}, max_wait_ms=10_000), 11)
                assert values(response) == [b"a"]

            await produce(other, batch(b"a"))


async def test_a_session_follows_a_view() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        begun = await client.call(fetch_request({("v", 0): 0}, session_epoch=0), 11)
        again = FetchRequest(max_wait_ms=0, min_bytes=1, session_id=begun.session_id, session_epoch=1)
        assert not (await client.call(again, 11)).responses
        await produce(client, batch(b"a"))
        again = FetchRequest(max_wait_ms=0, min_bytes=1, session_id=begun.session_id, session_epoch=2)
        assert values(await client.call(again, 11)) == [b"a"]


async def test_metadata_names_the_leader_of_the_source_and_the_views_own_id() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        made = await make_view(client)
        assert (made.num_partitions, made.replication_factor) == (3, 1)
        told = {topic.name: topic for topic in (await client.call(MetadataRequest(topics=None), 12)).topics}
        assert told["v"].topic_id == made.topic_id != told["t"].topic_id and not told["v"].is_internal
        assert told["v"].partitions == told["t"].partitions
        request = DescribeTopicPartitionsRequest(
            topics=[DescribeTopicPartitionsTopic(name="v")], response_partition_limit=10
        )
        described = (await client.call(request, 0)).topics[0]
        assert [row.leader_id for row in described.partitions] == [1, 1, 1]


async def test_offsets_of_a_view() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        await produce(client, build_batch([(1000, b"k", b"a", ()), (2000, b"k", b"b", ())]))
        assert [await latest(client, "v", timestamp) for timestamp in (-1, -2, 1500, 3000)] == [2, 0, 1, -1]
        asked = OffsetForLeaderTopic(topic="v", partitions=[OffsetForLeaderPartition(partition=0, leader_epoch=0)])
        answer = await client.call(OffsetForLeaderEpochRequest(topics=[asked]), 4)
        assert (answer.topics[0].partitions[0].error_code, answer.topics[0].partitions[0].end_offset) == (0, 2)


async def test_configs_of_a_view_are_shown() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, tags="eu")
        assert not await alter(client, 2, "t", "retention.ms", "77")
        request = DescribeConfigsRequest(resources=[DescribeConfigsResource(resource_type=2, resource_name="v")])
        (result,) = (await client.call(request, 4)).results
        rows = {row.name: row for row in result.configs}
        assert (rows["kbroker.view.source"].value, rows["kbroker.view.tags"].value) == ("t", "eu")
        assert rows["kbroker.view.source"].config_source == 1 and rows["kbroker.view.source"].read_only
        assert not rows["kbroker.view.tags"].read_only
        assert (rows["retention.ms"].value, rows["retention.ms"].read_only) == ("77", True)  # the source's


# -- written to by nobody ---------------------------------------------------------------------------------------------


async def test_producing_to_a_view_is_refused_for_good() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        for version in (9, 12):
            answer = await produce(client, batch(b"a"), topic="v", version=version)
            assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
            assert answer.error_message == "v is a read-only view of t"
        assert await latest(client, "t") == 0


async def test_what_else_cannot_be_done_to_a_view() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        await produce(client, batch(b"a"))
        rows = [DeleteRecordsPartition(partition_index=0, offset=1)]
        request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="v", partitions=rows)], timeout_ms=1000)
        assert (await client.call(request, 2)).topics[0].partitions[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        grow = CreatePartitionsTopic(name="v", count=5, assignments=None)
        (grown,) = (await client.call(CreatePartitionsRequest(topics=[grow], timeout_ms=1000), 3)).results
        assert grown.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION and "view of t" in (grown.error_message or "")
        assert await latest(client, "v", -2) == 0


# -- late -------------------------------------------------------------------------------------------------------------


async def test_a_late_view_shows_nothing_early_and_wakes_who_waits(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        await make_view(client, lag_ms=str(5 * MINUTES))
        await produce(other, batch(b"a"))
        began = trio.current_time()
        response = await client.call(fetch_request({("v", 0): 0}, max_wait_ms=20 * MINUTES), 11)
        assert values(response) == [b"a"]
        assert 300 <= trio.current_time() - began <= 302.5


async def test_a_late_view_ends_where_its_source_ended_then(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, lag_ms=str(5 * MINUTES))
        for value in (b"a", b"b", b"c"):
            await produce(client, batch(value))
            await trio.sleep(60)
        assert await latest(client, "v") == 0 and await latest(client, "t") == 3
        response = await client.call(fetch_request({("v", 0): 0}), 11)
        assert values(response) == [] and one(response).high_watermark == 0 == one(response).last_stable_offset
        await trio.sleep(125)  # 305 s since a, 245 since b
        assert await latest(client, "v") == 1 == await latest(client, "v", isolation_level=1)
        response = await client.call(fetch_request({("v", 0): 0}, isolation_level=1), 11)
        assert values(response) == [b"a"] and one(response).high_watermark == 1
        broker.clock.jump_data(MINUTES)  # it is the data clock that counts
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a", b"b"]
        broker.clock.jump_data(-MINUTES)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]


async def test_timestamps_do_not_make_a_late_view_early(autojump_clock: MockClock) -> None:
    """A producer may write any; it is when the records came that counts."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, lag_ms=str(5 * MINUTES))
        await trio.sleep(2)
        await produce(client, build_batch([(broker.clock.data_ms() - DAY_MS, b"k", b"old", ())]))
        await trio.sleep(200)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == []


async def test_what_was_there_before_a_late_view_is_as_old_as_its_timestamps_say(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        now = broker.clock.data_ms()
        for ago, value in ((10, b"a"), (6, b"b"), (1, b"c")):
            await produce(client, build_batch([(now - ago * MINUTES, b"k", value, ())]))
        await make_view(client, lag_ms=str(5 * MINUTES))
        await trio.sleep(1)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a", b"b"]
        await trio.sleep(5 * 60)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_late_view_is_neither_early_nor_much_later_after_a_restart(
    autojump_clock: MockClock, is_killed: bool
) -> None:
    async with memory_cluster(1, topics={"t": 1}) as cluster:
        old = cluster.brokers[1].clock.data_ms() - DAY_MS
        async with cluster.client(1) as client:
            await make_view(client, lag_ms=str(5 * MINUTES))
            await produce(client, build_batch([(old, b"k", b"a", ())]))
            await trio.sleep(100)
            await produce(client, build_batch([(old, b"k", b"b", ())]))
        if is_killed:
            cluster.kill(1)
        else:
            await cluster.stop(1)
        await cluster.start(1)
        async with cluster.client(1) as client:
            await trio.sleep(190)  # 290 s since a
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == []
            await trio.sleep(15)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]
            await trio.sleep(90)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]
            await trio.sleep(15)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a", b"b"]


async def test_a_late_view_is_neither_early_nor_much_later_after_a_failover(autojump_clock: MockClock) -> None:
    async with memory_cluster(3, topics={"t": 1}, replication_factor=3) as cluster, anywhere(cluster) as client:
        async with cluster.client(1) as first:
            await make_view(first, lag_ms=str(5 * MINUTES))
        old = cluster.brokers[1].clock.data_ms() - DAY_MS
        await produce(client, build_batch([(old, b"k", b"a", ())]), acks=-1)
        await trio.sleep(200)
        leader = await client.leader("t", 0)
        cluster.kill(leader)
        await trio.sleep(90)  # 290 s since a
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == []
        await trio.sleep(15)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]


async def test_a_replica_that_knows_nothing_takes_its_log_for_new(autojump_clock: MockClock) -> None:
    """Killed before anything was noted, it goes by no timestamp: the view is later, once, and not early."""
    async with memory_cluster(1, topics={"t": 1}) as cluster:
        async with cluster.client(1) as client:
            await make_view(client, lag_ms=str(5 * MINUTES))
            await produce(client, build_batch([(cluster.brokers[1].clock.data_ms() - DAY_MS, b"k", b"a", ())]))
        cluster.kill(1)
        disk = cluster.machines[1].disk
        if disk.exists(FILE_NAME):
            disk.remove(FILE_NAME)
        await cluster.start(1)
        async with cluster.client(1) as client:
            await trio.sleep(295)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == []
            await trio.sleep(10)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]


@pytest.mark.parametrize("harm", [b"", b"0\n5\n", b"\xff\x00", b"0\n1\nx y z\n", b"0\n1\nAAAA 0 9999999999999 5\n"])
async def test_a_damaged_file_of_ages_is_no_reason_not_to_start(autojump_clock: MockClock, harm: bytes) -> None:
    async with memory_cluster(1, topics={"t": 1}) as cluster:
        async with cluster.client(1) as client:
            await make_view(client, lag_ms=str(5 * MINUTES))
            await produce(client, batch(b"a"))
        await cluster.stop(1)
        cluster.machines[1].disk.write_atomic(FILE_NAME, harm, sync=True)
        await cluster.start(1)
        async with cluster.client(1) as client:
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == []
            await trio.sleep(305)
            assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]


async def test_a_full_disk_makes_late_views_no_later(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, lag_ms=str(5 * MINUTES))
        await produce(client, batch(b"a"))
        broker.disk.capacity = broker.disk.used
        await trio.sleep(305)
        assert values(await client.call(fetch_request({("v", 0): 0}), 11)) == [b"a"]


async def test_what_a_full_disk_did_not_take_is_saved_when_there_is_room(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client, lag_ms=str(5 * MINUTES))
        await trio.sleep(1)
        await produce(client, batch(b"a"))
        room, broker.disk.capacity = broker.disk.capacity, broker.disk.used
        await trio.sleep(30)
        before = broker.disk.read(FILE_NAME).splitlines()
        broker.disk.capacity = room
        await trio.sleep(30)  # in which nothing is appended
        after = broker.disk.read(FILE_NAME).splitlines()
        assert len(after) == len(before) + 1 and after[-1].split()[3] == b"1"


async def test_a_late_view_is_read_from_followers_as_late(autojump_clock: MockClock) -> None:
    config = {"replica.selector.class": RACK_AWARE_SELECTOR}
    async with memory_cluster(
        3, topics={"t": 1}, replication_factor=3, config=config, own_config=lambda id: {"broker.rack": f"r{id}"}
    ) as cluster:
        async with anywhere(cluster) as client:
            leader = await client.leader("t", 0)
            reader = next(id for id in (1, 2, 3) if id != leader)
            async with cluster.client(1) as first:
                await make_view(first, lag_ms=str(5 * MINUTES))
            await produce(client, batch(b"a"), acks=-1)
            await trio.sleep(290)
            asked = fetch_request({("v", 0): 0}, rack_id=f"r{reader}", max_wait_ms=500)
            async with cluster.client(leader) as at_leader, cluster.client(reader) as at_follower:
                assert one(await at_leader.call(asked, 12)).preferred_read_replica == reader
                assert values(await at_follower.call(asked, 12)) == []
                await trio.sleep(15)
                assert values(await at_follower.call(asked, 12)) == [b"a"]


# -- transactions and groups ------------------------------------------------------------------------------------------


async def test_no_transaction_writes_to_a_view() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        producer = await Producer(client).init()
        assert await producer.add(0, topic="v") == [ErrorCode.INVALID_TOPIC_EXCEPTION]
        for version in (OLD, NEW):
            refused = await producer.produce("v", version=version)
            assert refused.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        assert await latest(client, "t") == 0


async def test_readers_of_committed_records_read_a_view_as_its_source() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        producer = await Producer(client).init()
        for commit in (False, True):
            await producer.add(0)
            await producer.produce()
            open_ = one(await client.call(fetch_request({("v", 0): 0}, isolation_level=1), 11))
            assert open_.last_stable_offset == (2 if commit else 0) < open_.high_watermark
            await producer.end(commit=commit)
        done = {
            topic: one(await client.call(fetch_request({(topic, 0): 0}, isolation_level=1), 11)) for topic in ("t", "v")
        }
        assert done["v"] == done["t"] and [each.first_offset for each in done["v"].aborted_transactions or ()] == [0]


async def test_commits_on_a_view_are_its_own_and_go_with_it(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await make_view(client)
        await produce(client, batch(b"a", b"b"))
        await find(client, "g")
        assert await commit(client, "g", 2, topic="v") == ErrorCode.NONE
        assert [(await committed(client, "g", topic=topic))[0] for topic in ("v", "t")] == [2, -1]
        assert not (await call_delete(client, "v")).error_code
        await make_view(client)
        await trio.sleep(1)
        assert (await committed(client, "g", topic="v"))[0] == -1
