"""Worker threads in a simulation: real ones, of which one at most runs at a time, and only while the loop stands still.

    offload(work) ── some time ──▶ step ── system call ──▶ parked ── some time ──▶ step … ──▶ its end ── some time ──▶
                                    ▲ the loop waits meanwhile      the loop, and other workers, go on here

Work stops before a system call (an operation of its disk), so that whatever the loop or another worker does can come
between two of them: `x.tmp` created by one and renamed by another, a file removed between its look-up and its opening.
A call of the loop's own may in turn find that a worker has taken a step meanwhile, as a thread on another core does.
Where that happens is drawn from a seeded generator, and nobody runs unless somebody stands still for it: one seed, one
run.
"""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from kbroker.env import Disk, Offload

T = TypeVar("T")
PARK_CHANCE = 0.4  # before a system call of a worker
STEP_CHANCE = 0.05  # of some parked worker, before a system call of the loop
STEPS_IN_A_JOB = 2.0  # a step takes that part of a job's mean time


class _Thread:
    """A thread that takes steps on demand. Made again and again from those that are free."""

    free: list[_Thread] = []

    def __init__(self) -> None:
        self._go, self._stopped = threading.Lock(), threading.Lock()  # taken: nobody has given the sign
        self._go.acquire()
        self._stopped.acquire()
        self._work: Callable[[], Any] | None = None  # None: done
        self._context = Context()
        self.result: Any = None
        self.error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True, name="simulated worker").start()

    @classmethod
    def begin(cls, work: Callable[[], Any]) -> _Thread:
        """One that is to do this, and has not begun."""
        thread = cls.free.pop() if cls.free else cls()
        thread._work, thread._context = work, copy_context()
        return thread

    def release(self) -> None:
        """Its result has been taken: it may do other work."""
        self.result = self.error = None
        self.free.append(self)

    @property
    def done(self) -> bool:
        """Whether its work has ended."""
        return self._work is None

    def step(self) -> None:
        """Let it run to where it parks or ends."""
        self._go.release()
        self._stopped.acquire()

    def park(self) -> None:
        """Called by the thread: stop here until the next step."""
        self._stopped.release()
        self._go.acquire()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            try:
                assert self._work is not None
                self.result = self._context.run(self._work)
            except BaseException as error:
                self.error = error
            self._work = None
            self._stopped.release()


def _copied(value: T) -> T:
    """As it comes out of another process."""
    import pickle  # here: a broker of the pytest plugin is ready sooner without it

    return pickle.loads(pickle.dumps(value))  # type: ignore[no-any-return]


class InlineHelper:
    """A Helper whose steps are an offload's: in a simulation, of a worker that is parked like any other."""

    def __init__(self, disk: Disk, offload: Offload) -> None:
        self._disk = disk
        self._offload = offload

    @asynccontextmanager
    async def begin(self, work: Callable[..., Iterator[T]], *args: Any) -> AsyncIterator[InlineSteps[T]]:
        """Have work(disk, *args) done. What is passed is copied, as between processes."""
        steps = work(self._disk, *_copied(args))
        try:
            yield InlineSteps(steps, self._offload)
        finally:
            steps.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing is held."""


class InlineSteps(Generic[T]):
    """Work that goes on in the same process."""

    def __init__(self, steps: Iterator[T], offload: Offload) -> None:
        self._steps = steps
        self._offload = offload

    async def step(self) -> T | None:
        """The next step; None: finished."""
        found: T | None = await self._offload(partial(next, self._steps, None))
        return _copied(found)


class Workers:
    """The Offload of a simulated process. mean_s: what work takes, beside what it does itself."""

    def __init__(self, generator: random.Random, mean_s: float, alive: Callable[[], None]) -> None:
        self._random = generator
        self._mean_s = mean_s
        self._alive = alive
        self._parked: list[_Thread] = []
        self._running: _Thread | None = None

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run work; its result or exception is ours. As with any thread, cancelling does not stop what has begun."""
        self._alive()
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._pass_time(2)
            self._alive()
            thread = _Thread.begin(work)
            self._step(thread)
            while not thread.done:
                await self._pass_time(STEPS_IN_A_JOB)
                if not thread.done:
                    self._step(thread)
            result, error = thread.result, thread.error
            thread.release()
            await self._pass_time(2)
        self._alive()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def before_a_call(self) -> None:
        """To be called before every operation of the process's disk, whoever asks for it."""
        if self._running is not None:
            if self._random.random() < PARK_CHANCE:
                self._running.park()
        elif self._parked and self._random.random() < STEP_CHANCE:
            self._step(self._random.choice(self._parked))

    def _step(self, thread: _Thread) -> None:
        if thread in self._parked:
            self._parked.remove(thread)
        self._running = thread
        thread.step()
        self._running = None
        if not thread.done:
            self._parked.append(thread)

    async def _pass_time(self, parts: float) -> None:
        await trio.sleep(self._random.expovariate(parts / self._mean_s))
