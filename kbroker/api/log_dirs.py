"""DescribeLogDirs 1-5: how much each partition takes on disk.

There is one log directory. Moving replicas between directories has no meaning here; a replica is never "future".
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.topics import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.replication.partition import Partition
from kbroker.turns import STRIDE, Work, answer


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
