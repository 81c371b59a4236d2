"""What a set of in-sync replicas means, as pure arithmetic: high watermark and permission to acknowledge.

The maximal ISR is the ISR the cluster has agreed on, joined with the one this leader has proposed and not yet heard
about (R5): a lost answer is not a failure, so nothing may count on the smaller set. The high watermark is the smallest
log end among its members, and never falls within a leader epoch (R1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def maximal(agreed: Iterable[int], proposed: Iterable[int] = ()) -> frozenset[int]:
    """Every broker that may be in the ISR: the agreed members and those of a proposal still under way (KIP-497)."""
    return frozenset(agreed) | frozenset(proposed)


def high_watermark(members: Iterable[int], ends: Mapping[int, int], current: int) -> int:
    """The offset below which every member has every record, never lower than current.

    Args:
        members: broker ids of the maximal ISR.
        ends: broker id -> log end offset this leader knows of; a member never heard from counts as 0.
        current: the high watermark so far.
    """
    return max(current, min((ends.get(member, 0) for member in members), default=current))


def effective_min(min_insync_replicas: int, replicas: int) -> int:
    """How many must be in sync: a partition of fewer replicas can do with all it has (Kafka: effectiveMinIsr)."""
    return min(min_insync_replicas, replicas)


def may_acknowledge(agreed: Iterable[int], min_insync_replicas: int) -> bool:
    """Whether acks=all may succeed: enough agreed members (R6)."""
    return len(frozenset(agreed)) >= min_insync_replicas
