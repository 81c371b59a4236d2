"""Driver: one connection's stream and core (connection.py) put together, with what has to be waited for.

    step       called when something has arrived: receive, handle, see to the rest. Never waits, needs no task
    answer     called after it, perhaps after other connections' steps: send what goes. Never waits, needs no task
    serve      called when an answer that is awaited (awaited.py) may be there: look, send. Never waits, needs no task
    _attend    a task, only while there is something to wait for: an answer still to come, a peer that has not read
               what it was sent, memory for the rest of a large request. It stays for the next time, until the
               connection has been quiet for a while

A connection that is owed an answer which does not go out, or that may not handle its next request, is not read from.
A connection that has broken the protocol is closed once what it was owed before is sent, LAST_WORDS_S at most.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import trio

from kafka_wire.errors import ProtocolError
from kafka_wire.frames import Parts
from kbroker.api.registry import CloseConnection
from kbroker.awaited import Awaited
from kbroker.env import Stream
from kbroker.events import CONNECTION_CLOSED, CONNECTION_FAILED, Event
from kbroker.server.complaints import Complaints, Unsupported
from kbroker.server.connection import Connection, memory_of
from kbroker.server.memory import AnswerMemory, RequestMemory
from kbroker.server.porter import Porter

LAST_WORDS_S = 30.0
PARTIAL_FRAME_MAX_S = 30.0
UNREAD_MAX_S = 30.0
DISCARD_MAX = 16  # receives, before closing on a client that goes on sending

log = logging.getLogger("kbroker.connection")


class House:
    """What all connections of a listener share: the nursery of their tasks, bounds, and whom to tell."""

    __slots__ = ("nursery", "requests", "answers", "porter", "complaints", "closed", "now")

    def __init__(
        self,
        nursery: trio.Nursery,
        requests: RequestMemory,
        answers: AnswerMemory,
        porter: Porter,
        complaints: Complaints,
        closed: Callable[[Driver], None],
    ) -> None:
        """complaints: told of a client that breaks the protocol, of a disk that fails, of a failure of our own.

        closed: told of each connection that is closed.
        """
        self.nursery = nursery
        self.requests = requests
        self.answers = answers
        self.porter = porter
        self.complaints = complaints
        self.closed = closed
        self.now = trio.lowlevel.current_clock().current_time


class Driver:
    """Serves one stream until the client leaves, breaks the protocol, or it is told to close."""

    __slots__ = (
        "stream", "core", "house", "_more", "_rest", "_held", "_owed", "_paused", "_leaving", "_closed", "_attended",
        "_scope", "_bell", "_steps", "_progress", "_quiet_s", "_awaited", "_put_off",
    )  # fmt: skip

    def __init__(self, stream: Stream, core: Connection, house: House) -> None:
        self.stream = stream
        self.core = core
        self.house = house
        self._more = False  # whole frames may be left over from the last step
        self._put_off = False  # answers may wait for `answer`, and there is nothing else to be seen to
        self._rest: Parts = ()  # made, taken, and not sent
        self._held = 0  # bytes noted with house.requests
        self._owed = 0  # bytes noted with house.answers
        self._paused = False
        self._leaving = False  # nothing more is received: the client has left, or core.failure
        self._closed = False
        self._attended = False  # the task is there
        self._scope: trio.CancelScope | None = None  # of the task
        self._bell: trio.Event | None = None  # the task has nothing to do, and waits for it
        self._steps = 0
        self._progress = 0  # of steps and of bytes sent, when last looked at
        self._quiet_s = 0.0
        self._awaited: Awaited | None = None  # rings for this one; the answer at the head of the line

    def start(self) -> None:
        """Begin to serve; or close, where the system cannot watch one more connection."""
        try:
            self.stream.watch(self.step, self.house.nursery, self.answer)
        except OSError as error:
            self._complain(CONNECTION_CLOSED, f"it cannot be watched: {error}")
            self.close()

    def step(self) -> bool:
        """See to what has arrived; `answer` follows. True when there is more to be done than one step may.

        Answers that go out at once are put off until then, unless anything else is to be seen to.
        """
        self._steps += 1
        core = self.core
        self.house.porter.come()
        self._put_off = False
        try:
            if has_some := self._more or self._receive():
                self._more = core.handle()
            if (
                core.line or self._rest or self._held or self._owed or self._leaving or self._awaited is not None
                or not core.frames.is_empty or core.failure is not None
            ):  # fmt: skip
                if has_some:
                    self._send()
                self._take_stock()
            else:
                self._put_off = has_some
        except Exception as error:
            self._fail(error)
        return self._more and not self._paused

    def answer(self) -> bool:
        """Send what was put off. True as in `step`."""
        if self._put_off and not self._closed:
            try:
                self._send()
                if self._rest:
                    self._take_stock()
            except Exception as error:
                self._fail(error)
        self.house.porter.serve()
        return self._more and not self._paused

    def set(self) -> None:
        """The answer that is awaited rings (a bell)."""
        self.house.porter.ring(self)

    def due_s(self) -> float:
        """When the answer that is awaited is to be looked at in any case."""
        return math.inf if self._awaited is None else self._awaited.until

    def serve(self) -> None:
        """Look whether the answer that is awaited is there."""
        if self._awaited is not None:
            try:
                self._send()
                self._take_stock()
            except Exception as error:
                self._fail(error)

    def close(self) -> None:
        """Close the stream at once, and forget what the client is owed; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._more = False
        if self.core.failure is not None:
            self._discard()
        self.house.requests.note(self, 0)
        self.house.answers.note(self, 0)
        self._await(None)
        self.house.porter.forget(self)
        self.house.closed(self)
        if self._scope is not None:
            self._scope.cancel()  # the task forgets the answers, as it may be waiting for one
        else:
            self.core.abandon()
        self.stream.close()

    def evict(self, reason: str) -> None:
        """Close, as all connections together take too much memory, and this one has done so for longest."""
        self._complain(CONNECTION_CLOSED, reason)
        self.close()

    def look(self, elapsed_s: float, idle_max_s: float) -> str | None:
        """Called every elapsed_s seconds: why this connection ought to be closed, if so.

        Quiet is who makes no progress in what it is its turn to do: send (the rest of) a request, or read. Who waits
        for our answer is not, unless it has hung up.
        """
        core, progress = self.core, self._steps + self.stream.sent
        owed = bool(self._rest)
        waits_for_us = not owed and bool(core.line or self._more or self._lacks_memory())
        if progress != self._progress or (waits_for_us and not self.stream.has_hung_up()):
            self._progress, self._quiet_s = progress, 0.0
            return None
        self._quiet_s += elapsed_s
        if owed:
            return "it does not read its answers" if self._quiet_s >= UNREAD_MAX_S else None
        if waits_for_us:
            return "it has hung up" if self._quiet_s >= LAST_WORDS_S else None
        if self._quiet_s >= (PARTIAL_FRAME_MAX_S if core.frames.partial else idle_max_s):
            return f"nothing for {self._quiet_s:.0f} s"
        if self._bell is not None:
            self._attended = False  # the task is not needed any more
            self._bell.set()
        return None

    # -- steps --------------------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Receive what is there; whether there was something."""
        received = self.stream.receive_now(self.core.frames.space())
        if received:
            self.core.frames.received(received)
            return True
        self.core.frames.settle()  # what has begun to arrive must not stay where others receive
        if received == 0:
            self._leaving = True
        return False

    def _send(self) -> None:
        """Send the answers that are there, as far as they go; not while the task is sending."""
        if not self._rest and (parts := self.core.take()):
            self._rest = self.stream.send_now(parts)

    def _take_stock(self) -> None:
        """Account for what is held and owed; stop receiving or go on; call the task if there is something to await."""
        core = self.core
        held = core.frames.held
        if held != self._held:
            self._held = held
            self.house.requests.note(self, held)
        owed = memory_of(self._rest) + core.queued if self._rest or core.queued else 0
        if owed != self._owed:
            self._owed = owed
            self.house.answers.note(self, owed)
        if core.failure is not None and not self._leaving:
            self._leaving = True
            self._tell(core.failure)
        needs_task = bool(self._rest) or self._leaving or self._lacks_memory()
        hindered = needs_task or not core.may_handle()
        if hindered != self._paused:
            self._paused = hindered
            if hindered:
                self.stream.pause()
            else:
                self._more = not core.frames.is_empty
                self.stream.resume(self._more)
        is_attended = self._attended and self._bell is None
        awaited = None if needs_task or is_attended else core.awaited
        self._await(awaited)
        if awaited is None and (hindered or core.line):
            self._call_attendant()

    def _await(self, awaited: Awaited | None) -> None:
        """Be rung for when there is to be a look at this answer."""
        if awaited is not self._awaited:
            if self._awaited is not None:
                self._awaited.leave()
            self._awaited = awaited
            if awaited is not None:
                awaited.listen(self)
        if awaited is not None:
            self.house.porter.expect(self, awaited.until)

    def _lacks_memory(self) -> bool:
        return self._held > 0 and not self.house.requests.may_go_on(self)

    # -- what waits ---------------------------------------------------------------------------------------------------

    def _call_attendant(self) -> None:
        """See to it that the task runs, unless there is nothing left to do but to close."""
        if self._closed:
            return
        if self._leaving and not self._rest and not self.core.line and not self._attended:
            self.close()
            return
        if self._bell is not None:
            self._attended = True
            self._bell.set()
        elif not self._attended:
            self._attended = True
            self._scope = trio.CancelScope()
            self.house.nursery.start_soon(self._attend)
        if self._leaving and self._scope is not None and self._scope.deadline == math.inf:
            self._scope.deadline = trio.current_time() + LAST_WORDS_S

    async def _attend(self) -> None:
        """The task: wait for what has to be waited for, then for the next such thing."""
        dismissed = False
        assert self._scope is not None
        try:
            with self._scope:
                while not self._leaving or self._rest or self.core.line:
                    await self._deliver()
                    if self._lacks_memory():
                        await self.house.requests.wait_turn(self)
                        self._take_stock()
                    if not self._leaving and not self._rest and (not self.core.line or self.core.awaited is not None):
                        self._bell = trio.Event()
                        self._send()
                        self._take_stock()
                        await self._bell.wait()
                        self._bell = None
                        if not self._attended:
                            dismissed = True
                            break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("the connection from %s broke", self.core.peer)
        except OSError as error:
            self._tell_of_disk(error)
        except Exception as error:
            self._tell(error)
        finally:
            self._attended = False
            self._scope = self._bell = None
            if self._closed:
                self.core.abandon()
            elif not dismissed:
                self.close()

    async def _deliver(self) -> None:
        """Send what the client is owed, waiting for every answer still to come."""
        core = self.core
        while self._rest or core.line:
            if self._rest:
                await self.stream.send(self._rest)
                self._rest = ()
            elif core.awaited is not None and not self._leaving:
                return
            elif (waiting := core.next_waiting()) is not None:
                core.arrived(await waiting.parts())
            self._send()
            self._take_stock()

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Close, as something went wrong in a step."""
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
            log.debug("the connection from %s broke", self.core.peer)
        elif isinstance(error, OSError):
            self._tell_of_disk(error)
        else:
            self._tell(error)
        self.close()

    def _tell(self, failure: Exception) -> None:
        if isinstance(failure, Unsupported):
            self.house.complaints.note_unsupported(self.core.peer, failure)
        elif isinstance(failure, ProtocolError | CloseConnection):
            self._complain(CONNECTION_CLOSED, str(failure))
        else:
            self._complain(CONNECTION_FAILED, "a failure of our own", failure)
        failure.__traceback__ = failure.__context__ = None  # they hold the frame that was being handled

    def _tell_of_disk(self, error: OSError) -> None:
        self._complain(CONNECTION_FAILED, f"reading for it failed: {error}")

    def _complain(self, event: Event, reason: str, failure: Exception | None = None) -> None:
        self.house.complaints.complain(event, failure, client=str(self.core.peer), reason=reason)

    def _discard(self) -> None:
        """Receive what has arrived, for nothing: closing over it would be a reset, and take the last answers away."""
        scratch = memoryview(bytearray(65536))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for _ in range(DISCARD_MAX):
                if not self.stream.receive_now(scratch):
                    break
