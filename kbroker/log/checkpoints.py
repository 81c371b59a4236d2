"""The small text files beside the logs: offset checkpoints and partition metadata. Owns their formats.

`recovery-point-offset-checkpoint` and `log-start-offset-checkpoint`, in the data directory, replaced whole:

    0                   version
    2                   number of entries
    orders 0 1741       topic, partition, offset
    orders 1 92

Everything below a recovery point is fsynced. A log start is noted when it lies inside a segment (DeleteRecords), or
when no durable segment tells it. These files carry no checksum, so they are only ever replaced durably.

`partition.metadata`, in a partition's directory, says whose data this is (R13); the id is base64url without padding:

    version: 0
    topic_id: Hk4kjZ4jQJmDeYoEAs-3xQ
"""

from __future__ import annotations

import base64
from functools import partial

import trio

from kbroker.env import Disk, Offload

RECOVERY_POINTS = "recovery-point-offset-checkpoint"
LOG_STARTS = "log-start-offset-checkpoint"
METADATA = "partition.metadata"
DELETED_DIRECTORY = "-delete"  # what the name of a partition's directory ends with that is about to go
FSYNC_FAILED = "fsync-failed"  # empty, in a partition's directory: the page cache cannot be trusted

Key = tuple[str, int]


class OffsetCheckpoint:
    """One offset for each of some partitions, in a file that is replaced whole."""

    __slots__ = ("disk", "name", "offsets", "is_dirty", "_saved", "_writing")

    def __init__(self, disk: Disk, name: str) -> None:
        self.disk = disk
        self.name = name
        self.offsets: dict[Key, int] = {}
        self.is_dirty = False
        self._saved: set[Key] = set()  # partitions the file speaks of, or may speak of
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
        self.offsets, self._saved = offsets, set(offsets)
        return True

    def set(self, key: Key, offset: int | None) -> None:
        """Note an offset, or with None that there is none."""
        if self.offsets.get(key) != offset:
            self.is_dirty = True
            if offset is None:
                del self.offsets[key]
            else:
                self.offsets[key] = offset

    def is_stale_on_disk(self, key: Key) -> bool:
        """Whether the file speaks of a partition that has no offset any more."""
        return key in self._saved and key not in self.offsets

    @property
    def is_stale(self) -> bool:
        """Whether the file speaks of any such partition."""
        return not self._saved <= self.offsets.keys()

    def _write(self, offsets: dict[Key, int]) -> None:
        lines = "".join(f"{topic} {partition} {offset}\n" for (topic, partition), offset in offsets.items())
        self.disk.write_atomic(self.name, f"0\n{len(offsets)}\n{lines}".encode(), sync=True)

    def save(self) -> None:
        """Replace the file durably. Blocks. May raise OSError: it then stays dirty.

        While a worker is replacing it that one is left to do it once more, right after.
        """
        self.is_dirty = True
        if not self._writing.locked():
            saved = set(self.offsets)
            self._saved |= saved
            self._write(self.offsets)
            self._saved, self.is_dirty = saved, False

    async def save_in(self, offload: Offload) -> None:
        """Wait until a worker has replaced the file, if there is news. Those who ask meanwhile share the next write.

        May raise OSError: it then stays dirty.
        """
        async with self._writing:
            while self.is_dirty:
                offsets = dict(self.offsets)
                saved = set(offsets)
                self._saved |= saved
                self.is_dirty = False
                try:
                    await offload(partial(self._write, offsets))
                except BaseException:
                    self.is_dirty = True
                    raise
                self._saved = saved


def metadata_content(topic_id: bytes) -> bytes:
    """partition.metadata for a topic id of 16 bytes."""
    text = base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode("ascii")
    return f"version: 0\ntopic_id: {text}\n".encode("ascii")


def read_topic_id(disk: Disk, directory: str) -> bytes | None:
    """Whose data a partition's directory holds; None when it does not (legibly) say. May raise OSError."""
    try:
        text = disk.read(f"{directory}/{METADATA}").decode("ascii")
        fields = dict(line.split(": ", 1) for line in text.splitlines() if line)
        topic_id = base64.b64decode(fields["topic_id"] + "==", altchars=b"-_", validate=True)
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return topic_id if len(topic_id) == 16 and fields.get("version") == "0" else None
