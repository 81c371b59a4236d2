"""Reading a partition as a consumer does: from a fetched answer to records. Pure.

Of transactions only what was committed (read_committed): records of those that were aborted are left out, by the list
that the broker sends along (Kafka: CompletedFetch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kafka_wire.messages.produce_fetch import FetchPartitionData
from kafka_wire.records import ControlType, headers, read_control, read_records

BATCH_BYTES_MAX = 256 << 20  # decompressed


class Record(NamedTuple):
    """A record of a topic, as a consumer gets it."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms since the epoch
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Fetched(NamedTuple):
    """What an answer holds of a partition."""

    records: list[Record]
    next_offset: int  # where to go on


def read(topic: str, data: FetchPartitionData, offset: int) -> Fetched:
    """The records from offset on, of what was fetched there. Raises KafkaError for what is corrupt."""
    found: list[Record] = []
    aborted = sorted((each.first_offset, each.producer_id) for each in data.aborted_transactions or ())
    open_ids: set[int] = set()  # of producers whose transaction, here, was aborted
    raw = bytes(data.records or b"")
    for position, header in headers(raw):
        while aborted and aborted[0][0] <= header.last_offset:
            open_ids.add(aborted.pop(0)[1])
        if header.is_control:
            if _ends_aborted(raw, position):
                open_ids.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in open_ids):
            found += [each for each in _records(topic, data.partition_index, raw, position) if each.offset >= offset]
        offset = max(offset, header.next_offset)
    return Fetched(found, offset)


def _ends_aborted(raw: bytes, position: int) -> bool:
    return any(
        read_control(each).type == ControlType.ABORT for each in read_records(raw, position, max_bytes=BATCH_BYTES_MAX)
    )


def _records(topic: str, partition: int, raw: bytes, position: int) -> Iterator[Record]:
    for each in read_records(raw, position, max_bytes=BATCH_BYTES_MAX):
        yield Record(
            topic,
            partition,
            each.offset,
            each.timestamp,
            each.key,
            each.value,
            list(each.headers),
        )


def brief(record: Record) -> str:
    """A record in a few words, for people."""
    value = repr(record.value)
    return f"{record.topic}-{record.partition}@{record.offset} {value if len(value) <= 60 else value[:57] + '...'}"
