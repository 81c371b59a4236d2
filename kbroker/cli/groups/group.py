"""`kbroker group`: consumer groups, classic and KIP-848, and their offsets. seek is in seek.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from kbroker.cli.client.connecting import Connection, admin, connection_options, error_text
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed, check_none
from kbroker.cli.groups import timeline as group_timeline
from kbroker.cli.groups.reads import (
    COORDINATOR_MOVING,
    GROUP_ID_NOT_FOUND,
    Described,
    Member,
    committed,
    described,
    led,
    patiently,
)
from kbroker.cli.lazy import LazyGroup
from kbroker.cli.names import GROUP
from kbroker.cli.tables import format_option, json_text, plural, table, visible, visible_lines
from kbroker.cli.times import moment, span
from kbroker.cli.topics import offsets
from kbroker.cli.topics.partitions import Chosen, PartitionsType, check_all, place
from kbroker.cli.transactions.reads import Holder, holders

group = LazyGroup(
    name="group",
    help="List and describe consumer groups, move their offsets, delete them.",
    commands_at={
        "list": ("kbroker.cli.groups.overview:list_groups", "List groups with their members and lag."),
        "describe": ("kbroker.cli.groups.group:describe", "Show a group's state, lag, members and rebalances."),
        "seek": ("kbroker.cli.groups.seek:seek", "Move a group's committed offsets."),
        "delete": ("kbroker.cli.groups.group:delete", "Delete groups with their offsets."),
        "offset-delete": ("kbroker.cli.groups.group:offset_delete", "Delete a group's offsets of some topics."),
    },
    aliases={"ls": "list", "info": "describe", "rm": "delete"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


NOBODY: Mapping[TopicPartition, Holder] = MappingProxyType({})


class Position(NamedTuple):
    """How far a group is in a partition, and who has it. None: there is none, or nobody knows."""

    topic: str
    partition: int
    committed: int | None
    end: int | None
    lag: int | None
    member: Member | None


@click.command()
@click.argument("names", nargs=-1, required=True, type=GROUP, metavar="GROUP...")
@click.option("--lag", is_flag=True, help="Offsets and lag, partition by partition.")
@click.option("--members", is_flag=True, help="Members, and the partitions each has.")
@click.option("--state", is_flag=True, help="One line: state, protocol, members, coordinator, lag.")
@click.option("--rebalances", is_flag=True, help="The last rebalances: when, who was waited for, what stood still.")
@format_option
@connection_options
def describe(
    connection: Connection, names: Sequence[str], lag: bool, members: bool, state: bool, rebalances: bool, style: str
) -> None:
    """Show a group's state, lag, members and rebalances.

    Without --lag, --members, --state or --rebalances: the line of --state, and --lag. A lag counts what is written and
    not committed; where an open transaction keeps it from readers of committed records, that is named. Rebalances are
    told by kbroker only, and kept in memory: since its coordinator was started.
    """
    with admin(connection) as client:
        groups = {name: described(client, name, rebalances=rebalances) for name in names}
        shown = [(found, positions(client, found)) for found in groups.values() if found]
        if not (lag or members or state or rebalances):
            lag = state = True
        held = {found.name: _held(client, rows) for found, rows in shown} if lag or style == "json" else {}
    if style == "json":
        click.echo(json_text([_as_json(*each, held[each[0].name], rebalances=rebalances) for each in shown]))
    else:
        _show(shown, held, lag=lag, members=members, state=state, rebalances=rebalances)
    check_none([_problem(name, GROUP_ID_NOT_FOUND) for name, found in groups.items() if found is None])


def _show(
    shown: Sequence[tuple[Described, Sequence[Position]]],
    held: Mapping[str, Mapping[TopicPartition, Holder]],
    *,
    lag: bool,
    members: bool,
    state: bool,
    rebalances: bool,
) -> None:
    texts = []
    for found, rows in shown:
        parts = [_headline(found, rows)] if state else []
        parts += [_lag_table(found, rows)] if lag and (rows or found.members) else []
        parts += [_holder_line(partition, holder) for partition, holder in held.get(found.name, {}).items()]
        parts += [_member_table(found)] if members else []
        parts += [group_timeline.as_text(found.name, found.timeline)] if rebalances else []
        texts.append("\n".join(parts))
    if texts:
        click.echo(visible_lines("\n\n".join(texts)))


@click.command()
@click.argument("names", nargs=-1, required=True, type=GROUP, metavar="GROUP...")
@connection_options
def delete(connection: Connection, names: Sequence[str]) -> None:
    """Delete groups with their offsets. A group with members is not deleted."""
    problems = []
    with admin(connection) as client:
        for name in dict.fromkeys(names):
            result = _coordinated(client, lambda name=name: client.delete_groups([name])[name])
            if result == "OK":
                click.echo(f"deleted {name}")
            else:
                problems.append(_problem(name, _code(result)))
    check_none(problems)


@click.command("offset-delete")
@click.argument("name", type=GROUP, metavar="GROUP")
@click.option(
    "-t",
    "--topic",
    "topics",
    type=PartitionsType(),
    multiple=True,
    required=True,
    metavar="TOPIC[:PARTITION,...]",
    help="The topics whose offsets go. Repeatable.",
)
@connection_options
def offset_delete(connection: Connection, name: str, topics: Sequence[Chosen]) -> None:
    """Delete a group's offsets of some topics. Not while a member is subscribed to them."""
    from kafka import TopicPartition as Key

    with admin(connection) as client:
        _known(client, name)
        had = committed(client, name)
        wanted = {(topic, number) for topic, named in topics for number in named}
        wanted |= {key for key in had if (key[0], ()) in topics}
        missing = [place(key) for key in sorted(wanted) if key not in had]
        missing += [topic for topic, _ in topics if topic not in {key[0] for key in wanted}]
        if missing:
            raise Failed(f"{name} has committed nothing for {', '.join(missing)}")
        keys = [Key(*key) for key in sorted(wanted)]
        answer = patiently(client, lambda: client.delete_group_offsets(name, keys))
    done = sum(not error.errno for error in answer.values())
    if done:
        click.echo(f"deleted {plural(done, 'offset')} of {name}")
    check_partitions(name, answer)


def positions(client: Any, found: Described) -> list[Position]:
    """How far a group is in every partition it has committed an offset of, or has a member for."""
    owner = {partition: member for member in found.members or () for partition in member.partitions}
    had = committed(client, found.name)
    partitions = sorted({*had, *owner})
    ends = offsets.offsets(client, led(client, partitions), offsets.LATEST)
    rows = []
    for partition in partitions:
        offset, end = had.get(partition), ends.get(partition)
        lag = max(end - offset, 0) if end is not None and offset is not None else None
        rows.append(Position(*partition, offset, end, lag, owner.get(partition)))
    return rows


def check_partitions(name: str, answer: Mapping[Any, Any]) -> None:
    """Failed, when some partitions were answered with an error."""
    check_all(
        {(key.topic, key.partition): error_text(error.errno) if error.errno else None for key, error in answer.items()},
        f"{name}: ",
    )


def members_of(found: Described) -> str:
    """How many members a group has."""
    return "members unknown" if found.members is None else plural(len(found.members), "member")


def _known(client: Any, name: str) -> Described:
    found = described(client, name)
    if found is None:
        raise Failed(f"group {name} does not exist")
    return found


def _headline(found: Described, rows: Sequence[Position]) -> str:
    protocol = f"{found.kind} ({found.protocol})" if found.protocol else found.kind
    parts = [found.state, protocol]
    parts += [f"epoch {found.epoch}"] if found.epoch is not None else []
    parts += [members_of(found), f"coordinator {found.coordinator}", f"lag {sum(row.lag or 0 for row in rows)}"]
    text = f"{visible(found.name)}: {', '.join(parts)}"
    if found.members is None:
        text += f"\nThis broker does not describe {found.kind} groups: who its members are is unknown."
    return text


def _lag_table(found: Described, rows: Sequence[Position]) -> str:
    cells: list[tuple[object, ...]] = []
    for row in rows:
        member = (row.member.member_id, row.member.host) if row.member else (None, None)
        cells.append((found.name, *row[:5], *member))
    idle = [member for member in found.members or () if not member.partitions]
    cells += [(found.name, None, None, None, None, None, member.member_id, member.host) for member in idle]
    return table(("GROUP", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER", "HOST"), cells)


def _member_table(found: Described) -> str:
    rows = []
    for member in sorted(found.members or ()):
        by_topic: dict[str, list[str]] = {}
        for topic, number in member.partitions:
            by_topic.setdefault(topic, []).append(str(number))
        has = " ".join(f"{topic}:{','.join(numbers)}" for topic, numbers in by_topic.items())
        rows.append((found.name, member.member_id, member.instance_id, member.client_id, member.host, has))
    return table(("GROUP", "MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"), rows)


def _held(client: Any, rows: Sequence[Position]) -> dict[TopicPartition, Holder]:
    """The open transactions that a group which lags is held up by, if it reads only what is committed."""
    lagging = {(row.topic, row.partition): row.committed for row in rows if row.lag and row.committed is not None}
    return holders(client, lagging)


def _holder_line(partition: TopicPartition, holder: Holder) -> str:
    if holder.name is None:
        whose = f"a transaction of producer {holder.producer_id} that no coordinator knows"
    else:
        whose = f"transaction {visible(holder.name)} (producer {holder.producer_id})"
    since = f"since {moment(holder.since_ms)} ({span(int(time.time() * 1000) - holder.since_ms)})"
    text = (
        f"{place(partition)}: readers of committed records are held at {holder.start_offset} by {whose}, open {since}"
    )
    return text if holder.name is not None else f"{text}; see kbroker transaction find-hanging"


def _as_json(
    found: Described,
    rows: Sequence[Position],
    held: Mapping[TopicPartition, Holder] = NOBODY,
    *,
    rebalances: bool = False,
) -> dict[str, Any]:
    members = None
    if found.members is not None:
        members = [
            {**each._asdict(), "partitions": [{"topic": t, "partition": p} for t, p in each.partitions]}
            for each in found.members
        ]
    partitions = []
    for row in rows:
        holder = held.get((row.topic, row.partition))
        more = {
            "member": row.member.member_id if row.member else None,
            "held_by": None if holder is None else _holder_json(holder),
        }
        partitions.append({**row._asdict(), **more})
    lag = sum(row.lag or 0 for row in rows)
    kept = {"type" if key == "kind" else key: value for key, value in found._asdict().items() if key != "timeline"}
    timeline = group_timeline.as_json(found.timeline) if rebalances else {}
    return {**kept, "members": members, "lag": lag, "partitions": partitions, **timeline}


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {"transactional_id" if name == "name" else name: value for name, value in holder._asdict().items()}


def _coordinated(client: Any, ask: Any) -> Any:
    """As patiently, for answers that name kafka-python's error instead of raising it."""
    import kafka.errors

    def raising() -> Any:
        result = ask()
        error = getattr(kafka.errors, result, None)
        if error is not None and getattr(error, "errno", 0) in COORDINATOR_MOVING:
            raise error
        return result

    return patiently(client, raising)


def _code(error_name: str) -> int:
    import kafka.errors

    return int(getattr(getattr(kafka.errors, error_name, None), "errno", -1))


def _problem(name: str, code: int) -> str:
    if code == GROUP_ID_NOT_FOUND:
        return f"group {name} does not exist"
    return f"{name}: {error_text(code)}"
