"""Clocks for tests: one that drives a whole run without waiting, and one whose domains a test moves by hand."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

from kbroker.testing.scheduler import someone_waits_for_idleness

EPOCH_MS = 1_700_000_000_000  # where data time begins in a test: a date people recognise, 2023-11-14
TICK_S = 2**-20  # exact in binary
FOLLOW_S = 0.5  # real time: those who look at data time have so long to follow it
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

    `jump_data` sets it as the clocks of machines are set: nobody is told. `advance_data` tells those who look at data
    time now and then, so that they look just before it, and just after.

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
        self._bell = trio.Event()  # rings for those in `sleep_data`
        self._asleep: set[trio.lowlevel.Task] = set()
        self._awake: set[trio.lowlevel.Task] = set()  # rung for, and not back yet
        self._settled = trio.Event()
        self._turn = trio.Lock()  # of who advances it

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

    async def sleep_data(self, seconds: float) -> bool:
        """Wait in the I/O domain, until `advance_data` rings."""
        task = trio.lowlevel.current_task()
        self._is_back(task)
        self._asleep.add(task)
        bell = self._bell
        try:
            with trio.move_on_after(seconds / self.drift):
                await bell.wait()
                return True
            return False
        finally:
            self._asleep.discard(task)

    @property
    def data_ahead_ms(self) -> int:
        """How far data time has been moved."""
        return self._data_ahead_ms

    def jump_data(self, ms: int) -> None:
        """Move data time; backwards, too, as the clocks of machines do."""
        self._data_ahead_ms += ms

    async def advance_data(self, ms: int) -> None:
        """Move data time forward, with those who depend on it: they look once more before, and once after. Returns when
        they have, or have taken so long that nobody waits for them."""
        assert ms >= 0, "data time is advanced forward"
        async with self._turn:
            await self._ring()
            self.jump_data(ms)
            await self._ring()

    async def _ring(self) -> None:
        """Ring for all who sleep, and wait until they sleep again."""
        self._awake |= self._asleep
        bell, self._bell, self._settled = self._bell, trio.Event(), trio.Event()
        bell.set()
        if self._awake:
            with trio.move_on_after(FOLLOW_S):
                await self._settled.wait()
            self._awake.clear()

    def _is_back(self, task: trio.lowlevel.Task) -> None:
        if task in self._awake:
            self._awake.remove(task)
            if not self._awake:
                self._settled.set()

    def jump_liveness(self, seconds: float) -> None:
        """Move liveness forward."""
        assert seconds >= 0, "liveness never goes back"
        self._liveness_ahead += seconds

    def _elapsed(self) -> float:
        now = self._now()
        if self.origin is None:
            self.origin = now
        return (now - self.origin) * self.drift
