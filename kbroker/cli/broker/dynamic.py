"""`kbroker config list | set`: the configs of brokers that run (KIP-226), and what `config show -b` knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.errors import Failed
from kbroker.cli.names import BROKER_SETTING
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, table
from kbroker.config import Scope

HIDDEN = "(hidden)"


class Setting(NamedTuple):
    """A config of a broker. origin: where its value comes from, in words."""

    name: str
    value: str | None
    origin: str
    is_set: bool


def running(connection: Connection, broker_id: int | None) -> list[Setting]:
    """The configs of a broker that runs; None: of the only one. Raises Failed."""
    from kbroker.config import Source

    with admin(connection) as client:
        members = reads.members(client)
        if broker_id is None and len(members.live) > 1:
            raise Failed(f"brokers {', '.join(str(each.id) for each in members.live)} are there: say which by --broker")
        broker = members.live[0] if broker_id is None else members.one(broker_id)
        configs = reads.described_configs(client, Scope.BROKER, str(broker.id))
    return [
        Setting(
            each.name, HIDDEN if each.is_sensitive else each.value, _origin(each), each.config_source != Source.DEFAULT
        )
        for each in configs
    ]


@click.command("list")
@format_option
@connection_options
def list_configs(connection: Connection, style: str) -> None:
    """List the configs that were set while brokers run: for all of them, and for one. (`config set` sets them.)"""
    from kbroker.config import Source

    rows: list[tuple[str, str, str | None]] = []
    with admin(connection) as client:
        for broker in (reads.ALL, *(str(each.id) for each in reads.members(client).live)):
            wanted = Source.DYNAMIC_DEFAULT_BROKER if broker == reads.ALL else Source.DYNAMIC_BROKER
            rows += [
                (broker or "all", each.name, HIDDEN if each.is_sensitive else each.value)
                for each in reads.described_configs(client, Scope.BROKER, broker)
                if each.config_source == wanted
            ]
    if style == "json":
        click.echo(json_text([dict(zip(("broker", "name", "value"), row, strict=True)) for row in rows]))
    elif rows:
        click.echo(table(("BROKER", "NAME", "VALUE"), rows))
    else:
        click.echo("nothing was set", err=True)


@click.command("set")
@click.argument("pairs", nargs=-1, type=BROKER_SETTING, metavar="NAME=VALUE...")
@click.option("--broker", "broker_id", type=WholeType(0), metavar="N", help="Change this broker's.")
@click.option("--all", "for_all", is_flag=True, help="Change those of all brokers, those to come among them.")
@click.option(
    "-d", "--delete-config", "removed", metavar="NAME", multiple=True, help="Undo an earlier set. Repeatable."
)
@connection_options
def set_configs(
    connection: Connection, pairs: Sequence[str], broker_id: int | None, for_all: bool, removed: Sequence[str]
) -> None:
    """Change configs of brokers that run, at once and for their next starts.

    \b
      kbroker config set --all log.retention.ms=7d
      kbroker config set --broker 2 leader.replication.throttled.rate=50MB
      kbroker config set --all -d log.retention.ms
    """
    changes = {**broker_configs(pairs), **dict.fromkeys(removed, None)}
    if not changes:
        raise click.UsageError("nothing to do: give NAME=VALUE or -d NAME")
    if for_all == (broker_id is not None):
        raise click.UsageError("give --broker N or --all, one of them")
    _check_names(removed)
    broker = reads.ALL if for_all else str(broker_id)
    with admin(connection) as client:
        if broker_id is not None:
            reads.members(client).one(broker_id)
        reads.alter_configs(client, {(Scope.BROKER, broker): changes})
    click.echo(f"altered {reads.whose(broker)}: {', '.join(reads.altered(changes))}")


def broker_configs(texts: Sequence[str]) -> dict[str, str | None]:
    """NAME=VALUE of broker configs, 7d and 64MiB as the numbers they stand for. Raises a usage error."""
    from kbroker.config import ConfigError
    from kbroker.config.units import exact_pairs

    try:
        return dict(exact_pairs(Scope.BROKER, texts))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _check_names(removed: Sequence[str]) -> None:
    """A broker takes back what was never set, whatever it is; so that a misspelt name would be said to be done."""
    from kbroker.config import ConfigError, find

    try:
        for name in removed:
            find(Scope.BROKER, name)
    except ConfigError as error:
        raise Failed(str(error)) from None


def _origin(told: Any) -> str:
    """Where a broker's value comes from, in words."""
    from kbroker.config import Source

    return {
        Source.DYNAMIC_BROKER: "set for this broker",
        Source.DYNAMIC_DEFAULT_BROKER: "set for all brokers",
        Source.STATIC_BROKER: "its start",
        Source.DEFAULT: "default",
    }.get(told.config_source, "unknown")
