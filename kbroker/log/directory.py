"""LogDirectory: all logs of a broker's data directory. Owns its lock, the crash marker, the checkpoints, the duties.

    .lock                               held while a broker runs on the directory
    .kafka_cleanshutdown                there only after an orderly stop; JSON, see below
    boot-id                             the operating system's run in which the directory was last used; see below
    recovery-point-offset-checkpoint    what is durable, per partition     (drawn in checkpoints.py)
    log-start-offset-checkpoint         what DeleteRecords gave up
    replication-offset-checkpoint       high watermarks of partitions with several replicas
    cleaner-offset-checkpoint           up to where a log is compacted
    <topic>-<partition>/                a log                              (drawn in log.py)
    <topic>-<partition>.<id>-delete/    of a deleted topic, about to go
    <topic>-<partition>.<id>-stray/     of a topic with another id (R13), or damaged (L4): kept for people, never served

`.kafka_cleanshutdown` absent and boot-id as it is now: the broker was killed, the page cache survived (Crash.PROCESS).
Another boot-id, or none: Crash.POWER. An orderly stop leaves a marker that says of each log where it ended (offset,
bytes of its segments, number of producers), so that the next start opens it without a look at its batches:

    {"version": 0, "brokerEpoch": -1, "logs": {"orders-0": [1741, 90112, 2]}, "unsynced": ["orders-0"]}

A stop takes a bounded time, which thousands of logs may exceed. A log that is not in "logs" is opened as after a kill.
One in "unsynced" has not been made durable: should the system go down before the next start, it is opened as after a
power failure.

A broker may end before it has opened all that the one before it left. What is known of a log that was not opened is
handed on: by the marker, and by boot-id, which names in lines after the id the logs that are still to be opened as
after a power failure, in however many starts that may be. A line `?` says that something may have been lost, and that
the broker has not left the in-sync replicas since (R10).
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter

import trio

from kafka_wire.errors import KafkaError
from kbroker.config import BrokerConfig, TopicConfig
from kbroker.config.keys import LONG_MAX
from kbroker.env import Env, Lock
from kbroker.log.checkpoints import (
    CLEANED,
    DELETED_DIRECTORY,
    HIGH_WATERMARKS,
    LOG_STARTS,
    METADATA,
    RECOVERY_POINTS,
    Key,
    OffsetCheckpoint,
    Witness,
    read_topic_id,
)
from kbroker.log.cleaner.cleaner import Cleaner
from kbroker.log.cleaner.orders import Orders
from kbroker.log.content.scrubber import Scrubber
from kbroker.log.derived.epochs import LeaderEpochs
from kbroker.log.log import PartitionLog
from kbroker.log.opening import Opening, Outcome, run_some
from kbroker.log.recovery import Crash, End
from kbroker.log.retention.retainer import Retainer
from kbroker.log.troubles import Troubles
from kbroker.turns import advance, finish_unqueued

LOCK = ".lock"
CLEAN_MARKER = ".kafka_cleanshutdown"
BOOT_ID = "boot-id"
MAY_HAVE_LOST = "?"  # a line of it; no log has such a name
DELETE, STRAY = DELETED_DIRECTORY, "-stray"
FINISH_SECONDS = 0.5  # how long an orderly stop may spend on small files
SYNC_SECONDS = 1.0  # and after that on fsyncs
SYNC_TASKS = 16
TURN = 100  # logs between two checkpoints of the event loop
TIMED_FLUSH_SECONDS = 0.05  # how finely flush.ms is kept
RELEASE_SECONDS = 30.0  # after how much idleness a closed segment's index and file are given back, at least

log = logging.getLogger(__name__)


class LogDirectory:
    """The logs of one broker. `open`, then `run` in a nursery, at last `close`."""

    def __init__(self, env: Env, config: BrokerConfig) -> None:
        self.env = env
        self.config = config
        self.crash = Crash.CLEAN  # how the last broker here ended; known after open
        self.logs: dict[Key, PartitionLog] = {}
        self.scrubber = Scrubber(env, self.logs, lambda: self.config.get_int("kbroker.scrub.bytes.per.second"))
        self.retainer = Retainer(env, self.logs, lambda: self.config, self.move_starts)
        self.cleaner = Cleaner(env, self.logs, lambda: self.config, self.retainer.remove_deleted, self._keep_cleaned)
        self.orders = Orders(self.cleaner)
        self.troubles = Troubles(env.clock)
        self._lock: Lock | None = None
        self._is_gone = False  # somebody removed the directory
        self._recovery_points = OffsetCheckpoint(env.disk, RECOVERY_POINTS)
        self._log_starts = OffsetCheckpoint(env.disk, LOG_STARTS)
        self._high_watermarks = OffsetCheckpoint(env.disk, HIGH_WATERMARKS)
        self._cleaned = OffsetCheckpoint(env.disk, CLEANED)
        self._checkpoints = (self._log_starts, self._recovery_points, self._high_watermarks, self._cleaned)
        self._due: dict[PartitionLog, None] = {}  # to be flushed in the background
        self._due_bell = trio.Event()
        self._renaming: list[trio.Event] = []  # in logs that are not here any more, workers are at it yet
        self._names = itertools.count(1)
        self._unsynced: set[str] = set()  # names of logs that a power failure may have torn, not opened since
        # Of logs not opened yet, by directory:
        self._clean_ends: dict[str, End] = {}  # where they ended at a clean stop
        self._cached: set[str] = set()  # which of those nobody has made durable
        self._boot_note = ""  # what boot-id holds
        self.is_lossy = False  # something that was not durable may be gone, and others may still count on it (R10)
        self._moves = trio.Lock()
        self._moving: dict[PartitionLog, int] = {}  # log starts that are being made durable

    # life

    def open(self) -> None:
        """Take possession: lock, find out how the last run ended, read the checkpoints. Blocks on one fsync.

        Raises DirectoryLocked, OSError: then the directory is free again.
        """
        self._lock = self.env.disk.lock(LOCK)
        try:
            self._take_over()
        except BaseException:
            self._lock.release()
            self._lock = None
            raise

    def _take_over(self) -> None:
        disk = self.env.disk
        self.crash = self._how_it_ended()
        if disk.exists(CLEAN_MARKER):
            disk.remove(CLEAN_MARKER)
        disk.sync_dir("")  # else a power failure could bring it back, even one that an earlier start has removed
        if self.crash is Crash.POWER:
            self._unsynced = self._names_on_disk()
        self._note_boot()
        for checkpoint in self._checkpoints:
            if not checkpoint.load() and disk.exists(checkpoint.name):
                log.error("%s is damaged: what it said is not known any more", checkpoint.name)
        self._doubt_high_watermarks()
        self._remove_deleted()

    def _doubt_high_watermarks(self) -> None:
        """Where a power failure may have taken records with it, others may come in their place that nobody has
        committed: what was known of them counts no more, before anything is written. May raise OSError.
        """
        for name in self._unsynced:
            topic, _, partition = name.rpartition("-")
            self._high_watermarks.set((topic, int(partition)), None)
        if self._high_watermarks.is_dirty:
            self._high_watermarks.save()

    def _how_it_ended(self) -> Crash:
        disk = self.env.disk
        try:
            self._boot_note = disk.read(BOOT_ID).decode(errors="replace")
        except FileNotFoundError:
            pass
        boot_id, *unsynced = self._boot_note.splitlines() or [""]
        is_same_boot = boot_id == disk.boot_id != ""
        self.is_lossy = MAY_HAVE_LOST in unsynced
        self._unsynced = set(unsynced) - {MAY_HAVE_LOST} if is_same_boot else set()
        try:
            marker = json.loads(disk.read(CLEAN_MARKER))
            ends = {str(name): End(*map(int, end)) for name, end in marker["logs"].items()}
            cached = set(map(str, marker["unsynced"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # none, or another broker's
            self.is_lossy |= not is_same_boot
            return Crash.PROCESS if is_same_boot else Crash.POWER
        if is_same_boot:
            self._cached = cached
        else:
            self._unsynced |= cached
            self.is_lossy |= bool(cached)
        self._clean_ends = {name: end for name, end in ends.items() if name not in self._unsynced}
        return Crash.CLEAN

    def _note_boot(self) -> None:
        """Bring boot-id up to date: after a kill there is nothing to write, so a full disk does not prevent a start.

        It need not be durable: after a power failure the id in it is another's anyway.
        """
        boot_id = self.env.disk.boot_id
        note = "\n".join([boot_id, *([MAY_HAVE_LOST] if self.is_lossy else []), *sorted(self._unsynced)])
        if boot_id and note != self._boot_note:
            self.env.disk.write_atomic(BOOT_ID, note.encode(), sync=False)
            self._boot_note = note

    def note_left(self) -> None:
        """Nobody counts any more on what may be lost: this broker has left the in-sync replicas. What it has from now
        on, it has. Should that not be noted, it will leave them once more.
        """
        if self.is_lossy:
            self.is_lossy = False
            self._note_boot_if_possible()

    def _note_boot_if_possible(self) -> None:
        """Like _note_boot; a disk that refuses is asked again at the next checkpoint."""
        try:
            self._note_boot()
        except OSError as error:
            log.warning("%s was not brought up to date: %s", BOOT_ID, error)

    def _remove_deleted(self) -> None:
        for name in self.env.disk.list_dir(""):
            if name.endswith(DELETE):
                self.retainer.remove_later([name], delay_ms=0)

    async def close(self, *, clean: bool = True) -> None:
        """Stop. clean: make everything durable, as far as a short time allows, and note how each log was left, so that
        the next start trusts it and scans nothing.
        """
        try:
            if clean and self._lock is not None:
                ends = await self._finish_logs()
                synced = await self._sync_logs(ends)
                await self._for_each(self._note_offsets)
                await self._for_each(self._note_high_watermark)
                await self._save_checkpoints()
                self._note_boot()
                await self.env.offload(partial(self._mark_clean, ends, synced))
        except OSError as error:
            log.error("the stop could not be marked as clean: %s", error)
        finally:
            for each in self.logs.values():
                each.abandon()
            self.logs.clear()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def _finish_logs(self) -> dict[str, End]:
        """Write what the next open would have to find out, while the time lasts. Returns where those logs end."""
        ends: dict[str, End] = {}
        with trio.move_on_after(FINISH_SECONDS):
            for n, each in enumerate(self.logs.values()):
                if not n % TURN:
                    await trio.lowlevel.checkpoint()
                try:
                    await each.settle(self.env.offload)
                    await each.rename_dropped(self.env.offload)
                    ends[each.directory] = each.finish()
                except (OSError, KafkaError) as error:
                    log.error("%s was not closed in order: %s", each.directory, error)
        return ends

    async def _sync_logs(self, ends: Container[str]) -> set[str]:
        """Make logs durable while the time lasts. Returns the names of those that are."""
        waiting = deque(each for each in self.logs.values() if each.directory in ends)
        synced: set[str] = set()

        async def work() -> None:
            while waiting:
                each = waiting.popleft()
                try:
                    await each.sync(self.env.offload)
                    synced.add(each.directory)
                except (OSError, KafkaError) as error:
                    log.error("%s was not made durable: %s", each.directory, error)
                await trio.lowlevel.checkpoint()

        with trio.move_on_after(SYNC_SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(SYNC_TASKS):
                    nursery.start_soon(work)
        return synced

    def _mark_clean(self, ends: dict[str, End], synced: set[str]) -> None:
        """Leave the marker. ends, synced: of the logs that were open. Blocks. May raise OSError."""
        logs = {each.directory for each in self.logs.values() if each.offline is None}
        all_ends = {**self._clean_ends, **{name: end for name, end in ends.items() if name in logs}}
        durable = {name for name in self._clean_ends if name not in self._cached} | synced
        marker = {
            "version": 0,
            "brokerEpoch": -1,
            "logs": all_ends,
            "unsynced": sorted(name for name in self._names_on_disk() if name not in durable),
        }
        self.env.disk.write_atomic(CLEAN_MARKER, json.dumps(marker).encode(), sync=True)

    def reconfigure(self, config: BrokerConfig) -> None:
        """Take the broker's changed configs: intervals and expirations of the duties."""
        self.config = config

    # logs

    def opening(
        self, topic: str, partition: int, topic_id: bytes, config: TopicConfig, *, leader_epoch_max: int | None = None
    ) -> Opening:
        """All that is needed to open the log of a partition, elsewhere. One that is open is closed, to be rescanned.

        Until it was run and adopted, or has failed, nobody may ask for the partition again. leader_epoch_max: the
        partition's present leader epoch; no batch can have a later one. May raise OSError.
        """
        key, directory = (topic, partition), f"{topic}-{partition}"
        clean_end = self._clean_ends.get(directory)
        crash = Crash.POWER if directory in self._unsynced else Crash.CLEAN if clean_end else Crash.PROCESS
        present = self.logs.pop(key, None)
        if present is not None:
            present.abandon()
            self._note_renaming(present)
            self._unsynced.add(directory)  # until it is open again: a stop meanwhile is no clean one for it
            self._high_watermarks.set(key, None)
            self._note_boot()
            crash = Crash.ERROR
        return Opening(
            key, directory, topic_id, config, self.env.disk, self.env.clock,
            is_new=not self.env.disk.exists(directory),
            crash=crash,
            recovery_point=self._recovery_points.offsets.get(key, 0),
            start_offset=self._log_starts.offsets.get(key, 0),
            leader_epoch_max=leader_epoch_max,
            clean_end=clean_end,
            on_due=self._flush_is_due,
            witness=Witness(key, self._checkpoints),
            cleaned_to=self._cleaned.offsets.get(key, 0),
        )  # fmt: skip

    async def run_openings(self, openings: Sequence[Opening]) -> list[tuple[Opening, Outcome]]:
        """Open logs in a worker: as many, from the first on, as fit into its turn. They are still to be adopted."""
        await self._wait_renamed()
        return await self.env.offload(partial(run_some, openings))

    def adopt(self, opening: Opening, opened: PartitionLog | None) -> PartitionLog:
        """Own a log that was opened. None: there was none of that topic, and an empty one begins.

        Data of another topic id under the same name is moved aside (R13). May raise OSError.
        """
        assert opening.key not in self.logs, f"{opening.directory} was opened twice"
        if opened is None:
            opened = self._begin(opening)
        self._forget_crash(opening.directory)
        for header in opening.refused.values():
            opened.refuse(header)
        self.logs[opening.key] = opened
        return opened

    def _forget_crash(self, directory: str) -> None:
        """What the last broker left there is open now, or gone."""
        self._unsynced.discard(directory)
        self._cached.discard(directory)
        self._clean_ends.pop(directory, None)

    def _begin(self, opening: Opening) -> PartitionLog:
        """A new log: offsets of an earlier one with its name must not be found after a crash."""
        if not opening.is_new:
            self._make_way(opening)
        elif (lost := max(opening.recovery_point, opening.clean_end.offset if opening.clean_end else 0)) > 0:
            log.error("%s is gone, which had records up to offset %d: it begins anew", opening.directory, lost - 1)
        self._forget(opening.key)
        for checkpoint in self._checkpoints:
            if checkpoint.is_stale_on_disk(opening.key):
                checkpoint.save()
        return PartitionLog.open(
            self.env.disk, opening.directory, config=opening.config, topic_id=opening.topic_id, crash=opening.crash,
            on_due=opening.on_due, witness=opening.witness,
        )  # fmt: skip

    def _make_way(self, opening: Opening) -> None:
        """Have nothing of another topic in a directory."""
        disk, directory = self.env.disk, opening.directory
        names = disk.list_dir(directory)
        if read_topic_id(disk, directory) is not None or any(name.endswith(".log") for name in names):
            aside = self._aside(directory, STRAY)
            log.warning("%s holds no data of topic id %s: moved to %s", directory, opening.topic_id.hex(), aside)
            disk.rename(directory, aside)
        elif METADATA in names:  # torn by a power failure, and the log with it: made anew with the first batch
            disk.remove(f"{directory}/{METADATA}")

    def _aside(self, directory: str, suffix: str) -> str:
        """A free name beside a directory."""
        stem = directory[:200]  # names have an end
        return next(
            name
            for n in self._names
            if not self.env.disk.exists(name := f"{stem}.{self.env.clock.data_ms():x}{n:x}{suffix}")
        )

    def _forget(self, key: Key) -> None:
        for checkpoint in self._checkpoints:
            checkpoint.set(key, None)

    def remove(self, topic: str, partition: int) -> None:
        """Delete a partition's log, open or not. Its files go later. May raise OSError."""
        key, directory = (topic, partition), f"{topic}-{partition}"
        present = self.logs.pop(key, None)
        aside = self._aside(directory, DELETE)
        if present is not None:
            present.delete(aside)
            self._note_renaming(present)
            self.retainer.remove_later([aside], present.config.file_delete_delay_ms)
        elif self.env.disk.exists(directory):
            self.env.disk.rename(directory, aside)
            self.retainer.remove_later([aside])
        self._forget_crash(directory)
        self._forget(key)

    def leave(self, topic: str, partition: int) -> None:
        """Serve a partition's log no more, and leave its files as they are: it may be opened again."""
        present = self.logs.pop((topic, partition), None)
        if present is not None:
            present.abandon()
            self._note_renaming(present)
            self._unsynced.add(present.directory)  # a stop is no clean one for it
            self._note_boot_if_possible()

    def _note_renaming(self, gone: PartitionLog) -> None:
        if gone.renaming is not None:
            self._renaming.append(gone.renaming)

    async def _wait_renamed(self) -> None:
        """Wait until no worker renames files of a log that is not here any more: another may use their names."""
        while self._renaming:
            await self._renaming[-1].wait()
            self._renaming = [each for each in self._renaming if not each.is_set()]  # several may wait, and more come

    def set_aside(self, topic: str, partition: int) -> str:
        """Keep a partition's log, which is not open, for people: under another name, which is returned, so that a new
        one can begin. May raise OSError.
        """
        assert (topic, partition) not in self.logs
        directory = f"{topic}-{partition}"
        aside = self._aside(directory, STRAY)
        self.env.disk.rename(directory, aside)
        self._forget_crash(directory)
        self._forget((topic, partition))
        return aside

    def has_logs(self) -> bool:
        """Whether there is any on the disk. May raise OSError."""
        return any(self._holds_log(name) for name in self._names_on_disk())

    def _holds_log(self, directory: str) -> bool:
        try:
            names = self.env.disk.list_dir(directory)
        except NotADirectoryError:
            return False
        return METADATA in names or any(name.endswith(".log") for name in names)

    def on_disk(self) -> list[tuple[str, int, bytes | None]]:
        """(topic, partition, topic id) of every log there is on the disk: to find those of deleted topics."""
        disk = self.env.disk
        return [(topic, index, read_topic_id(disk, f"{topic}-{index}")) for topic, index in self._keys_on_disk()]

    def last_epoch(self, topic: str, partition: int) -> int:
        """The leader epoch of the last batch of a log that is on the disk, as far as it tells; else -1. Blocks."""
        epochs = LeaderEpochs()
        try:
            is_known = epochs.load(self.env.disk, f"{topic}-{partition}")
        except OSError:
            return -1
        return epochs.latest if is_known else -1

    def _names_on_disk(self) -> set[str]:
        """The directories of logs."""
        return {f"{topic}-{partition}" for topic, partition in self._keys_on_disk()}

    def _keys_on_disk(self) -> list[Key]:
        found = []
        for name in self.env.disk.list_dir(""):
            topic, dash, partition = name.rpartition("-")
            if dash and topic and partition.isascii() and partition.isdigit():
                found.append((topic, int(partition)))
        return found

    # duties

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush in the background, delete what is too old, checkpoint, expire producers; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_when_due)
            interval = "log.retention.check.interval.ms"
            nursery.start_soon(partial(self._every, interval, self._expire_producers, by_data_time=True))
            nursery.start_soon(self._every, "log.flush.offset.checkpoint.interval.ms", self._checkpoint)
            nursery.start_soon(self._every, "replica.high.watermark.checkpoint.interval.ms", self._keep_high_watermarks)
            nursery.start_soon(self._release_idle)
            nursery.start_soon(self.retainer.run)
            nursery.start_soon(self.scrubber.run)
            nursery.start_soon(self.cleaner.run)
            await nursery.start(self.orders.run)
            task_status.started()

    async def _every(self, name: str, duty: Callable[[], Awaitable[None]], *, by_data_time: bool = False) -> None:
        clock = self.env.clock
        while True:
            await (clock.sleep_data if by_data_time else clock.sleep)(max(self.config.get_int(name), 1) / 1000)
            try:
                await duty()
            except OSError as error:
                log.error("%s: %s", name, error)

    def _flush_is_due(self, due: PartitionLog) -> None:
        self._due[due] = None
        self._due_bell.set()

    async def _flush_when_due(self) -> None:
        while True:
            await self._due_bell.wait()
            self._due_bell = trio.Event()
            waiting = [due for due in tuple(self._due) if not await self._flush_due(due)]
            if waiting:  # flush.ms has not run out yet
                await self.env.clock.sleep(TIMED_FLUSH_SECONDS)
                for due in waiting:
                    self._flush_is_due(due)

    async def _flush_due(self, due: PartitionLog) -> bool:
        """Flush what a log owes; whether that was all of it."""
        del self._due[due]
        try:
            await due.settle(self.env.offload)
            await due.flush_closed(self.env.offload)
            if due.needs_flush(self.env.clock.data_ms()):
                await due.flush(self.env.offload)
        except (OSError, KafkaError) as error:
            log.error("%s: %s", due.directory, error)
        return due.offline is not None or due.config.flush_ms == LONG_MAX or due.flushed.value >= due.end.value

    async def _expire_producers(self) -> None:
        """Forget the producers of all logs that wrote nothing for long enough."""
        now_ms, expiration_ms = self.env.clock.data_ms(), self.config.get_int("producer.id.expiration.ms")
        for n, each in enumerate(tuple(self.logs.values()), start=1):
            work = each.expire_producers(now_ms, expiration_ms)
            if advance(work, 1) is None:
                await finish_unqueued(work)
            if not n % TURN:
                await trio.lowlevel.checkpoint()

    async def _release_idle(self) -> None:
        while True:
            await self.env.clock.sleep_data(RELEASE_SECONDS)
            await self._check_directory()
            await self._for_each(lambda key, each: each.release_idle())
            await self.retainer.remove_due()

    async def _check_directory(self) -> None:
        """Files that are open can be written though somebody has removed them all: take no more for nothing."""
        if not self._is_gone and not self.env.disk.exists(""):
            self._is_gone = True
            log.error("the data directory is gone: its partitions are offline until a restart")
            await self._for_each(lambda key, each: each.lose("the data directory is gone"))

    async def _for_each(self, do: Callable[[Key, PartitionLog], None]) -> None:
        """Call do for all logs but those that are removed meanwhile, some in a turn of the event loop."""
        for n, (key, each) in enumerate(tuple(self.logs.items()), start=1):
            if self.logs.get(key) is each:
                do(key, each)
            if not n % TURN:
                await trio.lowlevel.checkpoint()

    def release_least_used(self, count: int) -> int:
        """Close so many files of segments, of all logs, that nobody has used for longest. Returns how many were.

        They are opened again when they are needed. For a shortage of descriptors: see Net.when_short.
        """
        opened = [(segment.used, each, segment) for each in self.logs.values() for segment in each.open_segments()]
        least = heapq.nsmallest(count, opened, key=itemgetter(0))
        for _, each, segment in least:
            each.release(segment)
        return len(least)

    # checkpoints

    async def move_starts(self, starts: Mapping[PartitionLog, int]) -> None:
        """Give up what is below an offset, in some logs: first noted durably, then done, so that no crash brings any
        of it back (L8). Raises OSError; then nothing was given up, unless the broker ends before the next checkpoint.

        A log that goes offline meanwhile gives it up all the same: it was promised as soon as it was durable.
        """
        async with self._moves:
            self._moving = dict(starts)
            try:
                await self._note_starts(starts)
                await self._log_starts.save_in(self.env.offload)
                for n, (each, offset) in enumerate(starts.items(), start=1):
                    if offset <= each.end.value:  # it may have been cut meanwhile
                        each.advance_start(offset)
                    if not n % TURN:
                        await trio.lowlevel.checkpoint()
            finally:
                self._moving = {}
                with trio.CancelScope(shield=True):
                    await self._note_starts(starts)

    async def _note_starts(self, logs: Iterable[PartitionLog]) -> None:
        for n, each in enumerate(logs, start=1):
            key = self._key_of(each)
            if self.logs.get(key) is each:  # not deleted meanwhile
                self._note_start(key, each)
            if not n % TURN:
                await trio.lowlevel.checkpoint()

    def _key_of(self, each: PartitionLog) -> Key:
        topic, _, partition = each.directory.rpartition("-")
        return topic, int(partition)

    def _note_start(self, key: Key, each: PartitionLog) -> None:
        """A start is told by the first segment's name, unless it lies inside, or the segment may not be there later."""
        start = max(each.start_point, self._moving.get(each, 0))
        is_told = start <= each.segments[0].base_offset and start <= each.flushed.value and not each.may_return
        self._log_starts.set(key, None if is_told else start)

    def _note_offsets(self, key: Key, each: PartitionLog) -> None:
        self._recovery_points.set(key, each.recovery_point or None)
        self._cleaned.set(key, each.cleaned_point or None)
        self._note_start(key, each)

    def _note_high_watermark(self, key: Key, each: PartitionLog) -> None:
        shown = each.high_watermark if each.is_shared else None
        self._high_watermarks.set(key, None if shown is None else shown.value or None)

    def high_watermark(self, topic: str, partition: int) -> int:
        """Of a partition as an earlier process has left it, or as it was noted last; 0: not known."""
        return self._high_watermarks.offsets.get((topic, partition), 0)

    async def _keep_high_watermarks(self) -> None:
        await self._for_each(self._note_high_watermark)
        await self._high_watermarks.save_in(self.env.offload)

    async def _checkpoint(self) -> None:
        """Write down recovery points and log starts, if they moved."""
        await self._for_each(self._note_offsets)
        self._note_boot()
        await self._save_checkpoints()

    async def _keep_cleaned(self, each: PartitionLog) -> None:
        """A log was compacted: write down how far."""
        key = self._key_of(each)
        if self.logs.get(key) is each:
            self._cleaned.set(key, each.cleaned_point or None)
            await self._cleaned.save_in(self.env.offload)

    async def forget_removed(self) -> None:
        """Wait until no checkpoint file speaks of a log that was removed: one of its name can then begin at once.

        May raise OSError; beginning it then tries again.
        """
        await self._wait_renamed()
        for checkpoint in self._checkpoints:
            if checkpoint.is_stale:
                await checkpoint.save_in(self.env.offload)

    async def _save_checkpoints(self) -> None:
        for checkpoint in self._checkpoints:
            await checkpoint.save_in(self.env.offload)
