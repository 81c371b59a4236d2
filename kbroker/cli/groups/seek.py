"""`kbroker group seek`: move a group's committed offsets. Shows the plan; carries it out when told to.

Only for a group without members: a live member would go on from where it is, and commit that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.groups.group import check_partitions, members_of
from kbroker.cli.groups.reads import (
    COORDINATOR_MOVING,
    IDLE_STATES,
    Described,
    committed,
    described,
    led,
    patiently,
)
from kbroker.cli.names import GROUP
from kbroker.cli.tables import format_option, json_text, plural, table
from kbroker.cli.topics import offsets
from kbroker.cli.topics.offsets import Ends
from kbroker.cli.topics.partitions import Chosen, PartitionsType, leaders, places
from kbroker.cli.topics.reading import parse_start


class Target(NamedTuple):
    """Where to: base "start", "end", "at" (an offset), "time" or "current", and a number."""

    base: str
    number: int = 0


class Step(NamedTuple):
    """The plan for one partition."""

    topic: str
    partition: int
    first: int
    end: int
    committed: int | None
    new: int


class TargetType(click.ParamType[Target]):
    """start, end, N, +N and -N from where it is, @TIME."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        """A Target; a usage error when it is none."""
        if isinstance(value, Target):
            return value
        try:
            return parse_target(str(value))
        except ValueError:
            self.fail(f"{value!r} is not start, end, an offset, +N, -N or a time", param, ctx)


def parse_target(text: str) -> Target:
    """What --to says. Raises ValueError."""
    if text[:1] in ("+", "-"):
        return Target("current", int(text))
    if not text.startswith("@") and not text.isdecimal() and text[:1].isdecimal():
        text = f"@{text}"  # a date
    return Target(*parse_start(text))


@click.command()
@click.argument("name", type=GROUP, metavar="GROUP")
@click.option(
    "--to",
    "target",
    type=TargetType(),
    required=True,
    metavar="WHERE",
    help="start, end, an offset, +N or -N from where it is, @TIME (seconds or milliseconds since the epoch) "
    "or 2026-11-22T12:00:00.",
)
@click.option(
    "-t",
    "--topic",
    "topics",
    type=PartitionsType(),
    multiple=True,
    metavar="TOPIC[:PARTITION,...]",
    help="Only of these. Repeatable.  [default: all it has committed offsets for]",
)
@click.option("--new", is_flag=True, help="Make the group where there is none yet; needs --topic.")
@click.option("--execute", is_flag=True, help="Carry it out, not only show the plan.")
@format_option
@connection_options
def seek(
    connection: Connection,
    name: str,
    target: Target,
    topics: Sequence[Chosen],
    new: bool,
    execute: bool,
    style: str,
) -> None:
    """Move a group's committed offsets. Without --execute only the plan is shown. No member may be running.

    \b
      kbroker group seek billing --to start --topic orders
      kbroker group seek billing --to -100 --execute
    """
    if new and not topics:
        raise click.UsageError("--new needs --topic")
    with admin(connection) as client:
        found = described(client, name)
        check_idle(name, found, new)
        current = committed(client, name) if found else {}
        known = _leaders(client, name, topics, current)
        ends = offsets.all_ends(client, known)
        times = offsets.offsets(client, known, target.number) if target.base == "time" else {}
        steps = plan(name, target, ends, times, current)
        if execute:
            _carry_out(client, name, steps)
    if style == "json":
        click.echo(json_text({"group": name, "executed": execute, "partitions": [step._asdict() for step in steps]}))
        return
    rows = [(name, *step) for step in steps]
    click.echo(table(("GROUP", "TOPIC", "PARTITION", "FIRST", "END", "COMMITTED", "NEW"), rows))
    if execute:
        click.echo(f"moved {plural(len(steps), 'offset')} of {name}")
    else:
        click.echo("nothing has been changed; to carry it out, add --execute", err=True)


def check_idle(name: str, found: Described | None, new: bool) -> None:
    """Failed, unless a group has no members; and unless it exists, or need not."""
    if found is None:
        if not new:
            raise Failed(f"group {name} does not exist (with --new and --topic, seek makes it)")
        return
    if found.members or found.state not in IDLE_STATES:
        clients = sorted({f"{each.client_id} at {each.host}" for each in found.members or ()})
        who = f" ({', '.join(clients[:3])}{', ...' if len(clients) > 3 else ''})" if clients else ""
        raise Failed(f"group {name} is {found.state} with {members_of(found)}{who}: stop them first, then seek")


def plan(
    name: str,
    target: Target,
    ends: Mapping[TopicPartition, Ends],
    times: Mapping[TopicPartition, int],
    current: Mapping[TopicPartition, int],
) -> list[Step]:
    """Where each partition is and would go; within what the log holds. times: the first offset of the target's time."""
    unknown = [partition for partition in ends if partition not in current]
    if target.base == "current" and unknown:
        raise Failed(f"{name} has committed nothing for {places(unknown)}: +N and -N count from there")
    steps = []
    for partition, (first, end) in ends.items():
        wanted = _wanted(target, ends[partition], current.get(partition), times.get(partition, -1))
        steps.append(Step(*partition, first, end, current.get(partition), min(max(wanted, first), end)))
    return steps


def _wanted(target: Target, ends: Ends, current: int | None, at_time: int) -> int:
    if target.base == "time":
        return at_time if at_time >= 0 else ends.end
    base = {"start": ends.first, "end": ends.end, "at": 0, "current": current or 0}[target.base]
    return base + target.number


def _leaders(
    client: Any, name: str, topics: Sequence[Chosen], current: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The partitions it is about, with who leads each. Raises Failed."""
    if topics:
        return leaders(client, *topics)
    known = led(client, current)
    left_out = sorted(current.keys() - known.keys())
    if left_out:
        click.echo(f"left out, as they have no leader or no longer exist: {places(left_out)}", err=True)
    if not known:
        raise Failed(f"{name} has committed nothing yet: say which topics, with --topic")
    return known


def _carry_out(client: Any, name: str, steps: Sequence[Step]) -> None:
    from kafka import TopicPartition as Key
    from kafka.structs import OffsetAndMetadata

    wanted = {Key(step.topic, step.partition): OffsetAndMetadata(step.new, "", -1) for step in steps}

    def commit() -> dict[Any, Any]:
        answer = client.alter_group_offsets(name, wanted)
        for error in answer.values():
            if error.errno in COORDINATOR_MOVING:
                raise error
        return dict(answer)

    check_partitions(name, patiently(client, commit))
