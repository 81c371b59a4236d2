"""Other protocols at Kafka's port: what they are called, and what they are answered."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ProtocolError
from kafka_wire.frames import FrameBuffer

KINDS = {
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n": "an HTTP request (GET /metrics HTTP/1.1)",
    b"POST /topics/a HTTP/1.1\r\n": "an HTTP request (POST /topics/a HTTP/1.1)",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "an HTTP request (PRI * HTTP/2.0)",
    b"GET /" + b"x" * 500: "an HTTP request (GET /" + "x" * 55 + "…)",
    b"GET \x1b[2J": "an HTTP request (GET)",
    b"\x16\x03\x01\x02\x00\x01\x00": "a TLS handshake",
    b"SSH-2.0-OpenSSH_9\r\n": "text (SSH-2.0-OpenSSH_9)",
    b"\x7f\xff\xff\xff....": "a frame of 2147483647 bytes, where 0 to 104857600 are allowed",
    b"\xff\xff\xff\xff....": "a frame of -1 bytes",
}


@pytest.mark.parametrize("head", KINDS, ids=KINDS.values())
def test_what_is_no_frame_is_called_by_its_name(head: bytes) -> None:
    frames = FrameBuffer(104_857_600)
    space = frames.space()
    space[: len(head)] = head
    frames.received(len(head))
    with pytest.raises(ProtocolError) as refusal:
        frames.next_frame()
    assert KINDS[head] in str(refusal.value)
    is_http = "HTTP" in str(refusal.value)
    assert refusal.value.answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") == is_http


def test_a_frame_whose_size_reads_like_text_is_one_where_such_sizes_are_allowed() -> None:
    frames = FrameBuffer(2**31 - 1)
    frames.space()[:8] = b"GET /abc"
    frames.received(8)
    assert frames.next_frame() is None and frames.partial
