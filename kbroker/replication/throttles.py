"""Replication throttles (KIP-73): room for clients while replicas that are not in sync yet are filled.

A broker has two, for what it sends as a leader and for what it fetches as a follower: a rate in bytes per second, by a
dynamic config of the broker, over the replicas that a config of each topic names. All bytes of these replicas count;
but only those that are not in sync are held back, so that no throttle takes anybody out of sync.

    record(bytes) ─▶ owed ── drains at the rate ──▶ 0: not exceeded

(Kafka: ReplicationQuotaManager, which measures over eleven seconds.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from kbroker.config.keys import LONG_MAX

ALL = "*"


class Throttle:
    """One direction of one broker."""

    __slots__ = ("_rate", "_now_s", "_owed", "_since_s")

    def __init__(self, rate: Callable[[], int], now_s: Callable[[], float]) -> None:
        """rate: bytes per second, as it is configured now. now_s: liveness clock."""
        self._rate = rate
        self._now_s = now_s
        self._owed = 0.0  # bytes, since
        self._since_s = 0.0

    @property
    def is_set(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate() < LONG_MAX

    def record(self, count: int) -> None:
        """So many bytes of throttled replicas were moved."""
        self._drain()
        self._owed += count

    def wait_s(self) -> float:
        """How long nothing more should be moved; 0 when it may."""
        if not self.is_set:
            return 0.0
        self._drain()
        return self._owed / max(self._rate(), 1) if self._owed >= 1 else 0.0

    def _drain(self) -> None:
        now_s = self._now_s()
        self._owed = max(0.0, self._owed - (now_s - self._since_s) * self._rate())
        self._since_s = now_s


def is_throttled(replicas: str, index: int, broker_id: int) -> bool:
    """Whether a topic's config, `*` or a list of PARTITION:BROKER, names a replica."""
    return bool(replicas) and (replicas == ALL or (index, broker_id) in _named(replicas))


@lru_cache(maxsize=64)
def _named(replicas: str) -> frozenset[tuple[int, int]]:
    pairs = (pair.split(":") for pair in replicas.split(","))
    return frozenset((int(index), int(broker)) for index, broker in pairs)
