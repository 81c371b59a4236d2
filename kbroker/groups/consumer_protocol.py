"""What consumers write into a classic group's opaque metadata and assignments, for those who look inside.

The broker needs none of it to coordinate. It looks for the sake of the timeline (who owned which partition), of
OffsetDelete (which topics are subscribed), and of groups that change to KIP-848. Bytes that are not what a consumer
writes are no error: they say nothing, and the answer is None. A version newer than known is read as the newest known,
as Kafka's ConsumerProtocol does.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import TypeVar

from kafka_wire.codegen import decode
from kafka_wire.errors import ProtocolError
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kbroker.groups.timeline import TopicPartition

PROTOCOL_TYPE = "consumer"
VERSION_MAX = 3

T = TypeVar("T")


def read_subscription(metadata: bytes) -> ConsumerProtocolSubscription | None:
    """What a consumer told its group: topics, what it owns (KIP-429), its rack."""
    return _read(ConsumerProtocolSubscription, metadata)


def read_assignment(assignment: bytes) -> frozenset[TopicPartition] | None:
    """The partitions a consumer was given."""
    if not assignment:  # a member the leader has left out
        return frozenset()
    read = _read(ConsumerProtocolAssignment, assignment)
    return None if read is None else pairs(read.assigned_partitions)


def pairs(topics: Iterable[ConsumerProtocolTopicPartitions]) -> frozenset[TopicPartition]:
    """(topic, partition) of each partition."""
    found: set[TopicPartition] = set()
    for each in topics:
        found.update(zip(repeat(each.topic), each.partitions))
    return frozenset(found)


def _read(cls: type[T], data: bytes) -> T | None:
    version = int.from_bytes(data[:2], "big", signed=True)
    if len(data) < 2 or version < 0:
        return None
    try:
        return decode(cls, min(version, VERSION_MAX), data, 2)
    except ProtocolError:
        return None
