"""`kbroker cluster health`: what is wrong, with an exit status; or waiting until nothing is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.cluster.reads import Members, Partition, TopicPartition
from kbroker.cli.errors import Failed, Unreachable
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, plural, table
from kbroker.cli.times import DurationType

ROWS_MAX = 20  # of problems that are shown to people
LOOK_AGAIN_S = 0.3
FREE_BYTES_MIN = 1 << 20  # a disk with less has no room for a batch of the usual message.max.bytes

OFFLINE, UNDER_MIN_ISR, UNDER_REPLICATED = "offline", "under min isr", "under-replicated"
FENCED, NO_CONTROLLER, TOO_FEW, FULL = "fenced", "no controller", "too few", "full disk"
_WORDS = {  # in the order in which they are bad
    TOO_FEW: "fewer brokers than are asked for",
    NO_CONTROLLER: "no controller",
    OFFLINE: "offline partition",
    FULL: "full disk",
    UNDER_MIN_ISR: "partition under min.insync.replicas",
    UNDER_REPLICATED: "under-replicated partition",
    FENCED: "fenced broker",
}


class Problem(NamedTuple):
    """Something that is wrong, of the cluster, a broker or a partition."""

    kind: str  # one of _WORDS
    broker: int | None = None
    partition: Partition | None = None
    min_isr: int | None = None


@click.command()
@click.option("-w", "--wait", is_flag=True, help="Wait until nothing is wrong.")
@click.option(
    "--timeout",
    "timeout_ms",
    type=DurationType(),
    default="60s",
    show_default=True,
    help="How long to wait, with --wait.",
)
@click.option("--live", type=WholeType(1), metavar="N", help="Count it as wrong when fewer than N brokers live.")
@format_option
@connection_options
def health(connection: Connection, wait: bool, timeout_ms: int, live: int | None, style: str) -> None:
    """Tell what is wrong; exit status 1 if anything is.

    A partition is offline without a leader, under min.insync.replicas when acks=all is refused, under-replicated when
    a replica is not in sync. A fenced broker is registered and not there. A full disk has less than 1 MB left.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            with admin(connection) as client:
                found = look(client, live or 0)
        except (Unreachable, Failed):
            if not wait or time.monotonic() >= deadline:
                raise
        else:
            if not found or not wait or time.monotonic() >= deadline:
                break
        time.sleep(LOOK_AGAIN_S)
    if style == "json":
        click.echo(json_text({"healthy": not found, "problems": [_as_json(each) for each in found]}))
    elif not found:
        click.echo("nothing is wrong")
    else:
        click.echo(_table(found))
    if found:
        raise Failed(summary(found))


def look(client: Any, live_min: int = 0) -> list[Problem]:
    """What is wrong now, the worst first. live_min: so many brokers are to live."""
    partitions = reads.partitions(client)
    behind = {each.topic for each in partitions if each.leader < 0 or len(each.isr) < len(each.replicas)}
    joining = {each.key: len(each.adding) for each in reads.moves(client)} if behind else {}
    members = reads.members(client)
    full = reads.full_disks(client, [broker.id for broker in members.live], FREE_BYTES_MIN)
    return problems(members, partitions, reads.min_isr(client, behind), joining, live_min, full)


def problems(
    members: Members,
    partitions: Sequence[Partition],
    min_isr: Mapping[str, int],
    joining: Mapping[TopicPartition, int],
    live_min: int = 0,
    full: Sequence[int] = (),
) -> list[Problem]:
    """What is wrong, the worst first.

    min_isr: at least of the topics that have replicas out of sync. joining: how many replicas a reassignment adds to a
    partition; those are not missed yet. full: the brokers whose disks are.
    """
    found = [*_of_brokers(members, live_min), *(Problem(FULL, broker=broker) for broker in full)]
    for each in partitions:
        factor = len(each.replicas) - joining.get(each.key, 0)
        wanted = min(min_isr.get(each.topic, 1), factor)
        if each.leader < 0:
            found.append(Problem(OFFLINE, partition=each, min_isr=wanted))
        elif len(each.isr) < wanted:
            found.append(Problem(UNDER_MIN_ISR, partition=each, min_isr=wanted))
        elif len(each.isr) < factor:
            found.append(Problem(UNDER_REPLICATED, partition=each, min_isr=wanted))
    order = list(_WORDS)
    return sorted(found, key=lambda problem: order.index(problem.kind))


def _of_brokers(members: Members, live_min: int) -> Iterator[Problem]:
    if len(members.live) < live_min:
        yield Problem(TOO_FEW)
    if members.controller < 0:
        yield Problem(NO_CONTROLLER)
    for broker in members.fenced:
        yield Problem(FENCED, broker=broker.id)


def summary(found: Sequence[Problem]) -> str:
    """ "2 offline partitions, 1 fenced broker"."""
    counts = Counter(problem.kind for problem in found)
    parts = []
    for kind, count in counts.items():
        words = _WORDS[kind]
        if kind in (TOO_FEW, NO_CONTROLLER):
            parts.append(words)
        elif kind == UNDER_MIN_ISR:
            parts.append(words.replace("partition", plural(count, "partition"), 1))
        else:
            parts.append(plural(count, words))
    return ", ".join(parts)


def _table(found: Sequence[Problem]) -> str:
    rows: list[tuple[object, ...]] = []
    for problem in found[:ROWS_MAX]:
        if problem.partition is not None:
            each = problem.partition
            leader = None if each.leader < 0 else each.leader
            rows.append((problem.kind, each.topic, each.partition, leader, each.replicas, each.isr, problem.min_isr))
        else:
            where = "" if problem.broker is None else f"broker {problem.broker}"
            rows.append((problem.kind, where, None, None, None, None, None))
    shown = table(("PROBLEM", "WHERE", "PARTITION", "LEADER", "REPLICAS", "ISR", "MIN ISR"), rows)
    return shown + (f"\nand {len(found) - ROWS_MAX} more" if len(found) > ROWS_MAX else "")


def _as_json(problem: Problem) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": problem.kind}
    if problem.broker is not None:
        row["broker"] = problem.broker
    if problem.partition is not None:
        each = problem.partition
        row |= {"topic": each.topic, "partition": each.partition, "leader": each.leader}
        row |= {"replicas": each.replicas, "isr": each.isr, "min_isr": problem.min_isr}
    return row
