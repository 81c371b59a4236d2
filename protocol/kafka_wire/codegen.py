"""Messages to bytes and back: a codec per class and version, written as straight-line Python on first use.

    decode(FetchRequest, 12, frame, pos)      encode(response, 12)      encode_parts(response, 12)

What the written code does, and why it may:

- Neighbouring fields of fixed size, and the first byte of the length that follows them, are unpacked (packed) by one
  call. A compact length of one byte, nearly every one, costs a comparison.
- Structs are unrolled into their parent; objects are made without running a constructor.
- A frame bounds everything. A string or bytes field slices the frame, so it never holds more than arrived; an array's
  count is checked against the bytes left before anything is allocated. The position only ever grows: whoever reads past
  the end next is stopped by IndexError or struct.error, and the last line checks the position once for all slices.
- Every way of being malformed ends as ProtocolError. Bytes after the message are ignored, as Kafka ignores them.

Bytes and records decode to memoryviews of the buffer. Tagged fields (KIP-482) are read out of line, since nearly all
messages have none; unknown tags are skipped; fields that have their default are not written.

A message may have a hundred thousand entries, which takes as many microseconds. `decode_in_slices` and
`encode_in_slices` do the same work as generators that pause every few dozen array elements, so that whoever drives them
can see to others in between. The plain codecs know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from kafka_wire.decoding import compile_decoder
from kafka_wire.encoding import compile_encoder, has_records
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer
from kafka_wire.schema import Layout

T = TypeVar("T")


def decode(cls: type[T], version: int, buf: Buffer, pos: int = 0) -> T:
    """The message of a class and version that begins at pos. Raises ProtocolError for anything malformed."""
    found: Callable[..., T] = decoder(cls, version)
    return found(buf, pos)


def encode(message: object, version: int) -> bytes:
    """The bytes of a message. Fields that the version lacks are left out."""
    return encoder(type(message), version)(message)


def encode_parts(message: object, version: int) -> list[Any]:
    """Like encode, but in parts, so that records need not be copied or even read.

    The value of a `records` field may be a buffer; any other object with a length (a slice of a file); or a list or
    tuple of those. What is not a buffer is put into the parts as it is, and so is a large buffer; all else is joined.
    """
    return part_encoder(type(message), version)(message)


def decode_in_slices(cls: type[T], version: int, buf: Buffer, pos: int = 0) -> Generator[None, None, T]:
    """Like decode: a generator that returns the message, and yields whenever it has done some 50 us of work."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    if version not in made.sliced_decoders:
        decoder(cls, version)  # raises for a version it does not have
        made.sliced_decoders[version] = compile_decoder(cls, version, in_slices=True)
    return made.sliced_decoders[version](buf, pos)


def encode_in_slices(message: object, version: int) -> Generator[None, None, list[Any]]:
    """Like encode_parts: a generator that returns the parts, and yields whenever it has done some 50 us of work."""
    cls = type(message)
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    if version not in made.sliced_encoders:
        _check_version(made, version)
        made.sliced_encoders[version] = compile_encoder(cls, version, True, in_slices=True)
    return made.sliced_encoders[version](message)


def decoder(cls: type[T], version: int) -> Callable[..., T]:
    """The compiled `decode(buf, pos=0)` of a class and version. Raises ProtocolError for a version it does not have."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.decoders[version]
    except KeyError:
        if not made.versions[0] <= version <= made.versions[1]:
            raise ProtocolError(f"{cls.__name__} has no version {version}") from None
        return made.decoders.setdefault(version, compile_decoder(cls, version))


def encoder(cls: type, version: int) -> Callable[[Any], bytes]:
    """The compiled `encode(message)` of a class and version. Raises ValueError for a version it does not have."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.encoders[version]
    except KeyError:
        _check_version(made, version)
        return made.encoders.setdefault(version, compile_encoder(cls, version, parts=False))


def part_encoder(cls: type, version: int) -> Callable[[Any], list[Any]]:
    """The compiled `encode_parts(message)` of a class and version."""
    made: Layout = cls.__wire__  # type: ignore[attr-defined]
    try:
        return made.part_encoders[version]
    except KeyError:
        _check_version(made, version)
        if has_records(cls, version):
            made.part_encoders[version] = compile_encoder(cls, version, parts=True)
        else:
            whole = encoder(cls, version)
            made.part_encoders[version] = lambda message: [whole(message)]
        return made.part_encoders[version]


def _check_version(made: Layout, version: int) -> None:
    if not made.versions[0] <= version <= made.versions[1]:
        raise ValueError(f"{made.cls.__name__} has no version {version}")
