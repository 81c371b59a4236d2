"""Sequences of idempotent producers (P1, P3), their snapshots, their expiry."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, read_header
from kbroker.log.derived.producers import BATCHES_KEPT, SEQUENCE_MAX, CorruptSnapshot, Producer, ProducerStates
from tests.log.tools import NOW, batch


def sent(sequence: int, count: int = 1, epoch: int = 0, producer: int = 1, at: int = NOW) -> BatchHeader:
    return read_header(batch(*[b""] * count, producer=producer, epoch=epoch, sequence=sequence, at=at))


class Partition:
    """Producer state with offsets behind it, as the log keeps it."""

    def __init__(self) -> None:
        self.states = ProducerStates()
        self.end = 0

    def send(self, header: BatchHeader) -> int:
        """The base offset that the producer is told."""
        seen = self.states.check(header)
        if seen is not None:
            return seen.base_offset
        self.states.update(header, self.end)
        self.end += header.count
        return self.end - header.count


def refusal(partition: Partition, header: BatchHeader) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        partition.send(header)
    return caught.value.code


def test_P1_only_the_next_sequence_is_accepted() -> None:
    partition = Partition()
    assert [partition.send(sent(sequence, 3)) for sequence in (0, 3, 6)] == [0, 3, 6]
    assert refusal(partition, sent(10)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert refusal(partition, sent(8)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert refusal(partition, sent(6, 2)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "not the same batch"
    assert partition.send(sent(9)) == 9


def test_P1_the_last_five_batches_are_recognised_and_no_more() -> None:
    partition = Partition()
    for sequence in range(10):
        partition.send(sent(sequence))
    assert [partition.send(sent(sequence)) for sequence in range(5, 10)] == [5, 6, 7, 8, 9]
    assert refusal(partition, sent(4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert partition.end == 10


def test_P1_sequences_wrap() -> None:
    partition = Partition()
    partition.send(sent(SEQUENCE_MAX - 1, 2))
    assert partition.send(sent(0)) == 2
    assert partition.send(sent(SEQUENCE_MAX - 1, 2)) == 0
    partition = Partition()
    partition.send(sent(SEQUENCE_MAX, 3))  # SEQUENCE_MAX, 0, 1
    assert refusal(partition, sent(0)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert partition.send(sent(2)) == 3


def test_an_unknown_producer_may_begin_anywhere() -> None:
    assert Partition().send(sent(1234)) == 0


def test_P3_an_old_epoch_is_fenced_and_a_new_one_begins_at_zero() -> None:
    partition = Partition()
    partition.send(sent(0, epoch=3))
    assert refusal(partition, sent(1, epoch=2)) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert refusal(partition, sent(1, epoch=4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert partition.send(sent(0, epoch=4)) == 1
    assert refusal(partition, sent(0, epoch=3)) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert partition.send(sent(0, epoch=4)) == 1


def test_producers_do_not_know_each_other() -> None:
    partition = Partition()
    assert [partition.send(sent(0, producer=n)) for n in range(3)] == [0, 1, 2]
    assert partition.send(sent(0, producer=1)) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=40))
def test_P2_a_snapshot_holds_everything(steps: list[tuple[int, int, bool]]) -> None:
    partition = Partition()
    state = dict.fromkeys(range(4), (0, SEQUENCE_MAX - 5))
    for producer, count, bump in steps:
        epoch, sequence = state[producer]
        epoch, sequence = (epoch + 1, 0) if bump else (epoch, sequence)
        partition.send(sent(sequence, count, epoch, producer))
        state[producer] = epoch, (sequence + count) % (SEQUENCE_MAX + 1)
        data = partition.states.snapshot()  # what is kept of one must not get into the next
    data = partition.states.snapshot()
    loaded = ProducerStates()
    loaded.load(data)
    assert loaded.snapshot() == data
    for producer_id, producer in partition.states.by_id.items():
        assert loaded.by_id[producer_id].batches == producer.batches
        assert loaded.by_id[producer_id].epoch == producer.epoch
        assert len(producer.batches) <= BATCHES_KEPT


def test_a_snapshot_costs_what_changed_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand producers of which few write: as it is where each process makes its own."""
    packed: list[int] = []
    pack = Producer.pack
    monkeypatch.setattr(
        Producer, "pack", lambda self, producer_id: packed.append(producer_id) or pack(self, producer_id)
    )
    states = ProducerStates()
    for producer_id in range(1000):
        states.update(sent(0, producer=producer_id), producer_id)
    states.snapshot()
    packed.clear()
    for producer_id in (3, 500):
        states.update(sent(1, producer=producer_id), 1000 + producer_id)
    data = states.snapshot()
    assert packed == [3, 500]
    fresh = ProducerStates()
    fresh.load(data)
    assert fresh.by_id[500].batches == states.by_id[500].batches and len(fresh.by_id[500].batches) == 2


def test_the_snapshot_format() -> None:
    states = ProducerStates()
    states.update(sent(7, 3, epoch=2, producer=11), 100)
    entry = struct.pack(">qhiqiqiq", 11, 2, 9, 102, 2, NOW, -1, -1)
    assert states.snapshot()[6:] == struct.pack(">i", 1) + entry
    assert states.snapshot()[:2] == b"\0\1"


@pytest.mark.parametrize("damage", ["short", "crc", "version", "count", "empty"])
def test_a_damaged_snapshot_is_refused(damage: str) -> None:
    states = ProducerStates()
    states.update(sent(0), 0)
    data = bytearray(states.snapshot())
    match damage:
        case "short":
            data = data[:-1]
        case "crc":
            data[20] ^= 1
        case "version":
            data[1] = 9
        case "count":
            data[9] = 7
        case "empty":
            data = bytearray()
    with pytest.raises(CorruptSnapshot):
        ProducerStates().load(bytes(data))


def test_silent_producers_are_forgotten_but_not_in_a_transaction() -> None:
    states = ProducerStates()
    states.update(sent(0, producer=1, at=-1), 0, NOW)
    states.update(sent(0, producer=2, at=5), 1, NOW + 500)
    states.update(read_header(batch(producer=3, sequence=0, transactional=True)), 2, NOW)
    assert states.first_open_transaction == 2
    assert states.expire(NOW + 999, 1000) == 0, "the clock counts, not the records' timestamps"
    assert states.expire(NOW + 1000, 1000) == 1
    assert sorted(states.by_id) == [2, 3]
