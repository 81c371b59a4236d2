"""Read committed: what is stable, who waits for it, markers, verification (T1, T4, L7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, headers, read_header
from kbroker.config import TopicConfig
from kbroker.log.derived.transactions import Marker
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.replication.doubt import InDoubt, NotLeader
from kbroker.replication.partition import READ_COMMITTED, READ_UNCOMMITTED, Partition
from kbroker.testing.broker import Machine
from kbroker.watermark import Watermark
from tests.log.tools import Worker
from tests.replication.test_partition import NODE, Session, batch, leader, make, shared
from tests.replication.tools import image


def transactional(sequence: int, producer: int = 5, epoch: int = 0) -> bytearray:
    return build_batch(
        [(1000, b"k", b"v")], producer_id=producer, producer_epoch=epoch, base_sequence=sequence, transactional=True
    )


def begin(partition: Partition, sequence: int = 0, producer: int = 5, epoch: int = 0) -> int:
    """Append a batch of a transaction, verified if it has to be."""
    data = transactional(sequence, producer, epoch)
    header = read_header(data)
    return partition.write(data, header, 1000, partition.verification(header)).base_offset


def end(partition: Partition, producer: int = 5, *, commit: bool = True) -> int:
    return partition.write_marker(Marker(producer, 0, 0, commit), 1000).base_offset


def offsets(partition: Partition, offset: int = 0, isolation: int = READ_COMMITTED) -> list[int]:
    data = b"".join(piece.read() for piece in partition.read(offset, 1 << 20, isolation=isolation).slices)
    return [header.base_offset for _, header in headers(data)]


def test_T1_read_committed_stops_at_the_first_open_transaction() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    begin(partition)
    partition.append(batch(), 1, 0)
    result = partition.read(0, 1 << 20, isolation=READ_COMMITTED)
    assert (result.high_watermark, result.last_stable_offset) == (3, 1)
    assert offsets(partition) == [0] and offsets(partition, isolation=READ_UNCOMMITTED) == [0, 1, 2]
    assert partition.read(1, 100, isolation=READ_COMMITTED).slices == ()
    assert (partition.available(0, 1 << 20, READ_COMMITTED), partition.available(1, 1 << 20, READ_COMMITTED)) == (
        len(batch()), 0,
    )  # fmt: skip
    assert end(partition) == 3
    assert partition.last_stable_offset == 4 and offsets(partition) == [0, 1, 2, 3]


def test_T1_what_is_stable_is_read_though_a_later_transaction_is_open() -> None:
    partition = leader()
    begin(partition, producer=1)
    begin(partition, producer=2)
    end(partition, producer=2)
    assert partition.last_stable_offset == 0
    begin(partition, producer=3)
    end(partition, producer=1)
    assert partition.last_stable_offset == 3 and offsets(partition) == [0, 1, 2]


def test_T1_a_marker_counts_when_it_is_below_the_high_watermark_not_when_it_is_appended() -> None:
    partition = make()
    partition.lead(image(0, (NODE, 2)))
    begin(partition)
    end(partition)
    partition.high_watermark.advance(1)  # the follower has the record, and not yet the marker
    assert partition.last_stable_offset == 0 and offsets(partition) == []
    partition.high_watermark.advance(2)
    assert partition.last_stable_offset == 2 and offsets(partition) == [0, 1]


def test_T1_what_ended_before_the_snapshot_of_a_restart_counts_when_it_is_committed() -> None:
    """A snapshot does not tell of it, and a new leader's high watermark begins far behind it."""
    machine = Machine()
    partition = make(machine)
    partition.lead(image(0, (NODE,)))
    begin(partition)
    end(partition, commit=False)
    trio.run(partition.log.close, Worker())
    log = PartitionLog.open(machine.env().disk, "t-0", config=TopicConfig(), topic_id=b"i" * 16, crash=Crash.PROCESS)
    again = Partition("t", 0, b"i" * 16, log, NODE)
    again.lead(image(1, (NODE, 2)))
    again.high_watermark.advance(1)
    assert again.last_stable_offset == 0 and offsets(again) == []
    again.high_watermark.advance(2)
    assert again.last_stable_offset == 2


def test_the_last_stable_offset_never_goes_back_and_never_is_above_the_high_watermark() -> None:
    partition = make()
    partition.lead(image(0, (NODE, 2)))
    stable, sequences = 0, [0] * 5
    for number in range(30):
        producer = number % 5
        if number % 3 < 2:
            begin(partition, sequences[producer], producer)
            sequences[producer] += 1
        else:
            end(partition, producer)
        partition.high_watermark.advance(number * 2 // 3)
        assert stable <= partition.last_stable_offset <= partition.high_watermark.value
        stable = partition.last_stable_offset


def test_an_open_transaction_below_the_log_start_holds_readers_at_the_start() -> None:
    partition = leader()
    begin(partition)
    for _ in range(4):
        partition.append(batch(), 1, 0)
    partition.log.advance_start(3)
    assert partition.last_stable_offset == 3 and offsets(partition, 3) == []
    end(partition)
    assert partition.last_stable_offset == 6 and offsets(partition, 3) == [3, 4, 5]


@contextmanager
def rings(watermark: Watermark, bell: trio.Event) -> Iterator[None]:
    """The bell hangs there while the block runs."""
    watermark.attach(bell)
    try:
        yield
    finally:
        watermark.detach(bell)


def test_without_transactions_both_levels_wait_for_the_same() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    assert partition.watermark(READ_COMMITTED) is partition.watermark(READ_UNCOMMITTED) is partition.high_watermark


def test_a_reader_of_committed_records_is_not_woken_by_appends_to_what_is_open() -> None:
    partition, bell = leader(), trio.Event()
    begin(partition)
    stable = partition.watermark(READ_COMMITTED)
    with rings(stable, bell):
        for sequence in range(1, 4):
            begin(partition, sequence)
        assert not bell.is_set() and stable.value == 0
        end(partition)
        assert bell.is_set() and stable.value == 5
    assert partition.watermark(READ_COMMITTED) is partition.high_watermark


def test_what_moved_while_nobody_waited_is_heard_at_once() -> None:
    partition, bell = leader(), trio.Event()
    begin(partition)
    stable = partition.watermark(READ_COMMITTED)
    end(partition)
    with rings(stable, bell):
        assert bell.is_set()
    assert partition.high_watermark._bells is None, "nobody waits any more"


def test_a_reader_who_began_to_wait_before_the_transaction_hears_of_its_end() -> None:
    partition, bell = leader(), trio.Event()
    with rings(partition.watermark(READ_COMMITTED), bell):
        begin(partition)
    bell = trio.Event()
    with rings(partition.watermark(READ_COMMITTED), bell):
        end(partition)
        assert bell.is_set()


@pytest.mark.parametrize("how", ["resigned", "new epoch", "offline"])
def test_the_wait_for_stable_records_ends_with_the_leadership(how: str) -> None:
    partition, bell = leader(), trio.Event()
    begin(partition)
    stable = partition.watermark(READ_COMMITTED)
    with rings(stable, bell):
        match how:
            case "resigned":
                partition.resign()
            case "new epoch":
                partition.lead(image(1, (NODE,)))
            case _:
                partition.log.fail(LogOffline("gone"))
        assert bell.is_set()
        with pytest.raises(LogOffline if how == "offline" else NotLeader):
            stable.check()
    if how == "new epoch":
        assert partition.watermark(READ_COMMITTED) is not stable
        assert partition.last_stable_offset == 0


def test_a_marker_needs_the_leader_and_enough_replicas() -> None:
    partition = make()
    with pytest.raises(NotLeader):
        end(partition)
    partition = make(min_insync_replicas=2)
    partition.lead(image(0, (NODE,), replicas=(NODE, 2)))
    with pytest.raises(KafkaError) as caught:
        end(partition)
    assert caught.value.code is ErrorCode.NOT_ENOUGH_REPLICAS and partition.log.end.value == 0


@pytest.mark.parametrize(
    "refusal", [ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.TRANSACTION_COORDINATOR_FENCED, ErrorCode.INVALID_TXN_STATE]
)
def test_R14_no_definitive_word_on_a_transaction_is_said_in_doubt(refusal: ErrorCode) -> None:
    session = Session()
    partition = shared(session)
    begin(partition, epoch=3)
    partition.write_marker(Marker(5, 3, 7, True), 1000)

    def ask() -> None:
        match refusal:
            case ErrorCode.INVALID_PRODUCER_EPOCH:
                partition.write_marker(Marker(5, 2, 7, True), 1000)
            case ErrorCode.TRANSACTION_COORDINATOR_FENCED:
                partition.write_marker(Marker(5, 3, 6, True), 1000)
            case _:
                data = transactional(1, epoch=3)
                partition.write(data, read_header(data), 1000)

    session.proven = False
    with pytest.raises(NotLeader):
        ask()
    session.proven = True
    with pytest.raises(InDoubt) as caught:  # the session says that it lives, and not that it leads
        ask()
    assert caught.value.refusal is not None and caught.value.refusal.code is refusal
    assert partition.log.end.value == 2
    partition.lead(image(0, (NODE,), revision=1))
    with pytest.raises(KafkaError) as certain:
        ask()
    assert certain.value.code is refusal


def test_T4_a_batch_that_was_verified_before_an_abort_is_not_appended_after_it() -> None:
    partition = leader()
    data = transactional(0)
    guard = partition.verification(read_header(data))
    end(partition, commit=False)
    with pytest.raises(KafkaError) as caught:
        partition.write(data, read_header(data), 1000, guard)
    assert caught.value.code is ErrorCode.INVALID_TXN_STATE
    assert (partition.log.end.value, partition.last_stable_offset) == (1, 1)


def test_P2_open_transactions_hold_readers_after_a_restart_too() -> None:
    machine = Machine()
    partition = make(machine)
    partition.lead(image(0, (NODE,)))
    begin(partition, producer=1)
    begin(partition, producer=2)
    end(partition, producer=1)
    partition.log.abandon()
    log = PartitionLog.open(machine.env().disk, "t-0", config=TopicConfig(), topic_id=b"i" * 16, crash=Crash.PROCESS)
    again = Partition("t", 0, b"i" * 16, log, NODE)
    again.lead(image(1, (NODE,)))
    assert again.last_stable_offset == 1
    end(again, producer=2)
    assert again.last_stable_offset == 4
