"""A schedule that anybody can see to be right: a dictionary. The judge of the real one."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

from kbroker.delay.schedule import NEVER, Entry

AT_ONCE = 0


class Naive:
    """What is pending, by id."""

    def __init__(self) -> None:
        self.pending: dict[int, Entry] = {}
        self.taken: dict[int, Entry] = {}
        self.removed: set[int] = set()
        self.cancels: list[tuple[bytes, int]] = []
        self.hurries: list[tuple[bytes, int]] = []

    def copy(self) -> Naive:
        return deepcopy(self)

    def all(self) -> list[Entry]:
        return sorted([*self.pending.values(), *self.taken.values()])

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            (self.taken if entry.id in self.taken else self.pending)[entry.id] = entry

    def commit(self, entries: Iterable[Entry]) -> None:
        """Add what lies further up in the log: it may have been cancelled or hurried there."""
        for entry in entries:
            if entry.id not in self.removed and not any(
                key == entry.key and entry.id < before for key, before in self.cancels
            ):
                is_hurried = any(key == entry.key and entry.id < before for key, before in self.hurries)
                self.pending[entry.id] = entry._replace(due_ms=AT_ONCE) if is_hurried else entry

    def remove(self, ids: Iterable[int], before: int = NEVER) -> None:
        for each in [id for id in ids if id < before]:
            self.removed.add(each)
            self.pending.pop(each, None)
            self.taken.pop(each, None)

    def cancel(self, key: bytes, before: int) -> None:
        self.cancels.append((key, before))
        self.remove([each.id for each in self.all() if each.key == key and each.id < before])

    def hurry(self, ids: Iterable[int]) -> None:
        for each in ids:
            for held in (self.pending, self.taken):
                if each in held:
                    held[each] = held[each]._replace(due_ms=AT_ONCE)

    def hurry_key(self, key: bytes, before: int) -> None:
        self.hurries.append((key, before))
        self.hurry([each.id for each in self.all() if each.key == key and each.id < before])

    def take(self, now_ms: int, most: int) -> list[Entry]:
        taken = sorted(each for each in self.pending.values() if each.due_ms <= now_ms)[:most]
        for each in taken:
            self.taken[each.id] = self.pending.pop(each.id)
        return taken

    def release(self) -> None:
        taken, self.taken = self.taken, {}
        self.pending.update(taken)

    @property
    def next_due_ms(self) -> int:
        return min([each.due_ms for each in self.pending.values()], default=NEVER)

    @property
    def lowest_offset(self) -> int:
        return min([each.offset for each in self.all()], default=NEVER)
