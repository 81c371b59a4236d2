"""Cutting a log: what other files tell of it first, in turns, and starting over; with a kill at any step."""

from __future__ import annotations

import errno

import pytest
import trio

from kafka_wire.errors import KafkaError
from kbroker.config import TopicConfig
from kbroker.log.checkpoints import HIGH_WATERMARKS, RECOVERY_POINTS
from kbroker.log.directory import LogDirectory
from kbroker.log.errors import LogTruncated
from kbroker.log.log import CUT_AT_ONCE, PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from kbroker.watermark import Watermark
from tests.log.test_directory import World, orders
from tests.log.tools import TOPIC_ID, Fate, Worker, append, contents, fill, log_for, new_disk, open_log

SMALL = {"segment_bytes": 100, "index_interval_bytes": 0}  # every batch has a segment of its own


async def checkpointed(world: World, count: int = 20) -> tuple[LogDirectory, PartitionLog]:
    """A log of some batches, all durable, and checkpoints that say so."""
    directory = world.start()
    log = orders(directory)
    fill(log, count)
    log.guard(Watermark(count - 5), is_shared=True)
    await log.flush(world.offload)
    await directory._checkpoint()
    await directory._keep_high_watermarks()
    return directory, log


@pytest.mark.parametrize("ends", ["kill", "power"])
@pytest.mark.parametrize("grows", [False, True])
async def test_L4_a_log_that_was_cut_below_its_recovery_point_is_not_taken_for_damaged(ends: str, grows: bool) -> None:
    world = World()
    _, log = await checkpointed(world)
    log.guard(Watermark(5), is_shared=True)
    log.truncate_to(10)
    assert log.end.value == 20, "as long as a checkpoint tells of more"
    with pytest.raises(LogTruncated):
        append(log, b"x")
    await log.settle(world.offload)
    assert log.end.value == 10
    if grows:
        append(log, b"x")
    world.kill() if ends == "kill" else world.power_loss()
    again = world.start()
    assert [offset for offset, _ in contents(orders(again))][:10] == list(range(10))
    assert again.high_watermark("orders", 0) <= 10


async def test_L4_a_kill_at_any_step_of_such_a_cut_looks_like_no_damage() -> None:
    step, is_done = 0, False
    while not is_done:
        world = World()
        _, log = await checkpointed(world)
        log.guard(Watermark(5), is_shared=True)
        world.disk.alive = Fate(step)
        try:
            log.truncate_to(10)
            await log.settle(world.offload)
            is_done = True
        except Killed:
            pass
        world.disk.alive = lambda: None
        world.kill()
        again = world.start()
        assert [offset for offset, _ in contents(orders(again))] in (list(range(10)), list(range(20)))
        step += 1
    assert step > 5


async def test_a_checkpoint_that_cannot_be_lowered_leaves_the_log_as_it_was() -> None:
    world = World()
    _, log = await checkpointed(world)
    log.guard(Watermark(5), is_shared=True)
    log.truncate_to(10)
    world.disk.fail("write_atomic", RECOVERY_POINTS, error=errno.ENOSPC)
    with pytest.raises(KafkaError):
        await log.settle(world.offload)
    assert log.end.value == 20 and log.offline is None and not log.is_settled
    await log.settle(world.offload)
    assert log.end.value == 10 and log.is_settled


async def test_a_clean_stop_with_a_cut_that_the_disk_refuses_is_one_for_all_other_logs() -> None:
    world = World()
    directory, log = await checkpointed(world)
    other = log_for(directory, "others", 0, TOPIC_ID, TopicConfig())
    fill(other, 3)
    log.guard(Watermark(5), is_shared=True)
    log.truncate_to(10)
    world.disk.fail("write_atomic", RECOVERY_POINTS, error=errno.ENOSPC)
    await directory.close()
    again = world.start()
    assert again.crash is Crash.CLEAN
    assert len(contents(log_for(again, "others", 0, TOPIC_ID, TopicConfig()))) == 3
    assert [offset for offset, _ in contents(orders(again))][:10] == list(range(10))


async def test_checkpoints_that_are_written_meanwhile_do_not_tell_of_more() -> None:
    world = World()
    directory, log = await checkpointed(world)
    log.guard(Watermark(5), is_shared=True)
    log.truncate_to(10)
    assert log.recovery_point == 10
    await directory._checkpoint()
    assert world.disk.read(RECOVERY_POINTS) == b"0\n1\norders 0 10\n"
    await log.settle(world.offload)
    assert log.end.value == 10


async def test_what_is_above_the_checkpoints_is_cut_at_once() -> None:
    world = World()
    _, log = await checkpointed(world)
    fill(log, 5, first=20)
    log.truncate_to(22)
    assert log.end.value == 22


async def test_a_log_that_others_are_to_follow_is_not_cut_any_further() -> None:
    world = World()
    _, log = await checkpointed(world)
    log.truncate_to(10)
    log.keep()
    assert log.is_settled and append(log, b"x").base_offset == 20


async def test_what_nobody_settles_is_settled_in_the_background(nursery: trio.Nursery) -> None:
    world = World()
    directory, log = await checkpointed(world)
    await nursery.start(directory.run)
    log.guard(Watermark(5), is_shared=True)
    log.truncate_to(10)
    for _ in range(50):
        await trio.lowlevel.checkpoint()
    assert log.is_settled and log.end.value == 10


async def test_many_segments_are_cut_in_turns_each_of_which_leaves_a_log_in_order() -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    fill(log, 4 * CUT_AT_ONCE)
    log.truncate_to(10)
    ends = [log.end.value]
    assert ends[0] == 3 * CUT_AT_ONCE

    class Watching(Worker):
        async def __call__(self, work):  # type: ignore[no-untyped-def]
            ends.append(log.end.value)
            return await super().__call__(work)

    await log.settle(Watching())
    assert log.end.value == 10 and log.is_settled
    disk.kill()
    assert len(contents(open_log(disk, Crash.PROCESS, **SMALL))) == 10


async def test_those_who_settle_at_once_share_the_work() -> None:
    log = open_log(new_disk())
    fill(log, 20)
    log.truncate_to(10)
    worker = Worker()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(log.settle, worker)
    assert worker.calls == 1 and log.is_settled


def test_R4_an_epoch_without_records_is_forgotten_where_the_log_is_cut_at_its_end() -> None:
    log = open_log(new_disk())
    fill(log, 3)
    log.epochs.assign(5, 3)  # and then the write failed
    log.truncate_to(3)
    assert log.epochs.latest == 0 and log.is_settled


# starting over


def started_over(disk: MemoryDisk) -> PartitionLog:
    log = open_log(disk, segment_bytes=300)
    append(log, b"x", producer=1, sequence=0)
    fill(log, 19, first=1)
    log.start_over(100)
    return log


def test_a_log_that_starts_over_has_nothing_left_of_what_it_was() -> None:
    log = started_over(new_disk())
    assert (log.start_offset, log.end.value, log.size, log.segments[0].base_offset) == (100, 100, 0, 100)
    assert log.epochs.entries == [] and len(log.producers) == 0
    assert append(log, b"x").base_offset == 100
    assert contents(log) == [(100, b"x")]
    (aside,) = log.take_deleted()
    assert aside.endswith("-delete")


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
async def test_a_log_that_started_over_is_found_again(crash: Crash, count: int) -> None:
    for seed in range(5):
        disk = new_disk(seed)
        log = started_over(disk)
        fill(log, count, first=100)
        await log.flush(Worker())
        flushed = log.flushed.value
        disk.kill() if crash is Crash.PROCESS else disk.power_loss()
        again = open_log(disk, crash, recovery_point=flushed, start_offset=100)
        assert (again.start_offset, again.end.value) == (100, 100 + count)


async def test_a_kill_at_any_step_leaves_the_log_as_it_was_or_none() -> None:
    step, is_done = 0, False
    while not is_done:
        world = World()
        _, log = await checkpointed(world)
        world.disk.alive = Fate(step)
        try:
            log.start_over(100)
            await log.settle(world.offload)
            append(log, b"x")
            is_done = True
        except Killed:
            pass
        world.disk.alive = lambda: None
        world.kill()
        again = orders(world.start())
        assert [offset for offset, _ in contents(again)] in (list(range(20)), [], [100]), step
        step += 1
    assert step > 3


async def test_a_flush_under_way_does_not_mind_a_log_that_starts_over() -> None:
    log = open_log(new_disk())
    fill(log, 20)
    worker = Worker()
    worker.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.flush, worker)
        await trio.testing.wait_all_tasks_blocked()
        log.start_over(100)
        worker.gate.set()
    assert log.offline is None
    append(log, b"x")
    await log.flush(Worker())
    assert log.flushed.value == 101


# high watermarks


async def test_the_high_watermark_outlives_the_process_and_is_never_above_the_end() -> None:
    world = World()
    directory, _ = await checkpointed(world)
    assert world.disk.read(HIGH_WATERMARKS) == b"0\n1\norders 0 15\n"
    await directory.close()
    again = world.start()
    assert again.high_watermark("orders", 0) == 15 and again.high_watermark("orders", 1) == 0


async def test_after_a_power_failure_nothing_counts_as_committed_that_came_in_the_place_of_what_was() -> None:
    """Else a kill right after would leave a mark above records that nobody has committed."""
    world = World()
    await checkpointed(world)
    world.power_loss()
    world.start()
    world.kill()
    assert world.start().high_watermark("orders", 0) == 0


async def test_a_partition_with_one_replica_needs_none_kept() -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 3)
    log.guard(Watermark(3))
    await directory._keep_high_watermarks()
    assert not world.disk.exists(HIGH_WATERMARKS)


async def test_a_new_log_does_not_inherit_the_high_watermark_of_an_earlier_one_of_its_name() -> None:
    world = World()
    directory, _ = await checkpointed(world)
    directory.remove("orders", 0)
    log_for_again = directory.opening("orders", 0, TOPIC_ID, TopicConfig())
    directory.adopt(log_for_again, None)
    world.kill()
    assert world.start().high_watermark("orders", 0) == 0
