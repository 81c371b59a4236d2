"""What is pending in one partition, in the order in which it is due. Derived from the partition's log, and owned by
whoever reads that.

    add ──▶ pending ──take──▶ taken ──remove──▶ gone        remove, cancel: gone from wherever it is
                 ▲               │                          hurry: pending, and due at once
                 └────release────┘

It is read and changed by one at a time. What is told to block touches the disk and is for a worker; the rest may be
called on the loop, but not while a worker is at it. `next_due_ms` and `len` may be read at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from kbroker.env import Disk

KEY_BYTES = 8  # of a key's digest; all zero: without a key, which no cancel finds
NEVER = (1 << 63) - 1  # when nothing is pending
AT_ONCE = 0  # what was hurried is due then


class Entry(NamedTuple):
    """A record that is pending. In order: what is due first; of those due together what came first."""

    due_ms: int  # on the data clock; AT_ONCE when it was hurried
    id: int  # the offset that it had when it came
    offset: int  # where the log has it
    key: bytes  # KEY_BYTES: a digest of its key


class Position(NamedTuple):
    """How far the log was read."""

    offset: int  # of what comes next
    leader_epoch: int  # of what came last; -1: of nothing


class Schedule:
    """What is pending, by due time."""

    def __init__(self, disk: Disk, directory: str) -> None:
        """An empty one. directory: its own, made when there is something to write."""
        self._disk = disk
        self._directory = directory
        self._pending: dict[int, Entry] = {}
        self._taken: dict[int, Entry] = {}
        self._order: list[tuple[int, int]] = []  # a heap; what is not pending (any more) does not count

    def __len__(self) -> int:
        """How many are pending or taken, at most: what a cancel by key has hit may be counted for a while."""
        return len(self._pending) + len(self._taken)

    @property
    def next_due_ms(self) -> int:
        """When the first that is pending, and not taken, is due; NEVER. It may be too early, never too late."""
        return self._order[0][0] if self._order else NEVER

    def add(self, entries: Iterable[Entry]) -> None:
        """These are pending. One of an id that is pending takes its place: its record lies elsewhere now."""
        for entry in entries:
            self._pending[entry.id] = entry
            heappush(self._order, entry[:2])

    def remove(self, ids: Iterable[int]) -> None:
        """These are not pending any more: delivered, or cancelled by their ids. Unknown ones are fine."""
        for each in ids:
            self._pending.pop(each, None)
            self._taken.pop(each, None)
        self._trim()

    def cancel(self, key: bytes, before: int) -> None:
        """Nothing of this key is pending any more that came before an offset: whose id is below it."""
        self.remove([each.id for each in self._all() if each.key == key and each.id < before])

    def hurry(self, ids: Iterable[int]) -> None:
        """These are due at once, if they are pending. Blocks."""
        for each in ids:
            self._hurry(each)

    def hurry_key(self, key: bytes, before: int) -> None:
        """What is pending of this key, and came before an offset, is due at once. Blocks."""
        self.hurry([each.id for each in self._all() if each.key == key and each.id < before])

    def take(self, now_ms: int, most: int) -> list[Entry]:
        """What is due by now, in order, up to so many: taken from what is pending. Blocks."""
        taken: list[Entry] = []
        while len(taken) < most and self.next_due_ms <= now_ms:
            due_ms, id = heappop(self._order)
            entry = self._pending.get(id)
            if entry is not None and entry.due_ms == due_ms:
                taken.append(self._pending.pop(id))
        self._taken.update((each.id, each) for each in taken)
        self._trim()
        return taken

    def release(self) -> None:
        """What was taken is pending again."""
        taken, self._taken = self._taken, {}
        self.add(taken.values())

    def page(self, after: tuple[int, int], most: int) -> list[Entry]:
        """What is pending or taken behind a due time and id, in order. Fewer than most: that was the last. Blocks."""
        return sorted(each for each in self._all() if each[:2] > after)[:most]

    def page_below(self, offset: int, after: tuple[int, int], most: int) -> list[Entry]:
        """The same of those whose records the log has below an offset. Blocks."""
        return sorted(each for each in self._all() if each[:2] > after and each.offset < offset)[:most]

    @property
    def lowest_offset(self) -> int:
        """No record of what is pending or taken lies below this; NEVER: nothing is pending.

        It may be lower than need be, until `settle` has nothing to do after `tighten`.
        """
        return min((each.offset for each in self._all()), default=NEVER)

    def tighten(self) -> None:
        """Have the next `settle` go through everything, so that `lowest_offset` is exact, and files hold no waste."""

    def settle(self) -> bool:
        """Bring what has grown too large for memory to the disk, a piece at a time. True: there is more to do. Blocks.

        To be called until it is False after each few thousand entries, removals or cancels. May raise OSError: all is
        as it was then, in memory. Do not read on before it has succeeded.
        """
        return False

    def save(self, position: Position) -> None:
        """Have it found by `load` as it is now; taken counts as pending. Blocks. May raise OSError: another time."""
        rows = [(*each[:3], each.key.hex()) for each in self._all()]
        self._disk.make_dirs(self._directory)
        self._disk.write_atomic(f"{self._directory}/schedule", json.dumps([position, rows]).encode())

    @classmethod
    def load(cls, disk: Disk, directory: str) -> tuple[Schedule, Position] | None:
        """What was saved last; None when there is nothing, or it is damaged. Blocks. May raise OSError."""
        schedule = cls(disk, directory)
        try:
            position, rows = json.loads(disk.read(f"{directory}/schedule"))
            entries = [Entry(due_ms, id, offset, bytes.fromhex(key)) for due_ms, id, offset, key in rows]
        except (FileNotFoundError, ValueError):
            return None
        schedule.add(entries)
        return schedule, Position(*position)

    def _all(self) -> list[Entry]:
        return [*self._pending.values(), *self._taken.values()]

    def _hurry(self, id: int) -> None:
        if id in self._pending:
            self.add([self._pending[id]._replace(due_ms=AT_ONCE)])

    def _trim(self) -> None:
        while self._order and self._is_stale(*self._order[0]):
            heappop(self._order)
        if len(self._order) > 2 * len(self._pending) + 64:
            self._order = [each[:2] for each in self._pending.values()]
            heapify(self._order)

    def _is_stale(self, due_ms: int, id: int) -> bool:
        entry = self._pending.get(id)
        return entry is None or entry.due_ms != due_ms


class Damaged(Exception):
    """A file of the schedule is not what was written: it has to be made anew, from the log."""
