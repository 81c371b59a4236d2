"""Clocks for tests: one that drives a whole run without waiting, and one whose domains a test moves by hand."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

from kbroker.testing.scheduler import someone_waits_for_idleness

EPOCH_MS = 1_700_000_000_000  # where data time begins in a test: a date people recognise, 2023-11-14
TICK_S = 2**-20  # exact in binary
IDLE_TURNS_MAX = 10  # turns of the scheduler with nothing to run and nothing to wait for, before it is a deadlock


class JumpClock(trio.abc.Clock):
    """The clock of a trio run that never waits: when no task can run, time jumps to the next deadline or timer.

    trio asks `deadline_to_sleep_time` only when nothing is runnable, so that is where time moves. Timers fire right
    there, between tasks; those of one moment in the order in which they were set.
    """

    def __init__(self) -> None:
        self.on_deadlock: Callable[[], None] = _stuck
        self.on_idle: Callable[[], None] = lambda: None  # nothing is runnable, so time is about to move
        self._now = 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_set = 0
        self._idle_turns = 0

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        """Call action at a time of this clock; at once, but not from here, when that has passed."""
        self._timers_set += 1
        heapq.heappush(self._timers, (max(when, self._now), self._timers_set, action))

    def start_clock(self) -> None:
        """Time begins at 0."""

    def current_time(self) -> float:
        """Seconds since the run began."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Nothing is runnable: jump. 0, as nobody has to wait; but who waits for just this idleness comes first."""
        self.on_idle()
        if someone_waits_for_idleness():
            return math.inf
        if self._timers and self._timers[0][0] <= deadline:
            self._now = max(self._now, self._timers[0][0])
            self._fire()
        elif deadline < math.inf:
            self._now = max(self._now, deadline)
        else:
            self._idle_turns += 1
            if self._idle_turns > IDLE_TURNS_MAX:
                self._idle_turns = 0
                self.on_deadlock()
            return 0
        self._idle_turns = 0
        return 0

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            heapq.heappop(self._timers)[2]()


def _stuck() -> None:
    raise RuntimeError("every task waits for another: no deadline, no timer")


class SteeredClock:
    """A Clock for an Env: follows the clock of the trio run, and jumps in one domain when told to.

    epoch_ms: data time when the run's clock shows origin; origin: when it is first asked, if not given. drift: seconds
    that pass here in one of the run's. now: the run's clock, where threads without a run ask too.
    """

    def __init__(
        self,
        *,
        epoch_ms: int = EPOCH_MS,
        origin: float | None = None,
        drift: float = 1.0,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self.epoch_ms = epoch_ms
        self.origin = origin
        self.drift = drift
        self._now = now
        self._data_ahead_ms = 0
        self._liveness_ahead = 0.0

    def data_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.epoch_ms + int(self._elapsed() * 1000) + self._data_ahead_ms

    def liveness(self) -> float:
        """Seconds on a clock that never goes back.

        A clock that drifts ticks: else who waits for a time of this clock on the run's could come ever closer to it, by
        less each time than a float can tell, and never reach it.
        """
        seconds = self._elapsed() + self._liveness_ahead
        return seconds if self.drift == 1.0 else math.ceil(seconds / TICK_S) * TICK_S

    async def sleep(self, seconds: float) -> None:
        """Wait in the I/O domain, which nobody jumps."""
        await trio.sleep(seconds / self.drift)

    def jump_data(self, ms: int) -> None:
        """Move data time; backwards, too, as the clocks of machines do."""
        self._data_ahead_ms += ms

    def jump_liveness(self, seconds: float) -> None:
        """Move liveness forward."""
        assert seconds >= 0, "liveness never goes back"
        self._liveness_ahead += seconds

    def _elapsed(self) -> float:
        now = self._now()
        if self.origin is None:
            self.origin = now
        return (now - self.origin) * self.drift
