"""The data directory on the operating system's file system.

Files are opened for appending, so a write always lands at the end.

Threads: appends, truncation and closing belong to the event loop; `pread` and `sync` may also run in a worker. A
descriptor is held by reference: by the file until it is closed, by slices of it on their way to a client, by workers.
It closes with the last of them; in CPython at that moment. Nothing has to count, lock, or wait for users.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial

from kbroker.env import Buffer, FileWatch
from kbroker.env.descriptors import Descriptors
from kbroker.env.features import Features
from kbroker.env.machine import filesystem_of, read_boot_id
from kbroker.env.real_lock import RealLock, take_lock
from kbroker.env.real_watch import watch_file

if sys.platform == "darwin":
    import fcntl

CLOSED = -1
BUFFERS_MAX = 512  # in one writev; systems allow 1024 or more
BINARY = getattr(os, "O_BINARY", 0)
RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
CANNOT_READ_NOW = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # by file system (tmpfs is one) or by kernel


class Descriptor:
    """An open file of the operating system; closed when the last who holds this object lets go of it.

    Slices of a file and workers hold it, so nobody closes it under them: its number could by then be another file's.
    """

    __slots__ = ("path", "number", "_features", "_reads_now")

    def __init__(self, path: str, number: int, features: Features) -> None:
        self.path = path
        self.number = number  # CLOSED: stands in for one that is closed; every system call refuses it
        self._features = features
        self._reads_now = features.read_now  # False, too, once the file system has refused

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.number != CLOSED:
            close(self.number)

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        data = os.pread(self.number, length, position)
        return data if len(data) == length else self._read_on(data, length, position)

    def pread_now(self, length: int, position: int) -> Buffer | None:
        """The same, unless the disk would have to be waited for: then None."""
        if not self._reads_now:
            return self.pread(length, position)
        data = bytearray(length)
        try:
            read = os.preadv(self.number, (data,), position, RWF_NOWAIT)
            while read < length:
                more = os.preadv(self.number, (memoryview(data)[read:],), position + read, RWF_NOWAIT)
                if not more:
                    return data[:read]
                read += more
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in CANNOT_READ_NOW:
                raise
            self._reads_now = False
            return self.pread(length, position)
        return data

    def _read_on(self, data: bytes, length: int, position: int) -> bytes:
        """After a short read: go on to what was asked for or the end of the file."""
        while data and len(data) < length:
            more = self._read_once(length - len(data), position + len(data))
            if not more:
                break
            data += more
        return data

    def _read_once(self, length: int, position: int) -> bytes:
        return os.pread(self.number, length, position)

    def sync(self) -> None:
        """Make what was appended durable. Blocks."""
        sync_descriptor(self.fileno(), self._features)

    def fileno(self) -> int:
        """The number, good while this is held; OSError when closed."""
        if self.number == CLOSED:
            raise OSError(errno.EBADF, "file is closed", self.path)
        return self.number

    def write(self, buffer: Buffer) -> int:
        """Write at the end; how much of the buffer was written."""
        return os.write(self.number, buffer)

    def writev(self, buffers: Sequence[Buffer]) -> int:
        """Write buffers at the end; how many bytes were written."""
        return os.writev(self.number, buffers)


class SeekingDescriptor(Descriptor):
    """Where there is no pread: the file position is shared, so whoever moves it holds a lock."""

    __slots__ = ("_position_lock",)

    def __init__(self, path: str, number: int, features: Features) -> None:
        super().__init__(path, number, features)
        self._position_lock = threading.Lock()

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        return self._read_on(self._read_once(length, position), length, position)

    def _read_once(self, length: int, position: int) -> bytes:
        with self._position_lock:
            os.lseek(self.number, position, os.SEEK_SET)
            return os.read(self.number, length)

    def write(self, buffer: Buffer) -> int:
        """Write at the end; how much of the buffer was written."""
        with self._position_lock:
            return super().write(buffer)

    def writev(self, buffers: Sequence[Buffer]) -> int:
        """Write buffers at the end; how many bytes were written."""
        with self._position_lock:
            return super().writev(buffers)


class RealFile:
    """One file, opened for reading and appending."""

    __slots__ = ("path", "handle", "_features", "_size")

    def __init__(self, handle: Descriptor, size: int, features: Features) -> None:
        self.path = handle.path
        self.handle = handle
        self._features = features
        self._size = size

    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end; after OSError `size` tells how much of them is there."""
        if len(buffers) == 1:
            total = len(buffers[0])
            written = self.handle.write(buffers[0])
        elif self._features.writev and 0 < len(buffers) <= BUFFERS_MAX:
            total = sum(map(len, buffers))
            written = self.handle.writev(buffers)
        else:
            joined = b"".join(buffers)
            total = len(joined)
            written = self.handle.write(joined)
        self._size += written
        if written != total:
            self._append_rest(memoryview(b"".join(buffers))[written:])
        return total

    def _append_rest(self, rest: memoryview) -> None:
        """After a short write: go on; a full disk answers the next attempt with ENOSPC."""
        while rest:
            written = self.handle.write(rest)
            self._size += written
            rest = rest[written:]

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        return self.handle.pread(length, position)

    def pread_now(self, length: int, position: int) -> Buffer | None:
        """The same, unless the disk would have to be waited for: then None."""
        return self.handle.pread_now(length, position)

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        os.ftruncate(self.handle.number, size)
        self._size = size

    def sync(self) -> None:
        """Make what was appended durable. Blocks."""
        self.handle.sync()

    def close(self) -> None:
        """Let go of the descriptor: it closes now, or with the last slice or worker that holds it."""
        self.handle = Descriptor(self.path, CLOSED, self._features)

    def fileno(self) -> int:
        """The descriptor, good until the next await; OSError when closed."""
        return self.handle.fileno()


class RealDisk:
    """A directory of the operating system, as a tree of its own. The directory is created if absent."""

    def __init__(self, root: str, features: Features, descriptors: Descriptors | None = None) -> None:
        """descriptors: where to get one when there is none left."""
        os.makedirs(root, exist_ok=True)
        self.root = os.path.abspath(root)
        self.boot_id = read_boot_id()
        self._descriptors = descriptors or Descriptors()
        self._features = features
        self._descriptor_class = Descriptor if features.pread else SeekingDescriptor

    def elsewhere(self, directory: str, *, create: bool) -> RealDisk:
        """Another directory as a tree of its own."""
        if not create:
            os.listdir(directory)
        return RealDisk(directory, self._features, self._descriptors)

    def filesystem(self) -> str:
        """The type of the file system of the root."""
        return filesystem_of(self.root)

    def open(self, path: str, *, create: bool = False) -> RealFile:
        """Open for reading and appending."""
        flags = os.O_RDWR | os.O_APPEND | BINARY | (os.O_CREAT if create else 0)
        handle = self._descriptor_class(path, self._open(self._full(path), flags), self._features)
        return RealFile(handle, os.fstat(handle.number).st_size, self._features)

    def read(self, path: str) -> bytes:
        """The whole of a small file."""
        with open(self._full(path), "rb", opener=self._open) as file:
            return file.read()

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace a small file whole."""
        full_path = self._full(path)
        temporary = full_path + ".tmp"
        try:
            with open(temporary, "wb", buffering=0, opener=self._open) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                if sync:
                    sync_descriptor(file.fileno(), self._features)
        except OSError as error:
            error.filename = full_path  # for people: write and fsync name none
            raise
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
        return sorted(self._descriptors.retry(partial(os.listdir, self._full(path))))

    def make_dirs(self, path: str) -> None:
        """Create a directory and its parents; present ones are fine. Not the root: somebody who removed it meant it."""
        os.stat(self._full(""))
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
            self._descriptors.retry(partial(shutil.rmtree, self._full(path)))
        except FileNotFoundError:
            pass

    def sync_dir(self, path: str) -> None:
        """Make creations, renames and deletions in a directory durable. Blocks."""
        self._sync_full_dir(self._full(path))

    def watch(self, path: str) -> FileWatch:
        """Watch a file that is there."""
        return watch_file(self._full(path), self._features)

    def lock(self, path: str) -> RealLock:
        """Take the lock file; DirectoryLocked when another process has it."""
        return take_lock(self._full(path), self._features)

    def free_bytes(self) -> int:
        """What the volume has left for us."""
        return shutil.disk_usage(self.root).free

    def total_bytes(self) -> int:
        """The volume's size."""
        return shutil.disk_usage(self.root).total

    def _open(self, full_path: str, flags: int) -> int:
        """A descriptor, one of the reserve when there is no other."""
        return self._descriptors.retry(partial(os.open, full_path, flags, 0o644))

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _sync_full_dir(self, full_path: str) -> None:
        if not self._features.dir_sync:
            return
        fd = self._open(full_path, os.O_RDONLY)
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
