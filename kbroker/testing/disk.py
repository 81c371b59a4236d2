"""A disk in memory that behaves like the real one, until it is told to fail.

    disk = MemoryDisk(seed=7)
    disk.fail("sync", "orders-0/*", nth=3)     # the third sync of that partition's files raises EIO
    disk.capacity = disk.used + 1000           # ENOSPC after another 1000 bytes
    disk.kill()                                # the process dies: unsynced bytes stay, open files and locks do not
    disk.power_loss()                          # the machine dies: see `volume`

The state is a `Volume`; a `MemoryDisk` is one process's way to it, so a simulated node gets a new one at each start.
"""

from __future__ import annotations

import errno
import random
import zlib
from collections.abc import Callable, Sequence

from kbroker.env import Buffer, FileWatch
from kbroker.testing.volume import CAPACITY, Change, Directory, Inode, Volume, os_error, split

TEMPORARY = ".tmp"  # as the real disk names what is about to replace a file


class MemoryFile:
    """An open file. Like a descriptor it stays with its bytes when the name is changed or removed."""

    __slots__ = ("path", "_disk", "_inode", "_process")

    def __init__(self, path: str, disk: MemoryDisk, inode: Inode) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode
        self._process = disk.volume.process  # 0 once closed

    @property
    def handle(self) -> MemoryFile:
        """The open file itself: it works after `close`, though not longer than the process lives."""
        self._enter()
        return MemoryFile(self.path, self._disk, self._inode)

    def size(self) -> int:
        """Bytes in the file."""
        return len(self._inode.data)

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end; on OSError a part of them."""
        volume = self._enter()
        start = len(self._inode.data)
        try:
            return volume.append(self._inode, buffers, self.path)
        finally:
            written = memoryview(self._inode.data)[start:]
            volume.trace("append", self.path, start, len(written), zlib.crc32(written))
            written.release()

    def pread(self, length: int, position: int) -> bytes:
        """Up to length bytes from position; fewer only at the end of the file."""
        volume = self._enter()
        if volume.faults and (error := volume.fault("pread", self.path)):
            raise error
        self._inode.is_cold = False
        with memoryview(self._inode.data) as data:
            return bytes(data[position : position + length])

    def pread_now(self, length: int, position: int) -> bytes | None:
        """The same, unless the file was evicted from memory: then None."""
        self._enter()
        return None if self._inode.is_cold else self.pread(length, position)

    def truncate(self, size: int) -> None:
        """Cut the file to size bytes."""
        volume = self._enter()
        if error := volume.fault("truncate", self.path):
            raise error
        volume.truncate(self._inode, size)
        volume.trace("truncate", self.path, size)

    def sync(self) -> None:
        """Make what was appended durable; when told to fail, it never will be."""
        volume = self._enter()
        error = volume.fault("sync", self.path)
        volume.trace("sync", self.path, len(self._inode.data), error is None)
        if error:
            self._inode.fail_sync()
            raise error
        self._inode.sync()

    def close(self) -> None:
        """Give the file up; idempotent."""
        self._process = 0

    def fileno(self) -> int | None:
        """None: there is no descriptor."""
        self._enter()
        return None

    def _enter(self) -> Volume:
        self._disk.alive()
        volume = self._disk.volume
        if self._process != volume.process:
            raise os_error(errno.EBADF, self.path)
        return volume


class MemoryLock:
    """Possession of a lock file."""

    def __init__(self, volume: Volume, path: str) -> None:
        self._volume = volume
        self._path = path
        self._process = volume.process

    def release(self) -> None:
        """Give it up; idempotent, and without effect once the process that took it has died."""
        if self._process == self._volume.process:
            self._volume.locks.pop(self._path, None)
        self._process = 0


class MemoryDisk:
    """A directory tree in memory.

    seed: of everything left to chance. capacity: bytes. volume: an existing state, instead of a new one. holder: who
    `DirectoryLocked` says has the lock. alive: called before every operation; raises when the process is dead.
    """

    def __init__(
        self,
        volume: Volume | None = None,
        *,
        seed: int | str = 0,
        capacity: int = CAPACITY,
        holder: str = "another process",
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.volume = volume or Volume(random.Random(f"{seed}/disk"), capacity=capacity)
        self.root = "memory"
        self.boot_id = f"boot-{self.volume.boots}"
        self.holder = holder
        self.alive = alive

    # -- misfortune ---------------------------------------------------------------------------------------------------

    def fail(self, operation: str, pattern: str = "*", *, nth: int = 1, times: int = 1, error: int = errno.EIO) -> None:
        """From the nth call of a Disk or File method on a path that matches pattern, fail so many times."""
        self.volume.fail(operation, pattern, nth=nth, times=times, error=error)

    def heal(self) -> None:
        """Withdraw all orders to fail."""
        self.volume.heal()

    def kill(self) -> None:
        """End the process: open files and locks are gone, the page cache stays."""
        self.volume.kill()

    def evict(self) -> None:
        """Nothing of any file is in memory any more: the first `pread` of each waits for the disk."""
        self.volume.evict()

    def power_loss(self) -> None:
        """End the machine: what was not synced is lost, or half lost; a new boot id."""
        self.volume.power_loss()
        self.boot_id = f"boot-{self.volume.boots}"

    @property
    def capacity(self) -> int:
        """Bytes this disk can hold."""
        return self.volume.capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        self.volume.capacity = capacity

    @property
    def used(self) -> int:
        """Bytes in its files."""
        return self.volume.used

    # -- Disk ---------------------------------------------------------------------------------------------------------

    def elsewhere(self, directory: str, *, create: bool) -> MemoryDisk:
        """There is nothing but this tree."""
        raise os_error(errno.EOPNOTSUPP, directory)

    def watch(self, path: str) -> FileWatch:
        """There are no other processes."""
        raise os_error(errno.EOPNOTSUPP, path)

    def filesystem(self) -> str:
        """None that a machine has."""
        return ""

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        """Open for reading and appending."""
        volume = self._enter("open", path)
        if create and volume.find(path) is None:
            directory, name = volume.parent(path)
            self._change("create", path, [(directory, name, self._new_inode())])
        return MemoryFile(path, self, volume.inode(path))

    def read(self, path: str) -> bytes:
        """The whole of a small file."""
        return bytes(self._enter("read", path).inode(path).data)

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace a small file whole, in the steps of the real disk: another writer of it may come between any two.

        When told to fail it fails before the first, and so changes nothing. A full disk leaves a temporary file.
        """
        volume = self._enter("write_atomic", path)
        temporary = path + TEMPORARY
        directory, name = volume.parent(path)
        if volume.find(temporary) is None:
            self._change("create", temporary, [(*volume.parent(temporary), self._new_inode())])
        inode = volume.inode(temporary)
        volume.truncate(inode, 0)
        self.alive()
        volume.write(inode, data, temporary)
        if sync:
            self.alive()
            inode.sync()
        self.alive()
        written = volume.inode(temporary)
        if isinstance(volume.find(path), Directory):
            raise os_error(errno.EISDIR, path)
        change: Change = [(*volume.parent(temporary), None), (directory, name, written)]
        self._change("write-atomic", path, change, len(data), zlib.crc32(data))
        if sync:
            self.alive()
            volume.sync_dir(directory)

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return self._enter("exists", path).find(path) is not None

    def size(self, path: str) -> int:
        """Bytes in a file that need not be open."""
        return len(self._enter("size", path).inode(path).data)

    def modified_ms(self, path: str) -> int:
        """When the file was last written, milliseconds since the epoch."""
        return self._enter("modified_ms", path).inode(path).modified_ms

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(self._enter("list_dir", path).directory(path).entries)

    def make_dirs(self, path: str) -> None:
        """Create a directory and its parents; present ones are fine."""
        directory = self._enter("make_dirs", path).root
        for name in split(path):
            if name not in directory.entries:
                self._change("make-dir", path, [(directory, name, Directory())])
            node = directory.entries[name]
            if isinstance(node, Inode):
                raise os_error(errno.EEXIST, path)
            directory = node

    def rename(self, old: str, new: str) -> None:
        """Rename a file or directory, replacing a file."""
        volume = self._enter("rename", old)
        node, there = volume.find(old), volume.find(new)
        if node is None:
            raise os_error(errno.ENOENT, old)
        if isinstance(there, Directory) and there.entries:
            raise os_error(errno.ENOTEMPTY, new)
        (old_directory, old_name), (new_directory, new_name) = volume.parent(old), volume.parent(new)
        self._change("rename", old, [(old_directory, old_name, None), (new_directory, new_name, node)], new)

    def remove(self, path: str) -> None:
        """Delete a file."""
        volume = self._enter("remove", path)
        volume.inode(path)
        self._change("remove", path, [(*volume.parent(path), None)])

    def remove_tree(self, path: str) -> None:
        """Delete a directory with all it holds; an absent one is fine."""
        volume = self._enter("remove_tree", path)
        if volume.find(path) is not None:
            self._remove_tree(path, volume.directory(path))

    def _remove_tree(self, path: str, directory: Directory) -> None:
        for name, node in sorted(directory.entries.items()):
            if isinstance(node, Directory):
                self._remove_tree(f"{path}/{name}", node)
            else:
                self._change("remove", f"{path}/{name}", [(directory, name, None)])
        self._change("remove-dir", path, [(*self.volume.parent(path), None)])

    def sync_dir(self, path: str) -> None:
        """Make creations, renames and deletions in a directory durable."""
        volume = self._enter("sync_dir", path)
        volume.sync_dir(volume.directory(path))
        volume.trace("sync-dir", path)

    def lock(self, path: str) -> MemoryLock:
        """Take the lock file; DirectoryLocked when it is held."""
        volume = self._enter("lock", path)
        volume.lock(path, self.holder)
        self.open(path, create=True).close()
        return MemoryLock(volume, path)

    def free_bytes(self) -> int:
        """What is left of the capacity."""
        return max(0, self._enter("free_bytes", "").capacity - self.volume.used)

    def total_bytes(self) -> int:
        """The capacity."""
        return self._enter("total_bytes", "").capacity

    def _enter(self, operation: str, path: str) -> Volume:
        """Every operation comes through here: dead processes and orders to fail stop it."""
        self.alive()
        if self.volume.faults and (error := self.volume.fault(operation, path)):
            raise error
        return self.volume

    def _new_inode(self) -> Inode:
        inode = Inode()
        inode.modified_ms = self.volume.now_ms()
        return inode

    def _change(self, what: str, path: str, change: Change, *details: object) -> None:
        self.volume.change(change)
        self.volume.trace(what, path, *details)
