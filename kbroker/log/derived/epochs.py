"""The leader epochs of a log: which leader wrote from which offset on (KIP-101, KIP-279, KIP-320).

Owns `leader-epoch-checkpoint`, a text file that is replaced whole:

    0                   version
    2                   number of entries
    0 0                 epoch, its first offset
    3 1741              both columns rise strictly

The file holds epochs that have records (an epoch without any is replaced by its successor), so it is written at the
first append of an epoch and can be rebuilt from the batches, which carry their epoch. It is made durable before the
recovery point passes an epoch's first batch. Only the event loop writes it (or a recovery, when nobody else has the
log): a flush in a worker merely syncs what is there. (Kafka: LeaderEpochFileCache.)
"""

from __future__ import annotations

from bisect import bisect_right

from kbroker.env import Disk

FILE_NAME = "leader-epoch-checkpoint"
NO_EPOCH = -1
NONE = (NO_EPOCH, -1)


class LeaderEpochs:
    """Epochs and their first offsets, in order."""

    __slots__ = ("_epochs", "_starts", "_synced", "is_dirty", "changes")

    def __init__(self) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        self.is_dirty = False  # the file lacks something
        self.changes = 0  # so far
        self._synced = 0  # of the changes: how many are durable

    @property
    def latest(self) -> int:
        """The newest epoch; -1 when there is none."""
        return self._epochs[-1] if self._epochs else -1

    @property
    def is_unsynced(self) -> bool:
        """Whether the file, or what it should hold, is not durable."""
        return self._synced != self.changes

    def unchanged(self) -> None:
        """The changes since the file was read have cancelled out: it is right as it is."""
        self.is_dirty = False

    def synced(self, changes: int) -> None:
        """The file is durable as it was after so many changes."""
        self._synced = changes

    @property
    def entries(self) -> list[tuple[int, int]]:
        """(epoch, first offset), oldest first."""
        return list(zip(self._epochs, self._starts, strict=True))

    def assign(self, epoch: int, start_offset: int) -> None:
        """Begin an epoch at an offset. An epoch not newer than the latest changes nothing, like a replayed batch."""
        if self._epochs and epoch <= self._epochs[-1]:
            return
        while self._starts and self._starts[-1] >= start_offset:  # the predecessor wrote nothing
            self._starts.pop()
            self._epochs.pop()
        self._epochs.append(epoch)
        self._starts.append(start_offset)
        self._change()

    def end_offset_for(self, epoch: int, log_end: int) -> tuple[int, int]:
        """(epoch, end offset) of the largest epoch <= the one asked for; (-1, -1) when it cannot be told.

        For the latest epoch that is log_end. An epoch newer than the latest is unknown: (-1, -1). For an epoch
        older than all that are known the answer is that epoch and the start of the first known one.
        """
        if epoch == NO_EPOCH or not self._epochs or epoch > self._epochs[-1]:
            return NONE
        n = bisect_right(self._epochs, epoch)
        if n == len(self._epochs):
            return self._epochs[-1], log_end
        return (self._epochs[n - 1] if n else epoch), self._starts[n]

    def end_offset_while_leading(self, epoch: int, log_end: int, leader_epoch: int, begun_at: int) -> tuple[int, int]:
        """The same, of a leader's log: its own epoch ends at log_end, and what came before that where it began.

        Epochs that left no record count: what was written in one of them elsewhere is no part of this log. So in epoch
        6, begun at 55, of a log with the epochs 1 and 3: 2 -> (1, where 3 starts), 5 -> (3, 55), 6 -> (6, log_end).
        """
        if epoch == leader_epoch:
            return epoch, log_end
        if self.latest < epoch < leader_epoch:
            return (self.latest if self.latest != NO_EPOCH else epoch), begun_at
        return self.end_offset_for(epoch, log_end if self.latest == leader_epoch else begun_at)

    def epoch_at(self, offset: int) -> int:
        """The epoch that wrote an offset; -1 when unknown."""
        n = bisect_right(self._starts, offset)
        return self._epochs[n - 1] if n else -1

    def truncate_end(self, offset: int) -> None:
        """Forget epochs that begin at or after an offset (the log was cut there)."""
        while self._starts and self._starts[-1] >= offset:
            self._starts.pop()
            self._epochs.pop()
            self._change()

    def truncate_start(self, offset: int) -> None:
        """Forget epochs that end at or before an offset; the one that holds it begins there (the log start rose)."""
        n = bisect_right(self._starts, offset) - 1
        if n > 0:
            del self._starts[:n], self._epochs[:n]
            self._change()
        if self._starts and self._starts[0] < offset:
            self._starts[0] = offset
            self._change()

    def load(self, disk: Disk, directory: str) -> bool:
        """Read the file; False (and nothing loaded) when it is damaged. FileNotFoundError when there is none."""
        try:
            *lines, torn = disk.read(f"{directory}/{FILE_NAME}").decode("ascii").split("\n")
            pairs = [(int(epoch), int(start)) for epoch, start in map(str.split, lines[2:])]
            if lines[0] != "0" or int(lines[1]) != len(pairs) or torn:
                return False
        except (ValueError, IndexError):
            return False
        self._epochs = [epoch for epoch, _ in pairs]
        self._starts = [start for _, start in pairs]
        return self._epochs == sorted(set(self._epochs)) and self._starts == sorted(set(self._starts))

    def save(self, disk: Disk, directory: str) -> OSError | None:
        """Bring the file up to date, though not durably. Returns why not, if the disk refuses: the batches still carry
        their epoch, and the next one tries again."""
        try:
            disk.write_atomic(f"{directory}/{FILE_NAME}", self.content(), sync=False)
        except OSError as error:
            return error
        self.is_dirty = False
        return None

    def clear(self) -> None:
        """Forget everything, to be rebuilt from batches."""
        self._epochs.clear()
        self._starts.clear()
        self._change()

    def content(self) -> bytes:
        """What the file should hold."""
        text = "".join(f"{epoch} {start}\n" for epoch, start in self.entries)
        return f"0\n{len(self._epochs)}\n{text}".encode("ascii")

    def _change(self) -> None:
        self.is_dirty = True
        self.changes += 1
