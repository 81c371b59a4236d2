"""Which tags are where in a segment, so that what a reader does not want is not read. Owns `<base offset>.tags`.

A segment is cut into stretches of whole batches: one batch, several small ones of 4 KiB in all, or up to 64 KiB of
batches with the same tags. Of each the index knows its end, and the numbers of its tags:

    0 ANY      too many tags to be named: may have any
    1 LOOK     not known: somebody has to read the batch
    2 ABORTS   a marker that aborts a transaction, which readers of committed records must see
    3          not used
    4 ...      a tag, by its CRC-32C: two tags may share a number, which costs a look at what has the other one

    position 0           4100      20500        52000             in memory, in pieces, a column each:
      +------------------+---------+------------+---------        ends     4100   20500     52000
      | eu               | eu, vip | LOOK       |                 nexts      31      40        97   offset, relative
      +------------------+---------+------------+---------        marks       1       3         4   numbers up to here
                                                                  numbers  9417   9417 204    1

The file has blocks, back to back: a piece each, written now and then, at the segment's end, and where somebody has
looked at what was not known. Big-endian:

    +-----------+-----------+----------------------+--------------------+------------------------+-------------------+
    | length of | CRC-32C   | first position   u32 | position and CRC   | how many stretches u32 | the columns: ends |
    | the rest  | of the    | first offset,        | of its last batch, | how many numbers   u32 | nexts, marks  u32 |
    | u32       | rest  u32 | relative         u32 | as in the log  u32 |                        | numbers       u16 |
    +-----------+-----------+----------------------+--------------------+------------------------+-------------------+

It is derived, and never synced. A block is believed if its own CRC is right, and the log has that last batch there: one
that speaks of batches that are gone (the power failed, the segment was compacted) is not. What no block tells of is
a LOOK: whoever reads there notes what he finds. So a file that is missing, torn, stale or damaged costs time alone.
What is cut off a log takes the file with it.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from sys import byteorder
from typing import NamedTuple

from kafka_wire.errors import KafkaError
from kafka_wire.primitives import crc32c
from kafka_wire.records import HEADER_SIZE, read_header
from kbroker.env import Disk, Handle

SUFFIX = ".tags"
ANY, LOOK, ABORTS, FIRST_TAG = 0, 1, 2, 4
TAGS_MIN, TAGS_MAX, BYTES_A_TAG = 16, 1024, 128  # named of a stretch: one for so many bytes
STRETCH_BYTES = 4096  # small batches share a stretch up to that size
ALIKE_BYTES_MAX = 64 * 1024  # those with the same tags up to this
PIECE_MAX = 2048  # stretches
FILE_BYTES_MAX = 256 * 1024 * 1024  # of a file that is read; an honest one has a thirtieth of its segment

_FRAME = struct.Struct(">II")
_HEAD = struct.Struct(">IIIIII")
_ANY, _ONLY_LOOK, _LOOK_BYTES = frozenset((ANY,)), frozenset((LOOK,)), LOOK.to_bytes(2)

assert array("I").itemsize == 4


class Stretch(NamedTuple):
    """Some batches that lie back to back."""

    end: int  # position
    next_offset: int  # relative to the segment's base
    numbers: frozenset[int]


class Piece:
    """Stretches that follow each other."""

    __slots__ = ("position", "offset", "last_position", "last_crc", "is_saved", "ends", "nexts", "marks", "numbers")

    def __init__(self, position: int, offset: int, stretches: Iterable[Stretch] = ()) -> None:
        self.position = position  # where it begins
        self.offset = offset  # relative
        self.last_position = self.last_crc = 0  # of its last batch: 0, 0 where nobody knows
        self.is_saved = False  # the file has it, or all that it ever will
        self.ends = array("I")  # positions
        self.nexts = array("I")  # the offset behind each, relative
        self.marks = array("I")  # how many numbers those up to and with it have
        self.numbers = bytearray()  # big-endian, 2 bytes each
        for each in stretches:
            self.push(each)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.ends[-1] if self.ends else self.position

    @property
    def next_offset(self) -> int:
        """The offset behind it, relative."""
        return self.nexts[-1] if self.nexts else self.offset

    def begin_of(self, n: int) -> int:
        """The position at which the n-th begins."""
        return self.ends[n - 1] if n else self.position

    def offset_of(self, n: int) -> int:
        """The offset at which the n-th begins, relative."""
        return self.nexts[n - 1] if n else self.offset

    def numbers_of(self, n: int) -> frozenset[int]:
        """The numbers that the n-th has."""
        start = self.marks[n - 1] if n else 0
        content = self.numbers[2 * start : 2 * self.marks[n]]
        return frozenset([int.from_bytes(content[at : at + 2]) for at in range(0, len(content), 2)])

    def is_look(self, n: int) -> bool:
        """Whether nobody knows what the n-th has."""
        start = self.marks[n - 1] if n else 0
        return self.marks[n] == start + 1 and self.numbers[2 * start : 2 * start + 2] == _LOOK_BYTES

    def push(self, stretch: Stretch) -> None:
        """Add one behind all others."""
        end, next_offset, numbers = stretch
        for number in sorted(numbers):
            self.numbers += number.to_bytes(2)
        self.ends.append(end)
        self.nexts.append(next_offset)
        self.marks.append(len(self.numbers) // 2)

    def pop(self) -> None:
        """Take off the last."""
        self.ends.pop()
        self.nexts.pop()
        self.marks.pop()
        del self.numbers[2 * self.marks[-1] if self.marks else 0 :]

    def part(self, first: int, stop: int) -> Piece:
        """Some of them."""
        part = Piece(self.begin_of(first), self.offset_of(first))
        before = self.marks[first - 1] if first else 0
        part.ends, part.nexts, part.marks = self.ends[first:stop], self.nexts[first:stop], self.marks[first:stop]
        part.numbers = self.numbers[2 * before : 2 * part.marks[-1]] if part.marks else bytearray()
        if before:
            part.marks = array("I", [mark - before for mark in part.marks])
        part.is_saved = self.is_saved
        if stop == len(self):
            part.last_position, part.last_crc = self.last_position, self.last_crc
        return part

    def extend(self, other: Piece) -> None:
        """Add what follows."""
        before = len(self.numbers) // 2
        self.ends += other.ends
        self.nexts += other.nexts
        self.marks += array("I", [mark + before for mark in other.marks]) if before else other.marks
        self.numbers += other.numbers
        self.last_position, self.last_crc = other.last_position, other.last_crc


class Search:
    """Finds one stretch of a piece after the other that has one of some numbers."""

    __slots__ = ("piece", "wanted", "stop", "_next")

    def __init__(self, piece: Piece, wanted: Sequence[bytes], stop: int) -> None:
        """wanted: the numbers, big-endian. stop: the stretch before which to search."""
        self.piece = piece
        self.wanted = wanted
        self.stop = stop
        self._next = [-1] * len(self.wanted)  # where each number comes next, as last found

    def next(self, first: int) -> int:
        """The first stretch from `first`, which rises, that has one; `stop` when none has."""
        stop = self.stop
        if first >= stop:
            return stop
        numbers, marks = self.piece.numbers, self.piece.marks
        begin, end = (2 * marks[first - 1] if first else 0), 2 * marks[stop - 1]
        nearest = end
        for n, number in enumerate(self.wanted):
            at = self._next[n]
            if at < begin:
                at = numbers.find(number, begin, end)
                while at >= 0 and at & 1:  # half of one and half of the next
                    at = numbers.find(number, at + 1, end)
                self._next[n] = at = at if at >= 0 else end
            if at < nearest:
                nearest = at
        return bisect_right(marks, nearest // 2, first, stop) if nearest < end else stop


_end = attrgetter("end")
_next_offset = attrgetter("next_offset")


class TagIndex:
    """What is known of one segment. Its owner, the segment, notes each batch; its readers what they have looked at."""

    __slots__ = ("disk", "stem", "start", "start_offset", "end", "pieces", "is_loaded", "_latest")

    def __init__(self, disk: Disk, stem: str, position: int, offset: int) -> None:
        """An index that begins at a position of the segment, and at an offset relative to its base."""
        self.disk = disk
        self.stem = stem
        self.start, self.start_offset = position, offset  # what is before that has to be loaded
        self.end = position  # what is behind that has not been noted
        self.pieces: list[Piece] = []  # with no gap from start to end
        self.is_loaded = not position
        self._latest = _ONLY_LOOK  # of the last stretch; so if it takes no more batches

    @property
    def path(self) -> str:
        return self.stem + SUFFIX

    def piece_at(self, relative_offset: int) -> int:
        """The piece that holds an offset, or the first one behind it; as many as there are when none does."""
        return bisect_right(self.pieces, relative_offset, key=_next_offset)

    # growing

    def note(self, position: int, size: int, offset: int, next_offset: int, numbers: frozenset[int], crc: int) -> None:
        """A batch is in the log, from offset to below next_offset, relative."""
        end = position + size
        if position != self.end:
            self._skip_to(position, offset)
        piece = self.pieces[-1] if self.pieces else None
        if piece is None or piece.is_saved or len(piece) >= PIECE_MAX:
            piece = Piece(position, offset)
            self.pieces.append(piece)
            self._latest = _ONLY_LOOK
        begin, latest = piece.begin_of(len(piece) - 1) if len(piece) else position, self._latest
        if latest is not _ONLY_LOOK and _may_join(latest, numbers, end - begin):
            numbers = latest | numbers
            piece.pop()
        else:
            begin = position
        numbers = bounded(numbers, end - begin)
        piece.push(Stretch(end, next_offset, numbers))
        piece.last_position, piece.last_crc = position, crc
        self.end = end
        self._latest = _ONLY_LOOK if LOOK in numbers else numbers

    def _skip_to(self, position: int, offset: int) -> None:
        """Batches were appended that nobody has noted."""
        assert position > self.end, f"{self.path}: noted up to {self.end}, and now again at {position}"
        before = self.pieces[-1].next_offset if self.pieces else self.start_offset
        self.pieces.append(_unknown(self.end, before, position, offset))
        self.end = position

    def note_end(self, size: int, next_offset: int) -> None:
        """The segment has so many bytes: what has not been noted of them is not known."""
        if self.end < size:
            self._skip_to(size, next_offset)

    # the file

    def save(self) -> None:
        """Bring the file up to date. A failure costs only looking at batches later."""
        first = len(self.pieces)
        while first and not self.pieces[first - 1].is_saved:
            first -= 1
        for piece in self.pieces[first:]:
            self._append(piece)
            piece.is_saved = True

    def _append(self, piece: Piece) -> None:
        try:
            file = self.disk.open(self.path, create=True)
            try:
                file.append([_block(piece)])
            finally:
                file.close()
        except OSError:
            self.distrust()

    def distrust(self) -> None:
        """Remove the file. What stays in spite of that is believed no more than what the log bears out."""
        with suppress(OSError):
            self.disk.remove(self.path)

    # what was not known

    def adopt(self, found: Iterable[Piece], *, is_damaged: bool) -> None:
        """Have what the file tells of all that is before `start`. is_damaged: it is to be written anew."""
        if self.is_loaded:
            return
        whole, later, position, offset = list[Piece](), list[Piece](), 0, 0
        for piece in sorted(found, key=lambda each: (each.position, -each.end)):
            if piece.end > self.start:
                continue
            if piece.position < position:
                later.append(piece)
                continue
            if piece.position > position:
                whole.append(_unknown(position, offset, piece.position, piece.offset))
            whole.append(piece)
            position, offset = piece.end, piece.next_offset
        if position < self.start:
            whole.append(_unknown(position, offset, self.start, self.start_offset))
        self.pieces, self.start, self.start_offset, self.is_loaded = whole + self.pieces, 0, 0, True
        if is_damaged:
            self.distrust()
            for piece in whole:
                if piece.last_position or piece.last_crc:
                    self._append(piece)
        for piece in later:  # was found out when the others had been written
            if self._learn(piece) and is_damaged:
                self._append(piece)

    def learn(self, found: Piece) -> None:
        """Somebody has looked at what lies within a stretch that was a LOOK."""
        if self._learn(found):
            self._append(found)

    def _learn(self, found: Piece) -> bool:
        """Have what was found; whether it is no part of what will be written anyway."""
        number = bisect_right(self.pieces, found.position, key=_end)
        if number == len(self.pieces) or not len(found):
            return False
        piece = self.pieces[number]
        n = bisect_right(piece.ends, found.position)
        if found.position < piece.position or found.end > piece.ends[n] or not piece.is_look(n):
            return False
        whole = piece.part(0, n)
        if found.position > piece.begin_of(n):
            whole.push(Stretch(found.position, found.offset, _ONLY_LOOK))
        whole.extend(found)
        rest = piece.part(n if found.end < piece.ends[n] else n + 1, len(piece))
        whole.extend(rest)
        whole.last_position, whole.last_crc = piece.last_position, piece.last_crc
        if number == len(self.pieces) - 1:
            self._latest = _ONLY_LOOK
        if len(whole) <= 2 * PIECE_MAX or not piece.is_saved:
            self.pieces[number] = whole
        else:
            self.pieces[number : number + 1] = [
                whole.part(first, min(first + PIECE_MAX, len(whole))) for first in range(0, len(whole), PIECE_MAX)
            ]
        return piece.is_saved


def bounded(numbers: frozenset[int], size: int) -> frozenset[int]:
    """What is kept of the numbers of a stretch of so many bytes: all, or ANY where they are too many."""
    if len(numbers) > TAGS_MIN and len(numbers) > min(size // BYTES_A_TAG, TAGS_MAX):
        return _ANY
    return numbers


def _may_join(before: frozenset[int], numbers: frozenset[int], size: int) -> bool:
    """Whether a batch may share the stretch before it, which would have so many bytes then."""
    if before == numbers:
        return size <= ALIKE_BYTES_MAX
    return size <= STRETCH_BYTES and LOOK not in numbers


def _unknown(position: int, offset: int, end: int, next_offset: int) -> Piece:
    """What nobody knows of."""
    piece = Piece(position, offset, [Stretch(end, next_offset, _ONLY_LOOK)])
    piece.is_saved = True
    return piece


def load(disk: Disk, stem: str, log: Handle, size: int) -> tuple[list[Piece], bool]:
    """What a segment's file tells of it, as far as that is true; whether there is anything in it that is no use.

    Blocks. size: of the segment. May raise OSError: of the log.
    """
    try:
        file_size = disk.size(stem + SUFFIX)
        content = disk.read(stem + SUFFIX) if file_size <= FILE_BYTES_MAX else b""
    except OSError:
        return [], False
    found: list[Piece] = []
    is_damaged = file_size > len(content)
    for piece in read_blocks(content):
        if piece is not None and _is_true(piece, log, size):
            found.append(piece)
        else:
            is_damaged = True
    return found, is_damaged


def read_blocks(content: bytes) -> Iterator[Piece | None]:
    """The blocks of a file, None for each that is damaged. What is behind one whose length is wrong cannot be found."""
    at = 0
    while at < len(content):
        piece, at = _read_block(content, at)
        yield piece


def _is_true(piece: Piece, log: Handle, size: int) -> bool:
    """Whether the log has the last batch that the block tells of."""
    at = piece.last_position
    if not piece.position <= at < piece.end <= size:
        return False
    try:
        header = read_header(log.pread(HEADER_SIZE, at))
    except KafkaError:
        return False
    return header.crc == piece.last_crc and at + header.size == piece.end


def _block(piece: Piece) -> bytes:
    words = piece.ends + piece.nexts + piece.marks
    if byteorder == "little":
        words.byteswap()
    fields = (piece.position, piece.offset, piece.last_position, piece.last_crc)
    rest = b"".join((_HEAD.pack(*fields, len(piece), len(piece.numbers) // 2), words.tobytes(), piece.numbers))
    return _FRAME.pack(len(rest), crc32c(rest)) + rest


def _read_block(content: bytes, at: int) -> tuple[Piece | None, int]:
    """The block at a position, None if it is none, and the position behind it."""
    rest = memoryview(content)[at + _FRAME.size :]
    if len(rest) < _HEAD.size:
        return None, len(content)
    length, crc = _FRAME.unpack_from(content, at)
    if not _HEAD.size <= length <= len(rest):
        return None, len(content)
    rest = rest[:length]
    after = at + _FRAME.size + length
    position, offset, last_position, last_crc, count, numbers = _HEAD.unpack_from(rest)
    columns_at = _HEAD.size + 12 * count
    if crc32c(rest) != crc or length != columns_at + 2 * numbers or not count:
        return None, after
    words = array("I", bytes(rest[_HEAD.size : columns_at]))
    if byteorder == "little":
        words.byteswap()
    piece = Piece(position, offset)
    piece.ends, piece.nexts, piece.marks = words[:count], words[count : 2 * count], words[2 * count :]
    piece.numbers = bytearray(rest[columns_at:])
    piece.last_position, piece.last_crc, piece.is_saved = last_position, last_crc, True
    return piece, after
