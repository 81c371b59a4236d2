"""Opening a log after a clean stop, a kill, a power failure: L3, L4, L5, L6, P2."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio

from kafka_wire import records
from kbroker.env import Disk
from kbroker.log.errors import CorruptLog, LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash, End
from kbroker.log.segment import Segment
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from tests.log.tools import (
    NOW,
    TOPIC_ID,
    Fate,
    Worker,
    answers,
    append,
    batch,
    contents,
    cut_to,
    fill,
    new_disk,
    open_log,
    producers_of,
)

LOG = "orders-0/00000000000000000000.log"


def history(log: PartitionLog, count: int = 120) -> None:
    """Several segments, epochs, producers, records in a batch, timestamps that jump about."""
    for number in range(count):
        values = [b"%d-%d" % (number, n) + b"." * 50 for n in range(number % 3 + 1)]
        producer = number % 4
        sequence = sum(n % 3 + 1 for n in range(number) if n % 4 == producer)
        append(
            log, *values, at=NOW + number * 3 % 170, leader_epoch=number // 25,
            producer=producer if producer else -1, sequence=sequence if producer else -1,
        )  # fmt: skip


SMALL: dict[str, int] = {"segment_bytes": 4000, "index_interval_bytes": 300}


async def test_a_clean_stop_leaves_nothing_to_scan() -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log)
    before = answers(log)
    await log.close(Worker())
    size = disk.size(log.segments[-1].path)
    disk.fail("pread", "*.log", times=10**6)
    again = open_log(disk, recovery_point=before["end"], **SMALL)
    disk.heal()
    assert again.flushed.value == again.end.value == before["end"]
    assert answers(again) == before
    append(again, b"more", leader_epoch=9)
    assert disk.size(again.segments[-1].path) > size or len(again.segments) > len(log.segments)


@pytest.mark.parametrize("missing", [1, 175, 350])
async def test_after_a_clean_stop_a_size_that_does_not_fit_is_corruption(missing: int) -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 10)
    end = await log.close(Worker())
    disk.open(LOG).truncate(log.size - missing)
    with pytest.raises(CorruptLog, match="when the broker stopped"):
        open_log(disk, clean_end=end)


async def test_a_clean_stop_survives_a_power_failure() -> None:
    for seed in range(20):
        disk = new_disk(seed)
        log = open_log(disk, **SMALL)
        history(log)
        before = answers(log)
        await log.close(Worker())
        disk.power_loss()
        assert answers(open_log(disk, **SMALL)) == before, seed


def test_L3_after_a_kill_every_finished_write_is_there() -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log)
    before = answers(log)
    disk.kill()
    again = open_log(disk, Crash.PROCESS, **SMALL)
    assert answers(again) == before and again.flushed.value == 0
    disk.kill()
    assert answers(open_log(disk, Crash.PROCESS, **SMALL)) == before


@pytest.mark.parametrize("kept", [1, 11, 12, 60, 61, 70, 170])
def test_L3_after_a_kill_a_torn_batch_is_cut(kept: int) -> None:
    disk = new_disk()
    fill(open_log(disk), 10)
    whole = disk.size(LOG)
    torn = batch(b"x" * 100)
    records.assign(torn, 0, records.read_header(torn), 10, 0)
    disk.open(LOG).append([torn[:kept]])
    disk.kill()
    log = open_log(disk, Crash.PROCESS)
    assert (log.end.value, log.size, disk.size(LOG)) == (10, whole, whole)
    assert append(log, b"next").base_offset == 10


@pytest.mark.parametrize("crash", [Crash.POWER, Crash.ERROR])
async def test_L3_after_a_power_failure_the_longest_good_prefix_is_there(crash: Crash) -> None:
    """And all that was below the recovery point, which only a finished fsync moves."""
    for seed in range(60):
        disk = new_disk(seed)
        log = open_log(disk, **SMALL)
        history(log, 40 + seed)
        await log.flush(Worker())
        durable = log.flushed.value
        history_after = [append(log, b"later-%d" % n, leader_epoch=9).base_offset for n in range(seed)]
        written = contents(log)
        disk.power_loss()
        again = open_log(disk, crash, recovery_point=durable, **SMALL)
        assert durable <= again.end.value <= (history_after or [durable - 1])[-1] + 1, seed
        assert contents(again) == written[: again.end.value], seed
        end = again.end.value
        epoch = max(again.epochs.latest, 10)  # a flipped bit may have raised it: the CRC does not cover epochs
        assert append(again, b"next", leader_epoch=epoch).base_offset == end
        disk.kill()
        assert contents(open_log(disk, Crash.PROCESS, **SMALL)) == [*written[:end], (end, b"next")], seed


async def test_L3_the_recovery_point_moves_only_after_fsync() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 5)
    assert log.flushed.value == 0
    worker = Worker()
    await log.flush(worker)
    assert log.flushed.value == 5 and worker.calls == 1
    fill(log, 5)
    assert log.flushed.value == 5


def damage(disk: Disk, path: str, position: int) -> None:
    data = bytearray(disk.read(path))
    data[position] ^= 0x40
    disk.write_atomic(path, data)


@pytest.mark.parametrize("position", [500, 3000, -30])
async def test_L4_damage_below_the_recovery_point_is_never_cut_off(position: int) -> None:
    disk = new_disk()
    log = open_log(disk, index_interval_bytes=10**6)
    fill(log, 40)
    await log.flush(Worker())
    disk.power_loss()
    damage(disk, LOG, position)
    before = disk.read(LOG)
    with pytest.raises(CorruptLog, match="durable"):
        open_log(disk, Crash.POWER, recovery_point=40)
    assert disk.read(LOG) == before


async def test_L4_a_log_that_ends_below_its_recovery_point_is_corrupt() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 10)
    disk.kill()
    disk.open(LOG).truncate(disk.size(LOG) // 2)
    with pytest.raises(CorruptLog):
        open_log(disk, Crash.PROCESS, recovery_point=10)
    disk.remove(LOG)
    with pytest.raises(CorruptLog):
        open_log(disk, Crash.POWER, recovery_point=10)


def test_L4_a_finished_write_that_is_wrong_after_a_mere_kill_is_corruption() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 10)
    disk.kill()
    damage(disk, LOG, 700)
    with pytest.raises(CorruptLog, match="finished write"):
        open_log(disk, Crash.PROCESS)


def segments_of(disk: MemoryDisk) -> list[str]:
    return [f"orders-0/{name}" for name in disk.list_dir("orders-0") if name.endswith(".log")]


async def many_segments() -> tuple[MemoryDisk, End]:
    """A log of several segments, with indexes and snapshots, of a process that was killed."""
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log, 60)
    await log.flush(Worker())
    end = End(log.end.value, log.size, len(log.producers))
    for segment in log.segments:
        segment.finish()
    disk.kill()
    return disk, end


HARM: dict[str, Callable[[MemoryDisk, str], object]] = {
    "gone": lambda disk, path: disk.remove(path),
    "emptied": lambda disk, path: disk.open(path).truncate(0),
    "cut short": lambda disk, path: disk.open(path).truncate(disk.size(path) - 400),
    "cut inside a batch": lambda disk, path: disk.open(path).truncate(disk.size(path) - 5),
    "longer": lambda disk, path: disk.open(path).append([b"?" * 300]),
}


@pytest.mark.parametrize("crash", [Crash.CLEAN, Crash.PROCESS, Crash.POWER])
@pytest.mark.parametrize("harm", HARM)
async def test_L4_a_segment_that_is_lost_or_not_what_it_was_is_told_at_start(harm: str, crash: Crash) -> None:
    """Whichever it is, with no word of a recovery point after a kill, and nothing is cut or deleted because of it."""
    disk, end = await many_segments()
    paths = segments_of(disk)
    for path in paths:
        copy = clone(disk)
        HARM[harm](copy, path)
        before = {name: copy.read(name) for name in segments_of(copy)}
        recovery_point = end.offset if crash is Crash.POWER else 0
        if harm == "gone" and path == paths[0] and crash is Crash.POWER:
            continue  # as retention leaves it: its indexes may be gone with it
        if path == paths[-1] and (harm, crash) in (("longer", Crash.POWER), ("cut inside a batch", Crash.PROCESS)):
            continue  # as a torn write leaves it
        with pytest.raises(CorruptLog):
            open_log(copy, crash, recovery_point=recovery_point, clean_end=end, **SMALL)
        assert {name: copy.read(name) for name in segments_of(copy)} == before, path


async def test_L4_what_a_damaged_segment_is_told_with() -> None:
    disk, _ = await many_segments()
    first, second, *_, last = segments_of(disk)
    for path, harm, text in (
        (second, "gone", f"{second} is gone, its index is there"),
        (first, "emptied", f"{first} ends at offset 0, the next segment begins at "),
        (first, "longer", f"{first}: damage at byte {disk.size(first)}, offset "),
        (last, "cut short", f"{last}: the log ends at offset .*index tells of "),
    ):
        copy = clone(disk)
        HARM[harm](copy, path)
        with pytest.raises(CorruptLog, match=text):
            open_log(copy, Crash.PROCESS, **SMALL)


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
async def test_L4_a_segment_without_indexes_is_missed_all_the_same(crash: Crash) -> None:
    """But for the first, which retention may have deleted, and after a kill the last, if nothing else tells of it."""
    disk, end = await many_segments()
    for path in segments_of(disk)[1 : -1 if crash is Crash.PROCESS else None]:
        copy = clone(disk)
        for name in copy.list_dir("orders-0"):
            if name.endswith("index"):
                copy.remove(f"orders-0/{name}")
        copy.remove(path)
        with pytest.raises(CorruptLog, match="the next segment begins at|the recovery point"):
            open_log(copy, crash, recovery_point=end.offset if crash is Crash.POWER else 0, **SMALL)


async def test_L4_all_segments_gone_is_not_an_empty_log() -> None:
    disk = new_disk()
    fill(open_log(disk), 3)
    disk.kill()
    disk.remove(LOG)
    with pytest.raises(CorruptLog, match="its segments are gone"):
        open_log(disk, Crash.PROCESS)


@pytest.mark.parametrize(("position", "value"), [(0, 1), (7, 1), (11, 5), (16, 1), (16, 0x12)])
def test_L4_a_tail_that_no_torn_write_leaves_is_not_cut_off(position: int, value: int) -> None:
    """Its last batch's offset, length or magic is wrong, or it is something else altogether."""
    disk = new_disk()
    log = open_log(disk)
    fill(log, 9)
    at = log.size
    fill(log, 1)
    disk.kill()
    data = bytearray(disk.read(LOG))
    for tail in (data[at:], data[at:-3], bytes(40), b"#" * 3):
        torn = data[:at] + tail
        if len(tail) > 40:
            torn[at + position] = value if torn[at + position] != value else value + 1
        disk.write_atomic(LOG, torn)
        with pytest.raises(CorruptLog, match=f"damage at byte {at}, offset 9, in a finished write"):
            open_log(disk, Crash.PROCESS)
        assert disk.read(LOG) == torn


@pytest.mark.parametrize("offset", [0, 3, 10, 25, 60, 90])
async def test_L4_a_kill_at_any_step_of_a_truncation_looks_like_no_damage(offset: int) -> None:
    """Indexes and snapshots tell of what was there: those of what is cut go first."""
    for step in range(40):
        disk, _ = await many_segments()
        log = open_log(disk, Crash.PROCESS, **SMALL)
        written = contents(log)
        disk.alive = Fate(step)
        try:
            log.truncate_to(offset)
        except Killed:
            pass
        disk.alive = lambda: None
        disk.kill()
        again = open_log(disk, Crash.PROCESS, **SMALL)
        assert contents(again) == written[: again.end.value - again.start_offset], (offset, step)
        assert again.end.value >= offset - 2, (offset, step)  # batches have up to three records


def derived_files(disk: MemoryDisk) -> list[str]:
    return [name for name in disk.list_dir("orders-0") if not name.endswith((".log", ".metadata"))]


@pytest.mark.parametrize("crash", [Crash.CLEAN, Crash.PROCESS, Crash.POWER])
async def test_L5_any_derived_files_may_be_missing(crash: Crash) -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log, 60)
    before = answers(log)
    end = await log.close(Worker())
    kinds = [".index", ".timeindex", ".snapshot", "checkpoint"]
    for count in range(1, len(kinds) + 1):
        for missing in itertools.combinations(kinds, count):
            copy = clone(disk)
            for name in derived_files(copy):
                if name.endswith(missing):
                    copy.remove(f"orders-0/{name}")
            again = open_log(copy, crash, recovery_point=before["end"], clean_end=end, **SMALL)
            assert answers(again) == before, missing


def test_a_power_failure_that_did_no_harm_has_no_file_written() -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log, 60)
    before = answers(log)
    trio.run(log.close, Worker())
    disk.fail("write_atomic", times=1000)
    again = open_log(disk, Crash.POWER, **SMALL)
    assert answers(again) == before and not again.epochs.is_dirty


async def test_L5_after_a_power_failure_any_derived_file_may_be_torn() -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log, 60)
    before = answers(log)
    await log.close(Worker())
    for name in derived_files(disk):
        content = disk.read(f"orders-0/{name}")
        for torn in (b"", content[:-1], content[: len(content) // 2], b"\0" * 48, bytes(each ^ 1 for each in content)):
            copy = clone(disk)
            copy.write_atomic(f"orders-0/{name}", torn)
            again = open_log(copy, Crash.POWER, **SMALL)
            assert answers(again) == before, (name, torn)
            copy.kill()
            assert answers(open_log(copy, Crash.PROCESS, **SMALL)) == before, (name, torn)


def clone(disk: MemoryDisk) -> MemoryDisk:
    copy = new_disk()
    copy.make_dirs("orders-0")
    for name in disk.list_dir("orders-0"):
        copy.write_atomic(f"orders-0/{name}", disk.read(f"orders-0/{name}"))
    return copy


async def test_L6_files_and_directory_are_durable_before_the_recovery_point_passes_a_roll() -> None:
    for seed in range(30):
        disk = new_disk(seed)
        log = open_log(disk, **SMALL)
        history(log)
        written = contents(log)
        await log.flush_closed(Worker())
        assert log.flushed.value == log.active.base_offset > 0
        disk.power_loss()
        again = open_log(disk, Crash.POWER, recovery_point=log.flushed.value, **SMALL)
        assert again.end.value >= log.flushed.value
        assert contents(again) == written[: again.end.value], seed


def test_L6_what_a_deletion_left_is_removed_at_open() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 20)
    disk.rename("orders-0/00000000000000000000.log", "orders-0/00000000000000000000.log.deleted")
    disk.kill()
    again = open_log(disk, Crash.PROCESS, segment_bytes=1000)
    assert again.start_offset == again.segments[0].base_offset > 0
    assert not [name for name in disk.list_dir("orders-0") if name.endswith(".deleted")]


@pytest.mark.parametrize("crash", [Crash.CLEAN, Crash.PROCESS])
async def test_P2_producer_state_is_that_of_a_replay(crash: Crash) -> None:
    disk = new_disk()
    log = open_log(disk, **SMALL)
    history(log)
    before = producers_of(log)
    if crash is Crash.CLEAN:
        await log.close(Worker())
    disk.kill()
    again = open_log(disk, crash, **SMALL)
    assert producers_of(again) == before
    assert [len(each.batches) for each in again.producers.by_id.values()] == [5, 5, 5]


async def test_P2_repetitions_of_the_last_five_batches_are_known_after_a_restart() -> None:
    disk = new_disk()
    log = open_log(disk)
    for sequence in range(8):
        append(log, producer=1, sequence=sequence)
    await log.close(Worker())
    again = open_log(disk)
    for sequence in range(3, 8):
        assert append(again, producer=1, sequence=sequence) == (sequence, sequence, -1, True)


@pytest.mark.parametrize("offset", [0, 1, 37, 90, 141, 179, 239])
async def test_P2_truncation_leaves_what_the_rest_of_the_log_says(offset: int) -> None:
    disk = new_disk()
    log, model = open_log(disk, **SMALL), open_log(new_disk(), **SMALL)
    history(log)
    for found in [log.read(at, 1, log.end.value)[0].read() for at in bases(log)]:
        header = records.read_header(found)
        if header.next_offset <= offset:
            data = bytearray(found)
            records.assign(data, 0, records.read_header(data), 0, 0)
            model.append(data, leader_epoch=header.leader_epoch, now_ms=NOW)
    await log.flush(Worker())
    cut_to(log, offset)
    assert answers(log) == answers(model)
    assert log.flushed.value <= log.end.value
    disk.power_loss()
    again = open_log(disk, Crash.POWER, recovery_point=log.flushed.value, **SMALL)
    assert answers(again) == answers(model)
    append(again, b"another history", leader_epoch=20)
    append(model, b"another history", leader_epoch=20)
    assert answers(again) == answers(model)


def bases(log: PartitionLog) -> list[int]:
    data = b"".join(piece.read() for piece in log.read(0, 10**7, log.end.value))
    return [header.base_offset for _, header in records.headers(data)]


def test_the_scan_after_a_kill_is_bounded() -> None:
    disk = new_disk()
    log = open_log(disk)
    big = b"x" * 900_000
    for _ in range(30):
        append(log, big)
    disk.kill()
    read: list[int] = []
    disk.volume.trace = lambda *event: None
    again = open_log(disk, Crash.PROCESS)
    assert again.end.value == 30
    assert again.active.indexes is not None and again.active.indexes.offsets.saved > 1
    offsets = again.active.indexes.offsets
    last_saved = offsets.entry(offsets.saved - 1)[1]
    assert again.size - last_saved <= 10 * 1024 * 1024, read


def test_a_log_start_above_what_survived_begins_anew_there() -> None:
    disk = new_disk()
    fill(open_log(disk), 5)
    disk.power_loss()
    log = open_log(disk, Crash.POWER, start_offset=9)
    assert (log.start_offset, log.end.value, contents(log)) == (9, 9, [])
    assert append(log, b"a").base_offset == 9


def test_opening_takes_the_directory_for_what_it_holds() -> None:
    disk = new_disk()
    log = open_log(disk)
    append(log)
    assert disk.list_dir("orders-0") == ["00000000000000000000.log", "leader-epoch-checkpoint", "partition.metadata"]
    assert bytes(range(16)) == TOPIC_ID


def set_epoch(disk: Disk, epoch: int, path: str = LOG, number: int = -1) -> None:
    """Make a batch of a segment say that it is of another leader: no CRC covers that."""
    data = bytearray(disk.read(path))
    position, header = list(records.headers(data))[number]
    records.assign(data, position, header, header.base_offset, epoch)
    disk.write_atomic(path, data)


@pytest.mark.parametrize("epoch", [4_194_306, 8, 2])
def test_L3_a_tail_whose_epoch_cannot_be_is_cut_like_a_torn_one(epoch: int) -> None:
    """Above the cluster's, or below its predecessor's. Else the log would refuse all that come after."""
    disk = new_disk()
    fill(open_log(disk), 10, leader_epoch=3)
    set_epoch(disk, epoch)
    log = open_log(disk, Crash.POWER, recovery_point=5, leader_epoch_max=7)
    assert (log.end.value, log.epochs.entries) == (9, [(3, 0)])
    assert append(log, b"next", leader_epoch=7).base_offset == 9


def test_L3_an_epoch_does_not_fall_from_one_segment_to_the_next() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 12, leader_epoch=3)
    second, third = log.segments[1].path, log.segments[2].path
    set_epoch(disk, 2, second, 0)
    again = open_log(disk, Crash.POWER, leader_epoch_max=7)
    assert again.end.value == log.segments[1].base_offset and not disk.exists(third)


def test_L3_base_offsets_continue() -> None:
    disk = new_disk()
    fill(open_log(disk), 10)
    data = bytearray(disk.read(LOG))
    records.assign(data, *list(records.headers(data))[-1], 9 + 2**20, 0)
    disk.write_atomic(LOG, data)
    assert open_log(disk, Crash.POWER, recovery_point=5).end.value == 9


@pytest.mark.parametrize("crash", [Crash.POWER, Crash.PROCESS])
def test_R11_a_log_that_is_ahead_of_the_clusters_metadata_is_not_opened(crash: Crash) -> None:
    disk = new_disk()
    fill(open_log(disk), 10, leader_epoch=8)
    before = disk.read(LOG)
    with pytest.raises(CorruptLog, match="leader epoch 8, but the cluster's metadata is only at 7"):
        open_log(disk, crash, recovery_point=10, leader_epoch_max=7)
    assert disk.read(LOG) == before
    assert open_log(disk, crash, recovery_point=10, leader_epoch_max=8).end.value == 10


async def test_R11_nothing_is_cut_when_only_earlier_segments_tell_that_the_metadata_went_back() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 12, leader_epoch=8)
    await log.flush_closed(Worker())
    size = disk.size(log.active.path)
    for crash in (Crash.CLEAN, Crash.PROCESS, Crash.POWER):
        with pytest.raises(CorruptLog, match="metadata"):
            open_log(disk, crash, recovery_point=log.flushed.value, leader_epoch_max=7)
    assert disk.size(log.active.path) == size


@pytest.mark.parametrize("torn", ["2 2 0 9 6", "2 1 0 3 6", "2 2 0 3 7", "1 3 6", "0"])
async def test_L5_a_torn_epoch_checkpoint_is_not_believed_though_it_can_be_read(torn: str) -> None:
    """After a power failure, and after a kill that follows it."""
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 6, leader_epoch=2)
    fill(log, 20, first=6, leader_epoch=3)
    await log.flush_closed(Worker())
    count, *numbers = torn.split()
    lines = ["0", count, *map(" ".join, zip(numbers[::2], numbers[1::2], strict=True))]
    disk.write_atomic("orders-0/leader-epoch-checkpoint", "\n".join(lines).encode())
    durable = log.flushed.value
    for crash in (Crash.POWER, Crash.PROCESS):
        again = open_log(disk, crash, recovery_point=durable, leader_epoch_max=7, segment_bytes=1000)
        assert again.epochs.entries == [(2, 0), (3, 6)]
        disk.kill()


def test_the_scan_after_a_kill_is_bounded_without_timestamps() -> None:
    disk = new_disk()
    log = open_log(disk)
    for _ in range(30):
        append(log, b"x" * 900_000, at=-1)
    disk.kill()
    segment = Segment(disk, LOG[: -len(".log")], 0, disk.size(LOG))
    assert log.size - segment.resume_indexes() <= 10 * 1024 * 1024


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
def test_L2_bytes_that_a_failed_fsync_left_are_written_anew_by_whoever_opens_the_log_next(crash: Crash) -> None:
    """Reads see them, but no fsync will ever write them: not even after a clean or a killed process.

    POWER may be told in the same boot: of a power failure before that, which this log has not been recovered from.
    """
    disk = new_disk()
    fill(open_log(disk), 10)
    disk.fail("sync", LOG)
    with pytest.raises(OSError):
        disk.open(LOG).sync()
    disk.write_atomic("orders-0/fsync-failed", b"", sync=False)
    disk.kill()
    log = open_log(disk, crash)
    written = contents(log)
    assert len(written) == 10 and not disk.exists("orders-0/fsync-failed")
    disk.power_loss()
    assert contents(open_log(disk, Crash.POWER)) == written


async def test_L2_a_failed_fsync_is_noted_for_the_next_start() -> None:
    disk = new_disk()
    log = open_log(disk)
    fill(log, 10)
    disk.fail("sync", LOG)
    with pytest.raises(LogOffline):
        await log.flush(Worker())
    assert disk.exists("orders-0/fsync-failed")
    disk.kill()
    again = open_log(disk, Crash.PROCESS)
    assert len(contents(again)) == 10
    await again.flush(Worker())
    disk.power_loss()
    assert len(contents(open_log(disk, Crash.POWER, recovery_point=10))) == 10


@pytest.mark.parametrize("lost", ["partition.metadata", "00000000000000000010.snapshot"])
async def test_L2_small_files_that_a_failed_fsync_lost_are_written_anew(lost: str) -> None:
    """Found by simulation: after the power failure nobody knew whose data it was, and all of it was moved aside."""
    disk = new_disk()
    log = open_log(disk)
    for sequence in range(10):
        append(log, producer=1, sequence=sequence)
    log.roll()
    disk.fail("sync", f"orders-0/{lost}")
    with pytest.raises(LogOffline):
        await log.flush(Worker())
    disk.kill()
    before = disk.read(f"orders-0/{lost}")
    again = open_log(disk, Crash.PROCESS)
    await again.flush(Worker())
    disk.power_loss()
    assert disk.read(f"orders-0/{lost}") == before


async def test_a_log_of_many_segments_takes_descriptors_only_for_those_it_reads() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1000)
    fill(log, 40)
    await log.close(Worker())
    again = open_log(disk, segment_bytes=1000)
    assert again.open_segments() == [] and len(again.segments) > 4
    await again.flush(Worker())
    assert again.open_segments() in ([], [again.active])
    again.read(0, 10, 40)
    assert again.segments[0] in again.open_segments() and len(again.open_segments()) <= 2


def test_files_with_names_that_are_no_offsets_are_left_alone() -> None:
    disk = new_disk()
    fill(open_log(disk), 3)
    for name in ("notes.log", "x.snapshot", "-1.log", "\u00b2.log"):
        disk.write_atomic(f"orders-0/{name}", b"?")
    assert open_log(disk, Crash.PROCESS).end.value == 3
    assert disk.exists("orders-0/notes.log")
