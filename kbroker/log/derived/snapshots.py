"""Which producer snapshots a log keeps, and when it takes one. The format belongs to `producers`.

One is taken at each roll, at a clean stop, and whenever enough was appended since the last, so that a restart replays
little. Kept are those at the base of a segment (where a deletion or truncation may leave the log) and the newest two.
"""

from __future__ import annotations

from collections.abc import Container

from kbroker.env import Disk

REPLAY_BYTES_MAX = 64 * 1024 * 1024
REPLAY_BATCHES_MAX = 20_000
BATCH_COST = REPLAY_BYTES_MAX // REPLAY_BATCHES_MAX  # a batch replays like that many bytes
NEWEST_KEPT = 2
SUFFIX = ".snapshot"


def snapshot_path(directory: str, offset: int) -> str:
    """The file of the state below an offset."""
    return f"{directory}/{offset:020d}{SUFFIX}"


class Snapshots:
    """The snapshot files of one log, by offset; and how much may be appended before the next."""

    __slots__ = ("disk", "directory", "offsets", "_budget")

    def __init__(self, disk: Disk, directory: str, offsets: list[int]) -> None:
        self.disk = disk
        self.directory = directory
        self.offsets = offsets  # in order
        self._budget = REPLAY_BYTES_MAX

    @property
    def latest(self) -> int:
        """The newest one's offset; -1 when there is none."""
        return self.offsets[-1] if self.offsets else -1

    def grow(self, size: int, batches: int = 1) -> bool:
        """Batches of that size in all were appended: whether it is time for a snapshot."""
        self._budget -= size + batches * BATCH_COST
        return self._budget < 0

    def write(self, offset: int, content: bytes, producers: int, bases: Container[int]) -> None:
        """Write the snapshot at an offset, of that many producers, and remove those that are kept for nothing.

        bases: of the log's segments. May raise OSError.
        """
        self.disk.write_atomic(snapshot_path(self.directory, offset), content, sync=False)
        self._budget = max(REPLAY_BYTES_MAX, 10 * BATCH_COST * producers)
        if offset != self.latest:
            self.offsets.append(offset)
            self.keep_at(bases)

    def keep_at(self, bases: Container[int]) -> None:
        """Remove those that are kept for nothing: neither at the base of a segment nor among the newest."""
        for old in self.offsets[:-NEWEST_KEPT]:
            if old not in bases:
                self._remove(old)

    def postpone(self) -> None:
        """The disk refused one: the next is tried when as much has been appended again."""
        self._budget = REPLAY_BYTES_MAX

    def below(self, offset: int) -> list[int]:
        """Those of deleted segments, for a worker to remove."""
        return [each for each in self.offsets if each < offset]

    def forget(self, offsets: Container[int]) -> None:
        """Those were removed."""
        self.offsets = [each for each in self.offsets if each not in offsets]

    def truncate(self, offset: int) -> None:
        """Remove those above the log's end: what they speak of is gone. May raise OSError."""
        for gone in [each for each in self.offsets if each > offset]:
            self.disk.remove(snapshot_path(self.directory, gone))
            self.offsets.remove(gone)

    def adopt(self, offsets: list[int]) -> None:
        """These alone have turned out to be good."""
        self.offsets = offsets

    def _remove(self, offset: int) -> None:
        try:
            self.disk.remove(snapshot_path(self.directory, offset))
        except FileNotFoundError:
            pass
        except OSError:
            return
        self.offsets.remove(offset)
