"""DescribeLogDirs 1-5: how much each partition takes on disk.

There is one log directory. Moving replicas between directories has no meaning here; a replica is never "future".
"""

from __future__ import annotations

from collections.abc import Iterable

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


@handles(ApiKey.DESCRIBE_LOG_DIRS, 1, 5)
def describe_log_dirs(request: DescribeLogDirsRequest, context: Context) -> DescribeLogDirsResponse:
    """Sizes of the partitions asked for (null: all) and of the volume (KIP-827); unknown ones are left out."""
    services, disk = context.services, context.services.env.disk
    topics: dict[str, DescribeLogDirsTopic] = {}
    for partition in _asked(request, services):
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
        return services.partitions.values()
    keys = dict.fromkeys((topic.topic, index) for topic in request.topics for index in topic.partitions)
    return [services.partitions[key] for key in keys if key in services.partitions]
