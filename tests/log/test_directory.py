"""LogDirectory: the lock, how the last run ended, whose data it is (R13), checkpoints, duties in the background."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kbroker.config import BrokerConfig, TopicConfig
from kbroker.env import Buffer, DirectoryLocked, Env
from kbroker.log.checkpoints import read_topic_id
from kbroker.log.directory import RELEASE_SECONDS, LogDirectory
from kbroker.log.errors import CorruptLog, LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.opening import Opening
from kbroker.log.recovery import Crash, End
from kbroker.testing.disk import MemoryDisk, MemoryFile
from kbroker.testing.workers import InlineHelper
from kbroker.watermark import Watermark
from tests.log.tools import NOW, TOPIC_ID, StoppedClock, Worker, append, contents, fill, log_for, new_disk

OTHER_ID = bytes(16)
LOG = "orders-0/00000000000000000000.log"


@dataclass
class World:
    disk: MemoryDisk = field(default_factory=new_disk)
    clock: StoppedClock = field(default_factory=StoppedClock)
    offload: Worker = field(default_factory=Worker)

    def kill(self) -> None:
        self.disk.kill()

    def power_loss(self) -> None:
        self.disk.power_loss()

    def start(self) -> LogDirectory:
        helper = InlineHelper(self.disk, self.offload)
        env = Env(self.clock, self.disk, None, None, self.offload, helper)  # type: ignore[arg-type]
        directory = LogDirectory(env, BrokerConfig())
        directory.open()
        return directory


def orders(directory: LogDirectory, topic_id: bytes = TOPIC_ID, **config: int) -> PartitionLog:
    return log_for(directory, "orders", 0, topic_id, TopicConfig(**config))  # type: ignore[arg-type]


def opening_of(directory: LogDirectory) -> Opening:
    return directory.opening("orders", 0, TOPIC_ID, TopicConfig())


async def test_how_the_last_run_ended() -> None:
    world = World()
    first = world.start()
    assert first.crash is Crash.POWER, "nobody knows"
    fill(orders(first), 3)
    await first.close()
    second = world.start()
    assert second.crash is Crash.CLEAN
    fill(orders(second), 3)
    world.disk.kill()
    third = world.start()
    assert third.crash is Crash.PROCESS
    assert len(contents(orders(third))) == 6
    world.disk.power_loss()
    assert world.start().crash is Crash.POWER


async def test_a_start_that_is_interrupted_does_not_count_as_clean() -> None:
    for seed in range(10):
        world = World(new_disk(seed))
        fill(orders(started := world.start()), 3)
        await started.close()
        assert world.start().crash is Crash.CLEAN
        world.disk.power_loss()
        assert world.start().crash is Crash.POWER


async def test_F10_a_start_after_a_kill_needs_no_room_on_the_disk() -> None:
    world = World()
    fill(orders(world.start()), 3)
    world.disk.kill()
    world.disk.capacity = world.disk.used
    again = world.start()
    assert again.crash is Crash.PROCESS and len(contents(orders(again))) == 3


async def test_F10_a_log_is_left_alone_on_a_full_disk_too() -> None:
    world = World()
    directory = world.start()
    fill(orders(directory), 3)
    world.disk.capacity = world.disk.used
    directory.leave("orders", 0)
    assert not directory.logs
    world.disk.capacity += 4096
    await directory.close()
    opening = opening_of(world.start())
    assert opening.crash is not Crash.CLEAN, "nobody has made it durable"


async def test_L3_a_marker_whose_removal_was_not_durable_does_not_come_back() -> None:
    for seed in range(10):  # whether an unsynced removal is undone is left to chance
        world = World(disk=MemoryDisk(seed=seed))
        first = world.start()
        fill(orders(first), 3)
        await first.close()
        world.disk.fail("sync_dir")
        with pytest.raises(OSError):
            world.start()  # has removed the marker, and cannot make that last
        world.disk.kill()
        third = world.start()
        fill(orders(third), 3)
        world.disk.power_loss()
        assert world.start().crash is Crash.POWER


@pytest.mark.parametrize("power_fails", [False, True])
async def test_L3_a_stop_before_all_logs_were_opened_vouches_for_none_of_those(power_fails: bool) -> None:
    world = World()
    first = world.start()
    fill(orders(first), 3)
    await first.close()
    second = world.start()
    fill(orders(second), 3)
    world.disk.kill()
    third = world.start()  # stopped before it came to this log
    await third.close()
    if power_fails:
        world.disk.power_loss()
    fourth = world.start()
    opening = opening_of(fourth)
    assert (opening.crash, opening.clean_end) == (Crash.POWER if power_fails else Crash.PROCESS, None)
    assert len(contents(orders(fourth))) >= (3 if power_fails else 6)


async def test_a_clean_stop_ends_what_a_power_failure_left() -> None:
    world = World()
    fill(orders(world.start()), 3)
    world.disk.power_loss()
    orders(second := world.start())
    await second.close()
    assert opening_of(world.start()).crash is Crash.CLEAN


async def test_a_stop_before_a_log_was_opened_hands_on_how_it_was_left() -> None:
    world = World()
    fill(log := orders(first := world.start()), 3)
    await first.close()
    for _ in range(3):
        await world.start().close()
    opening = opening_of(world.start())
    assert (opening.crash, opening.clean_end) == (Crash.CLEAN, End(3, log.size, 0))


async def test_a_stop_hands_on_what_an_earlier_one_had_no_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    fill(orders(first := world.start()), 3)
    with monkeypatch.context() as patch:
        patch.setattr("kbroker.log.directory.SYNC_SECONDS", 0)
        await first.close()
    await world.start().close()  # and did not come to this log
    world.disk.power_loss()
    assert opening_of(world.start()).crash is Crash.POWER


async def test_a_stop_that_has_no_time_for_all_logs_vouches_for_those_it_came_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    first = world.start()
    for index in range(100):
        fill(log_for(first, "orders", index, TOPIC_ID, TopicConfig()), 3)
    monkeypatch.setattr("kbroker.log.directory.FINISH_SECONDS", 0)
    await first.close()
    second = world.start()
    assert second.crash is Crash.CLEAN
    openings = [second.opening("orders", index, TOPIC_ID, TopicConfig()) for index in range(100)]
    assert {opening.crash for opening in openings} == {Crash.PROCESS}
    assert all(second.adopt(opening, opening.run()).end.value == 3 for opening in openings)


async def test_a_clean_stop_leaves_no_file_for_a_small_log_without_producers() -> None:
    world = World()
    first = world.start()
    log = orders(first)
    fill(log, 3)
    names = world.disk.list_dir("orders-0")
    await first.close()
    assert set(world.disk.list_dir("orders-0")) - set(names) == {"00000000000000000000.timeindex"}
    world.disk.fail("pread", "orders-0/*.log", times=1000)
    log = orders(world.start())
    assert log.end.value == 3 and not log.producers.by_id


class CountingDisk(MemoryDisk):
    """Counts what waits for the disk, by method."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def sync_dir(self, path: str) -> None:
        self.calls["sync_dir"] += 1
        super().sync_dir(path)

    def rename(self, old: str, new: str) -> None:
        self.calls["rename"] += 1
        super().rename(old, new)

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        self.calls["write_atomic"] += 1
        super().write_atomic(path, data, sync=sync)


@pytest.mark.parametrize("count", [20, 200])
async def test_what_a_clean_stop_does_for_a_log_is_little(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that ten thousand are closed in two seconds. Of a log that was made and written since, four files are synced
    in two errands of a worker; of one that was not, none. Checkpoints are written once for all."""
    world = World(disk := CountingDisk())
    first = world.start()
    for index in range(count):
        fill(log_for(first, "orders", index, TOPIC_ID, TopicConfig()), 3)

    def sync(file: MemoryFile, before: Any = MemoryFile.sync) -> None:
        disk.calls["sync"] += 1
        before(file)

    monkeypatch.setattr(MemoryFile, "sync", sync)
    disk.calls.clear()
    world.offload.calls = 0
    await first.close()
    assert disk.calls["sync"] <= 4 * count + 10 and disk.calls["sync_dir"] <= 3 * count + 10
    assert disk.calls["rename"] <= 10 and disk.calls["write_atomic"] <= 10
    assert world.offload.calls <= 2 * count + 10
    second = world.start()
    assert second.crash is Crash.CLEAN
    for index in range(count):
        log_for(second, "orders", index, TOPIC_ID, TopicConfig())
    disk.calls.clear()
    world.offload.calls = 0
    await second.close()
    assert disk.calls.total() + world.offload.calls <= 20
    assert world.start().crash is Crash.CLEAN


async def test_a_log_that_was_just_cut_is_closed_in_order() -> None:
    world = World()
    first = world.start()
    log = orders(first)
    fill(log, 10)
    log.truncate_to(5)
    await first.close()
    second = world.start()
    assert second.crash is Crash.CLEAN and orders(second).end.value == 5


async def test_a_clean_stop_of_producers_is_found_again_without_a_look_at_the_batches() -> None:
    world = World()
    first = world.start()
    append(orders(first), producer=7, sequence=0)
    await first.close()
    world.disk.fail("pread", "orders-0/*.log", times=1000)
    assert list(orders(world.start()).producers.by_id) == [7]


async def test_a_marker_that_cannot_be_read_is_none() -> None:
    for content in (b"", b"{}", b'{"logs": {"orders-0": [1]}, "unsynced": []}', b'{"logs": 1, "unsynced": 2}', b"[]"):
        world = World()
        fill(orders(first := world.start()), 3)
        await first.close()
        world.disk.write_atomic(".kafka_cleanshutdown", content)
        second = world.start()
        assert second.crash is Crash.PROCESS and orders(second).end.value == 3, content


async def test_a_full_disk_leaves_a_stop_that_is_not_clean() -> None:
    world = World()
    fill(orders(first := world.start()), 3)
    world.disk.fail("write_atomic", ".kafka_cleanshutdown", error=errno.ENOSPC)
    await first.close()
    assert world.start().crash is Crash.PROCESS


async def test_a_directory_belongs_to_one_broker() -> None:
    world = World()
    first = world.start()
    with pytest.raises(DirectoryLocked):
        world.start()
    await first.close()
    world.start()


def test_a_log_is_opened_once_and_takes_new_settings() -> None:
    directory = World().start()
    log = orders(directory)
    assert orders(directory, retention_ms=5) is log and log.config.retention_ms == 5


async def test_a_topic_without_records_survives_restarts() -> None:
    world = World()
    first = world.start()
    assert orders(first).end.value == 0
    await first.close()
    second = world.start()
    assert second.crash is Crash.CLEAN and second.on_disk() == [], "nothing was written, so there is nothing"
    assert append(orders(second)).base_offset == 0
    assert second.on_disk() == [("orders", 0, TOPIC_ID)]
    assert read_topic_id(world.disk, "orders-0") == TOPIC_ID


async def test_R13_data_of_another_topic_id_is_never_served_nor_thrown_away() -> None:
    world = World()
    first = world.start()
    fill(orders(first), 5)
    await first.close()
    second = world.start()
    log = orders(second, OTHER_ID)
    assert log.end.value == 0 and contents(log) == []
    append(log, b"new")
    await second.close()
    third = world.start()
    assert contents(orders(third, OTHER_ID)) == [(0, b"new")]
    assert [name for name in world.disk.list_dir("") if name.endswith("-stray")] != []


def test_R13_data_without_a_legible_topic_id_is_not_served() -> None:
    """Nor does an empty log take the place of records that were there to stay."""
    world = World()
    fill(orders(world.start()), 5)
    world.disk.kill()
    right = world.disk.read("orders-0/partition.metadata")
    for wrong in (None, b"", b"version: 0\ntopic_id: ?\n"):
        if wrong is None:
            world.disk.remove("orders-0/partition.metadata")
        else:
            world.disk.write_atomic("orders-0/partition.metadata", wrong)
        with pytest.raises(LogOffline, match="orders-0/partition.metadata does not say whose data this is"):
            orders(world.start())
        world.disk.kill()
    world.disk.write_atomic("orders-0/partition.metadata", right)
    assert len(contents(orders(world.start()))) == 5


def test_R13_a_topic_id_that_a_power_failure_took_is_no_obstacle() -> None:
    """Nothing of the log was durable yet: what is left of it goes aside."""
    world = World()
    fill(orders(world.start()), 5)
    world.disk.kill()
    world.disk.boot_id = "another boot"  # which happened to find the batches
    world.disk.write_atomic("orders-0/partition.metadata", b"")
    assert orders(world.start()).end.value == 0


async def test_a_log_that_vanished_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    first = world.start()
    fill(orders(first), 5)
    await first.close()
    for name in world.disk.list_dir("orders-0"):
        world.disk.remove(f"orders-0/{name}")
    world.disk.rename("orders-0", "elsewhere")
    assert orders(world.start()).end.value == 0
    assert caplog.messages == ["orders-0 is gone, which had records up to offset 4: it begins anew"]


def test_a_damaged_checkpoint_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.start()
    assert caplog.messages == []
    world.disk.kill()
    world.disk.write_atomic("log-start-offset-checkpoint", b"0\n2\norders 0 5\n")
    world.start()
    assert caplog.messages == ["log-start-offset-checkpoint is damaged: what it said is not known any more"]


def test_what_is_cut_off_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    fill(orders(world.start()), 5)
    world.disk.kill()
    whole = world.disk.read(LOG)
    world.disk.write_atomic(LOG, whole[:-7])
    assert len(contents(orders(world.start()))) == 4
    size, rest = len(whole) // 5 * 4, len(whole) // 5 - 7
    told = f"{LOG} is cut at byte {size}, offset 4: no whole batch is in the {rest} bytes behind that"
    assert caplog.messages == [told]


def test_files_of_others_are_no_segments() -> None:
    world = World()
    fill(orders(world.start()), 5)
    world.disk.kill()
    world.disk.write_atomic("orders-0/99.log", b"a program's own")
    assert len(contents(orders(world.start()))) == 5


async def test_R13_a_recreated_topic_is_not_measured_by_the_old_recovery_point() -> None:
    world = World()
    first = world.start()
    fill(orders(first), 50)
    await first.close()
    second = world.start()
    second.remove("orders", 0)
    fill(orders(second, OTHER_ID), 3)
    world.disk.kill()
    assert len(contents(orders(world.start(), OTHER_ID))) == 3
    world.disk.power_loss()
    assert orders(world.start(), OTHER_ID).end.value <= 3


async def test_a_damaged_log_is_refused_and_the_others_are_served() -> None:
    world = World()
    first = world.start()
    fill(orders(first), 5)
    fill(log_for(first, "orders", 1, TOPIC_ID, TopicConfig()), 5)
    await first.close()
    second = world.start()
    orders(second)
    world.disk.kill()
    world.disk.open("orders-0/00000000000000000000.log").truncate(100)
    third = world.start()
    with pytest.raises(CorruptLog):
        orders(third)
    assert len(contents(log_for(third, "orders", 1, TOPIC_ID, TopicConfig()))) == 5


async def test_L2_an_offline_log_is_rescanned_when_asked_for_again() -> None:
    """And what was not durable is written anew: the page cache would never write it again."""
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 5)
    world.disk.fail("sync", "*.log")
    with pytest.raises(LogOffline):
        await log.flush(world.offload)
    with pytest.raises(LogOffline):
        await log.flush(world.offload)
    with pytest.raises(LogOffline):
        append(log)
    again = orders(directory)
    assert again is not log and len(contents(again)) == 5
    await again.flush(world.offload)
    assert again.flushed.value == 5
    await directory.close()
    world.disk.power_loss()
    assert len(contents(orders(world.start()))) == 5


async def test_L2_a_log_that_fails_amid_a_stop_is_not_vouched_for() -> None:
    world = World()
    first = world.start()
    fill(orders(first), 5)
    fill(log_for(first, "orders", 1, TOPIC_ID, TopicConfig()), 5)
    world.disk.fail("sync", "orders-0/*.log")
    await first.close()
    second = world.start()
    assert opening_of(second).crash is Crash.PROCESS, "and what its directory says of the fsync makes it worse"
    assert second.opening("orders", 1, TOPIC_ID, TopicConfig()).crash is Crash.CLEAN, "one does not spoil the others"


async def test_a_stop_that_has_no_time_for_fsyncs_is_clean_until_the_power_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kbroker.log.directory.SYNC_SECONDS", 0)
    for seed in range(20):
        world = World(new_disk(seed))
        first = world.start()
        first.note_left()
        fill(orders(first), 20)
        await first.close()
        second = world.start()
        assert second.crash is Crash.CLEAN and not second.is_lossy
        expected = contents(orders(second))
        assert len(expected) == 20 and orders(second).flushed.value == 0
        await second.close()
        world.disk.power_loss()
        third = world.start()
        assert third.is_lossy, "R10"
        found = contents(orders(third))
        assert found == expected[: len(found)], seed


async def test_a_partition_that_cannot_be_removed_holds_no_file_open_and_is_moved_aside_later() -> None:
    world = World()
    directory = world.start()
    fill(log := orders(directory), 5)
    world.disk.fail("rename", "orders-0")
    with pytest.raises(OSError):
        directory.remove("orders", 0)
    assert log.open_segments() == [] and not directory.logs
    assert orders(directory, OTHER_ID).end.value == 0
    assert [name for name in world.disk.list_dir("") if name.endswith("-stray")] != []


async def test_the_files_used_least_of_all_logs_are_closed_when_descriptors_are_short() -> None:
    directory = World().start()
    logs = [log_for(directory, "orders", n, TOPIC_ID, TopicConfig(segment_bytes=1000)) for n in range(3)]
    for log in logs:
        fill(log, 10)
    total = sum(len(log.open_segments()) for log in logs)
    (piece,) = logs[0].read(0, 100, 10)  # the first segment of the first log is used last
    assert directory.release_least_used(total - 1) == total - 1
    assert [log.open_segments() for log in logs] == [[logs[0].segments[0]], [], []]
    assert directory.release_least_used(5) == 1 and directory.release_least_used(5) == 0
    assert len(piece.read()) > 0, "a read under way goes on"
    fill(logs[2], 1, first=10)
    assert [len(contents(log)) for log in logs] == [10, 10, 11]


async def test_a_removed_partition_is_gone_at_once_and_its_files_later(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 5)
    (piece,) = log.read(0, 10**6, 5)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        directory.remove("orders", 0)
        directory.remove("orders", 7)  # never was
        assert log.offline is not None and orders(directory, OTHER_ID).end.value == 0
        assert len(piece.read()) > 0, "a read under way goes on"
        await trio.sleep(400)
        assert [name for name in world.disk.list_dir("") if name.endswith("-delete")] != []
        world.clock.now_ms += 60_001
        await trio.sleep(400)
        assert [name for name in world.disk.list_dir("") if name.endswith("-delete")] == []
        nursery.cancel_scope.cancel()


async def test_R10_what_may_be_lost_is_known_until_nobody_counts_on_it_however_many_starts_that_takes() -> None:
    world = World()
    first = world.start()
    assert first.is_lossy, "an empty directory has nothing"
    first.note_left()
    fill(orders(first), 5)
    world.disk.kill()
    second = world.start()
    assert not second.is_lossy, "the page cache survives a kill"
    world.disk.power_loss()
    for ends_cleanly in (False, True, False):  # before it could leave, as the store is out of reach
        again = world.start()
        assert again.is_lossy
        if ends_cleanly:
            await again.close()
        else:
            world.disk.kill()
    last = world.start()
    assert last.is_lossy
    last.note_left()
    world.disk.kill()
    assert not world.start().is_lossy


async def test_two_duties_remove_what_was_deleted_and_neither_minds_the_other(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    for n in range(3):
        fill(log_for(directory, "orders", n, TOPIC_ID, TopicConfig()), 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        for n in range(3):
            directory.remove("orders", n)
        world.clock.now_ms += 60_001
        world.offload.gate = trio.Event()
        await trio.sleep(301)  # retention is due, and so are idle files: both have begun
        world.offload.gate.set()
        await trio.sleep(1)
        assert [name for name in world.disk.list_dir("") if name.endswith("-delete")] == []
        nursery.cancel_scope.cancel()


async def test_deletions_cut_short_are_finished_at_the_next_start(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    fill(orders(directory), 5)
    directory.remove("orders", 0)
    world.disk.kill()
    again = world.start()
    async with trio.open_nursery() as nursery:
        await nursery.start(again.run)
        await trio.sleep(400)
        nursery.cancel_scope.cancel()
    assert not [name for name in world.disk.list_dir("") if name.startswith("orders")]


async def test_DeleteRecords_is_remembered_over_a_kill() -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 10)
    await directory.move_starts({log: 4})
    assert log.start_offset == 4
    world.disk.kill()
    again = world.start()
    assert orders(again).start_offset == 4 and contents(orders(again))[0][0] == 4
    await again.close()
    assert orders(world.start()).start_offset == 4


async def test_L8_DeleteRecords_is_remembered_over_a_power_failure() -> None:
    for seed in range(20):
        world = World(new_disk(seed))
        directory = world.start()
        logs = [log_for(directory, "orders", index, TOPIC_ID, TopicConfig()) for index in range(2)]
        for log in logs:
            fill(log, 10)
            await log.flush(world.offload)
        await directory.move_starts({logs[1]: 8})
        world.disk.power_loss()
        again = world.start()
        starts = [log_for(again, "orders", index, TOPIC_ID, TopicConfig()).start_offset for index in range(2)]
        assert starts == [0, 8], seed


async def test_L8_a_log_start_moves_only_when_it_is_noted() -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 10)
    world.disk.fail("write_atomic", "log-start-offset-checkpoint")
    with pytest.raises(OSError):
        await directory.move_starts({log: 4})
    assert log.start_offset == 0
    await directory.move_starts({log: 3})
    assert log.start_offset == 3


async def test_L8_a_checkpoint_meanwhile_does_not_take_a_moving_log_start_back(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 10)
    world.offload.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        nursery.start_soon(directory.move_starts, {log: 4})
        await trio.sleep(61)
        world.offload.gate.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert world.disk.read("log-start-offset-checkpoint") == b"0\n1\norders 0 4\n"


async def test_L8_a_log_that_goes_offline_while_its_start_moves_never_starts_lower_again() -> None:
    """Found by simulation: an fsync fails amid DeleteRecords, which succeeds; then the broker is killed."""
    world = World()
    directory = world.start()
    fill(log := orders(directory), 10)
    world.offload.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory.move_starts, {log: 4})
        await wait_all_tasks_blocked()
        log.fail(LogOffline("fsync failed"))
        world.offload.gate.set()
    fill(other := log_for(directory, "orders", 1, TOPIC_ID, TopicConfig()), 3)
    await directory.move_starts({other: 2})  # which writes the file anew
    world.disk.kill()
    assert orders(world.start()).start_offset == 4


async def test_L3_a_log_begun_above_what_a_power_failure_left_survives_another(autojump_clock: MockClock) -> None:
    for seed in range(20):
        world = World(new_disk(seed))
        directory = world.start()
        fill(log := orders(directory), 5)
        await log.flush(world.offload)
        fill(log, 20)
        await directory.move_starts({log: 20})
        world.disk.power_loss()
        directory = world.start()
        start, end = (log := orders(directory)).start_offset, log.end.value
        async with trio.open_nursery() as nursery:
            await nursery.start(directory.run)
            await trio.sleep(61)
            nursery.cancel_scope.cancel()
        fill(log, 3)
        world.disk.power_loss()
        log = orders(world.start())
        assert (log.start_offset, log.end.value >= start) == (20, True), (seed, end)


async def test_an_empty_log_above_zero_can_be_made_durable() -> None:
    world = World()
    directory = world.start()
    fill(log := orders(directory), 2)
    await log.flush(world.offload)
    fill(log, 3)
    await directory.move_starts({log: 5})
    world.disk.power_loss()
    log = orders(directory := world.start())
    assert (log.start_offset, log.end.value, log.flushed.value) == (5, 5, 0)
    await log.flush(world.offload)
    assert log.flushed.value == 5
    await directory.close()
    world.disk.power_loss()
    assert orders(world.start()).start_offset == 5


async def test_a_start_killed_before_it_opened_a_log_leaves_that_to_the_next() -> None:
    """After a power failure: the log's tail is torn, though the one who ran last was merely killed."""
    for seed in range(20):
        world = World(new_disk(seed))
        directory = world.start()
        log = orders(directory)
        fill(log, 5)
        await log.flush(world.offload)
        fill(log, 5)
        world.disk.power_loss()
        torn = bytearray(world.disk.read(LOG))[:-10] + bytes(10)
        world.disk.write_atomic(LOG, torn)
        world.start()  # and killed at once
        world.disk.kill()
        directory = world.start()
        assert directory.crash is Crash.PROCESS
        log_for(directory, "other", 0, OTHER_ID, TopicConfig())
        world.disk.kill()
        log = orders(world.start())
        fill(log, 3)


async def test_a_clean_stop_before_a_torn_log_was_opened_leaves_that_to_the_next() -> None:
    for again_later in (World.kill, World.power_loss, None):
        world = World()
        fill(orders(world.start()), 5)
        world.disk.open(LOG).sync()
        world.disk.sync_dir("orders-0")
        world.disk.sync_dir("")
        world.disk.power_loss()
        world.disk.write_atomic(LOG, bytearray(world.disk.read(LOG))[:-10] + bytes(10))
        await world.start().close()
        if again_later is not None:
            again_later(world)
        log = orders(world.start())
        assert len(contents(log)) == 4


async def test_what_was_recovered_is_opened_as_after_a_kill_the_next_time(autojump_clock: MockClock) -> None:
    world = World()
    fill(orders(world.start()), 5)
    world.disk.kill()
    world.disk.remove("boot-id")
    directory = world.start()
    assert world.disk.read("boot-id").decode() == f"{world.disk.boot_id}\n?\norders-0"
    directory.note_left()
    assert world.disk.read("boot-id").decode() == f"{world.disk.boot_id}\norders-0"
    orders(directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await trio.sleep(61)
        nursery.cancel_scope.cancel()
    assert world.disk.read("boot-id").decode() == world.disk.boot_id


async def test_the_recovery_points_are_checkpointed(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory)
    fill(log, 5)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await log.flush(world.offload)
        await trio.sleep(61)
        nursery.cancel_scope.cancel()
    assert world.disk.read("recovery-point-offset-checkpoint") == b"0\n1\norders 0 5\n"


async def test_closed_segments_are_flushed_in_the_background(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        fill(log, 20)
        await trio.testing.wait_all_tasks_blocked()
        assert log.flushed.value == log.active.base_offset > 0
        nursery.cancel_scope.cancel()


async def test_flush_ms_is_kept(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory, flush_ms=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        fill(log, 3)
        await trio.sleep(1)
        assert log.flushed.value == 0
        world.clock.now_ms += 1000
        await trio.sleep(0.2)
        assert log.flushed.value == 3
        nursery.cancel_scope.cancel()


async def test_retention_and_producer_expiry_run_by_themselves(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000, retention_ms=1000)
    log.guard(Watermark(10))
    append(log, producer=3, sequence=0)
    fill(log, 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        world.clock.now_ms = NOW + 86_400_001
        await trio.sleep(301)
        assert 0 < log.start_offset <= 10 and not log.producers.by_id
        assert [name for name in world.disk.list_dir("orders-0") if name.endswith(".deleted")]
        world.clock.now_ms += 60_001
        await trio.sleep(301)
        assert not [name for name in world.disk.list_dir("orders-0") if name.endswith(".deleted")]
        nursery.cancel_scope.cancel()


async def test_idle_closed_segments_give_back_index_and_file(autojump_clock: MockClock) -> None:
    world = World()
    directory = world.start()
    log = orders(directory, segment_bytes=1000)
    fill(log, 20)
    expected = contents(log)
    (piece,) = log.read(0, 100, 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await trio.sleep(70)
        assert all(segment.indexes is None for segment in log.segments[:-1])
        assert len(piece.read()) > 0
        world.clock.now_ms += 60_001
        await trio.sleep(70)
        nursery.cancel_scope.cancel()
    assert contents(log) == expected


async def test_nothing_is_taken_for_a_directory_that_somebody_removed(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is written to a file without a name is lost when it is closed."""
    world = World()
    directory = world.start()
    log = orders(directory)
    await nursery.start(directory.run)
    await trio.sleep(RELEASE_SECONDS * 2)
    append(log, b"a")
    exists = MemoryDisk.exists
    monkeypatch.setattr(MemoryDisk, "exists", lambda disk, path: path != "" and exists(disk, path))
    await trio.sleep(RELEASE_SECONDS * 2)
    with pytest.raises(LogOffline, match="the data directory is gone"):
        append(log, b"b")
    assert caplog.messages == ["the data directory is gone: its partitions are offline until a restart"]
