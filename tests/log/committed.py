"""A reader of committed records, as Kafka's consumers are (CompletedFetch): what it shows of what a broker sends."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from kafka_wire.records import BatchHeader
from kbroker.log.derived.transactions import read_marker
from kbroker.replication.partition import READ_COMMITTED, Partition
from tests.log.tools import batches

BATCH_BYTES_MAX = 1 << 20


def shown(data: bytes, aborted: Iterable[tuple[int, int]], offset: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, value) of each record from an offset on that a consumer would show of one fetch of a partition.

    aborted: (producer id, first offset), as the broker names them.
    """
    waiting = [(first, producer_id) for producer_id, first in aborted]
    heapq.heapify(waiting)
    skipped: set[int] = set()
    position = 0
    for header, found in batches(data):
        raw = data[position : position + header.size]
        position += header.size
        if header.producer_id >= 0:
            while waiting and waiting[0][0] <= header.last_offset:
                skipped.add(heapq.heappop(waiting)[1])
            if is_abort(header, raw):
                skipped.discard(header.producer_id)
                continue
            if header.is_transactional and header.producer_id in skipped:
                continue
        if not header.is_control:
            yield from ((each.offset, each.value) for each in found if each.offset >= offset)


def is_abort(header: BatchHeader, data: bytes) -> bool:
    marker = read_marker(data) if header.is_control else None
    return marker is not None and not marker.is_commit


def read_committed(partition: Partition, offset: int, size: int) -> tuple[list[tuple[int, bytes | None]], int]:
    """What one fetch of size bytes shows, and where the next would begin."""
    result = partition.read(offset, size, isolation=READ_COMMITTED)
    data = b"".join(piece.read() for piece in result.slices)
    assert result.aborted is not None
    after = offset
    for header, _ in batches(data):
        after = header.next_offset
    aborted = [(each.producer_id, each.first_offset) for each in result.aborted]
    return list(shown(data, aborted, offset)), after
