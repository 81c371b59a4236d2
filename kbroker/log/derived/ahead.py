"""What a leader has hidden in its log, and its delayer has not read back yet: what that will change, in short.

What is delivered must be due no later than anything that is pending, and not be cancelled by anything before it in the
log. The delayer knows the log up to some point below the high watermark; this knows the rest of it.

    add ──▶ of a transaction ──end: commit──▶ to be read ──read_to──▶ forgotten
       └────────────────────────────────────────▲

Bounded: of what is too much only the last offset is kept, before which nothing may be delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kafka_wire.records import BatchHeader
from kbroker.config.keys import LONG_MAX
from kbroker.log.content.delayed import NO_EFFECTS, Effects

BATCHES_MAX = 1000
NAMES_MAX = 10_000  # keys and ids together
NAMES_OF_ONE_MAX = 1000  # of one transaction


class Ahead:
    """What lies hidden between where a delayer has read to and the log's end."""

    __slots__ = ("on_news", "last", "blind_to", "_open", "_due", "_keys", "_ids")

    def __init__(self) -> None:
        self.on_news: Callable[[], None] = lambda: None  # told when there is something to be read
        self.last = -1  # the last offset at which something came that is to be read
        self.blind_to = 0  # nothing may be delivered before the log was read to here
        self._open: dict[int, Effects] = {}  # by producer id: of its transaction
        self._due: dict[int, int] = {}  # offset -> when the first record there is due
        self._keys: dict[bytes, int] = {}  # digest -> where it was last cancelled
        self._ids: dict[int, int] = {}

    def add(self, offset: int, header: BatchHeader, effects: Effects) -> None:
        """A hidden batch was appended at an offset."""
        if header.is_transactional:
            self._open[header.producer_id] = joined(self._open.get(header.producer_id, NO_EFFECTS), effects)
        else:
            self._note(offset, effects)

    def end(self, producer_id: int, offset: int, *, is_commit: bool) -> None:
        """A transaction was ended by a marker at an offset."""
        effects = self._open.pop(producer_id, None)
        if effects is not None and is_commit:
            self._note(offset, effects)

    def _note(self, offset: int, effects: Effects) -> None:
        names = len(self._keys) + len(self._ids) + _names(effects)
        if effects.is_cut or names > NAMES_MAX or len(self._due) >= BATCHES_MAX:
            self.blind_to = offset + 1
            self._due.clear()
            self._keys.clear()
            self._ids.clear()
        else:
            if effects.earliest_ms < LONG_MAX:
                self._due[offset] = effects.earliest_ms
            self._keys.update(dict.fromkeys(effects.keys, offset))
            self._ids.update(dict.fromkeys(effects.ids, offset))
        self.last = offset
        self.on_news()

    def read_to(self, offset: int) -> None:
        """The delayer knows everything below an offset."""
        for each in [each for each in self._due if each < offset]:
            del self._due[each]
        if self._keys:
            self._keys = {key: at for key, at in self._keys.items() if at >= offset}
        if self._ids:
            self._ids = {id: at for id, at in self._ids.items() if at >= offset}

    def take_over(self, open: Mapping[int, Effects]) -> None:
        """These transactions, which are open, have hidden this before the leadership began."""
        for producer_id, effects in open.items():
            self._open[producer_id] = joined(self._open.get(producer_id, NO_EFFECTS), effects)

    def resign(self) -> None:
        """The leadership is over: what is appended is no more this one's to tell."""
        self.last, self.blind_to = -1, 0
        for each in (self._open, self._due, self._keys, self._ids):
            each.clear()

    @property
    def due_bound(self) -> int:
        """Nothing that is due later may be delivered yet."""
        return min(self._due.values(), default=LONG_MAX)

    def cancels(self, id: int, key: bytes) -> bool:
        """Whether a pending record is cancelled. key: its digest."""
        return id in self._ids or self._keys.get(key, -1) > id


def joined(first: Effects, second: Effects) -> Effects:
    """What two hidden batches will change. Of too many cancels it says no more than that."""
    earliest_ms = min(first.earliest_ms, second.earliest_ms)
    if first.is_cut or second.is_cut or _names(first) + _names(second) > NAMES_OF_ONE_MAX:
        return NO_EFFECTS._replace(earliest_ms=earliest_ms, is_cut=True)
    return Effects(earliest_ms, first.keys | second.keys, first.ids | second.ids, False)


def _names(effects: Effects) -> int:
    return len(effects.keys) + len(effects.ids)
