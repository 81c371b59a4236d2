"""One partition: leadership, epochs, the high watermark, what may be read."""

from __future__ import annotations

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, read_header
from kbroker.config import TopicConfig
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash
from kbroker.replication.partition import ACKS_ALL, NotLeader, Partition
from kbroker.testing.broker import Machine

NODE = 1


def make(machine: Machine | None = None, **config: int) -> Partition:
    machine = machine or Machine()
    disk = machine.env().disk
    log = PartitionLog.open(disk, "t-0", config=TopicConfig(**config), topic_id=b"i" * 16, crash=Crash.CLEAN)
    return Partition("t", 0, b"i" * 16, log, NODE)


def leader(epoch: int = 0, **config: int) -> Partition:
    partition = make(**config)
    partition.lead(epoch, (NODE,))
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
    assert partition.read(1, 1 << 20).slices == []
    with pytest.raises(KafkaError) as error:
        partition.read(2, 1 << 20)
    assert code(error) == ErrorCode.OFFSET_OUT_OF_RANGE


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
    partition.lead(1, (NODE,))
    await ended.wait()
    assert partition.append(batch(), ACKS_ALL, 0).base_offset == 0


def test_R1_the_high_watermark_survives_a_new_epoch() -> None:
    partition = leader()
    partition.append(batch(), 1, 0)
    partition.lead(1, (NODE,))
    assert partition.high_watermark.value == 1


def test_R5_a_follower_never_heard_from_holds_the_high_watermark() -> None:
    partition = make()
    partition.lead(0, (NODE, 2))
    partition.append(batch(), 1, 0)
    assert partition.high_watermark.value == 0


def test_R6_acks_all_needs_min_isr() -> None:
    partition = leader(min_insync_replicas=2)
    with pytest.raises(KafkaError) as error:
        partition.append(batch(), ACKS_ALL, 0)
    assert code(error) == ErrorCode.NOT_ENOUGH_REPLICAS
    assert partition.log.end.value == 0


def test_R4_an_epoch_ends_where_the_next_begins() -> None:
    partition = leader(epoch=1)
    partition.append(batch(), 1, 0)
    partition.lead(4, (NODE,))
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
    partition.lead(0, (NODE,))
    partition.append(batch(), 1, 0)
    partition.append(batch(), 1, 0)
    machine.disk.fail("pread", times=100)
    with pytest.raises(KafkaError) as error:
        for _ in range(3):
            for piece in partition.read(1, 1).slices:
                piece.read()
    assert code(error) == ErrorCode.KAFKA_STORAGE_ERROR
