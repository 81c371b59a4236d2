"""When each session of the SQLite store ends: a file beside the database, 8 bytes a session, overwritten in place.

    session 0   1   2   3 ...      position = 8 * id of the session
    ┌────┬────┬────┬────┐
    │ -  │ -1 │ t  │ t' │         t: end on the machine's liveness clock, seconds, little-endian double
    └────┴────┴────┴────┘         -1: ended; nothing there: never begun

A heartbeat takes no lock, needs no commit and no new block of the disk: it succeeds while transactions wait for a slow
disk, and on a full one. Nothing is fsynced: after a power failure every session is over anyway (another boot).

Two processes cannot disagree about a session as long as both keep to the order of their steps:

    the holder   writes a new end, then reads the clock: the heartbeat counts if the old end has not come by then
    a judge      reads the clock, then the end: the session is over if that end has come

When the old end comes after the holder's write, whoever judges the session from that moment on reads the new end. The
judge marks what it ends, so that a holder whose heartbeat came too late finds out.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

ENDED = -1.0
_END = struct.Struct("<d")


class Heartbeats:
    """The ends of all sessions, as a judge sees them. One thread at a time."""

    __slots__ = ("_path", "_file")

    def __init__(self, path: str) -> None:
        """Opens the file at path, created with mode 0600 when absent. Raises OSError."""
        self._path = path
        Path(path).touch(mode=0o600)
        self._file = _open(path)

    def end_of(self, session: int) -> float:
        """When the session ends; ENDED for one that has, or that never began."""
        self._file.seek(session * _END.size)
        packed = self._file.read(_END.size)
        return _END.unpack(packed)[0] if len(packed) == _END.size else ENDED

    def mark_ended(self, session: int) -> None:
        """End the session for whoever still believes in it."""
        self._file.seek(session * _END.size)
        self._file.write(_END.pack(ENDED))

    def begin(self, session: int, end: float) -> Heartbeat:
        """Write the first end; the way to write further ones."""
        return Heartbeat(self._path, session, end)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()


class Heartbeat:
    """The end of one session, as its holder writes it. One thread at a time, not necessarily that of the judge."""

    __slots__ = ("end", "_file", "_position")

    def __init__(self, path: str, session: int, end: float) -> None:
        self.end = end  # as written last
        self._position = session * _END.size
        self._file = _open(path)
        try:
            self._write(end)
        except BaseException:
            self._file.close()
            raise

    def prolong(self, end: float) -> bool:
        """Write a later end; False, and nothing written, when somebody has ended the session."""
        self._file.seek(self._position)
        if self._file.read(_END.size) != _END.pack(self.end):
            return False
        self._write(end)
        self.end = end
        return True

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()

    def _write(self, end: float) -> None:
        self._file.seek(self._position)
        self._file.write(_END.pack(end))


def _open(path: str) -> BinaryIO:
    return open(path, "r+b", buffering=0)
