"""Groups that change their protocol while they run, and classic members inside consumer groups."""

from __future__ import annotations

from typing import Any

import pytest

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kbroker.coordinators.consumer_group import ConsumerGroup, ConsumerGroupLimits
from kbroker.coordinators.consumer_protocol import read_assignment
from kbroker.coordinators.effects import GroupSnapshot, GroupTombstone, MemberSnapshot, Reply, StateRecord, Store
from kbroker.coordinators.group import Group, GroupLimits
from kbroker.coordinators.stored import read_state, state_pair
from tests.coordinators.consumer_world import CLIENT, Consumer, World, settle, topic_id

Partitions = set[tuple[str, int]]


def said(topics: list[str], owned: Partitions = frozenset(), version: int = 1) -> bytes:  # type: ignore[assignment]
    """A subscription as a consumer writes it."""
    subscription = ConsumerProtocolSubscription(
        topics=topics,
        owned_partitions=[ConsumerProtocolTopicPartitions(topic=t, partitions=[p]) for t, p in sorted(owned)],
    )
    return version.to_bytes(2, "big") + encode(subscription, version)


def given(owned: Partitions, version: int = 1) -> bytes:
    """An assignment as a leader writes it."""
    assignment = ConsumerProtocolAssignment(
        assigned_partitions=[ConsumerProtocolTopicPartitions(topic=t, partitions=[p]) for t, p in sorted(owned)]
    )
    return version.to_bytes(2, "big") + encode(assignment, version)


def offer(name: str, metadata: bytes) -> list[JoinGroupRequestProtocol]:
    return [JoinGroupRequestProtocol(name=name, metadata=metadata)]


def join_request(member_id: str = "", **fields: Any) -> JoinGroupRequest:
    values: dict[str, Any] = {
        "session_timeout_ms": 30_000, "rebalance_timeout_ms": 60_000, "protocol_type": "consumer",
        "protocols": offer("range", said(["a"])),
    } | fields  # fmt: skip
    return JoinGroupRequest(group_id="g", member_id=member_id, **values)


class Classic:
    """A consumer of the classic protocol in a consumer group. Cooperative ones keep what they own while they join."""

    def __init__(
        self, world: World, member_id: str, *, cooperative: bool = False, instance_id: str | None = None
    ) -> None:
        self.world = world
        self.member_id = member_id
        self.cooperative = cooperative
        self.instance_id = instance_id
        self.generation = -1
        self.owned: Partitions = set()

    def perform(self, effects: list[Any]) -> Any:
        return self.world.perform(effects, {})

    def join(self, *, version: int = 9, **fields: Any) -> JoinGroupResponse:
        if not self.cooperative:
            self.owned = set()
        fields.setdefault("protocols", offer("range", said(["a"], self.owned)))
        request = join_request(self.member_id, group_instance_id=self.instance_id, **fields)
        world = self.world
        response = self.perform(
            world.group.classic_join(
                "t", request, version=version, client=CLIENT, token=world.token(), now=world.now, now_ms=world.now_ms
            )
        )
        assert isinstance(response, JoinGroupResponse)
        if not response.error_code:
            self.member_id, self.generation = response.member_id, response.generation_id
        return response

    def sync(self, **fields: Any) -> SyncGroupResponse:
        values = {"member_id": self.member_id, "generation_id": self.generation, "assignments": []} | fields
        request = SyncGroupRequest(group_id="g", group_instance_id=self.instance_id, **values)  # type: ignore[arg-type]
        response = self.perform(
            self.world.group.classic_sync("t", request, now=self.world.now, now_ms=self.world.now_ms)
        )
        assert isinstance(response, SyncGroupResponse)
        if not response.error_code:
            self.owned = set(read_assignment(bytes(response.assignment)) or ())
        return response

    def beat(self) -> ErrorCode:
        return self.world.group.classic_heartbeat(self.member_id, self.instance_id, self.generation, self.world.now)

    def go_on(self) -> None:
        """A heartbeat, and what it asks for."""
        code = self.beat()
        while code is ErrorCode.REBALANCE_IN_PROGRESS:
            before = set(self.owned)
            assert self.join().error_code == 0
            if self.sync().error_code == ErrorCode.REBALANCE_IN_PROGRESS:
                continue
            if not self.cooperative or before <= self.owned:
                break
        else:
            assert code is ErrorCode.NONE

    def leave(self, *, version: int = 5) -> LeaveGroupResponse:
        world = self.world
        identity = MemberIdentity(member_id=self.member_id, group_instance_id=self.instance_id)
        request = LeaveGroupRequest(group_id="g", member_id=self.member_id, members=[identity])
        response = self.perform(
            world.group.classic_leave("t", request, version=version, now=world.now, now_ms=world.now_ms)
        )
        assert isinstance(response, LeaveGroupResponse)
        return response


def mixed(**kwargs: Any) -> tuple[World, Consumer, Classic]:
    """A consumer group of two: one of each protocol, settled."""
    world = World(a=4)
    new, old = Consumer(world, "new", ["a"]), Classic(world, "old", **kwargs)
    new.beat()
    old.join(version=3)
    old.sync()
    for _ in range(4):
        new.beat()
        old.go_on()
    assert world.group.describe().group_state == "Stable"
    return world, new, old


def classic_group(assigned: dict[str, Partitions], **fields: Any) -> Group:
    """A stable classic group, as from its record."""
    members = tuple(
        MemberSnapshot(name, None, "app", "/127.0.0.1", 60_000, 30_000, said(["a"], version=1), given(owned))
        for name, owned in assigned.items()
    )
    values: dict[str, Any] = {
        "protocol_type": "consumer", "generation": 7, "protocol": "range", "leader": members[0].member_id,
    } | fields  # fmt: skip
    return Group.restore(
        GroupSnapshot("g", state_timestamp_ms=0, members=members, **values), GroupLimits(), now=1000.0
    )


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
    described = world.group.describe()
    assert (described.group_epoch, described.assignment_epoch, described.group_state) == (7, 7, "Stable")
    assert [(m.member_id, m.member_epoch, m.member_type) for m in described.members] == [("c1", 7, 0), ("c2", 7, 0)]
    assert [m.assignment.topic_partitions[0].partitions for m in described.members] == [[0, 1], [2, 3]]
    assert world.group.classic_heartbeat("c1", None, 7, world.now) == ErrorCode.NONE


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
    assert world.group.describe().group_state == "Stable"
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
    group = Group("g", GroupLimits(), now_ms=0)
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
    classic = Group("g", GroupLimits(), now_ms=0)
    group, effects = ConsumerGroup.from_classic(classic, ConsumerGroupLimits(migration_policy="disabled"), {}, now=0.0)
    assert group.epoch == 0 and effects == [Store((GroupTombstone("g"),))]


def test_partition_that_two_classic_members_claim_has_one_owner() -> None:
    both: dict[str, Partitions] = {"c1": {("a", 0), ("gone", 3)}, "c2": {("a", 0), ("a", 99)}}
    group, _ = ConsumerGroup.from_classic(
        classic_group(both), ConsumerGroupLimits(), {"a": (topic_id(1), 4)}, now=0.0
    )
    first, second = group.describe().members
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
    group = Group.restore(snapshot, GroupLimits(), now=world.now)
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
    world.group.limits = world.limits = ConsumerGroupLimits(**limits)
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


# -- classic members in a consumer group


def test_classic_member_takes_part() -> None:
    world, new, old = mixed()
    assert {p for _, p in old.owned} | set(new.partitions()) == {0, 1, 2, 3}
    assert len(old.owned) == 2
    world.restart()
    assert old.beat() == ErrorCode.NONE


def test_classic_join_speaks_no_leader_and_the_first_protocol() -> None:
    world, _, old = mixed()
    response = old.join()
    assert (response.leader, response.members, response.protocol_name) == ("", [], "range")
    assert response.generation_id == world.group.epoch


def test_MEMBER_ID_REQUIRED_since_v4() -> None:
    world, _, _ = mixed()
    fresh = Classic(world, "")
    response = fresh.join(version=4)
    assert (response.error_code, response.member_id) == (ErrorCode.MEMBER_ID_REQUIRED, f"app-token-{world.tokens}")
    fresh.member_id = response.member_id
    assert fresh.join(version=4).error_code == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"session_timeout_ms": 1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"protocol_type": "connect"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": []}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": offer("odd", said(["a"]))}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": offer("range", b"?")}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
def test_classic_join_is_refused(fields: dict[str, Any], code: ErrorCode) -> None:
    world, _, _ = mixed()
    before = world.group.snapshot()
    assert Classic(world, "other").join(**fields).error_code == code
    assert world.group.snapshot() == before


def test_GROUP_MAX_SIZE_REACHED_for_classic_members() -> None:
    world, _, _ = mixed()
    world.group.limits = world.limits = ConsumerGroupLimits(size_max=2)
    assert Classic(world, "other").join().error_code == ErrorCode.GROUP_MAX_SIZE_REACHED


def test_G1_stale_generations_are_refused() -> None:
    world, _, old = mixed()
    assert old.sync(generation_id=99).error_code == ErrorCode.ILLEGAL_GENERATION
    assert world.group.classic_heartbeat("old", None, 99, world.now) == ErrorCode.ILLEGAL_GENERATION
    with pytest.raises(KafkaError) as caught:
        world.group.check_commit("old", None, 99)
    assert caught.value.code == ErrorCode.ILLEGAL_GENERATION
    assert world.group.check_commit("old", None, old.generation, version=2) == frozenset()
    with pytest.raises(KafkaError):
        world.group.check_fetch("old", 99)


def test_classic_requests_of_members_they_are_not_for() -> None:
    world, _, old = mixed()
    stranger = Classic(world, "nobody")
    consumer = Classic(world, "new")  # it speaks the other protocol
    for each in (stranger, consumer):
        assert each.beat() == ErrorCode.UNKNOWN_MEMBER_ID
        assert each.sync().error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert each.leave().members[0].error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert each.leave(version=1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert old.sync(protocol_name="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert old.sync(protocol_type="connect").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_sync_of_a_leader_in_spirit_changes_nothing() -> None:
    world, _, old = mixed()
    strange = SyncGroupRequestAssignment(member_id="new", assignment=given({("a", 0)}))
    before = set(old.owned)
    assert old.sync(assignments=[strange]).error_code == 0
    assert old.owned == before


def test_G4_static_classic_member_is_replaced_and_the_old_one_fenced() -> None:
    world, new, old = mixed()
    first = Classic(world, "", instance_id="i")
    first.join()
    for _ in range(4):
        new.beat()
        old.go_on()
        first.go_on()
    second = Classic(world, "", instance_id="i")
    epoch = world.group.epoch
    assert second.join().error_code == 0
    assert world.group.epoch == epoch
    second.sync()
    assert first.owned
    assert second.owned == first.owned
    assert first.beat() == ErrorCode.FENCED_INSTANCE_ID
    assert first.join().error_code == ErrorCode.FENCED_INSTANCE_ID
    assert first.sync().error_code == ErrorCode.FENCED_INSTANCE_ID
    assert first.leave().members[0].error_code == ErrorCode.FENCED_INSTANCE_ID


def test_G4_consumer_takes_over_from_a_static_classic_member() -> None:
    """Unlike Kafka: a classic static member does not say that it leaves."""
    world, _, _ = mixed()
    first = Classic(world, "", instance_id="i")
    first.join()
    after = Consumer(world, "after", ["a"], instance_id="i")
    assert after.beat().error_code == 0
    assert first.beat() == ErrorCode.FENCED_INSTANCE_ID


def test_operator_removes_a_static_member_by_its_instance_id() -> None:
    world, _, _ = mixed()
    Classic(world, "", instance_id="i").join()
    assert Classic(world, "", instance_id="i").leave().members[0].error_code == 0
    assert Classic(world, "", instance_id="i").leave().members[0].error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_G6_classic_member_that_does_not_rejoin_in_time_is_removed() -> None:
    world, new, old = mixed()
    Consumer(world, "more", ["a"]).beat()
    for _ in range(13):
        new.beat(revoke=True)
        old.beat()
        world.advance(5)
    assert "old" not in world.core.members


def test_G6_classic_member_that_does_not_sync_in_time_is_removed() -> None:
    world, new, old = mixed()
    old.join()
    for _ in range(13):
        new.beat()
        old.beat()
        world.advance(5)
    assert "old" not in world.core.members


def test_G6_silent_classic_member_is_removed_by_its_own_session() -> None:
    world, new, _ = mixed()
    world.advance(29)
    new.beat()
    assert "old" in world.core.members
    world.advance(2)
    assert "old" not in world.core.members


def test_sync_tells_of_a_rebalance_that_came_between() -> None:
    world, _, old = mixed()
    old.join()
    Consumer(world, "more", ["a"]).beat()
    assert old.sync().error_code == ErrorCode.REBALANCE_IN_PROGRESS


def test_cooperative_member_keeps_what_stays() -> None:
    world, _, old = mixed(cooperative=True)
    before = set(old.owned)
    more = Consumer(world, "more", ["a"])
    more.beat()
    assert old.beat() == ErrorCode.REBALANCE_IN_PROGRESS
    old.join()
    old.sync()
    assert len(old.owned) == 1 and old.owned < before  # it is to give up the other one, and joins again for that
    more.beat()
    assert more.owned == set()
    old.go_on()
    more.beat()
    assert len(more.owned) == 1
    assert world.group.timeline.rebalances[-1].unowned_ms == {}


def test_assignment_is_written_in_the_version_of_the_subscription() -> None:
    world, _, _ = mixed()
    for version in (0, 3):
        member = Classic(world, f"v{version}")
        member.join(protocols=offer("range", said(["a"], version=version)))
        assert bytes(member.sync().assignment)[:2] == version.to_bytes(2, "big")


def test_classic_members_survive_as_records() -> None:
    world, _, _ = mixed()
    records = world.group.snapshot()
    read = []
    for record in records:
        key, value = state_pair(record)
        assert value is not None
        read.append(read_state(key, value))
    again = ConsumerGroup.restore("g", [each for each in read if each], world.limits, world.topics, now=0.0)
    assert set(again.snapshot()) == set(records)
