"""Reading a partition of an internal topic from its start to its end: the last value of every key.

Bytes are read by a worker, records are decoded by the event loop in turns, so that what other partitions hold is served
while a large one loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.records import Record, check_crc, headers, read_records
from kbroker.env import Offload
from kbroker.log.cold import when_told
from kbroker.log.log import PartitionLog
from kbroker.turns import STRIDE, Work, finish

READ_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 256 * 1024 * 1024  # decompressed; what a broker wrote itself is far below


class Damaged(Exception):
    """A batch that cannot be read."""

    def __init__(self, offset: int, problem: str) -> None:
        super().__init__(f"the batch at offset {offset} cannot be read: {problem}")
        self.offset = offset


class Replayed(NamedTuple):
    """What a log says."""

    live: dict[bytes, bytes]  # key -> last value, without those that were removed
    records: int  # read for it


async def replay(log: PartitionLog, end: int, offload: Offload, key_of: Callable[[bytes], bytes]) -> Replayed:
    """Read everything below end, a batch boundary.

    key_of: the key that a record's key stands for; itself, if it is of no format of long ago.
    Raises KafkaError (LogOffline, CORRUPT_MESSAGE), OSError.
    """
    live: dict[bytes, bytes] = {}
    reached, count = log.start_offset, 0
    while reached < end:
        data = await _read(log, reached, end, offload)
        before = reached
        try:
            reached, found = await finish(_take(data, reached, log.start_offset, live, key_of))
        except Damaged as error:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.path_of(error.offset)}: {error}") from error
        count += found
        if reached == before:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.path_of(reached)}: no whole batch at offset {reached}")
    return Replayed(live, count)


def _take(
    data: bytes, reached: int, start: int, live: dict[bytes, bytes], key_of: Callable[[bytes], bytes]
) -> Work[tuple[int, int]]:
    """Bring `live` up to date with the records of whole batches; the offset reached, and how many records those were.

    Control batches, which end transactions, hold no state.
    """
    count = 0
    for position, header in headers(data):
        if not check_crc(data, position, header):
            raise Damaged(header.base_offset, "wrong CRC")
        reached = header.next_offset
        if header.is_control:
            continue
        for offset, _, key, value, _ in _records(data, position, header.base_offset):
            count += 1
            if not count % STRIDE:
                yield
            if key is None or offset < start:
                continue
            key = key_of(key)
            if value is None:
                live.pop(key, None)
            else:
                live[key] = value
    return reached, count


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
