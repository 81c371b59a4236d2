"""Cleaner: compacts the logs of a data directory. Owns who is next, and what cannot be compacted.

    every log.cleaner.backoff.ms, or when woken:
      choosing ──▶ the dirtiest log ──▶ a pass, in a helper ──▶ group by group: PartitionLog.replace ──▶ checkpoint

At most log.cleaner.threads passes go on at a time, each with its share of log.cleaner.dedupe.buffer.size. A pass can be
given up at any moment: what it has replaced so far is right, and what is left of its files goes. So a log that changes
under it (it is cut, closed, deleted) just ends it. A log in which a batch is damaged, or too large to be looked into,
is told of once and left as it is; one whose disk is full, or refuses, is tried again later. The others go on.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.config import BrokerConfig
from kbroker.config.keys import LONG_MAX
from kbroker.env import Env, Steps
from kbroker.log.checkpoints import Key
from kbroker.log.cleaner import swap
from kbroker.log.cleaner.job import Covered, Group, Job, Lasts, Source, Tally
from kbroker.log.cold import NotInMemory
from kbroker.log.derived.aborted import AbortedRanges
from kbroker.log.derived.producers import Producer
from kbroker.log.errors import CorruptLog, LogOffline, Superseded, Uncleanable
from kbroker.log.writing import NO_SPACE
from kbroker.watermark import Watermark

if TYPE_CHECKING:
    from kbroker.log.cleaner.choosing import Span
    from kbroker.log.log import PartitionLog

AGAIN_SECONDS = 60.0  # after which a log is tried again whose disk has refused
INTERNAL = "__"  # how the names of internal topics begin, which a coordinator reads whole when it is to lead
INTERNAL_ROLL_BYTES = 1024 * 1024  # an active segment of theirs of this size is closed, so that it can be compacted
REST_SECONDS = 0.1  # between two looks, at least
LOGS_A_TURN = 100
STEP_BYTES_MIN, STEP_BYTES_MAX = 256 * 1024, 8 * 1024 * 1024  # that a pass handles between two steps
PAUSE_SECONDS_MIN = 0.001
LOOKS_MAX = 10_000  # segments of one log of which something is brought from the disk, before a pass

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Outcome(Tally):
    """What a compaction did to one log."""

    segments_before: int = 0
    segments_after: int = 0
    seconds: float = 0.0
    cleaned_to: int = 0  # everything below this offset is compacted

    def count(self, group: Group) -> None:
        """Count a group of segments that is done."""
        self.add(group.tally)
        self.segments_before += len(group.sources)
        self.segments_after += 1


class _Left(KafkaError):
    """Why a log is not compacted. until: by the liveness clock, when to try again; None: not as long as it is open."""

    def __init__(self, reason: str, until: float | None) -> None:
        super().__init__(ErrorCode.KAFKA_STORAGE_ERROR, reason)
        self.until = until


class Cleaner:
    """One for all logs of a data directory."""

    def __init__(
        self,
        env: Env,
        logs: Mapping[Key, PartitionLog],
        config: Callable[[], BrokerConfig],
        on_replaced: Callable[[PartitionLog], None],
        on_cleaned: Callable[[PartitionLog], Awaitable[None]],
    ) -> None:
        """on_replaced: a log has files to be removed. on_cleaned: its `cleaned_to` has moved, and is to be noted."""
        self.env = env
        self.logs = logs
        self.config = config
        self.left: dict[PartitionLog, _Left] = {}  # what cannot be compacted, and why
        self.passes = self.bytes_read = self.bytes_written = 0  # of logs that were compacted, since the start
        self._on_replaced = on_replaced
        self._on_cleaned = on_cleaned
        self._rest = trio.CancelScope()  # before the next look, until cancelled
        self._busy: dict[PartitionLog, trio.Event] = {}  # a pass goes on; rings at its end
        self._places = trio.CapacityLimiter(1)

    # choosing

    async def run(self) -> None:
        """Compact what is dirty enough, the dirtiest first; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    threads = self._threads() if self.config().get_bool("log.cleaner.enable") else 0
                    found = await self._dirtiest() if len(self._busy) < threads else None
                    if found is not None:
                        nursery.start_soon(self._compact_quietly, found, self._take(found))
                        continue
                    with self._rest:
                        await self.env.clock.sleep_data(self._backoff())
                    self._rest = trio.CancelScope()
        finally:
            self.env.helper.close()

    def wake(self) -> None:
        """Look again now: a log may have become worth it."""
        self._rest.cancel()

    def _backoff(self) -> float:
        return max(self.config().get_int("log.cleaner.backoff.ms") / 1000, REST_SECONDS)

    def _threads(self) -> int:
        return self.config().get_int("log.cleaner.threads")

    async def _dirtiest(self) -> PartitionLog | None:
        """The log that is most worth it."""
        self._forget_others()
        best, best_ratio = None, -1.0
        for number, ((topic, _), each) in enumerate(tuple(self.logs.items()), 1):
            if not number % LOGS_A_TURN:
                await trio.lowlevel.checkpoint()
            if not each.config.compacts or each in self._busy or self._is_left(each):
                continue
            try:
                if topic.startswith(INTERNAL) and each.offline is None and each.active.size >= INTERNAL_ROLL_BYTES:
                    each.roll()
                span = await self._span(each)
            except (OSError, KafkaError, Superseded) as error:  # it may be closed by now, or be deleted
                log.debug("%s is not looked at: %s", each.directory, error)
                continue
            if span is None or not span.is_worth_it(each.config.min_cleanable_dirty_ratio):
                continue
            if span.ratio > best_ratio:
                best, best_ratio = each, span.ratio
        return best if best not in self._busy else None  # somebody may have asked for it while others were looked at

    def _forget_others(self) -> None:
        """Remember nothing of logs that are not open any more."""
        if self.left:
            present = set(self.logs.values())
            self.left = {each: left for each, left in self.left.items() if each in present}

    def _is_left(self, each: PartitionLog) -> bool:
        left = self.left.get(each)
        return left is not None and (left.until is None or self.env.clock.liveness() < left.until)

    async def _span(self, each: PartitionLog) -> Span | None:
        """What of a log may be compacted; None: nothing."""
        from kbroker.log.cleaner.choosing import span_of  # only where there is something to compact

        return await self._brought(partial(span_of, each, self.env.clock.data_ms()))

    async def _brought(self, ask: Callable[..., T]) -> T:
        """What ask(now=True) tells, once workers have brought what it takes from the disk."""
        for _ in range(LOOKS_MAX):
            try:
                return ask(now=True)
            except NotInMemory as lacking:
                lacking.take(await self.env.offload(lacking.work))
        raise Superseded("what was brought from the disk is gone from memory again and again")

    # compacting

    async def compact_all(self, log: PartitionLog, committed: Watermark) -> Outcome:
        """Compact all of a log that is in it by now, once that is committed. Raises KafkaError, as `compact` does, or
        when the disk refuses another segment, or the log was cut meanwhile.
        """
        await committed.wait_past(log.roll().base_offset - 1)
        return await self.compact(log)

    async def compact(self, log: PartitionLog, *, force: bool = True) -> Outcome:
        """Compact a log up to its active segment, which the caller may have rolled before.

        force: however little of it is dirty; `min.compaction.lag.ms` is kept all the same. Returns what was done, which
        may be nothing. Raises KafkaError KAFKA_STORAGE_ERROR, with the reason, when it cannot be done (a batch is
        damaged or too large, the disk is full); nothing is lost then.
        """
        while (busy := self._busy.get(log)) is not None:
            await busy.wait()
        return await self._compact(log, self._take(log), force)

    def _take(self, each: PartitionLog) -> trio.Event:
        """A log's turn has come. Returns what rings when it is over."""
        assert each not in self._busy
        self._busy[each] = trio.Event()
        return self._busy[each]

    async def _compact(self, log: PartitionLog, done: trio.Event, force: bool) -> Outcome:
        try:
            self._places.total_tokens = max(self._threads(), 1)
            async with self._places:
                return await self._attempt(log, force)
        except _Left as left:
            self._note_left(log, left)
            raise
        finally:
            del self._busy[log]
            done.set()
            self.wake()

    async def _compact_quietly(self, each: PartitionLog, done: trio.Event) -> None:
        with suppress(_Left):  # that has been told
            await self._compact(each, done, False)

    def _note_left(self, each: PartitionLog, left: _Left) -> None:
        """Tell of a log that is left as it is, once for each reason."""
        before = self.left.get(each)
        if before is None or before.message != left.message:
            text = "%s is not compacted: %s%s"
            log.warning(text, each.directory, left.message, "" if left.until is None else " (it is tried again)")
        self.left[each] = left

    async def _attempt(self, each: PartitionLog, force: bool) -> Outcome:
        """One pass over a log. Raises _Left."""
        outcome, begun = Outcome(), self.env.clock.liveness()
        is_done = False
        try:
            span = await self._span(each)
            if (
                span is not None
                and each.config.compacts
                and (force or span.is_worth_it(each.config.min_cleanable_dirty_ratio))
            ):
                await self._pass(each, span, outcome)
                self.passes += 1
                self.bytes_read += outcome.bytes_before
                self.bytes_written += outcome.bytes_after
            is_done = True
            self.left.pop(each, None)
        except Superseded as error:  # its files are not what they were: another time
            log.debug("%s", error)
            self.left[each] = _Left(str(error), self.env.clock.liveness() + self._backoff())
        except (CorruptLog, Uncleanable) as error:
            raise _Left(str(error), None) from error
        except LogOffline as error:  # it has gone, and said why
            raise _Left(error.message, self._later()) from error
        except OSError as error:
            reason = "no space left on the disk" if error.errno in NO_SPACE else str(error)
            raise _Left(reason, self._later()) from error
        except Exception as error:  # a bug, brought to light by what is in this log: no reason to end all others
            log.exception("%s could not be compacted", each.directory)
            raise _Left(repr(error), None) from error
        finally:
            if not is_done:
                await self._tidy(each)
        outcome.seconds = self.env.clock.liveness() - begun
        outcome.cleaned_to = max(each.cleaned_to, each.start_offset)
        return outcome

    def _later(self) -> float:
        return self.env.clock.liveness() + AGAIN_SECONDS

    async def _tidy(self, each: PartitionLog) -> None:
        """Remove what a pass that was given up has left. Should that fail, the next pass or open does it."""
        with trio.CancelScope(shield=True), suppress(OSError):
            if each.offline is None:
                await self.env.offload(partial(swap.tidy, self.env.disk, each.directory))

    async def _pass(self, each: PartitionLog, span: Span, outcome: Outcome) -> None:
        """Compact what may be compacted. Raises Superseded, Uncleanable, CorruptLog, OSError."""
        from kbroker.log.cleaner import passes  # only where there is something to compact

        with each.being_cleaned():
            end = span.segments[-1].next_offset
            aborted = await self._brought(partial(each.aborted_below, end))
            producers = await self.env.offload(partial(lasts, list(each.producers.by_id.items()), end))
            job = self._job(each, span, aborted, producers)
            try:
                async with self.env.helper.begin(passes.run, job) as steps:
                    await self._follow(each, steps, span, outcome)
            except (OSError, CorruptLog, Uncleanable):
                each.check_unchanged()  # else it is no wonder
                raise
        await self._on_cleaned(each)

    async def _follow(
        self, each: PartitionLog, steps: Steps[int | Group | Covered], span: Span, outcome: Outcome
    ) -> None:
        """Do with each step of a pass what is to be done."""
        segments = {segment.base_offset: segment for segment in span.segments}
        end = span.segments[-1].next_offset
        while (step := await steps.step()) is not None:
            each.check_unchanged()
            match step:
                case Group():
                    if step.is_new:
                        old = [segments[source.base_offset] for source in step.sources]
                        await each.replace(old, step.size, self.env.offload)
                        self._on_replaced(each)
                    outcome.count(step)
                case Covered():  # where the map was full, nobody knows what is behind that
                    known_ms = each.horizon_ms if step.offset < end else LONG_MAX
                    each.cleaned(step.offset, min(outcome.horizon_ms, known_ms))
                case int():
                    await self._pace(step)

    def _job(self, each: PartitionLog, span: Span, aborted: list[AbortedRanges], producers: Lasts) -> Job:
        config = each.config
        return Job(
            directory=each.directory,
            sources=[Source(segment.base_offset, segment.next_offset, segment.size) for segment in span.segments],
            dirty_from=span.dirty_from,
            now_ms=self.env.clock.data_ms(),
            delete_retention_ms=config.delete_retention_ms,
            segment_bytes=config.segment_bytes,
            segment_index_bytes=config.segment_index_bytes,
            index_interval_bytes=config.index_interval_bytes,
            memory_bytes=self.config().get_int("log.cleaner.dedupe.buffer.size") // max(self._threads(), 1),
            step_bytes=int(min(max(self._rate() / 4, STEP_BYTES_MIN), STEP_BYTES_MAX)),
            producers=producers,
            aborted=aborted,
        )

    def _rate(self) -> float:
        """Bytes per second that one pass may read and write."""
        return self.config().get_float("log.cleaner.io.max.bytes.per.second") / max(self._threads(), 1)

    async def _pace(self, size: int) -> None:
        """So many bytes were read or written: keep to the rate."""
        rate = self._rate()
        seconds = size / rate if rate > 0 else 0.0
        if seconds > PAUSE_SECONDS_MIN:
            await self.env.clock.sleep(seconds)


def lasts(producers: Sequence[tuple[int, Producer]], end: int) -> Lasts:
    """What those producers wrote last, as far as it may lie below an offset. For a worker: they may be many."""
    found = Lasts(array("q"), array("q"), array("h"))
    for producer_id, producer in producers:
        if producer.last_data_offset < end:
            found.ids.append(producer_id)
            found.data_offsets.append(producer.last_data_offset)
            found.epochs.append(producer.epoch)
    return found
