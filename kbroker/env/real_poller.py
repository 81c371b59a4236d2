"""Poller: one task that watches all connections and calls those that have something to read. Linux (epoll).

trio's own way costs a connection three things for each request it waits for: arming the descriptor, waking the task,
and the attempt to read that found nothing. Here each socket is registered once, edge-triggered, in an epoll of our own,
and one task waits on that epoll as a whole; when it stirs, the step each waiting connection has left behind is called
right there. A connection's task runs only when its step could not finish without waiting.

    socket ─▶ epoll (edge-triggered) ─▶ pump ─▶ step() ─▶ None: all done, goes on waiting
                                                     └──▶ a value or exception: the task wakes up with it

An edge is told once, so each reader remembers whether its socket may hold more (`drained`): a receive that came up
short has emptied it, unless the peer has hung up as well. A pump that has called EVENTS_MAX steps lets other tasks run.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import outcome
import trio

T = TypeVar("T")

EVENTS_MAX = 64


class Reader:
    """One socket as the pump knows it."""

    __slots__ = ("drained", "hung_up", "step", "task")

    def __init__(self) -> None:
        self.drained = False  # nothing to receive until the next edge
        self.hung_up = False  # the peer has: a short receive proves nothing any more
        self.step: Callable[[], Any] | None = None  # what to call; None while the connection's task is at work
        self.task: trio.lowlevel.Task | None = None

    def call(self) -> bool:
        """Call the step, if one waits. Whether it ought to be called again."""
        if self.step is None:
            return False
        try:
            result = self.step()
        except BaseException as error:
            self.wake(outcome.Error(error))
            return False
        if result is not None:
            self.wake(outcome.Value(result))
            return False
        return not self.drained

    def wake(self, result: outcome.Outcome[Any]) -> None:
        """Let the connection's task go on with a result."""
        task, self.step, self.task = self.task, None, None
        assert task is not None
        trio.lowlevel.reschedule(task, result)

    async def park(self, step: Callable[[], T | None]) -> T:
        """Leave step to the pump until it returns something."""
        self.step, self.task = step, trio.lowlevel.current_task()

        def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
            self.step = self.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result


class Poller:
    """The epoll of a trio run and the task that waits on it; `current` starts it when first needed."""

    _of_this_run: ClassVar[trio.lowlevel.RunVar[Poller]] = trio.lowlevel.RunVar("kbroker poller")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Reader] = {}

    @classmethod
    def current(cls) -> Poller:
        """The one of this trio run."""
        try:
            return cls._of_this_run.get()
        except LookupError:
            poller = cls()
            cls._of_this_run.set(poller)
            trio.lowlevel.spawn_system_task(poller._run)
            return poller

    def register(self, descriptor: int) -> Reader:
        """Watch a socket until `forget`."""
        reader = self._readers[descriptor] = Reader()
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return reader

    def forget(self, descriptor: int) -> None:
        """Stop watching a socket that is about to be closed; who waits for it is told that it was."""
        reader = self._readers.pop(descriptor)
        self._epoll.unregister(descriptor)
        if reader.step is not None:
            reader.wake(outcome.Error(trio.ClosedResourceError("this stream was closed")))

    async def _run(self) -> None:
        ready: dict[Reader, None] = {}
        try:
            while True:
                if ready:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, events in self._epoll.poll(0, EVENTS_MAX):
                    reader = self._readers.get(descriptor)
                    if reader is not None:
                        reader.drained = False
                        reader.hung_up |= events != select.EPOLLIN
                        ready[reader] = None
                ready = {reader: None for reader in ready if reader.call()}
        finally:
            self._epoll.close()
