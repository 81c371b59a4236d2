"""What a reader of committed records sees, against a plain list (T1), in any mix of transactions, high watermarks,
restarts, lost files, truncations and misfortunes."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_wire.errors import KafkaError
from kafka_wire.records import read_header
from kbroker.log.derived.transactions import Marker
from kbroker.log.errors import LogOffline
from kbroker.log.recovery import Crash, End
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.testing.disk import MemoryDisk
from tests.log.committed import read_committed
from tests.log.tools import NOW, Worker, apply_retention, batch, open_log
from tests.replication.tools import image

CONFIG = {"segment_bytes": 500, "index_interval_bytes": 100}
NODE = 1
PRODUCERS = 4
STEPS = st.lists(st.tuples(st.integers(0, PRODUCERS - 1), st.sampled_from("wwwpac")), min_size=4, max_size=30)


@dataclass
class Transaction:
    producer: int
    offsets: list[int] = field(default_factory=list)
    marker: int | None = None
    is_commit: bool = False


class CommittedMachine(RuleBasedStateMachine):
    """`records` is what a perfect partition holds: offset -> the transaction it is of, or None."""

    @initialize(seed=st.integers(0, 1000), steps=STEPS)
    def begin(self, seed: int, steps: list[tuple[int, str]]) -> None:
        self.disk = MemoryDisk(seed=seed)
        self.records: dict[int, Transaction | None] = {}
        self.transactions: list[Transaction] = []
        self.start = self.end = self.durable = self.epoch = 0
        self.stable = 0  # the largest last stable offset of this epoch
        self.sequences = dict.fromkeys(range(PRODUCERS), 0)
        self.open_partition(Crash.CLEAN)
        self.work(steps)

    def open_partition(self, crash: Crash, clean_end: End | None = None) -> None:
        log = open_log(
            self.disk,
            crash,
            recovery_point=self.durable,
            start_offset=self.start,
            leader_epoch_max=self.epoch,
            clean_end=clean_end,
            **CONFIG,
        )
        self.log = log
        self.take_lead()

    def take_lead(self) -> None:
        """In a cluster of two, of which the other is slow: the high watermark is ours to move."""
        self.epoch += 1
        self.stable = 0
        self.partition = Partition("orders", 0, b"i" * 16, self.log, NODE)
        self.partition.lead(image(self.epoch, (NODE, 2)))

    def ongoing(self, producer: int) -> Transaction | None:
        return next((t for t in self.transactions if t.producer == producer and t.marker is None), None)

    @rule(steps=STEPS)
    def work(self, steps: list[tuple[int, str]]) -> None:
        """A stretch of ordinary life: without it, misfortunes would leave little to look at."""
        for producer, step in steps:
            match step:
                case "w":
                    self.write(producer, 1)
                case "p":
                    self.write_plain()
                case _:
                    self.mark(producer, step == "c")

    @rule(producer=st.integers(0, PRODUCERS - 1), count=st.integers(1, 3))
    def write(self, producer: int, count: int) -> None:
        values = [b"%d" % (self.end + n) for n in range(count)]
        data = batch(*values, producer=producer, sequence=self.sequences[producer], transactional=True)
        header = read_header(data)
        self.partition.check_append(ACKS_ALL)
        assert self.partition.write(data, header, NOW, self.partition.verification(header)).base_offset == self.end
        transaction = self.ongoing(producer)
        if transaction is None:
            transaction = Transaction(producer)
            self.transactions.append(transaction)
        self.note(transaction, count)
        self.sequences[producer] += count

    @rule()
    def write_plain(self) -> None:
        assert self.partition.append(batch(b"%d" % self.end), ACKS_ALL, NOW).base_offset == self.end
        self.note(None, 1)

    def note(self, transaction: Transaction | None, count: int) -> None:
        for offset in range(self.end, self.end + count):
            self.records[offset] = transaction
            if transaction is not None:
                transaction.offsets.append(offset)
        self.end += count

    @rule(producer=st.integers(0, PRODUCERS - 1), is_commit=st.booleans())
    def mark(self, producer: int, is_commit: bool) -> None:
        assert self.partition.write_marker(Marker(producer, 0, 0, is_commit), NOW).base_offset == self.end
        transaction = self.ongoing(producer)
        if transaction is not None:
            transaction.marker, transaction.is_commit = self.end, is_commit
        self.end += 1

    @rule(share=st.floats(0, 1))
    def replicate(self, share: float) -> None:
        high_watermark = self.partition.high_watermark
        high_watermark.advance(high_watermark.value + round((self.end - high_watermark.value) * share))

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule()
    def release(self) -> None:
        self.log.release_idle()
        self.log.release_idle()

    @rule()
    def flush(self) -> None:
        trio.run(self.log.flush, Worker())
        self.durable = self.end

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        bound = self.partition.high_watermark.value
        self.start = max(self.start, int(self.start + (bound - self.start) * share))
        self.log.advance_start(self.start)
        apply_retention(self.log, NOW, bound)

    @rule(clean=st.booleans(), lost=st.sets(st.sampled_from([".txnindex", ".snapshot", ".index", ".timeindex"])))
    def restart(self, clean: bool, lost: set[str]) -> None:
        end = None
        if clean:
            end = trio.run(self.log.close, Worker())
            self.durable = self.end
        self.disk.kill()
        if self.start == 0:  # else a snapshot may be the only trace of what was deleted
            for name in self.disk.list_dir("orders-0") if self.disk.exists("orders-0") else []:
                if name.endswith(tuple(lost)) and lost:
                    self.disk.remove(f"orders-0/{name}")
        self.open_partition(Crash.PROCESS if lost or not clean else Crash.CLEAN, end)
        assert self.log.end.value == self.end

    @rule(is_flushed=st.sampled_from([True, True, False]))
    def power_failure(self, is_flushed: bool) -> None:
        if is_flushed:
            self.flush()
            self.work([(0, "w"), (0, "a"), (1, "w")])
        self.disk.power_loss()
        self.open_partition(Crash.POWER)
        self.forget_from(self.log.end.value)

    @rule(share=st.floats(0, 1), steps=STEPS)
    def truncate(self, share: float, steps: list[tuple[int, str]]) -> None:
        """It led, then followed another for a while, who had less of what was not committed."""
        bound = self.partition.high_watermark.value
        self.partition.resign()
        self.log.truncate_to(int(bound + (self.end - bound) * share))
        trio.run(self.log.settle, Worker())
        self.forget_from(self.log.end.value)
        self.durable = min(self.durable, self.end)
        self.take_lead()
        self.work(steps)  # in the place of what was cut

    @rule(name=st.sampled_from(["*.log", "*.txnindex"]), error=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def misfortune(self, name: str, error: int) -> None:
        self.disk.fail("append", name, error=error)
        self.disk.fail("write_atomic", name, error=error)
        try:
            self.mark(0, False)
        except LogOffline:
            assert error == errno.EIO and name == "*.log"
            self.disk.heal()
            self.log.abandon()
            self.open_partition(Crash.ERROR)
        except KafkaError:
            assert error == errno.ENOSPC and name == "*.log"
        self.disk.heal()

    def forget_from(self, offset: int) -> None:
        """The log ends there."""
        self.end = offset
        self.start = min(self.start, offset)
        self.records = {each: transaction for each, transaction in self.records.items() if each < offset}
        for transaction in self.transactions:
            transaction.offsets = [each for each in transaction.offsets if each < offset]
            if transaction.marker is not None and transaction.marker >= offset:
                transaction.marker = None
        self.transactions = [each for each in self.transactions if each.offsets]
        self.sequences = dict.fromkeys(range(PRODUCERS), 0)
        for producer, state in self.log.producers.by_id.items():
            self.sequences[producer] = state.batches[-1].last_sequence + 1 if state.batches else 0

    # what must hold

    def undecided(self) -> list[Transaction]:
        high_watermark = self.partition.high_watermark.value
        return [each for each in self.transactions if each.marker is None or each.marker >= high_watermark]

    @invariant()
    def nothing_is_stable_too_early_nor_ever_taken_back(self) -> None:
        """Where a lost snapshot was the only trace of how a transaction began, its first record that is left counts."""
        stable, high_watermark = self.partition.last_stable_offset, self.partition.high_watermark.value
        left = [offset for each in self.undecided() for offset in each.offsets if offset >= self.start]
        assert self.stable <= stable <= min([high_watermark, *left])
        self.stable = stable
        if high_watermark == self.end:
            first = min([high_watermark, *(each.offsets[0] for each in self.undecided())])
            assert stable >= max(first, self.start)

    @precondition(lambda self: self.end > self.start)
    @rule(share=st.floats(0, 1), size=st.integers(1, 1500))
    def read(self, share: float, size: int) -> None:
        self.check_from(int(self.start + (self.end - self.start) * share), size)

    def check_from(self, offset: int, size: int) -> None:
        stable = self.partition.last_stable_offset
        found: list[tuple[int, bytes | None]] = []
        after, first = offset, offset
        while True:
            some, after = read_committed(self.partition, after, size)
            found += some
            if after == offset:
                break
            offset = after
        assert after >= stable
        expected = [each for each, t in self.records.items() if t is None or (t.is_commit and t.marker is not None)]
        assert [each for each, _ in found] == [each for each in expected if first <= each < stable]
        assert all(value == b"%d" % each for each, value in found)

    def teardown(self) -> None:
        """In the end all is committed and read, in one piece and batch by batch, before and after a restart."""
        if not hasattr(self, "partition"):
            return
        for _ in range(2):
            self.partition.high_watermark.advance(self.end)
            self.check_from(self.start, 1 << 20)
            self.check_from(self.start, 1)
            self.restart(False, {".txnindex"})


CommittedMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCommittedModel = pytest.mark.slow(CommittedMachine.TestCase)
