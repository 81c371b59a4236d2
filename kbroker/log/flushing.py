"""Making a log durable: group commit. One fsync is in flight for a log; all who ask meanwhile share the next one.

Order (L3, L6): the batches of closed segments with their indexes and the producer snapshots at their ends (the only
trace of some producers once the segments are deleted), the active segment's batches, the epoch checkpoint
when it changed, the directory when files were made, the parent when the directory was; then, and only then, the
recovery point moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.env import Disk, File, Offload
from kbroker.log.checkpoints import FSYNC_FAILED, METADATA, metadata_content
from kbroker.log.epochs import FILE_NAME as EPOCHS
from kbroker.log.errors import LogOffline
from kbroker.log.segment import Segment
from kbroker.log.snapshots import snapshot_path

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog


class Flusher:
    """When a log's flush is due, and the flush itself."""

    __slots__ = ("log", "_bell", "_dirty_since_ms", "_cuts", "_segments_synced", "_metadata_synced")

    def __init__(self, log: PartitionLog) -> None:
        self.log = log
        self._bell: trio.Event | None = None  # rings when the flush under way ends; None: none is
        self._dirty_since_ms: int | None = None  # when the oldest batch came that no flush covers
        self._cuts = 0  # truncations so far: a flush that one overtook proves nothing
        self._segments_synced = -1  # base offset of the newest segment whose directory entry is durable
        self._metadata_synced = False

    def resume(self, recovery_point: int) -> None:
        """The log was opened: what is below its recovery point needs no fsync again.

        That holds for an empty log as well: one that begins above 0 has yet to make its first segment's name durable.
        """
        log = self.log
        log.flushed.value = recovery_point
        for segment in log.segments[:-1]:
            segment.is_synced = segment.next_offset < recovery_point
        self._metadata_synced = recovery_point > 0 and log.is_created

    def grow(self, now_ms: int) -> None:
        """A batch was appended."""
        if self._dirty_since_ms is None:
            self._dirty_since_ms = now_ms
            log = self.log
            if log.on_due is not None and log.config.flush_ms < 2**63 - 1:
                log.on_due(log)

    def rolled(self) -> None:
        """A segment was closed: it is to become durable soon, in the background."""
        if self.log.on_due is not None:
            self.log.on_due(self.log)

    def cut(self) -> None:
        """The log was truncated."""
        self._cuts += 1

    def is_due(self, now_ms: int) -> bool:
        """Whether `flush.messages` or `flush.ms` has been reached."""
        log = self.log
        pending = log.end.value - log.flushed.value
        if pending <= 0:
            return False
        if pending >= log.config.flush_messages:  # also when an earlier process, or a flush under way, owes it
            return True
        return self._dirty_since_ms is not None and now_ms - self._dirty_since_ms >= log.config.flush_ms

    async def flush(self, offload: Offload, target: int) -> None:
        """Wait until everything below target is durable. Raises LogOffline, KAFKA_STORAGE_ERROR on a full disk."""
        flushed = self.log.flushed
        flushed.check()
        while flushed.value < min(target, self.log.end.value):
            if self._bell is not None:
                await self._bell.wait()
            else:
                self._bell = trio.Event()
                try:
                    await self._flush_once(offload, target)
                finally:
                    self._bell.set()
                    self._bell = None
            flushed.check()

    async def _flush_once(self, offload: Offload, target: int) -> None:
        log, cuts, since_ms = self.log, self._cuts, self._dirty_since_ms
        closed = [segment for segment in log.segments[:-1] if not segment.is_synced]
        with_active = target > log.active.base_offset
        end = log.end.value if with_active else log.active.base_offset
        newest = log.active.base_offset
        self._dirty_since_ms = None if with_active else since_ms
        epochs_are_new, is_metadata_new = log.epochs.is_unsynced, not self._metadata_synced
        log.epochs.is_unsynced = False
        try:
            refused = await offload(self._work(closed, with_active, newest, epochs_are_new))
        except OSError as error:
            raise log.fail(LogOffline(f"{log.directory}: fsync failed: {error}")) from error
        except BaseException:  # cancelled: nobody knows how far it came
            log.epochs.is_unsynced, self._dirty_since_ms = True, since_ms
            raise
        if refused is not None:
            log.epochs.is_unsynced, self._dirty_since_ms = log.epochs.is_unsynced or epochs_are_new, since_ms
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{log.directory}: {refused}")
        self._segments_synced, self._metadata_synced = newest, self._metadata_synced or is_metadata_new
        if cuts == self._cuts:
            for segment in closed:
                segment.is_synced = True
            log.flushed.advance(end)

    def _work(
        self, closed: list[Segment], with_active: bool, newest: int, epochs_are_new: bool
    ) -> Callable[[], OSError | None]:
        """What the worker does: with files and values picked now, so that it reads nothing that may change.

        A failed fsync is raised. What the disk merely refuses (no space for a small file, no descriptor left) is
        returned: then nothing is proven, and a later flush may try again.
        """
        log, disk, directory = self.log, self.log.disk, self.log.directory
        segments = [*closed, log.active] if with_active else closed
        derived = [path for segment in closed for path in (segment.stem + ".timeindex", segment.stem + ".index")]
        derived += [snapshot_path(directory, segment.next_offset) for segment in closed]
        small: list[tuple[str, bytes]] = []
        if epochs_are_new:
            small.append((f"{directory}/{EPOCHS}", log.epochs.content()))
        if not self._metadata_synced and log.topic_id is not None:
            small.append((f"{directory}/{METADATA}", metadata_content(log.topic_id)))
        new_files, new_directory = newest != self._segments_synced, not self._metadata_synced

        try:
            log.create()
            files = [segment.file for segment in segments]
            _ = log.active.file  # even an empty one: its name says where the log begins
        except OSError as error:
            return partial(_return, error)

        def work() -> OSError | None:
            try:
                return sync()
            except OSError:
                _remember_failure(log)  # here, not when the event loop hears of it: the process may be dead by then
                raise

        def sync() -> OSError | None:
            try:
                opened = [file for path in derived if (file := _open_if_there(disk, path)) is not None]
            except OSError as error:
                return error
            for file in (*files, *opened):
                file.sync()
            for file in opened:
                file.close()
            try:
                for path, content in small:
                    disk.write_atomic(path, content, sync=True)
            except OSError as error:
                return error
            if new_files:
                disk.sync_dir(directory)
            if new_directory:
                disk.sync_dir("")
            return None

        return work

    async def sync_derived(self, offload: Offload) -> None:
        """Wait until the active segment's index files and the newest snapshot are durable: for a clean stop."""
        log, active = self.log, self.log.active
        if active.index is None or not log.is_created:
            return  # nothing was written since it was opened
        paths = [active.stem + ".timeindex", active.stem + ".index"]
        if log.snapshot_offset >= 0:
            paths.append(snapshot_path(log.directory, log.snapshot_offset))

        def work() -> None:
            for path in paths:
                file = _open_if_there(log.disk, path)
                if file is not None:
                    file.sync()
                    file.close()
            log.disk.sync_dir(log.directory)

        await offload(work)


def _remember_failure(log: PartitionLog) -> None:
    """Tell whoever opens the log next that its page cache may hold what no fsync will ever write (L2)."""
    try:
        log.disk.write_atomic(f"{log.directory}/{FSYNC_FAILED}", b"", sync=False)
    except OSError:
        pass


def _open_if_there(disk: Disk, path: str) -> File | None:
    """A derived file. A small segment has no index files, and retention may just have removed them."""
    try:
        return disk.open(path)
    except FileNotFoundError:
        return None


def _return(error: OSError) -> OSError | None:
    return error
