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

Its state, and what writes to it, is in `writing`. Nobody else changes a log. What stands in other files decides, and is
told values: `retention` says what is too old, `snapshots` and `epochs` keep small files, `flushing` is what a worker
does. Files are written by the event loop alone; workers sync and read, and rename what is not the log's any more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from operator import attrgetter

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import AbortedTransaction
from kbroker.env import FileSlice, Offload
from kbroker.log.checkpoints import DELETED_DIRECTORY, GAPS, METADATA
from kbroker.log.cleaner import swap
from kbroker.log.content import lookup
from kbroker.log.content.lookup import Found
from kbroker.log.derived.aborted import AbortedRanges
from kbroker.log.derived.epochs import FILE_NAME as EPOCHS
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.derived.snapshots import Snapshots, snapshot_path
from kbroker.log.errors import CorruptLog, LogClosed, LogOffline, LogTruncated, Superseded
from kbroker.log.flushing import Flush, Settling, paths_of
from kbroker.log.recovery import End
from kbroker.log.retention.dropping import DELETED, Dropping
from kbroker.log.retention.expiry import count_expired
from kbroker.log.segment import Segment, file_stem, tick
from kbroker.log.writing import NO_CUT, NO_PASS, WritableLog
from kbroker.turns import Errands
from kbroker.watermark import Watermark

REREAD_BYTES_MAX = 1024 * 1024  # what an open may have to read for want of a producer snapshot at the log's end
CUT_AT_ONCE = 64  # segments: some 5 ms
EXPIRED_AT_ONCE = 5000  # segments, at one look: the next one finds more
DROPPED_AT_ONCE = 250  # segments: their files are not touched
RENAMED_AT_ONCE = 256  # segments, by a worker, whom a stop waits for

_base_offset = attrgetter("base_offset")


class PartitionLog(WritableLog):
    """One partition's records, on one disk."""

    __slots__ = ()

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

    def stable_below(self, high_watermark: int) -> int:
        """The last stable offset, as it follows from the partition's high watermark."""
        transactions = self.producers.transactions
        if transactions.first_unstable >= high_watermark:
            return high_watermark
        transactions.settle(high_watermark)
        return min(high_watermark, max(transactions.first_unstable, self.start_offset))

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
        """Cut everything at and above an offset: a follower that diverged. `settle` must follow, which may have to do
        some of it, or all; nothing is appended before it is done.

        Slices may change under their readers. Whoever waits for `end` or `flushed` gets LogTruncated, and finds new
        ones here. Raises LogOffline when the disk refuses.
        """
        if offset >= self.end.value:
            self.epochs.truncate_end(self.end.value)  # one may have begun there of which nothing was written
            return
        self._cuts += 1
        self._unsettled, self._cut_to, self._restart_at = self._cuts, offset, NO_CUT
        self.flush_later()  # should the follower not come to settle it
        if not self._must_wait(offset):
            self._cut_some()

    def _must_wait(self, offset: int) -> bool:
        """Whether it cannot be cut there yet: another file tells of more, a segment is taking others' place, or deleted
        ones have names that would be needed."""
        return (
            self._replacing is not None
            or (self._witness is not None and self._witness.tells_above(offset))
            or (self.is_renaming and offset < self.segments[0].base_offset)
        )

    def _cut_some(self) -> None:
        """Cut as much as one turn of the event loop may take: at any moment the log is in order, if longer."""
        offset, gone = self._cut_to, len(self.segments) - bisect_left(self.segments, self._cut_to, key=_base_offset)
        if gone > CUT_AT_ONCE:
            offset = self.segments[-CUT_AT_ONCE].base_offset
        else:
            self._cut_to = NO_CUT
        self._has_cut = True
        self.reading.forget()
        try:
            self._snapshots.truncate(offset)  # first: what they tell of, and is not there, a later start takes for lost
            self._cut_end(offset)
            self._cut_derived(self.active.next_offset)
        except OSError as error:
            raise self._cut_failed(error) from error
        self._unsettled = self._cuts

    def start_over(self, offset: int) -> None:
        """Give up everything, and begin at an offset above the end: where the leader's log begins.

        `settle` must follow, which may have to do it. The directory goes as a whole; `take_deleted` has it. For the
        rest see truncate_to.
        """
        self.check_online()
        assert offset > self.end.value, f"{self.directory} ends at {self.end.value}, it need not start over at {offset}"
        self._cuts += 1
        self._unsettled, self._cut_to, self._restart_at = self._cuts, 0, offset
        self.flush_later()
        if not self._must_wait(0):
            self._restart()

    def _restart(self) -> None:
        """Begin anew. Nothing tells that anything was here: at every step a kill leaves the log as it was, or none."""
        offset, self._restart_at, self._cut_to = self._restart_at, NO_CUT, NO_CUT
        stem = f"{self.directory[:200]}.{offset:x}-"  # names have an end
        aside = next(name for n in count() if not self.disk.exists(name := f"{stem}{n:x}{DELETED_DIRECTORY}"))
        for segment in self.segments:
            segment.close()
        try:
            if self.is_created:
                self.disk.rename(self.directory, aside)
                self._deleted.append(aside)
        except OSError as error:
            raise self._cut_failed(error) from error
        self.segments[:] = [Segment(self.disk, file_stem(self.directory, offset), offset)]
        self.reading.forget()
        self.epochs.clear()
        self.producers = ProducerStates()
        self._snapshots = Snapshots(self.disk, self.directory, [])
        self.is_created = self._is_metadata_synced = self.has_hidden = False
        self.gaps_below = self._gaps_synced = 0
        self._named, self.size, self.unread, self.start_offset = -1, 0, -1, offset
        self._dropped, self.may_return = [], False
        self._replace_ends(offset)
        self._unsettled, self._has_cut = 0, False

    def keep(self) -> None:
        """Cut nothing more: others are to follow this log now."""
        self._cut_to = self._restart_at = NO_CUT
        if not self._has_cut:
            self._unsettled = 0

    @property
    def recovery_point(self) -> int:
        """Everything below is durable, and is to stay."""
        return self.flushed.value if self._cut_to < 0 else min(self.flushed.value, self._cut_to)

    @property
    def start_point(self) -> int:
        """Everything below is given up, unless the log is to end lower."""
        return self.start_offset if self._cut_to < 0 else min(self.start_offset, self._cut_to)

    @property
    def cleaned_point(self) -> int:
        """Everything below is compacted, and is to stay."""
        return self.cleaned_to if self._cut_to < 0 else min(self.cleaned_to, self._cut_to)

    async def settle(self, offload: Offload) -> None:
        """Finish a truncation, after which the log may grow again: what was cut stays so, and the producers are those
        of the batches that are left (P2). Wait for a worker that reads and syncs. Nothing to do: returns at once. (A
        segment that is taking the place of others is waited for, too.)

        Raises LogOffline when the disk refuses, KAFKA_STORAGE_ERROR when it does so for now (nothing was cut). One that
        failed, or is cancelled, is to be called again.
        """
        while self._unsettled or self._replacing is not None:
            if self._replacing is not None:
                await self._replacing.wait()
                continue
            if self._settling is not None:
                await self._settling.wait()
                continue
            self._settling = trio.Event()
            try:
                await (self._cut_on(offload) if self._cut_to >= 0 else self._settle_once(offload))
            finally:
                self._settling.set()
                self._settling = None

    async def _cut_on(self, offload: Offload) -> None:
        """Cut a part of what is left to cut, once no other file tells of it."""
        self.check_online()
        try:
            if self._witness is not None:
                await self._witness.lower(self._cut_to, offload)
            await self.rename_dropped(offload)
        except OSError as error:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{self.directory} cannot be cut yet: {error}") from error
        await trio.lowlevel.checkpoint()
        self.check_online()
        if self._cut_to < 0 or self._must_wait(self._cut_to):
            return  # it was decided otherwise meanwhile
        if self._restart_at >= 0:
            self._restart()
        else:
            self._cut_some()

    async def _settle_once(self, offload: Offload) -> None:
        self.check_online()
        cut, settling = self._unsettled, self._settling_work()
        seen_ms = max((producer.seen_ms for producer in self.producers.by_id.values()), default=-1)
        try:
            producers, snapshots = await offload(settling.run)
        except CorruptLog as error:  # or it was cut again meanwhile
            if cut == self._unsettled:
                raise self.fail(error) from error
            return
        except OSError as error:
            if cut == self._unsettled:
                raise self._cut_failed(error) from error
            return
        if cut == self._unsettled and self._cut_to < 0:
            producers.touch(seen_ms)
            self.producers = producers
            self._snapshots.adopt(snapshots)
            self._unsettled, self._has_cut = 0, False

    def _settling_work(self) -> Settling:
        try:
            handle = self.active.file.handle
        except OSError as error:
            raise self._cut_failed(error) from error
        parts = [segment.apart() for segment in self.segments]
        return Settling(self.disk, self.directory, handle, parts, list(self._snapshots.offsets))

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

    def _cut_derived(self, end: int) -> None:
        """The segments end lower now: let all else follow, but for the producers, for which batches must be read."""
        self._replace_ends(end)
        self.unread = min(self.unread, end)
        self.start_offset = min(self.start_offset, end)  # it may have been inside the batch that is cut
        self.epochs.truncate_end(end)
        self._snapshots.truncate(end)
        if self.is_created:
            self.epochs.save(self.disk, self.directory)

    def _replace_ends(self, end: int) -> None:
        self._cuts += 1
        self.cleaned_to = min(self.cleaned_to, end)
        old_end, old_flushed = self.end, self.flushed
        self.end, self.flushed = Watermark(end), Watermark(min(old_flushed.value, end))
        truncated = LogTruncated(f"{self.directory} was cut from {old_end.value} to {end}")
        old_end.close(truncated)
        old_flushed.close(truncated)

    def advance_start(self, offset: int) -> None:
        """Give up everything below an offset (DeleteRecords). Raises KafkaError OFFSET_OUT_OF_RANGE above the end.

        Which offsets may go is for the caller to judge: none at or above the high watermark (L8).
        """
        if offset > self.end.value:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset} is past the end, {self.end.value}")
        if offset > self.start_offset:
            self.start_offset = offset
            self.epochs.truncate_start(offset)
            if self.high_watermark is not None:
                self.high_watermark.ring()  # followers are told of both

    # retention: what the Retainer does, in this order; and again, when it did not come to its end

    def find_start(self, now_ms: int, bound: int) -> int:
        """Where the log is to begin: behind the segments that are too old, or too many, or wholly below start_offset;
        none that reaches past bound (L8), or past `held_from`.

        None that is not durable yet: a later flush must find it, and with it the snapshot that will be the only trace
        of some producers (P2). Such segments are flushed in the background and go the next time.

        Raises NotInMemory when the disk must be asked, KafkaError when the disk refuses a segment to go on with.
        """
        if self._unsettled or self._cleaning != NO_PASS:
            return self.start_offset
        segments, bound = self.segments, min(bound, self.held_from)
        count = count_expired(segments, self.size, self.start_offset, self.config, now_ms, bound, EXPIRED_AT_ONCE)
        if count == len(segments):  # all of it: there must be one to go on with
            if self.active.size:
                self.roll()
            else:
                count -= 1
        durable = self._durable(count)
        if durable < count:
            self.flush_later()
        return max(self.start_offset, segments[durable].base_offset) if durable else self.start_offset

    def _durable(self, most: int) -> int:
        """How many of the oldest segments are durable, with the snapshot at their end; no more than most."""
        return next((n for n, segment in enumerate(islice(self.segments, most)) if not segment.is_synced), most)

    @property
    def has_droppable(self) -> bool:
        """Whether there is something for `drop`, or `rename_dropped`, as far as one can see at once."""
        return self.segments[0].next_offset <= self.start_offset and len(self.segments) > 1 or self.is_renaming

    def drop(self, bound: int) -> int:
        """Take segments off the log that lie wholly below start_offset; bound: as for `find_start`. No file is touched:
        see `rename_dropped`.

        Returns how many, no more than one turn of the event loop may take: call again until it is none.
        """
        if self._unsettled or self._cleaning != NO_PASS or self.offline is not None:
            return 0
        limit = min(self.start_offset, bound, self.held_from)
        below = bisect_right(self.segments, limit, key=_base_offset) - 1  # -1: all of the log is above what is held
        count = self._durable(max(0, min(below, DROPPED_AT_ONCE)))
        if not count:
            return 0
        dropped = self.segments[:count]
        for segment in dropped:
            segment.make_way()
        del self.segments[:count]
        self._dropped += dropped
        self.size -= sum([segment.size for segment in dropped])
        self.may_return = True
        self.reading.forget()
        return count

    @property
    def is_renaming(self) -> bool:
        """Whether files of dropped segments have their names yet, or may have them again after a crash."""
        return self.may_return or self.renaming is not None

    async def rename_dropped(self, offload: Offload) -> None:
        """Wait until a worker has renamed the files of dropped segments, durably. `take_deleted` has them then.

        Raises OSError when the disk refuses: it is to be called again, some time.
        """
        while self.is_renaming and self.offline is None:
            if self.renaming is not None:
                await self.renaming.wait()
                continue
            self.renaming = trio.Event()
            dropped, snapshots = self._dropped, self._snapshots.below(self.segments[0].base_offset)
            some = dropped[:RENAMED_AT_ONCE]
            is_last = len(some) == len(dropped)
            try:
                done = await offload(Dropping(self.disk, self.directory, some, snapshots, is_last).run)
                del dropped[: done.segments]
                self._deleted += done.paths
                if done.error is not None:
                    raise done.error
                self._snapshots.forget(snapshots)
                self.may_return = not is_last or self._dropped is not dropped or bool(dropped)
            finally:
                self.renaming.set()
                self.renaming = None

    def wanted_start(self, now_ms: int) -> int:
        """Where `find_start` would have the log begin if nothing were held.

        Raises NotInMemory when the disk must be asked.
        """
        high_watermark = self.high_watermark.value if self.high_watermark is not None else 0
        segments = self.segments
        count = count_expired(
            segments, self.size, self.start_offset, self.config, now_ms, high_watermark, EXPIRED_AT_ONCE
        )
        return segments[count].base_offset if count < len(segments) else self.end.value

    def _remove_segment(self, n: int) -> None:
        """Take the n-th segment off the log; its files are renamed, to be removed later. OSError when they cannot be.

        The batches go last: if it stops before, the segment has lost no more than what can be rebuilt.
        """
        segment = self.segments[n]
        segment.close()  # some systems rename no open file
        for path in reversed(segment.files()):
            self.disk.rename(path, path + DELETED)
            self._deleted.append(path + DELETED)
        del self.segments[n]
        self.size -= segment.size

    def take_deleted(self) -> list[str]:
        """The paths of deleted segments' files: the caller removes them, `file.delete.delay.ms` later."""
        deleted, self._deleted = self._deleted, []
        return deleted

    # compaction

    @contextmanager
    def being_cleaned(self) -> Iterator[None]:
        """While a pass of compaction reads the closed segments: none of them is deleted."""
        assert self._cleaning == NO_PASS, f"{self.directory} is being compacted twice"
        self._cleaning = self._cuts
        try:
            yield
        finally:
            self._cleaning = NO_PASS

    def aborted_below(self, bound: int, *, now: bool = False) -> list[AbortedRanges]:
        """What has all aborted transactions that begin below an offset. now, errors: see aborted_between."""
        self.check_online()
        return self.rediscovery.below(bound, self._snapshots.offsets, now=now)

    async def replace(self, old: Sequence[Segment], size: int, offload: Offload) -> None:
        """Have a segment in the place of closed ones that lie side by side. It has the same offsets and so many bytes;
        its files are there, durable, named as swap.py says.

        For who is in `being_cleaned`. Raises Superseded when they are not what they were then, LogOffline when the disk
        is in doubt, OSError when it merely refuses: nothing has changed then. `take_deleted` has the old files.
        """
        self._note_gaps(old[-1].next_offset)
        await self._sync_gaps(offload)
        self.check_unchanged()
        start = next(n for n, segment in enumerate(self.segments) if segment is old[0])
        assert self.segments[start : start + len(old)] == old and old[-1].is_closed
        assert self._replacing is None, f"{self.directory}: two segments at a time"
        self._replacing = trio.Event()
        try:
            with trio.CancelScope(shield=True):  # once begun, the log and its files must not differ
                await self._commit(old[0].stem, offload)
                if self.offline is None:  # else the next open does it
                    self._take_place(start, len(old), size)
                    await offload(partial(self.disk.sync_dir, self.directory))
        finally:
            self._replacing.set()
            self._replacing = None

    async def _sync_gaps(self, offload: Offload) -> None:
        """Have durable what the next open is to know of gaps."""
        below = self.gaps_below
        if below == self._gaps_synced:
            return
        paths = [f"{self.directory}/{GAPS}"]
        flush = Flush(self.disk, self.directory, (), paths, sync_directory=True, sync_parent=False)
        try:
            refused = await offload(flush.run)
        except OSError as error:
            raise self.fail(LogOffline(f"{self.directory}: fsync failed: {error}")) from error
        if refused is not None:
            raise refused
        self._gaps_synced = below

    def check_unchanged(self) -> None:
        """Raise Superseded if the log was closed or cut since the pass of compaction began that goes on."""
        if self.offline is not None or self._cleaning != self._cuts:
            raise Superseded(f"{self.directory} has changed while it was compacted")

    async def _commit(self, stem: str, offload: Offload) -> None:
        try:
            await offload(partial(swap.commit, self.disk, stem, lambda: self.offline is None))
        except OSError:
            if self.offline is None:
                try:
                    await offload(partial(swap.discard, self.disk, stem))
                except OSError as second:  # a later open may find it, when it is not true any more
                    raise self.fail(LogOffline(f"{stem}: a compacted segment cannot be removed: {second}")) from second
            raise

    def _take_place(self, start: int, count: int, size: int) -> None:
        old = self.segments[start : start + count]
        for segment in old:
            segment.make_way()
        new = Segment.in_place_of(old, size)
        try:
            self.replaced += 1
            self._deleted += swap.take_place(self.disk, new.stem, [segment.stem for segment in old], self.replaced)
        except OSError as error:
            raise self.fail(LogOffline(f"{new.path} cannot take its place: {error}")) from error
        self.segments[start : start + count] = [new]
        self.size += size - sum([segment.size for segment in old])
        self.reading.forget()
        self.rediscovery.forget()
        self._snapshots.keep_at({segment.base_offset for segment in self.segments})

    def cleaned(self, offset: int, horizon_ms: int) -> None:
        """Compaction has left no key twice below an offset; when the first tombstone or marker there may go.

        Raises Superseded.
        """
        self.check_unchanged()
        self.cleaned_to = max(self.cleaned_to, min(offset, self.end.value))
        self.horizon_ms = horizon_ms

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

    async def flush(self, offload: Offload) -> None:
        """Wait until everything appended before this call is durable. Group commit: one fsync is in flight for a log;
        all who ask meanwhile share the next one.

        Raises LogOffline when an fsync failed (never tried again on the same file, L2), KAFKA_STORAGE_ERROR when the
        disk is merely full or out of descriptors.
        """
        await self._flush_to(self.end.value, offload)

    async def flush_closed(self, offload: Offload) -> None:
        """Wait until all segments but the active one are durable, with the snapshots at their ends."""
        await self._flush_to(self.segments[-1].base_offset, offload, with_snapshots=True)

    async def _flush_to(self, target: int, offload: Offload, *, with_snapshots: bool = False) -> None:
        self.flushed.check()
        while self.flushed.value < min(target, self.end.value) or (with_snapshots and self._owes_snapshot(target)):
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

    def _owes_snapshot(self, target: int) -> bool:
        """Whether the newest closed segment below target was flushed before it was closed, and not since."""
        newest = self.segments[-2] if len(self.segments) > 1 else None
        return newest is not None and not newest.is_synced and newest.next_offset <= target

    async def _flush_once(self, target: int, offload: Offload) -> None:
        cuts, changes, gaps, since_ms = self._cuts, self.epochs.changes, self.gaps_below, self._dirty_since_ms
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
            if refused is not None and cuts == self._cuts:
                raise self._flush_refused(refused)
        except OSError as error:
            raise self.fail(LogOffline(f"{self.directory}: fsync failed: {error}")) from error
        except BaseException:  # refused, or cancelled: nobody knows how far it came
            if with_active:
                self._dirty_since_ms = since_ms
            raise
        if cuts == self._cuts:
            self._named, self._is_metadata_synced = newest, True
            self.epochs.synced(changes)
            self._gaps_synced = gaps
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
        owes_gaps = self.gaps_below != self._gaps_synced
        if owes_gaps:
            paths.append(f"{self.directory}/{GAPS}")
        has_new_names = (
            self._named != self.active.base_offset
            or self.epochs.is_unsynced
            or owes_gaps
            or not self._is_metadata_synced
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
        assert not self._dropped, f"{self.directory}: deleted segments would be found again"
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
                await self.rename_dropped(offload)
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
