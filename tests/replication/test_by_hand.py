"""A leader and its followers, driven by hand: what a follower takes, cuts and is told; what its fetches move."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.doubt import NotLeader
from tests.log.tools import NOW
from tests.replication.pairs import Replicas


def test_a_follower_has_what_the_leader_has_offsets_and_epochs_too() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=1)
    replicas[1].append(b"a", b"b")
    replicas[1].append(b"c")
    replicas.sync()
    assert replicas[2].records() == replicas[1].records() == [(0, 0, b"a"), (1, 0, b"b"), (2, 0, b"c")]
    assert replicas[1].high_watermark == replicas[2].high_watermark == 3


def test_R1_who_diverges_does_not_move_the_high_watermark_and_cuts_before_its_own_moves() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=1)
    replicas[1].append(b"common")
    replicas.sync()
    replicas[1].append(b"alone", b"alone")
    replicas.change(leader=2)
    replicas[2].append(b"of the new leader")
    assert replicas[2].high_watermark == 1
    replicas.fetch(replicas[1], replicas[2])
    assert replicas[2].high_watermark == 1 and replicas[1].high_watermark == 1
    assert replicas[1].records() == [(0, 0, b"common")]
    replicas.sync()
    assert replicas[1].records() == replicas[2].records() == [(0, 0, b"common"), (1, 1, b"of the new leader")]
    assert replicas[2].high_watermark == replicas[1].high_watermark == 2


def test_R1_an_answer_that_is_late_cuts_nothing_that_was_taken_since() -> None:
    """It told where the logs parted. Since then they have come together, and the leader counts on it."""
    replicas = Replicas(1, 2)
    replicas.change(leader=1)
    replicas[1].append(b"alone")
    replicas.change(leader=2)
    late = replicas.answer(replicas[1], replicas[2], 1, 0, 1, 1 << 20)
    assert late[0] == "diverged"
    replicas.sync()
    replicas[2].append(b"of the new leader")
    replicas.sync()
    assert replicas[2].high_watermark == 1
    with pytest.raises(NotLeader):
        replicas.take(replicas[1], 1, late)
    assert replicas[1].records() == [(0, 1, b"of the new leader")]


def test_R4_an_epoch_of_which_the_leader_has_no_record_is_cut_all_the_same() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=2)
    replicas[2].append(b"common")
    replicas.sync()
    replicas.change(leader=1)
    replicas[1].append(b"of epoch 1, alone")
    replicas.change(leader=2)  # which leads epoch 2, and has nothing of epoch 1
    replicas.fetch(replicas[1], replicas[2])
    assert replicas[1].records() == [(0, 0, b"common")]


def test_R11_a_fetch_in_another_epoch_is_refused() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=1)
    replicas.change(leader=2, tell=False)
    replicas.change(leader=1, tell=False)
    replicas.tell(replicas[2])
    with pytest.raises(KafkaError) as error:
        replicas.fetch(replicas[2], replicas[1])
    assert error.value.code is ErrorCode.UNKNOWN_LEADER_EPOCH
    replicas.tell(replicas[1])
    replicas.change(leader=1, tell=False)
    replicas.tell(replicas[1])
    with pytest.raises(KafkaError) as error:
        replicas.fetch(replicas[2], replicas[1])
    assert error.value.code is ErrorCode.FENCED_LEADER_EPOCH


def test_R11_what_was_fetched_in_an_earlier_epoch_is_not_taken() -> None:
    replicas = Replicas(1, 2, 3)
    replicas.change(leader=1)
    replicas[1].append(b"a")
    answer = replicas.answer(replicas[2], replicas[1], 0, -1, 0, 1 << 20)
    replicas.change(leader=3)
    with pytest.raises(NotLeader):
        replicas.take(replicas[2], 0, answer)
    assert replicas[2].end == 0


def test_a_follower_whose_end_the_leaders_log_has_left_behind_starts_over() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=1, isr=(1,))
    for number in range(5):
        replicas[1].append(b"%d" % number)
    replicas[1].partition.log.advance_start(3)
    replicas.sync()
    assert replicas[2].records() == replicas[1].records() == [(3, 0, b"3"), (4, 0, b"4")]
    assert replicas[2].partition.log.start_offset == 3 and replicas[2].high_watermark == 5


def test_a_leaders_log_may_begin_inside_a_batch() -> None:
    replicas = Replicas(1, 2)
    replicas.change(leader=1, isr=(1,))
    replicas[1].append(b"a", b"b", b"c")
    replicas[1].partition.log.advance_start(2)
    replicas.sync()
    log = replicas[2].partition.log
    assert (log.start_offset, log.end.value, log.segments[0].base_offset) == (2, 3, 0)


def test_a_damaged_answer_stops_that_partition_alone_and_leaves_no_trace() -> None:
    """B4."""
    replicas = Replicas(1, 2)
    replicas.change(leader=1)
    replicas[1].append(b"a")
    replicas[1].append(b"b")
    kind, records, *rest = replicas.answer(replicas[2], replicas[1], 0, -1, 0, 1 << 20)
    damaged = bytearray(records)
    damaged[-1] ^= 1
    with pytest.raises(KafkaError) as error:
        replicas.take(replicas[2], 0, (kind, bytes(damaged), *rest))
    assert error.value.code is ErrorCode.CORRUPT_MESSAGE and replicas[2].end == 0
    replicas[2].partition.append_from_leader(records[:-1], 0, 2, 0, NOW)  # the last batch is cut short
    assert (replicas[2].end, replicas[2].high_watermark) == (1, 1)
