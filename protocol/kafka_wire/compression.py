"""The five codecs of a record batch, with a hard bound on what comes out.

    id  name    bytes of the payload
    0   none    the records themselves
    1   gzip    RFC 1952 members, one after another
    2   snappy  xerial framing, as Kafka's Java clients write it, or one raw snappy block (librdkafka's option, sarama)
    3   lz4     LZ4 frames, one after another; blocks written independent, for Java reads no others
    4   zstd    RFC 8878 frames, one after another, content size often absent

    xerial:  82 'SNAPPY' 00 | version int32 | compatible int32 | (length int32 | raw snappy block)*

What a payload claims about its size is never trusted with memory. lz4 and zstd decode into a buffer that starts near
the size of the input and grows by steps up to the bound; a snappy block's preamble is checked against the bound and
against what snappy can express before its buffer is made; gzip is inflated in small bites. One byte over the bound
refuses the payload (invariant B3). Memory: the output, at most one input, and the codec's own window.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

BEGINNING = 4  # bytes that tell gzip, lz4 and zstd

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\x00\x00\x00\x01\x00\x00\x00\x01"
_XERIAL_MAGIC_LENGTH = int.from_bytes(_XERIAL_MAGIC[:4], "big")  # what a magic looks like where a length belongs
_XERIAL_BLOCK = 32 * 1024  # snappy-java's default, which Kafka keeps
_SNAPPY_RATIO_MAX = 22  # a copy of 64 bytes takes three: no snappy block grows further than 64 / 3
_GUESS_RATIO, _GUESS_MIN, _GUESS_GROWTH = 6, 16 * 1024, 4
_GZIP_BITE = 8 * 1024  # small, as zlib copies what follows a member: many tiny members must not cost a square
_GZIP_STEP = 64 * 1024  # of output, for a bite may hold a thousand times its size
_GZIP_WRAPPER = 31  # zlib's window bits for gzip's header and trailer
_OUTPUT_FULL = "failed to write whole buffer"  # how cramjam says that a frame holds more than the buffer it was given


class CompressionError(KafkaError):
    """A compressed payload that is not what it claims: CORRUPT_MESSAGE, or MESSAGE_TOO_LARGE past the bound."""


def may_be(codec: int, beginning: Buffer) -> bool:
    """Whether a payload that begins so may be the codec's; `beginning` is its first BEGINNING bytes, or all of it.

    gzip, lz4 and zstd have a magic number. A raw snappy block begins with its size, which may be nearly anything.
    """
    if codec == GZIP:
        return beginning[:2] == b"\x1f\x8b"
    if codec == LZ4:
        return beginning[:4] == b"\x04\x22\x4d\x18"
    if codec == ZSTD:
        return beginning[:4] == b"\x28\xb5\x2f\xfd" or beginning[1:4] == b"\x2a\x4d\x18"  # or a skippable frame
    return len(beginning) > 0


def compress(codec: int, data: Buffer, level: int | None = None) -> bytes:
    """Compress `data` with codec 0 to 4, as Kafka's own clients can read it.

    `level` is the codec's own; by default gzip 6, lz4 1 (the fast one), zstd 3; snappy has none.
    Raises KafkaError UNSUPPORTED_COMPRESSION_TYPE for other codecs.
    """
    if codec == NONE:
        return bytes(data)
    return _entry(_COMPRESSORS, codec)(data, level)


def decompress(codec: int, data: Buffer, max_bytes: int) -> bytes:
    """The bytes that `data` was made from, at most `max_bytes` of them.

    Raises CompressionError: MESSAGE_TOO_LARGE when more would come out, CORRUPT_MESSAGE when the payload is broken,
    cut short or followed by something else. Raises KafkaError UNSUPPORTED_COMPRESSION_TYPE for codecs above 4.
    """
    if codec == NONE:
        if len(data) > max_bytes:
            raise _too_large(codec, max_bytes)
        return bytes(data)
    return _entry(_DECOMPRESSORS, codec)(data, max(max_bytes, 0))


def _entry(table: dict[int, Callable[..., bytes]], codec: int) -> Callable[..., bytes]:
    try:
        return table[codec]
    except KeyError:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"compression type {codec} does not exist") from None


def _too_large(codec: int, max_bytes: int) -> CompressionError:
    return CompressionError(
        ErrorCode.MESSAGE_TOO_LARGE, f"the {NAMES[codec]} payload holds more than {max_bytes} bytes"
    )


def _corrupt(codec: int, reason: object) -> CompressionError:
    return CompressionError(ErrorCode.CORRUPT_MESSAGE, f"the {NAMES[codec]} payload is corrupt: {reason}")


def _room(size: int) -> io.BytesIO:
    """A BytesIO of `size` bytes to decode into through getbuffer(); its getvalue() hands them over without a copy."""
    out = io.BytesIO()
    if size:
        out.seek(size - 1)
        out.write(b"\x00")
    return out


# gzip ---------------------------------------------------------------------------------------------------------------


def _gzip(data: Buffer, level: int | None) -> bytes:
    deflate = zlib.compressobj(6 if level is None else level, zlib.DEFLATED, _GZIP_WRAPPER)
    return deflate.compress(data) + deflate.flush()


def _gunzip(data: Buffer, max_bytes: int) -> bytes:
    out, view = io.BytesIO(), memoryview(data)
    inflate = zlib.decompressobj(_GZIP_WRAPPER)
    try:
        for start in range(0, len(view), _GZIP_BITE):
            inflate = _inflate_bite(inflate, view[start : start + _GZIP_BITE], out, max_bytes)
    except zlib.error as error:
        raise _corrupt(GZIP, error) from None
    if not inflate.eof:
        raise _corrupt(GZIP, "it ends early")
    return out.getvalue()


def _inflate_bite(inflate: zlib._Decompress, bite: Buffer, out: io.BytesIO, max_bytes: int) -> zlib._Decompress:
    """Inflate all of `bite`, going on to new members as others end; the member it ends in."""
    while bite:
        if inflate.eof:
            inflate = zlib.decompressobj(_GZIP_WRAPPER)
        out.write(inflate.decompress(bite, min(_GZIP_STEP, max_bytes - out.tell() + 1)))
        if out.tell() > max_bytes:
            raise _too_large(GZIP, max_bytes)
        bite = inflate.unused_data or inflate.unconsumed_tail  # not empty while output waits: the trailer follows
    return inflate


# snappy -------------------------------------------------------------------------------------------------------------


def _snappy(data: Buffer, level: int | None) -> bytes:
    import cramjam

    view = memoryview(data)
    parts = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _unsnappy(data: Buffer, max_bytes: int) -> bytes:
    if bytes(data[:8]) == _XERIAL_MAGIC:
        return _read_xerial(memoryview(data), max_bytes)
    size = _snappy_size(data, max_bytes)
    out = _room(size)
    with out.getbuffer() as room:
        _snappy_block(data, room)
    return out.getvalue()


def _read_xerial(data: memoryview, max_bytes: int) -> bytes:
    """Measure every block, make one buffer, decode the blocks into it."""
    total = 0
    for start, end in _xerial_blocks(data):
        total += _snappy_size(data[start:end], max_bytes - total)
    out = _room(total)
    with out.getbuffer() as room:
        done = 0
        for start, end in _xerial_blocks(data):
            size = _snappy_size(data[start:end], max_bytes)
            _snappy_block(data[start:end], room[done : done + size])
            done += size
    return out.getvalue()


def _xerial_blocks(data: memoryview) -> Iterator[tuple[int, int]]:
    """Where each block begins and ends. A second stream, header and all, may follow the first."""
    pos, size = len(_XERIAL_HEADER), len(data)
    while pos < size:
        start = pos + 4
        length = int.from_bytes(data[pos:start], "big")
        if length == _XERIAL_MAGIC_LENGTH and data[pos : pos + 8] == _XERIAL_MAGIC:
            pos += len(_XERIAL_HEADER)
            continue
        pos = start + length
        if start > size or pos > size:
            raise _corrupt(SNAPPY, "a block reaches past the end")
        yield start, pos
    if pos > size:
        raise _corrupt(SNAPPY, "it ends inside a xerial header")


def _snappy_size(block: Buffer, max_bytes: int) -> int:
    """The size a snappy block says it has, if it can be true and stays within the bound."""
    size = shift = 0
    for byte in block[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    else:
        raise _corrupt(SNAPPY, "a block without a length")
    if size > len(block) * _SNAPPY_RATIO_MAX:
        raise _corrupt(SNAPPY, f"a block of {len(block)} bytes claims to hold {size}")
    if size > max_bytes:
        raise _too_large(SNAPPY, max_bytes)
    return size


def _snappy_block(block: Buffer, room: memoryview) -> None:
    import cramjam

    try:
        size = cramjam.snappy.decompress_raw_into(block, room)
    except cramjam.DecompressionError as error:
        raise _corrupt(SNAPPY, error) from None
    assert size == len(room)


# lz4 and zstd -------------------------------------------------------------------------------------------------------


def _lz4(data: Buffer, level: int | None) -> bytes:
    import cramjam

    frame = cramjam.lz4.Compressor(level=1 if level is None else level, content_checksum=False, block_linked=False)
    frame.compress(bytes(data))  # cramjam's one call that takes nothing else
    return bytes(frame.finish())


def _unlz4(data: Buffer, max_bytes: int) -> bytes:
    import cramjam

    return _decode_frames(LZ4, cramjam.lz4.decompress_into, data, max_bytes)


def _zstd(data: Buffer, level: int | None) -> bytes:
    import cramjam

    return bytes(cramjam.zstd.compress(data, 3 if level is None else level))


def _unzstd(data: Buffer, max_bytes: int) -> bytes:
    import cramjam

    return _decode_frames(ZSTD, cramjam.zstd.decompress_into, data, max_bytes)


def _decode_frames(codec: int, decode: Callable[[Buffer, memoryview], int], data: Buffer, max_bytes: int) -> bytes:
    """Decode into a guessed size, and again into a larger one when that was too small: at most a third is wasted."""
    import cramjam

    guess = min(max(len(data) * _GUESS_RATIO, _GUESS_MIN), max_bytes)
    while True:
        out = _room(guess)
        try:
            with out.getbuffer() as room:
                size = decode(data, room)
            break
        except cramjam.DecompressionError as error:
            if _OUTPUT_FULL not in str(error):
                raise _corrupt(codec, error) from None
        if guess == max_bytes:
            raise _too_large(codec, max_bytes)
        del out, room  # the small one goes before the large one comes
        guess = min(guess * _GUESS_GROWTH, max_bytes)
    out.truncate(size)
    return out.getvalue()


_COMPRESSORS: dict[int, Callable[..., bytes]] = {GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}
_DECOMPRESSORS: dict[int, Callable[..., bytes]] = {GZIP: _gunzip, SNAPPY: _unsnappy, LZ4: _unlz4, ZSTD: _unzstd}
