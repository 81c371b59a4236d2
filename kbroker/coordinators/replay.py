"""Reading a partition of `__consumer_offsets` from its start to its end: the last value of every key.

It is work for the event loop in slices: bytes are read by a worker, records are decoded a few hundred between two
checkpoints, so that heartbeats of other partitions' groups are answered while a large one loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import Record, check_crc, headers, read_records
from kbroker.coordinators.records import CURRENT_OFFSET_KEY
from kbroker.env import Buffer, Offload
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
    count, offset = 0, log.start_offset
    while offset < end:
        data = await _read(log, offset, end, offload)
        before = offset
        for record, offset in _records(data, offset):
            if record is None:
                continue
            count += 1
            if count % TURN == 0:
                await trio.lowlevel.checkpoint()
            key, value = record.key, record.value
            if key is None:
                continue
            if key[:2] == LEGACY_OFFSET_KEY:
                key = CURRENT_OFFSET_KEY + key[2:]
            if value is None:
                live.pop(key, None)
            else:
                live[key] = value
        if offset == before:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{log.directory}: no whole batch at offset {offset}")
    return Replayed(live, count)


async def _read(log: PartitionLog, offset: int, end: int, offload: Offload) -> bytes:
    slices = log.read(offset, READ_BYTES, end)

    def work() -> bytes:
        return b"".join(each.read() for each in slices)

    return await offload(work)


def _records(data: Buffer, offset: int) -> Iterator[tuple[Record | None, int]]:
    """(record, where its batch ends) of each record from offset on; (None, end) once for a batch that counts for none.

    Control batches, which end transactions, hold no record of ours.
    """
    for position, header in headers(data):
        if not check_crc(data, position, header):
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"the batch at offset {header.base_offset} has a wrong CRC")
        yield None, header.next_offset
        if header.is_control:
            continue
        for record in read_records(data, position, max_bytes=BATCH_BYTES_MAX):
            if record.offset >= offset:
                yield record, header.next_offset
