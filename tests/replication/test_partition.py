"""One partition: leadership, epochs, the high watermark, what may be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, read_header
from kbroker.config import TopicConfig
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.replication.doubt import InDoubt, NotLeader
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.testing.broker import Machine
from tests.replication.tools import image

NODE = 1


def make(machine: Machine | None = None, **config: int) -> Partition:
    machine = machine or Machine()
    disk = machine.env().disk
    log = PartitionLog.open(disk, "t-0", config=TopicConfig(**config), topic_id=b"i" * 16, crash=Crash.CLEAN)
    return Partition("t", 0, b"i" * 16, log, NODE)


class Session:
    """Of the broker, with the cluster: proven or in doubt."""

    def __init__(self) -> None:
        self.proven = True

    def __call__(self) -> bool:
        return self.proven


def shared(session: Session) -> Partition:
    """Led here, another broker being in sync."""
    log = make().log
    partition = Partition("t", 0, b"i" * 16, log, NODE, session)
    partition.lead(image(0, (NODE, 2)))
    return partition


def numbered(sequence: int) -> bytearray:
    return build_batch([(1000, b"k", b"v")], producer_id=5, producer_epoch=0, base_sequence=sequence)


def leader(epoch: int = 0, **config: int) -> Partition:
    partition = make(**config)
    partition.lead(image(epoch, (NODE,)))
    return partition


def batch() -> bytearray:
    return build_batch([(1000, b"k", b"v")])


def code(error: pytest.ExceptionInfo[KafkaError]) -> ErrorCode:
    return error.value.code


def test_nothing_is_appended_or_read_before_it_leads() -> None:
    partition = make()
    for call in (lambda: partition.append(batch(), 1, 0), lambda: partition.read(0, 100)):
        with pytest.raises(NotLeader):
            call()


def test_a_lone_replica_commits_what_it_has() -> None:
    partition = leader()
    assert partition.append(batch(), ACKS_ALL, 0).base_offset == 0
    assert partition.high_watermark.value == 1
    assert partition.read(0, 1 << 20).length > 0


def test_L7_reads_stop_at_the_high_watermark() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    partition.log.append(batch(), leader_epoch=0, now_ms=0)  # not committed yet: nobody told the partition
    result = partition.read(0, 1 << 20)
    assert result.high_watermark == 1
    assert sum(read_header(piece.read()).count for piece in result.slices) == 1
    for offset in (1, 2):  # up to the log end: after a failover a consumer may be ahead of the high watermark
        result = partition.read(offset, 1 << 20)
        assert not result.slices and result.high_watermark == 1
    for offset in (-1, 3):
        with pytest.raises(KafkaError) as error:
            partition.read(offset, 1 << 20)
        assert code(error) == ErrorCode.OFFSET_OUT_OF_RANGE


def test_a_negative_limit_is_an_error_only_where_there_is_something_to_read() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    assert partition.read(1, -1).slices == ()
    with pytest.raises(KafkaError) as error:
        partition.read(0, -1)
    assert code(error) == ErrorCode.UNKNOWN_SERVER_ERROR


def test_what_is_available_is_counted_up_to_the_high_watermark_and_to_most() -> None:
    partition = leader(segment_bytes=200)
    size = len(batch())
    for count in range(1, 6):
        assert partition.append(batch(), 1, 0).base_offset == count - 1
        for offset in range(count + 1):
            assert partition.available(offset, 1 << 20) == (count - offset) * size
            assert partition.available(offset, size + 1) == min((count - offset) * size, size + 1)
    assert len(partition.log.segments) > 1
    partition.log.append(batch(), leader_epoch=0, now_ms=0)
    assert partition.available(4, 1 << 20) == size
    assert partition.available(6, 1 << 20) == 0


def test_a_log_that_goes_offline_ends_the_waits_for_it() -> None:
    partition = leader()
    partition.log.fail(LogOffline("gone"))
    with pytest.raises(LogOffline):
        partition.high_watermark.check()
    with pytest.raises(KafkaError) as error:
        partition.read(0, 100)
    assert code(error) == ErrorCode.KAFKA_STORAGE_ERROR


def test_a_reader_of_another_history_is_told_where_they_part() -> None:
    partition = leader(epoch=1)
    partition.append(batch(), 1, 0)
    partition.lead(image(4, (NODE,)))
    partition.append(batch(), 1, 0)
    assert partition.parting(1, 4, 1) is None
    assert partition.parting(2, -1, 4) is None
    assert partition.parting(2, 4, 1) == (1, 1)  # it has more of epoch 1 than this log
    assert partition.parting(2, 4, 3) == (1, 1)  # epoch 3 wrote nothing here
    for offset, epoch in ((1, 5), (-1, 1)):
        with pytest.raises(KafkaError) as error:
            partition.parting(offset, 4, epoch)
        assert code(error) == ErrorCode.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("replica", [1, 2, 7])
def test_only_another_replica_may_say_it_is_one(replica: int) -> None:
    partition = make()
    partition.lead(image(3, (NODE, 2)))
    if replica == 2:
        partition.check_follower(2, 3)
        return
    for believed, expected in ((-1, ErrorCode.NOT_LEADER_OR_FOLLOWER), (3, ErrorCode.UNKNOWN_LEADER_EPOCH)):
        with pytest.raises(KafkaError) as error:
            partition.check_follower(replica, believed)
        assert code(error) == expected


def test_batches_carry_the_leader_epoch() -> None:
    partition = leader(epoch=7)
    sent = batch()
    partition.append(sent, 1, 0)
    assert read_header(sent).leader_epoch == 7


@pytest.mark.parametrize(
    ("believed", "expected"),
    [(-1, None), (3, None), (2, ErrorCode.FENCED_LEADER_EPOCH), (4, ErrorCode.UNKNOWN_LEADER_EPOCH)],
)
def test_R11_only_the_current_epoch_is_believed(believed: int, expected: ErrorCode | None) -> None:
    partition = leader(epoch=3)
    if expected is None:
        partition.check_leader(believed)
        return
    with pytest.raises(KafkaError) as error:
        partition.check_leader(believed)
    assert code(error) == expected


async def test_a_new_epoch_ends_the_waits_of_the_old(nursery: trio.Nursery) -> None:
    partition, ended = leader(), trio.Event()

    async def wait() -> None:
        with pytest.raises(NotLeader):
            await partition.high_watermark.wait_past(0)
        ended.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    partition.lead(image(1, (NODE,)))
    await ended.wait()
    assert partition.append(batch(), ACKS_ALL, 0).base_offset == 0


def test_R1_the_high_watermark_survives_a_new_epoch() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    partition.lead(image(1, (NODE,)))
    assert partition.high_watermark.value == 1


def test_R5_a_follower_never_heard_from_holds_the_high_watermark() -> None:
    partition = make()
    partition.lead(image(0, (NODE, 2)))
    partition.append(batch(), 1, 0)
    assert partition.high_watermark.value == 0


def test_a_new_leader_is_catching_up_until_what_came_before_it_is_committed() -> None:
    partition = make()
    partition.lead(image(0, (NODE,)))
    for _ in range(3):
        partition.append(batch(), 1, 0)
    assert not partition.is_catching_up
    partition.log.append(batch(), leader_epoch=0, now_ms=0)  # copied from the leader before, and not known as committed
    partition.lead(image(1, (NODE, 2)))
    assert partition.high_watermark.value == 3 and partition.is_catching_up
    partition.lead(image(1, (NODE,)))
    assert partition.high_watermark.value == 4 and not partition.is_catching_up


def test_R6_acks_all_needs_min_isr() -> None:
    partition = make(min_insync_replicas=2)
    partition.lead(image(0, (NODE,), replicas=(NODE, 2)))
    with pytest.raises(KafkaError) as error:
        partition.append(batch(), ACKS_ALL, 0)
    assert code(error) == ErrorCode.NOT_ENOUGH_REPLICAS
    assert partition.log.end.value == 0
    partition.append(batch(), 1, 0)
    assert partition.high_watermark.value == 0  # not committed, though no other is in sync


def test_R6_a_partition_needs_no_more_than_its_replicas() -> None:
    """(Kafka: Partition.effectiveMinIsr.)"""
    partition = leader(min_insync_replicas=2)
    assert partition.append(batch(), ACKS_ALL, 0).base_offset == 0
    assert partition.high_watermark.value == 1


def test_R4_an_epoch_ends_where_the_next_begins() -> None:
    partition = leader(epoch=1)
    partition.append(batch(), 1, 0)
    partition.lead(image(4, (NODE,)))
    assert partition.epoch_end(4) == (4, 1)
    partition.append(batch(), 1, 0)
    assert [partition.epoch_end(epoch) for epoch in (1, 2, 4, 5)] == [(1, 1), (1, 1), (4, 2), (-1, -1)]


def test_delete_records_stays_at_or_below_the_high_watermark() -> None:
    partition = leader()
    for _ in range(3):
        partition.append(batch(), 1, 0)
    assert partition.deletable_to(2) == 2
    assert partition.deletable_to(-1) == 3
    for offset in (4, -2):
        with pytest.raises(KafkaError) as error:
            partition.deletable_to(offset)
        assert code(error) == ErrorCode.OFFSET_OUT_OF_RANGE


def test_a_disk_that_cannot_be_read_is_the_disks_fault() -> None:
    machine = Machine()
    partition = make(machine)
    partition.lead(image(0, (NODE,)))
    partition.append(batch(), 1, 0)
    partition.append(batch(), 1, 0)
    machine.disk.fail("pread", times=100)
    with pytest.raises(KafkaError) as error:
        for _ in range(3):
            for piece in partition.read(1, 1).slices:
                piece.read()
    assert code(error) == ErrorCode.KAFKA_STORAGE_ERROR


REFUSALS = (ErrorCode.OFFSET_OUT_OF_RANGE, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
ANSWERS: dict[str, Callable[[Partition], object]] = {
    "read": lambda p: p.read(0, 100),
    "a read of what is not there": lambda p: p.read(99, 100),
    "where an epoch ends": lambda p: p.epoch_end(0),
    "where histories part": lambda p: p.parting(0, 0, 0),
    "what can be deleted": lambda p: p.deletable_to(99),
    "whether it leads": lambda p: p.check_leader(0),
    "an append with acks=1": lambda p: p.append(batch(), 1, 0),
    "an append with acks=0": lambda p: p.append(batch(), 0, 0),
    "a sequence that is out of order": lambda p: p.append(numbered(7), ACKS_ALL, 0),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_R14_nothing_is_said_for_good_in_doubt(answer: Callable[[Partition], object]) -> None:
    """Neither yes nor no, when another broker may have been given the partition. The client asks on."""
    session = Session()
    partition = shared(session)
    partition.append(numbered(0), ACKS_ALL, 0)
    session.proven = False
    end = partition.log.end.value
    with pytest.raises(NotLeader):
        answer(partition)
    assert partition.log.end.value == end
    session.proven = True
    try:
        answer(partition)
    except InDoubt as doubt:  # the session says that it lives, and not that it leads
        assert doubt.refusal is not None and doubt.refusal.code in REFUSALS
    partition.lead(image(0, (NODE,), revision=1))
    try:
        answer(partition)
    except KafkaError as error:
        assert error.code in REFUSALS


def test_R14_who_is_not_heard_lets_nobody_wait_for_replicas() -> None:
    """It would wait for what does not come, while another may lead."""
    session = Session()
    partition = shared(session)
    partition.append(batch(), ACKS_ALL, 0)
    assert partition.high_watermark.value == 0  # not acknowledged by this
    session.proven = False
    with pytest.raises(NotLeader):
        partition.append(batch(), ACKS_ALL, 0)
    assert partition.log.end.value == 1


def test_R14_a_partition_with_nobody_else_in_sync_is_always_proven() -> None:
    session = Session()
    partition = shared(session)
    partition.lead(image(0, (NODE,)))
    session.proven = False
    assert partition.append(batch(), 1, 0).base_offset == 0
    assert partition.read(0, 1 << 20).length > 0
    assert partition.epoch_end(0) == (0, 1)
