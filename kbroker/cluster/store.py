"""The coordination store: what kbroker demands of etcd, of one SQLite file, of memory. Seven methods.

A store maps keys to values (bytes). Every successful transaction raises one global revision by one; a key remembers
the revision that last wrote it (`mod_revision`), and a transaction is guarded by those: all guards hold and all
operations happen, or nothing happens. A watch replays changes by revision. A session owns keys, which go with it.

    revision   40            41                    42
               put a         put b, delete c       put a          one txn = one revision = never split in a batch
               └ a.mod=40                          └ a.mod=42

Epochs never derive from revisions: those restart after a restore. `mod_revision` is a token for guards, nothing else.
Every transaction guards each key it writes, so that repeating it after a lost reply is safe (`Ambiguous`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeAlias

import trio

GUARDS_MAX = 100
OPS_MAX = 100
HEARTBEAT_S = 5.0  # a watch yields at least this often, if only an empty batch


class Entry(NamedTuple):
    """A key as it stands."""

    key: bytes
    value: bytes  # b"" when only keys were asked for
    mod_revision: int
    lease: int = 0  # id of the session that owns the key, 0 for none


class Page(NamedTuple):
    """Part of a range, in key order."""

    entries: list[Entry]
    revision: int  # the store's, at the moment of reading
    more: bool  # go on with after=entries[-1].key, revision=page.revision


class Guard(NamedTuple):
    """Demands that key was last written by mod_revision; 0 demands that it is absent."""

    key: bytes
    mod_revision: int


class Put(NamedTuple):
    """Write a key; a lease makes it go with that session. A put without one takes the key out of any session."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Remove a key; an absent one is fine."""

    key: bytes


Op: TypeAlias = "Put | Delete"


class TxnResult(NamedTuple):
    """Whether the guards held, and the store's revision afterwards (the transaction's own, when they did)."""

    succeeded: bool
    revision: int


class Event(NamedTuple):
    """One change of one key."""

    key: bytes
    value: bytes | None  # None: deleted
    mod_revision: int


class Batch(NamedTuple):
    """Whole revisions in order; everything up to and including revision is told. Empty: a sign of life."""

    revision: int
    events: tuple[Event, ...]


class StoreInfo(NamedTuple):
    """What store this is. The id is the store's own: another id behind the same address is another store."""

    id: str
    engine: str  # "memory", "sqlite", "etcd"
    version: str
    revision: int
    guards_max: int = GUARDS_MAX
    ops_max: int = OPS_MAX


class StoreError(Exception):
    """The store's fault, not the caller's."""


class Unavailable(StoreError):
    """The request had no effect (busy, full, unreachable). May be repeated."""


class Unreachable(Unavailable):
    """Nobody answers, for reasons that may pass by themselves."""


class Ambiguous(StoreError):
    """The reply is lost: the transaction happened, or not. Repeat it; if a guard fails, read and compare."""


class Compacted(StoreError):
    """The revision asked for is gone. Range again, compare, watch from the page's revision + 1."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted up to revision {revision}")
        self.revision = revision


class SessionLost(StoreError):
    """A put names a session that has ended."""


class Session(Protocol):
    """The right to own keys, for as long as keepalives succeed. They are sent from the event loop, never a thread."""

    id: int
    lost: trio.Event  # set once, when the store has ended the session

    @property
    def valid_until(self) -> float:
        """Liveness clock: when the last successful keepalive was sent + TTL.

        Before it, nobody else can own what this session owns. Past it that is not known until a keepalive succeeds or
        the session is lost.
        """


class CoordinationStore(Protocol):
    """The contract; tests/cluster/stores/test_conformance.py holds every engine to it.

    Any method may raise Unavailable, and each answers or fails within some seconds, whatever the store is doing.
    """

    async def get(self, key: bytes) -> Entry | None:
        """The key as of now (linearizable)."""

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """The keys that begin with prefix and are greater than after, in order.

        Args:
            prefix: b"" for all.
            after: the last key of the page before.
            limit: entries in a page, at most.
            revision: as of this revision, 0 for now. An engine need not know the past: it may raise Compacted
                when the prefix has changed since.
            keys_only: leave the values out.
        """

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """All or nothing, one revision. At most GUARDS_MAX guards and OPS_MAX ops; each written key once, and guarded.

        Raises ValueError against these rules, SessionLost for a dead lease, Ambiguous when the reply is lost.
        Without ops it only checks the guards.
        """

    def watch(self, prefix: bytes, from_revision: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Batches of the changes with revision >= from_revision under prefix, first to last, without duplicates.

        Iterating raises Compacted when from_revision is gone, or the watcher fell too far behind.
        """

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        """A session kept alive while the block runs, and revoked (its keys deleted) when it ends."""

    async def compact(self, before_revision: int) -> None:
        """Forget the history before this revision, or all but the last of it. For the controller only."""

    async def info(self) -> StoreInfo:
        """What store this is, and its revision."""


def check_txn(guards: Sequence[Guard], ops: Sequence[Op]) -> None:
    """Raise ValueError for a transaction against the contract."""
    if len(guards) > GUARDS_MAX or len(ops) > OPS_MAX:
        raise ValueError(f"{len(guards)} guards and {len(ops)} ops: at most {GUARDS_MAX} and {OPS_MAX}")
    guarded = {guard.key for guard in guards}
    written = {op.key for op in ops}
    if len(guarded) != len(guards) or len(written) != len(ops):
        raise ValueError("a key twice in one transaction")
    if not written <= guarded:
        raise ValueError(f"written without a guard: {min(written - guarded)!r}")


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key greater than all that begin with prefix; None when there is none (b"", b"\\xff")."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


async def load(store: CoordinationStore, prefix: bytes, page_entries: int = 5_000) -> Page:
    """Everything under prefix at one revision, as one page; starts over with larger pages when the store moved on.

    Raises Unavailable when it does so too often.
    """
    for attempt in range(8):
        limit = page_entries << attempt
        page = await store.range(prefix, limit=limit)
        entries = page.entries
        try:
            while page.more:
                page = await store.range(prefix, after=entries[-1].key, limit=limit, revision=page.revision)
                entries += page.entries
            return Page(entries, page.revision, False)
        except Compacted:
            continue
    raise Unavailable(f"{prefix!r} changes faster than it can be read")
