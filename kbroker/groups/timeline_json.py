"""A group's rebalances as JSON, the same wherever they are told: on the command line, over HTTP. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kafka_wire.messages.rebalances import GroupRebalance, UnownedSeconds

METRIC = "kbroker_group_partition_unowned_seconds_total"
DATE_MS_MAX = 253_402_300_800_000  # the year 10000, for which there is no date


def rebalance_json(each: GroupRebalance) -> dict[str, Any]:
    """One rebalance; null for what is not known."""
    return {
        "began": date_text(each.began_ms),
        "began_ms": each.began_ms,
        "reason": each.reason,
        "generation": _known(each.generation),
        "joined_ms": _known(each.joined_ms),
        "took_ms": _known(each.took_ms),
        "awaited": [{"member_id": one.member_id, "after_ms": _known(one.after_ms)} for one in each.awaited],
        "given_up": each.given_up,
        "partitions_moved": each.partitions_moved,
        "partitions_unowned": each.partitions_unowned,
        "unowned_ms_max": each.unowned_ms_max,
        "unowned": [{"topic": one.topic, "partition": one.partition, "ms": one.ms} for one in each.unowned],
    }


def unowned_json(each: UnownedSeconds) -> dict[str, Any]:
    """A row of METRIC."""
    return {"topic": each.topic, "partition": each.partition, "seconds": round(each.seconds, 3)}


def date_text(ms: int) -> str:
    """As ISO 8601 has it, in UTC."""
    if not 0 <= ms < DATE_MS_MAX:
        return str(ms)
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _known(value: int) -> int | None:
    return None if value < 0 else value
