"""DescribeLogDirs 1-5, AlterReplicaLogDirs 1-2: the directory of this broker, and what each partition takes in it.

A broker has one log directory. Whoever wants a replica to be in it is told that it is; no other is known, and a replica
is never "future" (KIP-113).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.topics import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.replication.partition import Partition
from kbroker.turns import STRIDE, Effort, Work, answer

NAME_MAX = 255  # of a file: with "-<partition>.<32 digits>-future" Kafka could not move a topic of a longer name
FUTURE_LENGTH = len(".") + 32 + len("-future")


@handles(ApiKey.DESCRIBE_LOG_DIRS, 1, 5)
def describe_log_dirs(
    request: DescribeLogDirsRequest, context: Context
) -> DescribeLogDirsResponse | Coroutine[Any, Any, DescribeLogDirsResponse]:
    """Sizes of the partitions asked for (null: all) and of the volume (KIP-827); unknown ones are left out."""
    return answer(_described(request, context.services))


def _described(request: DescribeLogDirsRequest, services: Services) -> Work[DescribeLogDirsResponse]:
    disk = services.env.disk
    topics: dict[str, DescribeLogDirsTopic] = {}
    for n, partition in enumerate(_asked(request, services)):
        if n % STRIDE == STRIDE - 1:
            yield
        topic = topics.setdefault(partition.topic, DescribeLogDirsTopic(name=partition.topic))
        topic.partitions.append(
            DescribeLogDirsPartition(partition_index=partition.index, partition_size=partition.log.size)
        )
    try:
        total_bytes, usable_bytes, error = disk.total_bytes(), disk.free_bytes(), ErrorCode.NONE
    except OSError:
        total_bytes, usable_bytes, error = -1, -1, ErrorCode.KAFKA_STORAGE_ERROR
    return DescribeLogDirsResponse(
        results=[
            DescribeLogDirsResult(
                error_code=error,
                log_dir=disk.root,
                topics=list(topics.values()),
                total_bytes=total_bytes,
                usable_bytes=usable_bytes,
            )
        ]
    )


def _asked(request: DescribeLogDirsRequest, services: Services) -> Iterable[Partition]:
    if request.topics is None:
        return tuple(services.partitions.values())
    keys = dict.fromkeys((topic.topic, index) for topic in request.topics for index in topic.partitions)
    return [services.partitions[key] for key in keys if key in services.partitions]


@handles(ApiKey.ALTER_REPLICA_LOG_DIRS, 1, 2)
def alter_replica_log_dirs(
    request: AlterReplicaLogDirsRequest, context: Context
) -> AlterReplicaLogDirsResponse | Coroutine[Any, Any, AlterReplicaLogDirsResponse]:
    """Say of each partition whether it is where it is wanted; of one that is named twice the last word counts."""
    return answer(_altered(request, context.services))


def _altered(request: AlterReplicaLogDirsRequest, services: Services) -> Work[AlterReplicaLogDirsResponse]:
    wanted: dict[str, dict[int, str]] = {}  # topic -> partition -> directory
    effort = Effort()
    for directory in request.dirs:
        for topic in directory.topics:
            if topic.partitions:
                wanted.setdefault(topic.name, {}).update(dict.fromkeys(topic.partitions, directory.path))
            if effort.spent(5 + len(topic.partitions) // 4):
                yield
    results = []
    for name, partitions in wanted.items():
        rows = []
        for index, path in partitions.items():
            code = _moved(name, index, path, services)
            rows.append(AlterReplicaLogDirPartitionResult(partition_index=index, error_code=code))
            if effort.spent(5):
                yield
        results.append(AlterReplicaLogDirTopicResult(topic_name=name, partitions=rows))
    return AlterReplicaLogDirsResponse(results=results)


def _moved(topic: str, index: int, path: str, services: Services) -> ErrorCode:
    """ReplicaManager.alterReplicaLogDirs."""
    if len(f"{topic}-{index}") + FUTURE_LENGTH > NAME_MAX:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    if path != services.env.disk.root:
        return ErrorCode.LOG_DIR_NOT_FOUND
    try:
        services.partition(topic, index)
    except KafkaError as error:
        elsewhere = error.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
        return ErrorCode.REPLICA_NOT_AVAILABLE if elsewhere else error.code
    return ErrorCode.NONE
