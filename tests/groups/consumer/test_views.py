"""Who may commit, fetch and delete, and a consumer group as others see it."""

from __future__ import annotations

from typing import Any

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.effects import Store
from kbroker.groups.consumer.group import ConsumerGroup
from kbroker.groups.group import Client, Committer
from kbroker.groups.storage.snapshots import ConsumerGroupTombstone
from kbroker.turns import at_once
from tests.groups.consumer.world import World, join

# -- commits, fetches, deletion


def code_of(call: Any, *args: Any, **kwargs: Any) -> ErrorCode:
    try:
        call(*args, **kwargs)
    except KafkaError as error:
        return error.code
    return ErrorCode.NONE


def test_G1_commits_are_fenced_by_member_epoch() -> None:
    world = World(a=2)
    check = world.group.check_commit
    assert code_of(check, Committer("", None, -1), {}, now=world.now) == ErrorCode.NONE  # an empty group: anybody
    join(world)
    assert code_of(check, Committer("m1", None, 1), {}, now=world.now) == ErrorCode.NONE
    assert code_of(check, Committer("m1", None, 2), {}, now=world.now) == ErrorCode.STALE_MEMBER_EPOCH
    assert code_of(check, Committer("m2", None, 1), {}, now=world.now) == ErrorCode.UNKNOWN_MEMBER_ID
    assert code_of(check, Committer("", None, -1), {}, now=world.now) == ErrorCode.UNKNOWN_MEMBER_ID
    assert code_of(check, Committer("", None, -1, transactional=True), {}, now=world.now) == ErrorCode.NONE
    assert code_of(check, Committer("m1", None, 1, version=8), {}, now=world.now) == ErrorCode.UNSUPPORTED_VERSION
    assert code_of(check, Committer("m1", None, 1, version=3, transactional=True), {}, now=world.now) == ErrorCode.NONE


def test_commit_in_an_earlier_epoch_counts_for_what_was_owned_then() -> None:
    """KIP-1251."""
    world = World(a=1)
    join(world)
    world.set_topics(a=2)
    world.heartbeat(member_id="m1", member_epoch=1)  # epoch 2: partition 1, too
    both = {"a": [0, 1]}
    assert world.group.check_commit(Committer("m1", None, 2), both, now=world.now) == frozenset()
    assert world.group.check_commit(Committer("m1", None, 1), both, now=world.now) == {("a", 1)}
    check = world.group.check_commit
    assert code_of(check, Committer("m1", None, 1), {"a": [1]}, now=world.now) == ErrorCode.STALE_MEMBER_EPOCH
    assert code_of(check, Committer("m1", None, 3), both, now=world.now) == ErrorCode.STALE_MEMBER_EPOCH
    world.restart()
    assert world.group.check_commit(Committer("m1", None, 1), both, now=world.now) == {("a", 1)}


def test_G1_fetches_are_fenced_by_member_epoch() -> None:
    world = World(a=1)
    join(world)
    check = world.group.check_fetch
    assert code_of(check, None, -1) == ErrorCode.NONE
    assert code_of(check, "m1", 1) == ErrorCode.NONE
    assert code_of(check, "m1", 0) == ErrorCode.STALE_MEMBER_EPOCH
    assert code_of(check, "m2", 1) == ErrorCode.UNKNOWN_MEMBER_ID


def test_group_is_deleted_when_empty_and_nothing_of_it_is_left() -> None:
    world = World(a=1)
    join(world, subscribed_topic_regex="b.*")
    assert code_of(world.group.delete, 0) == ErrorCode.NON_EMPTY_GROUP
    assert world.group.check_offset_delete() == {"a"}
    world.heartbeat(member_id="m1", member_epoch=-1)
    (effect,) = world.group.delete(0)
    assert isinstance(effect, Store)
    world.log.extend(effect.records)  # type: ignore[arg-type]
    live: dict[Any, Any] = {}
    for record in world.log:
        key = _key(record)
        if isinstance(record, ConsumerGroupTombstone):
            live.pop(key, None)
        else:
            live[key] = record
    assert live == {}


def _key(record: Any) -> tuple[int, str]:
    kinds = {
        "ConsumerGroupSnapshot": 3, "ConsumerMemberSnapshot": 5, "TargetEpochSnapshot": 6, "TargetMemberSnapshot": 7,
        "CurrentMemberSnapshot": 8, "RegexSnapshot": 16,
    }  # fmt: skip
    if isinstance(record, ConsumerGroupTombstone):
        return record.key_type, record.member_id
    return kinds[type(record).__name__], getattr(record, "member_id", getattr(record, "regex", ""))


# -- views


def test_describe_shows_what_members_have_and_should_have() -> None:
    world = World(a=2)
    join(world, "m1", rack_id="r", instance_id="i")
    world.heartbeat(
        1, Client("second", "/10.0.0.1"), member_id="m2", member_epoch=0, rebalance_timeout_ms=1,
        subscribed_topic_names=["a"], topic_partitions=[],
    )  # fmt: skip
    described = at_once(world.group.describe_consumer())
    assert (described.group_state, described.group_epoch, described.assignment_epoch) == ("Reconciling", 2, 2)
    first, second = described.members
    assert (first.instance_id, first.rack_id, first.member_epoch, first.member_type) == ("i", "r", 1, 1)
    assert (second.client_id, second.client_host) == ("second", "/10.0.0.1")
    assert first.assignment.topic_partitions[0].topic_name == "a"
    assert first.assignment.topic_partitions[0].partitions == [0, 1]
    assert first.target_assignment.topic_partitions[0].partitions == [0]
    assert second.assignment.topic_partitions == []
    assert second.target_assignment.topic_partitions[0].partitions == [1]


def test_other_views() -> None:
    world = World(a=1)
    join(world)
    line = world.group.listing()
    assert (line.protocol_type, line.group_state, line.group_type) == ("consumer", "Stable", "consumer")
    described = at_once(world.group.describe_classic())
    assert (described.error_code, described.group_state) == (ErrorCode.GROUP_ID_NOT_FOUND, "Dead")
    assert world.group.resign() == [] and world.group.deadline is None


def test_snapshot_makes_the_same_group() -> None:
    world = World(a=3)
    join(world, "m1")
    join(world, "m2", subscribed_topic_regex="a|b")
    world.heartbeat(member_id="m1", member_epoch=1)
    again = ConsumerGroup.restore("g", world.group.snapshot(), world.limits, world.topics, now=0.0)
    assert set(again.snapshot()) == set(world.group.snapshot())
