"""`kbroker cluster reassign`: give partitions other replicas, see how far it is, call it off."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from kbroker.cli.broker.logs import is_terminal
from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.cluster.plan import Impossible, Targets, drained, spread
from kbroker.cli.cluster.reads import Move, Partition
from kbroker.cli.cluster.throttle import release, throttle, throttled_topics
from kbroker.cli.errors import Failed
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import bytes_text, format_option, json_text, plural, table
from kbroker.cli.times import DurationType
from kbroker.cli.topics.partitions import Chosen, PartitionsType, check_all, partitions

LOOK_AGAIN_S = 0.5
TELL_S = 10.0  # between two lines of progress in a file
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}

_EPILOG = """\b
  kbroker cluster reassign orders --to 1,2,3         spread a topic's partitions over these brokers
  kbroker cluster reassign --from-broker 2           move everything off a broker, to the others
  kbroker cluster reassign orders --to 1,2,3 --replication-factor 3
  kbroker cluster reassign --status                  what is under way, and how far
  kbroker cluster reassign --cancel                  stop all that, and go back
"""


class RateType(click.ParamType[int]):
    """50MB, 800KB, 1000000: bytes a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes a second; a usage error when it is no rate."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,15})(B|KB|MB|GB)?", str(value).upper())
        if not found or not int(found[1]):
            self.fail(f"{value!r} is no rate such as 50MB (bytes a second)", param, ctx)
        return int(found[1]) * _UNITS[found[2] or ""]


class IdsType(click.ParamType[tuple[int, ...]]):
    """1,2,3."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The ids; a usage error when they are none."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", str(value)):
            self.fail(f"{value!r} is not ID,ID...", param, ctx)
        return tuple(dict.fromkeys(map(int, str(value).split(","))))


@click.command(epilog=_EPILOG)
@click.argument("topics", nargs=-1, type=PartitionsType(), metavar="[TOPIC[:PARTITION,...]]...")
@click.option("--to", "to", type=IdsType(), metavar="ID,...", help="The brokers to spread over.")
@click.option("--from-broker", "leaving", type=IdsType(), metavar="ID,...", help="The brokers to move away from.")
@click.option(
    "--replication-factor",
    "factor",
    type=WholeType(1),
    metavar="N",
    help="How many replicas each partition is to have; with --to.",
)
@click.option("--throttle", "rate", type=RateType(), metavar="BYTES", help="At most so many bytes a second: 50MB.")
@click.option("--dry-run", is_flag=True, help="Only show what would move.")
@click.option("--no-wait", is_flag=True, help="Begin, and do not wait for the end.")
@click.option(
    "--timeout",
    "timeout_ms",
    type=DurationType(),
    help="Wait no longer than this; the moving goes on.  [default: no limit]",
)
@click.option("--status", "status", is_flag=True, help="Show what is under way; end the throttle when nothing is.")
@click.option("--cancel", "cancel", is_flag=True, help="Stop what is under way, of all topics or of these.")
@format_option
@connection_options
def reassign(
    connection: Connection,
    topics: Sequence[Chosen],
    to: tuple[int, ...] | None,
    leaving: tuple[int, ...] | None,
    factor: int | None,
    rate: int | None,
    dry_run: bool,
    no_wait: bool,
    timeout_ms: int | None,
    status: bool,
    cancel: bool,
    style: str,
) -> None:
    """Give partitions other replicas. They are served all the while.

    New replicas are added, and the old ones go when those are in sync. As little moves as possible.
    """
    if sum((to is not None, leaving is not None, status, cancel)) != 1:
        raise click.UsageError("say one of --to, --from-broker, --status and --cancel")
    if to is not None and not topics:
        raise click.UsageError("--to needs the topics to move")
    with admin(connection) as client:
        if status:
            _show_status(client, style)
        elif cancel:
            _cancel(client, topics)
        else:
            moving, targets = _planned(client, topics, to, leaving, factor)
            _show_plan(client, moving, targets, style)
            if targets and not dry_run:
                _begin(client, moving, targets, rate)
                if no_wait:
                    click.echo("under way: see kbroker cluster reassign --status", err=True)
                else:
                    _wait(client, moving, targets, timeout_ms, throttled=rate is not None)


# -- deciding ---------------------------------------------------------------------------------------------------------


def _planned(
    client: Any,
    topics: Sequence[Chosen],
    to: tuple[int, ...] | None,
    leaving: tuple[int, ...] | None,
    factor: int | None,
) -> tuple[list[Partition], Targets]:
    """The partitions that move, and the replicas they are to have."""
    members = reads.members(client)
    there = partitions(client, topics) if topics else reads.partitions(client)
    try:
        if to is not None:
            targets = spread(there, [members.one(each) for each in to], factor)
        else:
            assert leaving is not None
            targets = drained(there, leaving, members.live)
    except Impossible as error:
        hint = "" if leaving is None else "; fewer replicas: reassign TOPIC --to ID,... --replication-factor N"
        raise Failed(f"{error}{hint}") from None
    return [each for each in there if each.key in targets], targets


def _show_plan(client: Any, moving: Sequence[Partition], targets: Targets, style: str) -> None:
    sizes = reads.sizes(client, moving)
    if style == "json":
        rows = [
            {"topic": each.topic, "partition": each.partition, "replicas": each.replicas, "target": targets[each.key]}
            for each in moving
        ]
        click.echo(json_text(rows))
        return
    if not moving:
        click.echo("nothing to do: all is where it is wanted", err=True)
        return
    cells = [
        (each.topic, each.partition, each.replicas, targets[each.key], bytes_text(sizes.get(each.key)))
        for each in moving
    ]
    click.echo(table(("TOPIC", "PARTITION", "REPLICAS", "TARGET", "SIZE"), cells))
    copied = sum(sizes.get(each.key, 0) * len(set(targets[each.key]) - set(each.replicas)) for each in moving)
    click.echo(f"{plural(len(moving), 'partition')} to reassign, {bytes_text(copied)} to copy", err=True)


# -- doing ------------------------------------------------------------------------------------------------------------


def _begin(client: Any, moving: Sequence[Partition], targets: Targets, rate: int | None) -> None:
    if rate is not None:
        throttle(client, rate, moving, targets, [broker.id for broker in reads.members(client).live])
    outcomes = reads.reassign(client, targets)
    if rate is not None and all(outcomes.get(key) is not None for key in targets):
        _release(client)
    check_all(outcomes)


def _wait(
    client: Any, moving: Sequence[Partition], targets: Targets, timeout_ms: int | None, *, throttled: bool
) -> None:
    """Until all is done, telling how far it is."""
    deadline = float("inf") if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    progress = _Progress(len(moving))
    while True:
        left = [move for move in reads.moves(client) if move.key in targets]
        progress.tell(len(left), *_copied(client, left) if left else (0, 0))
        if not left:
            break
        if time.monotonic() >= deadline:
            progress.end()
            raise Failed(f"{plural(len(left), 'partition')} still to be moved; it goes on: see --status")
        time.sleep(LOOK_AGAIN_S)
    progress.end()
    if throttled:
        _release(client)
    click.echo(f"done: {plural(len(moving), 'partition')} reassigned")


class _Progress:
    """How far it is, in one line that is written over on a terminal, or in one every few seconds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lively = is_terminal(sys.stderr)
        self._told_at = float("-inf")

    def tell(self, left: int, copied: int, total: int) -> None:
        """left partitions are under way; of them so many bytes are copied."""
        text = f"{self.count - left} of {plural(self.count, 'partition')} done"
        text += f", {bytes_text(copied)} of {bytes_text(total)} of the others copied" if left and total else ""
        if self._lively:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        elif left and time.monotonic() - self._told_at >= TELL_S:
            self._told_at = time.monotonic()
            click.echo(text, err=True)

    def end(self) -> None:
        """No more of it."""
        if self._lively:
            click.echo("", err=True)


def _copied(client: Any, left: Sequence[Move]) -> tuple[int, int]:
    """Bytes that the new replicas have, and are to have."""
    there = {each.key: each for each in reads.partitions(client, sorted({move.topic for move in left}))}
    leaders = {there[move.key].leader for move in left if move.key in there}
    asked = {id for id in {*leaders, *(id for move in left for id in move.adding)} if id >= 0}
    live = {broker.id for broker in reads.members(client).live}
    sizes = {id: usage.sizes for id, usage in reads.usages(client, sorted(asked & live)).items()}
    copied = total = 0
    for move in left:
        leader = there[move.key].leader if move.key in there else reads.NOBODY
        whole = sizes.get(leader, {}).get(move.key, 0)
        total += whole * len(move.adding)
        copied += sum(min(whole, sizes.get(id, {}).get(move.key, 0)) for id in move.adding)
    return copied, total


# -- what is under way ------------------------------------------------------------------------------------------------


def _show_status(client: Any, style: str) -> None:
    moves = reads.moves(client)
    isr = (
        {each.key: each.isr for each in reads.partitions(client, sorted({move.topic for move in moves}))}
        if moves
        else {}
    )
    if style == "json":
        rows: list[Mapping[str, Any]] = [{**move._asdict(), "isr": isr.get(move.key, ())} for move in moves]
        click.echo(json_text(rows))
    elif moves:
        cells = [(*move, isr.get(move.key)) for move in moves]
        click.echo(table(("TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING", "ISR"), cells))
        copied, total = _copied(client, moves)
        click.echo(f"{bytes_text(copied)} of {bytes_text(total)} copied", err=True)
    else:
        click.echo("nothing is under way", err=True)
    if not moves:
        _release(client)


def _cancel(client: Any, topics: Sequence[Chosen]) -> None:
    named = {each.key for each in partitions(client, topics)} if topics else None
    stopped = [move.key for move in reads.moves(client) if named is None or move.key in named]
    if stopped:
        check_all(reads.reassign(client, dict.fromkeys(stopped)))
    if not reads.moves(client):
        _release(client)
    click.echo(
        f"called off: {plural(len(stopped), 'partition')}" if stopped else "nothing is under way", err=not stopped
    )


def _release(client: Any) -> None:
    """End the throttle, where there is one: nothing needs it any more."""
    topics = throttled_topics(client, sorted({each.topic for each in reads.partitions(client)}))
    if topics:
        release(client, topics, [broker.id for broker in reads.members(client).live])
        click.echo("the throttle is removed", err=True)
