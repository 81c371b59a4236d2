"""One connection to a broker, and what became of a request on it: answered, closed, unanswered, or silent.

Owns: the socket. `unanswered` is what a produce with acks=0 asks for: the request behind it got its answer instead.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey, request_header_version, response_class, response_header_version
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ProtocolError
from kafka_wire.messages.metadata import ApiVersionsRequest

CLIENT_ID = b"odd"


class Answer(NamedTuple):
    """`message` is there if the fate is "answered"."""

    fate: str
    message: Any = None


class Connection:
    """Requests one by one; not `usable` for another once one was not answered."""

    def __init__(self, bootstrap: str, patience_s: float) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), patience_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._correlation_id = 0
        self.usable = True

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, request: Any, key: int, version: int) -> Answer:
        """Send a request and wait for what becomes of it."""
        try:
            correlation_id = self._send(request, key, version)
            if unanswered := key == ApiKey.PRODUCE and request.acks == 0:
                self._send(ApiVersionsRequest(), ApiKey.API_VERSIONS, 0)
            answer = self._receive(key, version, correlation_id)
            self.usable = answer.fate == "answered" and not unanswered
            return answer
        except TimeoutError:
            fate = "silent"
        except OSError:
            fate = "closed"
        self.usable = False
        return Answer(fate)

    def _send(self, request: Any, key: int, version: int) -> int:
        self._correlation_id += 1
        head = struct.pack(">hhih", key, version, self._correlation_id, len(CLIENT_ID)) + CLIENT_ID
        head += b"\x00" if request_header_version(key, version) >= 2 else b""
        body = encode(request, version)
        self._socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        return self._correlation_id

    def _receive(self, key: int, version: int, correlation_id: int) -> Answer:
        if len(size := self._stream.read(4)) < 4:
            return Answer("closed")
        frame = self._stream.read(struct.unpack(">i", size)[0])
        if len(frame) < 4:
            return Answer("closed")
        if struct.unpack(">i", frame[:4])[0] != correlation_id:
            return Answer("unanswered")
        try:
            start = 5 if response_header_version(key, version) >= 1 else 4
            return Answer("answered", decode(response_class(key), version, frame, start))
        except ProtocolError as error:
            return Answer(f"not decodable: {error}")
