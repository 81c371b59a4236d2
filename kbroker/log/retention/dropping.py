"""What a worker does with the files of deleted segments: they are renamed to `<name>.deleted`, to be removed later.

The oldest segment first, and of each one its batches last: whenever that ends, what is left is a log without a hole,
and has lost no more than what can be rebuilt. What a crash leaves between renaming and removing goes at the next open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from kbroker.env import Disk
from kbroker.log.derived.snapshots import snapshot_path
from kbroker.log.segment import Segment

DELETED = ".deleted"


class Dropped(NamedTuple):
    """How far that came."""

    segments: int
    paths: list[str]  # the names that their files have now
    error: OSError | None  # why it ended there


class Dropping(NamedTuple):
    """Picked on the event loop: nobody else has these segments any more."""

    disk: Disk
    directory: str
    segments: Sequence[Segment]  # in order
    snapshots: Sequence[int]  # offsets of snapshots that go with them
    is_last: bool  # after this all are done: make it durable

    def run(self) -> Dropped:
        """In a worker. What is not there is done."""
        paths: list[str] = []
        done = 0
        try:
            for segment in self.segments:
                self._rename(segment, paths)
                done += 1
            for offset in self.snapshots:
                with suppress(FileNotFoundError):
                    self.disk.remove(snapshot_path(self.directory, offset))
            if self.is_last:
                self.disk.sync_dir(self.directory)
        except OSError as error:
            return Dropped(done, paths, error.with_traceback(None))
        return Dropped(done, paths, None)

    def _rename(self, segment: Segment, paths: list[str]) -> None:
        for path in reversed(segment.files()):
            with suppress(FileNotFoundError):
                self.disk.rename(path, path + DELETED)
                paths.append(path + DELETED)
