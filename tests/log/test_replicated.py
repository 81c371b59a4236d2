"""What a follower takes from its leader: many batches at once, as they are, and all that follows from them (B4)."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import assign, headers, read_header
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.testing.disk import MemoryDisk
from tests.log.test_transactions import Writer, check, several_segments
from tests.log.tools import NOW, Worker, answers, append, batch, contents, fill, make_durable, new_disk, open_log

CONFIG = {"segment_bytes": 900, "index_interval_bytes": 100}
EPOCH = 9  # the leader's


def all_of(log: PartitionLog, offset: int | None = None) -> bytes:
    """The batches of a log, back to back."""
    start = log.start_offset if offset is None else offset
    return b"".join(piece.read() for piece in log.read(start, 1 << 30, log.end.value))


def copy(leader: PartitionLog, follower: PartitionLog, seed: int = 0, most: int = 3000) -> None:
    """Fetch as a follower does: answers of any length, the last batch of which may be cut short."""
    chance = random.Random(seed)
    while follower.end.value < leader.end.value:
        data = all_of(leader, follower.end.value)
        size = max(chance.randrange(most), read_header(data).size)
        assert follower.append_replicated(data[:size], leader_epoch=EPOCH, now_ms=NOW) > 0


def epochs_and_producers(log: PartitionLog) -> None:
    """Several leaders, several producers, none of whom begins at 0."""
    for number in range(40):
        producer = number % 3
        sequence = 100 + number // 3
        append(
            log, b"%d" % number, producer=producer, sequence=sequence, leader_epoch=number // 10, at=NOW + number % 7
        )


@pytest.mark.parametrize("seed", range(5))
def test_P2_a_follower_answers_as_its_leader(seed: int) -> None:
    leader, disk = open_log(new_disk(), segment_bytes=500, index_interval_bytes=100), new_disk()
    epochs_and_producers(leader)
    follower = open_log(disk, **CONFIG)
    copy(leader, follower, seed)
    assert answers(follower) == answers(leader)
    assert all_of(follower) == all_of(leader)
    for crash in (Crash.PROCESS, Crash.POWER):
        make_durable(follower)
        disk.kill() if crash is Crash.PROCESS else disk.power_loss()
        follower = open_log(disk, crash, recovery_point=follower.end.value, **CONFIG)
        assert answers(follower) == answers(leader)


@pytest.mark.parametrize("seed", range(5))
def test_T1_a_follower_knows_what_was_aborted_and_what_is_open(seed: int) -> None:
    writer = several_segments(new_disk())
    disk = new_disk()
    follower = open_log(disk, **CONFIG)
    copy(writer.log, follower, seed)
    check(writer, follower)
    assert dict(follower.producers.transactions.ongoing) == writer.open
    again = Writer(follower)
    again.sequences, again.open, again.aborted = writer.sequences, writer.open, writer.aborted
    again.write(1)  # and goes on as a leader
    again.end(1, commit=False)
    check(again, follower)
    disk.kill()
    check(again, open_log(disk, Crash.PROCESS, **CONFIG))


def test_one_answer_is_one_write() -> None:
    leader, disk = open_log(new_disk()), new_disk()
    fill(leader, 50)
    follower = open_log(disk)
    disk.fail("append", "*.log", nth=2)
    assert follower.append_replicated(all_of(leader), leader_epoch=EPOCH, now_ms=NOW) == 50
    disk.heal()
    assert contents(follower) == contents(leader)


def test_a_marker_in_each_answer_costs_a_write_and_no_more() -> None:
    writer = Writer(open_log(new_disk()))
    for _ in range(3):
        for producer in range(3):
            writer.write(producer)
        writer.end(1, commit=True)
    disk = new_disk()
    follower = open_log(disk)
    disk.fail("append", "*.log", nth=5)
    follower.append_replicated(all_of(writer.log), leader_epoch=EPOCH, now_ms=NOW)
    assert follower.end.value == writer.log.end.value


# compaction


def with_gaps(log: PartitionLog) -> bytes:
    """Every third batch of a log is gone."""
    data = all_of(log)
    kept = [data[at : at + header.size] for n, (at, header) in enumerate(headers(data)) if n % 3]
    return b"".join(kept)


def copied_with_gaps(disk: MemoryDisk, config: dict[str, Any]) -> tuple[PartitionLog, PartitionLog]:
    """A leader's log, and a follower's, to which what compaction has left of it was copied."""
    leader, follower = open_log(new_disk()), open_log(disk, **config)
    fill(leader, 41)
    follower.append_replicated(with_gaps(leader), leader_epoch=EPOCH, now_ms=NOW)
    return leader, follower


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
@pytest.mark.parametrize("missing", [0, 1, 70])
def test_L9_gaps_that_compaction_left_are_kept_and_are_no_damage(crash: Crash, missing: int) -> None:
    disk, config = new_disk(), {**CONFIG, "cleanup_policy": ("compact",)}
    leader, follower = copied_with_gaps(disk, config)
    expected = [row for row in contents(leader) if row[0] % 3]
    assert contents(follower) == expected and follower.end.value == 41 and len(follower.segments) > 2
    if crash is Crash.PROCESS:
        disk.kill()
        path = follower.active.path
        disk.open(path).truncate(disk.size(path) - missing)
        again = open_log(disk, crash, **config)
    else:
        make_durable(follower)
        disk.power_loss()
        again = open_log(disk, crash, recovery_point=0, **config)
        missing = 0
    left = contents(again)
    assert left == expected[: len(left)] and len(left) >= len(expected) - (2 if missing else 0)


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.POWER])
def test_L4_gaps_are_no_damage_when_the_topic_is_not_compacted_any_more(crash: Crash) -> None:
    disk = new_disk()
    leader, follower = copied_with_gaps(disk, CONFIG)
    if crash is Crash.PROCESS:
        disk.kill()
    else:
        make_durable(follower)
        disk.power_loss()
    again = open_log(disk, crash, recovery_point=0, **CONFIG)
    assert contents(again) == [row for row in contents(leader) if row[0] % 3]
    assert again.gaps_below == 41


@pytest.mark.parametrize("crash", [Crash.PROCESS, Crash.ERROR])
def test_L3_a_note_of_gaps_that_an_earlier_process_left_is_durable_with_the_next_flush(crash: Crash) -> None:
    disk = new_disk()
    leader, follower = copied_with_gaps(disk, CONFIG)
    if crash is Crash.PROCESS:
        disk.kill()
    else:
        disk.fail("sync", "*/compacted")
        with pytest.raises(LogOffline):
            make_durable(follower)
        disk.heal()
        follower.abandon()
    make_durable(open_log(disk, crash, **CONFIG))
    disk.power_loss()
    again = open_log(disk, Crash.POWER, recovery_point=0, **CONFIG)
    assert contents(again) == [row for row in contents(leader) if row[0] % 3]
    assert again.gaps_below == 41, "and no further"


@pytest.mark.parametrize("bit", [0, 21])
def test_L3_a_base_offset_that_a_power_failure_has_damaged_is_no_gap(bit: int) -> None:
    """It lies outside the CRC: gaps are believed as far as the log has noted some, and no further."""
    leader, disk = open_log(new_disk()), new_disk()
    fill(leader, 30)
    config = {**CONFIG, "cleanup_policy": ("compact",), "segment_bytes": 1 << 20}
    log = open_log(disk, **config)
    log.append_replicated(with_gaps(leader), leader_epoch=EPOCH, now_ms=NOW)
    expected = contents(log)
    assert log.gaps_below == 30
    fill(log, 1)
    make_durable(log)
    at = log.size - len(all_of(log, 30))
    disk.power_loss()
    file = disk.open(log.active.path)
    data = bytearray(file.pread(file.size(), 0))
    data[at + 7 - bit // 8] ^= 1 << bit % 8
    file.truncate(0)
    file.append([data])
    again = open_log(disk, Crash.POWER, recovery_point=0, **config)
    assert contents(again) == expected and again.end.value == 30


def test_without_gaps_nothing_is_said_of_them() -> None:
    leader, disk = open_log(new_disk()), new_disk()
    fill(leader, 41)
    follower = open_log(disk, **CONFIG)
    data = all_of(leader)
    for at, header in headers(data):
        follower.append_replicated(data[at : at + header.size], leader_epoch=EPOCH, now_ms=NOW)
    assert not follower.gaps_below and not disk.exists("orders-0/compacted")


# what is not taken


def test_L1_a_failed_write_leaves_no_trace() -> None:
    leader = open_log(new_disk(), segment_bytes=500)
    epochs_and_producers(leader)
    for error in (errno.ENOSPC, errno.EIO):
        disk = new_disk()
        follower = open_log(disk)
        append(follower, b"0", producer=0, sequence=100, at=NOW)
        before, files = answers(follower), disk.size(follower.active.path)
        disk.fail("append", "*.log", error=error)
        with pytest.raises(KafkaError) as caught:
            follower.append_replicated(all_of(leader, 1), leader_epoch=EPOCH, now_ms=NOW)
        disk.heal()
        assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR
        if error == errno.EIO:
            assert isinstance(caught.value, LogOffline) and follower.offline is not None
            disk.kill()
            follower = open_log(disk, Crash.ERROR)
        assert answers(follower) == before and disk.size(follower.active.path) == files
        copy(leader, follower)
        assert answers(follower) == answers(leader)


def test_L1_trouble_after_a_roll_leaves_what_was_before_it() -> None:
    leader, disk = open_log(new_disk()), new_disk()
    fill(leader, 40)
    follower = open_log(disk, **CONFIG)
    disk.fail("append", "*.log", nth=3, error=errno.ENOSPC)
    with pytest.raises(KafkaError):
        follower.append_replicated(all_of(leader), leader_epoch=EPOCH, now_ms=NOW)
    assert 0 < follower.end.value < 40 and contents(follower) == contents(leader, follower.end.value)
    copy(leader, follower)
    assert contents(follower) == contents(leader)
    disk.kill()
    assert contents(open_log(disk, Crash.PROCESS, **CONFIG)) == contents(leader)


def test_B4_no_flipped_byte_is_taken_for_what_it_is_not() -> None:
    """Base offset and epoch lie outside the CRC: a flip there may make a later offset, or an earlier epoch, of it."""
    leader = open_log(new_disk())
    fill(leader, 3, size=10, leader_epoch=5)
    good = all_of(leader)
    sizes = [header.size for _, header in headers(good)]
    for at in range(len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 0x40
        follower = open_log(new_disk())
        try:
            taken = follower.append_replicated(damaged, leader_epoch=EPOCH, now_ms=NOW)
        except KafkaError as error:
            assert error.code in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.NOT_LEADER_OR_FOLLOWER)
            assert follower.end.value == 0 and follower.size == 0
            continue
        hit = next(n for n in range(3) if at < sum(sizes[: n + 1]))
        inside = at - sum(sizes[:hit])
        if inside < 8:
            assert follower.end.value > 3 or taken == hit, "a gap, or what no offset is"
        else:
            assert taken == hit, (at, "what is behind it is left out")


@pytest.mark.parametrize("base", [0, 2, 4])
def test_B4_what_does_not_continue_the_log_is_refused(base: int) -> None:
    follower = open_log(new_disk())
    fill(follower, 5)
    data = batch(b"x")
    assign(data, 0, read_header(data), base, 0)
    with pytest.raises(KafkaError) as error:
        follower.append_replicated(data, leader_epoch=EPOCH, now_ms=NOW)
    assert error.value.code is ErrorCode.CORRUPT_MESSAGE and follower.end.value == 5


def numbered(base: int, epoch: int) -> bytearray:
    data = batch(b"x")
    assign(data, 0, read_header(data), base, epoch)
    return data


def test_R11_a_batch_of_an_older_epoch_is_refused() -> None:
    follower = open_log(new_disk())
    follower.append_replicated(numbered(0, 4), leader_epoch=EPOCH, now_ms=NOW)
    with pytest.raises(KafkaError) as error:
        follower.append_replicated(numbered(1, 5) + numbered(2, 3), leader_epoch=EPOCH, now_ms=NOW)
    assert error.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER and follower.end.value == 1


def test_R11_a_batch_of_a_later_epoch_than_was_fetched_in_waits_for_that_epoch() -> None:
    follower = open_log(new_disk())
    assert follower.append_replicated(numbered(0, 4) + numbered(1, 5), leader_epoch=4, now_ms=NOW) == 1
    assert follower.append_replicated(numbered(1, 5), leader_epoch=5, now_ms=NOW) == 1
    assert follower.epochs.entries == [(4, 0), (5, 1)]


def test_nothing_is_taken_of_nothing() -> None:
    follower = open_log(new_disk())
    for data in (b"", b"\0" * 60, numbered(0, 0)[:-1]):
        assert follower.append_replicated(data, leader_epoch=EPOCH, now_ms=NOW) == 0


def test_P1_a_follower_that_comes_to_lead_knows_the_last_batches_of_each_producer() -> None:
    leader = open_log(new_disk())
    for sequence in range(7):
        append(leader, b"%d" % sequence, producer=4, sequence=sequence)
    follower = open_log(new_disk())
    copy(leader, follower)
    for sequence in range(2, 7):
        again = append(follower, b"%d" % sequence, producer=4, sequence=sequence, leader_epoch=1)
        assert again.duplicate and again.base_offset == sequence


def test_a_large_answer_takes_a_snapshot_of_the_producers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbroker.log.derived.snapshots.REPLAY_BYTES_MAX", 1000)
    leader, disk = open_log(new_disk()), new_disk()
    epochs_and_producers(leader)
    follower = open_log(disk)
    follower._snapshots.postpone()
    copy(leader, follower, most=600)
    assert any(name.endswith(".snapshot") for name in disk.list_dir("orders-0"))
    disk.kill()
    assert answers(open_log(disk, Crash.PROCESS)) == answers(leader)


def stop(disk: MemoryDisk, log: PartitionLog) -> PartitionLog:
    end = trio.run(log.close, Worker())
    return open_log(disk, clean_end=end)


def test_a_clean_stop_of_a_follower_is_one() -> None:
    leader, disk = open_log(new_disk()), new_disk()
    epochs_and_producers(leader)
    follower = open_log(disk)
    copy(leader, follower)
    assert answers(stop(disk, follower)) == answers(leader)
