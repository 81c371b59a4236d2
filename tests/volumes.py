"""A real file system small enough to be filled; the fixture `small_disk` mounts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SMALL_DISK_BYTES = 24 * 1024 * 1024


def fill_up(path: Path) -> None:
    """Take what room there is, to the last page, into one file."""
    with path.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
