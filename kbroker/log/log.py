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
`flush` waits: it syncs files in a worker and then moves `flushed` (L3). After an error of the disk that leaves the
file in doubt the log is `offline` until it is reopened and rescanned (L2).
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, assign
from kbroker.config.topic import TopicConfig
from kbroker.env import Clock, Disk, File, FileSlice, Offload
from kbroker.log import lookup, recovery, retention
from kbroker.log.checkpoints import METADATA, metadata_content
from kbroker.log.epochs import LeaderEpochs
from kbroker.log.errors import LogOffline
from kbroker.log.flushing import Flusher
from kbroker.log.lookup import Found
from kbroker.log.producers import ProducerStates
from kbroker.log.recovery import Crash, Recovered
from kbroker.log.rolling import must_roll
from kbroker.log.segment import Segment, WritableBuffer, file_stem
from kbroker.log.snapshots import Snapshots
from kbroker.log.validation import check_batch, check_timestamps, needs_records, prepare
from kbroker.watermark import Watermark

POSITIONS_KEPT = 32  # of readers that come back for the next bytes
LONG_MAX = 2**63 - 1
NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

_base_offset = attrgetter("base_offset")


class Appended(NamedTuple):
    """Where a batch stands in the log."""

    base_offset: int
    last_offset: int
    append_time_ms: int  # -1 unless the topic has LogAppendTime
    duplicate: bool  # it was there already; nothing was written


class Remains(NamedTuple):
    """What is left of deleted segments: to be closed and removed once nobody can be reading it."""

    files: list[File]
    paths: list[str]


class PartitionLog:
    """One partition's records, on one disk."""

    __slots__ = (
        "disk", "directory", "topic_id", "config", "start_offset", "end", "flushed", "epochs", "producers", "segments",
        "size", "offline", "remains", "high_watermark", "on_due", "is_created", "_snapshots", "_flusher",
        "_recent", "_wants_records",
    )  # fmt: skip

    def __init__(self, disk: Disk, directory: str, config: TopicConfig, topic_id: bytes | None) -> None:
        self.disk = disk
        self.directory = directory
        self.topic_id = topic_id
        self.start_offset = 0  # the first offset that may be read; only rises (L8)
        self.end = Watermark()
        self.flushed = Watermark()  # the recovery point: everything below is durable
        self.epochs = LeaderEpochs(self.end)
        self.producers = ProducerStates()
        self.segments: list[Segment] = []  # at least one, by base offset; the last is active
        self.size = 0  # bytes of all segments
        self.offline: LogOffline | None = None  # why nothing is served any more
        self.remains = Remains([], [])  # of segments deleted so far
        self.high_watermark: Watermark | None = None  # the partition's; what is at or above it is never deleted (L8)
        self.on_due: Callable[[PartitionLog], None] | None = None  # told when a flush is due
        self.is_created = False  # the directory is there
        self._snapshots = Snapshots(disk, directory)
        self._flusher = Flusher(self)
        self._recent: dict[int, tuple[Segment, int]] = {}  # offset -> where its batch begins: ends of recent reads
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
    ) -> PartitionLog:
        """Open a log, or begin one (nothing is written before it must be).

        crash: how the process that wrote it ended. recovery_point: everything below is durable. start_offset: from the
        log-start checkpoint. leader_epoch_max: the leader epoch the cluster is at; None: not known. clock: producers
        read back count as seen now; without it, from their first expiry check.
        Raises CorruptLog when durable bytes are wrong (L4) or of a leader the cluster has yet to elect (R11), OSError.
        """
        log = cls(disk, directory, config, topic_id)
        found = recovery.recover(
            disk, directory, log.epochs, log.producers,
            crash=crash, recovery_point=recovery_point, start_offset=start_offset, interval=config.index_interval_bytes,
            leader_epoch_max=LONG_MAX if leader_epoch_max is None else leader_epoch_max,
        )  # fmt: skip
        log._adopt(found)
        log._flusher.resume(min(recovery_point, log.end.value))
        if clock is not None:
            log.producers.touch(clock.data_ms())
        return log

    def _adopt(self, found: Recovered) -> None:
        self.is_created, self.segments = found.is_created, found.segments
        self.size = sum(segment.size for segment in found.segments)
        self.start_offset = found.start_offset
        self.end.value = found.segments[-1].next_offset
        self._snapshots.adopt(found.snapshots)

    def reconfigure(self, config: TopicConfig) -> None:
        """Take a topic's changed settings."""
        self.config = config
        self._wants_records = needs_records(config)

    @property
    def snapshot_offset(self) -> int:
        """The offset of the newest producer snapshot; -1 when there is none."""
        return self._snapshots.latest

    @property
    def active(self) -> Segment:
        """The segment that grows."""
        return self.segments[-1]

    # appending

    def append(self, batch: WritableBuffer, *, leader_epoch: int, now_ms: int) -> Appended:
        """Take one batch from a client, who must not use the buffer meanwhile: offset and epoch are patched into it.

        Raises KafkaError for what is wrong with the batch or its sequence, KAFKA_STORAGE_ERROR when the disk is full
        (the log goes on when there is space), LogOffline for any other trouble with the disk.
        """
        if self.offline is not None:
            raise self.offline
        config = self.config
        header = check_batch(batch, config.max_message_bytes)
        append_time_ms = -1
        if self._wants_records:
            batch, header = prepare(batch, header, config, now_ms)
            if header.log_append_time:
                append_time_ms = now_ms
            else:
                check_timestamps(header, config, now_ms)
        else:
            check_timestamps(header, config, now_ms)
        if header[9] >= 0:
            seen = self.producers.check(header)
            if seen is not None:
                at = seen.timestamp_ms if append_time_ms >= 0 else -1
                return Appended(seen.base_offset, seen.last_offset, at, True)
        base_offset = self.end.value
        assign(batch, 0, base_offset, leader_epoch)
        self._write(batch, header, base_offset, leader_epoch, now_ms)
        return Appended(base_offset, base_offset + header[6], append_time_ms, False)

    def _write(
        self, batch: WritableBuffer, header: BatchHeader, base_offset: int, leader_epoch: int, now_ms: int
    ) -> None:
        """Append a batch whose offsets are assigned, and note all that follows from it."""
        segment = self.segments[-1]
        size = header[1] + 12
        if not segment.size:
            self._begin(segment, header, now_ms)
        elif must_roll(self.config, segment, header, base_offset, now_ms):
            segment = self.roll()
            segment.first_timestamp_ms = header[8] if header[8] >= 0 else now_ms
        latest_epoch = self.epochs.latest
        if leader_epoch != latest_epoch:
            if leader_epoch < latest_epoch:  # R11
                text = f"leader epoch {leader_epoch} is older than the log's, {latest_epoch}"
                raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, text)
            self.epochs.assign(leader_epoch, base_offset)
        if self.epochs.is_dirty:
            self.epochs.save(self.disk, self.directory)
        if segment._file is None:
            self._open_file(segment)
        try:
            segment.append(batch, header, base_offset, self.config.index_interval_bytes)
        except OSError as error:
            raise self._write_failed(segment, error) from error
        except LogOffline as error:
            raise self.fail(error) from error
        # The batch is in the log. From here on nothing may fail (L1).
        self.size += size
        if header[9] >= 0:
            self.producers.update(header, base_offset, now_ms)
        self._snapshots.grow(self, size)
        self._flusher.grow(now_ms)
        self.end.advance(base_offset + header[6] + 1)

    def _begin(self, segment: Segment, header: BatchHeader, now_ms: int) -> None:
        """The first batch of a segment: there must be files."""
        segment.first_timestamp_ms = header[8] if header[8] >= 0 else now_ms
        try:
            self.create()
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{self.directory} cannot be made: {error}") from error
        self._open_file(segment)
        if segment.index is None:
            segment.load()

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
            segment.file.truncate(segment.size)
        except OSError as second:
            return self.fail(LogOffline(f"{segment.path}: cannot be cut back to {segment.size} bytes: {second}"))
        if error.errno in NO_SPACE:
            return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"no space left for {segment.path}")
        return self.fail(LogOffline(f"{segment.path}: write failed: {error}"))

    def fail(self, error: LogOffline) -> LogOffline:
        """Go offline (L2): nothing is served, and whoever waits for this log learns why."""
        if self.offline is None:
            self.offline = error
            self.end.close(error)
            self.flushed.close(error)
            if self.high_watermark is not None:
                self.high_watermark.close(error)
        return self.offline

    # rolling

    def roll(self) -> Segment:
        """Close the active segment and begin the next at the log's end. An empty one stays.

        The closed one is made durable by the next flush. Raises KafkaError when the disk refuses; nothing changes then.
        """
        old = self.segments[-1]
        if not old.size:
            return old
        new = Segment(self.disk, file_stem(self.directory, self.end.value), self.end.value)
        try:
            old.finish()
            _ = new.file
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{new.path} cannot be made: {error}") from error
        new.load()
        old.is_closed = True
        self.segments.append(new)
        self._recent.clear()
        self._snapshots.take(self)
        self._flusher.rolled()
        return new

    # reading

    def read(self, offset: int, max_bytes: int, bound: int, *, at_least_one: bool = True) -> list[FileSlice]:
        """Whole batches from the one that holds offset, ending below bound (L7): about max_bytes, and at least the
        first batch however large, unless at_least_one is off.

        bound is a batch boundary: high watermark or last stable offset. Raises KafkaError OFFSET_OUT_OF_RANGE outside
        start_offset to end, LogOffline, OSError.
        """
        if self.offline is not None:
            raise self.offline
        end = self.end.value
        if bound > end:
            bound = end
        if offset >= bound or offset < self.start_offset:
            if offset > end or offset < self.start_offset:
                text = f"offset {offset} is outside {self.start_offset} to {end}"
                raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, text)
            return []
        segment, position = self._locate(offset)
        segment.is_used = True
        slices: list[FileSlice] = []
        while True:
            if bound >= segment.next_offset:
                limit, after = segment.size, segment.next_offset
            else:
                limit, after = self._locate(bound)[1], bound
            stop = limit
            if limit - position > max_bytes:
                stop, after = segment.cut(position, max_bytes, at_least_one=at_least_one)
                if stop >= limit:
                    stop, after = limit, min(bound, segment.next_offset)
            if stop > position:
                slices.append(FileSlice(segment._file or segment.file, position, stop - position))
            max_bytes -= stop - position
            if after >= bound or stop < limit or max_bytes <= 0:
                self._remember(after, segment, stop)
                return slices
            segment, position, at_least_one = self._segment_of(after), 0, False

    def _locate(self, offset: int) -> tuple[Segment, int]:
        """The segment that holds an offset, and where its batch begins there."""
        found = self._recent.get(offset)
        if found is not None:
            return found
        segment = self._segment_of(offset)
        found = segment, segment.position_of(offset)
        if found[1] == segment.size and segment is not self.segments[-1]:  # nothing of it is left there (compaction)
            found = self.segments[self.segments.index(segment) + 1], 0
        self._remember(offset, *found)
        return found

    def _remember(self, offset: int, segment: Segment, position: int) -> None:
        recent = self._recent
        if offset not in recent:
            if position == segment.size and segment is not self.segments[-1]:
                segment, position = self._segment_of(offset), 0
            if len(recent) >= POSITIONS_KEPT:
                del recent[next(iter(recent))]
            recent[offset] = segment, position

    def _segment_of(self, offset: int) -> Segment:
        segments = self.segments
        last = segments[-1]
        if offset >= last.base_offset:
            return last
        return segments[max(bisect_right(segments, offset, key=_base_offset) - 1, 0)]

    def bytes_between(self, offset: int, bound: int, most: int) -> int:
        """How many bytes the batches from the one that holds offset up to bound have, counted no further than `most`.

        bound is a batch boundary above offset, and not above the end. Raises LogOffline, OSError.
        """
        if self.offline is not None:
            raise self.offline
        segment, position = self._locate(offset)
        found = -position
        while bound > segment.next_offset and found + segment.size < most:
            found += segment.size
            segment = self._segment_of(segment.next_offset)
        return min(found + (segment.size if bound >= segment.next_offset else self._locate(bound)[1]), most)

    def first_at_or_after(self, timestamp_ms: int, bound: int) -> Found | None:
        """The first record below bound whose timestamp is at least timestamp_ms. Reads batches: may take a while."""
        return lookup.first_at_or_after(self.segments, timestamp_ms, self.start_offset, bound)

    def max_timestamp(self, bound: int) -> Found | None:
        """The first record with the log's largest timestamp (KIP-734), unless it is not below bound."""
        return lookup.with_largest_timestamp(self.segments, self.start_offset, bound)

    # shrinking

    def truncate_to(self, offset: int) -> None:
        """Cut everything at and above an offset: a follower that diverged. Blocks on the disk; readers start over.

        Raises OSError, after which the log is offline.
        """
        if offset >= self.end.value:
            return
        try:
            retention.cut_end(self, offset)
        except OSError as error:
            raise self.fail(LogOffline(f"{self.directory} cannot be cut to {offset}: {error}")) from error
        self._recent.clear()
        self._flusher.cut()
        self.end.value = self.segments[-1].next_offset
        self.flushed.value = min(self.flushed.value, self.end.value)
        self.start_offset = min(self.start_offset, self.end.value)  # it may have been inside the batch that is cut
        self.epochs.truncate_end(self.end.value)
        self._snapshots.truncate(self.end.value)
        found = self._snapshots.offsets
        found = recovery.restore_producers(self.disk, self.directory, self.segments, self.producers, found)
        self._snapshots.adopt(found)
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

        Returns how many; `take_remains` has their files. May raise OSError.
        """
        deleted = retention.apply(self, now_ms, bound)
        if deleted:
            self._recent.clear()
            self.advance_start(self.segments[0].base_offset)
            self._snapshots.drop_below(self.segments[0].base_offset)
        return deleted

    def release_idle(self) -> None:
        """Free the files that nobody used since the last call, and of closed segments the indexes."""
        files = [segment.release() for segment in self.segments[:-1]]
        active = self.segments[-1]
        if not active.is_used:
            files.append(active.detach())
        active.is_used = False
        self.remains.files.extend(file for file in files if file is not None)

    def take_remains(self) -> Remains:
        """The files of deleted segments, to be closed and removed by the caller when nobody can be reading them."""
        remains, self.remains = self.remains, Remains([], [])
        return remains

    # durability

    def needs_flush(self, now_ms: int) -> bool:
        """Whether `flush.messages` or `flush.ms` asks for a flush before the next append is acknowledged."""
        return self._flusher.is_due(now_ms)

    async def flush(self, offload: Offload) -> None:
        """Wait until everything appended before this call is durable. Any number may wait: they share fsyncs.

        Raises LogOffline when an fsync failed (never tried again on the same file, L2).
        """
        await self._flusher.flush(offload, self.end.value)

    async def flush_closed(self, offload: Offload) -> None:
        """Wait until all segments but the active one are durable."""
        await self._flusher.flush(offload, self.segments[-1].base_offset)

    def finish(self) -> None:
        """Write what the next open would otherwise have to find out: indexes, snapshot, epochs. No append may follow.

        Raises LogOffline, OSError.
        """
        if self.offline is not None:
            raise self.offline
        active = self.segments[-1]
        active.finish()
        if self.end.value != self._snapshots.latest and active.size:
            self._snapshots.write(self)
        if self.epochs.is_dirty and active.size:
            self.epochs.save(self.disk, self.directory)

    async def sync(self, offload: Offload) -> None:
        """Wait until everything is durable, derived files too. Raises LogOffline, OSError."""
        await self.flush(offload)
        await self._flusher.sync_derived(offload)

    async def close(self, offload: Offload, *, clean: bool = True) -> None:
        """Stop. clean: leave files that the next open need not scan, durable.

        Raises LogOffline or OSError when that could not be had; the log is closed all the same.
        """
        try:
            if clean and self.offline is None and self.is_created:
                self.finish()
                await self.sync(offload)
        finally:
            for file in self.abandon().files:
                file.close()

    def delete(self, aside: str) -> Remains:
        """Take the whole log away: its directory is renamed to `aside`. May raise OSError.

        The caller removes what remains (paths may be directories) when nobody can be reading it any more.
        """
        remains = self.abandon()
        if self.is_created:
            self.disk.rename(self.directory, aside)
            remains.paths.append(aside)
        return remains

    def abandon(self) -> Remains:
        """Stop serving at once, leaving the files as they are; the open ones are the caller's to close."""
        self.fail(LogOffline(f"{self.directory} is closed"))
        self.remains.files.extend(file for file in (segment.detach() for segment in self.segments) if file is not None)
        return self.take_remains()
