"""Openings: the logs that are being opened, in workers, a few at a time.

    add ──▶ waiting ──▶ run by a worker, with others (log/opening.py) ──▶ on_outcome: a log, or why there is none
               ▲                    │
               └──── not begun ─────┘ the worker's turn is over

Who stops does not wait for a scan of gigabytes: what is being opened ends as if the broker was killed. What takes long
is told of.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import trio

from kafka_wire.records import BatchHeader
from kbroker.log.checkpoints import Key
from kbroker.log.directory import LogDirectory
from kbroker.log.opening import TURN_LOGS, Opening, Outcome

OPENERS = 4  # logs opened at once: the disk has something to do, and the event loop is not crowded out
REPORT_S = 3.0  # between two lines about logs being opened
LONG_S = 1.0  # opening that takes longer is told of

log = logging.getLogger(__name__)


class Openings:
    """Made once; `run` once."""

    def __init__(self, logs: LogDirectory, on_outcome: Callable[[Opening, Outcome], None]) -> None:
        """on_outcome: told what became of each; it must not wait, and may `add` another."""
        self._logs = logs
        self._clock = logs.env.clock
        self._on_outcome = on_outcome
        self._under_way: dict[Key, Opening] = {}
        self._waiting: deque[Opening] = deque()  # those of them that no worker has begun with
        self._bell = trio.Event()  # there is something in _waiting
        self._idle = trio.Event()  # nothing is under way
        self._idle.set()
        self._busy_since_s = 0.0  # liveness clock: when it last was idle
        self._opened = 0  # logs since then
        self._bytes_read = 0  # of those logs

    def __contains__(self, key: Key) -> bool:
        """Whether the log of a partition, by topic and index, is being opened."""
        return key in self._under_way

    @property
    def progress(self) -> tuple[int, int]:
        """How many logs are open, of all since the last time that none was being opened."""
        return self._opened, self._opened + len(self._under_way)

    def add(self, opening: Opening) -> None:
        """Have a log opened whose key is not here yet."""
        assert opening.key not in self._under_way, f"{opening.directory} is being opened"
        if not self._under_way:
            self._idle = trio.Event()
            self._busy_since_s, self._opened, self._bytes_read = self._clock.liveness(), 0, 0
        self._under_way[opening.key] = opening
        self._waiting.append(opening)
        self._bell.set()

    def refuse(self, key: Key, header: BatchHeader) -> None:
        """Note that a batch was refused for now, in case that the log is being opened; see PartitionLog.refuse."""
        opening = self._under_way.get(key)
        if opening is not None:
            opening.refuse(header)

    async def wait_idle(self) -> None:
        """Wait until no log is being opened."""
        while self._under_way:
            await self._idle.wait()

    async def run(self) -> None:
        """Open what is added, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(self._open)
            nursery.start_soon(self._tell_progress)
            try:
                await trio.sleep_forever()
            finally:  # workers are waited for: they end now
                for opening in self._under_way.values():
                    opening.progress.stop()

    async def _open(self) -> None:
        """Give a worker what is to be opened, and tell what it brings."""
        while True:
            while not self._waiting:
                if self._bell.is_set():  # else others hear it too
                    self._bell = trio.Event()
                await self._bell.wait()
            count = min(TURN_LOGS, -(-len(self._waiting) // OPENERS))
            openings = [self._waiting.popleft() for _ in range(count)]
            outcomes = await self._logs.run_openings(openings)
            self._waiting.extendleft(reversed(openings[len(outcomes) :]))
            for opening, outcome in outcomes:
                del self._under_way[opening.key]
                self._opened, self._bytes_read = self._opened + 1, self._bytes_read + opening.progress.bytes
                self._on_outcome(opening, outcome)
            if not self._under_way and not self._idle.is_set():
                self._idle.set()
                self._say_how_long_it_took()

    async def _tell_progress(self) -> None:
        """While logs are being opened, say now and then how far that has come."""
        while True:
            await self._clock.sleep(REPORT_S)
            if self._under_way:
                opened, total = self.progress
                read = self._bytes_read + sum(each.progress.bytes for each in self._under_way.values())
                log.info("opening logs: %d of %d partitions done, %d MiB read", opened, total, read >> 20)

    def _say_how_long_it_took(self) -> None:
        seconds = self._clock.liveness() - self._busy_since_s
        level = logging.INFO if seconds >= LONG_S else logging.DEBUG
        log.log(level, "%d logs opened in %.1f s, %d MiB read", self._opened, seconds, self._bytes_read >> 20)
