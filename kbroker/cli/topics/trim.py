"""`kbroker topic trim`: deletes the oldest records of a topic. Shows what goes, and asks before it does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from kafka_wire.api import ApiKey
from kafka_wire.messages.topics import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS, Connection, admin, connection_options, error_text
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.consent import ask, yes_option
from kbroker.cli.groups.seek import Target, TargetType
from kbroker.cli.names import TOPIC
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, plural, table
from kbroker.cli.topics import offsets
from kbroker.cli.topics.offsets import Ends
from kbroker.cli.topics.partitions import check_all, leaders, partition_option

HEADINGS = ("PARTITION", "FIRST", "END", "NEW FIRST", "DELETED")


class Step(NamedTuple):
    """The plan for one partition."""

    partition: int
    first: int
    end: int
    new_first: int

    @property
    def deleted(self) -> int:
        """How many offsets go."""
        return self.new_first - self.first


@click.command()
@click.argument("name", type=TOPIC, metavar="TOPIC")
@partition_option
@click.option(
    "--before",
    type=TargetType(),
    metavar="OFFSET|TIME",
    help="What is before this offset or time: 1200, end, @1700000000 (seconds or milliseconds since the epoch), "
    "2026-11-22T12:00:00.",
)
@click.option("--keep", type=WholeType(0), metavar="N", help="All but the last N of each partition.")
@yes_option
@format_option
@connection_options
def trim(
    connection: Connection,
    name: str,
    numbers: Sequence[int],
    before: Target | None,
    keep: int | None,
    yes: bool,
    style: str,
) -> None:
    """Delete the oldest records of a topic, for all who read it. What is deleted does not come back.

    \b
      kbroker topic trim orders --before 2026-11-22
      kbroker topic trim orders --keep 1000 -p 0
      kbroker topic trim orders --before end --yes
    """
    if (before is None) == (keep is None):
        raise click.UsageError("give --before or --keep, one of them (--before end: all records)")
    if before is not None and before.base in ("current", "start"):
        raise click.UsageError("--before takes an offset, end or a time")
    with admin(connection) as client:
        led = leaders(client, (name, tuple(numbers)))
        steps = _plan(client, led, before, keep or 0)
        going = [step for step in steps if step.deleted]
        _show(name, steps, style)
        if not going:
            return
        count = plural(sum(step.deleted for step in going), "record")
        if not yes:
            ask(f"Delete {count} of {name}?")
        check_all(_delete(client, name, going, led))
    click.echo(f"deleted {count} of {name}", err=style == "json")


def _plan(client: Any, led: Mapping[TopicPartition, int], before: Target | None, keep: int) -> list[Step]:
    ends = offsets.all_ends(client, led)
    at_time = {}
    if before is not None and before.base == "time":
        at_time = offsets.offsets(client, led, before.number)
    return [Step(key[1], *ends[key], _new_first(ends[key], before, keep, at_time.get(key, -1))) for key in led]


def _new_first(ends: Ends, before: Target | None, keep: int, at_time: int) -> int:
    """Where a partition is to begin. at_time: the first offset of that time, -1 where all records are older."""
    if before is None:
        wanted = ends.end - keep
    elif before.base == "time":
        wanted = at_time if at_time >= 0 else ends.end
    else:
        wanted = ends.end if before.base == "end" else before.number
    return min(max(wanted, ends.first), ends.end)


def _show(name: str, steps: Sequence[Step], style: str) -> None:
    if style == "json":
        click.echo(json_text([{"topic": name, **step._asdict(), "deleted": step.deleted} for step in steps]))
        return
    click.echo(table(HEADINGS, [(*step, step.deleted) for step in steps]))
    if not any(step.deleted for step in steps):
        click.echo("nothing to delete", err=True)


def _delete(
    client: Any, name: str, steps: Sequence[Step], led: Mapping[TopicPartition, int]
) -> dict[TopicPartition, str]:
    """Delete; what went wrong, by partition."""
    key = ApiKey.DELETE_RECORDS
    version = bridge.version_of(client, key)
    new = {step.partition: step.new_first for step in steps}
    asked, places = [], []
    for node, keys in offsets.by_leader({(name, index): led[name, index] for index in new}).items():
        wanted = [DeleteRecordsPartition(partition_index=index, offset=new[index]) for _, index in keys]
        topics = [DeleteRecordsTopic(name=name, partitions=wanted)]
        asked.append(
            bridge.Asked(node, DeleteRecordsRequest(topics=topics, timeout_ms=ANSWER_TIMEOUT_MS), key, version)
        )
        places.append(keys)
    problems: dict[TopicPartition, str] = {}
    for keys, answer in zip(places, bridge.send_all(client, asked), strict=True):
        if isinstance(answer, Exception):
            problems |= dict.fromkeys(keys, str(answer))
            continue
        told = [each for topic in answer.topics for each in topic.partitions]
        problems |= {(name, each.partition_index): error_text(each.error_code) for each in told if each.error_code}
    return problems
