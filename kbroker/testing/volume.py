"""What a disk holds, what a power loss leaves of it, and what can go wrong on the way.

Two pictures of every object are kept: what reads see (the page cache), and what is durable.

    a file          [ durable ............ floor )[ appended since, not synced )
                                                 \\ cut: durable bytes that an unsynced truncate took from view
    a directory     names as seen                 durable names + changes still pending, in order

A power loss keeps of a file a random prefix of what was not synced, maybe with a flipped bit or zeros near its end, and
brings back what an unsynced truncate had cut. Of each directory it keeps a random prefix of the pending changes, a
rename always whole. A failed sync leaves its bytes visible and lost for ever, and the next sync succeeds: that is what
Linux does (its pages are marked clean), and why a broker must never try again.

All chance comes from one `random.Random`: the same seed and the same calls leave the same disk.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from kbroker.env import Buffer, DirectoryLocked

CAPACITY = 1 << 40
TEAR_SPAN = 4096  # a torn tail is damaged somewhere in its last page


class Inode:
    """A file's bytes."""

    __slots__ = ("data", "modified_ms", "linked", "floor", "cut", "lost", "is_cold")

    def __init__(self) -> None:
        self.data = bytearray()  # what reads see
        self.modified_ms = 0
        self.linked = True  # still has a name, so it counts as used space
        self.floor = 0  # invariant: data[:floor] + cut is what a power loss certainly leaves
        self.cut = b""
        self.lost: list[tuple[int, int]] = []  # ranges below floor whose sync failed
        self.is_cold = False  # not in memory, until it is read

    def truncate(self, size: int) -> None:
        """Cut what reads see; undone by a power loss unless synced."""
        if size < self.floor:
            self.cut = bytes(self.data[size : self.floor]) + self.cut
            self.floor = size
        del self.data[size:]
        self.lost = [(start, min(end, size)) for start, end in self.lost if start < size]

    def sync(self) -> None:
        """All that reads see becomes durable."""
        self.floor = len(self.data)
        self.cut = b""

    def fail_sync(self) -> None:
        """What was not durable never will be, though reads see it and later syncs succeed."""
        if self.floor < len(self.data):
            self.lost.append((self.floor, len(self.data)))
        self.sync()

    def lose_power(self, rng: random.Random) -> None:
        """Leave what survives."""
        if self.cut and rng.random() < 0.5:
            self.data[self.floor :] = self.cut
        else:
            self._tear(rng)
        for start, end in self.lost:
            self.data[start : min(end, len(self.data))] = bytes(max(0, min(end, len(self.data)) - start))
        self.lost = []
        self.sync()
        self.is_cold = True

    def _tear(self, rng: random.Random) -> None:
        unsynced = len(self.data) - self.floor
        kept = rng.randint(0, unsynced) if rng.random() < 0.6 else 0
        del self.data[self.floor + kept :]
        if not kept or rng.random() < 0.5:
            return
        at = rng.randrange(max(self.floor, len(self.data) - TEAR_SPAN), len(self.data))
        if rng.random() < 0.6:
            self.data[at] ^= 1 << rng.randrange(8)
        else:  # the size reached the disk, the last blocks did not
            self.data[at:] = bytes(len(self.data) - at)


class Directory:
    """Names of files and directories."""

    __slots__ = ("entries", "durable")

    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}


Node: TypeAlias = "Inode | Directory"
Change: TypeAlias = "list[tuple[Directory, str, Node | None]]"  # names set or removed, all or none


@dataclass(slots=True)
class Fault:
    """An order to fail: from the nth matching call on, so many times."""

    operation: str
    pattern: str
    nth: int
    times: int
    error: int
    seen: int = 0

    def strikes(self, operation: str, path: str) -> bool:
        """Count this call if it matches; whether it is one that fails."""
        if operation != self.operation or not fnmatchcase(path, self.pattern):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Volume:
    """The state behind a `MemoryDisk`; it outlives processes, and power failures after a fashion."""

    def __init__(
        self,
        rng: random.Random,
        *,
        capacity: int = CAPACITY,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        trace: Callable[..., None] = lambda *event: None,
    ) -> None:
        self.rng = rng
        self.capacity = capacity  # bytes; settable at any time
        self.used = 0
        self.now_ms = now_ms
        self.trace = trace
        self.root = Directory()
        self.boots = 1
        self.process = 1  # counts processes: files opened by an earlier one are dead
        self.locks: dict[str, str] = {}  # path -> holder
        self.faults: list[Fault] = []
        self._pending: list[Change] = []

    # -- faults -------------------------------------------------------------------------------------------------------

    def fail(self, operation: str, pattern: str = "*", *, nth: int = 1, times: int = 1, error: int = errno.EIO) -> None:
        """Make calls of a Disk or File method fail.

        operation: the method's name, such as "append" or "sync". pattern: of paths, as in fnmatch; "*" also matches
        "/". nth: the first matching call that fails, counted from now. times: how many fail. error: an errno.
        """
        self.faults.append(Fault(operation, pattern, nth, times, error))

    def heal(self) -> None:
        """Withdraw all orders to fail."""
        self.faults.clear()

    def fault(self, operation: str, path: str) -> OSError | None:
        """The error this call has to meet, if any."""
        struck = [each for each in self.faults if each.strikes(operation, path)]
        return os_error(struck[0].error, path) if struck else None

    def kill(self) -> None:
        """The process is gone: its locks and open files with it. What it wrote stays, as the page cache does."""
        self.process += 1
        self.locks.clear()

    def evict(self) -> None:
        """Forget the page cache, as the system may at any time."""
        for inode in self._files(self.root):
            inode.is_cold = True

    def power_loss(self) -> None:
        """The machine is gone: only what was durable stays for certain."""
        self.kill()
        self.boots += 1
        self._lose_changes()
        self._lose_power(self.root)
        self.used = sum(len(inode.data) for inode in self._files(self.root))
        self.trace("power-loss", self.used)

    def _lose_changes(self) -> None:
        """Per directory, a prefix of its pending changes survives; a change in two directories in both or neither."""
        stopped: set[Directory] = set()
        for change in self._pending:
            touched = {directory for directory, _, _ in change}
            if touched & stopped or self.rng.random() < 0.3:
                stopped |= touched
            else:
                commit(change)
        self._pending = []

    def _lose_power(self, directory: Directory) -> None:
        directory.entries = dict(sorted(directory.durable.items()))
        for node in directory.entries.values():
            if isinstance(node, Directory):
                self._lose_power(node)
            else:
                node.linked = True
                node.lose_power(self.rng)

    def _files(self, directory: Directory) -> Iterator[Inode]:
        for node in directory.entries.values():
            if isinstance(node, Directory):
                yield from self._files(node)
            else:
                yield node

    # -- files --------------------------------------------------------------------------------------------------------

    def append(self, inode: Inode, buffers: Sequence[Buffer], path: str) -> int:
        """Append as much as there is room for; ENOSPC when that is not all. A fault, too, lets some bytes through."""
        data = b"".join(buffers)
        error = self.fault("append", path)
        room = self.rng.randint(0, len(data)) if error else max(0, self.capacity - self.used)
        if room < len(data):
            error = error or os_error(errno.ENOSPC, path)
            data = data[:room]
        inode.data += data
        inode.modified_ms = self.now_ms()
        self.used += len(data) if inode.linked else 0
        if error:
            raise error
        return len(data)

    def write(self, inode: Inode, data: Buffer, path: str) -> None:
        """Write over a file's beginning, as much as there is room for; ENOSPC when that is not all."""
        room = max(0, self.capacity - self.used) + len(inode.data)
        rest = bytes(inode.data[len(data) :])
        self.truncate(inode, 0)
        inode.data += bytes(data[:room]) + rest
        self.used += len(inode.data) if inode.linked else 0
        if room < len(data):
            raise os_error(errno.ENOSPC, path)

    def truncate(self, inode: Inode, size: int) -> None:
        """Cut or extend (with zeros) what reads see."""
        before = len(inode.data)
        if size < before:
            inode.truncate(size)
        else:
            inode.data += bytes(size - before)
        inode.modified_ms = self.now_ms()
        self.used += size - before if inode.linked else 0

    # -- names --------------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Node | None:
        """What is at path, None when nothing is."""
        node: Node | None = self.root
        for name in split(path):
            node = node.entries.get(name) if isinstance(node, Directory) else None
        return node

    def inode(self, path: str) -> Inode:
        """The file at path, or OSError."""
        node = self.find(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, Directory):
            raise os_error(errno.EISDIR, path)
        return node

    def directory(self, path: str) -> Directory:
        """The directory at path, or OSError."""
        node = self.find(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, Inode):
            raise os_error(errno.ENOTDIR, path)
        return node

    def parent(self, path: str) -> tuple[Directory, str]:
        """The directory that holds path, and the name in it."""
        *above, name = split(path)
        return self.directory("/".join(above)), name

    def change(self, change: Change) -> None:
        """Set and remove names as seen; durable when every directory touched has been synced."""
        for directory, name, node in change:
            old = directory.entries.pop(name, None)
            if isinstance(old, Inode):
                old.linked = False
                self.used -= len(old.data)
            if node is not None:
                directory.entries[name] = node
            if isinstance(node, Inode):
                node.linked = True
                self.used += len(node.data)
        self._pending.append(change)

    def sync_dir(self, directory: Directory) -> None:
        """Make the changes of a directory durable, and those of others they depend on."""
        needed = {directory}
        durable: list[Change] = []
        pending: list[Change] = []
        for change in reversed(self._pending):
            touched = {each for each, _, _ in change}
            if touched & needed:
                needed |= touched
                durable.append(change)
            else:
                pending.append(change)
        for change in reversed(durable):
            commit(change)
        self._pending = pending[::-1]

    # -- locks --------------------------------------------------------------------------------------------------------

    def lock(self, path: str, holder: str) -> None:
        """Take a lock file; DirectoryLocked when it is held."""
        if path in self.locks:
            raise DirectoryLocked(path, self.locks[path])
        self.locks[path] = holder


def commit(change: Change) -> None:
    """Apply a change to the durable names."""
    for directory, name, node in change:
        directory.durable.pop(name, None)
        if node is not None:
            directory.durable[name] = node


def split(path: str) -> list[str]:
    """The names of a path; none for the root."""
    return [name for name in path.split("/") if name]


def os_error(number: int, path: str) -> OSError:
    """The OSError (its subclass, where there is one) for an errno."""
    return OSError(number, os.strerror(number), path)
