"""Framing: many frames in a read, frames in many reads, lies about lengths; request headers; responses as parts."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ProtocolError
from kafka_wire.frames import (
    EAGER_MAX,
    SMALL_FRAME_MAX,
    FrameBuffer,
    RequestHeader,
    Scratch,
    read_request_header,
    response_parts,
)
from kafka_wire.messages.metadata import ApiVersionsResponse, MetadataResponse, MetadataResponseBroker
from kafka_wire.messages.produce_fetch import FetchableTopicResponse, FetchPartitionData, FetchResponse

LIMIT = 100 << 20


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def feed(buffer: FrameBuffer, stream: bytes, sizes: list[int] | None = None) -> list[bytes]:
    """Give the stream to the buffer in receives of these sizes (the last repeats), and take out the frames."""
    frames, pos, turn = [], 0, 0
    while pos < len(stream):
        space = buffer.space()
        assert len(space) > 0
        size = sizes[min(turn, len(sizes) - 1)] if sizes else len(space)
        piece = stream[pos : pos + min(size, len(space))]
        space[: len(piece)] = piece
        buffer.received(len(piece))
        pos += len(piece)
        turn += 1
        while (frame := buffer.next_frame()) is not None:
            frames.append(bytes(frame))
        buffer.settle()
    return frames


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 200) | st.sampled_from((8188, 8192, 20000, 65536, 65537, 200_000)), max_size=12),
    st.lists(st.integers(1, 5000), min_size=1, max_size=6),
)
def test_frames_come_out_as_they_went_in(lengths: list[int], sizes: list[int]) -> None:
    rng = random.Random(len(lengths))
    bodies = [rng.randbytes(n) for n in lengths]
    stream = b"".join(map(framed, bodies))
    buffer = FrameBuffer(LIMIT)
    assert feed(buffer, stream, sizes) == bodies
    assert not buffer.partial
    assert feed(FrameBuffer(LIMIT), stream) == bodies


def test_a_frame_is_owned_by_who_took_it() -> None:
    for size in (100, 200_000):
        buffer = FrameBuffer(LIMIT)
        space = buffer.space()
        stream = framed(b"a" * size)
        frames = []
        while stream:
            space = buffer.space()
            n = min(len(space), len(stream))
            space[:n] = stream[:n]
            buffer.received(n)
            stream = stream[n:]
            if (frame := buffer.next_frame()) is not None:
                frames.append(frame)
        feed(buffer, framed(b"b" * size))
        assert type(frames[0]) is bytearray
        assert frames[0] == b"a" * size
        frames[0] += b"more"  # nobody else holds on to it


def test_partial_says_that_a_frame_has_begun() -> None:
    for size in (100, 200_000):
        buffer = FrameBuffer(LIMIT)
        stream = framed(bytes(size))
        assert not buffer.partial
        assert feed(buffer, stream[:3]) == [] and buffer.partial
        assert feed(buffer, stream[3:-1]) == [] and buffer.partial
        assert feed(buffer, stream[-1:]) == [bytes(size)]
        assert not buffer.partial


@pytest.mark.parametrize("size", [-1, -(2**31), 1001, 2**31 - 1])
def test_B2_a_size_that_cannot_be_is_refused_at_once(size: int) -> None:
    buffer = FrameBuffer(1000)
    with pytest.raises(ProtocolError, match=str(size)):
        feed(buffer, struct.pack(">i", size))


def test_B2_a_whole_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(ProtocolError):
        feed(FrameBuffer(1000), framed(bytes(1001)))
    assert feed(FrameBuffer(1000), framed(bytes(1000))) == [bytes(1000)]


def test_B2_an_announcement_alone_allocates_little() -> None:
    tracemalloc.start()
    try:
        buffer = FrameBuffer(LIMIT)
        feed(buffer, struct.pack(">i", LIMIT))
        assert tracemalloc.get_traced_memory()[1] < EAGER_MAX + 4 * SMALL_FRAME_MAX
        received = feed(buffer, bytes(3 << 20))
        assert received == [] and buffer.partial
        assert tracemalloc.get_traced_memory()[0] < 12 << 20  # a doubling beyond what arrived, and the test's own
    finally:
        tracemalloc.stop()


def test_a_large_frame_is_received_in_place() -> None:
    buffer = FrameBuffer(LIMIT)
    stream = framed(bytes(range(256)) * 4096)
    assert feed(buffer, stream[:100]) == []
    assert len(buffer.space()) == len(stream) - 100  # one system call can bring all of it, and nothing else
    assert feed(buffer, stream[100:]) == [stream[4:]]


def test_whole_frames_that_were_not_taken_out_yet_are_not_partial() -> None:
    buffer = FrameBuffer(LIMIT)
    stream = framed(b"one") + framed(b"two") + framed(b"three")[:5]
    buffer.space()[: len(stream)] = stream
    buffer.received(len(stream))
    assert buffer.next_frame() == b"one"
    buffer.settle()
    assert not buffer.partial and buffer.held == len(stream) - 7
    assert buffer.next_frame() == b"two" and buffer.partial
    buffer.settle()
    assert buffer.next_frame() is None and buffer.partial
    assert feed(buffer, b"hree") == [b"three"]
    assert not buffer.partial and buffer.held == 0


@pytest.mark.parametrize("seed", range(30))
def test_connections_that_share_a_scratch_do_not_mix(seed: int) -> None:
    """Some frames stay for a later turn, as when a connection has to wait for an answer."""
    rng, scratch = random.Random(seed), Scratch()
    bodies = [[rng.randbytes(rng.choice((0, 3, 300, 20_000, 65_536, 65_537))) for _ in range(9)] for _ in range(4)]
    streams = [b"".join(map(framed, each)) for each in bodies]
    buffers = [FrameBuffer(LIMIT, scratch) for _ in streams]
    frames: list[list[bytes]] = [[] for _ in streams]
    while any(streams) or any(buffer.held for buffer in buffers):
        n = rng.randrange(4)
        space = buffers[n].space()
        full = len(space) == 0
        piece = streams[n][: min(len(space), rng.choice((1, 100, 70_000)))]
        space[: len(piece)] = piece
        buffers[n].received(len(piece))
        streams[n] = streams[n][len(piece) :]
        while (full or rng.randrange(3)) and (frame := buffers[n].next_frame()) is not None:
            frames[n].append(bytes(frame))
        buffers[n].settle()
    assert frames == bodies


def test_nothing_left_over_takes_no_memory() -> None:
    scratch = Scratch()
    buffer = FrameBuffer(LIMIT, scratch)
    feed(buffer, framed(b"x" * 100) * 5000)
    assert buffer.held == 0
    assert buffer.space() is scratch.view


# ---- request headers


def test_a_header_v1_is_read() -> None:
    frame = struct.pack(">hhih", ApiKey.METADATA, 5, 42, 4) + b"test" + b"body"
    header = read_request_header(frame)
    assert header == RequestHeader(ApiKey.METADATA, 5, 42, "test", 14)
    assert type(header) is RequestHeader


def test_a_header_v2_is_read_and_its_tags_are_skipped() -> None:
    start = struct.pack(">hhih", ApiKey.METADATA, 9, 42, 4) + b"test"
    assert read_request_header(bytearray(start + b"\0body")).body == 15
    tagged = start + b"\2" + b"\0\3abc" + b"\5\0" + b"body"
    assert tagged[read_request_header(tagged).body :] == b"body"


def test_a_client_id_may_be_null_or_empty() -> None:
    assert read_request_header(struct.pack(">hhih", 3, 0, 1, -1)).client_id is None
    assert read_request_header(struct.pack(">hhih", 3, 0, 1, 0)).client_id == ""


def test_trap_2_an_unknown_version_has_a_header_all_the_same() -> None:
    frame = struct.pack(">hhih", ApiKey.API_VERSIONS, 99, 7, 3) + b"abc" + b"\xff\xff\xff"
    header = read_request_header(frame)
    assert (header.version, header.correlation_id, header.client_id) == (99, 7, "abc")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\3\0\0\0\0\0\1\0",
        struct.pack(">hhih", 3, 0, 1, 5) + b"abcd",
        struct.pack(">hhih", 3, 0, 1, -2),
        struct.pack(">hhih", 3, 0, 1, 2) + b"\xff\xfe",
        struct.pack(">hhih", 3, 9, 1, 2) + b"ab",
        struct.pack(">hhih", 3, 9, 1, 2) + b"ab" + b"\1",
        struct.pack(">hhih", 3, 9, 1, 2) + b"ab" + b"\1\0\x7f",
        struct.pack(">hhih", 3, 9, 1, 2) + b"ab" + b"\xff\xff\xff\xff\x0f",
    ],
)
def test_B2_a_malformed_header_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_request_header(frame)


@given(st.binary(max_size=40))
def test_B2_no_header_raises_anything_else(frame: bytes) -> None:
    try:
        header = read_request_header(frame)
    except ProtocolError:
        return
    assert header.body <= len(frame)


# ---- responses


def test_a_small_response_is_one_bytes() -> None:
    response = MetadataResponse(brokers=[MetadataResponseBroker(node_id=1, host="h", port=9)])
    (part,) = response_parts(ApiKey.METADATA, 9, 77, response)
    assert type(part) is bytes
    assert part[:9] == struct.pack(">iix", len(part) - 4, 77)
    assert part[9:] == encode(response, 9)
    (part,) = response_parts(ApiKey.METADATA, 8, 77, response)
    assert part == struct.pack(">ii", len(part) - 4, 77) + encode(response, 8)


def test_trap_1_an_api_versions_response_has_no_tags_in_its_header() -> None:
    (part,) = response_parts(ApiKey.API_VERSIONS, 3, 5, ApiVersionsResponse(error_code=0))
    assert part[8:] == encode(ApiVersionsResponse(error_code=0), 3)


class Slice:
    """What a slice of a file looks like to the codec."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def test_records_from_files_go_out_as_they_are() -> None:
    slices = [Slice(1 << 20), Slice(5)]
    small = b"y" * 100
    parts = response_parts(
        ApiKey.FETCH,
        12,
        9,
        FetchResponse(
            responses=[
                FetchableTopicResponse(
                    topic="t",
                    partitions=[
                        FetchPartitionData(partition_index=0, records=slices),
                        FetchPartitionData(partition_index=1, records=small),
                        FetchPartitionData(partition_index=2, records=b""),
                    ],
                )
            ]
        ),
    )
    assert [type(part) for part in parts] == [bytes, Slice, Slice, bytes]
    assert parts[1:3] == slices
    whole = b"".join(part if isinstance(part, bytes) else bytes(len(part)) for part in parts)
    size, correlation_id = struct.unpack_from(">ii", whole)
    assert (size, correlation_id) == (len(whole) - 4, 9)
    zero, one, two = decode(FetchResponse, 12, whole, 9).responses[0].partitions
    assert (len(zero.records), one.records, len(two.records)) == ((1 << 20) + 5, small, 0)


def test_a_large_response_is_not_copied_for_its_header() -> None:
    response = MetadataResponse(brokers=[MetadataResponseBroker(node_id=n, host="h" * 100, port=9) for n in range(500)])
    head, body = response_parts(ApiKey.METADATA, 12, 3, response)
    assert head == struct.pack(">iix", len(body) + 5, 3)
    assert body == encode(response, 12)
