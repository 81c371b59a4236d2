"""LoopMeter: how much Python the event loop runs between two chances for somebody else. Counted in lines, not in time.

    meter = LoopMeter()
    with meter.running():
        ...                     # the code under test, in this trio run
    assert meter.worst <= LINES_MAX, meter.report()
    assert meter.bytes_max <= ...                       # running(memory=True): what it took at once, at twice the time

A line of Python takes some 50 to 100 ns, so 50,000 of them are about 4 ms. What runs in the test's own task (its
clients), and what is given to a worker (`meter.offload`), does not hold the broker's loop and is not counted.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeAlias, TypeVar

import trio

T = TypeVar("T")

LINES_MAX = 50_000
LOOKED_AT = 64  # of so many lines, it is noted whose one is: of each, it would double the cost of counting

Trace: TypeAlias = Callable[[FrameType, str, Any], Any]


class LoopMeter(trio.abc.Instrument):
    """Counts lines in each step of every task but the one that made it."""

    def __init__(self) -> None:
        self.worst = 0  # lines in the longest step so far
        self.steps = 0
        self.lines = 0  # so far
        self.bytes_max = 0
        self._own = trio.lowlevel.current_task()
        self._counts: Counter[CodeType] = Counter()
        self._worst_counts: Counter[CodeType] = Counter()
        self._worst_task = ""
        self._counting = False
        self._trace_lines, self._count = _counter(self._counts)

    @contextmanager
    def running(self, *, memory: bool = False) -> Iterator[None]:
        """Count while the block runs."""
        trio.lowlevel.add_instrument(self)
        if memory:
            tracemalloc.start()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)
            if memory:
                _, self.bytes_max = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            trio.lowlevel.remove_instrument(self)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio's hook."""
        self._counts.clear()
        self._count(0)
        self._counting = task is not self._own

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio's hook."""
        lines = self._count(0) if self._counting else 0
        self._counting = False
        self.steps += 1
        self.lines += lines
        if lines > self.worst:
            self.worst, self._worst_task, self._worst_counts = lines, task.name, self._counts.copy()

    async def offload(self, work: Callable[[], T]) -> T:
        """An Offload whose work is somebody else's time."""
        await trio.lowlevel.checkpoint()
        counting, self._counting = self._counting, False
        lines = self._count(0)
        try:
            return work()
        finally:
            self._count(lines)
            self._counting = counting

    def report(self) -> str:
        """Where the longest step spent its lines, by those that were looked at."""
        found = (f"  {count:>9,} {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
                 for code, count in self._worst_counts.most_common(6))  # fmt: skip
        return f"{self.worst:,} lines in one step of {self._worst_task}\n" + "\n".join(found)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._trace_lines if self._counting else None


def _counter(counts: Counter[CodeType]) -> tuple[Trace, Callable[[int], int]]:
    """What is called for each line, as cheap as it can be; and what tells how many there were, and counts on from n."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Trace:
        nonlocal lines
        if event == "line":
            lines += 1
            if not lines % LOOKED_AT:
                counts[frame.f_code] += LOOKED_AT
        return trace

    def count(n: int) -> int:
        nonlocal lines
        found, lines = lines, n
        return found

    return trace, count
