"""What is gone of a schedule, though its rows are still there: by id, and by key.

An id has eight bytes, as in a row. Of what was hurried the row with its due time is gone; one that is due at once is
not.
"""

from __future__ import annotations

from collections.abc import Sequence

AT_ONCE = bytes(8)  # the due time of what was hurried


class Gone:
    """Ids and keys whose rows do not count."""

    __slots__ = ("removed", "hurried", "cancelled_keys", "hurried_keys")

    def __init__(self) -> None:
        self.removed: set[bytes] = set()
        self.hurried: set[bytes] = set()
        self.cancelled_keys: dict[bytes, bytes] = {}  # a digest: ids below this
        self.hurried_keys: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self.removed) + len(self.hurried) + len(self.cancelled_keys) + len(self.hurried_keys)

    def copy(self) -> Gone:
        """As it is now."""
        copy = Gone()
        copy.add(self)
        return copy

    def add(self, other: Gone) -> None:
        """What is gone by another is gone."""
        self.removed |= other.removed
        self.hurried |= other.hurried
        for mine, others in self._keys_of(other):
            for key, before in others.items():
                mine[key] = max(before, mine.get(key, b""))

    def subtract(self, other: Gone) -> None:
        """What was gone by another, at an earlier time, has no rows any more: forget it."""
        self.removed -= other.removed
        self.hurried -= other.hurried
        for mine, others in self._keys_of(other):
            for key, before in others.items():
                if mine.get(key) == before:
                    del mine[key]

    def below(self, offset: int) -> Gone:
        """What of it is about ids below an offset alone."""
        bound = offset.to_bytes(8, "big")
        found = Gone()
        found.removed = {id for id in self.removed if id < bound}
        found.hurried = {id for id in self.hurried if id < bound}
        found.cancelled_keys = {key: before for key, before in self.cancelled_keys.items() if before <= bound}
        found.hurried_keys = {key: before for key, before in self.hurried_keys.items() if before <= bound}
        return found

    def live(self, rows: Sequence[bytes]) -> Sequence[bytes]:
        """The rows that count."""
        return [row for row in rows if not (self.has_removed(row) or self.has_hurried(row))] if len(self) else rows

    def has_removed(self, row: bytes) -> bool:
        """Whether it was removed, or cancelled."""
        id = row[8:16]
        return id in self.removed or id < self.cancelled_keys.get(row[24:], b"")

    def has_hurried(self, row: bytes) -> bool:
        """Whether another row that is due at once stands for it."""
        id = row[8:16]
        return row[:8] != AT_ONCE and (id in self.hurried or id < self.hurried_keys.get(row[24:], b""))

    def forget(self, rows: Sequence[bytes]) -> None:
        """These were passed, with all others at their places: their ids do not come again."""
        if not (self.removed or self.hurried):
            return
        for row in rows:
            self.removed.discard(row[8:16])
            if row[:8] != AT_ONCE:
                self.hurried.discard(row[8:16])

    def _keys_of(self, other: Gone) -> tuple[tuple[dict[bytes, bytes], dict[bytes, bytes]], ...]:
        return (self.cancelled_keys, other.cancelled_keys), (self.hurried_keys, other.hurried_keys)
