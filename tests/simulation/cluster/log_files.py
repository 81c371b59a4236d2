"""The batches in the files of a log, as they are at this moment: nothing is asked of the broker, nothing waits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from kafka_wire.records import HEADER_SIZE, BatchHeader, CorruptRecords, check_crc, headers, read_header
from kbroker.testing.volume import Directory, Inode, Volume
from tests.simulation.cluster.ghost import Identity

SUFFIX = ".log"


def segments(volume: Volume, directory: str) -> list[tuple[int, bytearray]]:
    """(base offset, bytes) of a log's segments, in order; none when there is no such log. What is committed to take the
    place of others has it.
    """
    node = volume.find(directory)
    if not isinstance(node, Directory):
        return []
    found: dict[int, bytearray] = {}
    for suffix in (SUFFIX, SUFFIX + ".swap"):
        for name, file in node.entries.items():
            if name.endswith(suffix) and isinstance(file, Inode):
                base = int(name[: -len(suffix)])
                if suffix != SUFFIX:
                    end = max((header.next_offset for _, header in _whole(bytes(file.data))), default=base)
                    found = {each: data for each, data in found.items() if not base <= each < end}
                found[base] = file.data
    return sorted(found.items())


def batches(volume: Volume, directory: str, start: int = 0, end: int = 1 << 62) -> Iterator[tuple[Identity, bytes]]:
    """(identity, bytes) of the batches that have offsets from start on and begin below end."""
    parts = segments(volume, directory)
    first = max(0, bisect_right([base for base, _ in parts], start) - 1)
    for _, data in parts[first:]:
        held = bytes(data)
        for at, header in _whole(held):
            if header.base_offset >= end:
                return
            if header.last_offset >= start:
                yield identity(header), held[at : at + header.size]


def identities(volume: Volume, directory: str, start: int = 0, end: int = 1 << 62) -> list[Identity]:
    """The same, without the bytes."""
    return [batch for batch, _ in batches(volume, directory, start, end)]


def sound_identities(volume: Volume, directory: str) -> list[Identity]:
    """Of a whole log that nobody has opened yet: as far as it is sound."""
    found = []
    for batch, data in batches(volume, directory):
        if not check_crc(data, 0, read_header(data)) or (found and found[-1].last + 1 != batch.base):
            break
        found.append(batch)
    return found


def identity(header: BatchHeader) -> Identity:
    """What is to be the same on every replica."""
    return Identity(header.base_offset, header.last_offset, header.crc, header.leader_epoch)


def content(volume: Volume, directory: str, start: int) -> bytes:
    """All bytes of a log from an offset on, which a batch begins with."""
    return b"".join(data for _, data in batches(volume, directory, start))


def _whole(data: bytes) -> Iterator[tuple[int, BatchHeader]]:
    try:
        if len(data) >= HEADER_SIZE:
            yield from headers(data)
    except CorruptRecords:
        return
