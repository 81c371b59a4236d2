"""When a deletion may be forgotten: tombstones and markers, by the data clock; and producers, who are not forgotten."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kafka_wire.records import build_batch, read_header
from kbroker.log.cleaner.job import Covered
from kbroker.log.log import PartitionLog
from tests.log.cleaner.tools import (
    DAY_MS,
    World,
    all_batches,
    all_records,
    compact,
    end_transaction,
    markers,
    orders,
    put,
)
from tests.log.tools import NOW, producers_of


def fill(log: PartitionLog, count: int = 30) -> None:
    for number in range(count):
        put(log, (b"key-%d" % number, b"v" * 50))


def tombstones(log: PartitionLog) -> list[bytes | None]:
    return [record.key for record in all_records(log) if record.value is None]


@pytest.mark.parametrize("compression", [0, 4])
async def test_L9_a_tombstone_stays_for_delete_retention_after_it_was_first_compacted_and_then_goes(
    compression: int,
) -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    fill(log)
    put(log, (b"key-3", None), (b"key-4", b"new"), compression=compression)
    fill(log, 3)
    log.roll()
    outcome = await compact(directory, log)
    assert outcome.tombstones == 1
    assert tombstones(log) == [b"key-3"]
    dated = [header for header, _ in all_batches(log) if header.has_delete_horizon]
    assert [header.base_timestamp for header in dated] == [NOW + DAY_MS]
    stamps = [record.timestamp for record in all_records(log) if record.key in (b"key-3", b"key-4")]
    assert stamps == [NOW, NOW + 1], "a batch that is dated has its timestamps all the same"
    world.clock.now_ms = NOW + DAY_MS - 1
    await compact(directory, log)
    assert tombstones(log) == [b"key-3"]
    world.clock.now_ms = NOW + DAY_MS
    await compact(directory, log)
    assert tombstones(log) == []
    assert [record.value for record in all_records(log) if record.key == b"key-4"] == [b"new"]


async def test_L9_a_tombstone_goes_though_nothing_new_comes(autojump_clock: trio.testing.MockClock) -> None:
    world = World(log_cleaner_backoff_ms=1000)
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    fill(log)
    put(log, (b"key-3", None))
    log.roll()
    log.guard(log.end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.cleaner.run)
        await trio.sleep(5)
        assert tombstones(log) == [b"key-3"] and log.horizon_ms == NOW + DAY_MS
        world.clock.now_ms += DAY_MS
        await trio.sleep(5)
        assert tombstones(log) == []
        assert log.horizon_ms > world.clock.now_ms
        nursery.cancel_scope.cancel()


async def test_L9_markers_stay_while_their_transaction_does_and_then_as_long_as_tombstones() -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=600)
    put(log, (b"a", b"1"), producer=1, sequence=0, transactional=True)
    committed = end_transaction(log, 1, commit=True)
    put(log, (b"b", b"2"), producer=2, sequence=0, transactional=True)
    aborted = end_transaction(log, 2, commit=False)
    for producer in (1, 2):  # they go on, so that nothing below is their last
        put(log, (b"c", b"3"), producer=producer, sequence=1)
    fill(log)
    await compact(directory, log)
    assert markers(log) == [committed, aborted], (
        "what was aborted is gone, its marker is seen to be alone the next time"
    )
    await compact(directory, log)
    put(log, (b"a", b"newer"))
    log.roll()
    await compact(directory, log)
    assert markers(log) == [committed, aborted]
    world.clock.now_ms += DAY_MS
    await compact(directory, log)
    assert markers(log) == [committed], "its record went a day later"
    world.clock.now_ms += DAY_MS
    await compact(directory, log)
    assert markers(log) == []
    assert log.producers.transactions.ongoing == {}


async def test_L9_of_a_producer_without_sequences_one_marker_stays_however_many_there_were() -> None:
    """As the group coordinator writes them, for offsets in transactions: for years, in one epoch."""
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1500)
    for turn in range(4):
        for number in range(30):
            put(log, (b"offset", b"%d" % number), producer=7, transactional=True)
            last = end_transaction(log, 7, commit=True)
        log.roll()
        for _ in range(2):
            await compact(directory, log)
            world.clock.now_ms += DAY_MS
        await compact(directory, log)
        assert len(markers(log)) <= 2, turn  # that of the value that is left, and the last
        assert last in markers(log)
        world_epoch = log.producers.by_id[7].epoch
        assert world_epoch == 0
    again = producers_of(log)
    assert 7 in again


async def test_L9_P1_the_last_sequence_of_each_producer_is_left_and_found_without_a_snapshot() -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    for sequence in range(40):
        put(log, (b"key", b"v" * 30), producer=sequence % 4, sequence=sequence // 4)
    fill(log)
    await compact(directory, log)
    empty = [(header.producer_id, header.last_sequence) for header, _ in all_batches(log) if not header.count]
    assert {(producer, 9) for producer in range(3)} <= set(empty)
    world.disk.kill()
    for name in world.disk.list_dir("orders-0"):
        if name.endswith(".snapshot"):
            world.disk.remove(f"orders-0/{name}")
    again = orders(world.start(), segment_bytes=1000)
    for producer in range(4):
        put(again, (b"key", b"v"), producer=producer, sequence=10)


async def test_what_is_hidden_from_consumers_goes_with_what_nobody_needs_any_more() -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    for number in range(5):
        batch = build_batch([(NOW, b"\\x00\\x00KB", b"%d" % number)], control=True, base_sequence=-2)
        log.append(batch, read_header(batch), leader_epoch=0, now_ms=NOW)
    fill(log)
    await compact(directory, log)
    assert not [header for header, records in all_batches(log) if header.is_control and records]


async def test_a_pass_covers_as_much_as_the_map_holds_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from kbroker.log.cleaner import offset_map, passes

    monkeypatch.setattr(offset_map, "MEMORY_MIN", 1)
    monkeypatch.setattr(passes, "OffsetMap", lambda memory: offset_map.OffsetMap(24 * 40))
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1500)
    for _ in range(3):
        fill(log, 100)
    log.roll()
    covered = [0]
    while covered[-1] < log.end.value:
        outcome = await compact(directory, log)
        assert outcome.cleaned_to > covered[-1]
        covered.append(outcome.cleaned_to)
    assert len(covered) > 5
    assert Covered(1).offset == 1
    await compact(directory, log)
    newest = {record.key: record.offset for record in all_records(log)}
    assert sorted(newest.values()) == list(range(200, 300))
