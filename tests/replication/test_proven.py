"""What a leader may say when the cluster may have taken it for dead (R14): proven for good, heard for the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.doubt import CONFIRM_S, InDoubt, NotLeader, unconfirmed
from kbroker.replication.partition import HEARD_S
from tests.replication.pairs import Replicas


def in_doubt(**config: object) -> Replicas:
    """A leader whose session with the cluster is not certain; its followers have fetched just now."""
    replicas = Replicas(1, 2, 3, **config)
    replicas.change(leader=1)
    replicas[1].append(b"a")
    replicas.sync()
    replicas[1].session_proven = False
    return replicas


def is_heard(replicas: Replicas) -> bool:
    return replicas[1].partition.is_heard


def test_R14_data_flows_while_all_followers_are_heard() -> None:
    replicas = in_doubt()
    partition = replicas[1].partition
    assert is_heard(replicas) and not partition.is_proven
    assert replicas[1].append(b"b", acks=1) == 1
    assert partition.read(0, 1 << 20).length > 0
    with pytest.raises(InDoubt) as doubt:
        partition.read(99, 100)
    assert doubt.value.refusal is not None and doubt.value.refusal.code is ErrorCode.OFFSET_OUT_OF_RANGE
    assert partition.doubt() is not None


def test_R14_one_silent_member_of_the_isr_is_one_that_may_lead() -> None:
    replicas = in_doubt()
    replicas.now_s += HEARD_S + 0.1
    replicas.fetch(replicas[2], replicas[1])
    replicas.fetch(replicas[2], replicas[1])
    assert not is_heard(replicas)
    for acks in (0, 1):
        with pytest.raises(NotLeader):
            replicas[1].append(b"b", acks=acks)
    with pytest.raises(NotLeader):
        replicas[1].partition.read(0, 1 << 20)
    for _ in range(2):
        replicas.fetch(replicas[3], replicas[1])
    assert is_heard(replicas)


def test_R14_a_leader_that_stood_still_takes_what_lay_in_its_sockets_for_what_it_is() -> None:
    """The followers asked, and turned to another leader since. Their requests come to the old one as if they were new.

    What counts is the answer that they follow: it is as old as the pause.
    """
    replicas = in_doubt()
    replicas.now_s += 12
    for follower in (2, 3):
        replicas.fetch(replicas[follower], replicas[1], is_lost=True)
    assert replicas[1].sessions[2].heard_s == replicas.now_s
    session = replicas[1].sessions[2]
    session.proven_s = replicas[1].sessions[3].proven_s = replicas.now_s - 12
    assert not is_heard(replicas)
    with pytest.raises(NotLeader):
        replicas[1].append(b"b", acks=1)


def test_R14_whoever_is_proposed_counts_until_it_is_certain_that_he_is_not_in() -> None:
    replicas = in_doubt()
    replicas.change(isr=(1, 2))
    partition = replicas[1].partition
    for _ in range(2):
        replicas.fetch(replicas[3], replicas[1])
    change = partition.wanted_isr(replicas.now_s, 10)
    assert change is not None and change.isr == (1, 2, 3)
    partition.propose(change)
    replicas.now_s += HEARD_S + 0.1
    for _ in range(2):
        replicas.fetch(replicas[2], replicas[1])
    assert not is_heard(replicas)


def test_R14_the_last_of_the_isr_is_proven_unless_another_is_eligible() -> None:
    replicas = in_doubt(min_insync_replicas=2)
    replicas.change(isr=(1,))
    assert replicas[1].partition.is_proven
    replicas.change(isr=(1,), elr=(2,))  # which the cluster would elect if this broker seemed dead (KIP-966)
    assert not replicas[1].partition.is_proven and not is_heard(replicas)


def test_R14_where_anybody_may_be_elected_the_session_has_to_be_valid() -> None:
    """Of a leader that lives the others can take over only when they are in sync."""
    replicas = in_doubt(unclean_leader_election_enable=True)
    replicas.change(isr=(1,))
    partition = replicas[1].partition
    assert not partition.is_proven and not partition.is_heard
    replicas[1].session_proven = True
    assert partition.is_proven


# the confirm round


def refusal(replicas: Replicas) -> InDoubt:
    with pytest.raises(InDoubt) as caught:
        replicas[1].partition.read(99, 100)
    return caught.value


def ask_twice(replicas: Replicas, *followers: int) -> None:
    """The second request follows an answer that was sent after the first."""
    for _ in range(2):
        replicas.now_s += 0.001
        for follower in followers:
            replicas.fetch(replicas[follower], replicas[1])


def test_R14_what_was_refused_is_true_when_all_who_might_lead_have_followed_since() -> None:
    replicas = in_doubt()
    replicas.now_s += 0.1
    doubt = refusal(replicas)
    assert not doubt.is_true and not doubt.is_decided
    for follower in (2, 3):
        assert not doubt.is_true
        ask_twice(replicas, follower)
    assert doubt.is_true and doubt.is_decided


def test_R14_a_valid_session_alone_makes_nothing_true() -> None:
    """Leaders are moved between brokers that live, and who led may hear of it late."""
    replicas = in_doubt()
    replicas[1].session_proven = True
    replicas.now_s += 0.1
    doubt = refusal(replicas)
    replicas.change(leader=2, tell=False)
    replicas.tell(replicas[2])
    ask_twice(replicas, 3)
    assert not doubt.is_true
    replicas.tell(replicas[1])
    assert doubt.is_decided and not doubt.is_true


def test_R14_what_was_found_in_an_epoch_that_is_over_is_never_true() -> None:
    replicas = in_doubt()
    doubt = refusal(replicas)
    replicas.change(leader=2)
    replicas.change(leader=1)
    replicas.now_s += 0.1
    ask_twice(replicas, 2, 3)
    assert replicas[1].partition.has_led(doubt.since_s) and doubt.is_decided and not doubt.is_true


def test_R14_followers_are_hurried_and_a_second_is_waited() -> None:
    replicas = in_doubt()
    replicas.now_s += 0.1
    hurried: list[list[int]] = []
    clock = Ticking(replicas)
    rows = [("a", refusal(replicas)), ("b", refusal(replicas))]
    began_s = replicas.now_s
    assert trio.run(unconfirmed, rows, lambda ids, now_s: hurried.append(list(ids)), clock) == ["a", "b"]
    assert hurried == [[2, 3]] and replicas.now_s - began_s == pytest.approx(CONFIRM_S, abs=0.01)

    def hurry(ids: Iterable[int], now_s: float) -> None:
        clock.then = lambda: ask_twice(replicas, *ids)

    ask_twice(replicas, 2, 3)
    began_s = replicas.now_s
    assert trio.run(unconfirmed, [("a", refusal(replicas))], hurry, clock) == []
    assert replicas.now_s - began_s < 0.1


class Ticking:
    """The replicas' clock."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.then: Callable[[], None] | None = None

    def liveness(self) -> float:
        return self.replicas.now_s

    def data_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        self.replicas.now_s += seconds
        if self.then is not None:
            await trio.to_thread.run_sync(self.then)  # which runs a loop of its own


def test_R14_a_follower_does_not_say_what_only_a_leader_knows() -> None:
    replicas = in_doubt()
    partition = replicas[2].partition
    with pytest.raises(NotLeader):
        partition.read(0, 100)
    assert partition.read(0, 1 << 20, only_leader=False).length > 0
    with pytest.raises(KafkaError) as error:
        partition.read(99, 100, only_leader=False)  # it may be behind
    assert error.value.code is ErrorCode.OFFSET_NOT_AVAILABLE


def test_R14_a_follower_asks_whom_nobody_else_believes() -> None:
    """Replication goes on while the store is silent: the leader is heard by nothing but that."""
    replicas = in_doubt()
    replicas.now_s += 60
    assert not is_heard(replicas)
    for _ in range(2):
        for follower in (2, 3):
            replicas.fetch(replicas[follower], replicas[1])
    assert is_heard(replicas)
