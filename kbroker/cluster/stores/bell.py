"""How the processes that share a SQLite store tell each other that something is new: 16 bytes in a file beside it.

    ┌──────────────────┬────────────┐
    │ who, 8 bytes     │ count, u64 │    overwritten in place by whoever has committed; never twice the same
    └──────────────────┴────────────┘

A hint only: a process that dies between its commit and the ring, or a disk that refuses the write, leaves the others
to find out by themselves. Each process commits, rings, then reads what is new. So whoever finds his own ring there, and
had finished reading, knows all: another's commit that rang before was read then, and one that rings later is heard.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_RING = struct.Struct("<8sQ")


class Bell:
    """One process's hand on the bell, and its ear."""

    __slots__ = ("_who", "_count", "_hand", "_ear", "_heard")

    def __init__(self, path: str, who: bytes) -> None:
        """who: 8 bytes, this open store's own. The file is created with mode 0600 when absent. Raises OSError."""
        Path(path).touch(mode=0o600)
        self._who = who
        self._count = 0
        self._hand, self._ear = _open(path), _open(path)  # of two threads
        self._heard = b""

    def ring(self) -> None:
        """Tell the others."""
        self._count += 1
        try:
            self._hand.seek(0)
            self._hand.write(_RING.pack(self._who, self._count))
        except OSError:
            pass

    def has_rung(self) -> bool:
        """Whether another process has rung since the last time this was asked."""
        try:
            self._ear.seek(0)
            heard = self._ear.read(_RING.size)
        except OSError:
            return True
        is_new, self._heard = heard != self._heard, heard
        return is_new and not heard.startswith(self._who)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._hand.close()
        self._ear.close()


def _open(path: str) -> BinaryIO:
    return open(path, "r+b", buffering=0)
