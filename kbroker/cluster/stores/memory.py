"""The coordination store in memory: for tests, simulation and several brokers in one process.

Owns a dict of entries, the feed of changes, and sessions that expire on the liveness clock of whoever made the store.
Sessions are reaped by whoever comes by: any operation, or a watcher's tick.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import trio

from kbroker.cluster.store import (
    HEARTBEAT_S,
    Batch,
    Compacted,
    Delete,
    Entry,
    Event,
    Guard,
    Op,
    Page,
    Put,
    Session,
    SessionLost,
    StoreInfo,
    TxnResult,
    check_txn,
)
from kbroker.cluster.stores.feed import Changes, Feed, follow
from kbroker.cluster.stores.session import hold
from kbroker.env import Clock

HISTORY_MAX = 100_000  # revisions
REAP_S = 0.5  # how late the end of a session may be noticed


class MemoryStore:
    """A CoordinationStore; see store.py for what its methods promise."""

    def __init__(self, clock: Clock, store_id: str = "memory", history_max: int = HISTORY_MAX) -> None:
        self._clock = clock
        self._id = store_id
        self._entries: dict[bytes, Entry] = {}
        self._keys: list[bytes] = []  # of them, sorted
        self._feed = Feed(0, history_max)
        self._compacted = 0
        self._leases: dict[int, tuple[float, float]] = {}  # id -> (TTL, end on the liveness clock)
        self._leases_made = 0

    @property
    def revision(self) -> int:
        """The latest."""
        return self._feed.last

    def peek(self, key: bytes) -> Entry | None:
        """The key as of this moment; for who looks from outside, so sessions that are over are not ended by it."""
        return self._entries.get(key)

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        await trio.lowlevel.checkpoint()
        self._reap()
        return self._entries.get(key)

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore. Knows the past only where the prefix has not changed since."""
        await trio.lowlevel.checkpoint()
        self._reap()
        if revision:
            self._check_unchanged(prefix, revision)
        start = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        keys = [key for key in self._keys[start : start + limit + 1] if key.startswith(prefix)]
        entries = [self._entries[key] for key in keys[:limit]]
        if keys_only:
            entries = [entry._replace(value=b"") for entry in entries]
        return Page(entries, revision or self._feed.last, len(keys) > limit)

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""
        check_txn(guards, ops)
        await trio.lowlevel.checkpoint()
        self._reap()
        for key, mod_revision in guards:
            entry = self._entries.get(key)
            if (entry.mod_revision if entry else 0) != mod_revision:
                return TxnResult(False, self._feed.last)
        self._check_leases(ops)
        if ops:
            self._apply(ops)
        return TxnResult(True, self._feed.last)

    @asynccontextmanager
    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See CoordinationStore."""
        async with aclosing(follow(self._feed, prefix, from_revision, self._past, self._tick)) as batches:
            yield batches

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """See CoordinationStore."""
        return hold(self, self._clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        """See CoordinationStore."""
        await trio.lowlevel.checkpoint()
        self._compacted = max(self._compacted, min(before_revision, self._feed.last + 1))
        self._feed.forget(self._compacted)

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        await trio.lowlevel.checkpoint()
        return StoreInfo(self._id, "memory", "1", self._feed.last)

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        await trio.lowlevel.checkpoint()
        self._reap()
        self._leases_made += 1
        self._leases[self._leases_made] = (ttl_s, self._clock.liveness() + ttl_s)
        return self._leases_made

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor."""
        await trio.lowlevel.checkpoint()
        self._reap()
        if lease not in self._leases:
            return False
        ttl_s, _ = self._leases[lease]
        self._leases[lease] = (ttl_s, self._clock.liveness() + ttl_s)
        return True

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        await trio.lowlevel.checkpoint()
        self._end(lease)

    def _apply(self, ops: Sequence[Op]) -> None:
        revision = self._feed.last + 1
        events = []
        for op in ops:
            if isinstance(op, Put):
                if op.key not in self._entries:
                    insort(self._keys, op.key)
                self._entries[op.key] = Entry(op.key, op.value, revision, op.lease)
                events.append(Event(op.key, op.value, revision))
            elif self._entries.pop(op.key, None):
                del self._keys[bisect_left(self._keys, op.key)]
                events.append(Event(op.key, None, revision))
        self._feed.append(revision, tuple(events))

    def _check_leases(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise SessionLost(f"session {op.lease} has ended")

    def _check_unchanged(self, prefix: bytes, revision: int) -> None:
        if not self._feed.first - 1 <= revision <= self._feed.last:
            raise Compacted(self._feed.last)
        while revision < self._feed.last:
            changes = self._feed.since(revision + 1) or []
            if any(event.key.startswith(prefix) for _, events in changes for event in events):
                raise Compacted(self._feed.last)
            revision += len(changes)

    def _reap(self) -> None:
        now = self._clock.liveness()
        for lease in [lease for lease, (_, end) in self._leases.items() if end <= now]:
            self._end(lease)

    def _end(self, lease: int) -> None:
        self._leases.pop(lease, None)
        owned = [entry.key for entry in self._entries.values() if entry.lease == lease]
        if owned:
            self._apply([Delete(key) for key in owned])

    async def _tick(self) -> float:
        await trio.lowlevel.checkpoint()
        self._reap()
        return REAP_S if self._leases else HEARTBEAT_S

    async def _past(self, revision: int) -> Changes:
        await trio.lowlevel.checkpoint()
        raise Compacted(self._feed.first)
