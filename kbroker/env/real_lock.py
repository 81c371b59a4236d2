"""The lock of a data directory: a file that one process has, and that says which.

    flock        Linux, macOS     the kernel's lock on the open file, gone with the process
    byte_lock    Windows          the same for one byte far behind the content, so that others can still read the pid
    pid file     neither          the file exists while it is held; one left by a dead process is taken over

    4711                                        the process that has it, or had it last
    3f0c.../pid:[4026531836]/4711/8421337       what no other process has (procfs.py); absent where nothing is known

The file itself stays when the lock is released (all but the pid file): removing it would race with the next taker.

Others may look who has it (`lock_holder`), which takes the lock for an instant: a taker that meets them tries again.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from kbroker.env import DirectoryLocked
from kbroker.env.features import Features
from kbroker.env.procfs import process_identity, process_name

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 1 << 20
LOOKS_MAX = 20  # of others, that a taker may meet one after the other
LOOK_S = 0.002  # until the next try
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


class LockHolder(NamedTuple):
    """Who has a lock, by what the file says: it is written just after the lock is taken."""

    pid: int | None  # None: not written yet
    identity: str  # procfs.process_identity; "" where nothing is known

    @property
    def is_proven(self) -> bool:
        """Whether the process of that pid, seen from here, is the one that wrote it: not one that got the pid later."""
        return self.pid is not None and self.identity != "" and process_identity(self.pid) == self.identity


def lock_holder(path: str, features: Features) -> LockHolder | None:
    """Who holds the lock of the file at a full path; None: nobody, or there is no such file. May raise OSError."""
    try:
        fd = os.open(path, (os.O_RDONLY if features.flock else os.O_RDWR) | BINARY)
    except FileNotFoundError:
        return None
    try:
        if _is_free(fd, path, features):
            return None
        return read_holder(path)
    finally:
        os.close(fd)


def _is_free(fd: int, path: str, features: Features) -> bool:
    if not (features.flock or features.byte_lock):
        pid = read_holder(path).pid
        return pid is not None and not is_alive(pid)
    try:
        _flock(fd, shared=True) if features.flock else _lock_byte(fd)
    except (BlockingIOError, PermissionError):
        return False
    return True


def take_lock(path: str, features: Features) -> RealLock:
    """Lock the file at a full path, creating it; DirectoryLocked when it is held."""
    if not (features.flock or features.byte_lock):
        return _take_pid_file(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
    try:
        _take(fd, features)
    except OSError as error:
        holder = _holder(path)
        os.close(fd)
        if isinstance(error, BlockingIOError | PermissionError):
            raise DirectoryLocked(path, holder) from None
        raise
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, _own_text())
    return RealLock(fd)


def _take(fd: int, features: Features) -> None:
    """BlockingIOError or PermissionError when another has it; not when somebody only looks who has it."""
    for _ in range(LOOKS_MAX):
        try:
            return _flock(fd) if features.flock else _lock_byte(fd)
        except (BlockingIOError, PermissionError):
            if features.flock:
                _check_not_held(fd)
            time.sleep(LOOK_S)
    return _flock(fd) if features.flock else _lock_byte(fd)


def _check_not_held(fd: int) -> None:
    """BlockingIOError when another has it; who only looks shares it with everybody who does."""
    _flock(fd, shared=True)
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_UN)


def _flock(fd: int, *, shared: bool = False) -> None:
    if sys.platform != "win32":
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


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
            pid = read_holder(path).pid
            if pid is None or is_alive(pid):
                break
            os.remove(path)
        else:
            os.write(fd, _own_text())
            return RealLock(fd, path)
    raise DirectoryLocked(path, _holder(path))


def _own_text() -> bytes:
    identity = process_identity(os.getpid())
    return f"{os.getpid()}\n{identity}\n".encode() if identity else b"%d\n" % os.getpid()


def _holder(path: str) -> str:
    pid = read_holder(path).pid
    return "another process" if pid is None else process_name(pid)


def read_holder(path: str) -> LockHolder:
    """What the file says; to be believed by who holds the lock, or knows that somebody does."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            pid, _, identity = file.read(300).partition("\n")
        return LockHolder(int(pid), identity.strip())
    except (OSError, ValueError):  # just released, or not yet written
        return LockHolder(None, "")


def is_alive(pid: int) -> bool:
    """Whether there is a process of that pid. (Not for Windows, where asking would end it.)"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process
        pass
    return True
