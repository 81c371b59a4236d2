"""The tag index: what it says against a naive list, growing, its file, and what of a file is not believed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.records import build_batch
from kafka_wire.records import headers as batch_headers
from kbroker.log.content.tagged import number_of
from kbroker.log.derived.tags import (
    ALIKE_BYTES_MAX,
    ANY,
    LOOK,
    PIECE_MAX,
    STRETCH_BYTES,
    Piece,
    Search,
    Stretch,
    TagIndex,
)
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.log.segment import Segment
from kbroker.testing.disk import MemoryDisk
from tests.log.tools import NOW, apply_retention, cut_to, make_durable, new_disk, open_log

EU, US = number_of(b"eu"), number_of(b"us")
LARGE = b"v" * 5000  # a batch of such a value has a stretch of its own


def append_tagged(log: PartitionLog, *tags: bytes, value: bytes = LARGE) -> None:
    """One batch: a record for each tag."""
    rows = [(NOW, b"k", value, (("kbroker-tags", each),)) for each in tags] or [(NOW, b"k", value)]
    log.append(build_batch(rows), leader_epoch=0, now_ms=NOW)


def tagged_log(disk: MemoryDisk, *tags: bytes, crash: Crash = Crash.CLEAN, **config: object) -> PartitionLog:
    """A log with a batch for each tag."""
    log = open_log(disk, crash, kbroker_tags_enable=True, **config)
    for each in tags:
        append_tagged(log, each)
    return log


def told(segment: Segment) -> list[tuple[int, int, frozenset[int]]]:
    """(offset, offset behind it, numbers) of each stretch."""
    index = segment.tags_loaded(now=False)
    at, rows = 0, []
    for piece in index.pieces:
        assert piece.position == at, "there is no gap"
        for n in range(len(piece)):
            at, base = piece.ends[n], segment.base_offset
            rows.append((piece.offset_of(n) + base, piece.nexts[n] + base, piece.numbers_of(n)))
    assert at == segment.size
    return rows


# searching

numbers = st.sampled_from([0, 1, 2, 3, 0x100, 0x101, 0x1, 0x10, 0x1000, 0xFFFF])
stretches = st.lists(st.frozensets(numbers, max_size=3), min_size=1, max_size=30)


@settings(deadline=None)
@given(stretches, st.frozensets(numbers, min_size=1, max_size=3))
def test_a_search_finds_what_a_naive_one_does(sets: list[frozenset[int]], wanted: frozenset[int]) -> None:
    piece = Piece(0, 0, [Stretch(n + 1, n + 1, each) for n, each in enumerate(sets)])
    for stop in range(len(sets) + 1):
        search, found, n = Search(piece, [each.to_bytes(2) for each in wanted], stop), [], 0
        while (n := search.next(n)) < stop:
            found.append(n)
            n += 1
        assert found == [n for n in range(stop) if sets[n] & wanted]


# growing


def test_large_batches_have_stretches_of_their_own_and_small_ones_share() -> None:
    log = tagged_log(new_disk(), b"eu", b"us", b"us")
    for _ in range(3):
        append_tagged(log, b"eu", value=b"v")
        append_tagged(log, b"us", value=b"v")
    rows = told(log.active)
    assert rows == [(0, 1, {EU}), (1, 3, {US}), (3, 9, {EU, US})]


def test_stretches_of_small_batches_are_bounded() -> None:
    log = open_log(new_disk(), kbroker_tags_enable=True)
    for n in range(3000):
        append_tagged(log, *([b"eu"] if n % 2 else []), value=b"v" * 30)
    index = log.active.tags_loaded(now=False)
    sizes = [piece.ends[n] - piece.begin_of(n) for piece in index.pieces for n in range(len(piece))]
    assert max(sizes) <= STRETCH_BYTES
    for _ in range(3000):
        append_tagged(log, b"eu", value=b"v" * 30)
    sizes = [piece.ends[n] - piece.begin_of(n) for piece in index.pieces for n in range(len(piece))]
    assert STRETCH_BYTES < max(sizes) <= ALIKE_BYTES_MAX


def test_a_topic_without_tags_has_no_index() -> None:
    log = open_log(disk := new_disk())
    append_tagged(log, b"eu")
    log.roll()
    assert log.active.tags is None and log.segments[0].tags is None
    assert not [name for name in disk.list_dir("orders-0") if name.endswith(".tags")]


def test_followers_note_tags_too() -> None:
    leader, follower = tagged_log(new_disk(), b"eu", b"us"), open_log(new_disk(), kbroker_tags_enable=True)
    data = leader.read(0, 1 << 20, 2)[0].read()
    follower.append_replicated(data, leader_epoch=0, now_ms=NOW)
    assert told(follower.active) == told(leader.active)


def test_what_was_appended_while_it_was_off_is_a_look() -> None:
    log = tagged_log(new_disk(), b"eu")
    on, off = log.config, open_log(new_disk()).config
    log.reconfigure(off)
    append_tagged(log, b"us")
    log.reconfigure(on)
    append_tagged(log, b"us")
    log.reconfigure(off)
    append_tagged(log, b"us")
    assert told(log.active) == [(0, 1, {EU}), (1, 2, {LOOK}), (2, 3, {US}), (3, 4, {LOOK})]


# the file


@pytest.mark.parametrize("crash", [Crash.CLEAN, Crash.PROCESS])
def test_it_is_there_again_after_a_stop_and_what_a_kill_has_lost_is_a_look(crash: Crash) -> None:
    log = tagged_log(disk := new_disk(), b"eu", b"us")
    rows = told(log.active)
    if crash is Crash.CLEAN:
        log.finish()
    again = tagged_log(disk, b"us", crash=crash)
    before = rows if crash is Crash.CLEAN else [(0, 2, {LOOK})]
    assert told(again.active) == [*before, (2, 3, {US})]


def test_closed_segments_have_theirs_in_a_file() -> None:
    log = tagged_log(disk := new_disk(), b"eu", b"us")
    rows = told(log.active)
    log.roll()
    log.release_idle()
    log.release_idle()
    assert log.segments[0].tags is None
    assert told(log.segments[0]) == rows
    assert disk.exists("orders-0/00000000000000000000.tags")


def closed(disk: MemoryDisk, *tags: bytes) -> Segment:
    """A closed segment that is not in memory."""
    log = tagged_log(disk, *tags)
    log.roll()
    log.segments[0].release()
    return log.segments[0]


PATH = "orders-0/00000000000000000000.tags"


def test_damage_is_a_look() -> None:
    for at in range(0, 90, 7):
        segment = closed(disk := new_disk(), b"eu", b"us", b"eu")
        content = bytearray(disk.read(PATH))
        content[at % len(content)] ^= 1 << random.Random(at).randrange(8)
        disk.write_atomic(PATH, bytes(content), sync=False)
        assert told(segment) == [(0, 3, {LOOK})]
        assert not disk.exists(PATH), "it is to be written anew"


def test_a_torn_file_is_a_look_from_there_on() -> None:
    segment = closed(disk := new_disk(), b"eu", b"us")
    content = disk.read(PATH)
    for length in range(len(content)):
        disk.write_atomic(PATH, content[:length], sync=False)
        segment.tags = None
        assert told(segment) == [(0, 2, {LOOK})]


def test_a_missing_file_is_a_look() -> None:
    segment = closed(disk := new_disk(), b"eu", b"us")
    disk.remove(PATH)
    assert told(segment) == [(0, 2, {LOOK})]


def test_a_file_that_tells_of_other_batches_is_not_believed() -> None:
    segment, other = closed(new_disk(), b"eu", b"us"), closed(disk := new_disk(), b"us", b"eu")
    disk.write_atomic(PATH, segment.disk.read(PATH), sync=False)
    assert told(other) == [(0, 2, {LOOK})]


def test_a_cut_takes_the_file_with_it() -> None:
    log = tagged_log(disk := new_disk(), b"eu", b"us")
    log.active.finish()
    assert disk.exists(PATH)
    cut_to(log, 1)
    assert not disk.exists(PATH)
    append_tagged(log, b"eu")
    assert told(log.active) == [(0, 1, {LOOK}), (1, 2, {EU})]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_told_after_a_power_failure_is_true(seed: int) -> None:
    log = tagged_log(disk := new_disk(seed), b"eu")
    make_durable(log)
    for _ in range(3):
        append_tagged(log, b"eu")
        log.active.finish()
    disk.power_loss()
    again = tagged_log(disk, *[b"us"] * 5, crash=Crash.POWER, recovery_point=1)
    kept = again.end.value - 5
    assert again.end.value > 5
    for first, stop, numbers in told(again.active):
        assert numbers in ({LOOK}, {EU} if first < kept else {US}) and (first < kept) == (stop <= kept)


def test_a_segment_takes_its_index_with_it() -> None:
    log = tagged_log(disk := new_disk(), b"eu", retention_bytes=0)
    log.roll()
    append_tagged(log, b"us")
    make_durable(log)
    assert apply_retention(log, NOW, 1)
    assert PATH + ".deleted" in log.take_deleted() and not disk.exists(PATH)


def test_an_index_without_its_segment_is_removed_at_the_next_open() -> None:
    log = tagged_log(disk := new_disk(), b"eu")
    log.finish()
    disk.write_atomic("orders-0/00000000000000000777.tags", b"x", sync=False)
    assert told(open_log(disk, Crash.PROCESS, kbroker_tags_enable=True).active) == [(0, 1, {EU})]
    assert not disk.exists("orders-0/00000000000000000777.tags")


def test_a_disk_that_is_full_costs_the_file_alone() -> None:
    log = tagged_log(disk := new_disk(), b"eu")
    disk.fail("append", "*.tags", times=100)
    log.active.finish()
    append_tagged(log, b"us")
    assert told(log.active) == [(0, 1, {EU}), (1, 2, {US})]
    disk.heal()
    log.roll()
    log.segments[0].release()
    assert told(log.segments[0]) == [(0, 1, {LOOK}), (1, 2, {US})]


# what was not known


def known(segment: Segment, first: int, stop: int) -> Piece:
    """What a look at some batches of a segment finds, a stretch each."""
    rows = []
    position, at = 0, None
    content = segment.disk.read(segment.path)
    for begin, header in batch_headers(content):
        if first <= header.base_offset < stop:
            at = begin if at is None else at
            rows.append(Stretch(begin + header.size, header.next_offset - segment.base_offset, frozenset((EU,))))
            position, crc = begin, header.crc
    assert at is not None
    piece = Piece(at, first - segment.base_offset, rows)
    piece.last_position, piece.last_crc = position, crc
    return piece


@settings(deadline=None)
@given(st.permutations([(0, 2), (2, 3), (3, 6), (6, 7)]))
def test_what_is_looked_at_is_learned_and_written_in_any_order(looks: list[tuple[int, int]]) -> None:
    segment = closed(disk := new_disk(), *[b"eu"] * 7)
    disk.remove(PATH)
    expected = [LOOK] * 7
    for first, stop in looks:
        segment.tags_loaded(now=False).learn(known(segment, first, stop))
        expected[first:stop] = [EU] * (stop - first)
        for _ in range(2):
            by_offset = [numbers for begin, end, numbers in told(segment) for _ in range(begin, end)]
            assert by_offset == [{each} for each in expected]
            segment.release()  # and once more from the file
    assert len(told(segment)) == 7


def test_what_is_known_is_not_learned_again() -> None:
    segment = closed(disk := new_disk(), b"eu", b"us")
    rows, size = told(segment), disk.size(PATH)
    segment.tags_loaded(now=False).learn(known(segment, 0, 1))
    assert told(segment) == rows and disk.size(PATH) == size


def test_pieces_stay_small() -> None:
    index = TagIndex(new_disk(), "x", 0, 0)
    for n in range(5 * PIECE_MAX):
        index.note(n * 5000, 5000, n, n + 1, frozenset((n % 50 + 4,)), 1)
    assert [len(piece) for piece in index.pieces] == [PIECE_MAX] * 5
    total = 5 * PIECE_MAX * 5000
    closed = TagIndex(index.disk, "y", total, 5 * PIECE_MAX)
    closed.adopt([], is_damaged=False)
    for n in range(5 * PIECE_MAX):
        piece = Piece(n * 5000, n, [Stretch((n + 1) * 5000, n + 1, frozenset((n % 50 + 4,)))])
        closed.learn(piece)
    assert max(map(len, closed.pieces)) <= 2 * PIECE_MAX + 1
    assert sum(map(len, closed.pieces)) == 5 * PIECE_MAX and closed.pieces[-1].end == total


def test_too_many_tags_are_any_and_not_looked_at_again_and_again() -> None:
    log = open_log(new_disk(), kbroker_tags_enable=True)
    append_tagged(log, *[b"%d" % n for n in range(300)], value=b"v")
    assert told(log.active) == [(0, 300, {ANY})]
