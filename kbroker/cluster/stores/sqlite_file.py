"""The file of the SQLite store: what lies in it, and how it changes. Everything here blocks, on one thread at a time.

    meta    name -> value: store id, revision, compacted; boot: whose clock the ends of sessions are of
    kv      key -> value, mod (revision), lease (session that owns it, or 0)
    log     revision -> its events, packed: (key length u32, value length i32 or -1 for deleted, key, value)...
    session id -> TTL, owner (which open store); when it ends is in a file of its own: heartbeats.py

WAL with synchronous=FULL: what a transaction answered survives kill -9 and power loss. Beginning and prolonging a
session is not fsynced: after a power loss the boot id has changed, and every session is over anyway.

The file says that it is a store, and of which version; another program's, a later version's and a damaged one are
refused as they are.

A file that is moved, deleted or replaced while it is open is changed no more: others would not see that, and nobody
after a restart.

For transactions on a full disk there is a reserve, free pages in the file and room in the WAL: enough to delete topics,
or to change how much of them is kept. The files are created with mode 0600 and must lie on a local disk.
"""

from __future__ import annotations

import errno
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from kbroker.cluster.store import (
    Ambiguous,
    Compacted,
    Delete,
    Entry,
    Event,
    Guard,
    Op,
    Put,
    SessionLost,
    StoreError,
    TxnResult,
    Unavailable,
)
from kbroker.cluster.stores.bell import Bell
from kbroker.cluster.stores.feed import REVISIONS_MAX, Changes
from kbroker.cluster.stores.heartbeats import Heartbeat, Heartbeats
from kbroker.env import Clock

T = TypeVar("T")
Txn: TypeAlias = tuple[Sequence[Guard], Sequence[Op]]

BUSY_S = 5.0  # wait for another process's transaction, at most
WAL_TRIES_MAX = 20  # as many processes may open a new file at once
RECENT_MAX = 4_096  # revisions told at once; who is further behind reads the history
RESERVE_BYTES = 256 * 1024

APPLICATION_ID = 0x6B62726B  # "kbrk", where SQLite keeps whose file it is
VERSION = 1
SCHEMA = (
    "create table meta(name text primary key, value) without rowid",
    "create table kv(key blob primary key, value blob not null, mod integer not null, lease integer not null)"
    " without rowid",
    "create index kv_lease on kv(lease) where lease <> 0",
    "create table log(revision integer primary key, events blob not null)",
    "create table session(id integer primary key autoincrement, ttl real not null, owner text not null)",
    "insert into meta values ('id', lower(hex(randomblob(16)))), ('revision', 0), ('compacted', 0)",
    f"pragma application_id = {APPLICATION_ID}",
    f"pragma user_version = {VERSION}",
)
UPSERT = """insert into kv values (?, ?, ?, ?)
    on conflict(key) do update set value = excluded.value, mod = excluded.mod, lease = excluded.lease"""


class SqliteFile:
    """The store's file, open."""

    def __init__(self, path: str, clock: Clock, beating: Collection[int]) -> None:
        """Opens the file at path, which is created when absent.

        Args:
            path: of the operating system.
            clock: its liveness clock is the one sessions are measured by.
            beating: sessions whose keepalive is on its way: not over, however late it is.

        Raises sqlite3.Error, OSError, StoreError.
        """
        self._clock = clock
        self._beating = beating
        self._wal_synced = True
        self._path = Path(path)
        self._path.touch(mode=0o600)
        self._inode = self._path.stat().st_ino
        self._heartbeats = Heartbeats(f"{path}-sessions")
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        (self._owner,) = self._db.execute("select lower(hex(randomblob(8)))").fetchone()
        self.bell = Bell(f"{path}-bell", bytes.fromhex(self._owner))  # its ear is the event loop's
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._turn_to_wal()
        self._db.execute("pragma synchronous = full")
        with self._transaction():
            if not self._is_ours():
                for sql in SCHEMA:
                    self._db.execute(sql)
        (told,) = self._db.execute("pragma quick_check(1)").fetchone()
        if told != "ok":
            raise Unavailable(f"it is damaged: {told.splitlines()[-1]}")
        self.id = self._meta("id")
        self._make_reserve()

    def _turn_to_wal(self) -> None:
        """Two who do that at once, with a new file, would wait for each other: SQLite refuses one without any wait."""
        for left in reversed(range(WAL_TRIES_MAX)):
            try:
                self._db.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if not (left and is_busy(error)):
                    raise
            self._db.execute("begin exclusive")  # waits until the other is done
            self._db.execute("commit")

    def foreign(self, boot_id: str) -> dict[int, float]:
        """Sessions that began under another boot, of this machine or not, with their ends.

        The ends are of another clock: only by its keepalives it shows whether a session lives.
        """
        if self._meta("boot") == boot_id:
            return {}
        return {session: self._heartbeats.end_of(session) for session, _ in self._sessions()}

    def take_over(self, boot_id: str) -> int:
        """End the sessions that are over, and all of another boot; the revision."""
        with self._transaction():
            if self._meta("boot") != boot_id:
                for session, _ in self._sessions():
                    self._end(session)
                self._set_meta("boot", boot_id)
            self._reap()
            return self.revision

    def _is_ours(self) -> bool:
        """Whether there is a store; False for a new file. Raises Unavailable for what is something else."""
        application, version, tables = (
            self._db.execute(sql).fetchone()[0]
            for sql in ("pragma application_id", "pragma user_version", "select count(*) from sqlite_master")
        )
        if (application, version, tables) == (0, 0, 0):
            return False
        if application != APPLICATION_ID:
            raise Unavailable("it is the database of another program")
        if version != VERSION:
            raise Unavailable(f"it has version {version}: another kbroker wrote it, this one knows {VERSION}")
        return True

    def close(self) -> None:
        """Close the files; idempotent."""
        self._heartbeats.close()
        self.bell.close()
        self._db.close()

    def do(self, work: Callable[[], T]) -> T:
        """Do work on this file, with the help of the reserve where the disk is full.

        Raises StoreError, also for SQLite's and the system's errors.
        """
        try:
            self._check_place()
            try:
                return work()
            except sqlite3.Error as error:
                if not is_full(error):
                    raise
                self._db.execute("pragma wal_checkpoint(restart)")  # the WAL begins anew, in the room it has
                return work()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(str(error)) from error

    def _check_place(self) -> None:
        """Raise Unavailable where another file has this one's place, or none: what is changed here nobody will find."""
        try:
            is_in_place = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_in_place = False
        if not is_in_place:
            raise Unavailable(
                f"{self._path} was moved, deleted or replaced while it was in use: put it back, or restart all brokers"
            )

    def get(self, key: bytes) -> Entry | None:
        """A key as it stands."""
        row = self._db.execute("select * from kv where key = ?", (key,)).fetchone()
        return Entry(*row) if row else None

    def _make_reserve(self) -> None:
        """Write something large and delete it: its pages stay in the file, free, and the WAL keeps its size."""
        try:
            for sql in (
                f"insert or replace into meta values ('reserve', zeroblob({RESERVE_BYTES}))",
                "delete from meta where name = 'reserve'",
            ):
                with self._transaction(durable=False):
                    self._db.execute(sql)
            self._db.execute("pragma wal_checkpoint(restart)")
        except (StoreError, sqlite3.Error):
            pass  # no room for one, or another process is reading: what there is will do

    def _meta(self, name: str) -> Any:
        return meta(self._db, name)

    @property
    def revision(self) -> int:
        """The latest."""
        revision: int = self._meta("revision")
        return revision

    def _set_meta(self, name: str, value: int | str) -> None:
        self._db.execute("insert or replace into meta values (?, ?)", (name, value))

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """BEGIN IMMEDIATE .. COMMIT. Raises Ambiguous when COMMIT itself fails, sqlite3.Error when nothing happened."""
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
            if is_full(error):
                raise
            raise Ambiguous(f"commit failed: {error}") from error
        self.bell.ring()

    def commit(self, txns: Sequence[Txn]) -> list[TxnResult | StoreError]:
        """Do transactions that share a commit; what came of each."""
        outcomes: list[TxnResult | StoreError] = []
        with self._transaction():
            self._reap()
            first = revision = self.revision
            for guards, ops in txns:
                outcome = self._try(guards, ops, revision)
                outcomes.append(outcome)
                if isinstance(outcome, TxnResult):
                    revision = outcome.revision
            if revision != first:
                self._set_meta("revision", revision)
        return outcomes

    def _try(self, guards: Sequence[Guard], ops: Sequence[Op], revision: int) -> TxnResult | StoreError:
        """Do one transaction inside the open one, if its guards hold and its sessions live."""
        for key, mod in guards:
            row = self._db.execute("select mod from kv where key = ?", (key,)).fetchone()
            if (row[0] if row else 0) != mod:
                return TxnResult(False, revision)
        for lease in {op.lease for op in ops if isinstance(op, Put) and op.lease}:
            if not self._lives(lease):
                return SessionLost(f"session {lease} has ended")
        if not ops:
            return TxnResult(True, revision)
        self._apply(ops, revision + 1)
        return TxnResult(True, revision + 1)

    def _apply(self, ops: Sequence[Op], revision: int) -> None:
        puts = [op for op in ops if isinstance(op, Put)]
        packed = [PACK(len(op.key), len(op.value)) + op.key + op.value for op in puts]
        self._db.executemany(UPSERT, [(op.key, op.value, revision, op.lease) for op in puts])
        for op in ops:
            if isinstance(op, Delete) and self._db.execute("delete from kv where key = ?", (op.key,)).rowcount:
                packed.append(PACK(len(op.key), -1) + op.key)
        self._db.execute("insert into log values (?, ?)", (revision, b"".join(packed)))

    def compact(self, before: int) -> int:
        """Forget what is older; the oldest revision that is left."""
        with self._transaction(durable=False):
            before = min(before, self.revision + 1)
            if before > self._meta("compacted"):
                self._set_meta("compacted", before)
                self._db.execute("delete from log where revision < ?", (before,))
        return before

    def _sessions(self) -> list[tuple[int, float]]:
        """Id and TTL of every session not ended yet."""
        return self._db.execute("select id, ttl from session").fetchall()

    def _lives(self, lease: int) -> bool:
        row = self._db.execute("select ttl from session where id = ?", (lease,)).fetchone()
        return row is not None and not self._is_over(lease, row[0])

    def _is_over(self, lease: int, ttl_s: float) -> bool:
        """Whether its end has come; the order of the steps is that of heartbeats.py."""
        if lease in self._beating:
            return False
        before = self._clock.liveness()
        end = self._heartbeats.end_of(lease)
        return not before < end <= self._clock.liveness() + ttl_s  # later: it was written on another clock, or damaged

    def grant(self, ttl_s: float) -> tuple[int, Heartbeat]:
        """Begin a session; its id, and the way to prolong it."""
        with self._transaction(durable=False):
            self._reap()
            row = (ttl_s, self._owner)
            lease = self._db.execute("insert into session(ttl, owner) values (?, ?)", row).lastrowid
            assert lease is not None
            # Before others can see the session. Should the commit fail, the id will be given out again.
            heartbeat = self._heartbeats.begin(lease, self._clock.liveness() + ttl_s)
        return lease, heartbeat

    def outlived(self, lease: int, end: float) -> bool:
        """Whether nobody ended a session whose keepalive was written too late to be certain; it has not ended since.

        Nobody can be judging it now: whoever does holds the transaction.
        """
        self._db.execute("begin immediate")
        try:
            row = self._db.execute("select 1 from session where id = ?", (lease,)).fetchone()
            return row is not None and self._heartbeats.end_of(lease) == end
        finally:
            self._db.execute("rollback")

    def revoke(self, lease: int) -> None:
        with self._transaction():
            self._end(lease)

    def _reap(self) -> None:
        """Inside a transaction: end the sessions that are over."""
        for lease, ttl_s in self._sessions():
            if self._is_over(lease, ttl_s):
                self._end(lease)

    def _end(self, lease: int) -> None:
        """Inside a transaction: end a session, and delete its keys in a revision of its own."""
        owned = self._db.execute("select key from kv where lease = ?", (lease,)).fetchall()
        if owned:
            revision = self.revision + 1
            self._apply([Delete(key) for (key,) in owned], revision)
            self._set_meta("revision", revision)
        if self._db.execute("delete from session where id = ?", (lease,)).rowcount:
            self._heartbeats.mark_ended(lease)

    def poll(self) -> bool:
        """End sessions that are over; whether another process has one."""
        if any(self._is_over(lease, ttl_s) for lease, ttl_s in self._sessions()):
            with self._transaction():
                self._reap()
        query = "select 1 from session where owner <> ? limit 1"
        return self._db.execute(query, (self._owner,)).fetchone() is not None

    def news(self, known: int) -> tuple[Changes, int]:
        """What happened after revision known (unless it is too much), and the latest revision.

        A failure here is not the failure of the work before it: the next piece of work will find the news.
        """
        try:
            last = self.revision
            if last == known or last - known > RECENT_MAX:
                return [], last
            return self._read_log(known + 1, RECENT_MAX), last
        except sqlite3.Error:
            return [], known

    def _read_log(self, revision: int, revisions_max: int) -> Changes:
        query = "select revision, events from log where revision >= ? order by revision limit ?"
        rows = self._db.execute(query, (revision, revisions_max)).fetchall()
        return [(row_revision, tuple(unpack(packed, row_revision))) for row_revision, packed in rows]

    def history(self, revision: int) -> Changes:
        compacted: int = self._meta("compacted")
        if revision < compacted:
            raise Compacted(compacted)
        return self._read_log(revision, REVISIONS_MAX)


def meta(db: sqlite3.Connection, name: str) -> Any:
    """A row of the table of that name, "" when it is absent."""
    row = db.execute("select value from meta where name = ?", (name,)).fetchone()
    return row[0] if row else ""


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


def is_full(error: sqlite3.Error | OSError) -> bool:
    """Whether the disk has no room. A transaction did not happen then: SQLite notices while it writes the WAL."""
    return _code(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) == errno.ENOSPC


def is_busy(error: sqlite3.Error | OSError) -> bool:
    """Whether another process has had the file for itself all the time."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error | OSError) -> int:
    """SQLite's, without what it says more closely."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
