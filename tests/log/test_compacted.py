"""A log of which compaction has taken away records: what the rest relies on is there all the same (L9).

What a compaction may leave, another broker's too, is made by hand: batches with fewer records, batches of a producer
without any (they keep its last sequence), and gaps where plain batches were.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kafka_wire.records import BatchHeader, headers, read_header
from kbroker.env import Disk
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from tests.log.test_transactions import CONFIG, check, several_segments, write
from tests.log.tools import contents, new_disk, open_log, producers_of, thinned

MIB = 1 << 20
KEPT: dict[str, Callable[[int], bool]] = {
    "every second record": lambda offset: offset % 2 == 0,
    "no record": lambda offset: False,
}


def compact(disk: Disk, keep: Callable[[int], bool]) -> None:
    """Leave in the closed segments only the records that are to be kept, and all markers."""
    names = sorted(name for name in disk.list_dir("orders-0") if name.endswith(".log"))
    for name in names[:-1]:
        data = disk.read(f"orders-0/{name}")
        found = list(headers(data))
        left = [compacted(data, position, header, keep, found[-1][0]) for position, header in found]
        disk.write_atomic(f"orders-0/{name}", b"".join(left))


def compacted(data: bytes, position: int, header: BatchHeader, keep: Callable[[int], bool], last: int) -> bytes:
    """What is left of a batch. A segment's last one stays, if without records: it says where the segment ends."""
    whole = data[position : position + header.size]
    if header.is_control:
        return whole
    is_bare = not any(map(keep, range(header.base_offset, header.next_offset)))
    if is_bare and header.producer_id < 0 and position != last:
        return b""
    return bytes(thinned(whole, keep))


class Compacted:
    """A log as it was, and as it is after a compaction that took some files with it which are derived from it."""

    def __init__(self, lost: tuple[str, ...], kept: str) -> None:
        disk = new_disk()
        self.was = several_segments(disk)
        log, keep = self.was.log, KEPT[kept]
        markers = {header.base_offset for _, header in headers(read_all(log)) if header.is_control}
        active = log.active.base_offset
        self.left = [row for row in contents(log) if row[0] >= active or row[0] in markers or keep(row[0])]
        disk.kill()
        compact(disk, keep)
        for segment in log.segments[:-1]:
            for suffix in (".index", ".timeindex", *lost):
                if disk.exists(segment.stem + suffix):
                    disk.remove(segment.stem + suffix)
        for name in disk.list_dir("orders-0"):
            if name.endswith(".snapshot") and ".snapshot" in lost:
                disk.remove(f"orders-0/{name}")
        self.log = open_log(disk, Crash.PROCESS, **CONFIG)


def read_all(log: PartitionLog) -> bytes:
    return b"".join(each.read() for each in log.read(log.start_offset, MIB, log.end.value))


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("lost", [(), (".snapshot",), (".txnindex",), (".snapshot", ".txnindex")], ids=str)
def test_L9_offsets_producers_and_transactions_outlive_compaction(lost: tuple[str, ...], kept: str) -> None:
    made = Compacted(lost, kept)
    was, log = made.was, made.log
    assert (log.start_offset, log.end.value) == (was.log.start_offset, was.log.end.value)
    assert contents(log) == made.left
    assert producers_of(log) == producers_of(was.log)
    assert log.producers.transactions.ongoing == was.log.producers.transactions.ongoing
    check(was, log)
    for producer, sequences in was.sequences.items():
        write(log, producer, next(sequences))


@pytest.mark.parametrize("kept", KEPT)
def test_L9_a_read_of_what_is_gone_goes_on_behind_it(kept: str) -> None:
    log = Compacted((), kept).log
    ends = [header.next_offset for _, header in headers(read_all(log))]
    for offset in range(log.end.value):
        (first, *_) = log.read(offset, MIB, log.end.value)
        assert read_header(first.read()).next_offset == min(end for end in ends if end > offset)
