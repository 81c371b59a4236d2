"""The smallest pieces of the wire: varints, CRC-32C.

An unsigned varint carries seven bits a byte, lowest first, the high bit saying "more follows". Signed varints are
zigzag encoded first (0, -1, 1, -2 -> 0, 1, 2, 3). Lengths and tags use the unsigned form, fields of a record the
signed.

CRC-32C (Castagnoli) guards a record batch. The `crc32c` wheel runs at memory speed; where there is none, crcmod
answers sixty times slower, if it is there, and a warning says so.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TypeAlias

from kafka_wire.errors import ProtocolError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_ONE_BYTE = [bytes([n]) for n in range(128)]


def read_uvarint(buf: Buffer, pos: int) -> tuple[int, int]:
    """Return (value, next position); at most 5 bytes, 32 bits.

    Raises ProtocolError when the buffer ends inside the number or the number does not fit.
    """
    shift = 0
    try:
        byte = value = buf[pos]
        pos += 1
        while byte >= 0x80:
            shift += 7
            if shift > 28:
                raise ProtocolError("a varint is longer than 5 bytes")
            byte = buf[pos]
            pos += 1
            value += (byte - 1) << shift  # the 1 takes back the flag of the byte before
    except IndexError:
        raise ProtocolError("the message ends inside a varint") from None
    if value > 0xFFFFFFFF:
        raise ProtocolError(f"varint {value} does not fit in 32 bits")
    return value, pos


def uvarint(value: int) -> bytes:
    """The unsigned varint of a non-negative value."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(buf: Buffer, pos: int) -> tuple[int, int]:
    """Return (signed value, next position) of a zigzag varint of at most 10 bytes (varint and varlong alike).

    Raises ProtocolError when the buffer ends inside the number or the number is longer.
    """
    shift = 0
    try:
        byte = value = buf[pos]
        pos += 1
        while byte >= 0x80:
            shift += 7
            if shift > 63:
                raise ProtocolError("a varlong is longer than 10 bytes")
            byte = buf[pos]
            pos += 1
            value += (byte - 1) << shift  # the 1 takes back the flag of the byte before
    except IndexError:
        raise ProtocolError("the message ends inside a varint") from None
    if value >> 64:
        raise ProtocolError("a varlong does not fit in 64 bits")
    return (value >> 1) ^ -(value & 1), pos


def varint(value: int) -> bytes:
    """The zigzag varint of a signed value of up to 64 bits."""
    return uvarint((value << 1) ^ (value >> 63))


@functools.cache
def _find_crc32c() -> Callable[[Buffer], int]:
    try:
        return _of_wheel()
    except ImportError as missing:
        try:
            import crcmod.predefined
        except ImportError:
            raise missing from None  # that is the one to install
        warnings.warn("no crc32c wheel here: using crcmod, which is about 60 times slower", stacklevel=3)
        slow = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
        return lambda data: int(slow(bytes(data)))


def _of_wheel() -> Callable[[Buffer], int]:
    """The wheel's compiled function. ImportError where there is no wheel.

    Its package brings a command line, and whatever tells a package's version: 4 MB, and 25 ms to import. So the
    extension is loaded without the package, unless it is not where, or what, it used to be.
    """
    if "crc32c" not in sys.modules:
        try:
            return _of_extension("crc32c", "crc32c._crc32c")
        except (ImportError, AttributeError):
            sys.modules.pop("crc32c._crc32c", None)
    from crc32c import crc32c

    return crc32c


def _of_extension(package: str, name: str) -> Callable[[Buffer], int]:
    found = PathFinder.find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    spec = PathFinder.find_spec(name, places) if places else None
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {name}")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.crc32c  # type: ignore[no-any-return]


def _crc32c_at_first(data: Buffer) -> int:
    """Chosen, and imported, at the first call; later calls through this module go straight to the choice."""
    global crc32c
    crc32c = _find_crc32c()
    return crc32c(data)


# The CRC-32C of a buffer, unsigned. Call it as `primitives.crc32c(…)`: a name imported from here stays the slower one.
crc32c: Callable[[Buffer], int] = _crc32c_at_first
