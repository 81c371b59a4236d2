"""A request over a plain socket, without kafka-python: for what has to be quick, a health check and TAB."""

from __future__ import annotations

import socket
import struct
from typing import Any

from kafka_wire.errors import ProtocolError

ANSWER_BYTES_MAX = 16 << 20


def call(connection: socket.socket, key: int, version: int, request: object, client_id: str) -> Any:
    """Send a request; its response. Raises OSError, EOFError, ProtocolError."""
    from kafka_wire.api import response_class
    from kafka_wire.codegen import decode, encode
    from kafka_wire.frames import read_response_header, request_parts

    connection.sendall(b"".join(request_parts(key, version, 1, client_id, [encode(request, version)])))
    (size,) = struct.unpack(">i", _receive(connection, 4))
    if not 0 < size <= ANSWER_BYTES_MAX:
        raise ProtocolError(f"an answer of {size} bytes")
    frame = _receive(connection, size)
    correlation_id, body = read_response_header(frame, key, version)
    if correlation_id != 1:
        raise ProtocolError("the answer is to another request")
    return decode(response_class(key), version, frame, body)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = connection.recv(min(65536, size - len(received)))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)
