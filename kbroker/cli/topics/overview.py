"""`kbroker topic list`: all topics, with what is in them.

Asked in bulk, whatever their number: one look at the metadata, two questions to each leader for the offsets, one to
each broker for the sizes, one for the configs of a few hundred topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options
from kbroker.cli.cluster import reads
from kbroker.cli.cluster.reads import Partition, TopicPartition
from kbroker.cli.tables import bytes_text, format_option, json_text, table
from kbroker.cli.times import span
from kbroker.cli.topics import offsets
from kbroker.config.views import VIEW_FILTER, VIEW_SOURCE, VIEW_TAGS

POLICY, RETENTION_MS, RETENTION_BYTES = "cleanup.policy", "retention.ms", "retention.bytes"
VIEW_PARTS = (VIEW_TAGS, VIEW_FILTER)
KEYS = (POLICY, RETENTION_MS, RETENTION_BYTES, VIEW_SOURCE, *VIEW_PARTS)
HEADINGS = ("NAME", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "POLICY", "VIEW OF")


class Row(NamedTuple):
    """A topic. records: offsets that are taken, None where nobody says or a view shows some of them; bytes: of one
    replica of each partition."""

    name: str
    partitions: int
    replicas: int
    records: int | None
    bytes: int | None
    cleanup_policy: str | None
    retention_ms: int | None
    retention_bytes: int | None
    view_of: str | None


@click.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Internal topics too.")
@click.option("--names", is_flag=True, help="Only the names, a line each.")
@format_option
@connection_options
def list_topics(connection: Connection, everything: bool, names: bool, style: str) -> None:
    """List topics: their partitions and replicas, how many records and bytes they have, what is deleted when.

    RECORDS counts the offsets between the first record and the last: compaction and transactions leave gaps. SIZE is
    that of one replica of each partition.
    """
    with admin(connection) as client:
        partitions = [each for each in reads.partitions(client, with_views=True) if everything or not each.internal]
        found = sorted({each.topic for each in partitions})
        rows = [] if names else _rows(client, partitions)
    if style == "json":
        click.echo(json_text(found if names else [row._asdict() for row in rows]))
    elif not found:
        click.echo("no topics", err=True)
    else:
        click.echo("\n".join(found) if names else _as_text(rows))


def _rows(client: Any, partitions: Sequence[Partition]) -> list[Row]:
    by_topic: dict[str, list[Partition]] = {}
    for each in partitions:
        by_topic.setdefault(each.topic, []).append(each)
    ends = offsets.ends(client, {each.key: each.leader for each in partitions})
    sizes = reads.sizes(client, partitions)
    configs = reads.configs(client, by_topic, KEYS)
    return [_row(name, own, ends, sizes, configs.get(name, {})) for name, own in by_topic.items()]


def _row(
    name: str,
    partitions: Sequence[Partition],
    ends: Mapping[TopicPartition, offsets.Ends],
    sizes: Mapping[TopicPartition, int],
    configs: Mapping[str, str],
) -> Row:
    keys = [each.key for each in partitions]
    is_part = any(part in configs for part in VIEW_PARTS)
    return Row(
        name,
        len(keys),
        max(len(each.replicas) for each in partitions),
        sum(ends[key].end - ends[key].first for key in keys) if ends.keys() >= set(keys) and not is_part else None,
        sum(sizes[key] for key in keys) if sizes.keys() >= set(keys) else None,
        configs.get(POLICY),
        _number(configs.get(RETENTION_MS)),
        _number(configs.get(RETENTION_BYTES)),
        configs.get(VIEW_SOURCE),
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _as_text(rows: Sequence[Row]) -> str:
    cells = [
        (row.name, row.partitions, row.replicas, row.records, bytes_text(row.bytes), _policy(row), row.view_of)
        for row in rows
    ]
    if not any(row.view_of for row in rows):
        return table(HEADINGS[:-1], [row[:-1] for row in cells])
    return table(HEADINGS, cells)


def _policy(row: Row) -> str:
    """ "delete 7 d", "compact", "compact,delete 7 d 1.0 GB": what goes, and when."""
    if row.view_of is not None:
        return ""
    words = [row.cleanup_policy or ""]
    if "delete" in words[0]:
        has_time = row.retention_ms is not None and row.retention_ms >= 0
        has_size = row.retention_bytes is not None and row.retention_bytes >= 0
        words += [span(row.retention_ms or 0)] if has_time else []
        words += [bytes_text(row.retention_bytes) or ""] if has_size else []
        words += [] if has_time or has_size else ["never"]
    return " ".join(words)
