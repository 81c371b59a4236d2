"""What was let in without a look is looked at afterwards: told, counted, at a pace, beside everybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kbroker.log.content.scrubber import CHUNK_BYTES, ROUND_SECONDS, Scrubber
from kbroker.log.log import PartitionLog
from kbroker.testing.broker import Machine
from tests.log.content.odd_batches import KAFKA_RECORDS, batch_of
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
        assert scrubber.bad == {log.directory: 3}
        assert scrubber.batches == 5
    assert caplog.text.count("would stop consumers") == 1
    assert "the batch at offset 2 would stop consumers" in caplog.text


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
