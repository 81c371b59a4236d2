"""`kbroker delay`: what is to be delivered later; giving it up; having it delivered now.

Cancelling and hurrying are records with a header, as any client sends them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options, producer
from kbroker.cli.delays.reads import Pending, check_delays, delays, pending
from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, plural, table
from kbroker.cli.times import moment, span
from kbroker.cli.topics.partitions import Chosen, PartitionsType, leaders, place

CANCEL, NOW = "kbroker-delay-cancel", "kbroker-delay-now"
IDS_AT_ONCE = 1000  # in a record
ANSWER_S = 60

delay = LazyGroup(
    name="delay",
    help="List what is to be delivered later, cancel it, deliver it now.",
    commands_at={
        "list": ("kbroker.cli.delays.delay:list_pending", "List the records that are pending in a topic."),
        "cancel": ("kbroker.cli.delays.delay:cancel", "Give up pending records, by key or by id."),
        "deliver-now": ("kbroker.cli.delays.delay:deliver_now", "Deliver pending records at once, by key or by id."),
    },
    aliases={"ls": "list"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_where = click.argument("where", type=PartitionsType(), metavar="TOPIC[:PARTITION,...]")
_key = click.option("-k", "--key", help="Only records of this key.")
_ids = click.option(
    "--id", "ids", type=WholeType(0), metavar="N", multiple=True, help="The record of this id. Repeatable."
)


@click.command("list")
@_where
@_key
@click.option(
    "-n", "--num", type=WholeType(1), metavar="N", default=100, show_default=True, help="At most so many records."
)
@click.option("-a", "--all", "everything", is_flag=True, help="All of them, however many.")
@format_option
@connection_options
def list_pending(
    connection: Connection,
    where: Chosen,
    key: str | None,
    num: int,
    everything: bool,
    style: str,
) -> None:
    """List the records that are pending in TOPIC, in the order in which they are due.

    The id is the offset a record had when it came. What is delivered carries it in header kbroker-delay-id.
    """
    with admin(connection) as client:
        delays(client, where[0])
        found, total = pending(client, leaders(client, where), key=_bytes(key), most=None if everything else num)
    if style == "json":
        click.echo(json_text([_as_json(each) for each in found]))
        return
    if found:
        click.echo(_as_table(found))
    if key is None and total > len(found):
        click.echo(f"{plural(len(found), 'record')} of about {total} (-n, --all)", err=True)
    elif not found:
        click.echo("nothing is pending", err=True)


@click.command()
@_where
@_key
@_ids
@connection_options
def cancel(connection: Connection, where: Chosen, key: str | None, ids: Sequence[int]) -> None:
    """Give up pending records: they are delivered to nobody.

    \b
      kbroker delay cancel orders --key o-17       all of this key, in whichever partition
      kbroker delay cancel orders:3 --id 1041      those of these ids
    """
    found = _told(connection, where, key, ids, CANCEL)
    click.echo(f"cancelled {plural(found, 'record')} in {where[0]}")


@click.command("deliver-now")
@_where
@_key
@_ids
@connection_options
def deliver_now(connection: Connection, where: Chosen, key: str | None, ids: Sequence[int]) -> None:
    """Deliver pending records at once.

    \b
      kbroker delay deliver-now orders --key o-17
      kbroker delay deliver-now orders:3 --id 1041 --id 1042
    """
    found = _told(connection, where, key, ids, NOW)
    click.echo(f"delivered {plural(found, 'record')} in {where[0]}")


def _told(
    connection: Connection,
    where: Chosen,
    key: str | None,
    ids: Sequence[int],
    header: str,
) -> int:
    """Tell partitions, in a record with this header, what to do with what is pending. Returns how many there were."""
    topic, _ = where
    if (key is None) == (not ids):
        raise click.UsageError("say which records: --key KEY, or --id ID (see kbroker delay list)")
    with admin(connection) as client:
        check_delays(client, topic)
        led = leaders(client, where)
        if ids and len(led) != 1:
            raise click.UsageError(f"ids count in one partition: name it, as in {topic}:0")
        found, _ = pending(client, led, key=_bytes(key))
    if ids:
        found = [each for each in found if each.id in ids]
        absent = sorted(set(ids) - {each.id for each in found})
        if absent:
            raise Failed(f"no record of id {', '.join(map(str, absent))} is pending in {place(next(iter(led)))}")
    elif not found:
        raise Failed(f"no record of key {key!r} is pending in {topic}")
    _send(connection, topic, sorted({each.partition for each in found}), _bytes(key), ids, header)
    return len(found)


def _send(
    connection: Connection, topic: str, partitions: Sequence[int], key: bytes | None, ids: Sequence[int], header: str
) -> None:
    texts = [",".join(map(str, ids[at : at + IDS_AT_ONCE])) for at in range(0, len(ids), IDS_AT_ONCE)] or [""]
    with producer(connection, acks="all") as client:
        sent = [
            client.send(topic, b"", key=key, headers=[(header, text.encode())], partition=number)
            for number in partitions
            for text in texts
        ]
        for each in sent:
            each.get(timeout=ANSWER_S)


def _as_table(found: Sequence[Pending]) -> str:
    now_ms = int(time.time() * 1000)
    headings = ("PARTITION", "ID", "DUE", "IN", "KEY", "VALUE BYTES")
    return table(headings, [_cells(each, now_ms) for each in found])


def _cells(each: Pending, now_ms: int) -> tuple[Any, ...]:
    left = "now" if each.is_hurried or each.due_ms <= now_ms else span(each.due_ms - now_ms)
    size = each.value_size if each.value_size >= 0 else None
    return each.partition, each.id, moment(each.due_ms), left, _key_text(each), size


def _key_text(each: Pending) -> str | None:
    if each.key is None:
        return None
    return each.key.decode("utf-8", "backslashreplace") + ("..." if each.key_size > len(each.key) else "")


def _as_json(each: Pending) -> dict[str, object]:
    return {
        "partition": each.partition,
        "id": each.id,
        "due_ms": each.due_ms,
        "due": moment(each.due_ms),
        "is_hurried": each.is_hurried,
        "key": _key_text(each),
        "key_bytes": each.key_size if each.key_size >= 0 else None,
        "value_bytes": each.value_size if each.value_size >= 0 else None,
    }


def _bytes(key: str | None) -> bytes | None:
    return None if key is None else key.encode()
