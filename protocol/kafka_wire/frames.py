"""Framing without I/O: bytes to frames, frames to request headers, responses to bytes.

    frame:            size int32 | that many bytes
    request header:   api_key int16 | api_version int16 | correlation_id int32 | client_id nullable string | tags (v2)
    response header:  correlation_id int32 | tags (v1)

The client id keeps its old two-byte length in header v2 too. Which header goes with which request: `api`.

A FrameBuffer owns the memory a connection receives into. Small frames gather in one buffer, many to a system call, and
are copied out. A frame over 64 KiB is received straight into memory of its own, which grows with what arrives: an
announcement alone allocates 1 MiB at most.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from kafka_wire.api import is_flexible, response_header_version
from kafka_wire.codegen import part_encoder
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer, read_uvarint

SMALL_FRAME_MAX = 65536  # bytes; longer frames get memory of their own
EAGER_MAX = 1 << 20  # bytes allocated on the strength of an announcement
FIRST_BUFFER = 8192  # bytes a connection starts with; most never need more
_BUFFER_MAX = 2 * SMALL_FRAME_MAX + 8  # so that a frame that begins before the middle fits
JOIN_MAX = 16384  # bytes; a first part up to this is joined with the response's header

_size = struct.Struct(">i")
_request = struct.Struct(">hhih")
_response_0 = struct.Struct(">ii")
_response_1 = struct.Struct(">iix")
_new = tuple.__new__
_heads: dict[int, tuple[int, Callable[[int, int], bytes]]] = {}  # key and version -> header's size and pack


class FrameBuffer:
    """Receives a byte stream, gives out frames.

        n = receive_into(buffer.space());  buffer.received(n)
        while (frame := buffer.next_frame()) is not None: ...

    The view that space() gave is dead once received() was called.
    """

    __slots__ = ("bytes_max", "_buf", "_view", "_head", "_tail", "_large", "_large_size", "_filled", "_space")

    def __init__(self, max_bytes: int) -> None:
        self.bytes_max = max_bytes  # a longer frame is refused before anything is allocated
        self._buf = bytearray(FIRST_BUFFER)
        self._view = memoryview(self._buf)
        self._head = self._tail = 0  # what has arrived and was not yet given out: _buf[_head:_tail]
        self._large: bytearray | None = None  # the frame that is received in place, of which
        self._large_size = 0  # bytes were announced and
        self._filled = 0  # bytes have arrived
        self._space: memoryview | None = None  # given out over _large, which cannot grow while it lives

    @property
    def pending(self) -> bool:
        """Whether bytes of a frame that is not whole have arrived."""
        return self._head != self._tail or self._large is not None

    @property
    def held(self) -> int:
        """Bytes of memory that a large frame takes which is not whole yet; 0 when there is none."""
        return 0 if self._large is None else len(self._large)

    def space(self) -> memoryview:
        """Where to receive into; never empty when next_frame() has returned None."""
        if self._large is not None:
            if self._space is None:
                self._space = memoryview(self._large)[self._filled :]
            return self._space
        return self._view[self._tail :] if self._tail else self._view

    def received(self, count: int) -> None:
        """Account for count bytes received into space()."""
        if self._large is None:
            self._tail += count
            if self._tail == len(self._buf) < _BUFFER_MAX:
                self._grow()
            return
        self._filled += count
        self._release()
        if self._filled == len(self._large) < self._large_size:
            self._large += bytes(min(self._filled, self._large_size - self._filled))

    def next_frame(self) -> bytearray | None:
        """The next whole frame without its size, which the caller owns; None when more has to arrive.

        Raises ProtocolError for a size that is negative or over the limit.
        """
        if self._large is not None:
            return self._finish_large()
        head, tail = self._head, self._tail
        start = head + 4
        if start <= tail:
            stop = start + _size.unpack_from(self._buf, head)[0]
            if start <= stop <= tail:
                if stop - start > self.bytes_max:
                    self._refuse(stop - start)
                if stop == tail:
                    self._head = self._tail = 0
                else:
                    self._head = stop
                return self._buf[start:stop]
            self._check_and_begin(stop - start)
        elif head == tail:
            self._head = self._tail = 0
            return None
        if self._large is None:
            self._make_room()
        return None

    def _check_and_begin(self, size: int) -> None:
        """A frame of this size is not whole yet: refuse it, or give it memory of its own if it is large."""
        if size < 0 or size > self.bytes_max:
            self._refuse(size)
        if size <= SMALL_FRAME_MAX:
            return
        self._large = bytearray(min(size, EAGER_MAX))
        self._large_size = size
        self._filled = self._tail - self._head - 4
        self._large[: self._filled] = self._view[self._head + 4 : self._tail]
        self._head = self._tail = 0

    def _refuse(self, size: int) -> None:
        raise ProtocolError(f"a frame of {size} bytes, where 0 to {self.bytes_max} are allowed")

    def _make_room(self) -> None:
        """Move a begun frame to the start of the buffer when it lies past the middle."""
        if self._head > len(self._buf) // 2:
            rest = self._tail - self._head
            self._view[:rest] = self._view[self._head : self._tail]
            self._head, self._tail = 0, rest

    def _grow(self) -> None:
        """Double the buffer: what has just arrived filled it, so there is more to be had in one system call."""
        grown = bytearray(min(2 * len(self._buf), _BUFFER_MAX))
        grown[: self._tail] = self._buf
        self._buf, self._view = grown, memoryview(grown)

    def _finish_large(self) -> bytearray | None:
        if self._filled < self._large_size:
            return None
        frame, self._large = self._large, None
        self._release()
        return frame

    def _release(self) -> None:
        if self._space is not None:
            self._space.release()
            self._space = None


class RequestHeader(NamedTuple):
    """Who asks for what; `body` is where the request's body begins in the frame."""

    key: int
    version: int
    correlation_id: int
    client_id: str | None
    body: int


def read_request_header(frame: Buffer) -> RequestHeader:
    """The header at the beginning of a frame. Raises ProtocolError when it is not one.

    A key or version that is not declared is read as header v1, so its `body` may be off by the tags.
    """
    try:
        key, version, correlation_id, length = _request.unpack_from(frame)
        body = 10
        client_id = None
        if length >= 0:
            body += length
            client_id = str(frame[10:body], "utf-8")
        elif length != -1:
            raise ProtocolError(f"the client id has the length {length}")
        if is_flexible(key, version):
            if frame[body]:
                body = _skip_tags(frame, body)
            else:
                body += 1
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside the request header") from None
    except UnicodeDecodeError:
        raise ProtocolError("the client id is not UTF-8") from None
    if body > len(frame):
        raise ProtocolError("the frame ends inside the request header")
    return _new(RequestHeader, (key, version, correlation_id, client_id, body))


def _skip_tags(frame: Buffer, pos: int) -> int:
    count, pos = read_uvarint(frame, pos)
    for _ in range(count):
        _, pos = read_uvarint(frame, pos)
        size, pos = read_uvarint(frame, pos)
        pos += size
    return pos


def response_parts(key: int, version: int, correlation_id: int, response: object) -> list[Any]:
    """A response as it goes out, size and header included: one bytes when it is small, see codegen.encode_parts."""
    parts = part_encoder(type(response), version)(response)
    size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
    pair = key << 16 | version
    try:
        extra, pack = _heads[pair]
    except KeyError:
        extra, pack = (5, _response_1.pack) if response_header_version(key, version) else (4, _response_0.pack)
        _heads[pair] = extra, pack
    head = pack(size + extra, correlation_id)
    if type(parts[0]) is bytes and len(parts[0]) <= JOIN_MAX:
        parts[0] = head + parts[0]
    else:
        parts.insert(0, head)
    return parts
