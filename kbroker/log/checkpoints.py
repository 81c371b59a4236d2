"""The small text files beside the logs: offset checkpoints and partition metadata. Owns their formats.

`recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`, `replication-offset-checkpoint` and
`cleaner-offset-checkpoint`, in the data directory, replaced whole:

    0                   version
    2                   number of entries
    orders 0 1741       topic, partition, offset
    orders 1 92

Everything below a recovery point is fsynced. A log start is noted when it lies inside a segment (DeleteRecords), or
when no durable segment tells it; the high watermark (replication-offset-checkpoint) of a partition with more replicas
than one, as that of another follows from the log; the cleaner's is the offset up to which a log was compacted. These
files carry no checksum, so they are only ever replaced durably. What they say of a log that is to be
cut is lowered before: see `Witness`.

`partition.metadata`, in a partition's directory, says whose data this is (R13); the id is base64url without padding:

    version: 0
    topic_id: Hk4kjZ4jQJmDeYoEAs-3xQ
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import partial

import trio

from kbroker.config.keys import LONG_MAX
from kbroker.env import Disk, Offload

RECOVERY_POINTS = "recovery-point-offset-checkpoint"
LOG_STARTS = "log-start-offset-checkpoint"
CLEANED = "cleaner-offset-checkpoint"
HIGH_WATERMARKS = "replication-offset-checkpoint"
METADATA = "partition.metadata"
DELETED_DIRECTORY = "-delete"  # what the name of a partition's directory ends with that is about to go
FSYNC_FAILED = "fsync-failed"  # empty, in a partition's directory: the page cache cannot be trusted
GAPS = "compacted"  # in a partition's directory: below which offset some may be missing, which is no damage

Key = tuple[str, int]


class OffsetCheckpoint:
    """One offset for each of some partitions, in a file that is replaced whole."""

    __slots__ = ("disk", "name", "offsets", "is_dirty", "_saved", "_saving", "_writing")

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self.name = name
        self.offsets: dict[Key, int] = {}
        self.is_dirty = False
        self._saved: dict[Key, int] = {}  # what the file says,
        self._saving: dict[Key, int] = {}  # or this, which is being written
        self._writing = trio.Lock()

    def load(self) -> bool:
        """Read the file. False, with nothing loaded, when it is absent or damaged. May raise OSError."""
        try:
            lines = self.disk.read(self.name).decode("utf-8").splitlines()
            fields = [line.split(" ") for line in lines[2:]]
            offsets = {(topic, int(partition)): int(offset) for topic, partition, offset in fields}
            if lines[0] != "0" or int(lines[1]) != len(offsets):
                return False
        except (FileNotFoundError, ValueError, IndexError):
            return False
        self.offsets, self._saved = offsets, dict(offsets)
        return True

    def set(self, key: Key, offset: int | None) -> None:
        """Note an offset, or with None that there is none."""
        if self.offsets.get(key) != offset:
            self.is_dirty = True
            if offset is None:
                del self.offsets[key]
            else:
                self.offsets[key] = offset

    def told(self, key: Key) -> int:
        """The largest offset that the file may hold for a partition; -1: none."""
        return max(self._saved.get(key, -1), self._saving.get(key, -1))

    def is_stale_on_disk(self, key: Key) -> bool:
        """Whether the file speaks, or may speak, of a partition that has no offset any more."""
        return self.told(key) >= 0 and key not in self.offsets

    @property
    def is_stale(self) -> bool:
        """Whether the file speaks of any such partition."""
        return not (self._saved.keys() | self._saving.keys()) <= self.offsets.keys()

    def _write(self, offsets: dict[Key, int]) -> None:
        lines = "".join(f"{topic} {partition} {offset}\n" for (topic, partition), offset in offsets.items())
        self.disk.write_atomic(self.name, f"0\n{len(offsets)}\n{lines}".encode(), sync=True)

    def save(self) -> None:
        """Replace the file durably. Blocks. May raise OSError: it then stays dirty.

        While a worker is replacing it that one is left to do it once more, right after.
        """
        self.is_dirty = True
        if not self._writing.locked():
            self._begin_saving()
            self._write(self._saving)
            self._saved, self._saving, self.is_dirty = self._saving, {}, False

    async def save_in(self, offload: Offload) -> None:
        """Wait until a worker has replaced the file, if there is news. Those who ask meanwhile share the next write.

        May raise OSError: it then stays dirty.
        """
        async with self._writing:
            while self.is_dirty:
                self._begin_saving()
                self.is_dirty = False
                try:
                    await offload(partial(self._write, self._saving))
                except BaseException:
                    self.is_dirty = True
                    raise
                self._saved, self._saving = self._saving, {}

    def _begin_saving(self) -> None:
        for key, offset in self._saving.items():  # of a write that failed, or was cancelled: it may be there
            self._saved[key] = max(offset, self._saved.get(key, -1))
        self._saving = dict(self.offsets)


class Witness:
    """What checkpoints say of the length of one log. It has to be no more than the length, at any moment.

    A log that is cut is shorter than it was when they were written, so they are lowered first: were the broker killed
    in between, the log would count as one that lost records.
    """

    __slots__ = ("_key", "_checkpoints")

    def __init__(self, key: Key, checkpoints: Iterable[OffsetCheckpoint]) -> None:
        self._key = key
        self._checkpoints = tuple(checkpoints)

    def tells_above(self, offset: int) -> bool:
        """Whether a file may speak of more than that."""
        return any(checkpoint.told(self._key) > offset for checkpoint in self._checkpoints)

    async def lower(self, offset: int, offload: Offload) -> None:
        """Wait until no file speaks of more. May raise OSError.

        Meanwhile nobody may `set` more.
        """
        for checkpoint in self._checkpoints:
            if checkpoint.told(self._key) > offset:
                checkpoint.set(self._key, min(checkpoint.offsets.get(self._key, 0), offset) or None)
                checkpoint.is_dirty = True
                await checkpoint.save_in(offload)


def metadata_content(topic_id: bytes) -> bytes:
    """partition.metadata for a topic id of 16 bytes."""
    text = base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode("ascii")
    return f"version: 0\ntopic_id: {text}\n".encode("ascii")


def gaps_content(below: int) -> bytes:
    """What says that below an offset, some may be missing."""
    return f"0\n{below}\n".encode("ascii")


def read_gaps(disk: Disk, directory: str) -> int:
    """Below which offset of a log some may be missing; of any, where a power failure has damaged what said so.

    Raises OSError: FileNotFoundError where nothing says so.
    """
    text = disk.read(f"{directory}/{GAPS}").decode("ascii", errors="replace")
    try:
        version, below = text.split()
        return int(below) if version == "0" and text.endswith("\n") else LONG_MAX
    except ValueError:
        return LONG_MAX


def read_topic_id(disk: Disk, directory: str) -> bytes | None:
    """Whose data a partition's directory holds; None when it does not (legibly) say. May raise OSError."""
    try:
        text = disk.read(f"{directory}/{METADATA}").decode("ascii")
        fields = dict(line.split(": ", 1) for line in text.splitlines() if line)
        topic_id = base64.b64decode(fields["topic_id"] + "==", altchars=b"-_", validate=True)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return topic_id if len(topic_id) == 16 and fields.get("version") == "0" else None
