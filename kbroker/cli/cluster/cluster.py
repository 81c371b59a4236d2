"""`kbroker cluster`: who is in the cluster, what each broker carries, who leads. Its state: health.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import health, reads
from kbroker.cli.cluster.reads import Broker, Members, Partition, Usage
from kbroker.cli.consent import ask, yes_option
from kbroker.cli.errors import Failed
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import bytes_text, format_option, json_text, plural, table
from kbroker.cli.topics.partitions import Chosen, PartitionsType, check_all, partitions, places
from kbroker.env import address_text

cluster = LazyGroup(
    name="cluster",
    help="Look at a cluster of brokers, move its partitions and their leaders.",
    commands_at={
        "info": ("kbroker.cli.cluster.cluster:info", "Show the cluster in a few lines."),
        "health": ("kbroker.cli.cluster.health:health", "Tell what is wrong, or wait until nothing is."),
        "brokers": ("kbroker.cli.cluster.cluster:brokers", "List brokers with what each carries."),
        "reassign": ("kbroker.cli.cluster.reassign:reassign", "Give partitions other replicas; drain a broker."),
        "elect-leaders": ("kbroker.cli.cluster.cluster:elect_leaders", "Have preferred replicas lead again."),
        "unregister": ("kbroker.cli.cluster.cluster:unregister", "Forget a broker that will not come back."),
    },
    aliases={"ls": "brokers"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Load(NamedTuple):
    """What a broker carries. behind: its replicas that are not in sync; None: it did not say."""

    leaders: int
    replicas: int
    behind: int
    bytes: int | None
    free_bytes: int | None


@click.command()
@format_option
@connection_options
def info(connection: Connection, style: str) -> None:
    """Show the cluster in a few lines: its id, its controller, how many brokers, topics and partitions, its data."""
    with admin(connection) as client:
        found, partitions = reads.members(client), reads.partitions(client)
        problems = health.look(client)
        usages = reads.usages(client, [broker.id for broker in found.live]).values()
    size = sum(sum(usage.sizes.values()) for usage in usages) if usages else None
    free = min((usage.free for usage in usages if usage.free is not None), default=None)
    replicas = sum(len(each.replicas) for each in partitions)
    counts = {
        "cluster_id": found.cluster_id,
        "controller": found.controller,
        "brokers": len(found.live),
        "fenced_brokers": len(found.fenced),
        "topics": len({each.topic for each in partitions}),
        "partitions": len(partitions),
        "replicas": replicas,
        "bytes": size,
        "free_bytes": free,
        "healthy": not problems,
    }
    if style == "json":
        click.echo(json_text(counts))
        return
    fenced = f", {len(found.fenced)} fenced" if found.fenced else ""
    state = "nothing is wrong" if not problems else f"{health.summary(problems)} (kbroker cluster health)"
    left = bytes_text(free) or "unknown"
    data = f"{bytes_text(size) or 'unknown'} in all replicas; free, where it is least: {left}"
    lines = [
        ("cluster", found.cluster_id),
        ("controller", "none" if found.controller < 0 else f"broker {found.controller}"),
        ("brokers", f"{len(found.live)} live{fenced}"),
        ("topics", f"{counts['topics']} with {plural(len(partitions), 'partition')}, {plural(replicas, 'replica')}"),
        ("data", data),
        ("health", state),
    ]
    click.echo("\n".join(f"{name:12}{text}" for name, text in lines))


@click.command()
@format_option
@connection_options
def brokers(connection: Connection, style: str) -> None:
    """List brokers with what each carries: leaders, replicas, how many of those are not in sync, bytes."""
    with admin(connection) as client:
        found, partitions = reads.members(client), reads.partitions(client)
        usages = reads.usages(client, [broker.id for broker in found.live])
    loads = {broker.id: _load(broker, partitions, usages.get(broker.id)) for broker in found.brokers}
    if style == "json":
        rows = [
            {**each._asdict(), **loads[each.id]._asdict(), "controller": _controls(found, each)}
            for each in found.brokers
        ]
        click.echo(json_text(rows))
        return
    headings = ("ID", "ADDRESS", "RACK", "STATE", "LEADERS", "REPLICAS", "BEHIND", "SIZE", "FREE")
    cells = [
        (
            each.id,
            address_text(each.host, each.port),
            each.rack,
            "fenced" if each.fenced else "controller" if _controls(found, each) else "live",
            *loads[each.id][:3],
            bytes_text(loads[each.id].bytes),
            bytes_text(loads[each.id].free_bytes),
        )
        for each in found.brokers
    ]
    click.echo(table(headings, cells))


def _controls(found: Members, broker: Broker) -> bool:
    return broker.id == found.controller


def _load(broker: Broker, partitions: Sequence[Partition], usage: Usage | None) -> Load:
    own = [each for each in partitions if broker.id in each.replicas]
    return Load(
        sum(each.leader == broker.id for each in own),
        len(own),
        sum(broker.id not in each.isr for each in own),
        sum(usage.sizes.values()) if usage is not None else None,
        usage.free if usage is not None else None,
    )


@click.command("elect-leaders")
@click.argument("topics", nargs=-1, type=PartitionsType(), metavar="[TOPIC[:PARTITION,...]]...")
@click.option("--unclean", is_flag=True, help="Where nobody leads, have any replica that lives: records may be lost.")
@yes_option
@format_option
@connection_options
def elect_leaders(
    connection: Connection,
    topics: Sequence[Chosen],
    unclean: bool,
    yes: bool,
    style: str,
) -> None:
    """Have partitions led by their preferred replicas again, of all topics or of these.

    A cluster does so by itself every five minutes (auto.leader.rebalance.enable).
    """
    if unclean and not topics:
        raise click.UsageError("--unclean loses records: name the topics it is for")
    if unclean and not yes:
        ask("Records that only dead replicas have are lost. Go on?")
    with admin(connection) as client:
        wanted = [each.key for each in partitions(client, topics)] if topics else None
        outcomes = reads.elect(client, wanted, unclean=unclean)
    held = [key for key, reason in outcomes.items() if reason is None]
    if style == "json":
        rows = [{"topic": topic, "partition": index, "error": why} for (topic, index), why in outcomes.items()]
        click.echo(json_text(rows))
    elif held:
        click.echo(f"{plural(len(held), 'election')} held: {places(held)}")
    elif not outcomes:
        click.echo("nothing to do: everything is led as it should be", err=True)
    check_all(outcomes)


@click.command()
@click.argument("broker_id", type=WholeType(0), metavar="ID")
@click.option("--force", is_flag=True, help="Even if partitions have replicas there.")
@connection_options
def unregister(connection: Connection, broker_id: int, force: bool) -> None:
    """Forget a broker that will not come back, once nothing is on it (kbroker cluster reassign --from-broker ID)."""
    with admin(connection) as client:
        count = 0 if force else sum(broker_id in each.replicas for each in reads.partitions(client))
        if count:
            raise Failed(
                f"broker {broker_id} still has {plural(count, 'replica')}: "
                f"kbroker cluster reassign --from-broker {broker_id} moves them (or --force)"
            )
        reads.unregister(client, broker_id)
    click.echo(f"forgot broker {broker_id}")
