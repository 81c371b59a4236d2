"""Members of a consumer group that speak the classic protocol."""

from __future__ import annotations

from typing import Any

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    SyncGroupRequestAssignment,
)
from kbroker.groups.consumer.group import ConsumerGroup
from kbroker.groups.group import Committer
from kbroker.groups.storage.stored import read_state, state_pair
from tests.groups.consumer.classic_world import (
    Classic,
    assigned,
    mixed,
    offer,
    said,
)
from tests.groups.consumer.world import Consumer

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
    world.set_limits(size_max=2)
    assert Classic(world, "other").join().error_code == ErrorCode.GROUP_MAX_SIZE_REACHED


def test_G1_stale_generations_are_refused() -> None:
    world, _, old = mixed()
    assert old.sync(generation_id=99).error_code == ErrorCode.ILLEGAL_GENERATION
    assert world.group.heartbeat("old", None, 99, world.now) == ErrorCode.ILLEGAL_GENERATION
    with pytest.raises(KafkaError) as caught:
        world.group.check_commit(Committer("old", None, 99), {}, now=world.now)
    assert caught.value.code == ErrorCode.ILLEGAL_GENERATION
    who = Committer("old", None, old.generation, version=2)
    assert world.group.check_commit(who, {}, now=world.now) == frozenset()
    with pytest.raises(KafkaError):
        world.group.check_fetch("old", 99)


def test_classic_requests_of_members_they_are_not_for() -> None:
    world, _, old = mixed()
    stranger = Classic(world, "nobody")
    consumer = Classic(world, "new")  # it speaks the other protocol
    for each in (stranger, consumer):
        assert each.beat() == ErrorCode.UNKNOWN_MEMBER_ID
        assert each.sync().error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert stranger.leave().members[0].error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert stranger.leave(version=1).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert old.sync(protocol_name="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert old.sync(protocol_type="connect").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_operator_removes_a_member_of_the_consumer_protocol() -> None:
    world, new, old = mixed()
    third = Consumer(world, "third", ["a"])
    assert third.beat().error_code == 0
    assert Classic(world, "third").leave().members[0].error_code == 0
    assert third.beat().error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert Classic(world, "third").leave(version=1).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_sync_of_a_leader_in_spirit_changes_nothing() -> None:
    world, _, old = mixed()
    strange = SyncGroupRequestAssignment(member_id="new", assignment=assigned({("a", 0)}))
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
