"""Metrics of the groups that this broker coordinates: members, offsets, lag, and how long partitions had no owner.

A page goes through the groups once for each metric, so that nothing of many groups is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from kbroker.api.context import Services
from kbroker.groups.group import Group
from kbroker.groups.shard import GroupShard
from kbroker.http.metrics import table
from kbroker.http.metrics.text import escaped, family, labelled, lines, single
from kbroker.http.offsets import Key, Offsets, distinct, lag_of
from kbroker.turns import Work

GROUPS_AT_ONCE = 32
OFFSETS_AT_ONCE = 32


class Position(NamedTuple):
    """Where a group is in a partition of a topic that there is."""

    group: str
    topic: str
    partition: int
    offset: int


def _shards(services: Services) -> list[GroupShard]:
    return list(services.groups.runtime.leading.active())


def _groups(services: Services) -> Iterator[Group]:
    for shard in _shards(services):
        yield from list(shard.groups.values())


def _positions(services: Services) -> Iterator[Position]:
    """Topic by topic of group by group."""
    for shard in _shards(services):
        for group in list(shard.offsets.groups()):
            for topic, partitions in list(shard.offsets.topics(group).items()):
                if topic in services.image.topics:
                    for partition, value in list(partitions.items()):
                        yield Position(group, topic, partition, value.offset)


def read_partitions(services: Services) -> Work[set[Key]]:
    """All partitions that any group has an offset of."""
    return distinct((each.topic, each.partition) for each in _positions(services))


def groups(services: Services, ends: Offsets) -> Iterator[bytes]:
    """Of all groups coordinated here. ends: of the partitions they read, as far as known."""
    yield from _of_groups(services)
    yield from lines(table.GROUP_OFFSET, (f"{_label(each)} {each.offset}" for each in _positions(services)))
    yield from lines(table.GROUP_OFFSET_SUM, _sums(services, None))
    yield from lines(table.GROUP_LAG, _lags(services, ends))
    yield from lines(table.GROUP_LAG_SUM, _sums(services, ends))
    yield from lines(table.UNOWNED, _unowned(services))


def _of_groups(services: Services) -> Iterator[bytes]:
    labels, members, states = list[str](), list[int](), Counter[tuple[str, str]]()
    rest = _groups(services)
    while some := list(islice(rest, GROUPS_AT_ONCE)):
        for group in some:
            listed = group.listing()
            states[listed.group_type, listed.group_state] += 1
            labels.append(labelled(table.GROUP_MEMBERS, group.group_id))
            members.append(group.size)
        yield b""
    yield from family(table.GROUP_MEMBERS, labels, members)
    yield from family(table.GROUPS, (labelled(table.GROUPS, *each) for each in states), states.values())
    yield single(table.NUM_GROUPS, len(labels))
    yield single(table.NUM_OFFSETS, sum(shard.offsets.count for shard in _shards(services)))


def _label(each: Position) -> str:
    return f'{{consumergroup="{escaped(each.group)}",topic="{each.topic}",partition="{each.partition}"}}'


def _lags(services: Services, ends: Offsets) -> Iterator[str]:
    for each in _positions(services):
        lag = lag_of(each.offset, ends.get((each.topic, each.partition)))
        yield "" if lag is None else f"{_label(each)} {lag}"


def _sums(services: Services, ends: Offsets | None) -> Iterator[str]:
    """Sums over a group's partitions of a topic: of offsets, or where ends are given, of lags that are known."""
    current: tuple[str, str] | None = None
    total: int | None = None
    for place, each in enumerate(_positions(services), start=1):
        if not place % OFFSETS_AT_ONCE:
            yield ""
        if (each.group, each.topic) != current:
            if current is not None and total is not None:
                yield f"{labelled(table.GROUP_LAG_SUM, *current)} {total}"
            current, total = (each.group, each.topic), None
        value = each.offset if ends is None else lag_of(each.offset, ends.get((each.topic, each.partition)))
        if value is not None:
            total = value + (total or 0)
    if current is not None and total is not None:
        yield f"{labelled(table.GROUP_LAG_SUM, *current)} {total}"


def _unowned(services: Services) -> Iterator[str]:
    for group in _groups(services):
        yield ""
        for (topic, partition), seconds in group.timeline.unowned_s().items():
            yield f"{labelled(table.UNOWNED, group.group_id, topic, partition)} {seconds:.3f}"
