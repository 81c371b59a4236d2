"""Who is in sync: leaving, joining, proposals whose outcome is not known; what all that does to the high watermark."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.isr_changes import IsrChange, IsrOutcome
from kbroker.replication.doubt import NotLeader
from kbroker.replication.partition import JOIN_S, RETRY_S
from tests.replication.pairs import Replicas

LAG_S = 10.0


def led(*isr: int, **config: int) -> Replicas:
    replicas = Replicas(1, 2, 3, **config)
    replicas.change(leader=1, isr=isr or (1, 2, 3))
    return replicas


def wanted(replicas: Replicas) -> IsrChange | None:
    replicas[1].partition.end_waits(replicas.now_s)
    return replicas[1].partition.wanted_isr(replicas.now_s, LAG_S)


def fetch(replicas: Replicas, *followers: int) -> None:
    for follower in followers:
        replicas.fetch(replicas[follower], replicas[1])


def isr_of(change: IsrChange | None) -> tuple[int, ...]:
    assert change is not None
    return change.isr


# leaving


def test_who_does_not_fetch_leaves_after_the_lag() -> None:
    replicas = led()
    replicas[1].append(b"a")
    fetch(replicas, 2)
    assert wanted(replicas) is None
    replicas.now_s += LAG_S + 1
    fetch(replicas, 2)
    assert isr_of(wanted(replicas)) == (1, 2)


def test_who_fetches_and_never_has_all_leaves_unless_it_had_all_there_was_when_it_last_asked() -> None:
    replicas = led()
    for second in range(15):
        replicas[1].append(b"%d" % second)
        fetch(replicas, 2)  # it always takes what there was
        replicas.fetch(replicas[3], replicas[1], is_lost=True)  # it never gets anything
        replicas.now_s += 1
    assert isr_of(wanted(replicas)) == (1, 2)


def test_an_idle_session_speaks_for_all_its_partitions() -> None:
    """Nothing names an idle partition; a request in its session is a word for it."""
    replicas = led()
    replicas.sync()
    replicas.now_s += 60
    for session in replicas[1].sessions.values():
        session.heard_s = replicas.now_s
    assert wanted(replicas) is None
    replicas[1].append(b"a")  # and now none of them has all: since when, the last word tells
    replicas.now_s += LAG_S - 1
    assert wanted(replicas) is None
    for session in replicas[1].sessions.values():
        session.heard_s = replicas.now_s  # the session goes on, without the partition's news
    replicas.now_s += 2
    assert isr_of(wanted(replicas)) == (1,)


def test_who_has_left_the_session_is_not_spoken_for() -> None:
    replicas = led()
    replicas.sync()
    replicas[1].partition.note_gone(3)
    replicas.now_s += LAG_S + 1
    for session in replicas[1].sessions.values():
        session.heard_s = replicas.now_s
    assert isr_of(wanted(replicas)) == (1, 2)


def test_R5_a_shrink_counts_when_it_is_known() -> None:
    replicas = led()
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    replicas.now_s += LAG_S + 1
    fetch(replicas, 2)
    change = wanted(replicas)
    assert isr_of(change) == (1, 2) and change is not None
    partition = replicas[1].partition
    partition.propose(change)
    assert replicas[1].high_watermark == 0 and wanted(replicas) is None
    partition.settle(change, IsrOutcome.UNKNOWN, replicas.image)  # a timeout is not a failure, nor a success
    assert replicas[1].high_watermark == 0
    assert wanted(replicas) is change  # the very same again
    replicas.change(isr=(1, 2), tell=False)
    partition.settle(change, IsrOutcome.WRITTEN, replicas.image)
    assert replicas[1].high_watermark == 1 and partition.isr == (1, 2)


def test_R5_an_image_tells_what_became_of_a_proposal() -> None:
    replicas = led()
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    replicas.now_s += LAG_S + 1
    fetch(replicas, 2)
    change = wanted(replicas)
    assert change is not None
    replicas[1].partition.propose(change)
    replicas.change(isr=(1, 2))
    assert replicas[1].high_watermark == 1
    replicas[1].partition.settle(change, IsrOutcome.REFUSED, replicas.image)  # too late to say anything
    assert replicas[1].partition.isr == (1, 2)


def test_R5_a_refusal_is_no_word_on_what_was_asked_before() -> None:
    """The change was written, and the answer got lost; the same again is refused, as the partition is another now."""
    replicas = led(1, 2)
    fetch(replicas, 3)
    change = wanted(replicas)
    assert change is not None
    partition = replicas[1].partition
    partition.propose(change)
    replicas.change(isr=(1, 2, 3), tell=False)
    partition.settle(change, IsrOutcome.UNKNOWN, replicas.image)
    assert wanted(replicas) is change
    partition.propose(change)
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    partition.settle(change, IsrOutcome.REFUSED, replicas.image)
    assert partition.isr == (1, 2, 3) and replicas[1].high_watermark == 0


def test_R5_where_another_leads_by_now_the_proposal_counts_until_that_is_told() -> None:
    replicas = led(1, 2)
    fetch(replicas, 3)
    change = wanted(replicas)
    assert change is not None
    partition = replicas[1].partition
    partition.propose(change)
    replicas.change(isr=(1, 2, 3), leader=3, tell=False)
    partition.settle(change, IsrOutcome.REFUSED, replicas.image)
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    assert partition.proposal is change and replicas[1].high_watermark == 0


def test_what_was_refused_is_not_asked_for_again_at_once() -> None:
    replicas = led(1, 2)
    fetch(replicas, 3)
    change = wanted(replicas)
    assert change is not None
    replicas[1].partition.propose(change)
    replicas[1].partition.settle(change, IsrOutcome.REFUSED, replicas.image)
    assert wanted(replicas) is None
    replicas.now_s += RETRY_S
    assert wanted(replicas) is not None


# joining


def test_R7_who_has_all_that_is_committed_joins_with_the_epoch_it_fetched_in() -> None:
    replicas = led(1, 2)
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    assert replicas[1].high_watermark == 1
    fetch(replicas, 3)
    assert wanted(replicas) is None
    fetch(replicas, 3)
    change = wanted(replicas)
    assert change is not None and change.isr == (1, 2, 3) and change.joining == {3: replicas[3].broker_epoch}
    assert replicas[1].news


def test_R7_below_the_beginning_of_the_epoch_nobody_joins() -> None:
    """Though it has all that the high watermark covers: what earlier leaders have shown may be more (KAFKA-7128)."""
    replicas = led(1, 2)
    replicas[1].append(b"a")
    fetch(replicas, 2, 2, 3)
    replicas[1].append(b"b")
    fetch(replicas, 2)
    replicas.change(leader=2)
    assert replicas[2].high_watermark == 1 and replicas[2].end == 2
    replicas.fetch(replicas[3], replicas[2], is_lost=True)  # from 1 on: the high watermark it has
    assert replicas[2].partition.wanted_isr(replicas.now_s, LAG_S) is None
    replicas.fetch(replicas[3], replicas[2])
    replicas.fetch(replicas[3], replicas[2])
    assert isr_of(replicas[2].partition.wanted_isr(replicas.now_s, LAG_S)) == (1, 2, 3)


def test_R7_an_earlier_registration_of_a_follower_is_not_listened_to() -> None:
    replicas = led(1, 2)
    replicas[3].broker_epoch = 9
    fetch(replicas, 3)
    replicas[3].broker_epoch = 8
    with pytest.raises(NotLeader):
        fetch(replicas, 3)


def test_a_joiner_is_in_before_it_is_known_to_be() -> None:
    """R5: the high watermark waits for it from the proposal on."""
    replicas = led(1, 2)
    fetch(replicas, 3)
    change = wanted(replicas)
    assert change is not None
    replicas[1].partition.propose(change)
    replicas[1].append(b"a")
    fetch(replicas, 2, 2)
    assert replicas[1].high_watermark == 0
    replicas[1].partition.settle(change, IsrOutcome.REFUSED, replicas.image)
    assert replicas[1].high_watermark == 1


def test_under_load_a_follower_joins_all_the_same_as_the_high_watermark_waits_for_it() -> None:
    replicas = led(1)
    replicas[1].append(b"0")
    for number in range(4):
        fetch(replicas, 2)
        if (change := wanted(replicas)) is not None:
            break
        replicas[1].append(b"%d" % number)  # there is always more than it has
    assert isr_of(change) == (1, 2)


def test_a_joiner_that_is_waited_for_moves_the_high_watermark_itself() -> None:
    replicas = led(1)
    replicas[1].append(b"a")
    fetch(replicas, 2)
    replicas[1].append(b"b")
    fetch(replicas, 2)
    replicas[1].append(b"c")
    assert replicas[1].high_watermark < 3
    fetch(replicas, 2)
    fetch(replicas, 2)
    assert replicas[1].high_watermark == 3


def test_the_high_watermark_waits_for_no_joiner_that_does_not_come() -> None:
    replicas = led(1)
    replicas[1].append(b"a")
    fetch(replicas, 2)
    replicas[1].append(b"b")
    fetch(replicas, 2)  # it had all there was when it asked before
    replicas[1].append(b"c")
    assert replicas[1].high_watermark < 3
    replicas.now_s += JOIN_S + 0.1
    wanted(replicas)
    assert replicas[1].high_watermark == 3


# enough


def test_R6_the_high_watermark_stands_still_while_too_few_are_in_sync() -> None:
    replicas = led(min_insync_replicas=2)
    replicas[1].append(b"a")
    replicas.sync()
    replicas.change(isr=(1,))
    with pytest.raises(KafkaError) as error:
        replicas[1].append(b"b")
    assert error.value.code is ErrorCode.NOT_ENOUGH_REPLICAS
    replicas[1].append(b"b", acks=1)
    assert replicas[1].high_watermark == 1 and replicas[1].end == 2
    replicas.change(isr=(1, 2))
    fetch(replicas, 2, 2)
    assert replicas[1].high_watermark == 2


def test_R6_as_many_as_it_has_replicas_are_enough() -> None:
    """(Kafka: Partition.effectiveMinIsr.)"""
    replicas = led(min_insync_replicas=5)
    replicas[1].append(b"a")
    replicas.sync()
    assert replicas[1].high_watermark == 1


def test_R6_while_others_are_eligible_nothing_is_committed_whatever_the_config_says_by_now() -> None:
    replicas = led(min_insync_replicas=1)
    replicas.change(isr=(1,), elr=(2,))
    replicas[1].append(b"a")
    assert replicas[1].high_watermark == 0
    replicas.change(elr=())
    assert replicas[1].high_watermark == 1


# epochs


def test_R8_an_epoch_that_was_resigned_is_not_led_again() -> None:
    replicas = led()
    partition = replicas[1].partition
    partition.resign()
    replicas.tell(replicas[1])
    assert not partition.leading
    with pytest.raises(NotLeader):
        replicas[1].append(b"a")
    replicas.change(leader=1)
    assert partition.leading


def test_an_older_image_changes_nothing() -> None:
    replicas = led()
    old = replicas.image
    replicas.change(isr=(1, 2))
    replicas[1].partition.lead(old)
    assert replicas[1].partition.isr == (1, 2)
    replicas.change(leader=2)
    replicas[1].partition.lead(old)
    assert replicas[1].partition.following and replicas[1].partition.leader_id == 2


def test_R9_without_a_leader_nobody_leads_or_follows() -> None:
    replicas = led()
    replicas[1].append(b"a")
    replicas.change(leader=-1)
    partition = replicas[1].partition
    assert not partition.leading and not partition.following and partition.leader_epoch == 1
    assert replicas[1].end == 1  # nothing was shortened
    with pytest.raises(NotLeader):
        partition.read(0, 100)


def test_R1_the_high_watermark_is_kept_through_roles() -> None:
    replicas = led()
    replicas[1].append(b"a")
    replicas.sync()
    for leader in (2, 1, 3):
        replicas.change(leader=leader)
        assert [replica.high_watermark for replica in replicas.all.values()] == [1, 1, 1]
