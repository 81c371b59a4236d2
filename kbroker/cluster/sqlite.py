"""The coordination store in one SQLite file: the embedded default, for one broker or several processes of a machine.

    meta    name -> value: store id, revision, compacted, boot id
    kv      key -> value, mod (revision), lease
    log     revision -> its events, packed: (key length u32, value length i32 or -1 for deleted, key, value)...
    lease   id -> TTL, end on the machine's monotonic clock (seconds), owner (which open store)

WAL with synchronous=FULL: what a transaction answered survives kill -9 and power loss. Transactions that arrive
together share one commit and one fsync, each with its own revision. Keepalives are not fsynced: after a power loss
the boot id has changed, and every session is over anyway.

One piece of work at a time runs on a worker thread (env.offload), never the event loop. Changes of this process are
fed to its watchers directly; those of other processes are found with the next piece of work, or by polling: often
while another process has a session here, rarely otherwise. The file is created with mode 0600 and must lie on a local
disk.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from kbroker.cluster.feed import REVISIONS_MAX, Changes, Feed, follow
from kbroker.cluster.session import hold
from kbroker.cluster.store import (
    Ambiguous,
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
    StoreError,
    StoreInfo,
    TxnResult,
    Unavailable,
    check_txn,
    prefix_end,
)
from kbroker.env import Clock, Offload

T = TypeVar("T")

POLL_ALONE_S = 0.5  # how often to look for another process's changes while none is known to live
POLL_SHARED_S = 0.05
BUSY_S = 5.0  # wait for another process's transaction, at most
COMMITS_MAX = 64  # transactions that share an fsync
RECENT_MAX = 4_096  # revisions kept in memory for watchers; older ones come from the file

SCHEMA = """
create table if not exists meta(name text primary key, value) without rowid;
create table if not exists kv(key blob primary key, value blob not null, mod integer not null, lease integer not null)
    without rowid;
create index if not exists kv_lease on kv(lease) where lease <> 0;
create table if not exists log(revision integer primary key, events blob not null);
create table if not exists lease(id integer primary key autoincrement, ttl real not null, ends real not null,
    owner text not null);
insert or ignore into meta values ('id', lower(hex(randomblob(16)))), ('revision', 0), ('compacted', 0), ('boot', '');
"""
UPSERT = """insert into kv values (?, ?, ?, ?)
    on conflict(key) do update set value = excluded.value, mod = excluded.mod, lease = excluded.lease"""
# Sessions that have ended; what ends later than a TTL from now was written on another clock.
OVER = "ends <= ? or ends > ? + ttl"


@asynccontextmanager
async def open_sqlite(
    path: str, *, clock: Clock, offload: Offload, boot_id: str = "", poll_s: float = POLL_ALONE_S
) -> AsyncIterator[SqliteStore]:
    """The store in the file at path (created with mode 0600 when absent), open while the block runs.

    Args:
        path: of the operating system, on a local disk.
        clock: its liveness clock must be the machine's, the same in all processes that share the file.
        offload: a worker thread.
        boot_id: this run of the operating system; "" when unknown.
        poll_s: how often, in seconds, to look for changes by other processes while none is known to live.

    Raises Unavailable when the file cannot be opened or is not a store.
    """

    def connect() -> SqliteStore:
        Path(path).touch(mode=0o600)
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            store = SqliteStore(db, clock, offload, boot_id, poll_s)
            store._prepare()
        except BaseException:
            db.close()
            raise
        return store

    store = await offload(lambda: _translated(connect))
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            async with store._turn:
                await offload(store._db.close)


class _Job:
    """A transaction on its way."""

    __slots__ = ("guards", "ops", "outcome")

    def __init__(self, guards: Sequence[Guard], ops: Sequence[Op]) -> None:
        self.guards = guards
        self.ops = ops
        self.outcome: TxnResult | StoreError | None = None


class SqliteStore:
    """A CoordinationStore; see store.py for what its methods promise. Made by `open_sqlite`."""

    def __init__(self, db: sqlite3.Connection, clock: Clock, offload: Offload, boot_id: str, poll_s: float) -> None:
        self._db = db
        self._clock = clock
        self._offload = offload
        self._boot_id = boot_id
        self._poll_alone_s = poll_s
        self._poll_shared_s = min(poll_s, POLL_SHARED_S)
        self._turn = trio.Lock()
        self._waiting: list[_Job] = []  # bounded by the callers, each of whom waits for one
        self._feed = Feed(0, RECENT_MAX)
        # Only the thread whose turn it is touches what follows.
        self._id = ""
        self._owner = ""
        self._wal_synced = True

    async def get(self, key: bytes) -> Entry | None:
        """See CoordinationStore."""
        row = await self._run(lambda: self._db.execute("select * from kv where key = ?", (key,)).fetchone())
        return Entry(*row) if row else None

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """See CoordinationStore. Knows the past only where the prefix has not changed since."""
        return await self._run(lambda: self._range(prefix, after, limit, revision, keys_only))

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        """See CoordinationStore."""
        check_txn(guards, ops)
        job = _Job(guards, ops)
        self._waiting.append(job)
        try:
            async with self._turn:
                if job.outcome is None:
                    await self._commit_waiting()
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
        if isinstance(job.outcome, StoreError):
            raise job.outcome
        assert job.outcome is not None
        return job.outcome

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
        self._feed.forget(await self._run(lambda: self._compact(before_revision)))

    async def info(self) -> StoreInfo:
        """See CoordinationStore."""
        revision = await self._run(lambda: self._meta("revision"))
        return StoreInfo(self._id, "sqlite", sqlite3.sqlite_version, revision)

    async def grant(self, ttl_s: float) -> int:
        """See session.Lessor."""
        return await self._run(lambda: self._grant(ttl_s))

    async def refresh(self, lease: int) -> bool:
        """See session.Lessor."""
        return await self._run(lambda: self._refresh(lease))

    async def revoke(self, lease: int) -> None:
        """See session.Lessor."""
        await self._run(lambda: self._revoke(lease))

    async def _run(self, work: Callable[[], T]) -> T:
        """Do work on the worker thread when it is our turn, then tell the watchers what is new."""
        async with self._turn:
            return await self._work(work)

    async def _work(self, work: Callable[[], T]) -> T:
        with trio.CancelScope(shield=True):  # a thread does not stop half-way; it is bounded by BUSY_S and the disk
            value, (changes, last) = await self._offload(lambda: (_translated(work), self._news()))
        for revision, events in changes:
            if revision > self._feed.last + 1:
                self._feed.skip_to(revision - 1)
            self._feed.append(revision, events)
        if last > self._feed.last:
            self._feed.skip_to(last)
        return value

    async def _commit_waiting(self) -> None:
        jobs = self._waiting[:COMMITS_MAX]
        del self._waiting[:COMMITS_MAX]
        try:
            await self._work(lambda: self._commit(jobs))
        except StoreError as error:
            for job in jobs:
                if not isinstance(job.outcome, StoreError):
                    job.outcome = error

    async def _tick(self) -> float:
        return await self._run(self._poll)

    async def _past(self, revision: int) -> Changes:
        return await self._run(lambda: self._history(revision))

    # From here on: in the worker.

    def _prepare(self) -> None:
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(f"begin immediate; {SCHEMA} commit")
        self._id = self._meta("id")
        (self._owner,) = self._db.execute("select lower(hex(randomblob(8)))").fetchone()
        with self._transaction():
            if self._meta("boot") != self._boot_id:
                self._db.execute("update lease set ends = -1")
                self._set_meta("boot", self._boot_id)
            self._reap()
        self._feed.last = self._meta("revision")

    def _meta(self, name: str) -> Any:
        return self._db.execute("select value from meta where name = ?", (name,)).fetchone()[0]

    def _set_meta(self, name: str, value: int | str) -> None:
        self._db.execute("update meta set value = ? where name = ?", (value, name))

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """BEGIN IMMEDIATE .. COMMIT. Raises Ambiguous when COMMIT itself fails, Unavailable before."""
        if durable != self._wal_synced:
            self._db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._wal_synced = durable
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                self._db.execute("rollback")
            raise
        try:
            self._db.execute("commit")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise Ambiguous(f"commit failed: {error}") from error

    def _commit(self, jobs: list[_Job]) -> None:
        with self._transaction():
            self._reap()
            first = revision = self._meta("revision")
            for job in jobs:
                job.outcome = self._try(job, revision)
                if isinstance(job.outcome, TxnResult):
                    revision = job.outcome.revision
            if revision != first:
                self._set_meta("revision", revision)

    def _try(self, job: _Job, revision: int) -> TxnResult | StoreError:
        """Do one transaction inside the open one, if its guards hold and its sessions live."""
        for key, mod in job.guards:
            row = self._db.execute("select mod from kv where key = ?", (key,)).fetchone()
            if (row[0] if row else 0) != mod:
                return TxnResult(False, revision)
        for lease in {op.lease for op in job.ops if isinstance(op, Put) and op.lease}:
            if not self._lives(lease):
                return SessionLost(f"session {lease} has ended")
        if not job.ops:
            return TxnResult(True, revision)
        self._apply(job.ops, revision + 1)
        return TxnResult(True, revision + 1)

    def _apply(self, ops: Sequence[Op], revision: int) -> None:
        puts = [op for op in ops if isinstance(op, Put)]
        packed = [PACK(len(op.key), len(op.value)) + op.key + op.value for op in puts]
        self._db.executemany(UPSERT, [(op.key, op.value, revision, op.lease) for op in puts])
        for op in ops:
            if isinstance(op, Delete) and self._db.execute("delete from kv where key = ?", (op.key,)).rowcount:
                packed.append(PACK(len(op.key), -1) + op.key)
        self._db.execute("insert into log values (?, ?)", (revision, b"".join(packed)))

    def _range(self, prefix: bytes, after: bytes, limit: int, revision: int, keys_only: bool) -> Page:
        self._db.execute("begin")
        try:
            now: int = self._meta("revision")
            if revision and revision != now:
                self._check_unchanged(prefix, revision, now)
            columns = "key, x'', mod, lease" if keys_only else "*"
            end = prefix_end(prefix)
            bound = "and key < ?" if end else ""
            rows = self._db.execute(
                f"select {columns} from kv where key >= ? and key > ? {bound} order by key limit ?",
                (prefix, after, *([end] if end else []), limit + 1),
            ).fetchall()
        finally:
            self._db.execute("rollback")
        return Page([Entry(*row) for row in rows[:limit]], revision or now, len(rows) > limit)

    def _check_unchanged(self, prefix: bytes, revision: int, now: int) -> None:
        if revision > now or revision + 1 < self._meta("compacted"):
            raise Compacted(now)
        for (packed,) in self._db.execute("select events from log where revision > ?", (revision,)):
            if any(event.key.startswith(prefix) for event in unpack(packed, 0)):
                raise Compacted(now)

    def _compact(self, before: int) -> int:
        with self._transaction(durable=False):
            before = min(before, self._meta("revision") + 1)
            if before > self._meta("compacted"):
                self._set_meta("compacted", before)
                self._db.execute("delete from log where revision < ?", (before,))
        return before

    def _lives(self, lease: int) -> bool:
        now = self._clock.liveness()
        query = f"select 1 from lease where id = ? and not ({OVER})"
        return self._db.execute(query, (lease, now, now)).fetchone() is not None

    def _grant(self, ttl_s: float) -> int:
        with self._transaction(durable=False):
            self._reap()
            row = (ttl_s, self._clock.liveness() + ttl_s, self._owner)
            lease = self._db.execute("insert into lease(ttl, ends, owner) values (?, ?, ?)", row).lastrowid
        assert lease is not None
        return lease

    def _refresh(self, lease: int) -> bool:
        now = self._clock.liveness()
        with self._transaction(durable=False):
            query = f"update lease set ends = ? + ttl where id = ? and not ({OVER})"
            return self._db.execute(query, (now, lease, now, now)).rowcount == 1

    def _revoke(self, lease: int) -> None:
        with self._transaction():
            self._db.execute("update lease set ends = -1 where id = ?", (lease,))
            self._reap()

    def _reap(self) -> None:
        """Inside a transaction: end the sessions that are over, each in a revision of its own."""
        now = self._clock.liveness()
        for (lease,) in self._db.execute(f"select id from lease where {OVER}", (now, now)).fetchall():
            owned = self._db.execute("select key from kv where lease = ?", (lease,)).fetchall()
            if owned:
                revision = self._meta("revision") + 1
                self._apply([Delete(key) for (key,) in owned], revision)
                self._set_meta("revision", revision)
            self._db.execute("delete from lease where id = ?", (lease,))

    def _poll(self) -> float:
        """End sessions that are over and see who else is here; answers when to look again."""
        now = self._clock.liveness()
        over, others = self._db.execute(
            f"select count(case when {OVER} then 1 end), count(case when owner <> ? then 1 end) from lease",
            (now, now, self._owner),
        ).fetchone()
        if over:
            with self._transaction():
                self._reap()
        return self._poll_shared_s if others else self._poll_alone_s

    def _news(self) -> tuple[Changes, int]:
        """What the watchers of this process do not know yet, and the store's revision.

        A failure here is not the failure of the work before it: the next piece of work will find the news.
        """
        known = self._feed.last
        try:
            last: int = self._meta("revision")
            if last == known or last - known > RECENT_MAX:
                return [], last
            return self._read_log(known + 1, RECENT_MAX), last
        except sqlite3.Error:
            return [], known

    def _read_log(self, revision: int, revisions_max: int) -> Changes:
        query = "select revision, events from log where revision >= ? order by revision limit ?"
        rows = self._db.execute(query, (revision, revisions_max)).fetchall()
        return [(row_revision, tuple(unpack(packed, row_revision))) for row_revision, packed in rows]

    def _history(self, revision: int) -> Changes:
        compacted: int = self._meta("compacted")
        if revision < compacted:
            raise Compacted(compacted)
        return self._read_log(revision, REVISIONS_MAX)


_LENGTHS = struct.Struct("<Ii")
PACK = _LENGTHS.pack


def unpack(packed: bytes, revision: int) -> Iterator[Event]:
    """The events of a log row."""
    position = 0
    while position < len(packed):
        key_length, value_length = _LENGTHS.unpack_from(packed, position)
        position += _LENGTHS.size
        key = packed[position : position + key_length]
        position += key_length
        if value_length < 0:
            yield Event(key, None, revision)
        else:
            yield Event(key, packed[position : position + value_length], revision)
            position += value_length


def _translated(work: Callable[[], T]) -> T:
    """Do work; SQLite's and the system's errors become Unavailable."""
    try:
        return work()
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(str(error)) from error
