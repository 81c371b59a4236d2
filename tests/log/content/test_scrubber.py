"""What was let in without a look is looked at afterwards: told, counted, at a pace, beside everybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kbroker.log.content.scrubber import CHUNK_BYTES, REPORT_SECONDS, ROUND_SECONDS, Scrubber
from kbroker.log.log import PartitionLog
from kbroker.testing.broker import Machine
from tests.log.content.odd_batches import KAFKA_RECORDS, TWO, batch_of
from tests.log.tools import NOW, append, cut_to, new_disk, open_log

BAD = KAFKA_RECORDS["more records"]


def bad(codec: int = 1) -> bytearray:
    return batch_of(BAD.payload, BAD.count, codec)


@asynccontextmanager
async def scrubbing(*logs: PartitionLog, pace: int = 1 << 30) -> AsyncIterator[Scrubber]:
    env = Machine().env()
    async with trio.open_nursery() as nursery:
        scrubber = Scrubber(env, {("t", n): each for n, each in enumerate(logs)}, lambda: pace)
        nursery.start_soon(scrubber.run)
        yield scrubber
        nursery.cancel_scope.cancel()


async def test_a_bad_batch_is_told_once_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(new_disk())
    append(log, b"a", b"b")
    for codec in (1, 4, 2):
        log.append(bad(codec), leader_epoch=0, now_ms=NOW)
    append(log, b"c", compression=3)
    async with scrubbing(log) as scrubber:
        await trio.sleep(2 * ROUND_SECONDS)
        assert scrubber.bad == {("t", 0): (3, 2, 6)}
        assert scrubber.batches == 5
    assert caplog.text.count("would stop consumers: ") == 2, "and at the end"
    assert "batches that would stop consumers: 3, in t-0 (3, from offset 2 on)" in caplog.text
    assert "the batch at offset 2 would stop consumers" in caplog.text


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("codec", range(1, 5))
async def test_a_compressed_batch_that_lies_about_its_number_of_records_is_found(
    codec: int, count: int, autojump_clock: MockClock
) -> None:
    """By default a compressed one is let in by its header, as long as so many records could be in it."""
    log = open_log(new_disk())
    log.append(batch_of(TWO, count, codec), leader_epoch=0, now_ms=NOW)
    async with scrubbing(log) as scrubber:
        await trio.sleep(2 * ROUND_SECONDS)
        assert scrubber.bad == {("t", 0): (1, 0, 0)}


async def test_what_is_bad_is_told_again_when_there_is_more_and_while_it_is_there(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(new_disk())
    told = "batches that would stop consumers: "
    async with scrubbing(log):
        for hour in range(1, 4):
            log.append(bad(), leader_epoch=0, now_ms=NOW)
            await trio.sleep(REPORT_SECONDS + ROUND_SECONDS)
            assert caplog.text.count(told) == hour
            assert f"{told}{hour}, in t-0" in caplog.text
        await trio.sleep(2 * REPORT_SECONDS)
        assert caplog.text.count(told) == 3
        log.advance_start(log.end.value)
        await trio.sleep(REPORT_SECONDS)
    assert caplog.text.count(told) == 3


async def test_what_nobody_came_to_look_at_is_told_at_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    log = open_log(new_disk())
    append(log, b"v")
    async with scrubbing(log):
        await trio.sleep(1)
    assert "partitions with records that were not looked at yet: 1" in caplog.text


async def test_each_batch_is_looked_at_once(autojump_clock: MockClock) -> None:
    log = open_log(new_disk())
    async with scrubbing(log) as scrubber:
        for n in range(1, 5):
            append(log, b"v")
            await trio.sleep(2 * ROUND_SECONDS)
            assert (scrubber.batches, log.unread) == (n, -1)


async def test_what_was_read_in_full_is_not_read_again(autojump_clock: MockClock) -> None:
    full = {"kbroker_produce_validate": "full", "kbroker_produce_validate_compressed": "full"}
    logs = [open_log(new_disk(), **full), open_log(new_disk(), cleanup_policy="compact")]
    for log in logs:
        append(log, b"v")
    async with scrubbing(*logs) as scrubber:
        await trio.sleep(2 * ROUND_SECONDS)
        assert scrubber.batches == 0


async def test_the_pace_is_kept(autojump_clock: MockClock) -> None:
    log = open_log(new_disk())
    for _ in range(16):
        append(log, bytes(CHUNK_BYTES // 2))
    async with scrubbing(log, pace=CHUNK_BYTES) as scrubber:
        await trio.sleep(ROUND_SECONDS + 3.5)
        assert 3 <= scrubber.batches <= 8
        await trio.sleep(20)
        assert scrubber.batches == 16


async def test_a_pace_of_0_looks_at_nothing(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    log = open_log(new_disk())
    log.append(bad(), leader_epoch=0, now_ms=NOW)
    async with scrubbing(log, pace=0) as scrubber:
        await trio.sleep(3 * ROUND_SECONDS)
        assert (scrubber.batches, log.unread) == (0, 0)


async def test_a_log_that_is_cut_or_fails_meanwhile_is_left_alone(autojump_clock: MockClock) -> None:
    cut, broken, fine = open_log(new_disk()), open_log(disk := new_disk()), open_log(new_disk())
    for log in (cut, broken, fine):
        for _ in range(4):
            append(log, b"v")
    cut_to(cut, 2)
    disk.fail("pread", "*.log", times=100)
    async with scrubbing(cut, broken, fine) as scrubber:
        await trio.sleep(2 * ROUND_SECONDS)
        assert scrubber.batches == 2 + 4
        append(broken, b"v")
        append(cut, b"v")
        await trio.sleep(2 * ROUND_SECONDS)
        assert cut.unread == -1 and scrubber.bad == {}
