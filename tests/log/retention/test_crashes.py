"""Retention that is cut short at any operation of the disk: a kill, a power failure, or a disk that refuses."""

from __future__ import annotations

from itertools import count

import pytest

from kbroker.config import TopicConfig
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from kbroker.watermark import Watermark
from tests.log.test_directory import World
from tests.log.tools import NOW, TOPIC_ID, Fate, append, contents, log_for

CONFIG = TopicConfig(segment_bytes=400, index_interval_bytes=100, retention_ms=5000)
SECONDS = 12  # of records: two in a second, which are a segment
EXPIRED = 12  # offset: at NOW + 11 s what is older than 5 s lies below


def opened(directory: LogDirectory) -> PartitionLog:
    log = log_for(directory, "orders", 0, TOPIC_ID, CONFIG)
    bound = Watermark()
    bound.advance(log.end.value)
    log.guard(bound)
    return log


async def filled(world: World) -> tuple[LogDirectory, PartitionLog]:
    directory = world.start()
    log = opened(directory)
    for number in range(2 * SECONDS):
        append(log, b"%d:" % number + b"x" * 100, at=NOW + number // 2 * 1000, producer=7, sequence=number)
    await log.flush(world.offload)
    world.clock.now_ms = NOW + (SECONDS - 1) * 1000
    return directory, opened(directory)


def values(log: PartitionLog) -> list[int]:
    found = [(offset, int((value or b"").partition(b":")[0])) for offset, value in contents(log)]
    assert all(offset == value for offset, value in found)
    return [offset for offset, _ in found]


def names_of(world: World) -> list[str]:
    return [name for name in world.disk.list_dir("orders-0") if name[:20].isdigit()]


def segments_on(world: World) -> list[int]:
    return [int(name[:20]) for name in names_of(world) if name.endswith(".log")]


@pytest.mark.parametrize("has_power", [True, False], ids=["killed", "power failure"])
async def test_L8_cut_short_anywhere_the_start_only_rises_and_no_record_above_it_is_missing(has_power: bool) -> None:
    for steps in count():
        world = World(MemoryDisk(seed=steps))
        directory, log = await filled(world)
        told = 0
        world.disk.alive = Fate(steps)
        try:
            await directory.retainer.apply()
            told = log.start_offset
            world.clock.now_ms += 120_000  # now they are removed; and more expires
            await directory.retainer.apply()
            is_done = True
        except Killed:
            is_done = False
        told = max(told, log.start_offset)
        world.disk.alive = lambda: None
        world.disk.kill() if has_power else world.disk.power_loss()
        directory = world.start()
        log = opened(directory)
        assert log.start_offset >= told, f"after {steps} operations"
        assert values(log) == list(range(log.start_offset, 2 * SECONDS)), steps
        assert log.producers.by_id[7].batches[-1].last_sequence == 2 * SECONDS - 1
        for _ in range(3):  # what is not durable goes the next time
            await directory.retainer.apply()
            await log.flush(world.offload)
        assert log.segments[0].base_offset == log.start_offset >= EXPIRED, "what was left below is gone, too"
        await directory.close()
        assert segments_on(world) == [segment.base_offset for segment in log.segments]
        if is_done:
            break
    assert steps > 50


@pytest.mark.parametrize("operation", ["rename", "sync_dir", "remove", "write_atomic", "exists", "open", "read"])
async def test_a_disk_that_refuses_once_anywhere_costs_nothing_but_time(operation: str) -> None:
    for nth in count(1):
        world = World(MemoryDisk(seed=nth))
        directory, log = await filled(world)
        world.disk.fail(operation, nth=nth)
        await directory.retainer.apply()
        has_failed = any(fault.seen >= nth for fault in world.disk.volume.faults)
        world.disk.heal()
        await directory.retainer.apply()
        assert log.offline is None
        assert (log.segments[0].base_offset, log.start_offset) == (EXPIRED, EXPIRED), nth
        assert values(log) == list(range(EXPIRED, 2 * SECONDS))
        assert min(int(name[:20]) for name in names_of(world) if not name.endswith(".deleted")) == EXPIRED
        await directory.close()
        if not has_failed:
            break


async def test_F10_a_full_disk_is_no_reason_to_keep_what_is_old() -> None:
    world = World()
    directory, log = await filled(world)
    world.disk.capacity = world.disk.used
    await directory.retainer.apply()
    world.clock.now_ms += CONFIG.file_delete_delay_ms
    used = world.disk.used
    await directory.retainer.remove_due()
    assert log.start_offset == EXPIRED and world.disk.used < used * 2 / 3
