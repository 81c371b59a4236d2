"""Framing without I/O: bytes to frames, frames to request headers, responses to bytes.

    frame:            size int32 | that many bytes
    request header:   api_key int16 | api_version int16 | correlation_id int32 | client_id nullable string | tags (v2)
    response header:  correlation_id int32 | tags (v1)

The client id keeps its old two-byte length in header v2 too. Which header goes with which request: `api`.

Many FrameBuffers receive into one Scratch, as only one does at a time: a system call brings many small frames, each is
copied out, and what is left over when the connection has had its turn it keeps for itself (`settle`). So a connection
of which nothing is left over has no buffer at all. A frame over 64 KiB is received straight into memory of its own,
which grows with what arrives, 1 MiB at a time: an announcement alone allocates no more, and no step copies much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.api import APIS, is_flexible, request_header_version, response_class, response_header_version
from kafka_wire.codegen import encode_in_slices, encoder, part_encoder
from kafka_wire.encoding import has_records
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer, read_uvarint

SMALL_FRAME_MAX = 65536  # bytes; longer frames get memory of their own
EAGER_MAX = 1 << 20  # bytes allocated on the strength of an announcement
SCRATCH_SIZE = 2 * SMALL_FRAME_MAX  # a small frame that has begun fits, and at least as much again
JOIN_MAX = 16384  # bytes; a first part up to this is joined with the response's header

Parts: TypeAlias = "Sequence[Any]"  # bytes, and what is sent by other means: records in files
Writer: TypeAlias = "Callable[[int, Any], Parts]"

_size = struct.Struct(">i")
_request = struct.Struct(">hhih")
_response_0 = struct.Struct(">ii")
_response_1 = struct.Struct(">iix")
_new = tuple.__new__
_flexible: dict[int, bool] = {}  # by key << 16 | version, of what is declared
_writers: dict[int, Writer] = {}  # by the same


class Scratch:
    """Memory that connections receive into, one after the other."""

    __slots__ = ("data", "view")

    def __init__(self) -> None:
        self.data = bytearray(SCRATCH_SIZE)
        self.view = memoryview(self.data)


class FrameBuffer:
    """Receives a byte stream, gives out frames.

        n = receive_into(buffer.space());  buffer.received(n)
        while (frame := buffer.next_frame()) is not None: ...
        buffer.settle()

    The view that space() gave is dead once received() was called. From space() to settle() nobody else may use the
    scratch.
    """

    __slots__ = ("bytes_max", "_scratch", "_buf", "_head", "_tail", "_large", "_large_size", "_filled", "_space")

    def __init__(self, bytes_max: int, scratch: Scratch | None = None) -> None:
        self.bytes_max = bytes_max  # a longer frame is refused before anything is allocated
        self._scratch = scratch or Scratch()
        self._buf = self._scratch.data  # or, once settled, memory of our own
        self._head = self._tail = 0  # what has arrived and was not yet given out: _buf[_head:_tail]
        self._large: bytearray | None = None  # the frame that is received in place, of which
        self._large_size = 0  # bytes were announced and
        self._filled = 0  # bytes have arrived
        self._space: memoryview | None = None  # given out over _large, which cannot grow while it lives

    @property
    def partial(self) -> bool:
        """Whether the next frame has begun to arrive and is not whole."""
        if self._large is not None:
            return self._filled < self._large_size
        left = self._tail - self._head
        return 0 < left < 4 or left >= 4 and left - 4 < _size.unpack_from(self._buf, self._head)[0]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is here that was not given out."""
        return self._head == self._tail and self._large is None

    @property
    def held(self) -> int:
        """Bytes of memory that wait here: for the rest of a frame, or to be taken out."""
        if self._large is not None:
            return len(self._large)
        return 0 if self._head == self._tail else len(self._buf)

    def space(self) -> memoryview:
        """Where to receive into; never empty when next_frame() has returned None."""
        if self._large is not None:
            if self._space is None:
                self._space = memoryview(self._large)[self._filled :]
            return self._space
        scratch = self._scratch
        rest = self._tail - self._head
        if not rest:
            self._buf, self._head, self._tail = scratch.data, 0, 0
            return scratch.view
        scratch.view[:rest] = memoryview(self._buf)[self._head : self._tail]
        self._buf, self._head, self._tail = scratch.data, 0, rest
        return scratch.view[rest:]

    def received(self, count: int) -> None:
        """Account for count bytes received into space()."""
        if self._large is None:
            self._tail += count
            return
        self._filled += count
        self._release()
        if self._filled == len(self._large) < self._large_size:
            self._large += bytes(min(EAGER_MAX, self._large_size - self._filled))

    def settle(self) -> None:
        """Leave the scratch to others: keep what is left over in memory of our own."""
        if self._head == self._tail:
            self._buf = self._scratch.data
        elif self._buf is self._scratch.data:
            self._buf = self._buf[self._head : self._tail]
            self._head, self._tail = 0, len(self._buf)

    def next_frame(self) -> bytearray | None:
        """The next whole frame without its size, which the caller owns; None when more has to arrive.

        Raises ProtocolError for a size that is negative or over the limit, and says what it may be instead.
        """
        if self._large is not None:
            return self._finish_large()
        start, tail = self._head + 4, self._tail
        if start <= tail:
            stop = start + _size.unpack_from(self._buf, self._head)[0]
            if start <= stop <= tail:
                if stop - start > self.bytes_max:
                    self._refuse(stop - start)
                self._head = stop
                return self._buf[start:stop]
            self._check_and_begin(stop - start)
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
        self._large[: self._filled] = memoryview(self._buf)[self._head + 4 : self._tail]
        self._head = self._tail = 0

    def _refuse(self, size: int) -> None:
        from kafka_wire.foreign import SHOWN_MAX, foreign

        found = foreign(bytes(self._buf[self._head : min(self._tail, self._head + 2 * SHOWN_MAX)]))
        raise found or ProtocolError(f"a frame of {size} bytes, where 0 to {self.bytes_max} are allowed")

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
        flexible = _flexible.get(key << 16 | version)
        if flexible is None:
            flexible = _look_up_flexible(key, version)
        if flexible:
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


def _look_up_flexible(key: int, version: int) -> bool:
    flexible = is_flexible(key, version)
    if key in APIS and APIS[key].version_min <= version <= APIS[key].version_max:
        _flexible[key << 16 | version] = flexible
    return flexible


def request_header(key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
    """A request's header, as whoever asks writes it; without the size in front of it."""
    name = None if client_id is None else client_id.encode()
    head = _request.pack(key, version, correlation_id, -1 if name is None else len(name))
    return head + (name or b"") + (b"\0" if request_header_version(key, version) >= 2 else b"")


def request_parts(key: int, version: int, correlation_id: int, client_id: str | None, body: Sequence[Any]) -> Parts:
    """A request as it goes out, size and header included. body: its parts, see codegen.encode_parts."""
    head = request_header(key, version, correlation_id, client_id)
    head = _size.pack(len(head) + sum(map(len, body))) + head
    first = body[0]
    return (head + first, *body[1:]) if type(first) is bytes and len(first) <= JOIN_MAX else (head, *body)


def read_response_header(frame: Buffer, key: int, version: int) -> tuple[int, int]:
    """The correlation id of a response, and where its body begins. Raises ProtocolError when it is not one."""
    try:
        (correlation_id,) = _size.unpack_from(frame)
        pos = 4
        if response_header_version(key, version):
            pos = _skip_tags(frame, pos)
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside the response header") from None
    return correlation_id, pos


def response_parts(key: int, version: int, correlation_id: int, response: object) -> Parts:
    """A response as it goes out, size and header included: one bytes when it is small, see codegen.encode_parts."""
    return response_writer(key, version)(correlation_id, response)


def response_writer(key: int, version: int) -> Writer:
    """`write(correlation_id, response)`, which does the same for one API in one version: everything is looked up."""
    pair = key << 16 | version
    if pair not in _writers:
        cls = response_class(key)
        extra, pack = _response_head(key, version)
        if has_records(cls, version):
            _writers[pair] = _writer_of_parts(part_encoder(cls, version), extra, pack)
        else:
            _writers[pair] = _writer_of_bytes(encoder(cls, version), extra, pack)
    return _writers[pair]


def response_in_slices(key: int, version: int, correlation_id: int, response: object) -> Generator[None, None, Parts]:
    """Like response_parts: a generator that returns the parts, and yields whenever it has done some 50 us of work."""
    parts = yield from encode_in_slices(response, version)
    return _with_head(parts, *_response_head(key, version), correlation_id)


def _response_head(key: int, version: int) -> tuple[int, Callable[[int, int], bytes]]:
    """How many bytes of the header the size counts, and the function that packs both."""
    return (5, _response_1.pack) if response_header_version(key, version) else (4, _response_0.pack)


def _writer_of_bytes(encode: Callable[[Any], bytes], extra: int, pack: Callable[[int, int], bytes]) -> Writer:
    def write(correlation_id: int, response: Any) -> Parts:
        body = encode(response)
        head = pack(len(body) + extra, correlation_id)
        return (head + body,) if len(body) <= JOIN_MAX else (head, body)

    return write


def _writer_of_parts(encode: Callable[[Any], list[Any]], extra: int, pack: Callable[[int, int], bytes]) -> Writer:
    def write(correlation_id: int, response: Any) -> Parts:
        return _with_head(encode(response), extra, pack, correlation_id)

    return write


def _with_head(parts: list[Any], extra: int, pack: Callable[[int, int], bytes], correlation_id: int) -> Parts:
    size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
    head = pack(size + extra, correlation_id)
    if type(parts[0]) is bytes and len(parts[0]) <= JOIN_MAX:
        parts[0] = head + parts[0]
    else:
        parts.insert(0, head)
    return parts
