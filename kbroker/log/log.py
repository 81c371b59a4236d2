"""PartitionLog: the log of one partition. Owns its directory, its end offset, producer state and epoch history.

    <topic>-<partition>/
        00000000000000000000.log  .index  .timeindex     a segment, named by its base offset
        00000000000000345678.log  .index  .timeindex     the active one: the only one that grows
        00000000000000345678.snapshot                    producers as of an offset
        leader-epoch-checkpoint                          which epoch began where
        partition.metadata                               the topic's id

        start_offset          flushed                 end
             |                   |                     |
      -------+===================+---------------------+         === durable    --- in the page cache
             oldest record       recovery point        next offset

State changes in `def`, so an append is atomic: it writes once, then notes what it wrote, which cannot fail (L1). Only
`flush` and `settle` wait: one syncs files in a worker and then moves `flushed` (L3), the other makes a truncation
durable, before which nothing may be appended in the place of what was cut. After an error of the disk that leaves the
file in doubt the log is `offline` until it is reopened and rescanned (L2).

Nobody else changes a log. What stands in other files decides, and is told values: `retention` says what is too old,
`snapshots` and `epochs` keep small files, `flushing` is what a worker does. Files are written by the event loop alone;
workers sync and read.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import AbortedTransaction
from kafka_wire.records import LENGTH_OFFSET, BatchHeader, assign, read_header, set_log_append_time
from kbroker.config.topic import TopicConfig
from kbroker.env import Clock, Disk, FileSlice, Offload
from kbroker.log import recovery, retention
from kbroker.log.checkpoints import METADATA, metadata_content
from kbroker.log.content import lookup
from kbroker.log.content.lookup import Found
from kbroker.log.content.validation import Rules
from kbroker.log.derived.epochs import FILE_NAME as EPOCHS
from kbroker.log.derived.producers import Guard
from kbroker.log.derived.snapshots import Snapshots, snapshot_path
from kbroker.log.derived.transactions import Marker
from kbroker.log.errors import CorruptLog, LogClosed, LogOffline, LogTruncated
from kbroker.log.flushing import Flush, Settling, paths_of
from kbroker.log.reading import Reading
from kbroker.log.recovery import Crash, End, Progress, Recovered
from kbroker.log.rediscovery import Rediscovery
from kbroker.log.segment import Segment, WritableBuffer, file_stem, tick
from kbroker.turns import Errands
from kbroker.watermark import Watermark

REREAD_BYTES_MAX = 1024 * 1024  # what an open may have to read for want of a producer snapshot at the log's end
DELETED_AT_ONCE = 64  # segments: some 5 ms
LONG_MAX = 2**63 - 1
NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

_base_offset = attrgetter("base_offset")


class Appended(NamedTuple):
    """Where a batch stands in the log."""

    base_offset: int
    last_offset: int
    append_time_ms: int  # -1 unless the topic has LogAppendTime
    duplicate: bool  # it was there already; nothing was written


class PartitionLog:
    """One partition's records, on one disk."""

    __slots__ = (
        "disk", "directory", "topic_id", "config", "start_offset", "end", "flushed", "epochs", "producers", "segments",
        "size", "offline", "high_watermark", "is_created", "_on_due", "_snapshots", "_deleted", "_released", "rules",
        "reading", "rediscovery", "flushes", "unread", "_flushing", "_dirty_since_ms", "_cuts", "_unsettled", "_named",
        "_is_metadata_synced",
    )  # fmt: skip

    def __init__(
        self,
        disk: Disk,
        directory: str,
        found: Recovered,
        *,
        config: TopicConfig,
        topic_id: bytes | None,
        recovery_point: int,
        on_due: Callable[[PartitionLog], None] | None = None,
    ) -> None:
        """A log whose files are in order. on_due: told when there is something to flush in the background."""
        self.disk = disk
        self.directory = directory
        self.topic_id = topic_id
        self.start_offset = found.start_offset  # the first offset that may be read; only rises (L8)
        self.segments = found.segments  # at least one, by base offset; the last is active
        self.size = sum([segment.size for segment in found.segments])  # bytes
        self.end = Watermark(found.segments[-1].next_offset)  # another one after a truncation
        self.flushed = Watermark(min(recovery_point, self.end.value))  # everything below is durable; like `end`
        self.epochs = found.epochs
        self.producers = found.producers
        self.offline: LogOffline | None = None  # why nothing is served any more
        self.high_watermark: Watermark | None = None  # the partition's; what is at or above it is never deleted (L8)
        self.is_created = found.is_created  # the directory is there
        self._on_due = on_due
        self._snapshots = Snapshots(disk, directory, found.snapshots)
        self._deleted: list[str] = []  # paths of files to be removed
        self.reading = Reading(self.segments)
        self.rediscovery = Rediscovery(disk, directory, self.segments)
        self._released = 0  # the tick of the last `release_idle`
        self._flushing: trio.Event | None = None  # rings when the flush under way ends; None: none is
        self._dirty_since_ms: int | None = None  # when the oldest batch came that no flush covers
        self._cuts = 0  # truncations so far: a flush that one overtook proves nothing
        self._unsettled = 0  # the number of the truncation that `settle` has yet to finish; 0: none
        self._named = -1  # base offset of the newest segment whose directory entry is durable
        # an empty log that begins above 0 has yet to make its first segment's name durable
        self._is_metadata_synced = recovery_point > 0 and found.is_created
        for segment in found.segments[:-1]:
            segment.is_synced = segment.next_offset < recovery_point
        self.unread = -1  # from where on nobody has read the records field by field; -1: nothing new to be read
        self.reconfigure(config)

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        *,
        config: TopicConfig,
        clock: Clock | None = None,
        topic_id: bytes | None,
        crash: Crash,
        recovery_point: int = 0,
        start_offset: int = 0,
        leader_epoch_max: int | None = None,
        on_due: Callable[[PartitionLog], None] | None = None,
        clean_end: End | None = None,
        progress: Progress | None = None,
    ) -> PartitionLog:
        """Open a log, or begin one (nothing is written before it must be).

        crash: how the process that wrote it ended. recovery_point: everything below is durable. start_offset: from the
        log-start checkpoint. leader_epoch_max: the leader epoch the cluster is at; None: not known. clock: producers
        read back count as seen now; without it, from their first expiry check. on_due: told when a flush is due.
        clean_end: what `finish` told at a clean stop. progress: to be kept up to date.
        Raises CorruptLog when durable bytes are wrong (L4) or of a leader the cluster has yet to elect (R11), OSError.
        """
        found = recovery.recover(
            disk, directory,
            crash=crash, recovery_point=recovery_point, start_offset=start_offset, interval=config.index_interval_bytes,
            leader_epoch_max=LONG_MAX if leader_epoch_max is None else leader_epoch_max,
            clean_end=clean_end, progress=progress or Progress(),
        )  # fmt: skip
        log = cls(
            disk, directory, found, config=config, topic_id=topic_id, recovery_point=recovery_point, on_due=on_due
        )
        if clock is not None:
            log.producers.touch(clock.data_ms())
        return log

    def reconfigure(self, config: TopicConfig) -> None:
        """Take a topic's changed settings."""
        self.config = config
        self.rules = Rules(config, self.directory.rpartition("/")[2])
        self.flushes = min(config.flush_messages, config.flush_ms) < LONG_MAX  # whether needs_flush is worth asking

    def guard(self, high_watermark: Watermark) -> None:
        """Delete nothing at or above this, the partition's high watermark, from now on (L8)."""
        self.high_watermark = high_watermark

    @property
    def active(self) -> Segment:
        """The segment that grows."""
        return self.segments[-1]

    # appending

    def append(
        self,
        batch: WritableBuffer,
        header: BatchHeader | None = None,
        *,
        leader_epoch: int,
        now_ms: int,
        guard: Guard | None = None,
    ) -> Appended:
        """Take one batch from a client, who must not use the buffer meanwhile: offset and epoch are patched into it.

        header: of a batch that `rules` has let pass; without it the batch is checked here, records and all.
        guard: of a transactional batch, as `producers.verification` gave it.
        Raises KafkaError for what is wrong with the batch or its sequence, KAFKA_STORAGE_ERROR when the disk is full
        (the log goes on when there is space), LogTruncated while a truncation is not settled, LogOffline for any other
        trouble with the disk.
        """
        if self.offline is not None:
            raise self.offline.again()
        if self._unsettled:
            self.check_settled()
        if header is None:
            batch, header = self.rules.check(batch, now_ms)
        append_time_ms = -1
        if self.rules.stamps:
            set_log_append_time(batch, 0, header, now_ms)
            header, append_time_ms = read_header(batch), now_ms
        if header.producer_id >= 0:
            seen = self.producers.check(header, guard)
            if seen is not None:
                at = seen.timestamp_ms if append_time_ms >= 0 else -1
                return Appended(seen.base_offset, seen.last_offset, at, True)
        base_offset = self.end.value
        assign(batch, 0, header, base_offset, leader_epoch)
        self._write(batch, header, base_offset, leader_epoch, now_ms)
        if self.unread < 0 and self.rules.leaves_unread:
            self.unread = base_offset
        return Appended(base_offset, base_offset + header.last_offset_delta, append_time_ms, False)

    def append_marker(self, marker: Marker, *, leader_epoch: int, now_ms: int) -> Appended:
        """End a producer's transaction, whether or not one is known here.

        Raises KafkaError INVALID_PRODUCER_EPOCH for an epoch below the producer's, TRANSACTION_COORDINATOR_FENCED for a
        coordinator that has a successor, and what append does.
        """
        self.check_online()
        self.check_settled()
        self.producers.check_marker(marker)
        batch = marker.batch(now_ms)
        header = read_header(batch)
        append_time_ms = -1
        if self.rules.stamps:
            set_log_append_time(batch, 0, header, now_ms)
            header, append_time_ms = read_header(batch), now_ms
        if self.active.aborted.size >= self.config.segment_index_bytes:
            self.roll()
        base_offset = self.end.value
        assign(batch, 0, header, base_offset, leader_epoch)
        self._write(batch, header, base_offset, leader_epoch, now_ms, marker)
        return Appended(base_offset, base_offset, append_time_ms, False)

    def refuse(self, header: BatchHeader) -> None:
        """Note that a batch was refused for now: those its producer sent behind it must not come first."""
        self.producers.refused(header)

    def expire_producers(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers that wrote nothing for expiration_ms. Returns how many."""
        return self.producers.expire(now_ms, expiration_ms)

    def looked_through(self, offset: int) -> None:
        """Everything below an offset has been read field by field (or is given up)."""
        self.unread = offset if offset < self.end.value else -1

    def _write(
        self,
        batch: WritableBuffer,
        header: BatchHeader,
        base_offset: int,
        leader_epoch: int,
        now_ms: int,
        marker: Marker | None = None,
    ) -> None:
        """Append a batch whose offsets are assigned, and note all that follows from it."""
        segment = self.segments[-1]
        if not segment.size:
            self._begin(segment, header, now_ms)
        elif segment.is_full(self.config, header, base_offset, now_ms):
            segment = self.roll()
            self._begin(segment, header, now_ms)
        epochs = self.epochs
        latest_epoch = epochs.latest
        if leader_epoch != latest_epoch:
            if leader_epoch < latest_epoch:  # R11
                text = f"leader epoch {leader_epoch} is older than the log's, {latest_epoch}"
                raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, text)
            epochs.assign(leader_epoch, base_offset)
        if epochs.is_dirty:
            epochs.save(self.disk, self.directory)
        if segment.open_file is None:
            self._open_file(segment)
        try:
            if marker is not None:  # first, so that no crash leaves it without a trace in the index
                segment.aborted.note(self.producers.transactions.aborted_by(marker, base_offset))
            segment.append(batch, header, base_offset, self.config.index_interval_bytes)
        except OSError as error:
            raise self._write_failed(segment, error) from error
        except LogOffline as error:
            raise self.fail(error) from error
        # The batch is in the log. From here on nothing may fail (L1).
        size = header.length + LENGTH_OFFSET
        self.size += size
        if header.producer_id >= 0:
            self.producers.update(header, base_offset, now_ms, marker)
        if self._snapshots.grow(size):
            self._take_snapshot()
        if self._dirty_since_ms is None:
            self._dirty_since_ms = now_ms
            if self.config.flush_ms < LONG_MAX:
                self.flush_later()
        self.end.advance(base_offset + header.last_offset_delta + 1)

    def _begin(self, segment: Segment, header: BatchHeader, now_ms: int) -> None:
        """The first batch of a segment: there must be files."""
        segment.first_timestamp_ms = header.max_timestamp if header.max_timestamp >= 0 else now_ms
        try:
            self.create()
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{self.directory} cannot be made: {error}") from error
        self._open_file(segment)
        if segment.indexes is None:
            segment.reset_indexes()

    def _open_file(self, segment: Segment) -> None:
        """Have a descriptor. That there is none left, or no space, is answered; nothing has happened then."""
        try:
            _ = segment.file
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{segment.path} cannot be opened: {error}") from error

    def create(self) -> None:
        """Make the directory and write whose data it holds. May raise OSError."""
        if not self.is_created:
            self.disk.make_dirs(self.directory)
            if self.topic_id is not None:
                file = self.disk.open(f"{self.directory}/{METADATA}", create=True)
                file.truncate(0)
                file.append([metadata_content(self.topic_id)])
                file.close()
            self.is_created = True

    def _write_failed(self, segment: Segment, error: OSError) -> KafkaError:
        """Undo what a failed write may have left. A full disk is answered and forgotten, anything else ends service."""
        try:
            segment.aborted.cut(segment.next_offset)
            segment.file.truncate(segment.size)
        except OSError as second:
            return self.fail(LogOffline(f"{segment.path}: cannot be cut back to {segment.size} bytes: {second}"))
        if error.errno in NO_SPACE:
            return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"no space left for {segment.path}")
        return self.fail(LogOffline(f"{segment.path}: write failed: {error}"))

    def check_online(self) -> None:
        """Raise LogOffline if the log is."""
        if self.offline is not None:
            raise self.offline.again()

    def fail(self, error: LogOffline) -> LogOffline:
        """Go offline (L2): nothing is served, and whoever waits for this log learns why. Returns what to raise."""
        if self.offline is None:
            self.offline = error
            self.end.close(error)
            self.flushed.close(error)
            if self.high_watermark is not None:
                self.high_watermark.close(error)
        return self.offline.again()

    def lose(self, why: str) -> None:
        """Go offline: the files are not what they were."""
        self.fail(LogOffline(f"{self.directory}: {why}"))

    # rolling

    def roll(self) -> Segment:
        """Close the active segment and begin the next at the log's end. An empty one stays.

        The closed one is made durable by the next flush. Raises KafkaError when the disk refuses, LogTruncated while a
        truncation is not settled; nothing changes then.
        """
        self.check_settled()
        old = self.segments[-1]
        if not old.size:
            return old
        new = Segment(self.disk, file_stem(self.directory, self.end.value), self.end.value)
        try:
            old.finish()
            _ = new.file
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{new.path} cannot be made: {error}") from error
        new.reset_indexes()
        old.is_closed = True
        old.aborted.lowest_open = self.producers.transactions.first_ongoing
        self.segments.append(new)
        self.reading.forget()
        self._take_snapshot()
        self.flush_later()  # at least the closed one is to become durable soon
        return new

    def _take_snapshot(self) -> None:
        """Write a snapshot of the producers now. If the disk refuses, a restart replays more: nothing is lost."""
        try:
            self._write_snapshot()
        except OSError:
            self._snapshots.postpone()

    def _write_snapshot(self) -> None:
        bases = {segment.base_offset for segment in self.segments}
        self._snapshots.write(self.active.next_offset, self.producers.snapshot(), len(self.producers), bases)

    # reading

    def read(
        self, offset: int, max_bytes: int, bound: int, *, at_least_one: bool = True, now: bool = False
    ) -> list[FileSlice]:
        """Whole batches from the one that holds offset, ending below bound (L7): about max_bytes, and at least the
        first batch however large, unless at_least_one is off.

        bound is a batch boundary: high watermark or last stable offset. now: raise NotInMemory rather than wait for the
        disk. Raises KafkaError OFFSET_OUT_OF_RANGE outside start_offset to end, LogOffline, OSError.
        """
        if self.offline is not None:
            raise self.offline.again()
        end = self.end.value
        if bound > end:
            bound = end
        if offset >= bound or offset < self.start_offset:
            if offset > end or offset < self.start_offset:
                text = f"offset {offset} is outside {self.start_offset} to {end}"
                raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, text)
            return []
        return self.reading.read(offset, max_bytes, bound, at_least_one, now)[0]

    def aborted_between(self, offset: int, bound: int, *, now: bool = False) -> list[AbortedTransaction]:
        """The aborted transactions that overlap what lies from offset to below bound.

        now: raise NotInMemory rather than wait for the disk. Raises LogOffline, OSError.
        """
        last = self.segments[-1]
        if offset >= last.base_offset and last.aborted.has_none:  # what nearly all ask, who keep up
            return []
        self.check_online()
        number = self.reading.number_of(offset)
        return self.rediscovery.between(number, offset, bound, self._snapshots.offsets, now=now)

    def path_of(self, offset: int) -> str:
        """The file that an offset is in, or would be."""
        return self.reading.segment_of(offset).path

    def bytes_between(self, offset: int, bound: int, most: int) -> int:
        """How many bytes the batches from the one that holds offset up to bound have, counted no further than `most`.

        bound is a batch boundary above offset, and not above the end. What cannot be told without waiting for the disk
        counts as `most`. Raises LogOffline, OSError.
        """
        self.check_online()
        return self.reading.bytes_between(offset, bound, most)

    def first_at_or_after(self, timestamp_ms: int, bound: int) -> Errands[Found | None]:
        """The first record below bound whose timestamp is at least timestamp_ms."""
        return lookup.first_at_or_after(self, timestamp_ms, bound)

    def max_timestamp(self, bound: int) -> Errands[Found | None]:
        """The first record with the log's largest timestamp (KIP-734), unless it is not below bound."""
        return lookup.with_largest_timestamp(self, bound)

    # shrinking

    def truncate_to(self, offset: int) -> None:
        """Cut everything at and above an offset: a follower that diverged. `settle` must follow.

        Slices may change under their readers. Whoever waits for `end` or `flushed` gets LogTruncated, and finds new
        ones here. Raises LogOffline when the disk refuses.
        """
        if offset >= self.end.value:
            return
        self.reading.forget()
        try:
            self._snapshots.truncate(offset)  # first: what they tell of, and is not there, a later start takes for lost
            self._cut_end(offset)
            self._cut_derived(self.active.next_offset)
        except OSError as error:
            raise self._cut_failed(error) from error

    @property
    def is_settled(self) -> bool:
        """Whether it may grow: no truncation is waiting for the disk."""
        return not self._unsettled

    def check_settled(self) -> None:
        """Raise LogTruncated while a truncation is not settled."""
        if self._unsettled:
            raise LogTruncated(f"{self.directory} was cut to {self.end.value}, and that is not durable yet")

    async def settle(self, offload: Offload) -> None:
        """Finish a truncation, after which the log may grow again: what was cut stays so, and the producers are those
        of the batches that are left (P2). Wait for a worker that reads and syncs. Nothing to do: returns at once.

        Raises LogOffline when the disk refuses. One that is cancelled is to be called again.
        """
        while self._unsettled:
            self.check_online()
            cut, settling = self._unsettled, self._settling()
            seen_ms = max((producer.seen_ms for producer in self.producers.by_id.values()), default=-1)
            try:
                producers, snapshots = await offload(settling.run)
            except CorruptLog as error:  # or it was cut again meanwhile
                if cut == self._unsettled:
                    raise self.fail(error) from error
                continue
            except OSError as error:
                raise self._cut_failed(error) from error
            if cut == self._unsettled:
                producers.touch(seen_ms)
                self.producers = producers
                self._snapshots.adopt(snapshots)
                self._unsettled = 0

    def _settling(self) -> Settling:
        try:
            handle = self.active.file.handle
        except OSError as error:
            raise self._cut_failed(error) from error
        parts = [segment.apart() for segment in self.segments]
        return Settling(self.disk, self.directory, handle, parts, list(self._snapshots.offsets))

    def _cut_failed(self, error: OSError) -> LogOffline:
        return self.fail(LogOffline(f"{self.directory} cannot be cut: {error}"))

    def _cut_end(self, offset: int) -> None:
        """Remove all batches at and above offset."""
        while len(self.segments) > 1 and self.active.base_offset >= offset:
            self._remove_segment(len(self.segments) - 1)
        last = self.active
        self.size -= last.size
        last.truncate_to(offset, self.config.index_interval_bytes)
        last.is_closed = last.is_synced = False
        self.size += last.size
        if last.base_offset > offset:  # nothing is left: it begins anew, with one segment at any moment
            self._rename_empty(last, offset)

    def _rename_empty(self, segment: Segment, base_offset: int) -> None:
        """Let the only segment, which is empty, begin at another offset."""
        segment.close()
        for path in segment.files()[1:]:
            self.disk.remove(path)
        self.segments[:] = [Segment(self.disk, file_stem(self.directory, base_offset), base_offset)]
        self.disk.rename(segment.path, self.active.path)

    def _cut_derived(self, end: int) -> None:
        """The segments end lower now: let all else follow, but for the producers, for which batches must be read."""
        self._cuts += 1
        self._unsettled = self._cuts
        old_end, old_flushed = self.end, self.flushed
        self.end, self.flushed = Watermark(end), Watermark(min(old_flushed.value, end))
        truncated = LogTruncated(f"{self.directory} was cut from {old_end.value} to {end}")
        old_end.close(truncated)
        old_flushed.close(truncated)
        self.unread = min(self.unread, end)
        self.start_offset = min(self.start_offset, end)  # it may have been inside the batch that is cut
        self.epochs.truncate_end(end)
        self._snapshots.truncate(end)
        if self.is_created:
            self.epochs.save(self.disk, self.directory)

    def advance_start(self, offset: int) -> None:
        """Give up everything below an offset (DeleteRecords). Raises KafkaError OFFSET_OUT_OF_RANGE above the end.

        Which offsets may go is for the caller to judge: none at or above the high watermark (L8).
        """
        if offset > self.end.value:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset} is past the end, {self.end.value}")
        if offset > self.start_offset:
            self.start_offset = offset
            self.epochs.truncate_start(offset)

    def apply_retention(self, now_ms: int, bound: int) -> int:
        """Delete old segments: by time, by size, those wholly below start_offset; none that reaches past bound (L8).

        Nothing that is not durable yet: a later flush must find it, and with it the snapshot that will be the only
        trace of some producers (P2). Such segments are flushed in the background and go the next time.

        Returns how many, no more than one turn of the event loop may take: call again until it is none. `take_deleted`
        has their files. May raise OSError, KafkaError.
        """
        if self._unsettled:
            return 0
        count = retention.count_expired(self.segments, self.start_offset, self.config, now_ms, bound, DELETED_AT_ONCE)
        if count == len(self.segments):  # all of it: there must be one to go on with
            if self.active.size:
                self.roll()
            else:
                count -= 1
        if count and self.segments[count].base_offset > self.flushed.value:
            self.flush_later()
            count = bisect_right(self.segments, self.flushed.value, key=_base_offset) - 1
        if count <= 0:
            return 0
        self.reading.forget()
        for _ in range(count):
            self._remove_segment(0)
            self.advance_start(self.segments[0].base_offset)
        self._snapshots.drop_below(self.segments[0].base_offset)
        return count

    def _remove_segment(self, n: int) -> None:
        """Take the n-th segment off the log; its files are renamed, to be removed later. OSError when they cannot be.

        The batches go last: if it stops before, the segment has lost no more than what can be rebuilt.
        """
        segment = self.segments[n]
        segment.close()  # some systems rename no open file
        for path in reversed(segment.files()):
            self.disk.rename(path, path + retention.DELETED)
            self._deleted.append(path + retention.DELETED)
        del self.segments[n]
        self.size -= segment.size

    def take_deleted(self) -> list[str]:
        """The paths of deleted segments' files: the caller removes them, `file.delete.delay.ms` later."""
        deleted, self._deleted = self._deleted, []
        return deleted

    # descriptors

    def release_idle(self) -> None:
        """Give up the descriptors and, of closed segments, the indexes that nobody used since the last call."""
        for segment in self.segments:
            if segment.used <= self._released:
                segment.release()
        self._released = tick()
        self.rediscovery.forget()

    def open_segments(self) -> list[Segment]:
        """Those with a descriptor: `used` tells which of them, in all logs, was used least recently."""
        return [segment for segment in self.segments if segment.open_file is not None]

    def release(self, segment: Segment) -> None:
        """Give up a segment's descriptor, and a closed one's indexes, until it is used again. Slices stay readable."""
        segment.release()

    # durability

    def needs_flush(self, now_ms: int) -> bool:
        """Whether `flush.messages` or `flush.ms` asks for a flush before the next append is acknowledged."""
        pending = self.end.value - self.flushed.value
        if pending <= 0:
            return False
        if pending >= self.config.flush_messages:  # also when an earlier process, or a flush under way, owes it
            return True
        return self._dirty_since_ms is not None and now_ms - self._dirty_since_ms >= self.config.flush_ms

    def flush_later(self) -> None:
        """Have what is due flushed in the background."""
        if self._on_due is not None:
            self._on_due(self)

    async def flush(self, offload: Offload) -> None:
        """Wait until everything appended before this call is durable. Group commit: one fsync is in flight for a log;
        all who ask meanwhile share the next one.

        Raises LogOffline when an fsync failed (never tried again on the same file, L2), KAFKA_STORAGE_ERROR when the
        disk is merely full or out of descriptors.
        """
        await self._flush_to(self.end.value, offload)

    async def flush_closed(self, offload: Offload) -> None:
        """Wait until all segments but the active one are durable."""
        await self._flush_to(self.segments[-1].base_offset, offload)

    async def _flush_to(self, target: int, offload: Offload) -> None:
        self.flushed.check()
        while self.flushed.value < min(target, self.end.value):
            if self._flushing is not None:
                await self._flushing.wait()
            else:
                self._flushing = trio.Event()
                try:
                    await self._flush_once(target, offload)
                finally:
                    self._flushing.set()
                    self._flushing = None
            self.flushed.check()

    async def _flush_once(self, target: int, offload: Offload) -> None:
        cuts, changes, since_ms = self._cuts, self.epochs.changes, self._dirty_since_ms
        closed = [segment for segment in self.segments[:-1] if not segment.is_synced]
        newest = self.active.base_offset
        with_active = target > newest
        end = self.end.value if with_active else newest
        try:
            work = self._prepare_flush(closed, with_active)
        except OSError as error:
            raise self._flush_refused(error) from error
        if with_active:
            self._dirty_since_ms = None
        try:
            refused = await offload(work.run)
            if refused is not None:
                raise self._flush_refused(refused)
        except OSError as error:
            raise self.fail(LogOffline(f"{self.directory}: fsync failed: {error}")) from error
        except BaseException:  # refused, or cancelled: nobody knows how far it came
            if with_active:
                self._dirty_since_ms = since_ms
            raise
        self._named, self._is_metadata_synced = newest, True
        self.epochs.synced(changes)
        if cuts == self._cuts:
            for segment in closed:
                segment.is_synced = True
            self.flushed.advance(end)

    def _prepare_flush(self, closed: list[Segment], with_active: bool) -> Flush:
        """Write what is to be synced, and say what that is. May raise OSError."""
        self.create()
        if self.epochs.is_dirty and (refused := self.epochs.save(self.disk, self.directory)) is not None:
            raise refused
        active_handle = self.active.file.handle  # even an empty one's: its name says where the log begins
        handles = [segment.open_file.handle for segment in closed if segment.open_file is not None]
        paths = list(paths_of(self.directory, closed))
        if with_active:
            handles.append(active_handle)
        if self.epochs.is_unsynced:
            paths.append(f"{self.directory}/{EPOCHS}")
        if not self._is_metadata_synced:
            paths.append(f"{self.directory}/{METADATA}")
        has_new_names = (
            self._named != self.active.base_offset or self.epochs.is_unsynced or not self._is_metadata_synced
        )
        return Flush(
            self.disk, self.directory, handles, paths,
            sync_directory=has_new_names, sync_parent=not self._is_metadata_synced,
        )  # fmt: skip

    def _flush_refused(self, error: OSError) -> KafkaError:
        return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{self.directory}: {error}")

    # the end

    def finish(self) -> End:
        """Write what the next open would otherwise have to find out: indexes, snapshot, epochs. No append may follow.

        A small log without producers needs no snapshot: one that is killed later is soon read again. Returns where it
        ends, for the next open. Raises LogOffline, LogTruncated, OSError.
        """
        self.check_online()
        self.check_settled()
        active = self.segments[-1]
        active.finish()
        has_much = len(self.producers) or active.size > REREAD_BYTES_MAX
        if self.end.value != self._snapshots.latest and active.size and has_much:
            self._write_snapshot()
        if self.epochs.is_dirty and active.size:
            self.epochs.save(self.disk, self.directory)
        return End(self.end.value, self.size, len(self.producers))

    async def sync(self, offload: Offload) -> None:
        """Wait until everything is durable, derived files too: for a clean stop. Raises LogOffline, OSError."""
        await self.flush(offload)
        if (self.active.indexes or self.active.tail) is None or not self.is_created:
            return  # nothing was written since it was opened
        paths = [self.active.stem + suffix for suffix in (".timeindex", ".index", ".txnindex")]
        if self._snapshots.latest >= 0:
            paths.append(snapshot_path(self.directory, self._snapshots.latest))
        refused = await offload(Flush(self.disk, self.directory, (), paths, sync_directory=True, sync_parent=False).run)
        if refused is not None:
            raise refused

    async def close(self, offload: Offload, *, clean: bool = True) -> End | None:
        """Stop. clean: leave files that the next open need not scan, durable. Returns what `finish` does.

        Raises LogOffline or OSError when that could not be had; the log is closed all the same.
        """
        end = None
        try:
            if clean and self.offline is None and self.is_created:
                await self.settle(offload)
                end = self.finish()
                await self.sync(offload)
            return end
        finally:
            self.abandon()

    def delete(self, aside: str) -> None:
        """Take the whole log away: its directory, if it has one, is renamed to `aside`, for the caller to remove.

        May raise OSError; the log is closed all the same.
        """
        self.abandon()
        if self.is_created:
            self.disk.rename(self.directory, aside)

    def abandon(self) -> None:
        """Stop serving at once, leaving the files as they are. What is being sent or synced right now goes on."""
        self.fail(LogClosed(f"{self.directory} is closed"))
        for segment in self.segments:
            segment.close()
