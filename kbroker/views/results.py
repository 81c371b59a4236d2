"""What was found for readers of views, kept a while: for who asked, who asks again when the worker is done; and for
others who read the same view at the same place.

A result says that everything from an offset to below `after` was looked at, and that `pieces` are all that matches. It
serves whoever reads in between: who asks for little at a time finds the rest where he goes on. One without pieces is
worth keeping, too: who waits for records there need not look at the same ones again.

It holds for the log as it was: not once that was cut, or compaction has put a segment in others' place; for the
transaction index forgets aborted transactions of which nothing is left, and old results would show their records.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from kbroker.env import Buffer
from kbroker.log.log import PartitionLog
from kbroker.watermark import Watermark

BYTES_MAX = 32 * 1024 * 1024  # of memory that all results of a broker take
COUNT_MAX = 4096
COST = 512  # bytes that a result takes besides its pieces, roughly
PIECE_COST = 192  # and that a piece takes besides its data

Version: TypeAlias = "tuple[Watermark, int]"

_next_offset = attrgetter("next_offset")


def version_of(log: PartitionLog) -> Version:
    """Another one when the log has been cut, or has had segments replaced."""
    return log.end, log.replaced


class Found(NamedTuple):
    """A batch, or what is left of one."""

    data: Buffer
    base_offset: int
    next_offset: int


class Result(NamedTuple):
    """What was found from an offset on."""

    version: Version  # of the log
    after: int
    pieces: Sequence[Found]
    size: int  # bytes of the pieces
    is_partial: bool  # there was more to look at, even then
    before_large: bool = False  # what comes next is a batch that takes much memory

    @property
    def cost(self) -> int:
        """Bytes of memory that it takes, roughly."""
        return self.size + PIECE_COST * len(self.pieces) + COST

    def from_(self, offset: int) -> Result:
        """What there is of it from an offset on, for who is told of it now."""
        start = bisect_right(self.pieces, offset, key=_next_offset)
        if not start:
            return self
        pieces = self.pieces[start:]
        return self._replace(pieces=pieces, size=self.size * len(pieces) // len(self.pieces))


class Results:
    """All results of a broker, within bounds. The least recently used goes first."""

    __slots__ = ("bytes_max", "size", "_results", "_offsets")

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.size = 0
        self._results: OrderedDict[tuple[object, int], Result] = OrderedDict()
        self._offsets: dict[object, list[int]] = {}  # by reader, in order: where those begin that are kept

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._results)

    def get(self, reader: object, offset: int, version: Version) -> Result | None:
        """What was found for a reader from an offset on, if the log is as it was."""
        offsets = self._offsets.get(reader, ())
        number = bisect_right(offsets, offset) - 1
        if number < 0:
            return None
        key = reader, offsets[number]
        result = self._results[key]
        if result.version != version:
            self._drop(key)
            return None
        if offset >= result.after and offset > key[1]:
            return None
        self._results.move_to_end(key)
        return result.from_(offset)

    def put(self, reader: object, offset: int, result: Result) -> None:
        """Have it in place of an earlier one."""
        key = reader, offset
        if key in self._results:
            self._drop(key)
        self._results[key] = result
        self.size += result.cost
        insort(self._offsets.setdefault(reader, []), offset)
        while (self.size > self.bytes_max and len(self._results) > 1) or len(self._results) > COUNT_MAX:
            self._drop(next(iter(self._results)))

    def forget(self, reader: object) -> None:
        """Nobody will ask for this reader any more."""
        for offset in tuple(self._offsets.get(reader, ())):
            self._drop((reader, offset))

    def _drop(self, key: tuple[object, int]) -> None:
        reader, offset = key
        self.size -= self._results.pop(key).cost
        offsets = self._offsets[reader]
        del offsets[bisect_left(offsets, offset)]
        if not offsets:
            del self._offsets[reader]
