"""One client connection: frames in, requests handled in order, answers out in the same order.

    receive ─▶ FrameBuffer ─▶ dispatch ─▶ answer at once ─▶ send       a step: never waits, costs no task switch
                                   │
                                   └─▶ an answer that must wait ─▶ this connection's task, or the line ─▶ its writer

Nearly all requests are answered in a step, which `Stream.when_readable` calls whenever bytes arrive; the answers of one
read are sent together. An answer that has to wait either holds up the connection (a long-polling Fetch, as in Kafka),
or, where the API allows overlap (Produce waiting for replicas), takes its place in the line: requests behind it are
handled at once, and one writer task sends the answers in order. While there is a line every answer joins it, so nobody
overtakes and only one task ever writes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import CoroutineType
from typing import Any, NamedTuple

import trio

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode
from kafka_wire.errors import ProtocolError
from kafka_wire.frames import FrameBuffer, RequestHeader, read_request_header, response_parts
from kbroker.api.context import Context, Peer, Services
from kbroker.api.metadata import unsupported_version
from kbroker.api.registry import Api, CloseConnection
from kbroker.env import Buffer, FileSlice, Stream
from kbroker.server.memory import RequestMemory

LINE_MAX = 64  # answers waiting in one connection's line; beyond it the connection is not read

Parts = Sequence["Buffer | FileSlice"]
log = logging.getLogger("kbroker.connection")


class Waiting:
    """A place in the line: an answer still to come."""

    __slots__ = ("header", "answer")

    def __init__(self, header: RequestHeader, answer: Coroutine[Any, Any, Any]) -> None:
        self.header = header
        self.answer = answer

    def parts(self, response: Any) -> Parts:
        """The answer, as it goes out; nothing where there is to be none (acks=0)."""
        if response is None:
            return ()
        return response_parts(self.header.key, self.header.version, self.header.correlation_id, response)


class Unfinished(NamedTuple):
    """What a step could not do without waiting."""

    out: Parts = ()  # to be sent first
    waiting: Waiting | None = None  # then an answer that is still to come
    overlaps: bool = False  # for which later requests need not wait


END = Unfinished()  # the client has left


class Connection:
    """Serves one stream until the client leaves, breaks the protocol, or the listener cancels it."""

    __slots__ = (
        "stream", "services", "apis", "peer", "frames", "turns", "memory", "scope", "_held", "_line", "_writing",
        "_room", "_complain",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        services: Services,
        apis: Mapping[int, Api],
        listener: str,
        memory: RequestMemory,
        complain: Callable[[str, BaseException | None], None],
    ) -> None:
        """complain: told, in a line for people, of a client that breaks the protocol, or of a failure of our own."""
        self.stream = stream
        self.services = services
        self.apis = apis
        self.peer = Peer(stream.peer, stream.local, listener)
        self.frames = FrameBuffer(services.config.get_int("socket.request.max.bytes"))
        self.memory = memory
        self._complain = complain
        self.turns = 0  # grows with every read: the listener's reaper watches it
        self.scope = trio.CancelScope()
        self._held = 0  # bytes of a large frame that is still arriving
        self._line: deque[Parts | Waiting] = deque()
        self._writing = False
        self._room = trio.Event()

    async def run(self) -> None:
        """Serve. Every way a connection can end ends here; none of them touches another connection."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    await self._serve(nursery)
        except* (ProtocolError, CloseConnection) as group:
            self._complain(f"closing the connection from {self.peer}: {group.exceptions[0]}", None)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("the connection from %s broke", self.peer)
        except* OSError as group:
            log.error("closing the connection from %s: reading for it failed: %s", self.peer, group.exceptions[0])
        except* Exception as group:
            self._complain(f"closing the connection from {self.peer} after a failure of our own", group)
        finally:
            self.memory.note(self, 0)
            self._abandon_line()
            with trio.CancelScope(shield=True):
                await self.stream.aclose()

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            unfinished: Unfinished | None = await self.stream.when_readable(self._step)
            while unfinished is not None:
                if unfinished is END:
                    return
                await self._finish(unfinished, nursery)
                unfinished = self._advance()

    def _step(self) -> Unfinished | None:
        """Receive what is there and see to it; None when that is all done. Called for every read, often by the pump."""
        received = self.stream.receive_now(self.frames.space())
        if received is None:
            return None
        if not received:
            return END
        self.turns += 1
        self.frames.received(received)
        return self._advance()

    def _advance(self) -> Unfinished | None:
        """Handle the frames that have arrived whole, and send their answers; what would have to wait is returned."""
        frames = self.frames
        out: list[Buffer | FileSlice] = []
        while (frame := frames.next_frame()) is not None:
            header, api, answer = self._dispatch(frame)
            if answer is None:
                continue
            if isinstance(answer, CoroutineType):
                return Unfinished(out, Waiting(header, answer), api is not None and api.overlaps)
            self._reply(out, response_parts(header.key, header.version, header.correlation_id, answer))
        rest = self.stream.send_now(out) if out else ()
        if rest or len(self._line) > LINE_MAX or not self._may_receive():
            return Unfinished(rest)
        return None

    def _may_receive(self) -> bool:
        """Note what a large frame that is still arriving takes; whether there is memory for more of it."""
        held = self.frames.held
        if held != self._held:
            self._held = held
            self.memory.note(self, held)
        return not held or self.memory.may_go_on(self)

    async def _finish(self, unfinished: Unfinished, nursery: trio.Nursery) -> None:
        """Wait for what has to be waited for."""
        out, waiting = unfinished.out, unfinished.waiting
        if waiting is not None and unfinished.overlaps:
            if out:
                self._line.append(out)
            self._line.append(waiting)
            if not self._writing:
                self._writing = True
                nursery.start_soon(self._write_line)
        elif waiting is not None:
            try:
                if out:
                    await self.stream.send(out)
                while self._writing:
                    await self._wait_room()
                await self.stream.send(waiting.parts(await waiting.answer))
            finally:
                waiting.answer.close()  # a coroutine never awaited would complain
        elif out:
            await self.stream.send(out)
        while len(self._line) > LINE_MAX:
            await self._wait_room()
        if self._held:
            await self.memory.wait_turn(self)

    def _dispatch(self, frame: bytearray) -> tuple[RequestHeader, Api | None, Any]:
        """Decode one request and hand it to its handler."""
        header = read_request_header(frame)
        api = self.apis.get(header.key)
        if api is None or not api.version_min <= header.version <= api.version_max:
            if header.key == ApiKey.API_VERSIONS:
                return header._replace(version=0), api, unsupported_version()
            raise ProtocolError(f"API {header.key} version {header.version} is not supported")
        body: Any = decode(api.request, header.version, frame, header.body)
        return header, api, api.handle(body, Context(self.services, self.peer, header.version, header.client_id))

    # -- answers ------------------------------------------------------------------------------------------------------

    def _reply(self, out: list[Buffer | FileSlice], parts: Parts) -> None:
        if self._writing:
            self._line.append(parts)
        else:
            out.extend(parts)

    async def _write_line(self) -> None:
        """The writer: take the head of the line, wait for it, send it; gone when the line is empty."""
        while self._line:
            head = self._line[0]
            await self.stream.send(head.parts(await head.answer) if isinstance(head, Waiting) else head)
            self._line.popleft()
            self._room.set()
        self._writing = False

    async def _wait_room(self) -> None:
        self._room = trio.Event()
        await self._room.wait()

    def _abandon_line(self) -> None:
        for each in self._line:
            if isinstance(each, Waiting):
                each.answer.close()  # a coroutine never awaited would complain
        self._line.clear()
