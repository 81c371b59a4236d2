"""What was found for readers of views, kept a while: for who asked, who asks again when the worker is done; and for
others who read the same view at the same place.

A result says that everything from `offset` to below `after` was looked at, and that `pieces` are all that matches. One
without pieces is worth keeping, too: who waits for records there need not look at the same ones again. One of which
only a part fits in an answer is two from then on: who asks for little at a time finds the rest where he goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from kbroker.env import Buffer
from kbroker.watermark import Watermark

BYTES_MAX = 32 * 1024 * 1024  # of all results of a broker
COUNT_MAX = 4096
COST = 512  # bytes that a result takes besides its pieces, roughly


class Found(NamedTuple):
    """A batch, or what is left of one."""

    data: Buffer
    base_offset: int
    next_offset: int


class Result(NamedTuple):
    """What was found from an offset on."""

    log_end: Watermark  # the log's `end` as it was: another one after a truncation
    after: int
    pieces: Sequence[Found]
    size: int  # bytes of the pieces
    is_partial: bool  # there was more to look at, even then


class Results:
    """All results of a broker, within bounds. The least recently used goes first."""

    __slots__ = ("bytes_max", "size", "_results")

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.size = 0
        self._results: OrderedDict[tuple[object, int], Result] = OrderedDict()

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._results)

    def get(self, reader: object, offset: int, log_end: Watermark) -> Result | None:
        """What was found for a reader from an offset on, if the log was not cut since."""
        result = self._results.get((reader, offset))
        if result is None or result.log_end is not log_end:
            return None
        self._results.move_to_end((reader, offset))
        return result

    def put(self, reader: object, offset: int, result: Result) -> None:
        """Have it in place of an earlier one."""
        key = reader, offset
        earlier = self._results.pop(key, None)
        if earlier is not None:
            self.size -= earlier.size + COST
        self._results[key] = result
        self.size += result.size + COST
        while (self.size > self.bytes_max and len(self._results) > 1) or len(self._results) > COUNT_MAX:
            self.size -= self._results.popitem(last=False)[1].size + COST
