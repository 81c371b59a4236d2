"""Judging what a leader sends: batches that are to be taken as they are (B4). Decides only; the log writes.

What is behind the first batch that is not whole, or of a later leader epoch than the one it was fetched in, is left
out: what is sent is cut at a number of bytes, and a follower of that epoch first checks whether its log is a part of
the new leader's (KAFKA-18723).
"""

from __future__ import annotations

from collections.abc import Sequence

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import HEADER_SIZE, LENGTH_OFFSET, MAGIC, BatchHeader, Buffer, check_crc, read_header


def check(
    data: Buffer, next_offset: int, latest_epoch: int, leader_epoch: int, may_begin_below: bool
) -> list[BatchHeader]:
    """The headers of the batches that may be appended, which lie back to back from the beginning of data.

    Args:
        next_offset: the log's end. Batches rise from there; compaction leaves gaps.
        latest_epoch: the log's. Epochs do not fall (R11).
        leader_epoch: the one the batches were fetched in.
        may_begin_below: the first batch may begin below next_offset, if it ends above.

    Raises KafkaError CORRUPT_MESSAGE, NOT_LEADER_OR_FOLLOWER for an epoch that falls.
    """
    headers: list[BatchHeader] = []
    view, length = memoryview(data), len(data)
    position = 0
    while position + HEADER_SIZE <= length:
        header = read_header(view, position)
        after = position + header.length + LENGTH_OFFSET
        if after > length or header.leader_epoch > leader_epoch:
            break
        _check_one(view, position, header, next_offset, latest_epoch, may_begin_below and not position)
        headers.append(header)
        next_offset, latest_epoch, position = header.next_offset, header.leader_epoch, after
    return headers


def has_gaps(headers: Sequence[BatchHeader], next_offset: int) -> bool:
    """Whether an offset is missing between batches, or before the first of them."""
    present = sum([header.last_offset_delta for header in headers]) + len(headers)
    return headers[-1].next_offset - next_offset > present


def _check_one(
    data: memoryview, position: int, header: BatchHeader, next_offset: int, latest_epoch: int, may_begin_below: bool
) -> None:
    base_offset, delta = header.base_offset, header.last_offset_delta
    if (
        header.magic != MAGIC
        or delta < 0
        or not 0 <= header.count <= delta + 1
        or not check_crc(data, position, header)
    ):
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"the leader sent no whole batch at offset {next_offset}")
    if base_offset < next_offset and not (may_begin_below and base_offset >= 0 and base_offset + delta >= next_offset):
        text = f"the leader sent a batch at offset {base_offset} where the log ends at {next_offset}"
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, text)
    if header.leader_epoch < latest_epoch:
        text = f"the leader sent a batch of epoch {header.leader_epoch}, the log is at {latest_epoch}"
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, text)
