"""Elections and reassignments that clients ask for, decided on an image. The server's side: tests/api/."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.reassignments import Change, elections, reassignments
from kbroker.cluster.elections import Rules
from kbroker.cluster.image import NO_LEADER, BrokerImage, ClusterImage, PartitionImage, TopicImage
from kbroker.config import BrokerConfig
from kbroker.turns import at_once

ID = b"t" * 16


def partition(
    replicas: tuple[int, ...] = (1, 2, 3), isr: tuple[int, ...] | None = None, leader: int = 1,
    adding: tuple[int, ...] = (), removing: tuple[int, ...] = (),
) -> PartitionImage:  # fmt: skip
    isr = replicas if isr is None else isr
    return PartitionImage(ID, 0, replicas, isr, leader, 5, 7, 70, adding=adding, removing=removing)


def image(now: PartitionImage, live: tuple[int, ...] = (1, 2, 3, 4), unclean: bool = False) -> ClusterImage:
    registered = {id: BrokerImage(id, 1, None, {}, f"dir-{id}", "i") for id in (1, 2, 3, 4, 5)}
    configs = {"unclean.leader.election.enable": str(unclean).lower()}
    return ClusterImage(
        brokers={id: registered[id] for id in live},
        registrations=registered,
        topics={"t": TopicImage("t", ID, (now,), configs)},
    )


def reassigned(
    now: PartitionImage, *target: int, may_change: bool = True, live: tuple[int, ...] = (1, 2, 3, 4)
) -> Change:
    there = image(now, live)
    (change,) = at_once(
        reassignments(
            [("t", 0, target)], there, Rules(there, BrokerConfig()), allow_replication_factor_change=may_change
        )
    )
    return change


def called_off(now: PartitionImage, *, unclean: bool = False) -> Change:
    there = image(now, unclean=unclean)
    wish: list[tuple[str, int, tuple[int, ...] | None]] = [("t", 0, None)]
    (change,) = at_once(reassignments(wish, there, Rules(there, BrokerConfig()), allow_replication_factor_change=True))
    return change


def elected(now: PartitionImage, live: tuple[int, ...], *, unclean: bool = False) -> Change:
    there = image(now, live)
    (change,) = at_once(elections([("t", 0)], there, Rules(there, BrokerConfig()), unclean=unclean))
    return change


def code(change: Change) -> ErrorCode:
    assert isinstance(change, KafkaError)
    return change.code


def test_new_replicas_are_added_and_old_ones_stay_until_those_are_in_sync() -> None:
    now = partition()
    assert reassigned(now, 1, 2, 4) == replace(
        now, replicas=(1, 2, 4, 3), adding=(4,), removing=(3,), partition_epoch=8
    )


def test_a_change_that_waits_for_nobody_is_done_at_once() -> None:
    """Fewer replicas, or another order of the same; with a new leader epoch where a replica goes (KAFKA-9751)."""
    now = partition()
    fewer = reassigned(now, 2, 1)
    assert fewer == replace(now, replicas=(2, 1), isr=(2, 1), leader_epoch=6, partition_epoch=8)
    assert reassigned(now, 3, 2, 1) == replace(now, replicas=(3, 2, 1), isr=(3, 2, 1), partition_epoch=8)


def test_a_leader_that_goes_is_replaced_by_one_that_stays() -> None:
    change = reassigned(partition(), 2, 3)
    assert isinstance(change, PartitionImage)
    assert (change.leader, change.leader_epoch, change.isr) == (2, 6, (2, 3))


def test_nothing_is_written_where_nothing_differs() -> None:
    assert reassigned(partition(), 1, 2, 3) is None
    moving = partition((1, 2, 4, 3), (1, 2, 3), adding=(4,), removing=(3,))
    assert reassigned(moving, 1, 2, 4) is None


def test_another_target_begins_where_the_first_one_got_to() -> None:
    """What was being added and is wanted still is waited for; what is not, goes at once: it was never a replica."""
    moving = partition((1, 4, 5, 2), (1, 2), adding=(4, 5), removing=(2,))
    change = reassigned(moving, 1, 4, 3)
    assert isinstance(change, PartitionImage)
    assert (change.replicas, change.adding, change.removing) == ((1, 4, 3, 2), (3, 4), (2,))
    assert change.leader_epoch == 6


def test_who_is_being_added_stays_while_nobody_else_is_in_sync() -> None:
    moving = partition((4, 1, 2), (4,), leader=4, adding=(4,), removing=(1, 2))
    change = reassigned(moving, 1, 2)
    assert isinstance(change, PartitionImage)
    assert (change.replicas, change.isr, change.leader, change.removing) == ((1, 2, 4), (4,), 4, (4,))


def test_what_is_called_off_leaves_what_was_there_before() -> None:
    moving = partition((1, 2, 4, 3), (1, 2, 3, 4), adding=(4,), removing=(3,))
    change = called_off(moving)
    assert change == replace(
        moving, replicas=(1, 2, 3), isr=(1, 2, 3), adding=(), removing=(), leader_epoch=6, partition_epoch=8
    )
    assert code(called_off(partition())) is ErrorCode.NO_REASSIGNMENT_IN_PROGRESS


def test_calling_off_does_not_lose_the_only_replica_in_sync() -> None:
    """Unless unclean elections are allowed."""
    moving = partition((1, 4), (4,), leader=4, adding=(4,), removing=(1,))
    refused = called_off(moving)
    assert code(refused) is ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert "it would require an unclean leader election" in str(refused)
    change = called_off(moving, unclean=True)
    assert isinstance(change, PartitionImage)
    assert (change.replicas, change.isr, change.leader) == ((1,), (1,), 1)


def test_the_number_of_replicas_is_that_of_what_is_under_way() -> None:
    moving = partition((1, 2, 4, 3), (1, 2, 3), adding=(4,), removing=(3,))
    assert isinstance(reassigned(moving, 2, 4, 1, may_change=False), PartitionImage)
    refused = reassigned(moving, 1, 2, may_change=False)
    assert code(refused) is ErrorCode.INVALID_REPLICATION_FACTOR
    assert "The replication factor is changed from 3 to 2" in str(refused)


@pytest.mark.parametrize(
    ("now", "live", "result"),
    [
        (partition(leader=1), (1, 2, 3), ErrorCode.ELECTION_NOT_NEEDED),
        (partition(leader=2), (1, 2, 3), 1),
        (partition(isr=(2, 3), leader=2), (1, 2, 3), ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE),
        (partition(leader=2), (2, 3), ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE),
        (partition(isr=(2, 3), leader=NO_LEADER), (3,), 3),
    ],
)
def test_preferred_elections(now: PartitionImage, live: tuple[int, ...], result: int | ErrorCode) -> None:
    change = elected(now, live)
    assert (change.leader if isinstance(change, PartitionImage) else code(change)) == result


@pytest.mark.parametrize(
    ("now", "live", "result"),
    [
        (partition(leader=2), (1, 2, 3), ErrorCode.ELECTION_NOT_NEEDED),
        (partition(isr=(1,), leader=NO_LEADER), (2, 3), 2),
        (partition(isr=(1,), leader=NO_LEADER), (4,), ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE),
    ],
)
def test_unclean_elections(now: PartitionImage, live: tuple[int, ...], result: int | ErrorCode) -> None:
    change = elected(now, live, unclean=True)
    if isinstance(result, ErrorCode):
        assert code(change) is result
    else:
        assert isinstance(change, PartitionImage)
        assert (change.leader, change.isr) == (result, (result,))
