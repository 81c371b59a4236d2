"""trio made deterministic, and able to freeze some of its tasks. The one module that reaches inside trio.

    order      `_ALLOW_DETERMINISTIC_SCHEDULING` sorts each batch of runnable tasks, `_r` shuffles it: seeded here
    threads    their timing cannot be repeated: starting one raises
    freezing   the run queue is replaced by one that keeps frozen tasks back, so not a line of theirs runs: SIGSTOP

`_internals` checks at the start that this trio is made as expected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import trio
from trio._core import _run
from trio.lowlevel import Task

TURNS_MAX = 100_000  # with something runnable, before it is a livelock


class FreezableQueue(deque[Task]):
    """trio's queue of runnable tasks; those for which is_frozen holds look absent, and stay.

    is_frozen is asked only while `freezing` is true, as it is asked for every step of every task. on_livelock is called
    when there is something runnable turn after turn, so many times that it will never end.
    """

    def __init__(self, tasks: deque[Task], is_frozen: Callable[[Task], bool], on_livelock: Callable[[], None]) -> None:
        super().__init__(tasks)
        self.freezing = False
        self.on_livelock = on_livelock
        self._turns = 0  # since nothing was runnable
        self._is_frozen = is_frozen

    def __iter__(self) -> Iterator[Task]:
        tasks = super().__iter__()
        return (task for task in tasks if not self._is_frozen(task)) if self.freezing else tasks

    def __bool__(self) -> bool:
        return any(True for _ in self) if self.freezing else len(self) > 0

    def note_idle(self) -> None:
        """Nothing is runnable."""
        self._turns = 0

    def clear(self) -> None:
        """Forget the tasks that `__iter__` shows: the scheduler has taken them for a turn."""
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0
            self.on_livelock()
        frozen = [task for task in super().__iter__() if self._is_frozen(task)] if self.freezing else []
        super().clear()
        self.extend(frozen)


def install_queue(is_frozen: Callable[[Task], bool], on_livelock: Callable[[], None]) -> FreezableQueue:
    """Replace the run queue of the trio run that we are in."""
    runner = _run.GLOBAL_RUN_CONTEXT.runner
    queue = runner.runq = FreezableQueue(runner.runq, is_frozen, on_livelock)
    return queue


def someone_waits_for_idleness() -> bool:
    """Whether a task of this run is in `trio.testing.wait_all_tasks_blocked`."""
    runner = getattr(_run.GLOBAL_RUN_CONTEXT, "runner", None)
    return runner is not None and bool(runner.waiting_for_idle)


@contextmanager
def deterministic_trio(seed: str) -> Iterator[None]:
    """While the block runs, trio schedules by seed and starts no threads."""
    _internals()
    random_state = _run._r.getstate()
    with ExitStack() as stack:
        stack.enter_context(replaced(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
        stack.enter_context(replaced(trio.to_thread, "run_sync", _refuse_threads))
        stack.callback(_run._r.setstate, random_state)
        _run._r.seed(seed)
        yield


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an attribute another value while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _internals() -> None:
    names = {field.name for field in getattr(_run.Runner, "__attrs_attrs__", ())}
    if not (hasattr(_run, "_r") and hasattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING") and "runq" in names):
        raise RuntimeError(f"the simulation does not know the scheduler of trio {trio.__version__}")


async def _refuse_threads(*args: Any, **options: Any) -> Any:
    raise RuntimeError("a thread in a simulation: use env.offload")
