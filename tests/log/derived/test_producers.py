"""Sequences of idempotent producers (P1, P3), their snapshots, their expiry."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import BatchHeader, read_header
from kbroker.log.derived.producers import (
    BATCHES_KEPT,
    EPOCH_MAX,
    GUARDS_MAX,
    SEQUENCE_MAX,
    CorruptSnapshot,
    Guard,
    Producer,
    ProducerStates,
    read_transactions,
)
from kbroker.log.derived.transactions import Marker
from kbroker.turns import at_once
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
    assert states.transactions.first_unstable == 2
    assert at_once(states.expire(NOW + 999, 1000)) == 0, "the clock counts, not the records' timestamps"
    assert at_once(states.expire(NOW + 1000, 1000)) == 1
    assert sorted(states.by_id) == [2, 3]


# transactions


def transactional(sequence: int, epoch: int = 0, producer: int = 1) -> BatchHeader:
    return read_header(batch(b"", producer=producer, epoch=epoch, sequence=sequence, transactional=True))


class Transactional(Partition):
    """The same for a producer of transactions, whose coordinator says yes to everything."""

    def begin(self, sequence: int, epoch: int = 0, producer: int = 1) -> int:
        header = transactional(sequence, epoch, producer)
        return self.write(header, self.states.verification(header))

    def write(self, header: BatchHeader, guard: Guard | None) -> int:
        seen = self.states.check(header, guard)
        if seen is not None:
            return seen.base_offset
        self.states.update(header, self.end)
        self.end += 1
        return self.end - 1

    def mark(self, epoch: int = 0, producer: int = 1, coordinator: int = 0, is_commit: bool = True) -> None:
        marker = Marker(producer, epoch, coordinator, is_commit)
        self.states.check_marker(marker)
        self.states.update(read_header(marker.batch(NOW)), self.end, marker=marker)
        self.end += 1


def test_T4_the_first_batch_of_a_transaction_needs_a_guard_and_the_next_do_not() -> None:
    partition = Transactional()
    assert refused(partition, transactional(0), None) is ErrorCode.INVALID_TXN_STATE
    assert partition.begin(0) == 0
    assert partition.states.verification(transactional(1)) is None
    assert partition.write(transactional(1), None) == 1
    partition.mark()
    assert refused(partition, transactional(2), None) is ErrorCode.INVALID_TXN_STATE
    assert partition.begin(2) == 3
    assert partition.states.verification(sent(3)) is None, "not transactional: nothing to ask"


def refused(partition: Transactional, header: BatchHeader, guard: Guard | None) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        partition.write(header, guard)
    return caught.value.code


def test_T4_a_marker_while_a_batch_is_verified_makes_its_guard_worthless() -> None:
    """Also a guard that a later transaction's batch has got: the first one's answer is of an older transaction."""
    partition = Transactional()
    guard = partition.states.verification(transactional(0))
    partition.mark(is_commit=False)
    again = partition.states.verification(transactional(0))
    assert again is not guard
    assert refused(partition, transactional(0), guard) is ErrorCode.INVALID_TXN_STATE
    assert partition.write(transactional(0), again) == 1


def test_T4_a_batch_that_only_says_to_be_of_a_later_epoch_fences_nobody() -> None:
    """Its coordinator may refuse it. An epoch counts when it is in the log."""
    partition = Transactional()
    later = partition.states.verification(transactional(0, epoch=7))
    guard = partition.states.verification(transactional(3, epoch=1))
    assert guard is later, "not a new one: nobody is fenced by that either"
    assert partition.write(transactional(3, epoch=1), guard) == 0
    partition.mark(epoch=2)
    assert refused(partition, transactional(4, epoch=1), guard) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_P3_nothing_is_asked_for_a_batch_of_an_old_epoch() -> None:
    """The client can recover from that, and not from INVALID_TXN_STATE."""
    partition = Transactional()
    guard = partition.states.verification(transactional(1, epoch=5))
    partition.mark(epoch=6)
    with pytest.raises(KafkaError) as caught:
        partition.states.verification(transactional(1, epoch=5))
    assert caught.value.code is ErrorCode.INVALID_PRODUCER_EPOCH
    assert refused(partition, transactional(1, epoch=5), guard) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_T5_the_guard_of_the_next_transaction_outlives_the_marker_of_the_last() -> None:
    """Transactions v2: both have the epoch that the end of the last transaction raised."""
    for begins_at_zero in (True, False):
        partition = Transactional()
        partition.begin(0, epoch=5)
        header = transactional(0, epoch=6)
        guard = partition.states.verification(header, begins_at_zero=begins_at_zero)
        partition.mark(epoch=6)
        if begins_at_zero:
            assert partition.write(header, guard) == 2
        else:
            assert refused(partition, header, guard) is ErrorCode.INVALID_TXN_STATE


@pytest.mark.parametrize(("version", "is_open", "epoch", "is_taken"), [
    (2, True, 5, False), (2, True, 6, True), (2, False, 5, True), (2, False, 4, False),
    (1, True, 5, True), (0, True, 5, True), (2, True, EPOCH_MAX, True),
])  # fmt: skip
def test_T5_a_late_marker_does_not_end_a_later_transaction(
    version: int, is_open: bool, epoch: int, is_taken: bool
) -> None:
    """KIP-1228. One that is only sent again finds no transaction open; the last epoch of all cannot be raised."""
    partition = Transactional()
    partition.begin(0, epoch=EPOCH_MAX if epoch == EPOCH_MAX else 5)
    if not is_open:
        partition.mark(epoch=5)
    try:
        partition.states.check_marker(Marker(1, epoch, 0, True, version))
        assert is_taken
    except KafkaError as error:
        assert error.code is ErrorCode.INVALID_PRODUCER_EPOCH and not is_taken


def test_batches_that_are_verified_together_share_a_guard() -> None:
    partition = Transactional()
    guards = [partition.states.verification(transactional(sequence)) for sequence in (0, 1, 2)]
    assert [partition.write(transactional(n), guard) for n, guard in enumerate(guards)] == [0, 1, 2]
    assert not partition.states.guards


def test_what_was_refused_for_now_keeps_those_behind_it_from_coming_first() -> None:
    """Kafka: VerificationStateEntry.lowestSequence. The batch of sequence 4 got no answer from its coordinator."""
    partition = Transactional()
    partition.states.verification(transactional(4))
    guard = partition.states.verification(transactional(5))
    assert refused(partition, transactional(5), guard) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    again = partition.states.verification(transactional(4))
    assert again is guard and partition.write(transactional(4), again) == 0
    assert partition.write(transactional(5), guard) == 1


def test_P3_an_unknown_producer_of_transactions_v2_begins_with_sequence_zero() -> None:
    """KAFKA-14904; the history of an older client's may have been deleted: any sequence."""
    partition = Transactional()
    header = transactional(7)
    assert refused(partition, header, partition.states.verification(header, begins_at_zero=True)) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    partition = Transactional()
    assert partition.begin(7) == 0


def test_a_repetition_is_recognised_before_anything_is_asked_of_its_transaction() -> None:
    partition = Transactional()
    partition.begin(0)
    partition.mark()
    assert partition.write(transactional(0), None) == 0
    partition.begin(1)
    assert partition.send(sent(1)) == 2, "it is the same batch, as far as its numbers tell"


def test_a_batch_outside_of_the_transaction_that_is_open_is_refused() -> None:
    partition = Transactional()
    partition.send(sent(0))
    partition.begin(1)
    assert refusal(partition, sent(2)) is ErrorCode.INVALID_TXN_STATE
    assert refusal(partition, sent(3)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert refusal(partition, sent(0, epoch=1)) is ErrorCode.INVALID_TXN_STATE
    partition.mark()
    assert partition.send(sent(2)) == 3


def test_P3_markers_of_an_old_epoch_or_coordinator_are_fenced() -> None:
    partition = Transactional()
    partition.begin(0, epoch=5)
    with pytest.raises(KafkaError) as caught:
        partition.mark(epoch=4)
    assert caught.value.code is ErrorCode.INVALID_PRODUCER_EPOCH
    partition.mark(epoch=5, coordinator=3)
    with pytest.raises(KafkaError) as caught:
        partition.mark(epoch=5, coordinator=2)
    assert caught.value.code is ErrorCode.TRANSACTION_COORDINATOR_FENCED
    partition.mark(epoch=5, coordinator=3)  # once more: a coordinator that does not know whether it arrived


def test_T5_after_a_marker_of_a_higher_epoch_the_producer_begins_anew() -> None:
    partition = Transactional()
    partition.begin(0, epoch=5)
    partition.mark(epoch=6, is_commit=False)
    assert refused(partition, transactional(1, epoch=5), None) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert refused(partition, transactional(1, epoch=6), partition.states.verification(transactional(1, epoch=6))) is (
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    )
    assert partition.begin(0, epoch=6) == 2


def test_after_a_marker_of_the_same_epoch_the_sequence_goes_on() -> None:
    partition = Transactional()
    partition.begin(0)
    partition.mark()
    assert partition.begin(1) == 2


def test_batches_without_a_sequence_are_the_group_coordinators() -> None:
    """Offsets in a transaction: only the epoch is judged, and none repeats another."""
    partition = Transactional()
    header = transactional(-1)
    guard = partition.states.verification(header)
    assert [partition.write(header, guard), partition.write(header, None), partition.write(header, None)] == [0, 1, 2]
    partition.mark()
    with pytest.raises(KafkaError):
        partition.write(header, None)


def test_guards_are_few_and_expire() -> None:
    partition = Transactional()
    for producer in range(GUARDS_MAX + 10):
        partition.states.verification(transactional(0, producer=producer))
    assert len(partition.states.guards) == GUARDS_MAX and 9 not in partition.states.guards
    at_once(partition.states.expire(NOW, 1000))
    at_once(partition.states.expire(NOW + 999, 1000))
    assert len(partition.states.guards) == GUARDS_MAX
    at_once(partition.states.expire(NOW + 1000, 1000))
    assert not partition.states.guards


def test_P2_a_snapshot_holds_transactions_and_coordinators() -> None:
    partition = Transactional()
    for producer in (3, 1, 2):
        partition.begin(0, producer=producer)
    partition.mark(producer=1, coordinator=9)
    loaded = ProducerStates()
    loaded.load(partition.states.snapshot())
    assert list(loaded.transactions.ongoing.items()) == [(3, 0), (2, 2)]
    assert loaded.transactions.first_unstable == 0
    assert read_transactions(partition.states.snapshot()).ongoing == loaded.transactions.ongoing
    assert loaded.by_id[1].coordinator_epoch == 9 and loaded.by_id[3].txn_first_offset == 0
    assert loaded.snapshot() == partition.states.snapshot()
