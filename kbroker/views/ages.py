"""How old the records of a log are here: what had been appended by when, on the data clock.

    times     10:00:00   10:00:01   10:00:04        a note says that everything below `end` had been appended by then,
    ends           100        140        150        and that the last of it was written in that leader epoch

It is only ever said that records are at least so old, never that they are older than they are: so a view that shows
them later shows none too early. What notes say holds after a restart, too, and for who comes to lead: a log that has a
record of an offset and a leader epoch has the same records before it, whoever has them. So a note is true as long as
the log has the last record that it speaks of, and is forgotten with those behind it otherwise.

As notes are few, a view may be late by the time between two of them: `spacing_ms`. Pure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from kbroker.log.log import PartitionLog

NOTES_MAX = 256  # of one log, for the time that its latest view is late
NOTHING = -1


class Note(NamedTuple):
    """Everything below `end`, the last of it written in `epoch`, had been appended by time_ms."""

    time_ms: int
    end: int
    epoch: int


class Ages:
    """The notes about one log, in order of time and of offset."""

    __slots__ = ("log", "is_dirty", "_times", "_ends", "_epochs")

    def __init__(self, log: PartitionLog, notes: Iterable[Note] = ()) -> None:
        """notes: of an earlier process, in order."""
        self.log = log
        self.is_dirty = False
        self._times, self._ends, self._epochs = array("q"), array("q"), array("q")
        for note in notes:
            self.add(note)

    def __len__(self) -> int:
        return len(self._times)

    def some(self, most: int) -> list[Note]:
        """Every so many of them: about `most`, and fewer than twice that."""
        step = max(1, len(self) // most)
        return list(map(Note, self._times[::step], self._ends[::step], self._epochs[::step]))

    def add(self, note: Note) -> None:
        """Take a note that speaks of more than the last one. A clock that was set back counts from where it was."""
        if self._ends and note.end <= self._ends[-1]:
            return
        self._times.append(max(note.time_ms, self._times[-1]) if self._times else note.time_ms)
        self._ends.append(note.end)
        self._epochs.append(note.epoch)
        self.is_dirty = True

    def note(self, now_ms: int, late_ms: int, *, at_once: bool = False) -> None:
        """Note the end of the log, unless that was done a moment ago. late_ms: how late views of it are at most.

        at_once: though it was; while less than twice as many notes are kept.
        """
        self._forget_untrue(len(self._times))
        end, last = self.log.end.value, self._ends[-1] if self._ends else NOTHING
        is_young = bool(self._times) and 0 <= now_ms - self._times[-1] < spacing_ms(late_ms)
        if end > last and (not is_young or (at_once and len(self) < 2 * NOTES_MAX)):
            self.add(Note(now_ms, end, self.log.epochs.epoch_at(end - 1)))
        old = self._before(now_ms - late_ms) - 1  # of what is old enough for all views, the newest is enough
        if old > 0:
            for values in (self._times, self._ends, self._epochs):
                del values[:old]

    def end_by(self, time_ms: int) -> int:
        """What was certainly appended by then ends there; the log's start, where nothing was."""
        number = self._forget_untrue(self._before(time_ms))
        start = self.log.start_offset
        return max(self._ends[number - 1], start) if number else start

    def _before(self, time_ms: int) -> int:
        """How many notes are of that time, or earlier."""
        return bisect_right(self._times, time_ms)

    def _forget_untrue(self, number: int) -> int:
        """Of the first so many notes, as many as are true. Those that are not go, and all behind them."""
        kept = number
        while kept and not self._is_true(kept - 1):
            kept -= 1
        if kept < number:
            for values in (self._times, self._ends, self._epochs):
                del values[kept:]
            self.is_dirty = True
        return kept

    def _is_true(self, number: int) -> bool:
        log, end = self.log, self._ends[number]
        if end <= log.start_offset:
            return True
        return end <= log.end.value and log.epochs.epoch_at(end - 1) == self._epochs[number]


def spacing_ms(late_ms: int) -> int:
    """How much time lies between two notes, for views that are so late."""
    return late_ms // NOTES_MAX
