"""Which producer snapshots a log keeps, and when it takes one. The format belongs to `producers`.

One is taken at each roll, at a clean stop, and whenever enough was appended since the last, so that a restart replays
little. Kept are those at the base of a segment (where a deletion or truncation may leave the log) and the newest two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbroker.env import Disk

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

REPLAY_BYTES_MAX = 64 * 1024 * 1024
REPLAY_BATCHES_MAX = 20_000
BATCH_COST = REPLAY_BYTES_MAX // REPLAY_BATCHES_MAX  # a batch replays like that many bytes
NEWEST_KEPT = 2
SUFFIX = ".snapshot"


def snapshot_path(directory: str, offset: int) -> str:
    """The file of the state below an offset."""
    return f"{directory}/{offset:020d}{SUFFIX}"


class Snapshots:
    """The snapshot files of one log, by offset."""

    __slots__ = ("disk", "directory", "offsets", "_budget")

    def __init__(self, disk: Disk, directory: str) -> None:
        self.disk = disk
        self.directory = directory
        self.offsets: list[int] = []
        self._budget = REPLAY_BYTES_MAX

    @property
    def latest(self) -> int:
        """The newest one's offset; -1 when there is none."""
        return self.offsets[-1] if self.offsets else -1

    def adopt(self, offsets: list[int]) -> None:
        """Take over what recovery found, in order."""
        self.offsets = offsets

    def grow(self, log: PartitionLog, size: int) -> None:
        """A batch of that size was appended: maybe it is time for a snapshot."""
        self._budget -= size + BATCH_COST
        if self._budget < 0:
            self.take(log)

    def take(self, log: PartitionLog) -> None:
        """Write a snapshot of the log's producers now. If the disk refuses, a restart replays more: nothing is lost."""
        try:
            self.write(log)
        except OSError:
            self._budget = REPLAY_BYTES_MAX

    def write(self, log: PartitionLog) -> None:
        """Like take, but raises OSError."""
        offset = log.active.next_offset
        self.disk.write_atomic(snapshot_path(self.directory, offset), log.producers.snapshot(), sync=False)
        self._budget = max(REPLAY_BYTES_MAX, 10 * BATCH_COST * len(log.producers))
        if offset != self.latest:
            self.offsets.append(offset)
            self._drop_between({segment.base_offset for segment in log.segments})

    def _drop_between(self, bases: set[int]) -> None:
        for offset in self.offsets[:-NEWEST_KEPT]:
            if offset not in bases:
                self._remove(offset)

    def drop_below(self, offset: int) -> None:
        """Remove those of deleted segments."""
        for old in [each for each in self.offsets if each < offset]:
            self._remove(old)

    def truncate(self, offset: int) -> None:
        """Remove those above the log's end: what they speak of is gone. May raise OSError."""
        for gone in [each for each in self.offsets if each > offset]:
            self.disk.remove(snapshot_path(self.directory, gone))
            self.offsets.remove(gone)

    def _remove(self, offset: int) -> None:
        try:
            self.disk.remove(snapshot_path(self.directory, offset))
        except FileNotFoundError:
            pass
        except OSError:
            return
        self.offsets.remove(offset)
