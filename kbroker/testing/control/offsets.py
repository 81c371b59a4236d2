"""Where the partitions of a topic begin and end, asked of those that lead them: one request for each leader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kbroker.testing.control.links import Links, check

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

EARLIEST, LATEST = -2, -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1


def by_leader(topic: str, leaders: Mapping[int, int]) -> dict[int, list[int]]:
    """The partitions that each broker leads. leaders: by partition. Raises KafkaError where one has none."""
    led: dict[int, list[int]] = defaultdict(list)
    for index, leader in leaders.items():
        if leader < 0:
            raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, f"{topic}-{index} has no leader")
        led[leader].append(index)
    return led


async def topic_offsets(
    links: Links, topic: str, leaders: Mapping[int, int], which: int, isolation_level: int = READ_UNCOMMITTED
) -> dict[int, int]:
    """By partition. leaders: of the partitions asked about; which: EARLIEST or LATEST. Raises KafkaError."""
    found: dict[int, int] = {}
    for leader, indexes in by_leader(topic, leaders).items():
        wanted = [ListOffsetsPartition(partition_index=each, timestamp=which) for each in indexes]
        topics = [ListOffsetsTopic(name=topic, partitions=wanted)]
        request = ListOffsetsRequest(replica_id=-1, isolation_level=isolation_level, topics=topics)
        for told in (await links.ask(request, leader)).topics[0].partitions:
            check(told.error_code)
            found[told.partition_index] = told.offset
    return found
