"""What consumers see of a log that hides records for later: all the rest, and how to get on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.records import BatchHeader, build_batch, headers
from kbroker.env import FileSlice
from kbroker.log import scan
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import LOG_END, Partition
from kbroker.replication.reads import NO_SCAN, SCANNED, SCANNED_IN_PART, ReadResult
from kbroker.replication.visible import BATCHES_MAX
from tests.log.tools import NOW, TOPIC_ID, cut_to, new_disk, open_log

MOST = 1 << 20


def partition_of(log: PartitionLog) -> Partition:
    partition = Partition("t", 0, TOPIC_ID, log, 1)
    partition.leading = partition._is_sole = True
    return partition


def append(partition: Partition, *kinds: str, size: int = 50) -> None:
    """A batch for each: "h" is hidden, all others are seen."""
    for kind in kinds:
        is_hidden = kind == "h"
        records = [(NOW, b"\x00\x00\x4b\x42", b"v" * size)] * 2
        batch = build_batch(records, control=is_hidden, base_sequence=-3 if is_hidden else -1)
        partition.log.append_hidden(batch, leader_epoch=0, now_ms=NOW)
    partition.follow_log()


def batches(result: ReadResult) -> Iterator[BatchHeader]:
    data = b"".join([part.read() if isinstance(part, FileSlice) else part for part in result.slices])
    return (header for _, header in headers(data))


def is_marker(header: BatchHeader) -> bool:
    return header.is_control and header.producer_id == -1 and header.base_sequence == -1 and header.count == 1


def seen(partition: Partition, bytes_max: int = MOST) -> list[int]:
    """The offsets of the batches that a consumer gets, who goes on behind the last of each answer."""
    offset, found = 0, []
    while offset < partition.log.end.value:
        rows = list(batches(partition.read(offset, bytes_max)))
        assert rows and rows[-1].next_offset > offset, "it gets on"
        for header in rows:
            assert is_marker(header) or not header.is_control
            found += [] if header.is_control else [header.base_offset]
        assert not [row for row in rows[:-1] if row.is_control], "one marker, at the end"
        offset = rows[-1].next_offset
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from("hvv"), min_size=1, max_size=40), st.sampled_from([1, 400, MOST]))
def test_all_but_what_is_hidden_is_seen(kinds: list[str], bytes_max: int) -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, *kinds)
    assert seen(partition, bytes_max) == [2 * n for n, kind in enumerate(kinds) if kind != "h"]


def test_a_follower_gets_everything() -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, "v", "h", "v")
    result = partition.read(0, MOST, isolation=LOG_END)
    assert [header.base_sequence for header in batches(result)] == [-1, -3, -1] and result.scan == NO_SCAN


def test_what_ends_hidden_ends_with_a_marker_that_does_not_count() -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, "h", "h")
    result = partition.read(0, MOST)
    [marker] = batches(result)
    assert is_marker(marker) and marker.base_offset == 3
    assert (result.length, result.scan) == (0, SCANNED)


def test_a_walk_is_bounded() -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, *["v", "h"] * BATCHES_MAX, size=1)
    result = partition.read(0, MOST)
    assert len(list(batches(result))) == BATCHES_MAX // 2 + 1 and result.scan == SCANNED_IN_PART
    assert len(seen(partition)) == BATCHES_MAX


def test_a_log_that_hides_nothing_is_read_as_ever() -> None:
    partition = partition_of(open_log(new_disk()))
    append(partition, "v", "v", "v")
    result = partition.read(0, MOST)
    assert len(list(batches(result))) == 3 and len(result.slices) == 1 and result.scan == NO_SCAN


def test_what_was_hidden_stays_so_when_delays_are_turned_off() -> None:
    log = open_log(new_disk(), kbroker_delay_enable=True)
    partition = partition_of(log)
    append(partition, "v", "h")
    log.reconfigure(open_log(new_disk()).config)
    assert seen(partition) == [0]


def test_a_replica_that_comes_when_delays_are_turned_off_hides_what_was_hidden() -> None:
    leader, replica = partition_of(open_log(new_disk(), kbroker_delay_enable=True)), partition_of(open_log(new_disk()))
    append(leader, "v", "h", "v")
    data = b"".join(part.read() for part in leader.log.read(0, MOST, 6) if isinstance(part, FileSlice))
    replica.log.append_replicated(data, leader_epoch=0, now_ms=NOW)
    replica.follow_log()
    assert seen(replica) == [0, 4]


def test_available_says_there_is_something() -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, "h", "v")
    assert partition.available(0, MOST) > 0


def test_who_waits_behind_what_is_hidden_looks_at_what_is_new_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = partition_of(open_log(new_disk(), kbroker_delay_enable=True))
    append(partition, "v")
    walked = 0

    def counted(*args: Any, **options: Any) -> Iterator[tuple[int, BatchHeader]]:
        nonlocal walked
        for each in walk(*args, **options):
            walked += 1
            yield each

    walk = scan.walk
    monkeypatch.setattr(scan, "walk", counted)
    for n in range(100):
        append(partition, "h")
        assert partition.available(2, MOST) > 0
        [marker] = batches(partition.read(2, MOST))
        assert is_marker(marker) and marker.base_offset == 2 * n + 3
        assert partition.available(2, MOST) == 0
    assert walked < 2 * 100  # once each, and to find where to begin
    append(partition, "v", "h")
    rows = list(batches(partition.read(2, MOST)))
    assert [row.base_offset for row in rows] == [202, 205] and is_marker(rows[1])
    assert seen(partition) == [0, 202]
    assert len(list(batches(partition.read(2, MOST, isolation=LOG_END)))) == 102


def test_what_was_hidden_before_a_cut_hides_nothing_after_it() -> None:
    log = open_log(new_disk(), kbroker_delay_enable=True)
    partition = partition_of(log)
    append(partition, "v", "h", "h")
    assert seen(partition) == [0]
    cut_to(log, 2)
    append(partition, "v", "v")
    assert seen(partition) == [0, 2, 4]
