"""Reading a partition of an internal topic from its start to its end: the last value of every key.

    record ───────────────────────────────────▶ live                    the last one in the log of its key holds
    record of a transaction ──▶ open ──commit──▶ live, unless a later record of its key is there
                                     └──abort───▶ nothing                what is open at the end is for the shard

Bytes are read by a worker, records are decoded by the event loop in turns, so that what other partitions hold is served
while a large one loads. What compaction has left of a log says the same as all of it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from heapq import merge
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.records import BatchHeader, Record, check_crc, headers, read_records
from kbroker.env import Offload
from kbroker.log.cold import when_told
from kbroker.log.derived.transactions import Marker, read_marker
from kbroker.log.log import PartitionLog
from kbroker.turns import STRIDE, Work, finish

READ_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 256 * 1024 * 1024  # decompressed; what a broker wrote itself is far below


class Unsettled(NamedTuple):
    """A record of a transaction that is open at the end of the log, and the last word on its key if it is committed."""

    offset: int
    producer_id: int
    producer_epoch: int
    key: bytes
    value: bytes | None


class Damaged(Exception):
    """A batch that cannot be read."""

    def __init__(self, offset: int, problem: str) -> None:
        super().__init__(f"the batch at offset {offset} cannot be read: {problem}")
        self.offset = offset


class Replayed(NamedTuple):
    """What a log says."""

    live: dict[bytes, bytes]  # key -> last value, without those that were removed
    open: list[Unsettled]  # in the order of the log
    records: int  # read for it


async def replay(log: PartitionLog, end: int, offload: Offload, key_of: Callable[[bytes], bytes]) -> Replayed:
    """Read everything below end, a batch boundary.

    key_of: the key that a record's key stands for; itself, if it is of no format of long ago.
    Raises KafkaError (LogOffline, CORRUPT_MESSAGE), OSError.
    """
    found = _Replay(log.start_offset, key_of)
    while found.reached < end:
        before = found.reached
        try:
            await finish(found.take(await _read(log, before, end, offload)))
        except Damaged as error:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.path_of(error.offset)}: {error}") from error
        if found.reached == before:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.path_of(before)}: no whole batch at offset {before}")
    return Replayed(found.live, await finish(found.unsettled()), found.records)


class _Replay:
    """The state of a replay that has read the log as far as `reached`."""

    def __init__(self, start: int, key_of: Callable[[bytes], bytes]) -> None:
        self.live: dict[bytes, bytes] = {}
        self.reached = start
        self.records = 0
        self._start = start
        self._key_of = key_of
        self._open: dict[int, dict[bytes, Unsettled]] = {}  # by producer id
        # Where the record in `live` of a key is, or its removal; of records since a transaction was first open. Those
        # before are earlier than anything that is open.
        self._settled_at: dict[bytes, int] = {}

    def take(self, data: bytes) -> Work[None]:
        """Go on with whole batches."""
        for position, header in headers(data):
            if not check_crc(data, position, header):
                raise Damaged(header.base_offset, "wrong CRC")
            self.reached = header.next_offset
            if header.is_control:
                self.records += header.count
                marker = read_marker(memoryview(data)[position : position + header.size])
                if marker is not None:  # others hold no state
                    yield from self._end(marker)
                continue
            for offset, _, key, value, _ in _records(data, position, header.base_offset):
                self.records += 1
                if not self.records % STRIDE:
                    yield
                if key is None or offset < self._start:
                    continue
                key = self._key_of(key)
                if header.is_transactional:
                    self._take_open(header, offset, key, value)
                else:
                    self._settle(key, value, offset)

    def _settle(self, key: bytes, value: bytes | None, offset: int) -> None:
        if value is None:
            self.live.pop(key, None)
        else:
            self.live[key] = value
        if self._open:
            self._settled_at[key] = offset

    def _take_open(self, header: BatchHeader, offset: int, key: bytes, value: bytes | None) -> None:
        changes = self._open.setdefault(header.producer_id, {})
        changes.pop(key, None)  # they stay in the order of the log
        changes[key] = Unsettled(offset, header.producer_id, header.producer_epoch, key, value)

    def _end(self, marker: Marker) -> Work[None]:
        changes = self._open.pop(marker.producer_id, {})
        for number, change in enumerate(changes.values() if marker.is_commit else (), 1):
            if self._still_counts(change):
                self._settle(change.key, change.value, change.offset)
            if not number % STRIDE:
                yield
        if not self._open:
            self._settled_at.clear()

    def _still_counts(self, change: Unsettled) -> bool:
        return change.offset > self._settled_at.get(change.key, -1)

    def unsettled(self) -> Work[list[Unsettled]]:
        """What is open, as far as nothing later has outdone it."""
        found: list[Unsettled] = []
        for number, change in enumerate(merge(*[changes.values() for changes in self._open.values()]), 1):
            if self._still_counts(change):
                found.append(change)
            if not number % STRIDE:
                yield
        return found


def _records(data: bytes, position: int, offset: int) -> Iterator[Record]:
    try:
        yield from read_records(data, position, max_bytes=BATCH_BYTES_MAX)
    except (KafkaError, ProtocolError) as error:
        raise Damaged(offset, str(error)) from error


async def _read(log: PartitionLog, offset: int, end: int, offload: Offload) -> bytes:
    slices = await when_told(partial(log.read, offset, READ_BYTES, end), offload)

    def work() -> bytes:
        return b"".join([each.read() for each in slices])

    return await offload(work)
