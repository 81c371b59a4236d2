"""The lock of a data directory: a file that one process has, and that says which.

    flock        Linux, macOS     the kernel's lock on the open file, gone with the process
    byte_lock    Windows          the same for one byte far behind the content, so that others can still read the pid
    pid file     neither          the file exists while it is held; one left by a dead process is taken over

With flock the directory itself is locked, too, where its file system can do that. So who removes the file, taking it
for a stale one, lets nobody else in; and what clears old files away (systemd-tmpfiles) passes the directory by.

    4711                                        the process that has it, or had it last
    3f0c.../pid:[4026531836]/4711/8421337       what no other process has (procfs.py); absent where nothing is known

The file itself stays when the lock is released (all but the pid file): removing it would race with the next taker.

Others may look who has it (`lock_holder`), which takes the lock for an instant: a taker that meets them tries again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from kbroker.env import DirectoryLocked
from kbroker.env.features import Features
from kbroker.env.procfs import process_identity, process_name

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 1 << 20
PIDS = 1 << 31
LOOKS_MAX = 20  # of others, that a taker may meet one after the other
LOOK_S = 0.002  # until the next try
BINARY, NONBLOCK = getattr(os, "O_BINARY", 0), getattr(os, "O_NONBLOCK", 0)


class RealLock:
    """A lock that is held until `release` or the end of the process."""

    def __init__(self, descriptors: Sequence[int], pid_file: str = "") -> None:
        """descriptors: to be closed in this order."""
        self._descriptors = descriptors
        self._pid_file = pid_file

    def release(self) -> None:
        """Give it up; idempotent."""
        descriptors, self._descriptors = self._descriptors, ()
        for fd in descriptors:
            os.close(fd)
        if descriptors and self._pid_file:
            os.remove(self._pid_file)


class LockHolder(NamedTuple):
    """Who has a lock, by what the file says: it is written just after the lock is taken."""

    pid: int | None  # None: not written yet
    identity: str  # procfs.process_identity; "" where nothing is known

    @property
    def is_proven(self) -> bool:
        """Whether the process of that pid, seen from here, is the one that wrote it: not one that got the pid later."""
        return self.pid is not None and self.identity != "" and process_identity(self.pid) == self.identity


NOT_KNOWN = LockHolder(None, "")


def lock_holder(path: str, features: Features) -> LockHolder | None:
    """Who holds the lock of the file at a full path; None: nobody. May raise OSError."""
    try:
        fd = promptly(path, (os.O_RDONLY if features.flock else os.O_RDWR) | BINARY)
    except FileNotFoundError:
        return NOT_KNOWN if _is_directory_held(path, features) else None
    try:
        if not _is_free(fd, path, features):
            return read_holder(path)
    finally:
        os.close(fd)
    return NOT_KNOWN if _is_directory_held(path, features) else None


def _is_free(fd: int, path: str, features: Features) -> bool:
    if not (features.flock or features.byte_lock):
        pid = read_holder(path).pid
        return pid is not None and not is_alive(pid)
    try:
        _flock(fd, shared=True) if features.flock else _lock_byte(fd)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_directory_held(path: str, features: Features) -> bool:
    """Whether somebody has the directory and the file not yet, or another one: it was removed, or replaced."""
    try:
        RealLock(_lock_directory(path, features, shared=True)).release()
    except BlockingIOError:
        return True
    return False


def take_lock(path: str, features: Features) -> RealLock:
    """Lock the file at a full path, creating it; DirectoryLocked when it is held."""
    if not (features.flock or features.byte_lock):
        return _take_pid_file(path)
    try:
        directory = _lock_directory(path, features)
    except BlockingIOError:
        raise DirectoryLocked(path, _holder(path)) from None
    try:
        return RealLock([*directory, _take_file(path, features)])
    except BaseException:
        RealLock(directory).release()
        raise


def _lock_directory(path: str, features: Features, *, shared: bool = False) -> list[int]:
    """Lock the directory that the file is in: a descriptor; none where that cannot be. BlockingIOError: it is held."""
    if not features.flock:
        return []
    try:
        fd = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY)
    except OSError:  # it may be written to, but not read
        return []
    try:
        _flock(fd, shared=True) if shared else _take(fd, features)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise
        return []
    return [fd]


def _take_file(path: str, features: Features) -> int:
    """Lock the file, and say in it who has it: a descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
    try:
        _take(fd, features)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, _own_text())
    except OSError as error:
        holder = _holder(path)
        os.close(fd)
        if isinstance(error, BlockingIOError | PermissionError):
            raise DirectoryLocked(path, holder) from None
        error.filename = path
        raise
    return fd


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
            return RealLock([fd], path)
    raise DirectoryLocked(path, _holder(path))


def _own_text() -> bytes:
    identity = process_identity(os.getpid())
    return f"{os.getpid()}\n{identity}\n".encode() if identity else b"%d\n" % os.getpid()


def _holder(path: str) -> str:
    pid = read_holder(path).pid
    return "another process" if pid is None else process_name(pid)


def promptly(path: str, flags: int) -> int:
    """An opener that does not wait for the other end of what is no file, but a pipe."""
    return os.open(path, flags | NONBLOCK)


def read_holder(path: str) -> LockHolder:
    """What the file says; to be believed by who holds the lock, or knows that somebody does."""
    try:
        with open(path, encoding="ascii", errors="replace", opener=promptly) as file:
            text, _, identity = file.read(300).partition("\n")
        pid = int(text)
    except (OSError, ValueError):  # just released, or not yet written
        return NOT_KNOWN
    return LockHolder(pid, identity.strip()) if 0 < pid < PIDS else NOT_KNOWN  # others are signalled as groups


def is_alive(pid: int) -> bool:
    """Whether there is a process of that pid. (Not for Windows, where asking would end it.)"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's process
        pass
    return True
