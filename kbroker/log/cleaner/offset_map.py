"""OffsetMap: the newest offset of each key, in a bounded amount of memory.

    few keys     a dict by the key itself, or by its digest where that is shorter: fast, 256 bytes an entry
    many         a table of 24-byte slots, digest and offset, probed one after another: five times slower, ten times
                 smaller. It takes over when the dict has had its share of the memory.

A digest is cryptographic: two keys that have the same one would lose a value. (Kafka: SkimpyOffsetMap, with MD5.)
"""

from __future__ import annotations

import struct
from array import array
from hashlib import blake2b

DICT_ENTRY_BYTES = 256  # digest, number, and the dict's own share, when it has just grown
DICT_SHARE = 4  # the dict may have a quarter of the memory, the table has the rest
SLOT_BYTES = 24
LOAD = 0.75  # of the slots, at most: beyond it a search grows long
DIGEST_BYTES = 32  # of a long key in the dict; shorter ones are their own, so none is another's digest
MEMORY_MIN = 1024 * 1024

_halves = struct.Struct("<QQ").unpack


class OffsetMap:
    """Keys and offsets, up to so many bytes of memory."""

    __slots__ = ("_newest", "_dict_max", "_slots", "_table", "_table_max")

    def __init__(self, memory_bytes: int) -> None:
        memory_bytes = max(memory_bytes, MEMORY_MIN)
        self._newest: dict[bytes, int] = {}
        self._dict_max = memory_bytes // DICT_SHARE // DICT_ENTRY_BYTES
        self._slots = (memory_bytes - memory_bytes // DICT_SHARE) // SLOT_BYTES
        self._table_max = int(self._slots * LOAD)
        self._table: _Table | None = None

    def put(self, key: bytes, offset: int) -> bool:
        """Note a later offset of a key. False: there is no room for another key."""
        if self._table is not None:
            return self._table.put(key, offset, self._table_max)
        if len(key) >= DIGEST_BYTES:
            key = blake2b(key, digest_size=DIGEST_BYTES).digest()
        newest = self._newest
        newest[key] = offset
        if len(newest) > self._dict_max:
            self._move()
        return True

    def get(self, key: bytes) -> int:
        """The newest offset of a key; -1: none."""
        if self._table is not None:
            return self._table.get(key)
        if len(key) >= DIGEST_BYTES:
            key = blake2b(key, digest_size=DIGEST_BYTES).digest()
        return self._newest.get(key, -1)

    def _move(self) -> None:
        """Have the table take over. What is noted by a digest has lost its key: the table goes by that."""
        self._table = _Table(self._slots)
        newest, self._newest = self._newest, {}
        while newest:  # not both whole at the same time
            name, offset = newest.popitem()
            self._table.note(name, offset)


class _Table:
    """Digests of 16 bytes and offsets, in columns; linear probing; nothing is removed."""

    __slots__ = ("size", "slots", "_low", "_high", "_offsets")

    def __init__(self, slots: int) -> None:
        self.size = 0
        self.slots = slots
        self._low = array("Q", bytes(8)) * slots
        self._high = array("Q", bytes(8)) * slots
        self._offsets = array("q", [-1]) * slots

    def put(self, key: bytes, offset: int, most: int) -> bool:
        """As OffsetMap.put, with no more keys than most."""
        at, low, high = self._find(_name(key))
        if self._offsets[at] < 0:
            if self.size >= most:
                return False
            self.size += 1
            self._low[at], self._high[at] = low, high
        self._offsets[at] = offset
        return True

    def note(self, name: bytes, offset: int) -> None:
        """Put one whose name in the dict is known, for which there is room."""
        at, self._low[at], self._high[at] = self._find(name)
        self._offsets[at] = offset
        self.size += 1

    def get(self, key: bytes) -> int:
        """As OffsetMap.get."""
        return self._offsets[self._find(_name(key))[0]]

    def _find(self, name: bytes) -> tuple[int, int, int]:
        """Where a key is, or would be, and its digest."""
        low, high = _halves(blake2b(name, digest_size=16).digest())
        at, offsets, lows, highs = low % self.slots, self._offsets, self._low, self._high
        while offsets[at] >= 0 and (lows[at] != low or highs[at] != high):
            at += 1
            if at == self.slots:
                at = 0
        return at, low, high


def _name(key: bytes) -> bytes:
    """What the dict calls a key."""
    return blake2b(key, digest_size=DIGEST_BYTES).digest() if len(key) >= DIGEST_BYTES else key
