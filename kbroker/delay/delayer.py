"""Delayer: what is delayed in one partition, and its delivery. Owns the partition's schedule.

It reads the log of its own partition, up to the high watermark: so it knows only what is committed, and the append path
does nothing for it. A follower reads along at leisure, so that a new leader has little to read.

    every role     log ──follow──▶ schedule ──save──▶ disk         lowest pending ──▶ log.held_from
    leader         schedule ──take──▶ ready ──append──▶ log ──follow──▶ not pending any more

The leader delivers in order of due time and id, when the data clock says so at the moment of the append (D1). Exactly
once: what it appends is in one log with what it reads. It begins when it has read everything there was when it became
leader, so what its predecessors have delivered is not pending; and it takes more from the schedule only when it has
read back all it has appended. A leadership that ends forgets what was taken: it is pending until it is read (D2, D3).

What was appended and not read yet, its log knows in short (`log.ahead`): nothing overtakes what is due earlier, nothing
is delivered behind a cancel.

Nothing pending is deleted: the log is held from its lowest offset on. Where retention, or DeleteRecords, wants to go
further, the leader appends it anew, with its id, and then the hold moves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import trio

from kafka_wire.errors import KafkaError
from kbroker.delay.reads import batches, pieces_from, read_pending
from kbroker.delay.schedule import NEVER, START, Damaged, Entry, Position, Schedule
from kbroker.delay.tracker import Step, Tracker
from kbroker.env import Env
from kbroker.log.cold import NotInMemory
from kbroker.log.content.delayed import SCHEDULE_DIRECTORY, Hidden, carrying_batch, delivery_batch
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition
from kbroker.watermark import Watermark

TAKEN_MAX = 5000  # entries that are on their way
DELIVERED_MAX = 500  # records in a batch
BATCH_BYTES = 256 * 1024  # or one record, when that is larger
CARRIED_MAX = 500  # records in a batch
GATHER_S = 0.01  # from the news that there is something to read, to reading it
LEISURE_S, LEISURE_S_MAX = 5.0, 60.0  # between two looks at a log of which nothing is awaited
SAVE_S = 10.0
FAR_OFFSETS = 100_000  # worth noting how far a log was read in which nothing is delayed
CARRY_S = 30.0  # between two looks whether something holds the log back, and between two goes at carrying all that does
ATTEMPTS_MAX = 256  # at what is not in memory: one a segment
RETRY_S = 1.0  # after trouble, and while too few replicas are in sync

log = logging.getLogger(__name__)


class Delayer:
    """What is delayed in one partition of this broker."""

    def __init__(self, partition: Partition, env: Env) -> None:
        self.partition = partition
        self.env = env
        self.reading = trio.Lock()  # over the schedule
        self._directory = f"{partition.log.directory}/{SCHEDULE_DIRECTORY}"
        self._tracker: Tracker | None = None  # None: not loaded
        self._is_void = not partition.log.has_hidden  # what is on the disk is damaged, or of an earlier log
        self._bell = trio.Event()
        self._epoch = -1  # leader epoch in which it delivers; -1: it does not
        self._gate = 0  # it may when the log has been read to here
        self._has_taken = False  # more than it has appended
        self._appended_to = 0  # where the latest batch ends that it has appended
        self._settled = 0  # changes, when the schedule had nothing left to do
        self._saved = (0, 0)  # changes and offset, when the schedule was saved last
        self._save_at = self._look_at = self._carry_at = 0.0
        self._leisure_s = LEISURE_S
        self._wanted = 0  # where somebody, or retention, wants the log to start
        self._target = 0  # below which it carries all that is pending
        self._after = START  # how far it has come with that, this time
        self._has_carried = False  # anything, this time
        self._moved = trio.Event()  # rings when what is pending has moved
        self._told = ""
        partition.log.hold(0)

    @property
    def log(self) -> PartitionLog:
        return self.partition.log

    @property
    def schedule(self) -> Schedule | None:
        """What is pending; None: not known yet. To be used with `reading` held."""
        return self._tracker.schedule if self._tracker is not None else None

    async def carry_to(self, offset: int) -> None:
        """Wait until nothing that is pending, or undecided, lies below an offset. The caller bounds the wait."""
        self._wanted = max(self._wanted, offset)
        self.wake()
        while self.log.held_from < offset:
            await self._moved.wait()

    def wake(self) -> None:
        """Something has changed: the role, the clock, the log."""
        self._bell.set()

    async def run(self) -> None:
        """Follow and deliver until cancelled."""
        while True:
            self._bell = trio.Event()
            try:
                wait_s = await self._round()
            except Damaged as error:
                log.warning("%s: the schedule is damaged, it is made anew: %s", self.log.directory, error)
                self.log.hold(0)
                self._tracker, self._is_void = None, True
                wait_s = 0.0
            except (KafkaError, OSError) as error:
                self._tell(error)
                wait_s = RETRY_S
            with trio.move_on_after(wait_s):
                await self._bell.wait()

    def _tell(self, error: KafkaError | OSError) -> None:
        """Say once what is in the way."""
        if not isinstance(error, LogOffline) and str(error) != self._told:
            self._told = str(error)
            log.warning("%s: what is delayed has to wait: %s", self.log.directory, error)

    async def _round(self) -> float:
        """Follow the log, and deliver what is due. Returns how long there is nothing to do, in seconds."""
        begun_s = self.env.clock.liveness()
        tracker = await self._follow()
        if not self.partition.leading or self.partition.leader_epoch != self._epoch:
            await self._stand_down(tracker)
        if self.partition.leading:
            self._take_over(tracker)
        if self._may_append(tracker):
            await self._deliver(tracker)
            await self._carry(tracker)
        await self._settle(tracker)
        await self._save(tracker)
        return await self._idle(tracker, self.env.clock.liveness() - begun_s)

    # following

    async def _follow(self) -> Tracker:
        """Read the log up to the high watermark."""
        while True:
            tracker = self._tracker or await self._load()
            if not self._is_of_log(tracker.position):
                tracker = await self._start_anew()
            bound = self.partition.high_watermark.value
            if tracker.position.offset >= bound:
                self._note(tracker)
                return tracker
            step = await self._step(tracker, tracker.position.offset, bound)
            if step.committed is not None:
                await self._commit(tracker, step.committed)
            self._note(tracker)
            await self._make_room(tracker)
            if step.is_done:
                return tracker

    async def _step(self, tracker: Tracker, offset: int, bound: int) -> Step:
        pieces = await pieces_from(self.log, offset, self.env.offload)
        found = batches(self.log.disk, pieces, offset, bound)
        epoch = self.partition.leader_epoch if self.partition.leading else -1
        async with self.reading:
            step: Step = await self.env.offload(partial(tracker.follow, found, epoch, self.log.end.value))
        if step.is_done and tracker.position.offset == offset:
            return step  # nothing of it counts yet
        return step._replace(is_done=False)

    async def _commit(self, tracker: Tracker, producer_id: int) -> None:
        """Read again what a transaction has hidden, as its marker comes next."""
        offset: int | None = tracker.open[producer_id].before.offset
        while offset is not None:
            pieces = await pieces_from(self.log, offset, self.env.offload, len(self.log.segments))
            found = batches(self.log.disk, pieces, offset, tracker.position.offset)
            async with self.reading:
                offset = await self.env.offload(partial(tracker.commit, producer_id, found))
            await self._make_room(tracker)

    async def _make_room(self, tracker: Tracker) -> None:
        """Let the schedule do what it has to before it takes more, some at a time: that may be a search through all
        that is pending, and what is due does not wait for it.
        """
        may_deliver = True
        while tracker.schedule.is_full:
            async with self.reading:
                await self.env.offload(tracker.schedule.settle)
            if may_deliver and self._may_append(tracker):
                try:
                    await self._deliver(tracker)
                except KafkaError as error:
                    self._tell(error)
                    may_deliver = False

    def _note(self, tracker: Tracker) -> None:
        """The log was read on."""
        if self.log.ahead is not None:
            self.log.ahead.read_to(tracker.position.offset)
        self.log.hold(tracker.held_from)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    def _is_of_log(self, position: Position) -> bool:
        """Whether what was read up to a position is what the log has there: it may have been cut, or begun anew."""
        at, first = self.log, self._first_offset
        if not first <= position.offset <= at.end.value:
            return False
        if position.offset == first:
            return True
        return at.epochs.epoch_at(position.offset - 1) in (-1, position.leader_epoch)

    @property
    def _first_offset(self) -> int:
        """Where there may be what counts. The leader's log starts above nothing that is pending or undecided:
        so what a follower has below that and did not read is not needed, and may never have been the leader's.
        """
        return max(self.log.segments[0].base_offset, self.log.start_offset)

    async def _load(self) -> Tracker:
        if self._is_void:
            return await self._start_anew()
        async with self.reading:
            found = await self.env.offload(partial(Schedule.load, self.log.disk, self._directory))
            if found is not None:
                self._tracker = Tracker(*found)
                return self._tracker
        return await self._start_anew()

    async def _start_anew(self) -> Tracker:
        """Know nothing, and read the log from its start on."""
        self.log.hold(0)
        self._end_leading()
        async with self.reading:
            await self.env.offload(partial(Schedule.discard, self.log.disk, self._directory))
            first = Position(self._first_offset, -1)
            self._tracker = Tracker(Schedule(self.log.disk, self._directory), first)
            self._saved, self._settled, self._is_void = (0, 0), 0, False
        return self._tracker

    async def _settle(self, tracker: Tracker) -> None:
        """Let the schedule do some of what it has put off."""
        if tracker.changes != self._settled:
            changes = tracker.changes
            async with self.reading:
                has_more = await self.env.offload(tracker.schedule.settle)
            if not has_more:
                self._settled = changes
            self._note(tracker)

    async def _save(self, tracker: Tracker) -> None:
        """Have little to read after a restart."""
        now_s = self.env.clock.liveness()
        state = (tracker.changes, tracker.position.offset)
        is_far = state[1] - self._saved[1] > FAR_OFFSETS
        if now_s < self._save_at or state == self._saved or not (self.log.has_hidden or is_far):
            return
        self._save_at = now_s + SAVE_S
        async with self.reading:
            await self.env.offload(partial(tracker.schedule.save, tracker.safe_position))
        self._saved = state

    # leading

    async def _stand_down(self, tracker: Tracker) -> None:
        """What was taken in an earlier leadership is pending again, unless it is read."""
        if self._epoch >= 0:
            async with self.reading:
                tracker.schedule.release()
            self._end_leading()
        if not self.partition.leading and self.log.ahead is not None:
            self.log.ahead.resign()

    def _end_leading(self) -> None:
        self._epoch = -1
        self._has_taken = False
        self._target = 0

    def _take_over(self, tracker: Tracker) -> None:
        """Begin to deliver in this leadership, once all that was there when it began has been read."""
        partition = self.partition
        is_behind = tracker.position.offset < partition.high_watermark.value
        if self._epoch >= 0 or is_behind or partition.is_catching_up:
            return
        self._epoch = partition.leader_epoch
        ahead = self.log.watch_hidden()
        ahead.on_news = self.wake
        ahead.take_over({producer_id: each.effects for producer_id, each in tracker.open.items()})
        self._gate = self._appended_to = self.log.end.value

    def _may_append(self, tracker: Tracker) -> bool:
        """Whether this is the leader that it was, and knows all that it has to."""
        ahead, offset = self.log.ahead, tracker.position.offset
        return (
            self.partition.leading
            and self.partition.leader_epoch == self._epoch
            and tracker is self._tracker
            and ahead is not None
            and offset >= max(self._gate, ahead.blind_to)
        )

    @property
    def _bound_ms(self) -> int:
        """Up to when what is due may be delivered."""
        ahead = self.log.ahead
        now_ms = self.env.clock.data_ms()
        return min(now_ms, ahead.due_bound) if ahead is not None else now_ms

    async def _deliver(self, tracker: Tracker) -> None:
        """Append what is due. More is taken only when all of it was read back."""
        schedule = tracker.schedule
        while self._may_append(tracker) and self._appended_to <= tracker.position.offset:
            if self._has_taken:  # and could not be appended
                async with self.reading:
                    schedule.release()
                self._has_taken = False
            if schedule.next_due_ms > self._bound_ms:
                return
            async with self.reading:
                taken = await self.env.offload(partial(schedule.take, self._bound_ms, TAKEN_MAX))
            self._has_taken = bool(taken)
            while taken and self._has_taken:
                appended = await self._append(tracker, taken)
                if not appended:
                    return
                taken = taken[appended:]
            self._has_taken = False

    async def _append(self, tracker: Tracker, taken: Sequence[Entry]) -> int:
        """Append the first of what was taken; how many need not be looked at again. 0: not now."""
        some = taken[:DELIVERED_MAX]
        found = await read_pending(self.log, some, self.env.offload, BATCH_BYTES)
        some = some[: found.looked_for]
        for each in some:
            if each.id not in found.records:
                log.error("%s: record %d, which is due, is not at offset %d", self.log.directory, each.id, each.offset)
        cancels = self.log.watch_hidden().cancels
        kept = [each for each in some if each.id in found.records and not cancels(each.id, each.key)]
        batch = await self._made([found.records[each.id] for each in kept])
        # From here to the append nothing else happens. What was cancelled the schedule forgets when it comes there.
        if not self._may_append(tracker) or any(cancels(each.id, each.key) for each in kept):
            return 0
        if kept and kept[-1].due_ms > self._bound_ms:
            return 0
        if batch is not None:
            self._write(batch)
        return len(some)

    async def _made(self, records: Sequence[Hidden]) -> bytearray | None:
        """The batch that delivers records. None of it is due later than now, whatever it said."""
        if not records:
            return None
        rules, now_ms = self.log.rules, self.env.clock.data_ms()
        codec = rules.codec or 0
        due = [(min(each.due_ms, now_ms), each) for each in records]
        return await self.env.offload(partial(delivery_batch, due, codec, rules.level(codec)))

    def _write(self, batch: bytearray) -> None:
        now_ms = self.env.clock.data_ms()
        self.partition.write_hidden(batch, now_ms)
        self._appended_to = self.log.end.value
        if self.log.flushes and self.log.needs_flush(now_ms):
            self.log.flush_later()

    # carrying on

    async def _carry(self, tracker: Tracker) -> None:
        """Append anew what holds back the log's start, some at a time, while nothing is on its way."""
        schedule, target = tracker.schedule, await self._wanted_start(tracker)
        if target > self._target:
            self._target, self._after, self._carry_at = target, START, 0.0
            self._has_carried = False
        if self._has_taken or self._appended_to > tracker.position.offset or schedule.lowest_offset >= target:
            return
        if self.env.clock.liveness() < self._carry_at:  # what is left cannot be read, or is on its way out
            return
        async with self.reading:
            page = await self.env.offload(partial(schedule.page, self._after, CARRIED_MAX, below=target))
        found = await read_pending(self.log, page.entries, self.env.offload, BATCH_BYTES)
        cancels = self.log.watch_hidden().cancels
        if not self._may_append(tracker):
            return
        some = page.entries[: found.looked_for]
        kept = [each for each in some if each.id in found.records and not cancels(each.id, each.key)]
        if kept:
            self._write(carrying_batch([found.records[each.id] for each in kept], self.env.clock.data_ms()))
            self._has_carried = True
        if len(some) < len(page.entries):
            self._after = some[-1].due_ms, some[-1].id
        elif page.next is not None:
            self._after = page.next
        elif self._has_carried:
            self._after, self._has_carried = START, False  # once more, when that was read back
        else:
            self._after, self._carry_at = START, self.env.clock.liveness() + CARRY_S
            schedule.tighten()
            self._settled = -1

    async def _wanted_start(self, tracker: Tracker) -> int:
        """Where the log would start, were nothing pending; but no further than all is decided."""
        now_s = self.env.clock.liveness()
        if now_s >= self._look_at and tracker.schedule.lowest_offset < self.log.active.base_offset:
            self._look_at = now_s + CARRY_S
            self._wanted = max(self._wanted, await self._retained_from())
        return min(max(self.log.start_offset, self._wanted), tracker.safe_position.offset)

    async def _retained_from(self) -> int:
        """Where retention would have the log start."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return self.log.wanted_start(self.env.clock.data_ms())
            except NotInMemory as lacking:
                lacking.take(await self.env.offload(lacking.work))
        return 0

    # waiting

    async def _idle(self, tracker: Tracker, took_s: float) -> float:
        """How long there is nothing to do. took_s: the last round; where many delayers are busy, each gathers more."""
        partition = self.partition
        ahead, offset = self.log.ahead, tracker.position.offset
        high_watermark = partition.high_watermark
        awaited = max(ahead.last if ahead is not None else -1, self._appended_to - 1)
        if partition.leading and (awaited >= offset or self._epoch < 0):
            if high_watermark.value <= offset:
                await self._rings(high_watermark)
            await self.env.clock.sleep(max(GATHER_S, took_s))
            return 0
        if tracker.changes != self._settled:
            return 0
        has_news = high_watermark.value > offset
        self._leisure_s = LEISURE_S if has_news else min(2 * self._leisure_s, LEISURE_S_MAX)
        next_ms = tracker.schedule.next_due_ms if partition.leading else NEVER
        if next_ms == NEVER:
            return self._leisure_s
        return min(max(next_ms - self.env.clock.data_ms(), 1) / 1000, self._leisure_s)

    async def _rings(self, high_watermark: Watermark) -> None:
        """Until the high watermark has moved, or something else has happened."""
        high_watermark.attach(self._bell)
        try:
            with trio.move_on_after(RETRY_S):
                await self._bell.wait()
        finally:
            high_watermark.detach(self._bell)
