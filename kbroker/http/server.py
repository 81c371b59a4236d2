"""HTTP/1.1 on streams of the environment, for GET and HEAD. h11 reads and writes the protocol; here is what waits.

    accepted ──▶ idle ──a byte──▶ reading, READ_S ──a request──▶ answering, ANSWER_S ──▶ idle, IDLE_S ──▶ closed
                                      └── what is no request, or is too large: an error, and closed

One task a connection, CONNECTIONS_MAX of them. Who comes beyond takes the place of the one that has been idle longest;
where none is idle he is hung up on. What one of them can cost is bounded: a head of HEAD_MAX bytes and LINES_MAX lines,
no body, one answer at a time; long answers are made in turns with all other long work (kbroker.turns), and only as fast
as they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice

import h11
import trio

from kbroker.env import Listener, Stream
from kbroker.http.hosts import Hosts
from kbroker.http.messages import TEXT, Answer, Refused, Request, parse_target, shown
from kbroker.turns import PAUSES_A_TURN, one_at_a_time

CONNECTIONS_MAX = 64
HEAD_MAX = 16384  # bytes of a request line and its headers
LINES_MAX = 100
RECEIVE_SIZE = 4096
READ_S = 10.0  # from the first byte of a request to its last
ANSWER_S = 30.0  # for making an answer, and for the client to read it
IDLE_S = 120.0  # Prometheus asks once a minute at the slowest, by default
LINGER_S, LINGER_BYTES = 1.0, 1 << 20  # what still comes from a client that is refused: a reset would take the answer
DISCARD_MAX = 64  # receives
HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)

Handler = Callable[[Request], Awaitable[Answer]]

log = logging.getLogger("kbroker.http")


class Server:
    """The accept loop of one address, and its connections."""

    def __init__(self, listener: Listener, handle: Handler, hosts: Hosts, data_ms: Callable[[], int]) -> None:
        """handle: answers a request; may raise Refused. data_ms: the clock that answers are dated by."""
        self.listener = listener
        self.handle = handle
        self.hosts = hosts
        self.data_ms = data_ms
        self.connections: dict[Connection, None] = {}  # the longest idle first

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._take(await self.listener.accept(), nursery)
        finally:
            with trio.CancelScope(shield=True):
                await self.listener.aclose()

    def _take(self, stream: Stream, nursery: trio.Nursery) -> None:
        if len(self.connections) >= CONNECTIONS_MAX:
            idle = next((each for each in self.connections if each.is_idle), None)
            if idle is None:
                stream.close()
                return
            self.leave(idle)
            idle.hang_up()
        connection = Connection(stream, self)
        self.connections[connection] = None
        nursery.start_soon(connection.run)

    def note_idle(self, connection: Connection) -> None:
        """A connection waits for its next request: of those that do, it is the last to have begun."""
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def leave(self, connection: Connection) -> None:
        """A connection is gone; idempotent."""
        self.connections.pop(connection, None)


class Connection:
    """One client."""

    def __init__(self, stream: Stream, server: Server) -> None:
        self.is_idle = True
        self._stream = stream
        self._server = server
        self._scope = trio.CancelScope()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        self._buffer = bytearray(RECEIVE_SIZE)
        self._is_head = False  # the request that is being answered

    def hang_up(self) -> None:
        """Close it; its task ends."""
        self._scope.cancel()

    async def run(self) -> None:
        """Answer requests until the client leaves, errs, or takes too long."""
        try:
            with self._scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await self._serve_one():
                    self._http.start_next_cycle()
                    self._server.note_idle(self)
        except Exception:  # ours: it costs this connection, not the broker
            log.exception("the connection from %s is closed, as an answer failed", self._stream.peer[0])
        finally:
            self._server.leave(self)
            self._stream.close()

    async def _serve_one(self) -> bool:
        """Read a request and answer it; whether there may be another."""
        try:
            event = await self._read_request()
            if event is None:
                return False
            with trio.move_on_after(ANSWER_S) as scope:
                await self._answer(event)
            if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                return True
            if not scope.cancelled_caught:
                self._discard()
        except h11.RemoteProtocolError as error:
            reason, _, _ = str(error).partition(":")  # the rest is what was sent
            await self._refuse(Refused(error.error_status_hint or 400, f"this is no request: {reason}"))
        except Refused as refused:
            await self._refuse(refused)
        return False

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read_request(self) -> h11.Request | None:
        """The next request, without a body; None when there is none. Raises RemoteProtocolError, Refused."""
        self.is_idle, self._is_head = not self._http.trailing_data[0], False
        with trio.move_on_after(IDLE_S if self.is_idle else READ_S) as scope:
            while (event := self._next_event()) is h11.NEED_DATA:
                received = await self._stream.receive_into(memoryview(self._buffer))
                if received and self.is_idle:
                    self.is_idle = False
                    scope.deadline = trio.current_time() + READ_S
                self._http.receive_data(bytes(self._buffer[:received]))
            if not isinstance(event, h11.Request):
                return None
            self._is_head = event.method == b"HEAD"
            _check(event)
            self._http.next_event()  # its end
            return event
        if not self.is_idle:
            raise Refused(408, f"no whole request within {READ_S:g} s")
        return None

    def _next_event(self) -> object:
        """What h11 makes of the bytes there are. It looks at a head only when it is whole, and then at all of it."""
        head = bytes(self._http.trailing_data[0][: HEAD_MAX + 1])
        ends = [end for end in (head.find(b"\r\n\r\n"), head.find(b"\n\n")) if end >= 0]
        if head.count(b"\n", 0, min(ends, default=len(head))) > LINES_MAX:
            raise Refused(431, f"a request has {LINES_MAX} headers at most")
        return self._http.next_event()

    # -- answering ----------------------------------------------------------------------------------------------------

    async def _answer(self, event: h11.Request) -> None:
        try:
            answer = await self._server.handle(self._checked(event))
        except Refused as refused:
            answer = _refusal(refused)
        except Exception:
            log.exception("a request for %s failed", shown(event.target.decode("ascii", "replace")))
            answer = _refusal(Refused(500, "kbroker failed over this request, and has logged why"))
        await self._begin(answer)
        await self._send_body(answer.body)

    def _checked(self, event: h11.Request) -> Request:
        """What is asked for. Raises Refused."""
        _check_method(event)
        for name, value in event.headers:
            if name == b"host" and not self._server.hosts.admits(value.decode("ascii", "replace")):
                raise Refused(
                    403,
                    f"{shown(value.decode('ascii', 'replace'))} is not a name of this server. Ask by address, or have "
                    "kbroker.http.allowed.hosts name it",
                )
        return parse_target(event.target)

    async def _begin(self, answer: Answer, *more: tuple[str, str]) -> None:
        headers = [("Content-Type", answer.content_type), ("Date", self._date()), *HEADERS, *more]
        if isinstance(answer.body, bytes):
            headers.append(("Content-Length", str(len(answer.body))))
        if answer.status == 405:
            headers.append(("Allow", "GET, HEAD"))
        phrase = HTTPStatus(answer.status).phrase.encode()
        await self._send(h11.Response(status_code=answer.status, reason=phrase, headers=headers))

    async def _send_body(self, body: bytes | Iterator[bytes]) -> None:
        """All of it, unless only the head is asked for."""
        if not self._is_head:
            await (self._send(h11.Data(body)) if isinstance(body, bytes) else self._send_pieces(body))
        await self._send(h11.EndOfMessage())

    async def _send_pieces(self, pieces: Iterator[bytes]) -> None:
        """Make the next pieces when those before are sent."""
        floor = one_at_a_time("turns of long work")
        while True:
            async with floor:
                some = list(islice(pieces, PAUSES_A_TURN))
            if not some:
                return
            await self._send(h11.Data(b"".join(some)))

    async def _send(self, event: h11.Event) -> None:
        parts = self._http.send_with_data_passthrough(event)
        if parts:
            await self._stream.send(parts)

    async def _refuse(self, refused: Refused) -> None:
        """Say why, and let go of the client: what else it has sent cannot be told apart."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        with trio.move_on_after(ANSWER_S):
            answer = _refusal(refused)
            await self._begin(answer, ("Connection", "close"))
            await self._send_body(answer.body)
        with trio.move_on_after(LINGER_S):
            left = LINGER_BYTES
            while left > 0 and (received := await self._stream.receive_into(memoryview(self._buffer))):
                left -= received

    def _discard(self) -> None:
        """Receive what has arrived, for nothing: closing over it would be a reset, too."""
        for _ in range(DISCARD_MAX):
            if not self._stream.receive_now(memoryview(self._buffer)):
                return

    def _date(self) -> str:
        return datetime.fromtimestamp(self._server.data_ms() // 1000, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def _refusal(refused: Refused) -> Answer:
    return Answer(f"{refused.text}\n".encode(), TEXT, refused.status)


def _check(event: h11.Request) -> None:
    """Raise Refused for another version of HTTP, or a body: there is nothing that one could be for."""
    if event.http_version not in (b"1.1", b"1.0"):
        raise Refused(505, "this server speaks HTTP/1.1")
    for name, value in event.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            _check_method(event)
            raise Refused(400, "requests have no body here")


def _check_method(event: h11.Request) -> None:
    """Raise Refused for what is not asking."""
    if event.method not in (b"GET", b"HEAD"):
        raise Refused(405, "this server is read-only: GET and HEAD")
