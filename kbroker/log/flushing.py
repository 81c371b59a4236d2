"""What a flush, or a truncation, makes durable: the work of a worker, in an order that holds at every crash.

Order (L3, L6): the batches of closed segments with their indexes and the producer snapshots at their ends (the only
trace of some producers once the segments are deleted), the active segment's batches, the epoch checkpoint when it
changed, the directory when files were made, the parent when the directory was; then, and only then, the recovery point
moves.

The worker writes no file that anybody else writes: it syncs what the event loop has written. (Two writers of a file
share the name of its temporary file, and may leave a torn one.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kbroker.env import Disk, Handle
from kbroker.log import recovery
from kbroker.log.checkpoints import FSYNC_FAILED
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.derived.snapshots import snapshot_path
from kbroker.log.segment import Segment


class Settling(NamedTuple):
    """What makes a truncation final: until it is durable, a power failure could mix batches that were cut with those
    written in their place; and the producers are known when the batches that are left have been read.
    """

    disk: Disk
    directory: str
    active: Handle
    segments: list[Segment]  # twins, which nobody else has
    snapshots: list[int]  # offsets, in order

    def run(self) -> tuple[ProducerStates, list[int]]:
        """In a worker: the producers, and the offsets of the snapshots that are good. May raise OSError."""
        try:
            self.active.sync()
            self.disk.sync_dir(self.directory)
        except OSError:
            note_failure(self.disk, self.directory)
            raise
        producers = ProducerStates()
        try:
            good = recovery.restore_producers(self.disk, self.directory, self.segments, producers, self.snapshots)
            return producers, good
        finally:
            for segment in self.segments:
                segment.close()


class Flush(NamedTuple):
    """Picked on the event loop, so that the worker reads nothing that may change."""

    disk: Disk
    directory: str
    handles: Sequence[Handle]
    paths: Sequence[str]  # not open. Some are absent: small segments have no index files, and retention removes
    sync_directory: bool
    sync_parent: bool

    def run(self) -> OSError | None:
        """Sync everything, in a worker. What the disk merely refuses (no descriptor left) is returned: then nothing is
        proven, and a later flush may try again. A failed fsync is raised, and noted for whoever opens the log next."""
        try:
            return self._sync()
        except OSError:
            note_failure(self.disk, self.directory)  # here: the process may be dead when the event loop hears of it
            raise

    def _sync(self) -> OSError | None:
        for handle in self.handles:
            handle.sync()
        for path in self.paths:
            try:
                file = self.disk.open(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                return error
            try:
                file.sync()
            finally:
                file.close()
        if self.sync_directory:
            try:
                self.disk.sync_dir(self.directory)
            except FileNotFoundError as error:  # the log has started over meanwhile, or was deleted
                return error
        if self.sync_parent:
            self.disk.sync_dir("")
        return None


def note_failure(disk: Disk, directory: str) -> None:
    """An fsync failed: the page cache may hold what no other will ever write (L2)."""
    try:
        disk.write_atomic(f"{directory}/{FSYNC_FAILED}", b"", sync=False)
    except OSError:
        pass


def paths_of(directory: str, closed: Iterable[Segment]) -> Iterator[str]:
    """What is to be synced of closed segments, besides the files that are open."""
    for segment in closed:
        if segment.open_file is None:
            yield segment.path
        yield segment.stem + ".timeindex"
        yield segment.stem + ".index"
        yield segment.stem + ".txnindex"
        yield snapshot_path(directory, segment.next_offset)
