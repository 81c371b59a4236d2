"""What partitions are to deliver later, and whether a topic delays at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import check_code
from kbroker.cli.cluster import reads
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.topics.partitions import check_led, place

ENABLE = "kbroker.delay.enable"
PAGE = 500  # records asked for at a time
VERSION = 0


class Pending(NamedTuple):
    """A record that is pending. key: its first bytes."""

    partition: int
    id: int
    due_ms: int
    is_hurried: bool
    key: bytes | None
    key_size: int  # -1: it has no key
    value_size: int  # -1: null


def delays(client: Any, topic: str) -> bool:
    """Whether a topic delays what asks for it. Raises Failed where there is no such topic, or the broker never does."""
    told = reads.configs(client, [topic], [ENABLE]).get(topic, {})
    if ENABLE not in told:
        reads.partitions(client, [topic])
        raise Failed("this broker has no delayed delivery: it is not kbroker")
    return told[ENABLE] == "true"


def check_delays(client: Any, topic: str) -> None:
    """Raise Failed, if a topic does not delay: what asks for it would be delivered at once."""
    if not delays(client, topic):
        raise Failed(f"{topic} does not delay: kbroker topic alter {topic} -c {ENABLE}=true")


def pending(
    client: Any, led: Mapping[TopicPartition, int], *, key: bytes | None = None, most: int | None = None
) -> tuple[list[Pending], int]:
    """What is pending, in the order in which it is due, up to so many; and about how many there are in all.

    led: partitions, with who leads them. key: only of this one. Raises Failed, also where nobody leads one.
    """
    check_led(led)
    found: list[Pending] = []
    total = 0
    for partition, leader in led.items():
        rows, count = _of_partition(client, partition, leader, key, most)
        found += rows
        total += count
    found.sort(key=lambda each: (not each.is_hurried, each.due_ms, each.partition, each.id))
    return found[:most], total


def _of_partition(
    client: Any, partition: TopicPartition, leader: int, key: bytes | None, most: int | None
) -> tuple[list[Pending], int]:
    from kafka_wire.messages.delays import ListDelayedRequest

    topic, number = partition
    found: list[Pending] = []
    after = (-1, -1)
    while True:
        limit = PAGE if most is None else min(PAGE, most - len(found))
        request = ListDelayedRequest(
            topic_name=topic, partition_index=number, after_due_ms=after[0], after_id=after[1], limit=limit, key=key
        )
        answer = bridge.send(client, leader, request, ApiKey.LIST_DELAYED, VERSION)
        check_code(answer.error_code, place(partition), answer.error_message)
        found += [_pending(number, each) for each in answer.records]
        after = (answer.next_due_ms, answer.next_id)
        if after == (-1, -1) or len(found) == most:
            return found, answer.pending


def _pending(number: int, row: Any) -> Pending:
    key = None if row.key is None else bytes(row.key)
    return Pending(number, row.id, row.due_ms, bool(row.is_hurried), key, row.key_size, row.value_size)
