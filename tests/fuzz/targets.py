"""What is fuzzed: one function per target, that takes any bytes and raises only where kbroker is wrong.

    frames      a byte stream, arriving in pieces of any size, against a parser of ten lines
    messages    every request and response in every version: decode, and encode what was decoded
    records     record batches, with and without an honest length
    produced    a producer's batch against the rules of topics, at every level
    compressed  the payload of each codec, and bombs
    varints     the two kinds of varint
    filters     expressions of the filter language, and records to match
    http        what a client of the HTTP server may send on one connection

Each has `seeds()`: valid inputs, made by code. `mutated()` breaks one for tests that have no fuzzer at hand.
"""

from __future__ import annotations

import json
import logging
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import trio
from trio.testing import MockClock

from kafka_wire import api, codegen, frames
from kafka_wire import compression as codecs
from kafka_wire import primitives as p
from kafka_wire import records as r
from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.schema import Field, layout
from kbroker.config.topic import TopicConfig
from kbroker.filters import TAGS_HEADER, FilterSyntaxError, parse, tags_of
from kbroker.log.content.validation import Rules
from tests.http.tools import PORT as HTTP_PORT
from tests.http.tools import echo, receive, serving

BOUND = 64 * 1024  # what a payload may hold
THEIRS = {
    ErrorCode.CORRUPT_MESSAGE,
    ErrorCode.INVALID_RECORD,
    ErrorCode.MESSAGE_TOO_LARGE,
    ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
}

REFUSALS = {*THEIRS, ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.INVALID_TIMESTAMP, ErrorCode.INVALID_PRODUCER_EPOCH}

PAIRS: list[tuple[Any, int]] = [
    (find(key), version)
    for key, declared in sorted(api.APIS.items())
    for version in range(declared.version_min, declared.version_max + 1)
    for find in (api.request_class, api.response_class)
]


class Target(NamedTuple):
    """`run` is given anything; `bytes_max` is how much of it is useful."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    bytes_max: int


# frames -------------------------------------------------------------------------------------------------------------


def fuzz_frames(data: bytes) -> None:
    """The first byte seeds the sizes of the pieces and chooses the limit."""
    rng = random.Random(data[:1])
    limit, stream = rng.choice((16, 500, 100_000)), data[1:]
    expected, ends = _reference_frames(stream, limit)
    buffer, got, refused, pos = frames.FrameBuffer(limit), [], False, 0
    try:
        while pos < len(stream):
            space = buffer.space()
            assert len(space) > 0
            piece = stream[pos : pos + min(len(space), rng.choice((1, 3, 50, 5000)))]
            space[: len(piece)] = piece
            del space
            buffer.received(len(piece))
            pos += len(piece)
            while (frame := buffer.next_frame()) is not None:
                assert isinstance(frame, bytearray)
                got.append(bytes(frame))
            buffer.settle()
    except ProtocolError:
        refused = True
    assert got == expected
    assert refused == (ends == "refused")
    assert refused or buffer.partial == (ends == "pending")
    for frame_bytes in got:
        _fuzz_request_header(frame_bytes)


def _reference_frames(stream: bytes, limit: int) -> tuple[list[bytes], str]:
    found: list[bytes] = []
    pos = 0
    while pos + 4 <= len(stream):
        size = int.from_bytes(stream[pos : pos + 4], "big", signed=True)
        if not 0 <= size <= limit:
            return found, "refused"
        if pos + 4 + size > len(stream):
            return found, "pending"
        found.append(stream[pos + 4 : pos + 4 + size])
        pos += 4 + size
    return found, "pending" if pos < len(stream) else "clean"


def _fuzz_request_header(frame: bytes) -> None:
    try:
        header = frames.read_request_header(frame)
    except ProtocolError:
        return
    assert 10 <= header.body <= len(frame)
    assert struct.pack(">hhi", *header[:3]) == frame[:8]


def seed_frames() -> Iterator[bytes]:
    bodies = [
        b"",
        struct.pack(">hhih", 18, 0, 1, -1),
        struct.pack(">hhih", 18, 4, 1, 3) + b"abc\x00\x00\x00",
        struct.pack(">hhih", 3, 12, 1, 1) + b"a\x02\x00\x01x\x01\x00" + bytes(300),
        struct.pack(">hhih", 0, 9, 1, 0) + b"\x00" + bytes(70_000),
    ]
    for first in range(4):
        yield bytes([first]) + b"".join(struct.pack(">i", len(body)) + body for body in bodies[: 2 + first])
    yield b"\x01\x7f\xff\xff\xff"
    yield b"\x01\xff\xff\xff\xff"


# messages -----------------------------------------------------------------------------------------------------------


def fuzz_messages(data: bytes) -> None:
    """The first two bytes choose class and version, the rest is the body."""
    cls, version = PAIRS[int.from_bytes(data[:2], "big") % len(PAIRS)]
    try:
        message = codegen.decode(cls, version, data, 2)
    except ProtocolError:
        return
    once = codegen.encode(message, version)
    again = codegen.encode(codegen.decode(cls, version, once), version)
    assert again == once, f"{cls.__name__} v{version} does not round trip"
    assert b"".join(bytes(part) for part in codegen.encode_parts(message, version)) == once
    repr(message)


def seed_messages() -> Iterator[bytes]:
    rng = random.Random(0)
    for index, (cls, version) in enumerate(PAIRS):
        for message in (cls(), filled(cls, version, rng)):
            yield index.to_bytes(2, "big") + codegen.encode(message, version)


def filled(cls: type, version: int, rng: random.Random) -> Any:
    """A message with something in every field that the version has."""
    values = {field.name: _value(field, version, rng) for field in layout(cls).fields if field.has(version)}
    return cls(**values)


def _value(field: Field, version: int, rng: random.Random) -> Any:
    if field.can_be_null(version) and rng.random() < 0.2:
        return None
    if field.kind == "struct":
        return filled(field.item, version, rng)  # type: ignore[arg-type]
    if field.kind == "array":
        return [_item(field.item, version, rng) for _ in range(rng.choice((0, 1, 1, 2, 20)))]
    return _item(field.kind, version, rng)


def _item(kind: Any, version: int, rng: random.Random) -> Any:
    if isinstance(kind, type):
        return filled(kind, version, rng)
    simple: dict[str, Callable[[], Any]] = {
        "bool": lambda: rng.random() < 0.5,
        "float64": rng.random,
        "uuid": lambda: rng.randbytes(16),
        "string": lambda: rng.choice(("", "topic", "группа", "x" * 130)),
        "bytes": lambda: rng.randbytes(rng.choice((0, 3, 200))),
        "records": lambda: bytes(r.build_batch([(b"key", b"value")])),
    }
    if kind in simple:
        return simple[kind]()
    bits = int(kind.removeprefix("u").removeprefix("int"))
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return rng.choice((0, 1, -1 if low else 1, low, high, rng.randint(low, high)))


# records ------------------------------------------------------------------------------------------------------------


def fuzz_records(data: bytes) -> None:
    """Odd first byte: the batch's length and crc are made true, so that what lies deeper is reached."""
    buf = bytearray(data[1:])
    if data[:1] and data[0] & 1 and len(buf) >= r.HEADER_SIZE:
        struct.pack_into(">i", buf, 8, len(buf) - r.LENGTH_OFFSET)
        buf[16] = r.MAGIC
        struct.pack_into(">I", buf, 17, p.crc32c(memoryview(buf)[21:]))
        assert r.check_crc(buf, 0, r.read_header(buf))
    try:
        for pos, header in r.headers(buf):
            assert r.read_header(memoryview(buf), pos) == header
            r.check_crc(buf, pos, header)
            found = list(r.read_records(buf, pos, max_bytes=BOUND))
            assert len(found) == header.count
            if header.compression == codecs.NONE:
                assert [record[2:4] for record in found] == _reference_records(bytes(buf), pos, header)
            _check_rebuilt(buf, pos, header, found)
            _read_controls(found)
        r.read_header(buf)
    except KafkaError as error:
        assert error.code in THEIRS, error


def _reference_records(buf: bytes, pos: int, header: r.BatchHeader) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of each record, read the plain way: every field inside its record, nothing before or behind."""
    pairs, at, end = [], pos + r.HEADER_SIZE, pos + header.size
    for _ in range(header.count):
        size, at = p.read_varint(buf, at)
        assert 0 < size <= end - at
        record, at = buf[at : at + size], at + size
        _, here = p.read_varint(record, 1)
        _, here = p.read_varint(record, here)
        key, here = _reference_bytes(record, here)
        value, here = _reference_bytes(record, here)
        fields, here = p.read_varint(record, here)
        for _ in range(2 * fields):
            _, here = _reference_bytes(record, here)
        assert here == len(record)
        pairs.append((key, value))
    assert at == end
    return pairs


def _reference_bytes(record: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = p.read_varint(record, at)
    assert -1 <= size <= len(record) - at
    return (None, at) if size < 0 else (record[at : at + size], at + size)


def _check_rebuilt(buf: bytearray, pos: int, header: r.BatchHeader, found: list[r.Record]) -> None:
    again = r.with_records(header, r.payload(buf, pos, max_bytes=BOUND))
    rebuilt = r.read_header(again)
    assert r.check_crc(again, 0, rebuilt)
    assert rebuilt == header._replace(length=rebuilt.length, crc=rebuilt.crc)
    assert list(r.read_records(again, max_bytes=BOUND)) == found


def _read_controls(found: list[r.Record]) -> None:
    for record in found:
        try:
            r.read_control(record)
        except r.CorruptRecords:
            pass


def seed_records() -> Iterator[bytes]:
    some: list[r.RecordLike] = [
        (b"key", b"value"),
        (5, None, b"x" * 200, [("h", b"v"), ("n", None)]),
        (1 << 40, b"", None),
    ]
    for codec in range(5):
        batch = bytes(r.build_batch(some, compression=codec, producer_id=5, producer_epoch=1, base_sequence=0))
        yield b"\x00" + batch + batch
        yield b"\x01" + batch
    marker = r.control_batch(r.ControlType.COMMIT, producer_id=1, producer_epoch=0, coordinator_epoch=0, timestamp=0)
    yield b"\x00" + bytes(marker)
    yield b"\x01" + bytes(marker)


# produced -----------------------------------------------------------------------------------------------------------

NOW = 1 << 40
RULES_OF: list[dict[str, Any]] = [
    {},
    {"cleanup_policy": "compact"},
    {"compression_type": "zstd"},
    {"kbroker_delay_enable": True},
]
RULES = [
    Rules(TopicConfig(kbroker_produce_validate=level, kbroker_produce_validate_compressed=compressed, **config))
    for level, compressed in (("header", "header"), ("structure", "full"), ("full", "full"))
    for config in RULES_OF
]


def fuzz_produced(data: bytes) -> None:
    """As for records, the first byte says whether length and crc are made true; what passes in full can be read."""
    for rules in RULES:
        buf = bytearray(data[1:])
        if data[:1] and data[0] & 1 and len(buf) >= r.HEADER_SIZE:
            struct.pack_into(">i", buf, 8, len(buf) - r.LENGTH_OFFSET)
            struct.pack_into(">I", buf, 17, p.crc32c(memoryview(buf)[21:]))
        try:
            batch, header, _ = rules.check(buf, NOW)
        except KafkaError as error:
            assert error.code in REFUSALS, error
            continue
        assert r.check_crc(batch, 0, header) and header == r.read_header(batch) and header.size == len(batch)
        assert header.count == header.last_offset_delta + 1 and not header.log_append_time
        if rules.config.kbroker_produce_validate == "full":
            found = list(r.read_records(batch, max_bytes=1 << 30))
            assert [record.offset for record in found] == list(range(header.count))
            assert max(-1, *(record.timestamp for record in found)) == header.max_timestamp


def seed_produced() -> Iterator[bytes]:
    for codec in range(5):
        for flag in (b"\x00", b"\x01"):
            records: list[r.RecordLike] = [(NOW, b"k", b"v" * 40), (NOW + 5, b"", None, [("h", b"v"), ("n", None)])]
            yield flag + bytes(r.build_batch(records, compression=codec))


# compressed ---------------------------------------------------------------------------------------------------------


def fuzz_compressed(data: bytes) -> None:
    """The first byte chooses the codec, the second a bound."""
    if len(data) < 2:
        return
    codec, bound, payload = data[0] % 4 + 1, (0, 100, BOUND)[data[1] % 3], data[2:]
    try:
        out = codecs.decompress(codec, memoryview(payload), bound)
    except KafkaError as error:
        assert error.code in THEIRS, error
    else:
        assert type(out) is bytes
        assert len(out) <= bound
        assert codecs.decompress(codec, codecs.compress(codec, out), len(out)) == out
    assert codecs.decompress(codec, codecs.compress(codec, payload), len(payload)) == payload


def seed_compressed() -> Iterator[bytes]:
    import cramjam

    for codec in range(1, 5):
        for size in (0, 10, 1000, 1 << 22):
            packed = codecs.compress(codec, b"kbroker " * (size // 8))
            for bound in range(3):
                yield bytes([codec - 1, bound]) + packed[:4000]
                yield bytes([codec - 1, bound]) + packed[:1000] * 2
    yield b"\x01\x02" + bytes(cramjam.snappy.compress_raw(b"raw" * 100))
    yield b"\x02\x02" + bytes(cramjam.lz4.compress(b"linked" * 1000, level=1))


# varints ------------------------------------------------------------------------------------------------------------


def fuzz_varints(data: bytes) -> None:
    pairs = ((p.read_uvarint, p.uvarint, 0, 1 << 32), (p.read_varint, p.varint, -(1 << 63), 1 << 63))
    for read, write, low, high in pairs:
        try:
            value, pos = read(data, 0)
        except ProtocolError:
            continue
        assert low <= value < high
        assert 0 < pos <= len(data)
        assert len(write(value)) <= pos
        assert read(write(value), 0) == (value, len(write(value)))


def seed_varints() -> Iterator[bytes]:
    for value in (0, 1, 127, 128, 16_383, 2**32 - 1):
        yield p.uvarint(value)
    for value in (-1, 63, -(2**31), -(2**63), 2**63 - 1):
        yield p.varint(value)


# filters ------------------------------------------------------------------------------------------------------------


def fuzz_filters(data: bytes) -> None:
    """Any text is an expression, which judges any record, or a syntax error at a place in it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        expression = parse(text)
    except FilterSyntaxError as error:
        assert 1 <= error.position <= len(text) + 1
        return
    headers = [(TAGS_HEADER, data), (TAGS_HEADER, b"eu"), (text[:3], None), ("country", b"de")]
    matched = expression.matches(data, headers)
    assert parse(str(expression)) == expression and expression.matches(data, headers[::-1]) == matched
    tags = expression.tags()
    assert tags is None or not matched or tags & tags_of(headers)


def seed_filters() -> Iterator[bytes]:
    cases = json.loads((Path(__file__).parent.parent / "data/filter_cases.json").read_text(encoding="utf-8"))
    for text, *_ in cases["matches"] + cases["errors"]:
        yield text.encode()


# http ---------------------------------------------------------------------------------------------------------------


def fuzz_http(data: bytes) -> None:
    """Every byte that comes back is of a whole answer, and the server does not fail; the first byte cuts the rest."""
    trio.run(_http_connection, data[1:], 1 + (data[0] if data else 0), clock=MockClock(autojump_threshold=0))


async def _http_connection(sent: bytes, piece: int) -> None:
    failures: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = failures.append  # type: ignore[method-assign]
    logging.getLogger("kbroker.http").addHandler(handler)
    try:
        async with serving(echo) as (net, _):
            stream = await net.connect("localhost", HTTP_PORT)
            answered = b""
            with suppress(trio.BrokenResourceError):
                for at in range(0, len(sent), piece):
                    await stream.send((sent[at : at + piece],))
                while received := await receive(stream):
                    answered += received
    finally:
        logging.getLogger("kbroker.http").removeHandler(handler)
    assert not failures, failures[0].getMessage()
    assert not answered or answered.startswith(b"HTTP/1.1 "), answered[:100]


def seed_http() -> Iterator[bytes]:
    get = b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n"
    yield b"\xff" + get + b"\r\n"
    yield b"\x05" + get + b"\r\n" + get + b"Connection: close\r\n\r\n"
    yield b"\xff" + get.replace(b"GET", b"HEAD") + b"Content-Length: 0\r\n\r\n"
    yield b"\xff" + get.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    yield b"\xff" + get.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nUpgrade: h2c\r\n\r\n"


TARGETS = {
    "frames": Target(fuzz_frames, seed_frames, 80_000),
    "messages": Target(fuzz_messages, seed_messages, 4096),
    "records": Target(fuzz_records, seed_records, 2048),
    "produced": Target(fuzz_produced, seed_produced, 2048),
    "compressed": Target(fuzz_compressed, seed_compressed, 4096),
    "varints": Target(fuzz_varints, seed_varints, 16),
    "filters": Target(fuzz_filters, seed_filters, 300),
    "http": Target(fuzz_http, seed_http, 4096),
}


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """`seed` with a few bytes changed, cut out, doubled or made extreme."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.choice((1, 1, 4, 1000))]
            case 2:
                data[at:at] = data[at : at + rng.choice((1, 4, 50))]
            case 3:
                data[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", bytes(4))
                )
            case _:
                data[at : at + 1] = rng.choice((b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f"))
    return bytes(data)
