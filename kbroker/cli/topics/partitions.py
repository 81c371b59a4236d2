"""A topic's partitions: -p, which chooses some, and who leads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from kbroker.cli.cluster import reads
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed

partition_option = click.option(
    "-p",
    "--partition",
    "numbers",
    type=click.IntRange(0),
    metavar="N",
    multiple=True,
    help="Only this partition. Repeatable.",
)


def leaders(client: Any, topic: str, numbers: Sequence[int]) -> dict[TopicPartition, int]:
    """Who leads each of these partitions of a topic, in order; none are named: all. Raises Failed."""
    there = reads.partitions(client, [topic])
    check_there(topic, numbers, {each.partition for each in there})
    return {each.key: each.leader for each in there if not numbers or each.partition in numbers}


def check_there(topic: str, numbers: Iterable[int], there: Collection[int], place: str = "") -> None:
    """Failed, unless a topic has these partitions. there: those it has; place: where they were named."""
    if missing := sorted(set(numbers) - set(there)):
        raise Failed(f"{place}topic {topic} has no partition {missing[0]}: it has 0 to {max(there, default=-1)}")
