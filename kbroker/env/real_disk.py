"""The data directory on the operating system's file system.

A file's descriptor opens at its first use, not at `RealDisk.open`: a broker with thousands of partitions touches few
of them after a restart. Files are opened for appending, so a write always lands at the end.

Threads: appends, truncation and closing belong to the event loop; `pread` and `sync` may also run in a worker. A
descriptor is never closed under a worker that uses it (its number could by then be another file's): `close` leaves it
to the last user.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import threading
from collections.abc import Sequence

from kbroker.env import Buffer
from kbroker.env.features import Features
from kbroker.env.real_lock import RealLock, take_lock

if sys.platform == "darwin":
    import fcntl

NO_DESCRIPTOR = -1
BUFFERS_MAX = 512  # in one writev; systems allow 1024 or more
BINARY = getattr(os, "O_BINARY", 0)


class RealFile:
    """One file, opened for reading and appending."""

    __slots__ = ("path", "_full_path", "_features", "_fd", "_size", "_closed", "_users", "_left_to_users", "_lock")

    def __init__(self, path: str, full_path: str, features: Features, fd: int, size: int) -> None:
        self.path = path
        self._full_path = full_path
        self._features = features
        self._fd = fd  # NO_DESCRIPTOR before the first use and once closed
        self._size = size
        self._closed = False
        self._users = 0  # preads and syncs under way, here and in workers
        self._left_to_users = NO_DESCRIPTOR  # closed while there were users: the last one releases it
        self._lock = threading.Lock()  # over all of these but the size

    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end; after OSError `size` tells how much of them is there."""
        fd = self._fd
        if fd < 0:
            fd = self._descriptor()
        if len(buffers) == 1:
            total = len(buffers[0])
            written = os.write(fd, buffers[0])
        elif self._features.writev and 0 < len(buffers) <= BUFFERS_MAX:
            total = sum(map(len, buffers))
            written = os.writev(fd, buffers)
        else:
            joined = b"".join(buffers)
            total = len(joined)
            written = os.write(fd, joined)
        self._size += written
        if written != total:
            self._append_rest(fd, memoryview(b"".join(buffers))[written:])
        return total

    def _append_rest(self, fd: int, rest: memoryview) -> None:
        """After a short write: go on; a full disk answers the next attempt with ENOSPC."""
        while rest:
            written = os.write(fd, rest)
            self._size += written
            rest = rest[written:]

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        fd = self._enter()
        try:
            data = self._read_at(fd, length, position)
            while 0 < len(data) < length:
                more = self._read_at(fd, length - len(data), position + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            self._leave()

    def _read_at(self, fd: int, length: int, position: int) -> bytes:
        return os.pread(fd, length, position)

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        os.ftruncate(self._descriptor(), size)
        self._size = size

    def sync(self) -> None:
        """Make what was appended durable. Blocks."""
        fd = self._enter()
        try:
            sync_descriptor(fd, self._features)
        finally:
            self._leave()

    def close(self) -> None:
        """Release the descriptor, or leave that to the last worker that uses it."""
        with self._lock:
            fd, self._fd = self._fd, NO_DESCRIPTOR
            self._closed = True
            if self._users:
                self._left_to_users = fd
            elif fd >= 0:
                os.close(fd)

    def fileno(self) -> int | None:
        """The descriptor, good until the next await; OSError when closed."""
        return self._fd if self._fd >= 0 else self._descriptor()

    def _descriptor(self) -> int:
        with self._lock:
            return self._fd if self._fd >= 0 else self._open()

    def _open(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, "file is closed", self.path)
        self._fd = os.open(self._full_path, os.O_RDWR | os.O_APPEND | BINARY)
        return self._fd

    def _enter(self) -> int:
        with self._lock:
            fd = self._fd if self._fd >= 0 else self._open()
            self._users += 1
            return fd

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._left_to_users >= 0 and not self._users:
                fd, self._left_to_users = self._left_to_users, NO_DESCRIPTOR
                os.close(fd)


class SeekingFile(RealFile):
    """Where there is no pread: the file position is shared, so whoever moves it holds a lock."""

    __slots__ = ("_position_lock",)

    def __init__(self, path: str, full_path: str, features: Features, fd: int, size: int) -> None:
        super().__init__(path, full_path, features, fd, size)
        self._position_lock = threading.Lock()

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end."""
        with self._position_lock:
            return super().append(buffers)

    def _read_at(self, fd: int, length: int, position: int) -> bytes:
        with self._position_lock:
            os.lseek(fd, position, os.SEEK_SET)
            return os.read(fd, length)


class RealDisk:
    """A directory of the operating system, as a tree of its own. The directory is created if absent."""

    def __init__(self, root: str, features: Features) -> None:
        os.makedirs(root, exist_ok=True)
        self.root = os.path.abspath(root)
        self.boot_id = read_boot_id()
        self._features = features
        self._file_class = RealFile if features.pread else SeekingFile

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open for reading and appending; the descriptor opens when first used, except for a file that is made."""
        full_path = self._full(path)
        fd = NO_DESCRIPTOR
        if create:
            fd = os.open(full_path, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o644)
        status = os.stat(full_path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self._file_class(path, full_path, self._features, fd, status.st_size)

    def read(self, path: str) -> bytes:
        """The whole of a small file."""
        with open(self._full(path), "rb") as file:
            return file.read()

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace a small file whole."""
        full_path = self._full(path)
        temporary = full_path + ".tmp"
        with open(temporary, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            if sync:
                sync_descriptor(file.fileno(), self._features)
        os.replace(temporary, full_path)
        if sync:
            self._sync_full_dir(os.path.dirname(full_path))

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return os.path.exists(self._full(path))

    def size(self, path: str) -> int:
        """Bytes in a file that need not be open."""
        return os.stat(self._full(path)).st_size

    def modified_ms(self, path: str) -> int:
        """When the file was last written, milliseconds since the epoch."""
        return os.stat(self._full(path)).st_mtime_ns // 1_000_000

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(os.listdir(self._full(path)))

    def make_dirs(self, path: str) -> None:
        """Create a directory and its parents; present ones are fine."""
        os.makedirs(self._full(path), exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        """Rename a file or directory, replacing a file. Windows refuses while it is open."""
        os.replace(self._full(old), self._full(new))

    def remove(self, path: str) -> None:
        """Delete a file. Windows refuses while it is open."""
        os.remove(self._full(path))

    def remove_tree(self, path: str) -> None:
        """Delete a directory with all it holds; an absent one is fine."""
        try:
            shutil.rmtree(self._full(path))
        except FileNotFoundError:
            pass

    def sync_dir(self, path: str) -> None:
        """Make creations, renames and deletions in a directory durable. Blocks."""
        self._sync_full_dir(self._full(path))

    def lock(self, path: str) -> RealLock:
        """Take the lock file; DirectoryLocked when another process has it."""
        return take_lock(self._full(path), self._features)

    def free_bytes(self) -> int:
        """What the volume has left for us."""
        return shutil.disk_usage(self.root).free

    def total_bytes(self) -> int:
        """The volume's size."""
        return shutil.disk_usage(self.root).total

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _sync_full_dir(self, full_path: str) -> None:
        if not self._features.dir_sync:
            return
        fd = os.open(full_path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_descriptor(fd: int, features: Features) -> None:
    """Flush a file's data to the device by the strongest call there is. Blocks."""
    if sys.platform == "darwin" and features.full_sync:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif features.fdatasync:
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def read_boot_id() -> str:
    """What identifies this run of the operating system (Linux); "" when unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
