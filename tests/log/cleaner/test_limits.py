"""What compaction cannot do is told once and left alone; nothing is lost, and the other logs go on."""

from __future__ import annotations

import errno
import itertools
import logging

import pytest
import trio
import trio.testing

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.config import TopicConfig
from kbroker.log.cleaner import passes
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from tests.log.cleaner.tools import COMPACT, Story, World, all_records, compact, orders, put
from tests.log.tools import TOPIC_ID, log_for


def made(world: World, count: int = 80) -> tuple[LogDirectory, PartitionLog, Story]:
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    story = Story(log, 5)
    story.write(count)
    story.end_all()
    return directory, log, story


def left_over(world: World) -> list[str]:
    return [name for name in world.disk.list_dir("orders-0") if name.endswith((".cleaned", ".swap"))]


def damage(world: World, log: PartitionLog) -> None:
    """Flip a bit in the middle of the third segment."""
    path = log.segments[2].path
    data = bytearray(world.disk.read(path))
    data[len(data) // 2] ^= 1
    world.disk.write_atomic(path, data)
    log.segments[2].close()


async def test_L4_a_damaged_batch_is_told_of_once_and_never_copied(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    directory, log, _ = made(world)
    damage(world, log)
    path, data = log.segments[2].path, world.disk.read(log.segments[2].path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(KafkaError, match="damage at byte") as caught:
                await compact(directory, log)
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR and path in caught.value.message
    assert len(caplog.records) == 1
    assert world.disk.read(path) == data and not left_over(world)
    assert log.offline is None and log.cleaned_to == 0
    assert [each.segments[2].path for each in (log,)] == [path]


@pytest.mark.parametrize("kept", [0, 5, 60, 61, 100, -1, -61], ids=str)
async def test_L4_a_segment_that_is_shorter_than_it_should_be_is_damaged(kept: int) -> None:
    world = World()
    directory, log, _ = made(world)
    path = log.segments[2].path
    data = world.disk.read(path)
    world.disk.write_atomic(path, data[:kept])
    log.segments[2].close()
    with pytest.raises(KafkaError, match="damage at byte"):
        await compact(directory, log)
    assert log.cleaned_to == 0 and not left_over(world)


async def test_a_damaged_log_does_not_hold_up_the_others(autojump_clock: trio.testing.MockClock) -> None:
    world = World(log_cleaner_backoff_ms=100)
    directory, log, _ = made(world)
    damage(world, log)
    config = TopicConfig(**COMPACT)  # type: ignore[arg-type]
    other = log_for(directory, "payments", 0, TOPIC_ID, config)
    for number in range(200):
        put(other, (b"key", b"%d" % number))
    other.guard(other.end)
    log.guard(log.end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.cleaner.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert other.cleaned_to == other.active.base_offset > 0
    assert "damage" in directory.cleaner.left[log].message
    assert other not in directory.cleaner.left


async def test_a_batch_that_is_larger_than_the_cleaners_memory_is_named_with_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for compression in (0, 3):
        world = World(log_cleaner_dedupe_buffer_size=1 << 20)
        directory = world.start()
        log = orders(directory, segment_bytes=10 << 20, max_message_bytes=10 << 20)
        put(log, (b"small", b"value"))
        put(log, (b"large", b"v" * (2 << 20)), compression=compression)
        log.roll()
        with pytest.raises(KafkaError) as caught:
            await compact(directory, log)
        text = "the batch at offset 1 takes"
        assert text in caught.value.message and "log.cleaner.dedupe.buffer.size allows 1048576" in caught.value.message
        assert log.cleaned_to == 0 and not left_over(world)
        directory.reconfigure(directory.config.with_values({"log.cleaner.dedupe.buffer.size": 8 << 20}))
        await compact(directory, log)  # on demand it is tried again


async def test_L9_a_disk_that_fills_at_any_step_loses_nothing_and_is_tried_again() -> None:
    for room in itertools.count(0, 37):
        world = World()
        directory, log, story = made(world, 40)
        world.disk.capacity = world.disk.used + room
        try:
            outcome = await compact(directory, log)
        except KafkaError as error:
            assert "no space left" in error.message, room
            assert log.offline is None and not left_over(world), room
            left = {record.offset for record in all_records(log)}
            assert left >= {row.offset for row in story.expected(log.segments[-1].base_offset)}, room
            world.disk.capacity = 1 << 30
            outcome = await compact(directory, log)
            assert all_records(log) == story.expected(outcome.cleaned_to)
        else:
            break
    assert room > 300


@pytest.mark.parametrize("operation", ["open", "pread", "append", "sync", "rename", "sync_dir", "write_atomic"])
async def test_L9_an_operation_of_the_disk_that_fails_loses_nothing(operation: str) -> None:
    nth = 0
    while True:
        nth += 1
        world = World()
        directory, log, story = made(world, 40)
        world.disk.fail(operation, "*", nth=nth, error=errno.EIO)
        failed = False
        try:
            await compact(directory, log)
        except KafkaError:
            failed = True
        world.disk.heal()
        if log.offline is not None:
            log = orders(directory, segment_bytes=1000)
        assert not left_over(world), nth
        left = {record.offset for record in all_records(log)}
        assert left >= {row.offset for row in story.expected(log.segments[-1].base_offset)}, nth
        outcome = await compact(directory, log)
        assert all_records(log) == story.expected(outcome.cleaned_to), nth
        if not failed:
            break
    assert nth > 1


async def test_a_helper_that_dies_is_a_reason_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    directory, log, story = made(world, 40)

    class Lost:
        async def step(self) -> None:
            raise OSError("the process 4711, which was computing, has ended")

        async def __aenter__(self) -> Lost:
            return self

        async def __aexit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(type(directory.env.helper), "begin", lambda self, work, *args: Lost())
    with pytest.raises(KafkaError, match="4711"):
        await compact(directory, log)
    assert directory.cleaner.left[log].until is not None
    monkeypatch.undo()
    outcome = await compact(directory, log)
    assert all_records(log) == story.expected(outcome.cleaned_to)


async def test_a_bug_that_a_log_brings_to_light_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    directory, log, _ = made(world, 40)

    def broken(disk: object, job: object) -> object:
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(passes, "run", broken)
    with pytest.raises(KafkaError, match="ZeroDivisionError"):
        await compact(directory, log)
    assert "could not be compacted" in caplog.text


async def test_no_more_is_read_and_written_in_a_second_than_is_allowed(autojump_clock: trio.testing.MockClock) -> None:
    world = World(log_cleaner_io_max_bytes_per_second=1000.0)
    directory, log, _ = made(world)
    began, size = trio.current_time(), log.size
    outcome = await compact(directory, log)
    assert trio.current_time() - began >= (outcome.bytes_before + outcome.bytes_after) / 1000
    assert outcome.bytes_before > size / 2 and outcome.seconds >= 1
