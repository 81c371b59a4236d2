"""Poller: one task that watches all connections and calls those that have something to read. Linux (epoll).

trio's own way costs a connection a task, and for each request it waits for: arming the descriptor, waking the task, and
the attempt to read that found nothing. Here each socket is registered once, edge-triggered, in an epoll of our own, and
one task waits on that epoll as a whole; when it stirs, the step of each connection that has something is called there.

    socket ─▶ epoll (edge-triggered) ─▶ fresh ─▶ step(), then() ─▶ False, and drained: waits for the next edge
                                   │               └──▶ True, or there may be more in the socket ─▶ greedy ─▶ step() …
                                   └─▶ greedy, if it took long the last time

What follows a step, which sends, comes after the steps of a few others: each send wakes its peer, if that has gone to
sleep since the last one. Answers in a row wake a process that has several connections once (measured: 7 % of the CPU
of a small request). Nobody's answer waits for a step of one whose last took long.

Who asks a little goes before who asks much: in each round all fresh readers are called, and of the greedy ones only as
many as time remains for, but one at least. No step begins after ROUND_S. Rounds follow each other as long as there is
something, for STAY_S or one round; then other tasks run.

An edge is told once, so each reader remembers whether its socket may hold more (`drained`): a receive that came up
short has emptied it, unless the peer has hung up as well. What a step raises is a bug: it is logged, and costs only its
own connection.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

import trio

EVENTS_MAX = 64
ROUND_S = 0.002
STAY_S = 0.002
SLOW_S = 0.0005  # a step, and what follows it, of this length makes its reader a greedy one
TOGETHER_MAX = 8  # steps before what follows them
FAILURE_PAUSE_S = 0.1

log = logging.getLogger("kbroker.net")


class Reader:
    """One socket as who watches it knows it."""

    __slots__ = ("step", "then", "give_up", "drained", "hung_up", "paused", "queued", "slow", "closed")

    def __init__(
        self, step: Callable[[], bool], give_up: Callable[[], None], then: Callable[[], bool] | None = None
    ) -> None:
        self.step = step
        self.then = then  # what may wait for steps of others
        self.give_up = give_up  # closes the connection
        self.drained = False  # nothing to receive until the next edge
        self.hung_up = False  # the peer has: a short receive proves nothing any more
        self.paused = False  # nobody wants to be called
        self.queued = False  # in one of the poller's queues
        self.slow = True  # it took long the last time; a crowd of newcomers has to show first that it asks little
        self.closed = False

    def call(self, what: Callable[[], bool]) -> bool:
        """Call the step, or what follows it. Whether it ought to be called again."""
        try:
            again = what()
        except Exception:
            log.exception("closing a connection after a failure of our own")
            self.give_up()
            return False
        return (again or not self.drained) and not self.paused and not self.closed

    def call_all(self) -> bool:
        """The step and what follows it."""
        again = self.call(self.step)
        return again if self.then is None else self.call(self.then)


class Poller:
    """The epoll of a trio run and the task that waits on it; `current` starts it when first needed."""

    _of_this_run: ClassVar[trio.lowlevel.RunVar[Poller]] = trio.lowlevel.RunVar("kbroker poller")

    def __init__(self, now: Callable[[], float]) -> None:
        """now: seconds, for the length of a round."""
        self._now = now
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # each write is an edge, unread as it stays
        self._epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        self._asleep = False
        self._readers: dict[int, Reader] = {}
        self._fresh: deque[Reader] = deque()  # has something new
        self._greedy: deque[Reader] = deque()  # was called, and has more; or has something new that will take long
        self._called: deque[tuple[Reader, bool, float]] = deque()  # whose step was: whether again, how long it took

    @classmethod
    def current(cls) -> Poller:
        """The one of this trio run."""
        try:
            return cls._of_this_run.get()
        except LookupError:
            poller = cls(time.perf_counter)
            cls._of_this_run.set(poller)
            trio.lowlevel.spawn_system_task(poller.run)
            return poller

    def register(self, descriptor: int, reader: Reader) -> None:
        """Watch a socket until `forget`."""
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        self._readers[descriptor] = reader

    def forget(self, descriptor: int) -> None:
        """Stop watching a socket that is about to be closed."""
        self._readers.pop(descriptor).closed = True
        self._epoll.unregister(descriptor)

    def call_soon(self, reader: Reader) -> None:
        """Call a reader that has something to do, though nothing new may have arrived."""
        self._add(reader)
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._bell, 1)

    async def run(self) -> None:
        """Wait for events and see to them, until cancelled."""
        goes_on = False
        try:
            while True:
                if goes_on:
                    await trio.lowlevel.checkpoint()
                else:
                    self._asleep = True
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._asleep = False
                try:
                    goes_on = self._stay()
                except Exception:
                    goes_on = True
                    log.exception("watching the connections failed")
                    await trio.sleep(FAILURE_PAUSE_S)
        finally:
            self._epoll.close()
            os.close(self._bell)

    def _stay(self) -> bool:
        """Look and call, for STAY_S while there is something: a way back through trio costs as much as a request.

        Whether the time was over first.
        """
        until = self._now() + STAY_S
        while True:
            self._look()
            if not (self._fresh or self._greedy or self._called):
                return False
            self._round()
            if self._now() >= until:
                return True

    def _look(self) -> None:
        """Find out who has something new."""
        for descriptor, events in self._epoll.poll(0, EVENTS_MAX):
            reader = self._readers.get(descriptor)
            if reader is not None:
                reader.drained = False
                reader.hung_up |= events != select.EPOLLIN
                if not reader.paused:
                    self._add(reader)

    def _add(self, reader: Reader) -> None:
        if not reader.queued:
            reader.queued = True
            (self._greedy if reader.slow else self._fresh).append(reader)

    def _round(self) -> None:
        """Call each fresh reader, then each greedy one, once, for ROUND_S; but one of the greedy in any case."""
        fresh, greedy, called = self._fresh, self._greedy, self._called
        turns, owed = len(greedy), True
        now = self._now()
        until = now + ROUND_S
        while True:
            if fresh and now < until:
                reader = fresh.popleft()
            elif turns and (owed or now < until):
                reader = greedy.popleft()
                turns, owed = turns - 1, False
            else:
                break
            reader.queued = False
            if reader.paused or reader.closed:
                continue
            if reader.slow and called:
                now = self._follow(now)
            again = reader.call(reader.step)
            before, now = now, self._now()
            called.append((reader, again, now - before))
            if now - before >= SLOW_S or len(called) == TOGETHER_MAX:
                now = self._follow(now)
        self._follow(now)

    def _follow(self, now: float) -> float:
        """What follows the steps of those that were called. now: what time it is; returns the same."""
        while self._called:
            reader, again, took = self._called.popleft()
            if reader.then is not None:
                again = reader.call(reader.then)
            before, now = now, self._now()
            reader.slow = took + now - before >= SLOW_S
            if again and not reader.queued:
                reader.queued = True
                self._greedy.append(reader)
        return now
