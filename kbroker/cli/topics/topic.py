"""`kbroker topic`: what a cluster's topics are, and changing them. produce and consume are in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

from kafka_wire.errors import ErrorCode
from kbroker.cli.client.connecting import Connection, admin, check_topic, connection_options, topic_problem
from kbroker.cli.cluster import reads
from kbroker.cli.errors import Failed, check_none
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.names import TOPIC, TOPIC_CONFIG, TOPIC_SETTING
from kbroker.cli.numbers import WholeType
from kbroker.cli.tables import format_option, json_text, plural, table
from kbroker.cli.times import DurationType
from kbroker.cli.topics import offsets
from kbroker.config import Scope, Source
from kbroker.config.views import VIEW_FILTER, VIEW_KEYS, VIEW_SOURCE, VIEW_TAGS

SOURCES = {each: f"{each.name}_CONFIG" for each in Source}  # Kafka's words

topic = LazyGroup(
    name="topic",
    help="Create, list, describe, alter, trim, export, import and delete topics; produce and consume.",
    commands_at={
        "create": ("kbroker.cli.topics.topic:create", "Create topics."),
        "list": ("kbroker.cli.topics.overview:list_topics", "List topics, with what is in them."),
        "describe": ("kbroker.cli.topics.topic:describe", "Show a topic's partitions and configs."),
        "alter": ("kbroker.cli.topics.topic:alter", "Change configs, add partitions."),
        "delete": ("kbroker.cli.topics.topic:delete", "Delete topics with all their records."),
        "trim": ("kbroker.cli.topics.trim:trim", "Delete a topic's oldest records."),
        "compact": ("kbroker.cli.topics.compact:compact", "Compact a topic now."),
        "export": ("kbroker.cli.topics.archive.export:export", "Write all records of a topic into a file."),
        "import": ("kbroker.cli.topics.archive.restore:import_topic", "Append the records of such a file to a topic."),
        "produce": ("kbroker.cli.topics.produce:produce", "Write the lines of standard input as records."),
        "consume": ("kbroker.cli.topics.consume:consume", "Read records."),
    },
    aliases={"ls": "list", "info": "describe", "rm": "delete"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def replicas_option(text: str) -> Callable[[Any], Any]:
    """-r of commands that make topics. text: its help."""
    text += "  [default: default.replication.factor]"
    return click.option("-r", "--replicas", type=WholeType(1), metavar="N", help=text)


def configs_option(text: str) -> Callable[[Any], Any]:
    """-c: a topic's configs, `configs` (see topic_configs). text: its help."""
    return click.option("-c", "--config", "configs", type=TOPIC_SETTING, multiple=True, help=f"{text} Repeatable.")


def removed_option(text: str) -> Callable[[Any], Any]:
    """-d: names of a topic's configs, `removed`. text: its help."""
    return click.option(
        "-d", "--delete-config", "removed", type=TOPIC_CONFIG, multiple=True, help=f"{text} Repeatable."
    )


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="TOPIC...")
@click.option(
    "-p",
    "--partitions",
    type=WholeType(1),
    metavar="N",
    help="How many partitions.  [default: the broker's num.partitions]",
)
@replicas_option("How many replicas of each.")
@configs_option("A topic config: retention.ms=7d.")
@click.option(
    "--view-of",
    "source",
    type=TOPIC,
    help="Make read-only views of this topic; the next four say what they show.",
)
@click.option("--tags", metavar="TAG,TAG", help="Only records with one of these tags in their header kbroker-tags.")
@click.option("--filter", "expression", metavar="EXPRESSION", help="Only records that this matches: docs/filtering.md.")
@click.option(
    "--lag", "lag_ms", type=DurationType(), metavar="DURATION", help="Show each record this much later: 5m, 1h."
)
@click.option(
    "--mode",
    type=click.Choice(("exact", "prune")),
    help="exact: the records that match, no others; prune: whole batches that may have some.  [default: exact]",
)
@click.option("--if-not-exists", is_flag=True, help="Do not fail if a topic exists.")
@format_option
@connection_options
def create(
    connection: Connection,
    names: Sequence[str],
    partitions: int | None,
    replicas: int | None,
    configs: Sequence[str],
    source: str | None,
    tags: str | None,
    expression: str | None,
    lag_ms: int | None,
    mode: str | None,
    if_not_exists: bool,
    style: str,
) -> None:
    """Create topics, or views of one: read-only topics that show its records, some of them, or all of them later."""
    of_view = {"source": source, "tags": tags, "filter": expression, "lag.ms": lag_ms, "mode": mode}
    wanted = {
        "num_partitions": partitions or -1,
        "replication_factor": replicas or -1,
        "configs": {
            **topic_configs(configs),
            **{f"{VIEW_KEYS}{key}": str(value) for key, value in of_view.items() if value is not None},
        },
    }
    with admin(connection) as client:
        answer = client.create_topics(dict.fromkeys(names, wanted), raise_errors=False)
    fine = {0, ErrorCode.TOPIC_ALREADY_EXISTS} if if_not_exists else {0}
    problems = [each for each in answer["topics"] if each["error_code"] not in fine]
    there = [each for each in answer["topics"] if each["error_code"] in fine]
    if style == "json":
        click.echo(json_text([_as_json(result) for result in there]))
    else:
        for result in there:
            click.echo(_created(result, source))
    _check_all(problems)


@click.command()
@click.argument("names", nargs=-1, required=True, type=TOPIC, metavar="TOPIC...")
@click.option("-a", "--all-configs", is_flag=True, help="All configs, not only those that were set.")
@format_option
@connection_options
def describe(connection: Connection, names: Sequence[str], all_configs: bool, style: str) -> None:
    """Show a topic's partitions and configs."""
    with admin(connection) as client:
        found = {each["name"]: each for each in client.describe_topics(list(names))}
        there = [name for name in names if not found[name]["error_code"]]
        shown = [_description(client, found[name], all_configs) for name in there]
    if style == "json":
        click.echo(json_text(shown))
    elif shown:
        click.echo("\n\n".join(map(_as_text, shown)))
    _check_all([found[name] for name in names if found[name]["error_code"]])


@click.command()
@click.argument("name", type=TOPIC, metavar="TOPIC")
@configs_option("Set a config.")
@removed_option("Go back to the default.")
@click.option(
    "-p", "--partitions", type=WholeType(1), metavar="N", help="The new number of partitions; it can only grow."
)
@connection_options
def alter(
    connection: Connection, name: str, configs: Sequence[str], removed: Sequence[str], partitions: int | None
) -> None:
    """Change configs, add partitions."""
    changes = {**topic_configs(configs), **dict.fromkeys(removed, None)}
    if not changes and partitions is None:
        raise click.UsageError("nothing to do: give -c, -d or -p")
    with admin(connection) as client:
        _check_known(client, name, removed)
        if changes:
            reads.alter_configs(client, {(Scope.TOPIC, name): changes})
        if partitions is not None:
            answer = client.create_partitions({name: partitions}, raise_errors=False)
            for result in answer.results:
                check_topic(result.error_code, name, result.error_message)
    done = reads.altered(changes)
    done += [plural(partitions, "partition")] if partitions is not None else []
    click.echo(f"altered {name}: {', '.join(done)}")


@click.command()
@click.argument("names", nargs=-1, required=True, type=TOPIC, metavar="TOPIC...")
@click.option("--if-exists", is_flag=True, help="Do not fail if a topic does not exist.")
@click.option("--internal", is_flag=True, help="Brokers' own topics, too: all groups' offsets, all transactions.")
@connection_options
def delete(connection: Connection, names: Sequence[str], if_exists: bool, internal: bool) -> None:
    """Delete topics with all their records."""
    with admin(connection) as client:
        if not internal:
            _check_not_internal(client, names)
        answer = client.delete_topics(list(names), raise_errors=False)
    fine = {0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION} if if_exists else {0}
    for result in answer["topics"]:
        if not result["error_code"]:
            click.echo(f"deleted {result['name']}")
    _check_all([each for each in answer["topics"] if each["error_code"] not in fine])


def _as_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a topic that was there before the broker tells nothing but that."""
    is_new = not result["error_code"]
    return {
        "name": result["name"],
        "partitions": result["num_partitions"] if is_new else None,
        "replicas": result["replication_factor"] if is_new else None,
    }


def _created(result: Mapping[str, Any], source: str | None) -> str:
    if result["error_code"]:
        return f"{result['name']} exists"
    made = f"view of {source}, " if source else ""
    made += plural(result["num_partitions"], "partition")
    return f"created {result['name']}: {made}, replication factor {result['replication_factor']}"


def _check_all(results: Sequence[Mapping[str, Any]]) -> None:
    """Failed, when there are answers that carry an error, each with its name; what went well has been told before."""
    check_none([topic_problem(each["name"], each["error_code"], each.get("error_message")) for each in results])


def _check_not_internal(client: Any, names: Sequence[str]) -> None:
    """Failed, before anything is done, when one of the topics is the brokers' own."""
    if kept := sorted({each.topic for each in reads.partitions(client, names, if_there=True) if each.internal}):
        what = "is an internal topic" if len(kept) == 1 else "are internal topics"
        raise Failed(f"{', '.join(kept)} {what} of the brokers; nothing was deleted. If you mean it: --internal")


def _check_known(client: Any, name: str, configs: Sequence[str]) -> None:
    """Failed, when there is no such topic, or one of these is no config of topics: brokers say yes, as nothing is to be
    removed."""
    reads.partitions(client, [name])
    known = [each.name for each in reads.described_configs(client, Scope.TOPIC, name)] if configs else []
    for config in configs:
        if config not in known:
            close = get_close_matches(config, known, n=1)
            raise Failed(f"{name}: topics have no config {config}" + (f", did you mean {close[0]}?" if close else ""))


def _description(client: Any, found: Mapping[str, Any], all_configs: bool) -> dict[str, Any]:
    name = found["name"]
    ends = offsets.ends(client, {(name, each["partition_index"]): each["leader_id"] for each in found["partitions"]})
    partitions = []
    for each in sorted(found["partitions"], key=lambda p: int(p["partition_index"])):
        first, end = ends.get((name, each["partition_index"]), (None, None))
        partitions.append(
            {
                "partition": each["partition_index"],
                "leader": each["leader_id"],
                "epoch": each.get("leader_epoch"),
                "replicas": each["replica_nodes"],
                "isr": each["isr_nodes"],
                "first": first,
                "end": end,
            }
        )
    told = {each.name: each for each in reads.described_configs(client, Scope.TOPIC, name)}
    view_of = (told[VIEW_SOURCE].value or None) if VIEW_SOURCE in told else None
    configs = {
        key: {"value": each.value, "source": SOURCES.get(each.config_source, "UNKNOWN")}
        for key, each in sorted(told.items())
        if all_configs or (each.config_source == Source.DYNAMIC_TOPIC and (not view_of or key.startswith(VIEW_KEYS)))
    }
    id = str(found.get("topic_id") or "")
    return {"name": name, "id": id, "view_of": view_of, "partitions": partitions, "configs": configs}


def _as_text(shown: Mapping[str, Any]) -> str:
    partitions = shown["partitions"]
    view = f"view of {shown['view_of']}, " if shown["view_of"] else ""
    head = f"{shown['name']}: {view}{plural(len(partitions), 'partition')}"
    parts = [shown["configs"].get(key) for key in (VIEW_TAGS, VIEW_FILTER)]
    is_part = any(part and part["value"] for part in parts)  # how many is not known
    headings = ("PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "FIRST", "END", "RECORDS")
    rows = []
    for each in partitions:
        known = each["first"] is not None and each["end"] is not None and not is_part
        rows.append((*each.values(), each["end"] - each["first"] if known else None))
    text = f"{head}\n{table(headings, rows)}"
    if shown["configs"]:
        configs = [(key, value["value"], value["source"]) for key, value in shown["configs"].items()]
        text += "\n" + table(("CONFIG", "VALUE", "SOURCE"), configs)
    return text


def topic_configs(texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE of topic configs, 7d and 64MiB as the numbers they stand for. Raises a usage error."""
    from kbroker.config import ConfigError
    from kbroker.config.units import exact_pairs

    try:
        return dict(exact_pairs(Scope.TOPIC, texts))
    except ConfigError as error:
        raise click.UsageError(f"-c {error}") from None
