"""Killed, or without power, at each operation on the disk around markers: a log says what its batches say."""

from __future__ import annotations

import pytest
import trio

from kafka_wire.records import headers
from kbroker.log.derived.transactions import read_marker
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from tests.log.derived.test_aborted import named
from tests.log.test_transactions import mark, write
from tests.log.tools import Fate, Worker, append, make_durable, open_log

CONFIG = {"segment_bytes": 500, "index_interval_bytes": 100}


def live(disk: MemoryDisk, durable: list[int]) -> None:
    """A short life: transactions that cross each other and the borders of segments, flushes, a truncation."""
    log = open_log(disk, **CONFIG)
    for n in range(9):
        write(log, n % 2, n // 2)
        if n % 3 == 2:
            mark(log, n % 2, commit=n == 5)
        if n % 4 == 3:
            append(log, b"plain")
            make_durable(log)
            durable[:] = [log.flushed.value]
    log.truncate_to(log.end.value - 2)
    trio.run(log.settle, Worker())
    durable[:] = [min(log.flushed.value, *durable)]
    append(log, b"other")
    log.roll()
    mark(log, 0, commit=False)


def truth(log: PartitionLog) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
    """What the batches say: (producer, first offset, marker's) of all that was aborted; what is open."""
    open_: dict[int, int] = {}
    aborted = []
    data = b"".join(piece.read() for piece in log.read(log.start_offset, 1 << 20, log.end.value))
    for position, header in headers(data):
        if header.is_control:
            marker = read_marker(data[position : position + header.size])
            assert marker is not None
            first = open_.pop(marker.producer_id, None)
            if first is not None and not marker.is_commit:
                aborted.append((marker.producer_id, first, header.base_offset))
        elif header.is_transactional:
            open_.setdefault(header.producer_id, header.base_offset)
    return aborted, open_


def check(log: PartitionLog) -> None:
    aborted, open_ = truth(log)
    end = log.end.value
    for offset in range(end):
        for bound in {offset + 1, min(offset + 4, end), end}:
            expected = [(producer, first) for producer, first, last in aborted if last >= offset and first < bound]
            assert sorted(named(log.aborted_between(offset, bound))) == sorted(expected), (offset, bound)
    assert dict(log.producers.transactions.ongoing) == open_


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
def test_L1_L5_no_crash_leaves_an_index_that_lies(crash: Crash) -> None:
    nth, ended = 0, True
    while ended:
        fate, durable = Fate(nth), [0]
        first = MemoryDisk(seed=nth, alive=fate)
        try:
            live(first, durable)
            ended = False
        except Killed:
            ended = True
        (first.volume.kill if crash is Crash.PROCESS else first.volume.power_loss)()
        disk = MemoryDisk(first.volume)
        log = open_log(disk, crash, recovery_point=durable[0], **CONFIG)
        check(log)
        for number in range(4):  # in the place of what was lost
            append(log, b"later %d" % number)
        for producer in (0, 1):
            mark(log, producer, commit=True)
        check(log)
        disk.kill()
        check(open_log(disk, Crash.PROCESS, recovery_point=durable[0], **CONFIG))
        nth += 1
    assert nth > 100
