"""`kbroker topic consume`: read partitions from where you say. As a member of a group (-g): consume_group.py."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, connection_options, consumer
from kbroker.cli.client.presence import Presence
from kbroker.cli.names import GROUP, TOPIC
from kbroker.cli.numbers import WholeType
from kbroker.cli.topics.formats import Output, Shown
from kbroker.cli.topics.partitions import check_there, partition_option
from kbroker.cli.topics.reading import (
    Start,
    Topics,
    everything,
    limited,
    matching,
    parse_start,
    parse_topics,
    polled,
    shown,
    write_record,
)
from kbroker.filters import Expression, FilterSyntaxError, parse

DISCOVER_S = 2.0  # how often new topics that match are looked for


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
            self.fail(
                f"{value!r} is not start, end, N, +N, -N or a time such as @2026-11-28T18:30, @18:30 or @-5m",
                param,
                ctx,
            )


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
@click.option("-r", "--regex", is_flag=True, help="Each TOPIC is a regular expression for whole names: 'orders-.*'.")
@click.option("--wait", is_flag=True, help="Wait for a topic that is not there yet.")
@click.option(
    "-o",
    "--offset",
    "start",
    type=StartType(),
    default="start",
    show_default=True,
    metavar="WHERE",
    help="Where to begin: start, end, N, +N (N after the start), -N (N before the end), or a time: @-5m, @18:30, "
    "@2026-11-22T12:00:00, @SECONDS since the epoch.",
)
@click.option("-n", "--count", type=WholeType(1), metavar="N", help="Stop after N records.")
@click.option("-e", "--exit-at-end", is_flag=True, help="Stop at what was the end when it began.")
@partition_option
@click.option(
    "-g",
    "--group",
    type=GROUP,
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
    metavar="FORMAT",
    help="%v value, %k key, %h headers, %t topic, %p partition, %o offset, %d time in ms; %v{hex}, %v{base64}, "
    r"%d{iso}, %d{strftime[%H:%M:%S]}; \n \t \0.",
)
@click.option("-J", "--json", "as_json", is_flag=True, help="A JSON object a line, as kcat's; produce -J reads it.")
@click.option("--read-committed", is_flag=True, help="Leave out what transactions have not committed.")
@connection_options
def consume(
    connection: Connection,
    topics: Sequence[str],
    regex: bool,
    wait: bool,
    start: Start,
    count: int | None,
    exit_at_end: bool,
    numbers: Sequence[int],
    group: str | None,
    expression: Expression | None,
    pattern: str,
    as_json: bool,
    read_committed: bool,
) -> None:
    """Read records, and go on as they arrive, until CTRL+C.

    \b
      kbroker topic consume demo -n 1                       the first record
      kbroker topic consume demo -e -f '%d{iso} %k: %v\\n'   all there are
      kbroker topic consume demo -o -10                     the last 10, and what comes
      kbroker topic consume demo -o @-5m                    from five minutes ago
      kbroker topic consume -r 'orders-.*' --wait -J        several topics, as JSON
      kbroker topic consume demo -g billing                 as a member of a group
      kbroker topic consume demo --filter 'country in ("de", "at")'
    """
    try:
        write = None if as_json else Output(pattern)
        wanted = parse_topics(topics, is_regex=regex, wait=wait)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    matches = everything if expression is None else matching(expression)
    isolation = "read_committed" if read_committed else "read_uncommitted"
    if group is not None:
        from kbroker.cli.topics.consume_group import consume_as_member

        if numbers or start not in (Start("start"), Start("end")):
            raise click.UsageError("with -g: no -p, and -o start or end (to move a group: kbroker group seek)")
        consume_as_member(connection, group, wanted, start, write, count, exit_at_end, isolation, matches)
        return
    presence = Presence()
    with consumer(connection, presence, isolation_level=isolation) as client:
        reader = Reader(client, presence, wanted, numbers)
        ends = reader.begin(start)
        out = sys.stdout.buffer
        for record, matched in limited(reader.records(ends if exit_at_end else None), count, matches):
            if matched or record is None:
                write_record(out, record, write)


class Reader(NamedTuple):
    """Reads partitions by itself, without a group."""

    client: Any
    presence: Presence
    topics: Topics
    only: Sequence[int]  # partitions; none: all

    def begin(self, start: Start) -> dict[Any, int]:
        """Have the partitions, each where it is to begin; returns where they end. Raises Failed."""
        partitions = self._partitions(self.topics.waited_for(self.client, self.presence))
        self.client.assign(partitions)
        ends = dict(self.client.end_offsets(partitions))
        seek(self.client, partitions, start, ends)
        return ends

    def records(self, ends: Mapping[Any, int] | None) -> Iterator[Shown | None]:
        """Records as they arrive, and None after each batch of them; with ends, until all are reached."""
        look_at = time.monotonic() + DISCOVER_S
        while ends is None or any(self.client.position(partition) < end for partition, end in ends.items()):
            for partition, records in polled(self.client).items():
                for r in records:
                    if ends is None or r.offset < ends[partition]:
                        yield shown(r)
            yield None
            self.presence.look()
            if ends is None and self.topics.pattern and not self.presence.is_lost and time.monotonic() > look_at:
                self._discover()
                look_at = time.monotonic() + DISCOVER_S

    def _discover(self) -> None:
        """Topics that match and were not there yet: all that is in them is new."""
        from kafka.errors import KafkaError

        try:
            had = self.client.assignment()
            new = [each for each in self._partitions(self.topics.now(self.client)) if each not in had]
            if new:
                self.client.assign([*had, *new])
                self.client.seek_to_beginning(*new)
        except KafkaError as error:
            if not getattr(error, "retriable", False):
                raise

    def _partitions(self, topics: Sequence[str]) -> list[Any]:
        from kafka import TopicPartition

        found = []
        for topic in topics:
            known = self.client.partitions_for_topic(topic) or set()
            if self.topics.pattern is None:
                check_there(topic, self.only, known)
            found += [TopicPartition(topic, number) for number in sorted(known & set(self.only or known))]
        return found


def seek(client: Any, assigned: Sequence[Any], start: Start, ends: Mapping[Any, int]) -> None:
    """Go to where each partition is to begin, within what there is."""
    firsts = client.beginning_offsets(assigned)
    by_time = client.offsets_for_times(dict.fromkeys(assigned, start.number)) if start.base == "time" else {}
    for partition in assigned:
        first, end = firsts[partition], ends[partition]
        if start.base == "time":
            wanted = by_time[partition].offset if by_time.get(partition) else end
        else:
            wanted = {"start": first, "end": end, "at": 0}[start.base] + start.number
        client.seek(partition, min(max(wanted, first), end))
