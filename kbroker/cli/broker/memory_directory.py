"""The data directory of `start --memory`: a directory in memory that goes when the broker does.

Linux has a file system in memory at /dev/shm. Elsewhere, and where that is small (64 MiB in many containers), it is an
ordinary temporary directory, and the broker says so. A broker that was killed leaves its directory behind; the next
`--memory` broker of that user removes those that are old enough and that nobody holds the lock of. Anybody can put
anything there: what another user made is neither believed nor touched.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kbroker.cli.broker.layout import LOCK
from kbroker.env import DirectoryLocked

SHARED_MEMORY = Path("/dev/shm")
FREE_BYTES_MIN = 1 << 30
PREFIX = "kbroker-memory-"
STALE_AFTER_S = 60.0  # a younger one may be of a broker that has yet to take its lock


@contextmanager
def memory_directory(shared: Path = SHARED_MEMORY) -> Iterator[tuple[str, str]]:
    """A directory, as a path and in words; removed at the end."""
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= FREE_BYTES_MIN
    if roomy:
        remove_stale(shared, time.time())
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=shared if roomy else None) as directory:
        yield directory, "in memory: lost on exit" if roomy else f"{directory}: lost on exit"


def directories(shared: Path = SHARED_MEMORY) -> list[Path]:
    """Those of all brokers in memory of this user."""
    found = {each for place in (shared, Path(tempfile.gettempdir())) for each in place.glob(PREFIX + "*")}
    return sorted(each for each in found if _is_ours(each))


def remove_stale(shared: Path, now_s: float) -> None:
    """Remove what killed brokers left: directories of ours, not young, whose lock is free."""
    for directory in shared.glob(PREFIX + "*"):
        try:
            is_old = now_s - directory.lstat().st_mtime >= STALE_AFTER_S
            if is_old and _is_ours(directory) and _is_free(directory):
                shutil.rmtree(directory)
        except OSError:
            continue  # somebody else's, or gone already


def _is_ours(directory: Path) -> bool:
    """Whether this user made it, as a directory: not a link, and with nothing in it that leads elsewhere."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def _is_free(directory: Path) -> bool:
    from kbroker.env.features import Features
    from kbroker.env.real_lock import take_lock

    try:
        take_lock(str(directory / LOCK), Features.detect()).release()
    except DirectoryLocked:
        return False
    return True
