"""What else arrives at a port for Kafka: HTTP, TLS, text. Told by its first bytes, which as a frame's size are absurd.

"GET " 0x47455420    "POST" 0x504f5354    0x16 0x03 .. .. TLS    "SSH-"    "PING"
"""

from __future__ import annotations

import re

from kafka_wire.errors import ProtocolError

SHOWN_MAX = 60  # characters of a first line
HTTP_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")
TLS_HANDSHAKE, TLS_MAJOR = 0x16, 0x03
_TEXT = b"This is the port of a Kafka broker: it does not speak HTTP.\n"
HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_TEXT), _TEXT)
)


def foreign(head: bytes) -> ProtocolError | None:
    """What bytes are that begin no frame that may be. head: four of them, and what follows."""
    if head.startswith(HTTP_METHODS):
        line = _first_line(head)
        return ProtocolError(
            f"it sent an HTTP request ({line}), and this is a port for Kafka: kbroker serves HTTP at --http-port",
            HTTP_ANSWER,
        )
    if head[0] == TLS_HANDSHAKE and head[1] == TLS_MAJOR:
        return ProtocolError(
            "it sent a TLS handshake, and this listener is not encrypted: set security.protocol=PLAINTEXT"
        )
    if all(0x20 <= byte < 0x7F for byte in head[:4]):
        return ProtocolError(f"it sent text ({_first_line(head)}), and this is a port for Kafka")
    return None


def _first_line(head: bytes) -> str:
    """As far as it has arrived and is readable."""
    line = re.split(rb"[^\x20-\x7e]", head, maxsplit=1)[0].decode("ascii").strip()
    return line if len(line) <= SHOWN_MAX else f"{line[:SHOWN_MAX]}…"
