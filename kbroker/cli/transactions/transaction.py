"""`kbroker transaction`: what runs, what hangs, and ending what hangs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads as cluster
from kbroker.cli.cluster.reads import NOBODY, TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, table, visible
from kbroker.cli.times import DurationType, moment, span
from kbroker.cli.topics.partitions import Chosen, PartitionsType, check_led, leaders, place
from kbroker.cli.transactions.reads import Described, Open, abort, coordinated, described, find_hanging, listed, open_in
from kbroker.transactions.states import BY_NAME

transaction = LazyGroup(
    name="transaction",
    help="List and describe transactions, find and abort those that hang.",
    commands_at={
        "list": ("kbroker.cli.transactions.transaction:list_transactions", "List transactional ids."),
        "describe": ("kbroker.cli.transactions.transaction:describe", "Show a transaction's state and partitions."),
        "find-hanging": (
            "kbroker.cli.transactions.transaction:hanging",
            "Find open transactions that nobody will end.",
        ),
        "abort": ("kbroker.cli.transactions.transaction:abort_one", "End a hanging transaction in one partition."),
    },
    aliases={"ls": "list", "info": "describe"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@click.command("list")
@click.option(
    "--state", "states", type=click.Choice(tuple(BY_NAME)), multiple=True, help="Only in this state. Repeatable."
)
@click.option(
    "--producer-id",
    "producer_ids",
    type=WholeType(0),
    metavar="ID",
    multiple=True,
    help="Only of this producer. Repeatable.",
)
@click.option("--longer-than", type=DurationType(), metavar="DURATION", help="Only those that run longer: 90s, 15m.")
@click.option("--id", "pattern", metavar="REGEX", help="Only ids that match as a whole.")
@format_option
@connection_options
def list_transactions(
    connection: Connection,
    states: Sequence[str],
    producer_ids: Sequence[int],
    longer_than: int | None,
    pattern: str | None,
    style: str,
) -> None:
    """List transactional ids, with the state of the transaction each has now or had last."""
    with admin(connection) as client:
        rows = listed(client, states=states, producer_ids=producer_ids, longer_than_ms=longer_than, pattern=pattern)
    if style == "json":
        click.echo(json_text([{"transactional_id": each.name, **_rest(each)} for each in rows]))
    elif rows:
        cells = [(each.name, each.state, each.producer_id, each.coordinator) for each in rows]
        click.echo(table(("TRANSACTIONAL ID", "STATE", "PRODUCER", "COORDINATOR"), cells))
    else:
        click.echo("no transactions", err=True)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="TRANSACTIONAL_ID...")
@format_option
@connection_options
def describe(connection: Connection, names: Sequence[str], style: str) -> None:
    """Show a transaction's state, producer, age and partitions."""
    with admin(connection) as client:
        found = described(client, names)
    missing = [name for name in dict.fromkeys(names) if name not in found]
    if style == "json":
        click.echo(json_text([_as_json(each) for each in found.values()]))
    elif found:
        click.echo("\n\n".join(_as_text(each) for each in found.values()))
    if missing:
        raise Failed(f"no coordinator knows {', '.join(missing)}")


@click.command("find-hanging")
@click.option(
    "-t",
    "--topic",
    "topics",
    type=PartitionsType(),
    multiple=True,
    metavar="TOPIC[:PARTITION,...]",
    help="Only in these partitions. Repeatable.  [default: all topics]",
)
@click.option(
    "--older-than",
    type=DurationType(),
    default="15m",
    show_default=True,
    metavar="DURATION",
    help="Only where the producer has written nothing for so long; the longest transaction timeout.",
)
@format_option
@connection_options
def hanging(connection: Connection, topics: Sequence[Chosen], older_than: int, style: str) -> None:
    """Find open transactions that nobody will end.

    A partition has them open, and no coordinator has that partition in a transaction of that producer. They hold back
    all who read only what is committed, and are ended with `kbroker transaction abort`.
    """
    with admin(connection) as client:
        if topics:
            led = leaders(client, *topics)
            check_led(led)
        else:
            led = {each.key: each.leader for each in cluster.partitions(client) if each.leader != NOBODY}
        found = find_hanging(client, list(led), older_than)
    if style == "json":
        click.echo(json_text([each._asdict() for each in found]))
    elif found:
        click.echo(_open_table(found))
    else:
        click.echo("no hanging transactions", err=True)


@click.command("abort")
@click.argument("where", type=PartitionsType(), metavar="TOPIC:PARTITION")
@click.option(
    "--start", "start_offset", type=WholeType(0), metavar="OFFSET", help="The transaction that begins at this offset."
)
@click.option("--producer-id", type=WholeType(0), metavar="ID", help="The transaction of this producer.")
@click.option("--force", is_flag=True, help="Even if its coordinator may still end it itself.")
@connection_options
def abort_one(
    connection: Connection,
    where: Chosen,
    start_offset: int | None,
    producer_id: int | None,
    force: bool,
) -> None:
    """End a hanging transaction in one partition: its records there count as aborted.

    \b
      kbroker transaction abort orders:3 --start 120
    """
    topic, numbers = where
    if len(numbers) != 1:
        raise click.UsageError(f"{topic}: name one partition, as in {topic}:0")
    if start_offset is None and producer_id is None:
        raise click.UsageError("say which transaction: --start OFFSET or --producer-id ID (see find-hanging)")
    with admin(connection) as client:
        check_led(leaders(client, where))
        one = _chosen(client, (topic, numbers[0]), start_offset, producer_id)
        owner = coordinated(client, [one]).get(one.producer_id)
        if owner is not None and one.place in owner.partitions and not force:
            raise Failed(
                f"{owner.name} is {owner.state}: its coordinator will end this transaction, at the latest "
                f"{span(owner.timeout_ms)} after it began (--force aborts it here all the same)"
            )
        abort(client, one)
    click.echo(f"aborted the transaction of producer {one.producer_id} in {place(one.place)}, from {one.start_offset}")


def _chosen(client: Any, where: TopicPartition, start_offset: int | None, producer_id: int | None) -> Open:
    found = open_in(client, [where])
    for each in found:
        if start_offset in (None, each.start_offset) and producer_id in (None, each.producer_id):
            return each
    raise Failed(f"no such transaction is open in {place(where)}" + (f"\n{_open_table(found)}" if found else ""))


def _open_table(found: Sequence[Open]) -> str:
    now_ms = int(time.time() * 1000)
    headings = ("TOPIC", "PARTITION", "START", "PRODUCER", "EPOCH", "COORDINATOR EPOCH", "SILENT FOR")
    return table(
        headings,
        [
            (
                each.topic,
                each.partition,
                each.start_offset,
                each.producer_id,
                each.producer_epoch,
                each.coordinator_epoch,
                span(now_ms - each.last_ms),
            )
            for each in found
        ],
    )


def _as_text(one: Described) -> str:
    lines = [
        f"{visible(one.name)}: {one.state}, producer {one.producer_id} epoch {one.producer_epoch}, "
        f"timeout {span(one.timeout_ms)}, coordinator {one.coordinator}"
    ]
    if one.started_ms is not None:
        lines.append(f"  since {moment(one.started_ms)} ({span(int(time.time() * 1000) - one.started_ms)})")
    by_topic: dict[str, list[str]] = {}
    for topic, partition in one.partitions:
        by_topic.setdefault(topic, []).append(str(partition))
    return "\n".join([*lines, *(f"  {topic}: {','.join(numbers)}" for topic, numbers in by_topic.items())])


def _as_json(one: Described) -> dict[str, Any]:
    partitions = [{"topic": topic, "partition": partition} for topic, partition in one.partitions]
    return {"transactional_id": one.name, **_rest(one), "partitions": partitions}


def _rest(one: Any) -> dict[str, Any]:
    return {name: value for name, value in one._asdict().items() if name != "name"}
