"""Retainer: retention of all logs of a data directory, and the removal of deleted files. Owns which files are to go.

    every log.retention.check.interval.ms:
      ask each log for its new start, a hundred at a time ──▶ note all starts, once ──▶ drop, log by log

A log in which nothing is due costs a few comparisons. How old a segment is, is read in a worker and then known; so are
files renamed and removed. The data clock counts.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from kafka_wire.errors import KafkaError
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.log.checkpoints import DELETED_DIRECTORY, Key
from kbroker.log.cold import NotInMemory

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

FIRST_SECONDS = 30.0  # after a start, to the first look, if the interval is longer
LOGS_A_TURN = 100
LOOKS_MAX = 100  # at the segments of one log, some hundred each time; the rest has time until the next
REMOVED_AT_ONCE = 100  # files, by a worker: on some file systems a large one takes a while
DELAY_MS = 60_000  # where no topic says otherwise

log = logging.getLogger(__name__)


class Retainer:
    """One for all logs of a data directory."""

    def __init__(
        self,
        env: Env,
        logs: Mapping[Key, PartitionLog],
        config: Callable[[], BrokerConfig],
        move_starts: Callable[[Mapping[PartitionLog, int]], Awaitable[None]],
    ) -> None:
        """move_starts: see LogDirectory."""
        self.env = env
        self.logs = logs
        self.config = config
        self._move_starts = move_starts
        self._doomed: deque[tuple[int, list[str]]] = deque()  # (not before, data clock ms; paths), in no strict order

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        is_set = await self.env.clock.sleep_data(min(self._interval(), FIRST_SECONDS))
        while True:
            await self.apply()
            if is_set and await self._flush_closed():
                await self.apply()
            is_set = await self.env.clock.sleep_data(self._interval())

    async def _flush_closed(self) -> bool:
        """The clock is set: what would go, were it durable, is not left for the next time. Whether there was any."""
        waiting = [each for each in self.logs.values() if each.flushed.value < each.active.base_offset]
        for each in waiting:
            try:
                await each.flush_closed(self.env.offload)
            except (OSError, KafkaError) as error:
                log.error("%s: %s", each.directory, error)
        return bool(waiting)

    def _interval(self) -> float:
        return self.config().get_int("log.retention.check.interval.ms") / 1000

    async def apply(self) -> None:
        """Delete what is too old, too much, or below its log's start; remove what was deleted long enough ago."""
        due: dict[PartitionLog, int] = {}
        logs = iter(tuple(self.logs.values()))
        while some := list(islice(logs, LOGS_A_TURN)):
            await trio.lowlevel.checkpoint()
            await self._ask(some, due)
        if due:
            await self._move(due)
        for each in due:
            await self._drop(each)
        await self.remove_due()

    async def _ask(self, logs: Sequence[PartitionLog], due: dict[PartitionLog, int]) -> None:
        """Find out where logs are to begin. Those that have something to drop come into due."""
        for _ in range(LOOKS_MAX):
            lacking: list[tuple[PartitionLog, NotInMemory]] = []
            for each in logs:
                segments = len(each.segments)
                try:
                    self._ask_one(each, due)
                except NotInMemory as look:
                    lacking.append((each, look))
                    await trio.lowlevel.checkpoint()
                except (OSError, KafkaError) as error:
                    log.error("retention of %s: %s", each.directory, error)
                if len(each.segments) != segments:  # it has rolled
                    await trio.lowlevel.checkpoint()
            if not lacking:
                break
            logs = await self._bring(lacking)

    def _ask_one(self, each: PartitionLog, due: dict[PartitionLog, int]) -> None:
        if each.offline is None and each.high_watermark is not None:
            start = each.find_start(self.env.clock.data_ms(), each.high_watermark.value)
            if start > each.start_offset or each.has_droppable:
                due[each] = start

    async def _bring(self, lacking: Sequence[tuple[PartitionLog, NotInMemory]]) -> list[PartitionLog]:
        """Have a worker bring what several logs lack. Returns those that may be asked again."""
        brought = []
        found = await self.env.offload(partial(_run_all, [look.work for _, look in lacking]))
        for (each, look), (result, error) in zip(lacking, found, strict=True):
            if error is None:
                look.take(result)
                brought.append(each)
                await trio.lowlevel.checkpoint()
            elif each.offline is None:
                log.error("retention of %s: %s", each.directory, error)
        return brought

    async def _move(self, due: Mapping[PartitionLog, int]) -> None:
        """Have logs begin where they are to. A full disk is no reason not to: this makes room on it."""
        try:
            await self._move_starts(due)
        except OSError as error:
            log.warning("old records are deleted, though where logs begin could not be noted: %s", error)
            for each, offset in due.items():
                if each.offline is None and offset <= each.end.value:
                    each.advance_start(offset)

    async def _drop(self, each: PartitionLog) -> None:
        try:
            assert each.high_watermark is not None
            while each.drop(each.high_watermark.value):
                await trio.lowlevel.checkpoint()
            await each.rename_dropped(self.env.offload)
        except OSError as error:
            log.error("deleted segments of %s keep their files' names for now: %s", each.directory, error)
        self.remove_deleted(each)

    # removing

    def remove_deleted(self, each: PartitionLog) -> None:
        """A log has files that are not its own any more: they go when `file.delete.delay.ms` has passed."""
        self.remove_later(each.take_deleted(), each.config.file_delete_delay_ms)

    def remove_later(self, paths: list[str], delay_ms: int = DELAY_MS) -> None:
        """Remove files, and directories of deleted logs, when so much time has passed."""
        if paths:
            self._doomed.append((self.env.clock.data_ms() + delay_ms, paths))

    async def remove_due(self) -> None:
        """Remove that whose time has come."""
        now_ms = self.env.clock.data_ms()
        for _ in range(len(self._doomed)):
            if not self._doomed:
                return  # another duty does the same
            due_ms, paths = self._doomed.popleft()
            if due_ms > now_ms:
                self._doomed.append((due_ms, paths))
                continue
            for first in range(0, len(paths), REMOVED_AT_ONCE):
                await self.env.offload(partial(self._remove, paths[first : first + REMOVED_AT_ONCE]))

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                if path.endswith(DELETED_DIRECTORY):
                    self.env.disk.remove_tree(path)
                else:
                    self.env.disk.remove(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                log.error("%s was not removed: %s", path, error)


def _run_all(works: Sequence[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    """In a worker: what each of them returns, or raises."""
    done: list[tuple[Any, Exception | None]] = []
    for work in works:
        try:
            done.append((work(), None))
        except (OSError, KafkaError) as error:
            done.append((None, error.with_traceback(None)))
    return done
