"""A log against a list: any mix of appends, reads, rolls, truncations, deletions, flushes, restarts and misfortunes."""

from __future__ import annotations

import errno
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_wire import records
from kafka_wire.errors import KafkaError
from kbroker.env import Disk
from kbroker.env.features import Features
from kbroker.env.real import real_env
from kbroker.log.derived.index import Indexes
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash, End
from kbroker.log.segment import Loading, Segment
from kbroker.testing.disk import MemoryDisk
from kbroker.turns import do_errands
from tests.log.tools import (
    NOW,
    Worker,
    apply_retention,
    batch,
    contents,
    cut_to,
    fill,
    new_disk,
    open_log,
    producers_of,
    starts_at,
)

CONFIG = {"segment_bytes": 1500, "index_interval_bytes": 150}


class LogMachine(RuleBasedStateMachine):
    """`model` is what a perfect log would hold: (base offset, values, leader epoch, timestamp), batch by batch."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.disk = MemoryDisk(seed=seed)
        self.model: list[tuple[int, list[bytes], int, int]] = []
        self.start = self.end = self.durable = self.epoch = 0
        self.sequences: dict[int, int] = {}
        self.loaded: list[tuple[Segment, Loading, Indexes]] = []
        self.log = self.open(Crash.CLEAN)

    def open(self, crash: Crash, clean_end: End | None = None) -> PartitionLog:
        return open_log(
            self.disk, crash, recovery_point=self.durable, start_offset=self.start, clean_end=clean_end, **CONFIG
        )

    @rule(count=st.integers(1, 4), size=st.integers(0, 300), producer=st.integers(-1, 2), later=st.integers(-20, 50))
    def append(self, count: int, size: int, producer: int, later: int) -> None:
        values = [b"%d+%d" % (self.end, n) + b"." * size for n in range(count)]
        sequence = self.sequences.get(producer, 0)
        data = batch(*values, at=NOW + later, producer=producer, sequence=sequence if producer >= 0 else -1)
        done = self.log.append(data, leader_epoch=self.epoch, now_ms=NOW)
        assert done == (self.end, self.end + count - 1, -1, False)
        self.model.append((self.end, values, self.epoch, NOW + later))
        self.end += count
        if producer >= 0:
            self.sequences[producer] = sequence + count
            again = batch(*values, at=NOW + later, producer=producer, sequence=sequence)
            assert self.log.append(again, leader_epoch=self.epoch, now_ms=NOW) == (*done[:3], True)

    @rule()
    def new_leader(self) -> None:
        self.epoch += 1
        self.log.epochs.assign(self.epoch, self.log.end.value)

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule()
    def release(self) -> None:
        self.log.release_idle()
        self.log.release_idle()

    @rule(share=st.floats(0, 0.999))
    def begin_loading(self, share: float) -> None:
        """As a worker does, while the log goes on."""
        segment = self.log.segments[int(len(self.log.segments) * share)]
        if segment.size:
            segment.release()
            loading = segment.loading(CONFIG["index_interval_bytes"])
            self.loaded.append((segment, loading, loading.run()))

    @rule()
    def end_loading(self) -> None:
        for segment, loading, indexes in self.loaded:
            if segment in self.log.segments:
                segment.adopt(loading, indexes)
        self.loaded.clear()

    @rule()
    def flush(self) -> None:
        trio.run(self.log.flush, Worker())
        self.durable = self.log.flushed.value
        assert self.durable == self.end

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        self.start = max(self.start, int(self.start + (self.end - self.start) * share))
        self.log.advance_start(self.start)
        apply_retention(self.log, NOW, self.end)

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        target = int(self.start + (self.end - self.start) * share)
        cut_to(self.log, target)
        self.forget_from(self.log.end.value)
        assert self.end <= target
        self.start = min(self.start, self.end)
        self.durable = min(self.durable, self.end)

    @rule(error=st.sampled_from([errno.ENOSPC, errno.EIO]), name=st.sampled_from(["*.log", "*index", "*.snapshot"]))
    def misfortune(self, error: int, name: str) -> None:
        self.disk.fail("append", name, error=error)
        self.disk.fail("write_atomic", name, error=error)
        try:
            self.append(1, 200, -1, 0)
        except LogOffline:
            assert error == errno.EIO and name == "*.log"
            self.disk.heal()
            self.log.abandon()
            self.log = self.open(Crash.ERROR)
        except KafkaError:
            assert error == errno.ENOSPC and name == "*.log"
        self.disk.heal()

    @rule(clean=st.booleans(), appends=st.integers(0, 12))
    def restart(self, clean: bool, appends: int) -> None:
        before, end = producers_of(self.log), None
        if clean:
            end = trio.run(self.log.close, Worker())
            assert end is None or end.producers == len(before)
            self.durable = self.end
        self.disk.kill()
        self.log = self.open(Crash.CLEAN if clean else Crash.PROCESS, end)
        assert self.log.end.value == self.end
        if self.start == 0:
            assert producers_of(self.log) == before
        for _ in range(appends):  # before anybody looks into the indexes
            self.append(1, 150, -1, 0)

    @rule()
    def power_failure(self) -> None:
        self.disk.power_loss()
        self.log = self.open(Crash.POWER)
        assert self.durable <= self.log.end.value <= max(self.end, self.start)
        self.forget_from(self.log.end.value)
        self.epoch = max(self.epoch, self.log.epochs.latest)
        if self.start >= self.end:
            self.model.clear()
            self.start = self.end = self.log.end.value

    def forget_from(self, offset: int) -> None:
        self.model = [each for each in self.model if each[0] + len(each[1]) <= offset]
        self.end = offset
        self.sequences = {
            producer_id: (each.batches[-1].last_sequence + 1) if each.batches else 0
            for producer_id, each in self.log.producers.by_id.items()
        }

    @invariant()
    def the_log_is_the_model(self) -> None:
        assert (self.log.start_offset, self.log.end.value) == (self.start, self.end)
        expected = [(base + n, value) for base, values, _, _ in self.model for n, value in enumerate(values)]
        assert contents(self.log) == [each for each in expected if each[0] >= self.start]
        assert self.log.size == sum(segment.size for segment in self.log.segments)

    @precondition(lambda self: self.end > self.start)
    @rule(share=st.floats(0, 0.999), size=st.integers(0, 3000))
    def read(self, share: float, size: int) -> None:
        offset = int(self.start + (self.end - self.start) * share)
        base = max(base for base, *_ in self.model if base <= offset)
        assert starts_at(self.log, offset) == base
        data = b"".join(piece.read() for piece in self.log.read(offset, size, self.end))
        found = [header.base_offset for _, header in records.headers(data)]
        bases = [each for each, *_ in self.model if each >= base]
        assert found == bases[: len(found)] and (len(data) <= size or len(found) == 1)

    @rule(later=st.integers(-30, 60))
    def look_up(self, later: int) -> None:
        expected = next(
            (
                max(base, self.start)
                for base, values, _, at in self.model
                if at >= NOW + later and base + len(values) > self.start
            ),
            None,
        )
        found = do_errands(self.log.first_at_or_after(NOW + later, self.end))
        assert (found and found.offset) == expected


LogMachine.TestCase.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogModel = pytest.mark.slow(LogMachine.TestCase)


@pytest.mark.parametrize("missing", [None, "writev", "pread", "fdatasync", "full_sync", "dir_sync"])
async def test_the_real_disk_with_and_without_each_feature(missing: str | None) -> None:
    """The same log on files, killed and stopped, as other systems would run it."""
    features = Features.detect()
    with TemporaryDirectory() as root:
        walk_through(real_env(root, features=features.without(missing) if missing else features).disk)
        log = open_log(real_env(root).disk, Crash.PROCESS, start_offset=10, **CONFIG)
        await log.flush(Worker())
        await log.close(Worker())
        again = open_log(real_env(root).disk, start_offset=10, **CONFIG)
        assert len(contents(again)) == 90
        await again.close(Worker())


def walk_through(disk: Disk) -> None:
    log = open_log(disk, **CONFIG)
    fill(log, 100)
    cut_to(log, 80)
    fill(log, 20, first=80)
    log.advance_start(10)
    apply_retention(log, NOW, 100)
    expected = contents(log)
    assert [offset for offset, _ in expected] == list(range(10, 100))
    log.abandon()
    assert contents(open_log(disk, Crash.PROCESS, start_offset=10, **CONFIG)) == expected


def test_a_new_disk_is_empty() -> None:
    assert new_disk().list_dir("") == []
