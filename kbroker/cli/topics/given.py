"""What `topic produce` is given: records, one after the other, each with the place that an error is to name.

lines     what stands between delimiters of standard input; a format takes it apart
files     each a value as a whole, whatever is in it
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kbroker.cli.errors import Failed, reading
from kbroker.cli.tables import bytes_text, visible
from kbroker.cli.topics.formats import Parsed

READ_BYTES = 1 << 16
IDLE_S = 0.2
RECORD_BYTES_MAX = 100_000_000  # what fits into a request, as brokers are configured (socket.request.max.bytes)


class Given(NamedTuple):
    """A record, where it stood, and how many bytes of the input were read with it."""

    place: str
    record: Parsed
    bytes_read: int


def standard_input(idle: Callable[[], None]) -> Callable[[], bytes]:
    """Reads what is there, as terminals and pipes have it; b"" at the end. While nothing is there, `idle` is called.
    Reading raises Failed.
    """

    def read() -> bytes:
        while not select.select([descriptor], [], [], IDLE_S)[0]:
            idle()
        with reading("standard input"):
            return os.read(descriptor, READ_BYTES)

    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # no file, but something in this process
        return lambda: sys.stdin.buffer.read(READ_BYTES)
    return read


def from_lines(read: Callable[[], bytes], delimiter: bytes, parse: Callable[[bytes], Parsed]) -> Iterator[Given]:
    """The records of a stream, as they arrive. Raises Failed, which names the line; `parse` raises ValueError."""
    for number, line in enumerate(pieces(read, delimiter), 1):
        try:
            yield Given(f"line {number}", parse(line), len(line) + len(delimiter))
        except ValueError as error:
            raise Failed(f"line {number}: {visible(str(error))}") from None


def from_files(paths: Sequence[Path]) -> Iterator[Given]:
    """A record from each file. Raises Failed."""
    for path in paths:
        with reading(path), open(path, "rb") as file:
            content = file.read(RECORD_BYTES_MAX + 1)  # of a pipe or a device nothing else says how much it is
        if len(content) > RECORD_BYTES_MAX:
            raise Failed(f"{path} has more than {bytes_text(RECORD_BYTES_MAX)}, the most a record may have")
        yield Given(str(path), Parsed(None, content, ()), len(content))


def pieces(read: Callable[[], bytes], delimiter: bytes) -> Iterator[bytes]:
    """What stands between delimiters, or all there is; what follows the last one is a piece unless it is empty."""
    pending = bytearray()
    count = 0
    while chunk := read():
        searched = max(0, len(pending) - len(delimiter) + 1)
        pending += chunk
        if delimiter and pending.find(delimiter, searched) >= 0:
            *whole, rest = bytes(pending).split(delimiter)
            count += len(whole)
            yield from whole
            pending = bytearray(rest)
        if len(pending) > RECORD_BYTES_MAX:
            raise Failed(f"line {count + 1} has more than {bytes_text(RECORD_BYTES_MAX)}, the most a record may have")
    if pending:
        yield bytes(pending)
