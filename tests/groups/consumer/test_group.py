"""ConsumerGroup as scripts: who says what, what everybody is told, and every code."""

from __future__ import annotations

from typing import Any

import pytest

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupHeartbeatRequest,
)
from kbroker.coordinators.effects import Compute, Store
from kbroker.groups.settings import ConsumerGroupLimits
from kbroker.groups.storage.snapshots import (
    ConsumerGroupSnapshot,
    ConsumerGroupTombstone,
    ConsumerMemberSnapshot,
    CurrentMemberSnapshot,
    TargetEpochSnapshot,
    TargetMemberSnapshot,
)
from kbroker.turns import at_once
from tests.groups.consumer.world import CLIENT, Consumer, World, assignment, join, owning, settle, topic_id

# -- joining, going on, leaving


def test_first_member_gets_everything_at_once() -> None:
    world = World(a=3)
    response = join(world)
    assert (response.error_code, response.member_id, response.member_epoch) == (0, "m1", 1)
    assert response.heartbeat_interval_ms == 5000
    assert assignment(response) == {topic_id(1): [0, 1, 2]}
    assert at_once(world.group.describe_consumer()).group_state == "Stable"


def test_assignment_is_told_only_when_it_changed_or_all_is_said() -> None:
    world = World(a=2)
    join(world)
    assert world.heartbeat(member_id="m1", member_epoch=1).assignment is None
    again = join(world, member_epoch=1, topic_partitions=owning(topic_id(1), 0, 1))
    assert assignment(again) == {topic_id(1): [0, 1]}
    assert again.member_epoch == 1


def test_heartbeat_of_nothing_new_stores_nothing() -> None:
    world = World(a=2)
    join(world)
    before = len(world.log)
    world.heartbeat(member_id="m1", member_epoch=1)
    world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0, 1))
    assert len(world.log) == before


def test_v0_makes_the_member_id_and_v1_takes_the_clients() -> None:
    world = World(a=1)
    assert join(world, "", version=0).member_id == "token-1"
    assert join(world, "", version=1).error_code == ErrorCode.INVALID_REQUEST
    assert join(world, "mine", version=1).member_id == "mine"


def test_G2_join_is_stored_before_it_is_answered() -> None:
    world = World(a=1)
    join(world)
    kinds = [type(each) for each in world.log]
    assert kinds == [
        ConsumerMemberSnapshot, ConsumerGroupSnapshot, TargetMemberSnapshot, TargetEpochSnapshot, CurrentMemberSnapshot,
    ]  # fmt: skip


def test_second_member_gets_its_half_only_after_the_first_let_go() -> None:
    world = World(a=4)
    join(world, "m1")
    second = join(world, "m2")
    assert assignment(second) == {} and second.member_epoch == 2
    asked = world.heartbeat(member_id="m1", member_epoch=1)
    assert assignment(asked) == {topic_id(1): [0, 1]}
    assert asked.member_epoch == 1  # until it has revoked
    assert world.heartbeat(member_id="m2", member_epoch=2).assignment is None
    assert at_once(world.group.describe_consumer()).group_state == "Reconciling"
    done = world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0, 1))
    assert done.member_epoch == 2 and done.assignment is None
    assert assignment(world.heartbeat(member_id="m2", member_epoch=2)) == {topic_id(1): [2, 3]}
    assert at_once(world.group.describe_consumer()).group_state == "Stable"


def test_revocation_is_not_done_while_the_member_does_not_say_so() -> None:
    world = World(a=2)
    join(world, "m1")
    join(world, "m2")
    world.heartbeat(member_id="m1", member_epoch=1)
    for owned in (None, owning(topic_id(1), 0, 1)):
        assert world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owned).member_epoch == 1
    assert world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0)).member_epoch == 2


def test_leaving_frees_what_the_member_had() -> None:
    world = World(a=2)
    consumers = [Consumer(world, name, ["a"]) for name in ("m1", "m2")]
    for consumer in consumers:
        consumer.beat()
    settle(world, consumers)
    left = consumers[0].leave()
    assert (left.error_code, left.member_epoch, left.member_id) == (0, -1, "m1")
    consumers[1].beat()
    assert consumers[1].partitions() == [0, 1]
    consumers[1].leave()
    assert at_once(world.group.describe_consumer()).group_state == "Empty"
    assert world.group.is_empty and world.group.empty_since_ms == 0


def test_member_that_rejoins_under_its_id_has_abandoned_all_and_gets_it_again() -> None:
    world = World(a=2)
    join(world)
    again = join(world)
    assert again.member_epoch == 1 and assignment(again) == {topic_id(1): [0, 1]}


# -- refusals


@pytest.mark.parametrize(
    "fields",
    [
        {"rebalance_timeout_ms": -1},
        {"topic_partitions": None},
        {"topic_partitions": owning(topic_id(1), 0)},
        {"subscribed_topic_names": None},
        {"instance_id": ""},
        {"rack_id": ""},
        {"member_epoch": -3},
        {"member_epoch": -2},
        {"member_id": ""},
        {"member_id": "x" * 5000},
        {"member_id": "", "member_epoch": 3},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_INVALID_REQUEST(fields: dict[str, Any]) -> None:
    world = World(a=1)
    assert join(world, **{"member_id": "m1"} | fields).error_code == ErrorCode.INVALID_REQUEST
    assert world.log == [] and world.group.forgettable


def test_UNKNOWN_MEMBER_ID() -> None:
    world = World(a=1)
    for epoch in (1, -1):
        response = world.heartbeat(member_id="m1", member_epoch=epoch)
        assert response.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert response.error_message == "Member m1 is not a member of group g."
    for epoch in (1, -1, -2):
        response = world.heartbeat(member_id="m1", member_epoch=epoch, instance_id="i")
        assert response.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_FENCED_MEMBER_EPOCH_for_an_epoch_that_is_not_the_present_one() -> None:
    world = World(a=2)
    join(world, "m1")
    world.set_topics(a=3)
    world.heartbeat(member_id="m1", member_epoch=1)  # now in epoch 2
    for epoch in (3, 1):
        response = world.heartbeat(member_id="m1", member_epoch=epoch)
        assert response.error_code == ErrorCode.FENCED_MEMBER_EPOCH


def test_previous_epoch_is_accepted_when_the_answer_was_lost() -> None:
    """KIP-848: the member owns a part of what it was given, so it cannot do harm."""
    world = World(a=2)
    join(world, "m1")
    world.set_topics(a=3)
    world.heartbeat(member_id="m1", member_epoch=1)  # the answer is lost
    strange = world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0, 7))
    assert strange.error_code == ErrorCode.FENCED_MEMBER_EPOCH
    again = join(world, "m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0, 1))
    assert again.member_epoch == 2 and assignment(again) == {topic_id(1): [0, 1, 2]}


def test_UNSUPPORTED_ASSIGNOR() -> None:
    world = World(a=1)
    response = join(world, server_assignor="sticky")
    assert response.error_code == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert response.error_message == "ServerAssignor sticky is not supported. Supported assignors: uniform, range."


def test_GROUP_MAX_SIZE_REACHED_is_not_for_those_who_are_in() -> None:
    world = World(ConsumerGroupLimits(size_max=1), a=1)
    join(world, "m1")
    assert join(world, "m2").error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
    assert join(world, "m1").error_code == 0


def test_INVALID_REGULAR_EXPRESSION() -> None:
    world = World(a=1)
    response = join(world, subscribed_topic_names=None, subscribed_topic_regex="(?=a)")
    assert response.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert world.log == []


def test_refused_heartbeat_changes_nothing() -> None:
    world = World(a=2)
    join(world)
    before = world.group.snapshot()
    world.heartbeat(member_id="m1", member_epoch=1, subscribed_topic_names=["b"], server_assignor="x")
    world.heartbeat(member_id="m1", member_epoch=9, subscribed_topic_names=["b"])
    assert world.group.snapshot() == before


# -- static members


def test_UNRELEASED_INSTANCE_ID_while_the_holder_is_here() -> None:
    world = World(a=1)
    join(world, "m1", instance_id="i")
    assert join(world, "m2", instance_id="i").error_code == ErrorCode.UNRELEASED_INSTANCE_ID
    assert join(world, "m1", instance_id="i").error_code == 0


def test_G4_static_member_is_back_under_another_id_and_has_what_it_had() -> None:
    world = World(a=4)
    first, second = Consumer(world, "m1", ["a"], instance_id="i"), Consumer(world, "m2", ["a"])
    first.beat()
    second.beat()
    settle(world, [first, second])
    had, epoch = set(first.owned), world.group.epoch
    left = first.leave(-2)
    assert left.error_code == 0 and left.member_epoch == -2
    world.advance(20)
    second.beat()
    assert second.partitions() == [2, 3]  # nothing of the absent one
    back = Consumer(world, "m3", ["a"], instance_id="i")
    response = back.beat()
    assert response.member_epoch == epoch == world.group.epoch
    assert back.owned == had
    fenced = world.heartbeat(member_id="m1", member_epoch=epoch, instance_id="i")
    assert fenced.error_code == ErrorCode.FENCED_INSTANCE_ID


def test_static_member_that_does_not_come_back_is_removed_with_its_session() -> None:
    world = World(a=1)
    join(world, "m1", instance_id="i")
    world.heartbeat(member_id="m1", member_epoch=-2, instance_id="i")
    world.advance(44)
    assert not world.group.is_empty
    world.advance(2)
    assert world.group.is_empty


def test_static_member_away_is_fenced_until_it_joins() -> None:
    world = World(a=1)
    join(world, "m1", instance_id="i")
    world.heartbeat(member_id="m1", member_epoch=-2, instance_id="i")
    response = world.heartbeat(member_id="m1", member_epoch=1, instance_id="i")
    assert response.error_code == ErrorCode.FENCED_MEMBER_EPOCH


# -- time


def test_G6_silent_member_is_removed_when_its_session_ends() -> None:
    world = World(a=2)
    join(world, "m1")
    join(world, "m2")
    world.advance(30)
    world.heartbeat(member_id="m2", member_epoch=2)
    world.advance(20)
    assert [each.member_id for each in at_once(world.group.describe_consumer()).members] == ["m2"]
    assert assignment(world.heartbeat(member_id="m2", member_epoch=2)) == {topic_id(1): [0, 1]}
    assert world.heartbeat(member_id="m1", member_epoch=1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    silence = "no heartbeat for 45000 ms: group.consumer.session.timeout.ms"
    assert world.expelled == [("m1", CLIENT, silence)]


def test_G6_member_that_does_not_revoke_in_time_is_removed() -> None:
    world = World(a=2)
    join(world, "m1")
    join(world, "m2")
    for _ in range(4):
        world.heartbeat(member_id="m1", member_epoch=1)
        world.heartbeat(member_id="m2", member_epoch=2)
        world.advance(3)
    assert [each.member_id for each in at_once(world.group.describe_consumer()).members] == ["m2"]
    ((member, _, why),) = world.expelled
    assert member == "m1" and why.startswith("did not revoke partitions within ")


def test_member_that_revokes_in_time_has_no_deadline_left() -> None:
    world = World(a=2)
    join(world, "m1")
    join(world, "m2")
    world.heartbeat(member_id="m1", member_epoch=1)
    world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0))
    world.advance(30)
    assert len(at_once(world.group.describe_consumer()).members) == 2


def test_G3_restart_gives_everybody_a_whole_session() -> None:
    world = World(a=2)
    join(world)
    world.advance(40)
    world.restart()
    world.advance(40)
    assert world.heartbeat(member_id="m1", member_epoch=1).error_code == 0


def test_restart_finds_topics_that_changed_meanwhile() -> None:
    world = World(a=1)
    join(world)
    world.topics = {"a": (topic_id(1), 2)}
    world.restart()
    assert assignment(world.heartbeat(member_id="m1", member_epoch=1)) == {topic_id(1): [0, 1]}


# -- subscriptions and topics


def test_more_partitions_are_given_and_deleted_topics_are_taken() -> None:
    world = World(a=1, b=1)
    consumer = Consumer(world, "m1", ["a", "b"])
    consumer.beat()
    world.set_topics(a=2)
    assert at_once(world.group.describe_consumer()).group_state == "Assigning"
    consumer.beat()
    assert consumer.owned == {(topic_id(1), 0), (topic_id(1), 1), (topic_id(2), 0)}
    world.set_topics(b=0)
    settle(world, [consumer])
    assert consumer.owned == {(topic_id(1), 0), (topic_id(1), 1)}


def test_topic_that_is_made_again_is_another_topic() -> None:
    world = World(a=1)
    consumer = Consumer(world, "m1", ["a"])
    consumer.beat()
    world.set_topics(a=0)
    world.set_topics(a=1)
    settle(world, [consumer])
    assert consumer.owned == {(world.topics["a"][0], 0)} != {(topic_id(1), 0)}


def test_topics_nobody_subscribed_to_change_nothing() -> None:
    world = World(a=1)
    join(world)
    world.set_topics(other=5)
    assert world.group.epoch == 1


def test_regex_follows_the_topics() -> None:
    world = World(None, **{"log-a": 1, "log-b": 1, "__log": 1, "x": 1})
    consumer = Consumer(world, "m1", None, "(__)?log.*")
    consumer.beat()
    assert {topic for topic, _ in consumer.owned} == {topic_id(1), topic_id(2)}
    world.set_topics(**{"log-c": 1})
    consumer.beat()
    assert len(consumer.owned) == 3
    consumer.subscribe("x", regex="")
    consumer.beat()
    settle(world, [consumer])
    assert consumer.owned == {(topic_id(4), 0)}
    gone = ConsumerGroupTombstone(16, "g", "(__)?log.*")
    assert gone in world.log


def test_changed_subscription_moves_the_epoch_once() -> None:
    world = World(a=1, b=1)
    join(world)
    world.heartbeat(member_id="m1", member_epoch=1, subscribed_topic_names=["a", "b"])
    world.heartbeat(member_id="m1", member_epoch=2, subscribed_topic_names=["b", "a", "a"])
    assert world.group.epoch == 2


def test_most_members_choose_the_assignor() -> None:
    world = World(a=2)
    join(world, "m1", server_assignor="range")
    assert at_once(world.group.describe_consumer()).assignor_name == "range"
    join(world, "m2", server_assignor="uniform")
    join(world, "m3", server_assignor="uniform")
    assert at_once(world.group.describe_consumer()).assignor_name == "uniform"


# -- moves


def test_partitions_that_stay_have_zero_unowned_time() -> None:
    """A rebalance moves what has to move; all else flows on."""
    world = World(a=12)
    consumers = [Consumer(world, f"m{n}", ["a"]) for n in range(3)]
    for consumer in consumers:
        consumer.beat()
    settle(world, consumers)
    stays = {consumer.name: set(consumer.owned) for consumer in consumers}
    joiner = Consumer(world, "m9", ["a"])
    joiner.beat()
    for _ in range(4):
        world.advance(1)
        for consumer in (*consumers, joiner):
            consumer.beat()
    rebalance = world.group.timeline.rebalances[-1]
    moved = {("a", partition) for partition in joiner.partitions()}
    assert len(moved) == rebalance.partitions_moved == 3
    assert set(rebalance.unowned_ms) <= moved
    assert rebalance.unowned_ms_max <= 1000
    assert all(consumer.owned == stays[consumer.name] - joiner.owned for consumer in consumers)
    assert rebalance.ended_after_ms is not None


def test_timeline_tells_how_long_a_moved_partition_had_no_owner() -> None:
    world = World(a=2)
    join(world, "m1")
    join(world, "m2")
    world.heartbeat(member_id="m1", member_epoch=1)
    world.advance(2)
    world.heartbeat(member_id="m1", member_epoch=1, topic_partitions=owning(topic_id(1), 0))
    world.advance(3)
    world.heartbeat(member_id="m2", member_epoch=2)
    rebalance = world.group.timeline.rebalances[-1]
    assert rebalance.unowned_ms == {("a", 1): 3000}
    assert (rebalance.generation, rebalance.ended_after_ms) == (2, 5000)


def test_storm_of_joins_costs_few_assignments() -> None:
    """KIP-1263: beyond a size, targets are computed once in a while; on time, and for all."""
    world = World(ConsumerGroupLimits(assignment_interval_ms=1000), a=200)
    for n in range(100):
        world.group.consumer_heartbeat(
            "t", _join_request(f"m{n:03}"), version=1, client=CLIENT, token="", now=world.now, now_ms=0
        )
    assert at_once(world.group.describe_consumer()).assignment_epoch == 64
    world.now += 1
    (compute,) = world.group.on_alarm(world.now, 0)
    assert isinstance(compute, Compute)
    assert isinstance(next(iter(compute.then(at_once(compute.work), world.now, 0))), Store)
    assert at_once(world.group.describe_consumer()).assignment_epoch == 100
    assert all(len(target) for target in world.core.targets.values())


def _join_request(member_id: str) -> Any:
    return ConsumerGroupHeartbeatRequest(
        group_id="g", member_id=member_id, member_epoch=0, rebalance_timeout_ms=1, subscribed_topic_names=["a"],
        topic_partitions=[],
    )  # fmt: skip


def test_a_subscription_that_cannot_be_stored_is_refused() -> None:
    world = World(a=1)
    response = join(world, subscribed_topic_names=[f"topic-{n}" for n in range(50_000)])
    assert response.error_code == ErrorCode.UNKNOWN_SERVER_ERROR
    assert not world.core.members and not world.log
