"""Where partitions begin and end, of as many as there are: one question to each leader, all of them asked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS
from kbroker.cli.cluster.reads import NOBODY, TopicPartition
from kbroker.cli.topics.partitions import check_all, check_led

EARLIEST, LATEST = -2, -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
PARTITIONS_AT_ONCE = 5000  # in one request


class Ends(NamedTuple):
    """The first offset of a partition and the next to be written."""

    first: int
    end: int


def ends(
    client: Any, leaders: Mapping[TopicPartition, int], isolation: int = READ_UNCOMMITTED
) -> dict[TopicPartition, Ends]:
    """Where partitions begin and end. leaders: which, and who leads each. READ_COMMITTED: the end is the last stable
    offset. Those whose leader does not answer, or is another by now, are left out.
    """
    first = offsets(client, leaders, EARLIEST, isolation)
    end = offsets(client, leaders, LATEST, isolation)
    return {key: Ends(first[key], end[key]) for key in leaders if key in first and key in end}


def all_ends(client: Any, leaders: Mapping[TopicPartition, int]) -> dict[TopicPartition, Ends]:
    """The same, of all of them. Raises Failed where nobody leads one, or its leader does not tell."""
    check_led(leaders)
    found = ends(client, leaders)
    check_all({key: "its leader does not answer" for key in leaders if key not in found})
    return found


def offsets(
    client: Any, leaders: Mapping[TopicPartition, int], timestamp: int, isolation: int = READ_UNCOMMITTED
) -> dict[TopicPartition, int]:
    """The first offset at or after a time in ms, -1 where there is none; EARLIEST and LATEST have their own meaning."""
    from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic

    version = bridge.version_of(client, ApiKey.LIST_OFFSETS)
    asked = []
    for node, keys in by_leader(leaders).items():
        for start in range(0, len(keys), PARTITIONS_AT_ONCE):
            topics: dict[str, list[ListOffsetsPartition]] = {}
            for topic, index in keys[start : start + PARTITIONS_AT_ONCE]:
                topics.setdefault(topic, []).append(ListOffsetsPartition(partition_index=index, timestamp=timestamp))
            request = ListOffsetsRequest(
                replica_id=-1,
                isolation_level=isolation,
                topics=[ListOffsetsTopic(name=name, partitions=each) for name, each in topics.items()],
                timeout_ms=ANSWER_TIMEOUT_MS,
            )
            asked.append(bridge.Asked(node, request, ApiKey.LIST_OFFSETS, version))
    return {
        (topic.name, each.partition_index): each.offset
        for answer in bridge.send_all(client, asked)
        if not isinstance(answer, Exception)
        for topic in answer.topics
        for each in topic.partitions
        if not each.error_code
    }


def by_leader(leaders: Mapping[TopicPartition, int]) -> dict[int, list[TopicPartition]]:
    """The partitions each broker leads; those without a leader are left out."""
    found: dict[int, list[TopicPartition]] = {}
    for key, node in leaders.items():
        if node != NOBODY:
            found.setdefault(node, []).append(key)
    return found
