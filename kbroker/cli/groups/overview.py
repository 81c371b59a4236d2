"""`kbroker group list`: all groups, with how many members and how far behind.

Asked in bulk, whatever their number: each broker for the groups it coordinates, then for the members and the offsets of
a few hundred of them at a time; the leaders for the ends of all partitions that any group has committed an offset of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from kafka_wire.api import ApiKey
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest
from kafka_wire.messages.group_admin import DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestGroup
from kbroker.cli.client import bridge
from kbroker.cli.client.bridge import Asked
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS, Connection, admin, connection_options, error_text
from kbroker.cli.cluster import reads as cluster
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.groups.reads import COORDINATOR_MOVING, RETRY_S
from kbroker.cli.tables import format_option, json_text, table
from kbroker.cli.topics import offsets

GROUPS_AT_ONCE = 200  # in one request
OFFSETS_OF_MANY_SINCE, OFFSETS_BY_NAME_UNTIL = 8, 9  # versions of OffsetFetch: several groups; topics have names
NEW_PROTOCOL = "consumer"  # the type of KIP-848 groups


class Row(NamedTuple):
    """A group. members, lag: None where nobody says."""

    name: str
    type: str
    state: str
    protocol_type: str
    members: int | None
    lag: int | None
    coordinator: int


@click.command("list")
@click.option("--names", is_flag=True, help="Only the names, a line each.")
@format_option
@connection_options
def list_groups(connection: Connection, names: bool, style: str) -> None:
    """List groups: their state, their members, and their lag, what is written and not committed."""
    with admin(connection) as client:
        rows = sorted(_groups(client))
        if not names:
            rows = _with_lags(client, _with_members(client, rows))
    if style == "json":
        click.echo(json_text([row.name if names else row._asdict() for row in rows]))
    elif not rows:
        click.echo("no groups", err=True)
    elif names:
        click.echo("\n".join(row.name for row in rows))
    else:
        headings = ("GROUP", "TYPE", "STATE", "PROTOCOL", "MEMBERS", "LAG")
        click.echo(table(headings, [row[: len(headings)] for row in rows]))


def _groups(client: Any) -> list[Row]:
    """Each broker's groups. A broker that does not tell is named on stderr."""
    version = bridge.supported_version(client, ApiKey.LIST_GROUPS)
    left = [broker.id for broker in cluster.members(client).live] if version is not None else []
    rows: list[Row] = []
    give_up = time.monotonic() + ANSWER_TIMEOUT_MS / 1000
    while left and version is not None:
        asked = [Asked(node, ListGroupsRequest(), ApiKey.LIST_GROUPS, version) for node in left]
        answers = dict(zip(left, bridge.send_all(client, asked), strict=True))
        left = [node for node, answer in answers.items() if _code(answer) in COORDINATOR_MOVING]
        if time.monotonic() > give_up:
            answers.update({node: TimeoutError("its groups are being loaded") for node in left})
            left = []
        for node, answer in answers.items():
            if node not in left:
                rows += _told(node, answer)
        time.sleep(RETRY_S if left else 0)
    return rows


def _told(node: int, answer: Any) -> Iterator[Row]:
    code = _code(answer)
    if isinstance(answer, Exception) or code:
        why = error_text(code) if code else str(answer)
        click.echo(f"kbroker: broker {node} does not tell its groups: {why}", err=True)
        return
    for each in answer.groups:
        kind = each.group_type.lower()
        yield Row(each.group_id, kind, each.group_state, each.protocol_type, None, None, node)


def _code(answer: Any) -> int:
    return 0 if isinstance(answer, Exception) else answer.error_code


def _with_members(client: Any, rows: Sequence[Row]) -> list[Row]:
    """Counted where there may be any; an empty group has none."""
    counts = {row.name: 0 for row in rows if row.state in ("Empty", "Dead")}
    classic = [row for row in rows if row.name not in counts and row.type != NEW_PROTOCOL]
    new = [row for row in rows if row.name not in counts and row.type == NEW_PROTOCOL]
    asked = _in_chunks(client, classic, ApiKey.DESCRIBE_GROUPS, lambda names: DescribeGroupsRequest(groups=names))
    asked += _in_chunks(
        client,
        new,
        ApiKey.CONSUMER_GROUP_DESCRIBE,
        lambda names: ConsumerGroupDescribeRequest(group_ids=names, include_authorized_operations=False),
    )
    for answer in bridge.send_all(client, asked):
        if not isinstance(answer, Exception):
            counts.update({each.group_id: len(each.members) for each in answer.groups if not each.error_code})
    return [row._replace(members=counts.get(row.name)) for row in rows]


def _with_lags(client: Any, rows: Sequence[Row]) -> list[Row]:
    committed = _committed(client, rows)
    leaders = {each.key: each.leader for each in cluster.partitions(client, with_views=True)} if committed else {}
    wanted = {key for of_group in committed.values() for key in of_group}
    ends = offsets.offsets(client, {key: leaders[key] for key in wanted if key in leaders}, offsets.LATEST)
    return [row._replace(lag=_lag(committed.get(row.name), ends, leaders)) for row in rows]


def _lag(
    committed: Mapping[TopicPartition, int] | None, ends: Mapping[TopicPartition, int], there: Mapping[Any, int]
) -> int | None:
    """Of the partitions that are there; None when the end of one of them is not known."""
    if committed is None or any(key in there and key not in ends for key in committed):
        return None
    return sum(max(0, ends[key] - offset) for key, offset in committed.items() if key in ends)


def _committed(client: Any, rows: Sequence[Row]) -> dict[str, dict[TopicPartition, int]]:
    asked = _in_chunks(
        client,
        rows,
        ApiKey.OFFSET_FETCH,
        lambda names: OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=n, topics=None) for n in names]),
        OFFSETS_BY_NAME_UNTIL,
    )
    if not asked or asked[0].version < OFFSETS_OF_MANY_SINCE:
        return {}
    return {
        group.group_id: {
            (topic.name, each.partition_index): each.committed_offset
            for topic in group.topics
            for each in topic.partitions
            if each.committed_offset >= 0 and not each.error_code
        }
        for answer in bridge.send_all(client, asked)
        if not isinstance(answer, Exception)
        for group in answer.groups
        if not group.error_code
    }


def _in_chunks(client: Any, rows: Sequence[Row], key: ApiKey, request: Any, version_max: int = 99) -> list[Asked]:
    """A question about groups, put to their coordinators, some hundred groups at a time."""
    version = bridge.supported_version(client, key)
    if version is None:
        return []
    by_node: dict[int, list[str]] = {}
    for row in rows:
        by_node.setdefault(row.coordinator, []).append(row.name)
    return [
        Asked(node, request(names[start : start + GROUPS_AT_ONCE]), key, min(version, version_max))
        for node, names in by_node.items()
        for start in range(0, len(names), GROUPS_AT_ONCE)
    ]
