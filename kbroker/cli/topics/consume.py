"""`kbroker topic consume`: read partitions from where you say. As a member of a group (-g): consume_group.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from kbroker.cli.client import Connection, connection_options, consumer
from kbroker.cli.errors import Failed
from kbroker.cli.names import GROUP, TOPIC
from kbroker.cli.topics.formats import Output, Shown
from kbroker.cli.topics.reading import POLL_MS, Start, everything, limited, matching, parse_start, write_record
from kbroker.filters import Expression, FilterSyntaxError, parse


class StartType(click.ParamType[Start]):
    """start, end, N, +N (after the start), -N (before the end), @TIME."""

    name = "offset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Start:
        """A Start; a usage error when it is none."""
        if isinstance(value, Start):
            return value
        try:
            return parse_start(str(value))
        except ValueError:
            self.fail(f"{value!r} is not start, end, N, +N, -N or @TIME", param, ctx)


class FilterType(click.ParamType[Expression]):
    """An expression of the filter language."""

    name = "expression"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Expression:
        """An Expression; a usage error that names the position when it is none."""
        if isinstance(value, Expression):
            return value
        try:
            return parse(str(value))
        except FilterSyntaxError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("topics", nargs=-1, required=True, type=TOPIC, metavar="TOPIC...")
@click.option(
    "-o",
    "--offset",
    "start",
    type=StartType(),
    default="start",
    show_default=True,
    help="Where to begin: start, end, N, +N (N after the start), -N (N before the end), @TIME (seconds or "
    "milliseconds since the epoch, or 2026-11-22T12:00:00).",
)
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many records.")
@click.option("-e", "--exit-at-end", is_flag=True, help="Stop at what was the end when it began.")
@click.option("-p", "--partitions", metavar="N,N...", help="Only these partitions.")
@click.option(
    "-g",
    "--group",
    type=GROUP,
    metavar="GROUP",
    help="As a member of this group: goes on where the group was, and "
    "commits what it has written. -o is for partitions the group has not read yet.",
)
@click.option(
    "--filter",
    "expression",
    type=FilterType(),
    help='Only records that match, e.g. \'tags has "eu" and key prefix "user-"\': docs/filtering.md. '
    "All are read; in a group, what is left out is committed too.",
)
@click.option(
    "-f",
    "--output-format",
    "pattern",
    default=r"%v\n",
    show_default=True,
    help="%v value, %k key, %h headers, %t topic, %p partition, %o offset, %d time; %v{hex}, %v{base64}.",
)
@click.option("-J", "--json", "as_json", is_flag=True, help="A JSON object a line, as kcat's.")
@click.option("--read-committed", is_flag=True, help="Leave out what transactions have not committed.")
@connection_options
def consume(
    connection: Connection,
    topics: Sequence[str],
    start: Start,
    count: int | None,
    exit_at_end: bool,
    partitions: str | None,
    group: str | None,
    expression: Expression | None,
    pattern: str,
    as_json: bool,
    read_committed: bool,
) -> None:
    """Read records, and go on as they arrive.

    \b
      kbroker topic consume demo -o start -n 1
      kbroker topic consume demo -e -f '%p/%o %k: %v\\n'
      kbroker topic consume demo -g billing
      kbroker topic consume demo --filter 'country in ("de", "at")'
    """
    try:
        write = Output(pattern)
        only = {int(part) for part in partitions.split(",")} if partitions else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    matches = everything if expression is None else matching(expression)
    isolation = "read_committed" if read_committed else "read_uncommitted"
    if group is not None:
        from kbroker.cli.topics.consume_group import consume_as_member

        if only or start not in (Start("start"), Start("end")):
            raise click.UsageError("with -g: no -p, and -o start or end (to move a group: kbroker group seek)")
        shown = None if as_json else write
        consume_as_member(connection, group, topics, start, shown, count, exit_at_end, isolation, matches)
        return
    with consumer(connection, isolation_level=isolation) as client:
        assigned = _assign(client, topics, only)
        ends = dict(client.end_offsets(assigned))
        _seek(client, assigned, start, ends)
        out = sys.stdout.buffer
        for record, matched in limited(_records(client, ends if exit_at_end else None), count, matches):
            if matched or record is None:
                write_record(out, record, None if as_json else write)


def _records(client: Any, ends: Mapping[Any, int] | None) -> Iterator[Shown | None]:
    """Records as they arrive, and None after each batch of them; with ends, until all are reached."""
    while ends is None or any(client.position(partition) < end for partition, end in ends.items()):
        for partition, records in client.poll(timeout_ms=POLL_MS).items():
            for r in records:
                if ends is None or r.offset < ends[partition]:
                    yield Shown(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        yield None


def _assign(client: Any, topics: Sequence[str], only: set[int] | None) -> list[Any]:
    from kafka import TopicPartition

    assigned = []
    for topic in topics:
        known = client.partitions_for_topic(topic)
        if not known:
            raise Failed(f"topic {topic} does not exist")
        missing = sorted((only or set()) - known)
        if missing:
            raise Failed(f"topic {topic} has no partition {missing[0]}: it has 0 to {max(known)}")
        assigned += [TopicPartition(topic, number) for number in sorted(known) if only is None or number in only]
    client.assign(assigned)
    return assigned


def _seek(client: Any, assigned: Sequence[Any], start: Start, ends: Mapping[Any, int]) -> None:
    firsts = client.beginning_offsets(assigned)
    by_time = client.offsets_for_times(dict.fromkeys(assigned, start.number)) if start.base == "time" else {}
    for partition in assigned:
        first, end = firsts[partition], ends[partition]
        if start.base == "time":
            wanted = by_time[partition].offset if by_time.get(partition) else end
        else:
            wanted = {"start": first, "end": end, "at": 0}[start.base] + start.number
        client.seek(partition, min(max(wanted, first), end))
