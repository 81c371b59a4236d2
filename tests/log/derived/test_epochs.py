"""The leader epochs of a log (KIP-101, KIP-279, KIP-320) and their file."""

from __future__ import annotations

import pytest

from kbroker.log.derived.epochs import LeaderEpochs
from tests.log.tools import append, contents, fill, new_disk, open_log


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    made = LeaderEpochs()
    for epoch, start in entries:
        made.assign(epoch, start)
    return made


@pytest.mark.parametrize(
    "asked, answer",
    [
        (-1, (-1, -1)),
        (-2, (-2, 0)),
        (0, (0, 0)),
        (2, (2, 20)),
        (4, (2, 20)),
        (5, (5, 60)),
        (9, (9, 100)),
        (10, (-1, -1)),
    ],
)
def test_where_an_epoch_ends(asked: int, answer: tuple[int, int]) -> None:
    assert epochs((2, 0), (5, 20), (9, 60)).end_offset_for(asked, 100) == answer


def test_no_epoch_is_known_of_an_empty_history() -> None:
    assert epochs().latest == -1 and epochs().end_offset_for(0, 100) == (-1, -1) and epochs().epoch_at(0) == -1


def test_R4_an_epoch_without_records_counts_until_it_is_replaced() -> None:
    made = epochs((1, 0), (2, 100))
    assert made.latest == 2 and made.end_offset_for(1, 100) == (1, 100) and made.end_offset_for(2, 100) == (2, 100)
    made.assign(3, 100)
    assert made.entries == [(1, 0), (3, 100)] and made.end_offset_for(2, 100) == (1, 100)


def test_epochs_never_go_back() -> None:
    made = epochs((3, 0), (5, 10))
    made.assign(5, 50)
    made.assign(4, 60)
    assert made.entries == [(3, 0), (5, 10)]


def test_truncation() -> None:
    made = epochs((1, 0), (2, 10), (3, 20))
    made.truncate_end(20)
    assert made.entries == [(1, 0), (2, 10)]
    made.truncate_end(15)
    assert made.entries == [(1, 0), (2, 10)]
    made.truncate_start(5)
    assert made.entries == [(1, 5), (2, 10)]
    made.truncate_start(12)
    assert made.entries == [(2, 12)] and made.epoch_at(12) == 2 and made.epoch_at(11) == -1


def test_the_file_is_kafkas() -> None:
    disk = new_disk()
    log = open_log(disk)
    append(log, b"a", b"b", leader_epoch=0)
    append(log, b"c", leader_epoch=7)
    content = disk.read("orders-0/leader-epoch-checkpoint")
    assert content == b"0\n2\n0 0\n7 2\n" == log.epochs.content()
    loaded = LeaderEpochs()
    assert loaded.load(disk, "orders-0") and loaded.entries == [(0, 0), (7, 2)]


@pytest.mark.parametrize(
    "content", [b"", b"0\n2\n0 0\n3 17", b"1\n0\n", b"0\n2\n0 0\n", b"0\n1\nx y\n", b"0\n2\n3 0\n2 5\n", b"\xff\xfe"]
)
def test_a_damaged_file_is_not_believed(content: bytes) -> None:
    disk = new_disk()
    disk.make_dirs("d")
    disk.write_atomic("d/leader-epoch-checkpoint", content)
    assert not LeaderEpochs().load(disk, "d")


def test_becoming_leader_writes_nothing() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 2)
    before = disk.read("orders-0/leader-epoch-checkpoint")
    log.epochs.assign(5, log.end.value)
    assert log.epochs.latest == 5 and disk.read("orders-0/leader-epoch-checkpoint") == before
    append(log, leader_epoch=5)
    assert disk.read("orders-0/leader-epoch-checkpoint") == b"0\n2\n0 0\n5 2\n" and len(contents(log)) == 3
