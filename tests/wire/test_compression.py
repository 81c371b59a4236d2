"""Every codec round trips, reads what others write, and lets no more out than it is allowed to (B3)."""

from __future__ import annotations

import gzip
import random
import time
import tracemalloc
import zlib
from functools import partial

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import codec as kafka_python

from kafka_wire.compression import GZIP, LZ4, NAMES, SNAPPY, ZSTD, CompressionError, compress, decompress
from kafka_wire.errors import ErrorCode, KafkaError

CODECS = range(5)
PACKING = (GZIP, SNAPPY, LZ4, ZSTD)
MIB = 1 << 20

per_codec = pytest.mark.parametrize("codec", CODECS, ids=NAMES)
per_packing_codec = pytest.mark.parametrize("codec", PACKING, ids=NAMES[1:])

SAMPLES = [b"", b"x", b"abc" * 50_000, random.Random(1).randbytes(200_000), bytes(3 * MIB)]


def code_of(error: pytest.ExceptionInfo[KafkaError]) -> ErrorCode:
    return error.value.code


@per_codec
@pytest.mark.parametrize("data", SAMPLES, ids=lambda data: str(len(data)))
def test_round_trip_within_exactly_its_size(codec: int, data: bytes) -> None:
    packed = compress(codec, memoryview(data))
    for buf in (packed, bytearray(packed), memoryview(packed)):
        assert decompress(codec, buf, len(data)) == data
    assert decompress(codec, packed, len(data) + 100_000) == data


@settings(deadline=None)
@given(st.integers(0, 4), st.lists(st.binary(max_size=100) | st.binary(max_size=3).map(lambda b: b * 3000)))
def test_round_trip_of_anything(codec: int, parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert decompress(codec, compress(codec, data), len(data)) == data


@per_codec
@pytest.mark.parametrize("data", SAMPLES[1:], ids=lambda data: str(len(data)))
def test_B3_one_byte_over_the_bound_is_refused(codec: int, data: bytes) -> None:
    packed = compress(codec, data)
    for bound in (len(data) - 1, 0, -5):
        with pytest.raises(CompressionError) as error:
            decompress(codec, packed, bound)
        assert code_of(error) is ErrorCode.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_codecs_that_do_not_exist(codec: int) -> None:
    for call in (partial(compress, codec, b"x"), partial(decompress, codec, b"x", 10)):
        with pytest.raises(KafkaError) as error:
            call()
        assert code_of(error) is ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


@per_packing_codec
def test_a_level_is_passed_on(codec: int) -> None:
    words = random.Random(5).choices([b"kafka", b"topic", b"offset", b"broker", b"batch", b"record"], k=20_000)
    text = b" ".join(words)
    sizes = [len(compress(codec, text, level)) for level in (1, 9)]
    assert sizes[0] == sizes[1] if codec == SNAPPY else sizes[0] > sizes[1]
    assert decompress(codec, compress(codec, text, 9), MIB) == text


@per_packing_codec
def test_truncated_payloads_are_corrupt(codec: int) -> None:
    packed = compress(codec, b"truth" * 300)
    for size in range(len(packed)):
        try:
            out = decompress(codec, packed[:size], MIB)
        except CompressionError as error:
            assert error.code is ErrorCode.CORRUPT_MESSAGE
        else:  # xerial has no end: its header alone is an empty stream
            assert (codec, size, out) == (SNAPPY, 16, b"")


@per_packing_codec
def test_garbage_after_the_payload_is_corrupt(codec: int) -> None:
    packed = compress(codec, b"truth" * 300)
    for garbage in (b"\x01", b"\x00\x00", b"garbage to be refused"):
        with pytest.raises(CompressionError) as error:
            decompress(codec, packed + garbage, MIB)
        assert code_of(error) is ErrorCode.CORRUPT_MESSAGE


@settings(deadline=None)
@given(st.integers(1, 4), st.binary(max_size=200))
def test_any_bytes_come_out_bounded_or_as_a_compression_error(codec: int, data: bytes) -> None:
    try:
        assert len(decompress(codec, data, 1000)) <= 1000
    except CompressionError as error:
        assert error.code in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.MESSAGE_TOO_LARGE)


# what others write --------------------------------------------------------------------------------------------------


def test_gzip_of_the_standard_library_in_many_members() -> None:
    members = [b"one" * 10_000, b"", b"two", random.Random(2).randbytes(30_000)]
    assert decompress(GZIP, b"".join(map(gzip.compress, members)), MIB) == b"".join(members)
    assert gzip.decompress(compress(GZIP, b"three")) == b"three"


def test_snappy_raw_as_librdkafka_may_write_it() -> None:
    for data in (b"", b"x" * 100_000):
        assert decompress(SNAPPY, bytes(cramjam.snappy.compress_raw(data)), len(data)) == data


def test_snappy_xerial_against_kafka_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python's own framing, around cramjam's raw blocks."""

    class Snappy:
        compress = staticmethod(lambda data: bytes(cramjam.snappy.compress_raw(data)))
        decompress = staticmethod(lambda data: bytes(cramjam.snappy.decompress_raw(data)))

    monkeypatch.setattr(kafka_python, "snappy", Snappy)
    data = random.Random(3).randbytes(50_000) + bytes(50_000)
    assert kafka_python.snappy_decode(compress(SNAPPY, data)) == data
    assert decompress(SNAPPY, kafka_python.snappy_encode(data), len(data)) == data
    assert compress(SNAPPY, data) == kafka_python.snappy_encode(data)


def test_snappy_xerial_streams_one_after_another() -> None:
    assert decompress(SNAPPY, compress(SNAPPY, b"one") + compress(SNAPPY, b"two"), 6) == b"onetwo"


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_lz4_frames_of_every_kind_and_concatenated(linked: bool, checksum: bool) -> None:
    data = b"abcdefghij" * 30_000
    frame = cramjam.lz4.Compressor(level=4, content_checksum=checksum, block_linked=linked)
    frame.compress(data)
    one = bytes(frame.finish())
    assert decompress(LZ4, one, len(data)) == data
    assert decompress(LZ4, one + compress(LZ4, b"and") + one, 2 * len(data) + 3) == data + b"and" + data


def test_lz4_is_written_in_independent_blocks() -> None:
    """Kafka's Java reader throws at dependent ones (KafkaLZ4BlockInputStream)."""
    flags = compress(LZ4, b"x" * 300_000)[4]
    assert flags >> 6 == 1
    assert flags & 0x20


def test_lz4_content_size_is_not_needed_and_not_believed() -> None:
    with_size = cramjam.lz4.compress(bytes(1000), level=1)
    assert decompress(LZ4, bytes(with_size), 1000) == bytes(1000)


def test_zstd_without_content_size_and_concatenated() -> None:
    frame = cramjam.zstd.Compressor(level=1)
    frame.compress(b"streamed" * 1000)
    streamed = bytes(frame.finish())
    assert streamed[4] & 0xE0 == 0, "no content size, no single segment"
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    packed = streamed + skippable + compress(ZSTD, b"sized")
    assert decompress(ZSTD, packed, 8005) == b"streamed" * 1000 + b"sized"


# lies and bombs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"\xff\xff\xff\xff\x0f\x00",  # 4 GiB in six bytes
        b"\xff\xff\xff\xff\xff\xff\x0f",  # a length that never ends
        b"\xff\xff\x03",  # 64 KiB in three bytes
        b"\x05\x00x",  # promises five bytes, holds one
        b"\x80",
        b"",
    ],
)
def test_B3_snappy_lengths_are_checked_before_memory_is_taken(block: bytes) -> None:
    xerial = compress(SNAPPY, b"") + len(block).to_bytes(4, "big") + block
    for payload in (block, xerial):
        tracemalloc.start()
        with pytest.raises(CompressionError) as error:
            decompress(SNAPPY, payload, 1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 100_000
        tracemalloc.stop()
        assert code_of(error) is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("length", [-1, 2**31 - 1, 100])
def test_xerial_block_lengths_are_checked(length: int) -> None:
    with pytest.raises(CompressionError):
        decompress(SNAPPY, compress(SNAPPY, b"") + length.to_bytes(4, "big", signed=True) + b"\x01\x00x", MIB)


@per_packing_codec
def test_B3_a_bomb_costs_no_more_than_the_bound(codec: int) -> None:
    bomb = compress(codec, bytes(64 * MIB))
    tracemalloc.start()
    with pytest.raises(CompressionError) as error:
        decompress(codec, bomb, MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code_of(error) is ErrorCode.MESSAGE_TOO_LARGE
    assert peak < 1.25 * MIB + 4 * len(bomb)


def test_B3_zstd_windows_are_bounded() -> None:
    """One byte in a frame that asks for a window of 2^n; zstd's own limit is 128 MiB, which it touches as it fills."""
    frames = {n: b"\x28\xb5\x2f\xfd\x00" + bytes([n - 10 << 3]) + b"\x0b\x00\x00x" for n in (20, 27, 28, 41)}
    for n in (20, 27):
        assert decompress(ZSTD, frames[n], 1) == b"x"
    for n in (28, 41):
        with pytest.raises(CompressionError, match="memory|window"):
            decompress(ZSTD, frames[n], 1)


@per_packing_codec
def test_B3_what_fits_takes_its_own_size_and_little_more(codec: int) -> None:
    data = random.Random(4).randbytes(1000) * 2000
    packed = compress(codec, data)
    tracemalloc.start()
    assert len(decompress(codec, packed, 4 * MIB)) == len(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB + 4 * len(packed)


@pytest.mark.parametrize(
    ("codec", "unit"),
    [
        (GZIP, gzip.compress(b"")),
        (SNAPPY, b"\x00\x00\x00\x01\x00"),
        (LZ4, compress(LZ4, b"")),
        (ZSTD, compress(ZSTD, b"")),
    ],
    ids=NAMES[1:],
)
def test_many_empty_members_cost_linear_time_and_memory(codec: int, unit: bytes) -> None:
    """zlib copies all that follows a member: fed whole, this payload would cost a square of its size."""
    payload = (compress(SNAPPY, b"") if codec == SNAPPY else b"") + unit * (200_000 // len(unit))
    start = time.process_time()
    assert decompress(codec, payload, 10) == b""
    assert time.process_time() - start < 20
    tracemalloc.start()
    decompress(codec, payload, 10)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(payload)
    tracemalloc.stop()


def test_gzip_members_in_every_position_of_a_bite() -> None:
    """A member may end anywhere in the bites the payload is fed in."""
    for pad in range(8170, 8195):
        first = zlib.compressobj(0, zlib.DEFLATED, 31)
        head = first.compress(bytes(pad - 23)) + first.flush()
        assert decompress(GZIP, head + gzip.compress(b"tail"), MIB) == bytes(pad - 23) + b"tail"
