"""The whole broker in the simulated world: it keeps its promises on every seed, and a planted bug does not get by.

`SIMULATION_SEEDS=500 pytest tests/simulation/test_single_broker.py` runs that many seeds instead of the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from pytest import MonkeyPatch

from kafka_wire.records import BatchHeader
from kbroker.env import Offload
from kbroker.log import recovery, scan
from kbroker.log.checkpoints import OffsetCheckpoint
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition
from tests.simulation.checker import Checker, Violation
from tests.simulation.runs import (
    Planted,
    batches,
    check_seeds,
    check_that_a_run_is_the_same_elsewhere,
    check_that_a_seed_is_a_run,
    check_that_it_is_found,
    last_words,
    run,
)
from tests.simulation.single_broker import single_broker


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(single_broker, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_is_the_same_in_another_process(hash_seed: str) -> None:
    check_that_a_run_is_the_same_elsewhere(single_broker, 11, hash_seed)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(40, at_once=20), ids=str)
def test_promises_are_kept(seeds: range) -> None:
    """Nothing acknowledged is lost, doubled, reordered or changed, and after every trouble all are served again."""
    check_seeds(single_broker, seeds)


@pytest.mark.slow
def test_work_is_done_without_faults() -> None:
    """A run in which nothing happens would promise little."""
    trace = run(single_broker, 1, faults=("reset",), keep_lines=True)
    acks, reads = last_words(trace).split(", ")
    assert int(acks) > 100
    assert int(reads) > 500


# -- planted bugs: the checker must notice -----------------------------------------------------------------------------


def acknowledged_before_it_can_be_read(patch: MonkeyPatch) -> None:
    def write(self: Partition, batch: bytearray, header: BatchHeader | None, now_ms: int, *rest: Any) -> Any:
        return self.log.append(batch, header, leader_epoch=self.leader_epoch, now_ms=now_ms)

    patch.setattr(Partition, "write", write)


def producers_forgotten_at_a_restart(patch: MonkeyPatch) -> None:
    def restore(
        disk: Any, directory: str, segments: Any, producers: ProducerStates, snapshots: list[int], *progress: Any
    ) -> list[int]:
        producers.by_id = {}
        return snapshots

    patch.setattr(recovery, "restore_producers", restore)


def torn_tail_kept(patch: MonkeyPatch) -> None:
    def scan_headers(
        file: Any, position: int, end: int, offset: int, durable: int
    ) -> Iterator[tuple[int, BatchHeader]]:
        return scan.walk(file, position, end)

    patch.setattr(scan, "scan", scan_headers)


def recovery_point_ahead_of_fsync(patch: MonkeyPatch) -> None:
    async def flush(self: PartitionLog, target: int, offload: Offload) -> None:
        self.flushed.advance(min(target, self.end.value))

    patch.setattr(PartitionLog, "_flush_to", flush)


def log_start_not_noted(patch: MonkeyPatch) -> None:
    async def move_starts(self: LogDirectory, starts: dict[PartitionLog, int]) -> None:
        for each, offset in starts.items():
            each.advance_start(offset)

    patch.setattr(LogDirectory, "move_starts", move_starts)


def any_first_number_accepted(patch: MonkeyPatch) -> None:
    patch.setattr(ProducerStates, "refused", lambda self, header: None)


def repetition_of_what_is_not_flushed_acknowledged(patch: MonkeyPatch) -> None:
    needs_flush = PartitionLog.needs_flush

    def needs_no_flush_twice(self: PartitionLog, now_ms: int) -> bool:
        return self._dirty_since_ms is not None and needs_flush(self, now_ms)

    patch.setattr(PartitionLog, "needs_flush", needs_no_flush_twice)


def a_file_that_two_write_at_once(patch: MonkeyPatch) -> None:
    async def save_in(self: OffsetCheckpoint, offload: Offload) -> None:
        await offload(partial(self._write, dict(self.offsets)))

    patch.setattr(OffsetCheckpoint, "save_in", save_in)  # without its lock


SLOW = {"slow_disk": True}
PLANTED = [
    Planted(acknowledged_before_it_can_be_read, "after .* was acknowledged or read", ("reset",)),
    Planted(producers_forgotten_at_a_restart, "duplicate", ("kill", "reset")),
    Planted(torn_tail_kept, "corrupt batch", ("power_loss", "kill"), SLOW, first=9),
    Planted(
        recovery_point_ahead_of_fsync,
        "acknowledged after a flush and lost",
        ("power_loss", "kill"),
        SLOW,
    ),
    Planted(log_start_not_noted, "log start 0 after", ("kill",)),
    Planted(
        any_first_number_accepted,
        "was answered .*OUT_OF_ORDER_SEQUENCE_NUMBER",
        ("session", "no_space"),
        first=13,
    ),
    Planted(
        repetition_of_what_is_not_flushed_acknowledged,
        "acknowledged after a flush and lost|high watermark .* after .* was acknowledged",
        ("kill_then_power_loss", "reset"),
        SLOW,
        first=26,
    ),
    Planted(a_file_that_two_write_at_once, "was answered .*KAFKA_STORAGE_ERROR", ("reset",), first=18),
]


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.id)
def test_a_planted_bug_is_found(planted: Planted) -> None:
    check_that_it_is_found(planted, single_broker)


# -- the checker itself -----------------------------------------------------------------------------------------------


@contextmanager
def broken(words: str) -> Iterator[None]:
    with pytest.raises(Violation, match=words):
        yield


def test_the_checker_knows_each_anomaly() -> None:
    checker = Checker()
    history = checker.history("t", 0, durable=True, shrinks=False)
    a, b, c = b"p/0/", b"p/1/", b"p/2/"
    checker.sent = dict.fromkeys((a, b, c), "t")
    checker.ordered.add("p")
    history.acknowledged(0, [a, b], 0)
    with broken("nobody sent"):
        history.read(0, [(0, a), (1, b), (2, b"q/0/")], 3, 0, history.promise())
    with broken("held"):
        history.read(0, [(0, b)], 3, 0, history.promise())
    with broken("duplicate"):
        history.read(2, [(2, a)], 3, 0, history.promise())
    history.values.pop(2)
    with broken("skipped"):
        history.read(0, [(1, b)], 3, 0, history.promise())
    with broken("the high watermark is"):
        history.read(3, [(3, c)], 3, 0, history.promise())
    with broken("high watermark 1 after"):
        history.read(0, [], 1, 0, history.promise())
    with broken("was to be deleted"):
        history.read(1, [], 3, 1, history.promise())
    with broken("is lost"):
        history.complete(0, [(0, a)])
    with broken("acknowledged after a flush and lost"):
        history.power_lost()
        history.recovered(1)
    with broken("given twice"):
        checker.saw_producer_id(5)
        checker.saw_producer_id(5)
    with broken("has id"):
        checker.saw_topic_id("t", b"1")
        checker.saw_topic_id("t", b"2")
    with broken("leader epoch 1 after 2"):
        history.saw_epoch(2)
        history.saw_epoch(1)


def test_the_checker_notices_reordering() -> None:
    checker = Checker()
    history = checker.history("t", 0, durable=True, shrinks=False)
    checker.sent, checker.ordered = {b"p/0/": "t", b"p/1/": "t"}, {"p"}
    history.acknowledged(0, [b"p/1/", b"p/0/"], 0)
    with broken("reordered"):
        history.complete(0, [(0, b"p/1/"), (1, b"p/0/")])
