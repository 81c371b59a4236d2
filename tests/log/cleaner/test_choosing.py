"""Which part of a log is compacted, and when it is worth it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kbroker.config import TopicConfig
from kbroker.log.cleaner.choosing import Span, span_of
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.watermark import Watermark
from tests.log.cleaner.tools import COMPACT, DAY_MS, World, all_records, compact, end_transaction, orders, put
from tests.log.tools import NOW, TOPIC_ID, log_for

MEGABYTE = 1024 * 1024


def made(**config: object) -> tuple[World, LogDirectory, PartitionLog]:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000, **config)
    for number in range(60):
        put(log, (b"key-%d" % (number % 10), b"v" * 50), at=NOW + number * 1000)
    log.guard(log.end)
    return world, directory, log


def span(log: PartitionLog, now_ms: int = NOW) -> Span:
    found = span_of(log, now_ms)
    assert found is not None
    return found


def end_of(log: PartitionLog, now_ms: int = NOW) -> int:
    return span(log, now_ms).segments[-1].next_offset


def test_L9_the_active_segment_is_never_compacted() -> None:
    _, _, log = made()
    assert end_of(log) == log.active.base_offset
    log.roll()
    assert end_of(log) == log.end.value


def test_L9_nothing_at_or_above_the_high_watermark_is_compacted() -> None:
    _, _, log = made()
    third = log.segments[2]
    log.guard(Watermark(third.next_offset - 1))
    assert end_of(log) == third.base_offset
    log.guard(Watermark(0))
    assert span_of(log, NOW) is None


def test_L9_nothing_of_an_open_transaction_is_compacted_nor_what_is_behind_it() -> None:
    _, _, log = made()
    first = put(log, (b"key-1", b"v"), producer=1, sequence=0, transactional=True)
    for number in range(60):
        put(log, (b"key-%d" % (number % 10), b"v" * 50))
    log.guard(log.end)
    assert log.segments[-1].base_offset > first >= end_of(log)
    end_transaction(log, 1, commit=True)
    log.guard(log.end)
    assert end_of(log) == log.active.base_offset > first


def test_what_somebody_still_needs_is_not_compacted() -> None:
    _, _, log = made()
    log.held_from = log.segments[3].base_offset + 1
    assert end_of(log) == log.segments[3].base_offset


def test_L9_a_record_stays_for_min_compaction_lag() -> None:
    _, _, log = made(min_compaction_lag_ms=30_000)
    now_ms = NOW + 60_000
    first_young = next(segment for segment in log.segments if segment.largest()[0] > now_ms - 30_000)
    assert end_of(log, now_ms) == first_young.base_offset
    assert span_of(log, NOW) is None
    assert end_of(log, NOW + DAY_MS) == log.active.base_offset


async def test_the_dirty_share_decides() -> None:
    world, directory, log = made()
    assert span(log).ratio == 1.0 and span(log).is_worth_it(0.99)
    await compact(directory, log)
    assert not span(log).is_worth_it(0.0)
    clean = sum(segment.size for segment in log.segments[:-1])
    put(log, (b"new", b"v" * 100))
    log.roll()
    log.guard(log.end)
    found = span(log)
    assert found.clean_bytes == clean and found.dirty_from == log.cleaned_to
    assert found.ratio == found.dirty_bytes / (clean + found.dirty_bytes)
    assert found.is_worth_it(found.ratio - 0.01) and not found.is_worth_it(found.ratio)


async def test_what_waits_for_longer_than_max_compaction_lag_is_due() -> None:
    world, directory, log = made(max_compaction_lag_ms=DAY_MS)
    assert not span(log, NOW + DAY_MS).is_due
    assert span(log, NOW + DAY_MS + 1).is_due
    await compact(directory, log)
    assert not span(log, NOW + 10 * DAY_MS).is_due, "nothing is dirty"


def test_a_compacted_topic_rolls_in_time_for_max_compaction_lag() -> None:
    world = World()
    log = orders(world.start(), max_compaction_lag_ms=5000)
    put(log, (b"key", b"v"), at=NOW)
    put(log, (b"key", b"v"), at=NOW + 5000)
    assert len(log.segments) == 1
    put(log, (b"key", b"v"), at=NOW + 5001)
    assert len(log.segments) == 2


async def test_the_dirtiest_is_compacted_first_and_all_that_are_worth_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(log_cleaner_backoff_ms=1000)
    directory = world.start()
    logs = []
    for partition, (count, keys) in enumerate(((15, 15), (200, 5), (80, 8))):
        config = TopicConfig(**{**COMPACT, "segment_bytes": 1000})  # type: ignore[arg-type]
        log = log_for(directory, "orders", partition, TOPIC_ID, config)
        for number in range(40):
            put(log, (b"key-%d" % number, b"v" * 50))
        await compact(directory, log)
        for number in range(count):
            put(log, (b"key-%d" % (number % keys), b"v" * 50))
        log.guard(log.end)
        logs.append(log)
    done: list[int] = []
    inner = directory.cleaner._attempt

    async def noting(each: PartitionLog, force: bool) -> object:
        assert len(directory.cleaner._busy) == 1
        done.append(logs.index(each))
        return await inner(each, force)

    monkeypatch.setattr(directory.cleaner, "_attempt", noting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.cleaner.run)
        await trio.sleep(10)
        assert done == [1, 2]
        put(logs[0], *((b"key-%d" % number, b"v" * 50) for number in range(40)))
        logs[0].roll()
        logs[0].guard(logs[0].end)
        await trio.sleep(2)
        assert done == [1, 2, 0]
        nursery.cancel_scope.cancel()


async def test_a_log_that_somebody_asks_for_while_it_is_chosen_is_compacted_once_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World(log_cleaner_backoff_ms=100)
    directory = world.start()
    logs = []
    for partition in range(3):
        config = TopicConfig(**{**COMPACT, "segment_bytes": 1000, "min_compaction_lag_ms": 1})  # type: ignore[arg-type]
        log = log_for(directory, "orders", partition, TOPIC_ID, config)
        for number in range(60):
            put(log, (b"key-%d" % (number % (partition + 2)), b"v" * 50), at=NOW - 1000)
        log.guard(log.end)
        for segment in log.segments[:-1]:
            segment.release()  # so that a worker is asked for their timestamps, log by log
            segment._largest = None
        logs.append(log)
    gate = world.offload.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.cleaner.run)
        await trio.testing.wait_all_tasks_blocked()
        for log in logs:
            nursery.start_soon(directory.cleaner.compact, log)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert all(log.cleaned_to == log.active.base_offset for log in logs)


async def test_nothing_is_compacted_by_itself_that_should_not_be(autojump_clock: trio.testing.MockClock) -> None:
    for configs, config in (
        ({"log_cleaner_enable": False}, {}),
        ({"log_cleaner_threads": 0}, {}),
        ({}, {"cleanup_policy": "delete"}),
    ):
        world = World(log_cleaner_backoff_ms=100, **configs)
        directory = world.start()
        log = orders(directory, segment_bytes=1000, **config)
        for number in range(60):
            put(log, (b"key-%d" % (number % 10), b"v" * 50))
        log.guard(log.end)
        with trio.move_on_after(5):
            await directory.cleaner.run()
        assert log.cleaned_to == 0
        count = len(all_records(log))
        await compact(directory, log)  # on demand, if its policy is to
        assert (len(all_records(log)) < count) == log.config.compacts


async def test_logs_of_internal_topics_stay_short_on_every_replica(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever leads one reads it whole, and may have been a follower until now: it closes segments by itself."""
    world = World()
    directory = world.start()
    config = TopicConfig(cleanup_policy="compact", segment_bytes=100 * MEGABYTE)
    log = log_for(directory, "__consumer_offsets", 0, TOPIC_ID, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        for n in range(3000):
            put(log, (b"%d" % (n % 10), b"x" * 1000))
            log.guard(log.end)
            if not n % 100:
                await trio.sleep(1)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert log.size < 1.2 * MEGABYTE and log.end.value == 3000
    assert len({record.key for record in all_records(log)}) == 10
