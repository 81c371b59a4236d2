"""`kbroker group describe --rebalances`: the last rebalances of a group, for people and for programs.

Only a kbroker tells them (messages/rebalances.py); from any other broker the group comes without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka_wire.messages.rebalances import GroupRebalance, UnownedSeconds
from kbroker.cli.tables import plural, table
from kbroker.groups.timeline_json import METRIC, date_text, rebalance_json, unowned_json

SHOWN_MAX = 10  # members or partitions of one rebalance; JSON has all that the broker tells


class Told(NamedTuple):
    """What a broker tells of a group's rebalances."""

    rebalances: Sequence[GroupRebalance]  # oldest first
    unowned_seconds: Sequence[UnownedSeconds]


def read(group: Any) -> Told | None:
    """From a described group of either kind; None when the broker tells nothing."""
    return None if group.rebalances is None else Told(group.rebalances, group.unowned_seconds)


def as_text(name: str, told: Told | None) -> str:
    """The rebalances of a group, newest first, then the totals of its partitions."""
    if told is None:
        return f"{name}: this broker keeps no timeline"
    if not told.rebalances:
        return f"{name}: no rebalance since this coordinator started"
    parts = [f"{name}: {plural(len(told.rebalances), 'rebalance')}, newest first"]
    parts += [_rebalance_text(each) for each in reversed(told.rebalances)]
    if told.unowned_seconds:
        rows = [(name, each.topic, each.partition, round(each.seconds, 3)) for each in told.unowned_seconds]
        parts.append(f"Without an owner since this coordinator started ({METRIC}):")
        parts.append(table(("GROUP", "TOPIC", "PARTITION", "SECONDS"), rows))
    return "\n".join(parts)


def as_json(told: Told | None) -> dict[str, Any]:
    """The same for programs; null where the broker tells nothing, or what is not known."""
    if told is None:
        return {"rebalances": None, METRIC: None}
    totals = [unowned_json(each) for each in told.unowned_seconds]
    return {"rebalances": [rebalance_json(each) for each in reversed(told.rebalances)], METRIC: totals}


def _rebalance_text(each: GroupRebalance) -> str:
    lines = [f"{date_text(each.began_ms)}  {_course(each)}: {each.reason}"]
    # The worst first: who has not come, then who came last.
    late = sorted(each.awaited, key=lambda one: (one.after_ms >= 0, -one.after_ms, one.member_id))
    if late:
        absent = "not yet" if each.took_ms < 0 and each.joined_ms < 0 else "did not come"
        lines.append(
            "waited for     "
            + _some(
                [f"{one.member_id} ({_seconds(one.after_ms) if one.after_ms >= 0 else absent})" for one in late],
                len(late),
            )
        )
    if each.given_up:
        lines.append("given up       " + _some(each.given_up, len(each.given_up)))
    if each.partitions_moved:
        lines.append("moved          " + plural(each.partitions_moved, "partition"))
    if each.partitions_unowned:
        longest = sorted(each.unowned, key=lambda one: (-one.ms, one.topic, one.partition))
        names = [f"{one.topic} {one.partition} ({_seconds(one.ms)})" for one in longest]
        lines.append("without owner  " + _some(names, each.partitions_unowned))
    return "\n    ".join(lines)


def _course(each: GroupRebalance) -> str:
    """How far it came."""
    if each.took_ms < 0:
        return "under way"
    if each.generation < 0:
        return f"cut short by the next after {_seconds(each.took_ms)}"
    return f"generation {each.generation} after {_seconds(each.took_ms)}"


def _some(names: Sequence[str], count: int) -> str:
    """A few of count names, and how many more there are."""
    shown = names[:SHOWN_MAX]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f} s"
