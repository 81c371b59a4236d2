"""The lock of a data directory: a file that one process has, and that says which.

    flock        Linux, macOS     the kernel's lock on the open file, gone with the process
    byte_lock    Windows          the same for one byte far behind the content, so that others can still read the pid
    pid file     neither          the file exists while it is held; one left by a dead process is taken over

The file itself stays when the lock is released (all but the pid file): removing it would race with the next taker.
"""

from __future__ import annotations

import os
import sys

from kbroker.env import DirectoryLocked
from kbroker.env.features import Features
from kbroker.env.procfs import process_name

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 1 << 20
BINARY = getattr(os, "O_BINARY", 0)


class RealLock:
    """A lock that is held until `release` or the end of the process."""

    def __init__(self, fd: int, pid_file: str = "") -> None:
        self._fd = fd
        self._pid_file = pid_file

    def release(self) -> None:
        """Give it up; idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        os.close(fd)
        if self._pid_file:
            os.remove(self._pid_file)


def take_lock(path: str, features: Features) -> RealLock:
    """Lock the file at a full path, creating it; DirectoryLocked when it is held."""
    if not (features.flock or features.byte_lock):
        return _take_pid_file(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
    try:
        if features.flock:
            _flock(fd)
        else:
            _lock_byte(fd)
    except OSError as error:
        holder = _holder(path)
        os.close(fd)
        if isinstance(error, BlockingIOError | PermissionError):
            raise DirectoryLocked(path, holder) from None
        raise
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"%d\n" % os.getpid())
    return RealLock(fd)


def _flock(fd: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_byte(fd: int) -> None:
    if sys.platform == "win32":
        os.lseek(fd, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)


def _take_pid_file(path: str) -> RealLock:
    """Not proof against two processes that take over from a dead one in the same instant; the others are."""
    for _ in range(2):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        except FileExistsError:
            pid = _read_pid(path)
            if pid is None or _is_alive(pid):
                break
            os.remove(path)
        else:
            os.write(fd, b"%d\n" % os.getpid())
            return RealLock(fd, path)
    raise DirectoryLocked(path, _holder(path))


def _holder(path: str) -> str:
    pid = _read_pid(path)
    return "another process" if pid is None else process_name(pid)


def _read_pid(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):  # just released, or not yet written
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process
        pass
    return True
