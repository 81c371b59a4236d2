"""Wire: one connection to another broker: requests out, answers in, in the order of the requests.

    put ──▶ in flight, first come, first answered ──▶ arrived, with the frame of its answer
                  └── closed: hung up, broken off, malformed, out of order ──▶ arrived, without one

Whoever is at the other end may say little until it is trusted. A long answer is received into memory of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from kafka_wire.errors import ProtocolError
from kafka_wire.frames import FrameBuffer, Parts, Scratch, request_parts
from kbroker.env import Stream

STRANGERS_BYTES_MAX = 65536  # of an answer of somebody who has not been introduced

log = logging.getLogger("kbroker.links")


class Question:
    """A request on its way. It may hold one of the places of its link until it has arrived."""

    __slots__ = ("correlation_id", "until", "heard", "arrived", "frame", "_places")

    def __init__(self, timeout_s: float) -> None:
        self.correlation_id = -1
        self.until = trio.current_time() + timeout_s  # the answer is of use
        self.heard = 0  # times that something had arrived on the connection before this was sent
        self.arrived = trio.Event()
        self.frame: bytearray | None = None  # the answer; None when it has arrived: there will be none
        self._places: trio.Semaphore | None = None

    async def take_place(self, places: trio.Semaphore) -> None:
        """Wait for a place, first come, first served; one that is free costs no turn of the loop."""
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            await places.acquire()
        self._places = places

    def arrive(self, frame: bytearray | None) -> None:
        """The answer is there, or there will be none."""
        self.frame = frame
        self.arrived.set()
        if self._places is not None:
            self._places.release()


class Wire:
    """One connection: requests out, answers in. Nothing here waits, but for a task while not all of a request is sent.

    Owns the stream. Whatever is wrong with what arrives closes it.
    """

    __slots__ = (
        "unsent", "drained", "heard", "answers", "lost", "failure", "_stream", "_client_id", "_frames", "_scratch",
        "_in_flight", "_nursery", "_rest", "_is_sending", "_correlation_id", "_closed",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        scratch: Scratch,
        client_id: str,
        nursery: trio.Nursery,
        closed: Callable[[Wire], None],
    ) -> None:
        """closed: called once."""
        self.unsent = 0  # bytes
        self.drained = trio.lowlevel.ParkingLot()  # woken when there is less of that, and at the end
        self.heard = 0  # times that something has arrived
        self.answers = 0  # since it is trusted
        self.lost = 0  # questions in flight when it was closed
        self.failure = ""  # why it is closed
        self._stream = stream
        self._client_id = client_id
        self._scratch = scratch
        self._frames = FrameBuffer(STRANGERS_BYTES_MAX, scratch)
        self._in_flight: deque[Question] = deque()
        self._nursery = nursery
        self._rest: list[Any] = []  # parts not sent
        self._is_sending = False  # there is a task for them
        self._correlation_id = 0
        self._closed = closed
        stream.watch(self._step, nursery)

    @property
    def is_idle(self) -> bool:
        """Whether no answer is to come."""
        return not self._in_flight

    def close_if_silent(self) -> None:
        """Close, if nothing at all came while an answer was of use: whoever asked may have given up before."""
        if self._in_flight:
            oldest = self._in_flight[0]
            if trio.current_time() >= oldest.until and self.heard == oldest.heard:
                self.close("nothing came from it for too long")

    def trust(self, bytes_max: int) -> None:
        """The other end is who it should be: its answers may be long."""
        self._frames = FrameBuffer(bytes_max, self._scratch)
        self.answers = 0

    def put(self, question: Question, key: int, version: int, body: Sequence[Any]) -> None:
        """Send a request. Its question is in flight until it has arrived."""
        assert not self.failure
        self._correlation_id = question.correlation_id = (self._correlation_id + 1) & 0x7FFFFFFF
        question.heard = self.heard
        self._in_flight.append(question)
        parts: Parts = request_parts(key, version, question.correlation_id, self._client_id, body)
        try:
            if not self._is_sending:
                parts = self._stream.send_now(parts)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("it has broken off")
            return
        if parts:
            self._rest += parts
            self.unsent += sum(map(len, parts))
            if not self._is_sending:
                self._is_sending = True
                self._nursery.start_soon(self._send_rest)

    def close(self, why: str) -> None:
        """Close at once; every question in flight arrives without an answer. Idempotent."""
        if self.failure:
            return
        self.failure = why
        self._stream.close()
        self._rest, self.unsent = [], 0
        self.drained.unpark_all()
        self.lost = len(self._in_flight)
        while self._in_flight:
            self._in_flight.popleft().arrive(None)
        self._closed(self)

    def _step(self) -> bool:
        """Something may have arrived."""
        try:
            received = self._stream.receive_now(self._frames.space())
            if received == 0:
                self.close("it has hung up")
            elif received is not None:
                self.heard += 1
                self._frames.received(received)
                while (frame := self._frames.next_frame()) is not None:
                    self._take(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("it has broken off")
        except ProtocolError as error:
            self.close(f"it has answered with {error}")
        except Exception:
            log.exception("a connection to a broker failed")
            self.close("a failure of our own")
        finally:
            self._frames.settle()
        return False

    def _take(self, frame: bytearray) -> None:
        correlation_id = int.from_bytes(frame[:4], "big")
        if not self._in_flight or correlation_id != self._in_flight[0].correlation_id:
            raise ProtocolError(f"the correlation id {correlation_id}, which is not the one expected")
        self.answers += 1
        self._in_flight.popleft().arrive(frame)

    async def _send_rest(self) -> None:
        """Send what did not go at once, and what has been added to it meanwhile."""
        try:
            while self._rest:
                parts, self._rest = self._rest, []
                size = sum(map(len, parts))
                await self._stream.send(parts)
                self.unsent = max(0, self.unsent - size)
                self.drained.unpark_all()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("it has broken off")
        except Exception:
            log.exception("a request to a broker could not be sent")
            self.close("a failure of our own")
        finally:
            self._is_sending = False
