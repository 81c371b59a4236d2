"""Groups that change their protocol while they run, and classic members inside consumer groups."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.effects import Reply, StateRecord, Store
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.consumer.group import ConsumerGroup
from kbroker.groups.consumer_protocol import read_assignment
from kbroker.groups.settings import ConsumerGroupLimits, GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot, GroupTombstone
from kbroker.groups.storage.stored import read_state, state_pair
from kbroker.turns import at_once
from tests.groups.consumer.classic_world import (
    Classic,
    Partitions,
    classic_group,
    join_request,
    mixed,
)
from tests.groups.consumer.world import CLIENT, Consumer, World, settle, topic_id

HALVES: dict[str, Partitions] = {"c1": {("a", 0), ("a", 1)}, "c2": {("a", 2), ("a", 3)}}


def upgraded(policy: str = "bidirectional", **fields: Any) -> World:
    """A world whose group was classic, with HALVES."""
    world = World(ConsumerGroupLimits(migration_policy=policy), a=4)
    classic = classic_group(HALVES, **fields)
    group, effects = ConsumerGroup.from_classic(classic, world.limits, world.topics, now=world.now)
    world.group = group
    for effect in effects:
        if isinstance(effect, Store):
            world.log.extend(effect.records)  # type: ignore[arg-type]
    return world


# -- upgrade


def test_upgrade_keeps_what_everybody_owns() -> None:
    world = upgraded()
    assert world.log[0] == GroupTombstone("g")
    described = at_once(world.group.describe_consumer())
    assert (described.group_epoch, described.assignment_epoch, described.group_state) == (7, 7, "Stable")
    assert [(m.member_id, m.member_epoch, m.member_type) for m in described.members] == [("c1", 7, 0), ("c2", 7, 0)]
    assert [m.assignment.topic_partitions[0].partitions for m in described.members] == [[0, 1], [2, 3]]
    assert world.group.heartbeat("c1", None, 7, world.now) == ErrorCode.NONE


@pytest.mark.parametrize("cooperative", [False, True])
def test_rolling_upgrade(cooperative: bool) -> None:
    """Classic members hear of a rebalance, the new one gets its share, and one after the other comes over."""
    world = upgraded()
    old = [Classic(world, name, cooperative=cooperative) for name in HALVES]
    for each in old:
        each.generation, each.owned = 7, set(HALVES[each.member_id])
    new = Consumer(world, "n1", ["a"])
    new.beat()
    assert old[0].beat() == ErrorCode.REBALANCE_IN_PROGRESS
    for _ in range(4):
        for each in old:
            each.go_on()
        new.beat()
    assert at_once(world.group.describe_consumer()).group_state == "Stable"
    assert sorted([len(old[0].owned), len(old[1].owned), len(new.owned)]) == [1, 1, 2]
    old[0].leave()
    second = Consumer(world, "n2", ["a"])
    for _ in range(4):
        old[1].go_on()
        new.beat()
        second.beat()
    old[1].leave()
    settle(world, [new, second])
    assert world.group.replaced_by is None
    assert sorted([*new.partitions(), *second.partitions()]) == [0, 1, 2, 3]


def test_upgrade_answers_those_who_wait_in_the_classic_group() -> None:
    group = ClassicGroup("g", GroupLimits(), now_ms=0)
    for n in (1, 2):
        group.join(f"join-{n}", join_request(f"c{n}"), version=9, client=CLIENT, token="", now=0.0, now_ms=0)
        group.join(f"join-{n}", join_request(), version=3, client=CLIENT, token=f"t{n}", now=0.0, now_ms=0)
    limits = ConsumerGroupLimits()
    _, effects = ConsumerGroup.from_classic(group, limits, {"a": (topic_id(1), 1)}, now=0.0)
    replies = [each for each in effects if isinstance(each, Reply)]
    assert replies and all(each.response.error_code == ErrorCode.REBALANCE_IN_PROGRESS for each in replies)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        ({"migration_policy": "disabled"}, {}),
        ({"migration_policy": "downgrade"}, {}),
        ({}, {"protocol_type": "connect"}),
        ({"size_max": 1}, {}),
    ],
)
def test_upgrade_is_refused_and_leaves_the_classic_group(limits: dict[str, Any], fields: dict[str, Any]) -> None:
    classic = classic_group(HALVES, **fields)
    with pytest.raises(KafkaError) as caught:
        ConsumerGroup.from_classic(classic, ConsumerGroupLimits(**limits), {}, now=0.0)
    assert caught.value.code == ErrorCode.GROUP_ID_NOT_FOUND
    assert classic.heartbeat("c1", None, 7, 1000.0) == ErrorCode.NONE


def test_empty_classic_group_gives_its_name_to_any_policy() -> None:
    classic = ClassicGroup("g", GroupLimits(), now_ms=0)
    group, effects = ConsumerGroup.from_classic(classic, ConsumerGroupLimits(migration_policy="disabled"), {}, now=0.0)
    assert group.epoch == 1 and effects == [Store((GroupTombstone("g"),))]


def test_partition_that_two_classic_members_claim_has_one_owner() -> None:
    both: dict[str, Partitions] = {"c1": {("a", 0), ("gone", 3)}, "c2": {("a", 0), ("a", 99)}}
    group, _ = ConsumerGroup.from_classic(classic_group(both), ConsumerGroupLimits(), {"a": (topic_id(1), 4)}, now=0.0)
    first, second = at_once(group.describe_consumer()).members
    assert first.assignment.topic_partitions[0].partitions == [0]
    assert second.assignment.topic_partitions == []


# -- downgrade


def test_downgrade_when_the_last_consumer_member_leaves() -> None:
    world, new, old = mixed()
    new.leave()
    snapshot = world.group.replaced_by
    assert snapshot is not None
    assert (snapshot.protocol, snapshot.protocol_type, snapshot.generation) == ("range", "consumer", world.group.epoch)
    (member,) = snapshot.members
    assert snapshot.leader == member.member_id == "old"
    assert read_assignment(member.assignment) == frozenset(old.owned)
    assert world.log[-1] == snapshot
    _only_classic_is_left(world.log)
    group = ClassicGroup.restore(snapshot, GroupLimits(), now=world.now)
    group.rebalance("downgrade", world.now, 0)
    assert group.heartbeat("old", None, snapshot.generation, world.now) == ErrorCode.REBALANCE_IN_PROGRESS
    effects = group.join("j", join_request("old"), version=9, client=CLIENT, token="", now=world.now, now_ms=0)
    assert effects[-1].response.generation_id == snapshot.generation + 1  # type: ignore[union-attr]


def _only_classic_is_left(log: list[StateRecord]) -> None:
    live: dict[bytes, bytes] = {}
    for record in log:
        key, value = state_pair(record)
        if value is None:
            live.pop(key, None)
        else:
            live[key] = value
    assert [type(read_state(key, value)) for key, value in live.items()] == [GroupSnapshot]


@pytest.mark.parametrize("how", ["session", "revocation"])
def test_downgrade_when_the_last_consumer_member_is_removed(how: str) -> None:
    world, new, old = mixed()
    if how == "revocation":
        Classic(world, "more").join(version=3)
        new.say_all = True
        new.beat(revoke=False)
    for _ in range(10):
        if world.group.replaced_by is None:
            world.advance(5)
            old.beat()
    assert world.group.replaced_by is not None


@pytest.mark.parametrize("limits", [{"migration_policy": "upgrade"}, {"classic_size_max": 0}])
def test_downgrade_is_refused(limits: dict[str, Any]) -> None:
    world, new, old = mixed()
    world.set_limits(**limits)
    new.leave()
    assert world.group.replaced_by is None
    old.go_on()
    assert old.owned == {("a", p) for p in range(4)}


def test_static_member_that_comes_back_with_the_classic_protocol_downgrades() -> None:
    world = World(a=2)
    new = Consumer(world, "new", ["a"], instance_id="i")
    new.beat()
    new.leave(-2)
    old = Classic(world, "", instance_id="i")
    response = old.join()
    assert response.member_id == "i-token-3"
    assert world.group.replaced_by is not None
    assert read_assignment(world.group.replaced_by.members[0].assignment) == frozenset({("a", 0), ("a", 1)})


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["new", "eager", "cooperative", "beat", "beat", "leave", "more"]), st.integers(0, 9)),
        max_size=25,
    )
)
def test_mixed_groups_share_everything_and_never_twice(events: list[tuple[str, int]]) -> None:
    """Both protocols in one group, coming and going: one owner each, at any time; in the end all has one."""
    world = World(ConsumerGroupLimits(migration_policy="upgrade"), a=3)
    members: list[Consumer | Classic] = [Consumer(world, "first", ["a"])]
    members[0].beat()
    for n, (event, which) in enumerate(events):
        if event == "new":
            members.append(Consumer(world, f"new-{n}", ["a"]))
            members[-1].beat()
        elif event in ("eager", "cooperative"):
            old = Classic(world, f"old-{n}", cooperative=event == "cooperative")
            assert old.join().error_code == 0
            old.sync()
            members.append(old)
        elif event == "beat":
            _beat(members[which % len(members)])
        elif event == "leave" and len(members) > 1:
            members.pop(which % len(members)).leave()
        elif event == "more":
            world.set_topics(a=world.topics["a"][1] + 1)
        _check_owners(members)
    for _ in range(8):
        for member in members:
            _beat(member)
            _check_owners(members)
    assert at_once(world.group.describe_consumer()).group_state == "Stable"
    assert sum(len(member.owned) for member in members) == world.topics["a"][1]


def _beat(member: Consumer | Classic) -> None:
    if isinstance(member, Consumer):
        assert member.beat().error_code == 0
    else:
        member.go_on()


def _check_owners(members: list[Consumer | Classic]) -> None:
    owned = [p for member in members for _, p in member.owned]
    assert len(owned) == len(set(owned))
