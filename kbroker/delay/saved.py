"""The file in which a schedule is found again. All integers big-endian:

magic 4B "KBDS" | version i16 | log read to i64 | in leader epoch i32 | next number i64
count i32 of each: runs, rows in memory, removed ids, hurried ids, cancelled keys, hurried keys
run:  number i64, rows i64, of these passed i64, lowest offset i64
row:  32 bytes             id:   i64           key:   digest, i64: what came before this offset
CRC-32C of all that
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kafka_wire.primitives import crc32c
from kbroker.delay.gone import Gone
from kbroker.delay.runs import ROW_BYTES, rows_in

FILE = "schedule"

_HEAD = struct.Struct(">4shqiq6i")
_RUN = struct.Struct(">qqqq")
_CRC = struct.Struct(">I")
_MAGIC, _VERSION = b"KBDS", 0


class Position(NamedTuple):
    """How far the log was read."""

    offset: int  # of what comes next
    leader_epoch: int  # of what came last; -1: of nothing


class SavedRun(NamedTuple):
    """A run, and how much of it is passed."""

    number: int
    rows: int
    passed: int
    lowest_offset: int


class Saved(NamedTuple):
    """A schedule, but for the files of its runs."""

    position: Position
    next_number: int
    runs: list[SavedRun]
    rows: list[bytes]  # of memory, in order
    gone: Gone


def encode(saved: Saved) -> bytes:
    """The content of the file."""
    gone = saved.gone
    parts: tuple[Collection[object], ...] = (
        saved.runs,
        saved.rows,
        gone.removed,
        gone.hurried,
        gone.cancelled_keys,
        gone.hurried_keys,
    )
    content = b"".join(
        [
            _HEAD.pack(_MAGIC, _VERSION, *saved.position, saved.next_number, *(len(each) for each in parts)),
            *(_RUN.pack(*run) for run in saved.runs),
            *saved.rows,
            *sorted(gone.removed),
            *sorted(gone.hurried),
            *(key + before for key, before in gone.cancelled_keys.items()),
            *(key + before for key, before in gone.hurried_keys.items()),
        ]
    )
    return content + _CRC.pack(crc32c(content))


def decode(content: bytes) -> Saved | None:
    """What the file says; None when it is damaged, or of another version."""
    body, crc = content[: -_CRC.size], content[-_CRC.size :]
    if len(body) < _HEAD.size or crc != _CRC.pack(crc32c(body)):
        return None
    magic, version, offset, leader_epoch, next_number, *counts = _HEAD.unpack_from(body)
    if (magic, version) != (_MAGIC, _VERSION):
        return None
    sizes = (_RUN.size, ROW_BYTES, 8, 8, 16, 16)
    parts, at = [], _HEAD.size
    for count, size in zip(counts, sizes, strict=True):
        parts.append(body[at : at + count * size])
        at += count * size
    runs, rows, *rest = parts
    return Saved(
        Position(offset, leader_epoch),
        next_number,
        [SavedRun(*fields) for fields in _RUN.iter_unpack(runs)],
        rows_in(rows),
        _gone(*rest),
    )


def _gone(removed: bytes, hurried: bytes, cancelled_keys: bytes, hurried_keys: bytes) -> Gone:
    gone = Gone()
    gone.removed.update(_pieces(removed, 8))
    gone.hurried.update(_pieces(hurried, 8))
    gone.cancelled_keys.update((each[:8], each[8:]) for each in _pieces(cancelled_keys, 16))
    gone.hurried_keys.update((each[:8], each[8:]) for each in _pieces(hurried_keys, 16))
    return gone


def _pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))
