"""Reading a partition of `__consumer_offsets` from its start to its end: the last value of every key.

It is work for the event loop in slices: bytes are read by a worker, records are decoded a few hundred between two
checkpoints, so that heartbeats of other partitions' groups are answered while a large one loads.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, check_crc, headers, read_records
from kbroker.coordinators.records import CURRENT_OFFSET_KEY
from kbroker.env import Offload
from kbroker.log.log import PartitionLog

READ_BYTES = 1024 * 1024
BATCH_BYTES_MAX = 256 * 1024 * 1024  # decompressed; what a broker wrote itself is far below
TURN = 500  # records between two checkpoints
LEGACY_OFFSET_KEY = b"\0\0"  # as CURRENT_OFFSET_KEY, in logs older than Kafka 0.9


class Replayed(NamedTuple):
    """What a log says."""

    live: dict[bytes, bytes]  # key -> last value, without those that were removed
    records: int  # read for it


async def replay(log: PartitionLog, end: int, offload: Offload) -> Replayed:
    """Read everything below end, a batch boundary. Raises KafkaError (LogOffline, CORRUPT_MESSAGE), OSError."""
    live: dict[bytes, bytes] = {}
    start = reached = log.start_offset
    count = turn = 0
    while reached < end:
        data, before = await _read(log, reached, end, offload), reached
        for position, header in headers(data):
            reached = header.next_offset
            count += _take(data, position, header, start, live)
            if count >= turn:
                turn = count + TURN
                await trio.lowlevel.checkpoint()
        if reached == before:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.directory}: no whole batch at offset {reached}")
    return Replayed(live, count)


def _take(data: bytes, position: int, header: BatchHeader, start: int, live: dict[bytes, bytes]) -> int:
    """Bring `live` up to date with the records of a batch; how many those were.

    Control batches, which end transactions, hold no record of ours.
    """
    if not check_crc(data, position, header):
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"the batch at offset {header.base_offset} has a wrong CRC")
    if header.is_control:
        return 0
    for offset, _, key, value, _ in read_records(data, position, max_bytes=BATCH_BYTES_MAX):
        if key is None or offset < start:
            continue
        if key[:2] == LEGACY_OFFSET_KEY:
            key = CURRENT_OFFSET_KEY + key[2:]
        if value is None:
            live.pop(key, None)
        else:
            live[key] = value
    return header.count


async def _read(log: PartitionLog, offset: int, end: int, offload: Offload) -> bytes:
    slices = log.read(offset, READ_BYTES, end)

    def work() -> bytes:
        return b"".join(each.read() for each in slices)

    return await offload(work)
