"""DescribeLogDirs and AlterReplicaLogDirs: a broker's one directory."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.topics import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirTopic,
    DescribeLogDirsRequest,
)
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.client import BareClient


def move(path: str, topic: str, *partitions: int) -> AlterReplicaLogDir:
    return AlterReplicaLogDir(path=path, topics=[AlterReplicaLogDirTopic(name=topic, partitions=list(partitions))])


async def moved(client: BareClient, *dirs: AlterReplicaLogDir, version: int = 2) -> dict[tuple[str, int], ErrorCode]:
    answer = await client.call(AlterReplicaLogDirsRequest(dirs=list(dirs)), version)
    return {
        (topic.topic_name, each.partition_index): ErrorCode(each.error_code)
        for topic in answer.results
        for each in topic.partitions
    }


async def directory(client: BareClient) -> str:
    answer = await client.call(DescribeLogDirsRequest(topics=None), 4)
    path: str = answer.results[0].log_dir
    return path


@pytest.mark.parametrize("version", [1, 2])
async def test_trap_30_a_replica_is_where_it_is(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        path = await directory(client)
        assert await moved(client, move(path, "t", 0, 1), version=version) == {
            ("t", 0): ErrorCode.NONE,
            ("t", 1): ErrorCode.NONE,
        }


async def test_no_other_directory_is_known() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await moved(client, move("/elsewhere", "t", 0)) == {("t", 0): ErrorCode.LOG_DIR_NOT_FOUND}
        path = await directory(client)
        last = await moved(client, move("/elsewhere", "t", 0), move(path, "t", 0))
        assert last == {("t", 0): ErrorCode.NONE}


async def test_what_is_not_there_cannot_be_moved() -> None:
    async with memory_cluster(2, topics={"t": 2}) as cluster, cluster.client(1) as client:
        path = await directory(client)
        answers = await moved(client, move(path, "t", 0, 1, 2), move(path, "no", 0), move(path, "n" * 240, 0))
        own, other = (0, 1) if answers["t", 0] is ErrorCode.NONE else (1, 0)
        assert answers == {
            ("t", own): ErrorCode.NONE,
            ("t", other): ErrorCode.REPLICA_NOT_AVAILABLE,
            ("t", 2): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("no", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("n" * 240, 0): ErrorCode.INVALID_TOPIC_EXCEPTION,
        }


async def test_each_broker_describes_what_is_in_its_own_directory() -> None:
    async with memory_cluster(3, topics={"t": 3}) as cluster:
        seen: list[int] = []
        for broker_id in (1, 2, 3):
            async with cluster.client(broker_id) as client:
                answer = await client.call(DescribeLogDirsRequest(topics=None), 4)
            (result,) = answer.results
            assert 0 < result.usable_bytes <= result.total_bytes
            rows = [each for topic in result.topics for each in topic.partitions]
            assert [(each.is_future_key, each.offset_lag) for each in rows] == [(False, 0)] * len(rows)
            seen += [each.partition_index for each in rows]
        assert sorted(seen) == [0, 1, 2]
