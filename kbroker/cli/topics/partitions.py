"""Partitions as people name them: -p 0,2 of a topic, TOPIC:0,2 among topics. Which are there, and who leads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from kbroker.cli.cluster import reads
from kbroker.cli.cluster.reads import Partition, TopicPartition
from kbroker.cli.errors import Failed, check_none
from kbroker.cli.names import completions, topics

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHOWN_MAX = 20  # partitions in a line

Chosen: TypeAlias = tuple[str, tuple[int, ...]]  # a topic and some of its partitions; none are named: all


def numbers(text: str) -> tuple[int, ...]:
    """ "0" or "0,2": partitions, in order. Raises ValueError."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise ValueError(text)
    return tuple(sorted(set(map(int, text.split(",")))))


class NumbersType(click.ParamType[tuple[int, ...]]):
    """N or N,N...: partitions of the topic at hand."""

    name = "partition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers; a usage error when they are none."""
        try:
            return value if isinstance(value, tuple) else numbers(str(value))
        except ValueError:
            self.fail(f"{value!r} is no list of partitions such as 0 or 0,2", param, ctx)


class PartitionsType(click.ParamType[Chosen]):
    """TOPIC or TOPIC:PARTITION,...: a topic, and which of its partitions."""

    name = "topic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Chosen:
        """The pair; a usage error when it is none."""
        if isinstance(value, tuple):
            return value
        topic, colon, named = str(value).partition(":")  # a topic's name has no colon
        try:
            found = numbers(named) if colon else ()
        except ValueError:
            topic = ""
        if not topic:
            self.fail(f"{value!r} is not TOPIC or TOPIC:PARTITION,...", param, ctx)
        return topic, found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Topics; the partitions behind the colon are up to people."""
        return completions(topics(ctx), incomplete)


partition_option = click.option(
    "-p",
    "--partition",
    "numbers",
    type=NumbersType(),
    metavar="N,...",
    multiple=True,
    callback=lambda _ctx, _param, given: tuple(sorted({number for each in given for number in each})),
    help="Only these partitions. Repeatable.",
)


def partitions(client: Any, chosen: Sequence[Chosen]) -> list[Partition]:
    """The partitions that are chosen, in order. Raises Failed for a topic or a partition that is not there."""
    there = reads.partitions(client, [topic for topic, _ in chosen])
    by_topic: dict[str, set[int]] = {}
    for each in there:
        by_topic.setdefault(each.topic, set()).add(each.partition)
    for topic, named in chosen:
        check_there(topic, named, by_topic.get(topic, ()))
    wanted = {(topic, number) for topic, named in chosen for number in named}
    whole = {topic for topic, named in chosen if not named}
    return [each for each in there if each.topic in whole or each.key in wanted]


def leaders(client: Any, *chosen: Chosen) -> dict[TopicPartition, int]:
    """The same, with who leads each; reads.NOBODY may. Raises Failed."""
    return {each.key: each.leader for each in partitions(client, chosen)}


def check_there(topic: str, named: Iterable[int], there: Collection[int], where: str = "") -> None:
    """Failed, unless a topic has these partitions. there: those it has, from 0 on; where: where they were named."""
    if missing := sorted(set(named) - set(there)):
        raise Failed(where + no_partition(topic, missing[0], there))


def no_partition(topic: str, number: int, there: Collection[int]) -> str:
    """That a topic does not have a partition, in the same words everywhere."""
    has = f"only {min(there)}" if len(there) == 1 else f"0 to {max(there)}" if there else "none"
    return f"topic {topic} has no partition {number}: it has {has}"


def check_led(leaders: Mapping[TopicPartition, int]) -> None:
    """Failed, when nobody leads one of these partitions."""
    check_all({key: "no leader at present" for key, node in leaders.items() if node == reads.NOBODY})


def place(partition: TopicPartition) -> str:
    """A partition for people: "orders 3"."""
    return f"{partition[0]} {partition[1]}"


def places(keys: Sequence[TopicPartition]) -> str:
    """ "orders 3, orders 5", as many as are read."""
    shown = ", ".join(map(place, keys[:SHOWN_MAX]))
    return shown + (f" and {len(keys) - SHOWN_MAX} more" if len(keys) > SHOWN_MAX else "")


def check_all(problems: Mapping[TopicPartition, str | None], what: str = "") -> None:
    """Failed, when something went wrong with partitions; the same reason is told once. None: nothing did."""
    by_reason: dict[str, list[TopicPartition]] = {}
    for key, problem in sorted(problems.items()):
        if problem is not None:
            by_reason.setdefault(problem, []).append(key)
    told = [f"{places(keys)}: {problem}" for problem, keys in by_reason.items()]
    check_none([what + told[0], *told[1:]] if told else [])
