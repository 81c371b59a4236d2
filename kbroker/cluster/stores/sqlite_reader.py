"""Reading ranges of the SQLite store in pieces, all as of one moment. Everything here blocks, on one thread at a time.

A range of many thousand entries in one go would hold the event loop, though another thread reads it: sqlite3 gives the
interpreter away at every row, and takes it back before anybody else can have it. So a worker reads some hundred, and
then others go on. Meanwhile a connection of its own, which only reads, keeps its view of the file (WAL): what is
committed between two pieces is not seen.
"""

from __future__ import annotations

import sqlite3

from kbroker.cluster.store import Compacted, Entry, Page, prefix_end
from kbroker.cluster.stores.sqlite_file import BUSY_S, meta, unpack

PIECE_ENTRIES = 500


class Reader:
    """The store's file, open for reading one range at a time."""

    def __init__(self, path: str) -> None:
        """The file is there. Raises sqlite3.Error."""
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma query_only = true")
        self._cursor = self._db.cursor()
        self._left = 0  # entries that are still wanted
        self._revision = 0

    def begin(self, prefix: bytes, after: bytes, limit: int, revision: int, keys_only: bool) -> tuple[Page, bool]:
        """The first piece of a range (see CoordinationStore), and whether it is the last. Raises Compacted."""
        self.end()
        self._db.execute("begin")
        try:
            now: int = meta(self._db, "revision")
            if revision and revision != now:
                self._check_unchanged(prefix, revision, now)
            columns = "key, x'', mod, lease" if keys_only else "*"
            end = prefix_end(prefix)
            bound = "and key < ?" if end else ""
            self._cursor.execute(
                f"select {columns} from kv where key >= ? and key > ? {bound} order by key limit ?",
                (prefix, after, *([end] if end else []), limit + 1),
            )
            self._left, self._revision = limit, revision or now
            return self.go_on()
        except BaseException:
            self.end()
            raise

    def go_on(self) -> tuple[Page, bool]:
        """The next piece, and whether it is the last."""
        wanted = min(self._left, PIECE_ENTRIES)
        rows = self._cursor.fetchmany(wanted) if wanted else []
        self._left -= len(rows)
        is_last = len(rows) < wanted or not self._left
        more = is_last and self._cursor.fetchone() is not None
        if is_last:
            self.end()
        return Page([Entry(*row) for row in rows], self._revision, more), is_last

    def end(self) -> None:
        """Let go of the view of the file; idempotent."""
        self._cursor.close()
        self._cursor = self._db.cursor()
        if self._db.in_transaction:
            self._db.execute("rollback")

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    def _check_unchanged(self, prefix: bytes, revision: int, now: int) -> None:
        if revision > now or revision + 1 < meta(self._db, "compacted"):
            raise Compacted(now)
        for (packed,) in self._db.execute("select events from log where revision > ?", (revision,)):
            if any(event.key.startswith(prefix) for event in unpack(packed, 0)):
                raise Compacted(now)
