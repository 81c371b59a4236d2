"""One client connection without I/O: bytes in; answers, or an answer still to come, out.

    receive into ─▶ frames ─▶ handle ─▶ answers that are there ─▶ take ─▶ sent by the driver (driver.py)
                                 │
                                 └─▶ an answer still to come: the line begins ─┬─▶ next_waiting ─▶ arrived ─▶ take
                                                                               └─▶ awaited, looked at by each take

Requests are handled in order and answered in the same order. Nearly all are answered at once. An answer that has to
wait begins the line; while there is a line every answer joins it. It either holds up the connection (a long-polling
Fetch, as in Kafka), or, where the API allows overlap (Produce waiting for replicas) or a broker asks, requests behind
it are handled meanwhile. Most are coroutines, which the driver has a task wait for; one that is `Awaited` needs none.

What one call of `handle` does is bounded in frames, bytes and time, and so is all that waits here. A frame that breaks
the protocol, or a failure of our own, ends the connection only when everything before it is answered: `failure` is
set, nothing more is handled, and the driver closes when there is nothing more to send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode_in_slices
from kafka_wire.errors import ProtocolError
from kafka_wire.frames import (
    FrameBuffer,
    Parts,
    RequestHeader,
    Scratch,
    read_request_header,
    response_in_slices,
    response_parts,
)
from kafka_wire.source import SLICE
from kbroker.api.context import NO_BROKER, Context, Peer, Services
from kbroker.api.metadata import unsupported_version
from kbroker.api.registry import Route, RouteTable
from kbroker.api.tallies import Tally
from kbroker.awaited import LATER, Awaited
from kbroker.env import FileSlice
from kbroker.server.complaints import Unsupported
from kbroker.turns import Work, finish, is_long, under_way
from kbroker.turns import answer as in_turns

T = TypeVar("T")

FRAMES_MAX = 64  # handled in one step
STEP_S = 0.001  # after the first frame of a step, no further one is begun beyond this
SEND_MAX = 65536  # bytes of answers gathered for one send; the last may go beyond
LINE_MAX = 64  # answers in the line; beyond, no more requests are handled
QUEUED_MAX = 65536  # bytes in the line that wait behind an answer still to come
ENTRIES_MAX = 250_000  # of arrays in one request, roughly; decoded they take some 60 MB
LONG_FRAME = 16384  # bytes; may have so many entries that decoding them is done in turns


class Waiting:
    """A place in the line: an answer still to come."""

    __slots__ = ("header", "peer", "answer", "overlaps", "is_long", "is_encoding", "tally", "began")

    def __init__(
        self,
        header: RequestHeader,
        peer: Peer,
        answer: Coroutine[Any, Any, Any] | Awaited,
        tally: Tally,
        began: float,
        *,
        overlaps: bool,
        is_long: bool,
    ) -> None:
        self.header = header
        self.peer = peer
        self.answer = answer
        self.tally = tally
        self.began = began  # when the request was taken up, where that is measured
        self.overlaps = overlaps  # requests behind it are handled meanwhile
        self.is_long = is_long  # it is work that goes on, see turns.py
        self.is_encoding = False  # the answer was there, and is long: it is a coroutine of its parts

    def look(self) -> Parts | None:
        """The answer as it goes out, if it is awaited and there; None: not yet, or it is a coroutine (by now)."""
        if not isinstance(self.answer, Awaited):
            return None
        response = self.answer.look()
        if isinstance(response, CoroutineType):
            self.answer = response
        elif response is not None:
            parts = self._encode(response)
            if not isinstance(parts, CoroutineType):
                return parts  # type: ignore[no-any-return]
            self.answer, self.is_encoding = parts, True
        return None

    async def parts(self) -> Parts | None:
        """The answer as it goes out, once it is there; None when there is to be none.

        A long request holds a place among those under way until its answer is encoded, unless its handler has to wait.
        """
        response: Any = self.answer
        if self.is_encoding:
            return await response  # type: ignore[no-any-return]
        if self.is_long:
            async with under_way(of_broker=self.peer.broker_id != NO_BROKER):
                response = await response
                while is_long(response):
                    response = await response
                if not isinstance(response, LATER):
                    return await self._encoded(response)
        while isinstance(response, LATER):
            response = await (response if isinstance(response, CoroutineType) else response.wait())
        return await self._encoded(response)

    async def _encoded(self, response: Any) -> Parts | None:
        if response is None:
            return None
        parts = self._encode(response)
        return await parts if isinstance(parts, CoroutineType) else parts  # type: ignore[no-any-return]

    def _encode(self, response: Any) -> Any:
        """Its parts, or a coroutine of them if it is long."""
        key, version, correlation_id, _, _ = self.header
        return in_turns(response_in_slices(key, version, correlation_id, response))


class Connection:
    """What has arrived from one client, and what it is owed. Owned by a driver, which does what waits."""

    __slots__ = (
        "peer", "frames", "line", "queued", "blocked", "failure", "_services", "_routes", "_now", "_context", "_ready",
        "_ready_size",
    )  # fmt: skip

    def __init__(
        self, services: Services, routes: RouteTable, peer: Peer, scratch: Scratch, now: Callable[[], float]
    ) -> None:
        """now: seconds, for the budget of a step."""
        self.peer = peer
        self.frames = FrameBuffer(services.config.get_int("socket.request.max.bytes"), scratch)
        self.line: deque[Parts | Waiting] = deque()  # from the first answer that is still to come
        self.queued = 0  # bytes of memory in the line
        self.blocked = False  # an answer is still to come before the next request may be handled
        self.failure: Exception | None = None  # why no more is handled
        self._services = services
        self._routes = routes
        self._now = now
        self._context = Context(services, peer, -1, None)
        self._ready: list[Any] = []  # parts of answers that may go out now
        self._ready_size = 0

    def handle(self) -> bool:
        """Handle frames that have arrived whole, as far as a step goes. True when there may be more to be handled."""
        try:
            return self.failure is None and self._handle()
        except ProtocolError as error:
            self.failure = error
            if error.answer:
                self._put((error.answer,))
            return False
        except Exception as error:
            self.failure = error
            return False
        finally:
            self.frames.settle()

    def may_handle(self) -> bool:
        """Whether the state of the line lets the next request be handled."""
        return not (self.blocked or self.failure or len(self.line) >= LINE_MAX or self.queued > QUEUED_MAX)

    def _handle(self) -> bool:
        frames, count, until = self.frames, 0, 0.0
        while not self.line or self.may_handle():
            frame = frames.next_frame()
            if frame is None:
                return False
            self._answer(frame)
            if frames.is_empty:
                return False
            count += 1
            if count == FRAMES_MAX or self._ready_size >= SEND_MAX:
                return True
            if count == 1:
                until = self._now() + STEP_S
            elif self._now() >= until:
                return True
        return False

    def _answer(self, frame: bytearray) -> None:
        """Decode one request and hand it to its handler."""
        header = read_request_header(frame)
        key, version, correlation_id, client_id, body = header
        try:
            route = self._routes[key << 16 | version]
        except KeyError:
            self._refuse_version(header)
            return
        tally = route.tally
        began = 0.0 if tally.now is None else tally.now()
        context = self._context
        if context.version != version or context.client_id != client_id:
            context = self._context = Context(self._services, self.peer, version, client_id)
        if len(frame) < LONG_FRAME:
            request = route.decode(frame, body)
        else:
            decoding: Work[Any] = _bounded(decode_in_slices(route.api.request, version, frame, body))
            request = in_turns(decoding)
            if isinstance(request, CoroutineType):
                request.close()  # the rest of the decoding is awaited together with the handler
                later = _decode_and_handle(decoding, route, context)
                self._wait(Waiting(header, self.peer, later, tally, began, overlaps=False, is_long=True))
                return
        answer = route.api.handle(request, context)
        if isinstance(answer, LATER):
            # A broker asks for many of its clients, in no order: none of them waits for another's answer.
            overlaps = route.api.overlaps or self.peer.broker_id != NO_BROKER
            self._wait(Waiting(header, self.peer, answer, tally, began, overlaps=overlaps, is_long=is_long(answer)))
            return
        if answer is not None:
            self._put(route.write(correlation_id, answer))
        tally.note(began)

    def _refuse_version(self, header: RequestHeader) -> None:
        """ApiVersions is answered in version 0, so that the client learns which there are; nothing else can be."""
        if header.key != ApiKey.API_VERSIONS:
            raise Unsupported(header.key, header.version)
        self._put(response_parts(header.key, 0, header.correlation_id, unsupported_version()))

    # -- answers ------------------------------------------------------------------------------------------------------

    def take(self) -> Parts:
        """Some 64 KiB of the answers that may go out now; none when the next is still to come, or there is nothing."""
        line = self.line
        while line and self._ready_size < SEND_MAX:
            head = line[0]
            if isinstance(head, Waiting):
                parts = head.look()
                if parts is None:
                    break
                self._end_wait(head)
            else:
                parts = head
                line.popleft()
                self.queued -= memory_of(parts)
            self._ready.extend(parts)
            self._ready_size += sum(map(len, parts))
        ready, self._ready, self._ready_size = self._ready, [], 0
        return ready

    @property
    def awaited(self) -> Awaited | None:
        """What the answer at the head of the line is, if it is still to come and no task need wait for it."""
        head = self.line[0] if self.line else None
        return head.answer if isinstance(head, Waiting) and isinstance(head.answer, Awaited) else None

    def next_waiting(self) -> Waiting | None:
        """The answer at the head of the line, if it is still to come; the driver waits for it, then tells `arrived`."""
        return head if self.line and isinstance(head := self.line[0], Waiting) else None

    def arrived(self, parts: Parts | None) -> None:
        """The answer at the head of the line is there; None when there is to be none."""
        head = self.line[0]
        assert isinstance(head, Waiting)
        self._end_wait(head)
        if parts:
            self.line.appendleft(parts)
            self.queued += memory_of(parts)

    def abandon(self) -> None:
        """Forget all that is still to come; nobody waits for it any more."""
        for each in self.line:
            if isinstance(each, Waiting) and isinstance(each.answer, CoroutineType):
                each.answer.close()  # a coroutine never awaited would complain
        self.line.clear()
        self.queued = 0

    def _end_wait(self, head: Waiting) -> None:
        """The answer at the head of the line is there, or there is to be none."""
        self.line.popleft()
        head.tally.note(head.began)
        if not head.overlaps:
            self.blocked = False

    def _wait(self, waiting: Waiting) -> None:
        self.line.append(waiting)
        self.blocked = not waiting.overlaps

    def _put(self, parts: Parts) -> None:
        if self.line:
            self.line.append(parts)
            self.queued += memory_of(parts)
        else:
            self._ready.extend(parts)
            self._ready_size += len(parts[0]) if len(parts) == 1 else sum(map(len, parts))


def _bounded(decoding: Work[T]) -> Work[T]:
    """A request within reason: a frame may be 100 MB of entries of a byte, which would become objects of 100 bytes."""
    for _ in range(ENTRIES_MAX // SLICE):
        try:
            next(decoding)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        yield
    raise ProtocolError(f"a request has more than {ENTRIES_MAX} entries")


async def _decode_and_handle(decoding: Work[Any], route: Route, context: Context) -> Any:
    """The answer to a request that takes more than a turn to decode."""
    return route.api.handle(await finish(decoding), context)


def memory_of(parts: Parts) -> int:
    """Bytes that parts take in memory; slices of files take none."""
    return sum(len(part) for part in parts if not isinstance(part, FileSlice))
