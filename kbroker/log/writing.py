"""WritableLog: the state of a partition's log, and what writes to it: appending, following a leader, rolling.

What each append notes is all derived from the batches, so a log that is opened anew finds the same. The rest of what
PartitionLog does (reading, cutting, flushing) is in log.py.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import LENGTH_OFFSET, BatchHeader, assign, read_header, set_log_append_time
from kbroker.config.keys import LONG_MAX
from kbroker.config.topic import TopicConfig
from kbroker.env import Clock, Disk
from kbroker.log import recovery, replicated
from kbroker.log.checkpoints import GAPS, METADATA, Witness, gaps_content, metadata_content
from kbroker.log.content.delayed import SCHEDULE_DIRECTORY, Diverted, is_delivery, is_hidden
from kbroker.log.content.validation import Rules
from kbroker.log.derived.ahead import Ahead
from kbroker.log.derived.producers import CONTROL, Guard, SeenBatch
from kbroker.log.derived.snapshots import Snapshots
from kbroker.log.derived.transactions import Marker, read_marker
from kbroker.log.errors import LogOffline, LogTruncated
from kbroker.log.reading import Reading
from kbroker.log.recovery import Crash, End, Progress, Recovered
from kbroker.log.rediscovery import Rediscovery
from kbroker.log.segment import Segment, WritableBuffer, file_stem
from kbroker.turns import Work
from kbroker.watermark import Watermark

if TYPE_CHECKING:
    from kbroker.log.content.tagged import Tagger

NO_CUT = -1  # in place of an offset
NO_PASS = -1
NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class Appended(NamedTuple):
    """Where a batch stands in the log."""

    base_offset: int  # -1: all of it is delayed
    last_offset: int
    append_time_ms: int  # -1 unless the topic has LogAppendTime
    duplicate: bool  # it was there already; nothing was written


def _repeated(seen: SeenBatch, append_time_ms: int) -> Appended:
    """The answer to a batch that is there already."""
    base_offset, at_ms = (-1, ~seen.timestamp_ms) if seen.is_hidden else (seen.base_offset, seen.timestamp_ms)
    return Appended(base_offset, seen.last_offset, at_ms if append_time_ms >= 0 else -1, True)


def _tagger() -> Tagger:
    from kbroker.log.content.tagged import Tagger  # only where tags are noted

    return Tagger()


class WritableLog:
    """One partition's records, on one disk, as far as they are written."""

    __slots__ = (
        "disk", "directory", "topic_id", "config", "start_offset", "end", "flushed", "epochs", "producers", "segments",
        "size", "offline", "high_watermark", "held_from", "is_created", "_on_due", "_snapshots", "_deleted",
        "_released", "rules", "reading", "rediscovery", "flushes", "unread", "_flushing", "_dirty_since_ms", "_cuts",
        "_unsettled", "_named", "_is_metadata_synced", "is_shared", "_witness", "_cut_to", "_restart_at", "_has_cut",
        "_settling", "cleaned_to", "horizon_ms", "_cleaning", "_replacing", "replaced", "_dropped", "renaming",
        "may_return", "ahead", "notes_tags", "has_hidden", "gaps_below", "_gaps_synced",
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
        on_due: Callable[[Any], None] | None = None,
        witness: Witness | None = None,
        cleaned_to: int = 0,
    ) -> None:
        """A log whose files are in order.

        on_due: told when there is something to do in the background. witness: what is to be lowered before the log is
        cut; None: nothing else tells how long it is. cleaned_to: from the cleaner's checkpoint.
        """
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
        self.held_from = LONG_MAX  # somebody still needs what is at or above: no segment with any of it is deleted
        self.is_shared = False  # others have replicas: the high watermark does not follow from the log
        self.is_created = found.is_created  # the directory is there
        self._on_due = on_due
        self._snapshots = Snapshots(disk, directory, found.snapshots)
        self._deleted: list[str] = []  # paths of files to be removed
        self._dropped: list[Segment] = []  # deleted segments, in order, whose files have their names yet
        self.renaming: trio.Event | None = None  # rings when a worker has renamed some of them; None: none does
        self.may_return = False  # a crash may bring deleted segments back
        self.reading = Reading(self.segments)
        self.rediscovery = Rediscovery(disk, directory, self.segments)
        self.ahead: Ahead | None = None  # None: nothing was hidden in it by this process
        self.has_hidden = found.has_schedule  # whether, as far as is known, anything was ever delayed here
        self.gaps_below = found.gaps_below  # the directory says that below this, offsets may be missing
        # And durably so below this, as far as is known; below the recovery point nobody asks.
        self._gaps_synced = min(found.gaps_below, recovery_point)
        self._released = 0  # the tick of the last `release_idle`
        self._flushing: trio.Event | None = None  # rings when the flush under way ends; None: none is
        self._dirty_since_ms: int | None = None  # when the oldest batch came that no flush covers
        self._cuts = 0  # truncations so far: a flush that one overtook proves nothing
        self._unsettled = 0  # the number of the truncation that `settle` has yet to finish; 0: none
        self._witness = witness
        self._cut_to = NO_CUT  # where that is to cut yet
        self._restart_at = NO_CUT  # where it is to begin anew, instead
        self._has_cut = False  # it has cut something
        self._settling: trio.Event | None = None  # rings when the settling under way ends; None: none is
        self.cleaned_to = min(cleaned_to, self.end.value)  # below it compaction has left no key twice
        self.horizon_ms = LONG_MAX  # when the first tombstone or marker below may go, as far as known
        # While a pass of compaction reads closed segments, so that none is deleted: the truncations before it.
        self._cleaning = NO_PASS
        self.replaced = 0  # segments that have taken the place of others
        self._replacing: trio.Event | None = None  # rings when a segment has taken the place of others; None: none does
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
        on_due: Callable[[Any], None] | None = None,
        clean_end: End | None = None,
        progress: Progress | None = None,
        witness: Witness | None = None,
        cleaned_to: int = 0,
    ) -> Self:
        """Open a log, or begin one (nothing is written before it must be).

        crash: how the process that wrote it ended. recovery_point: everything below is durable. start_offset: from the
        log-start checkpoint. leader_epoch_max: the leader epoch the cluster is at; None: not known. clock: producers
        read back count as seen now; without it, from their first expiry check. on_due: told when a flush is due.
        clean_end: what `finish` told at a clean stop. progress: to be kept up to date. witness, cleaned_to: see the
        constructor.
        Raises CorruptLog when durable bytes are wrong (L4) or of a leader the cluster has yet to elect (R11), OSError.
        """
        found = recovery.recover(
            disk, directory,
            crash=crash, recovery_point=recovery_point, start_offset=start_offset, interval=config.index_interval_bytes,
            leader_epoch_max=LONG_MAX if leader_epoch_max is None else leader_epoch_max,
            clean_end=clean_end, progress=progress or Progress(),
        )  # fmt: skip
        log = cls(
            disk, directory, found, config=config, topic_id=topic_id, recovery_point=recovery_point, on_due=on_due,
            witness=witness, cleaned_to=cleaned_to,
        )  # fmt: skip
        if clock is not None:
            log.producers.touch(clock.data_ms())
        return log

    def reconfigure(self, config: TopicConfig) -> None:
        """Take a topic's changed settings."""
        # What is not in a closed segment cannot be compacted in time. (Kafka: LogConfig.maxSegmentMs)
        if config.compacts:
            config = config._replace(segment_ms=min(config.segment_ms, config.max_compaction_lag_ms))
        self.config = config
        self.rules = Rules(config, self.directory.rpartition("/")[2])
        self.notes_tags = config.kbroker_tags_enable
        self.flushes = min(config.flush_messages, config.flush_ms) < LONG_MAX  # whether needs_flush is worth asking

    def guard(self, high_watermark: Watermark, *, is_shared: bool = False) -> None:
        """Delete nothing at or above this, the partition's high watermark, from now on (L8).

        is_shared: whether it is to be kept for the next process, as other replicas have their part in it.
        """
        self.high_watermark, self.is_shared = high_watermark, is_shared

    @property
    def active(self) -> Segment:
        """The segment that grows."""
        return self.segments[-1]

    @property
    def hides(self) -> bool:
        """Whether there may be batches that consumers are not to see."""
        return self.has_hidden or self.rules.delays

    # appending

    def append(
        self,
        batch: WritableBuffer,
        header: BatchHeader | None = None,
        *,
        leader_epoch: int,
        now_ms: int,
        guard: Guard | None = None,
        diverted: Diverted | None = None,
    ) -> Appended:
        """Take one batch from a client, who must not use the buffer meanwhile: offset and epoch are patched into it.

        header: of a batch that `rules` has let pass; without it the batch is checked here, records and all.
        guard: of a transactional batch, as `producers.verification` gave it.
        diverted: what `rules` took out of it, to be delivered later.
        Raises KafkaError for what is wrong with the batch or its sequence, KAFKA_STORAGE_ERROR when the disk is full
        (the log goes on when there is space), LogTruncated while a truncation is not settled, LogOffline for any other
        trouble with the disk.
        """
        if self.offline is not None:
            raise self.offline.again()
        if self._unsettled:
            self.check_settled()
        if header is None:
            batch, header, diverted = self.rules.check(batch, now_ms)
        if self.has_hidden and is_delivery(header):  # also when the topic delays nothing any more
            raise KafkaError(ErrorCode.INVALID_RECORD, f"base sequence {header.base_sequence} is for the broker alone")
        append_time_ms = -1
        if self.rules.stamps:
            set_log_append_time(batch, 0, header, now_ms)
            header, append_time_ms = read_header(batch), now_ms
        if header.producer_id >= 0:
            seen = self.producers.check(header, guard)
            if seen is not None:
                return _repeated(seen, append_time_ms)
        if diverted is not None:
            return self._append_diverted(diverted, batch, header, leader_epoch, now_ms)._replace(
                append_time_ms=append_time_ms
            )
        base_offset = self.end.value
        assign(batch, 0, header, base_offset, leader_epoch)
        self._write(batch, header, base_offset, leader_epoch, now_ms)
        if self.unread < 0 and self.rules.leaves_unread:
            self.unread = base_offset
        return Appended(base_offset, base_offset + header.last_offset_delta, append_time_ms, False)

    def _append_diverted(
        self, diverted: Diverted, rest: WritableBuffer, header: BatchHeader, leader_epoch: int, now_ms: int
    ) -> Appended:
        """Append what is hidden of a batch and, behind it, what is left of it, if anything: in one write."""
        hidden, first = diverted.batch, read_header(diverted.batch)
        if diverted.is_all:
            offset = self._append_own(hidden, first, leader_epoch, now_ms)
            base_offset, last_offset = -1, offset + first.last_offset_delta
        else:
            offset = self.end.value
            base_offset = offset + first.last_offset_delta + 1
            last_offset = base_offset + header.last_offset_delta
            assign(hidden, 0, first, offset, leader_epoch)
            assign(rest, 0, header, base_offset, leader_epoch)
            self._check_leader_epoch(leader_epoch)
            self._append_run(hidden + rest, [read_header(hidden), read_header(rest)], now_ms)
        self._note_hidden()
        self.watch_hidden().add(offset, first, diverted.effects)
        return Appended(base_offset, last_offset, -1, False)

    def hold(self, offset: int) -> None:
        """Delete no segment that reaches past an offset, from now on: its delayer needs it."""
        self.held_from = offset

    def _note_hidden(self) -> None:
        """Something is hidden now: let it be known at the next start, too."""
        if not self.has_hidden:
            self.has_hidden = True
            with suppress(OSError):
                self.disk.make_dirs(f"{self.directory}/{SCHEDULE_DIRECTORY}")

    def watch_hidden(self) -> Ahead:
        """What is hidden from now on, and was before: for the delayer."""
        if self.ahead is None:
            self.ahead = Ahead()
        return self.ahead

    def append_hidden(self, batch: bytearray, *, leader_epoch: int, now_ms: int) -> int:
        """Append a batch of the broker's own: one that delivers or carries on what is delayed. Returns its offset.

        Raises what `append` does for the disk's sake.
        """
        self.check_online()
        self.check_settled()
        header = read_header(batch)
        if self.rules.stamps and not header.is_control:
            set_log_append_time(batch, 0, header, now_ms)
            header = read_header(batch)
        offset = self._append_own(batch, header, leader_epoch, now_ms)
        if header.is_control:
            self._note_hidden()
        return offset

    def _append_own(self, batch: bytearray, header: BatchHeader, leader_epoch: int, now_ms: int) -> int:
        offset = self.end.value
        assign(batch, 0, header, offset, leader_epoch)
        self._write(batch, header, offset, leader_epoch, now_ms)
        return offset

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
        if self.ahead is not None:
            self.ahead.end(marker.producer_id, base_offset, is_commit=marker.is_commit)
        return Appended(base_offset, base_offset, append_time_ms, False)

    def refuse(self, header: BatchHeader) -> None:
        """Note that a batch was refused for now: those its producer sent behind it must not come first."""
        self.producers.refused(header)

    def expire_producers(self, now_ms: int, expiration_ms: int) -> Work[int]:
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
            self._check_leader_epoch(leader_epoch)
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
        if self.notes_tags:
            numbers = _tagger().look_at(memoryview(batch), header)
            segment.note_tags(numbers, header, base_offset, segment.size - size)
        if header.producer_id >= 0:
            self.producers.update(header, base_offset, now_ms, marker)
        if self._snapshots.grow(size):
            self._take_snapshot()
        if self._dirty_since_ms is None:
            self._dirty(now_ms)
        self.end.advance(base_offset + header.last_offset_delta + 1)

    def _check_leader_epoch(self, leader_epoch: int) -> None:
        """Raise NOT_LEADER_OR_FOLLOWER for an epoch older than the log's (R11)."""
        if leader_epoch < self.epochs.latest:
            text = f"leader epoch {leader_epoch} is older than the log's, {self.epochs.latest}"
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, text)

    def _dirty(self, now_ms: int) -> None:
        """The first batch came that no flush covers."""
        self._dirty_since_ms = now_ms
        if self.config.flush_ms < LONG_MAX:
            self.flush_later()

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

    # following

    def append_replicated(self, data: bytes | bytearray | memoryview, *, leader_epoch: int, now_ms: int) -> int:
        """Take batches from the leader, as they are: with their offsets, epochs and timestamps. Returns how many.

        What is checked is that they are whole, continue this log (compaction leaves gaps), and are of no later epoch
        than leader_epoch, in which they were fetched: at the first that is cut short, or later, it ends. Producers are
        noted as they come, since the leader has judged them. Everything up to a roll, or to a marker, is written at
        once: such a run is in the log as a whole, or has left no trace (L1).

        Raises KafkaError CORRUPT_MESSAGE where the leader sent what is no batch (B4) or one that does not continue this
        log, NOT_LEADER_OR_FOLLOWER for an epoch older than the log's (R11): then nothing was appended; what `append`
        does: then what came before the trouble was.
        """
        self.check_online()
        self.check_settled()
        headers = replicated.check(data, self.end.value, self.epochs.latest, leader_epoch, self._may_begin_below)
        if not headers:
            return 0
        if headers[0].base_offset < self.end.value:
            self._begin_inside(headers[0])
        if replicated.has_gaps(headers, min(self.end.value, headers[0].base_offset)):
            try:
                self._note_gaps(headers[-1].next_offset)
            except OSError as error:
                text = f"{self.directory}/{GAPS} cannot be written: {error}"
                raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, text) from error
        self._append_run(data, headers, now_ms)
        return len(headers)

    def _note_gaps(self, below: int) -> None:
        """Have the next open know that compaction, here or at the leader, may have left gaps below an offset. They are
        no damage there; elsewhere they are, as a base offset lies outside its batch's CRC. May raise OSError."""
        if below > self.gaps_below:
            self.create()
            self.disk.write_atomic(f"{self.directory}/{GAPS}", gaps_content(below), sync=False)
            self.gaps_below = below

    def _append_run(self, data: bytes | bytearray | memoryview, headers: list[BatchHeader], now_ms: int) -> None:
        """Append batches that lie back to back, in as few writes as there can be."""
        view, position = memoryview(data), 0
        for run in self._runs(headers, now_ms):
            size = sum([header.length for header in run]) + LENGTH_OFFSET * len(run)
            self._write_run(view[position : position + size], run, now_ms)
            position += size

    def _runs(self, headers: list[BatchHeader], now_ms: int) -> Iterator[list[BatchHeader]]:
        """What can be written at once: a marker begins a run, as what it aborts depends on what was noted before."""
        config, run, pending = self.config, list[BatchHeader](), 0
        for header in headers:
            segment = self.segments[-1]
            is_marker = header.attributes & CONTROL
            is_full = (run or segment.size) and (
                segment.is_full(config, header, header.base_offset, now_ms, pending)
                or (is_marker and segment.aborted.size >= config.segment_index_bytes)
            )
            if run and (is_full or is_marker):
                yield run
                run, pending = [], 0
            if is_full:
                segment = self.roll()
            if not run and not segment.size:
                self._begin(segment, header, now_ms)
            run.append(header)
            pending += header.length + LENGTH_OFFSET
        yield run

    def _write_run(self, data: memoryview, run: list[BatchHeader], now_ms: int) -> None:
        """Append batches that go into the active segment, and note all that follows from it."""
        segment, first, epochs = self.segments[-1], run[0], self.epochs
        marker = read_marker(data[: first.size]) if first.attributes & CONTROL else None
        latest_epoch = epochs.latest
        for header in run:
            if header.leader_epoch != latest_epoch:
                epochs.assign(header.leader_epoch, header.base_offset)
                latest_epoch = header.leader_epoch
        if epochs.is_dirty:
            epochs.save(self.disk, self.directory)
        if segment.open_file is None:
            self._open_file(segment)
        try:
            if marker is not None:
                segment.aborted.note(self.producers.transactions.aborted_by(marker, first.base_offset))
            segment.append_run(data, run, self.config.index_interval_bytes)
        except OSError as error:
            epochs.truncate_end(self.end.value)
            raise self._write_failed(segment, error) from error
        except LogOffline as error:
            raise self.fail(error) from error
        # The batches are in the log. From here on nothing may fail (L1).
        self.size += len(data)
        if self.notes_tags:
            self._note_tags(segment, data, run)
        if first.attributes & CONTROL and is_hidden(first):
            self._note_hidden()
        for header in run:
            if header.producer_id >= 0:
                self.producers.update(header, header.base_offset, now_ms, marker if header is first else None)
        if self.unread < 0 and self.rules.leaves_unread:
            self.unread = first.base_offset
        if self._snapshots.grow(len(data), len(run)):
            self._take_snapshot()
        if self._dirty_since_ms is None:
            self._dirty(now_ms)
        self.end.advance(run[-1].next_offset)

    def _note_tags(self, segment: Segment, data: memoryview, run: list[BatchHeader]) -> None:
        tagger, begin, position = _tagger(), segment.size - len(data), 0
        for header in run:
            numbers = tagger.look_at(data[position : position + header.size], header)
            segment.note_tags(numbers, header, header.base_offset, begin + position)
            position += header.size

    @property
    def _may_begin_below(self) -> bool:
        """Whether a batch may begin before the end: the leader's log may start inside of its first batch."""
        return not self.size and self.start_offset == self.end.value and not self._dropped

    def _begin_inside(self, header: BatchHeader) -> None:
        """Have an empty log take a batch that begins below its start. May raise LogOffline."""
        self.reading.forget()
        try:
            self._rename_empty(self.active, header.base_offset)
        except OSError as error:
            raise self._cut_failed(error) from error

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

    # what the rest shares

    @property
    def is_settled(self) -> bool:
        """Whether it may grow: no truncation is waiting for the disk."""
        return not self._unsettled

    def check_settled(self) -> None:
        """Raise LogTruncated while a truncation is not settled."""
        if self._unsettled:
            raise LogTruncated(f"{self.directory} was cut to {self.end.value}, and that is not durable yet")

    def flush_later(self) -> None:
        """Have what is due flushed in the background."""
        if self._on_due is not None:
            self._on_due(self)

    def _cut_failed(self, error: OSError) -> LogOffline:
        return self.fail(LogOffline(f"{self.directory} cannot be cut: {error}"))

    def _rename_empty(self, segment: Segment, base_offset: int) -> None:
        """Let the only segment, which is empty, begin at another offset."""
        segment.close()
        files = segment.files()
        for path in files[1:]:
            self.disk.remove(path)
        self.segments[:] = [Segment(self.disk, file_stem(self.directory, base_offset), base_offset)]
        if files:
            self.disk.rename(segment.path, self.active.path)
