"""The classic group, told as scripts. How to read them: script.py. Codes and order are Kafka's."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import JoinGroupRequest, JoinGroupRequestProtocol
from kbroker.coordinators.effects import Reply
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.classic.rebalance import GroupState
from kbroker.groups.group import Client
from kbroker.groups.settings import GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot, MemberSnapshot
from kbroker.turns import at_once
from tests.groups.classic.script import NOW_MS, Script

TWO_STABLE = """
    join a v3            => a JOIN generation=1 leader=a protocol=range members=a
    sync a a=x           => STORE Stable 1 a(x); a SYNC x
    join b v3
    heartbeat a          => REBALANCE_IN_PROGRESS
    join a               => a JOIN generation=2 leader=a protocol=range members=a,b
    ; b JOIN generation=2 leader=a protocol=range
    sync b
    sync a a=x b=y       => STORE Stable 2 a(x) b(y); a SYNC x; b SYNC y
    state Stable 2 a,b
"""

TWO_STATIC = TWO_STABLE.replace("join a v3", "join a v3 static=A").replace("join b v3", "join b v3 static=B")


def play(text: str, limits: GroupLimits | None = None) -> Script:
    script = Script(limits)
    script.play(text)
    return script


def two(text: str = "", limits: GroupLimits | None = None) -> Script:
    """Play on with two members, a leading, in generation 2."""
    script = play(TWO_STABLE, limits)
    script.play(text)
    return script


def two_static(text: str = "") -> Script:
    """Play on with two static members, a leading, in generation 2."""
    script = play(TWO_STATIC)
    script.play(text)
    return script


# -- joining


def test_a_new_member_is_told_its_id_first() -> None:
    play("""
        join a               => a JOIN MEMBER_ID_REQUIRED
        state Empty 0
        join a               => a JOIN generation=1 leader=a protocol=range members=a
    """)


def test_before_version_4_a_member_joins_at_once() -> None:
    play("join a v0            => a JOIN generation=1 leader=a protocol=range members=a")


def test_static_members_need_no_id() -> None:
    script = play("join a static=A      => a JOIN generation=1 leader=a protocol=range members=a")
    assert script.actors["a"].member_id == "A-1"


def test_two_members_share() -> None:
    script = two()
    assert script.actors["a"].member_id == "a-1"
    two_static()


def test_an_id_that_nobody_gave_out_is_unknown() -> None:
    play("join a id=thief      => a JOIN UNKNOWN_MEMBER_ID")
    two("join c id=thief      => c JOIN UNKNOWN_MEMBER_ID")
    play("join a static=A id=thief => a JOIN UNKNOWN_MEMBER_ID")


def test_an_id_given_out_expires_with_the_session_timeout() -> None:
    script = play("""
        join a session=10    => a JOIN MEMBER_ID_REQUIRED
        wait 10
        join a               => a JOIN UNKNOWN_MEMBER_ID
    """)
    assert script.group.deadline is None
    assert script.group.forgettable


@pytest.mark.parametrize("session", [5.999, 1800.001, -1, 0])
def test_session_timeouts_have_bounds(session: float) -> None:
    play(f"join a session={session} => a JOIN INVALID_SESSION_TIMEOUT")


def test_session_timeouts_at_their_bounds() -> None:
    for session in (6, 1800):
        play(f"join a v0 session={session} => a JOIN generation=1 leader=a protocol=range members=a")


@pytest.mark.parametrize("offer", ["type=connect", "only=sticky", "only=none"])
def test_inconsistent_protocols(offer: str) -> None:
    two(f"join c {offer}       => c JOIN INCONSISTENT_GROUP_PROTOCOL")
    two(f"join b {offer}       => b JOIN INCONSISTENT_GROUP_PROTOCOL")


def test_an_empty_group_takes_any_type_but_none() -> None:
    play("join a type=         => a JOIN INCONSISTENT_GROUP_PROTOCOL")
    play("join a only=none     => a JOIN INCONSISTENT_GROUP_PROTOCOL")
    play("""
        join a v3 type=connect => a JOIN generation=1 leader=a protocol=range members=a
        leave a                => STORE Empty 2; a LEAVE NONE NONE
        join b v3 type=consumer => b JOIN generation=3 leader=b protocol=range members=b
    """)


def test_the_protocol_most_members_like_best_wins_among_those_all_know() -> None:
    play("""
        join a v3 only=range,sticky       => a JOIN generation=1 leader=a protocol=range members=a
        join b v3 only=sticky,range
        join c v3 only=lag,sticky,range
        join a                            => a JOIN generation=2 leader=a protocol=sticky members=a,b,c
        ; b JOIN generation=2 leader=a protocol=sticky; c JOIN generation=2 leader=a protocol=sticky
    """)


def test_a_protocol_offered_twice_counts_once() -> None:
    play("""
        join a v3 only=range,range        => a JOIN generation=1 leader=a protocol=range members=a
        join b v3 only=range
        join a                            => a JOIN generation=2 leader=a protocol=range members=a,b
        ; b JOIN generation=2 leader=a protocol=range
    """)


def test_a_follower_that_joins_again_without_news_hears_of_the_current_generation() -> None:
    two("""
        join b               => b JOIN generation=2 leader=a protocol=range
        state Stable 2 a,b
        sync b               => b SYNC y
    """)


def test_a_leader_that_joins_again_wants_a_rebalance() -> None:
    two("""
        join a
        state PreparingRebalance 2 a,b
    """)


def test_new_metadata_makes_a_rebalance() -> None:
    two("""
        join b range=news
        state PreparingRebalance 2 a,b
    """)


def test_a_lost_join_answer_is_given_again_while_the_leader_assigns() -> None:
    play("""
        join a v3            => a JOIN generation=1 leader=a protocol=range members=a
        join a               => a JOIN generation=1 leader=a protocol=range members=a
        join a range=news    => a JOIN generation=2 leader=a protocol=range members=a
    """)


def test_a_member_that_asks_twice_is_answered_twice() -> None:
    two("""
        join b range=news
        join b               => b JOIN REBALANCE_IN_PROGRESS
        join a               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        sync b               => b SYNC REBALANCE_IN_PROGRESS
        sync a               => STORE Stable 3 a() b(); a SYNC (none); b SYNC (none)
    """)


# -- limits


def test_a_full_group() -> None:
    two(
        """
        join c               => c JOIN GROUP_MAX_SIZE_REACHED
        join c v3            => c JOIN GROUP_MAX_SIZE_REACHED
        join b               => b JOIN generation=2 leader=a protocol=range
        state Stable 2 a,b
    """,
        GroupLimits(size_max=2),
    )


def test_for_the_last_to_come_again_there_is_no_room() -> None:
    script = two()
    script.group.limits = GroupLimits(size_max=1)
    script.play("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a; b JOIN GROUP_MAX_SIZE_REACHED
    """)


def test_G6_a_storm_of_ids_that_are_never_used_is_bounded() -> None:
    script = Script(GroupLimits(size_max=10))
    for i in range(50):
        script.play(f"join c{i}            => c{i} JOIN MEMBER_ID_REQUIRED")
    assert len(script.group._pending) == 10
    script.play("""
        join c0              => c0 JOIN UNKNOWN_MEMBER_ID
        join c49             => c49 JOIN generation=1 leader=c49 protocol=range members=c49
        wait 100             => STORE Empty 2
        state Empty 2
    """)
    assert not script.group._pending


def test_metadata_has_a_limit() -> None:
    script = Script(GroupLimits(snapshot_bytes_max=1000))
    script.play(f"join a v3 range={'x' * 4000} => a JOIN GROUP_MAX_SIZE_REACHED")
    script.play(f"""
        join a v3 range={"x" * 1500} => a JOIN generation=1 leader=a protocol=range members=a
        join b v3 range={"x" * 3000} => b JOIN GROUP_MAX_SIZE_REACHED
        sync a                       => a SYNC UNKNOWN_SERVER_ERROR
        state PreparingRebalance 1 a
        join a range={"x" * 3000}    => a JOIN generation=2 leader=a protocol=range members=a
        join a range=x               => a JOIN generation=3 leader=a protocol=range members=a
        sync a a={"y" * 1000}        => a SYNC UNKNOWN_SERVER_ERROR
    """)
    assert script.group.snapshot().members[0].assignment == b"", "it is not kept"
    script.play("""
        join a                       => a JOIN generation=4 leader=a protocol=range members=a
        sync a a=y                   => STORE Stable 4 a(y); a SYNC y
    """)
    assert script.group._roster.bytes_held < 1000


def test_who_finds_no_room_leaves_nothing_behind() -> None:
    script = two(
        """
        join c               => c JOIN MEMBER_ID_REQUIRED
        join d               => d JOIN MEMBER_ID_REQUIRED
        join c
        join a
        join b
        join d               => d JOIN GROUP_MAX_SIZE_REACHED
    """,
        GroupLimits(size_max=3),
    )
    assert not script.group._pending


def test_G6_static_members_that_do_not_come_are_bounded() -> None:
    script = Script(GroupLimits(size_max=2))
    for i in range(3):
        script.step(f"join a{i} static=A{i}")
        script.step(f"join b{i} static=B{i}")
        script.step("wait 60")
    assert len(script.group._roster) <= 4


def test_many_empty_protocols_are_not_free() -> None:
    group = ClassicGroup("g", GroupLimits(snapshot_bytes_max=1000), now_ms=0)
    protocols = [JoinGroupRequestProtocol(name=str(i), metadata=b"") for i in range(1000)]
    request = JoinGroupRequest(
        group_id="g", session_timeout_ms=6000, member_id="", protocol_type="t", protocols=protocols
    )
    (reply,) = group.join(1, request, version=0, client=Client("c", ""), token="1", now=0, now_ms=0)
    assert isinstance(reply, Reply)
    assert reply.response.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED  # type: ignore[attr-defined]


# -- the rebalance


def test_the_first_rebalance_waits_for_its_delay_and_for_those_who_keep_coming() -> None:
    play(
        """
        join a v3
        wait 2
        join b v3
        wait 1
        join c v3
        wait 5.9
        heartbeat a id=a-1 generation=0 => REBALANCE_IN_PROGRESS
        wait 0.1             => a JOIN generation=1 leader=a protocol=range members=a,b,c
        ; b JOIN generation=1 leader=a protocol=range; c JOIN generation=1 leader=a protocol=range
    """,
        GroupLimits(initial_rebalance_delay_ms=3000),
    )


def test_the_initial_delay_ends_with_the_rebalance_timeout() -> None:
    play(
        """
        join a v3 rebalance=5
        wait 2
        join b v3 rebalance=5
        wait 2
        join c v3 rebalance=5
        wait 1       => a JOIN generation=1 leader=a protocol=range members=a,b,c
        ; b JOIN generation=1 leader=a protocol=range; c JOIN generation=1 leader=a protocol=range
    """,
        GroupLimits(initial_rebalance_delay_ms=3000),
    )


def test_everybody_leaves_during_the_initial_delay() -> None:
    play(
        """
        join a v3
        leave a id=a-1       => a JOIN UNKNOWN_MEMBER_ID; a LEAVE NONE NONE
        wait 3               => STORE Empty 1
        state Empty 1
    """,
        GroupLimits(initial_rebalance_delay_ms=3000),
    )


def test_G6_who_does_not_join_in_time_is_out() -> None:
    two("""
        join a
        wait 40
        heartbeat b          => REBALANCE_IN_PROGRESS
        wait 20              => a JOIN generation=3 leader=a protocol=range members=a
        heartbeat b          => UNKNOWN_MEMBER_ID
    """)


def test_G6_the_leader_does_not_join_in_time() -> None:
    two("""
        join b range=news
        wait 40
        heartbeat a          => REBALANCE_IN_PROGRESS
        wait 20              => b JOIN generation=3 leader=b protocol=range members=b
    """)


def test_G6_a_static_member_that_does_not_join_in_time_stays_for_its_session() -> None:
    two_static("""
        join b range=news
        wait 40
        heartbeat a          => REBALANCE_IN_PROGRESS
        wait 20              => b JOIN generation=3 leader=b protocol=range members=a,b
        sync b a=x b=y       => STORE Stable 3 a(x) b(y); b SYNC y
        wait 44
        heartbeat b          => NONE
        wait 2
        heartbeat b          => REBALANCE_IN_PROGRESS
        state PreparingRebalance 3 b
    """)


def test_a_rebalance_that_nobody_joins_waits_for_the_sessions_of_static_members() -> None:
    two_static("""
        leave b              => b LEAVE NONE NONE
        wait 44
        heartbeat a          => REBALANCE_IN_PROGRESS
        wait 40
        heartbeat a          => REBALANCE_IN_PROGRESS
        state PreparingRebalance 2 a
        wait 45              => STORE Empty 3
    """)


def test_G6_a_rebalance_waits_for_an_id_just_given_out() -> None:
    two("""
        join c               => c JOIN MEMBER_ID_REQUIRED
        join a
        join b range=news
        wait 1
        join c               => a JOIN generation=3 leader=a protocol=range members=a,b,c
        ; b JOIN generation=3 leader=a protocol=range; c JOIN generation=3 leader=a protocol=range
    """)


def test_G6_but_not_longer_than_the_session_of_that_id() -> None:
    two("""
        join c session=10    => c JOIN MEMBER_ID_REQUIRED
        join a
        join b
        wait 10              => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
    """)


def test_G6_a_leader_that_never_syncs_is_out() -> None:
    """KAFKA-9752: it sends heartbeats, but no assignment."""
    two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        wait 40
        heartbeat a          => NONE
        wait 20              => b SYNC REBALANCE_IN_PROGRESS
        heartbeat a          => UNKNOWN_MEMBER_ID
        join b               => b JOIN generation=4 leader=b protocol=range members=b
    """)


def test_G6_a_follower_that_never_syncs_is_out() -> None:
    two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync a a=x b=y       => STORE Stable 3 a(x) b(y); a SYNC x
        wait 40
        heartbeat a          => NONE
        heartbeat b          => NONE
        wait 20
        state PreparingRebalance 3 a
        heartbeat b          => UNKNOWN_MEMBER_ID
    """)


def test_who_is_out_is_told_of_with_the_timeout_it_has_missed() -> None:
    polls = "max.poll.interval.ms of its consumer"
    script = two("""
        join a
        wait 60              => a JOIN generation=3 leader=a protocol=range members=a
    """)
    assert script.expelled == [("b", "no heartbeat for 45000 ms: session.timeout.ms")]
    script = two("""
        join a
        wait 40
        heartbeat b          => REBALANCE_IN_PROGRESS
        wait 20              => a JOIN generation=3 leader=a protocol=range members=a
        wait 60              => STORE Empty 4
    """)
    assert script.expelled[:1] == [("b", f"did not rejoin within 60000 ms: {polls}")]
    script = two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync a a=x b=y       => STORE Stable 3 a(x) b(y); a SYNC x
        wait 40
        heartbeat a          => NONE
        heartbeat b          => NONE
        wait 20
    """)
    assert script.expelled == [("b", f"did not sync within 60000 ms: {polls}")]
    left = two("leave b              => b LEAVE NONE NONE")
    assert not left.expelled, "who leaves is not expelled"


def test_G6_a_rebalance_that_nobody_joins_does_not_spin() -> None:
    script = play("""
        join a v3 static=A rebalance=0   => a JOIN generation=1 leader=a protocol=range members=a
        sync a                           => STORE Stable 1 a(); a SYNC (none)
    """)
    script.group.rebalance("because", script.now, script.now_ms)
    script.play("""
        wait 44
        state PreparingRebalance 1 a
        wait 2                           => STORE Empty 2
    """)


def test_G6_everybody_vanishes() -> None:
    two("""
        wait 45              => STORE Empty 3
        state Empty 3
    """)


def test_G6_a_first_join_ends_some_time() -> None:
    """Its client may be gone, and without an id it can send no heartbeat."""
    play("""
        join a v3 rebalance=1000 session=1800 => a JOIN generation=1 leader=a protocol=range members=a
        jump 1
        join b v3 session=6
        wait 1
        heartbeat b id=b-2 generation=1       => REBALANCE_IN_PROGRESS
        wait 298
        wait 1                                => b JOIN UNKNOWN_MEMBER_ID
        state PreparingRebalance 1 a
    """)


def test_who_waits_for_a_rebalance_needs_no_heartbeats() -> None:
    two("""
        join a rebalance=300 range=news
        wait 40
        heartbeat b          => REBALANCE_IN_PROGRESS
        wait 19
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
    """)


def test_operators_may_ask_for_a_rebalance() -> None:
    script = two()
    assert script.group.rebalance("because", script.now, script.now_ms) == []
    script.play("state PreparingRebalance 2 a,b")
    assert script.group.timeline.rebalances[-1].reason == "because"


# -- sync


def test_sync_of_the_wrong_generation_or_protocol() -> None:
    two("""
        sync a generation=1       => a SYNC ILLEGAL_GENERATION
        sync a generation=3       => a SYNC ILLEGAL_GENERATION
        sync a id=thief           => a SYNC UNKNOWN_MEMBER_ID
        sync a type=connect       => a SYNC INCONSISTENT_GROUP_PROTOCOL
        sync a protocol=sticky    => a SYNC INCONSISTENT_GROUP_PROTOCOL
        sync a type=test protocol=range => a SYNC x
        join a
        sync b                    => b SYNC REBALANCE_IN_PROGRESS
    """)


def test_G2_the_assignment_is_stored_before_anybody_hears_of_it() -> None:
    script = two()
    snapshot = script.stored[-1]
    assert snapshot == GroupSnapshot(
        group_id="g",
        protocol_type="test",
        generation=2,
        protocol="range",
        leader="a-1",
        state_timestamp_ms=NOW_MS,
        members=(
            MemberSnapshot("a-1", None, "a", "/h", 60_000, 45_000, b"a", b"x"),
            MemberSnapshot("b-2", None, "b", "/h", 60_000, 45_000, b"b", b"y"),
        ),
    )
    assert script.group.snapshot() == snapshot


def test_the_leader_forgets_one_and_assigns_to_a_stranger() -> None:
    play("""
        join a v3            => a JOIN generation=1 leader=a protocol=range members=a
        sync a stranger=x    => STORE Stable 1 a(); a SYNC (none)
    """)


def test_a_rebalance_calls_back_those_who_wait_for_the_leader() -> None:
    two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        join c v3            => b SYNC REBALANCE_IN_PROGRESS
        sync a a=x           => a SYNC REBALANCE_IN_PROGRESS
    """)


# -- heartbeats and leaving


def test_G1_heartbeats_are_checked() -> None:
    play("heartbeat a id=nobody generation=0 => UNKNOWN_MEMBER_ID")
    two_static("""
        heartbeat a                   => NONE
        heartbeat a generation=1      => ILLEGAL_GENERATION
        heartbeat a generation=3      => ILLEGAL_GENERATION
        heartbeat a id=thief          => FENCED_INSTANCE_ID
        heartbeat a static=C          => UNKNOWN_MEMBER_ID
        heartbeat a static=B          => FENCED_INSTANCE_ID
    """)
    two("""
        heartbeat a id=thief          => UNKNOWN_MEMBER_ID
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        heartbeat a                   => NONE
        heartbeat a generation=2      => ILLEGAL_GENERATION
    """)


def test_heartbeats_keep_a_session() -> None:
    two("""
        wait 44
        heartbeat a          => NONE
        wait 2
        state PreparingRebalance 2 a
        join a               => a JOIN generation=3 leader=a protocol=range members=a
    """)


def test_asking_again_keeps_a_session_too() -> None:
    two("""
        wait 44
        join b               => b JOIN generation=2 leader=a protocol=range
        wait 2
        state PreparingRebalance 2 b
    """)
    two("""
        wait 44
        sync b               => b SYNC y
        wait 2
        state PreparingRebalance 2 b
    """)


def test_leaving_one_by_one() -> None:
    two("""
        leave a v1           => a LEAVE NONE
        state PreparingRebalance 2 b
        join b               => b JOIN generation=3 leader=b protocol=range members=b
        leave b v0           => STORE Empty 4; b LEAVE NONE
        leave b v0           => b LEAVE UNKNOWN_MEMBER_ID
    """)


def test_leaving_together() -> None:
    two_static("""
        join c v3
        leave a,b,nobody,b   => c JOIN generation=3 leader=c protocol=range members=c
        ; a LEAVE NONE NONE NONE UNKNOWN_MEMBER_ID UNKNOWN_MEMBER_ID
    """)


def test_an_operator_removes_a_static_member() -> None:
    two_static("""
        leave x id= static=B => x LEAVE NONE NONE
        state PreparingRebalance 2 a
        leave x id= static=C => x LEAVE NONE UNKNOWN_MEMBER_ID
        leave x id=          => x LEAVE NONE UNKNOWN_MEMBER_ID
        leave a id=other     => a LEAVE NONE FENCED_INSTANCE_ID
    """)


def test_leaving_with_an_id_that_was_never_used() -> None:
    two("""
        join c               => c JOIN MEMBER_ID_REQUIRED
        join a
        join b
        leave c              => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range; c LEAVE NONE NONE
    """)
    two("""
        join c               => c JOIN MEMBER_ID_REQUIRED
        leave c              => c LEAVE NONE NONE
        state Stable 2 a,b
    """)


def test_who_leaves_while_it_waits_is_answered() -> None:
    two("""
        join b range=news
        leave b              => b JOIN UNKNOWN_MEMBER_ID; b LEAVE NONE NONE
    """)
    two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        leave b              => b SYNC UNKNOWN_MEMBER_ID; b LEAVE NONE NONE
    """)


# -- static members (KIP-345)


def test_G4_a_restarted_static_member_takes_its_place_back_without_a_rebalance() -> None:
    script = two_static("""
        join b2 v8 static=B  => STORE Stable 2 a(x) b2(y); b2 JOIN generation=2 leader=a protocol=range
        sync b2              => b2 SYNC y
        heartbeat b          => FENCED_INSTANCE_ID
        commit b             => FENCED_INSTANCE_ID
        sync b               => b SYNC FENCED_INSTANCE_ID
        join b               => b JOIN FENCED_INSTANCE_ID
        leave b              => b LEAVE NONE FENCED_INSTANCE_ID
        heartbeat b2         => NONE
        state Stable 2 a,b2
    """)
    assert at_once(script.group.describe_classic()).members[1].client_id == "b2"


def test_G4_a_restarted_static_leader_is_told_not_to_assign() -> None:
    """Before KIP-814 it hears that its old self leads; with it, that it leads but may skip the assignment."""
    two_static("""
        join a2 v8 static=A  => STORE Stable 2 b(y) a2(x); a2 JOIN generation=2 leader=a protocol=range
        sync a2              => a2 SYNC x
    """)
    two_static("""
        join a2 v9 static=A  => STORE Stable 2 b(y) a2(x)
        ; a2 JOIN generation=2 leader=a2 protocol=range members=b,a2 skip
        sync a2              => a2 SYNC x
        join a2
        state PreparingRebalance 2 b,a2
    """)


def test_G4_the_replacement_is_persisted() -> None:
    two_static("""
        join b2 static=B     => STORE Stable 2 a(x) b2(y); b2 JOIN generation=2 leader=a protocol=range
        restart
        heartbeat b          => FENCED_INSTANCE_ID
        heartbeat b2         => NONE
        sync b2              => b2 SYNC y
    """)


def test_G4_a_replacement_that_changes_the_protocol_makes_a_rebalance() -> None:
    play("""
        join a v3 static=A only=range,sticky => a JOIN generation=1 leader=a protocol=range members=a
        sync a a=x                           => STORE Stable 1 a(x); a SYNC x
        join a2 static=A only=sticky,range   => a2 JOIN generation=2 leader=a2 protocol=sticky members=a2
    """)


def test_G4_a_replacement_while_the_leader_assigns_makes_a_rebalance() -> None:
    two_static("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        join b2 static=B     => b SYNC FENCED_INSTANCE_ID
        sync a a=x b=y       => a SYNC REBALANCE_IN_PROGRESS
        join a               => a JOIN generation=4 leader=a protocol=range members=a,b2
        ; b2 JOIN generation=4 leader=a protocol=range
    """)


def test_G4_a_replacement_while_joining_fences_the_old_one() -> None:
    two_static("""
        join b range=news
        join b2 static=B     => b JOIN FENCED_INSTANCE_ID
        join a               => a JOIN generation=3 leader=a protocol=range members=a,b2
        ; b2 JOIN generation=3 leader=a protocol=range
    """)


def test_G4_a_replacement_waits_as_long_as_it_takes() -> None:
    """It is no new member, whose first join would have to end after five minutes."""
    play("""
        join a v3 session=1800           => a JOIN generation=1 leader=a protocol=range members=a
        join c static=C rebalance=1000
        wait 299
        join c2 static=C rebalance=1000  => c JOIN FENCED_INSTANCE_ID
        wait 10
        join a                           => a JOIN generation=2 leader=a protocol=range members=a,c2
        ; c2 JOIN generation=2 leader=a protocol=range
    """)


def test_G4_a_replacement_has_to_sync_like_the_old_one() -> None:
    script = two_static("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync a a=x b=y       => STORE Stable 3 a(x) b(y); a SYNC x
        join b2 static=B     => STORE Stable 3 a(x) b2(y); b2 JOIN generation=3 leader=a protocol=range
        wait 40
        heartbeat a          => NONE
        heartbeat b2         => NONE
        wait 20
        state PreparingRebalance 3 a
    """)
    assert "B-6 did not sync" in script.group.timeline.rebalances[-1].reason


def test_a_static_member_may_not_use_an_id_given_to_a_dynamic_one() -> None:
    play("""
        join a               => a JOIN MEMBER_ID_REQUIRED
        join a static=A      => a JOIN UNKNOWN_MEMBER_ID
    """)


# -- commits


def test_G1_commits_are_checked() -> None:
    play("commit x id= generation=-1        => NONE")
    play("commit x id=nobody generation=0   => UNKNOWN_MEMBER_ID")
    two("""
        commit a                      => NONE
        commit a generation=1         => ILLEGAL_GENERATION
        commit a generation=-1        => ILLEGAL_GENERATION
        commit a id=thief             => UNKNOWN_MEMBER_ID
        commit x id= generation=-1    => UNKNOWN_MEMBER_ID
        commit x id= generation=-1 transactional => NONE
        join a
        commit b                      => NONE
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        commit b                      => REBALANCE_IN_PROGRESS
        commit b transactional        => NONE
        wait 60                       => STORE Empty 4
        commit x id= generation=-1    => NONE
        commit b                      => UNKNOWN_MEMBER_ID
    """)


def test_a_commit_counts_as_a_heartbeat() -> None:
    two("""
        wait 44
        commit a             => NONE
        commit b             => NONE
        wait 44
        state Stable 2 a,b
    """)


# -- time


def test_a_clock_that_jumps_ends_sessions_at_once() -> None:
    two("""
        jump 100000          => STORE Empty 3
        state Empty 3
    """)


def test_a_clock_that_jumps_ends_a_rebalance_as_if_it_had_run() -> None:
    """The rebalance timeout comes before the end of the newcomer's first join: it is answered, not expelled."""
    two("""
        join c v3
        join a
        jump 100000          => a JOIN generation=3 leader=a protocol=range members=a,c
        ; c JOIN generation=3 leader=a protocol=range
    """)


def test_a_clock_that_stands_still_changes_nothing() -> None:
    script = two()
    for _ in range(3):
        assert script.group.on_alarm(0.0, NOW_MS) == []
    assert script.group.deadline == 45.0


@pytest.mark.parametrize("rebalance", [0, -1, 0.001])
def test_silly_rebalance_timeouts_end(rebalance: float) -> None:
    script = Script()
    script.play(f"""
        join a v3 static=A rebalance={rebalance} => a JOIN generation=1 leader=a protocol=range members=a
        join b v3 static=B rebalance={rebalance}
    """)
    for _ in range(2000):
        if script.group.state is GroupState.EMPTY:
            return
        script.step("wait 0.1")
    pytest.fail("the rebalance does not end")


# -- the end


def test_a_dead_group_knows_nobody() -> None:
    two("""
        join a
        resign               => a JOIN NOT_COORDINATOR
        join a               => a JOIN COORDINATOR_NOT_AVAILABLE
        sync a               => a SYNC COORDINATOR_NOT_AVAILABLE
        heartbeat a          => COORDINATOR_NOT_AVAILABLE
        leave a              => a LEAVE COORDINATOR_NOT_AVAILABLE
        commit a             => COORDINATOR_NOT_AVAILABLE
        delete               => GROUP_ID_NOT_FOUND
        wait 1000
    """)


def test_everybody_who_waits_hears_of_the_end() -> None:
    two("""
        join a
        join b               => a JOIN generation=3 leader=a protocol=range members=a,b
        ; b JOIN generation=3 leader=a protocol=range
        sync b
        resign               => b SYNC NOT_COORDINATOR
    """)


def test_only_an_empty_group_can_be_deleted() -> None:
    two("""
        delete               => NON_EMPTY_GROUP
        leave a,b            => STORE Empty 3; a LEAVE NONE NONE NONE
        delete               => STORE tombstone
        join a               => a JOIN COORDINATOR_NOT_AVAILABLE
    """)


def test_a_restored_group_goes_on() -> None:
    script = two("""
        wait 40
        heartbeat a          => NONE
        heartbeat b          => NONE
        wait 40
        restart
        state Stable 2 a,b
        wait 44
        heartbeat a          => NONE
        heartbeat b          => NONE
        sync b               => b SYNC y
        join b               => b JOIN generation=2 leader=a protocol=range
        wait 45              => STORE Empty 3
        restart
        state Empty 3
        join c v3            => c JOIN generation=4 leader=c protocol=range members=c
    """)
    assert script.group.snapshot().leader == "c-5"


def test_a_restored_group_keeps_its_leader() -> None:
    two_static("""
        join b range=news
        wait 40
        heartbeat a          => REBALANCE_IN_PROGRESS
        wait 20              => b JOIN generation=3 leader=b protocol=range members=a,b
        sync b a=x b=y       => STORE Stable 3 a(x) b(y); b SYNC y
        restart
        join b
        state PreparingRebalance 3 a,b
    """)


def test_what_is_stored_is_not_forgettable() -> None:
    script = two("leave a,b            => STORE Empty 3; a LEAVE NONE NONE NONE")
    assert not script.group.forgettable


def test_a_restored_group_without_a_leader_chooses_one() -> None:
    script = two()
    snapshot = script.group.snapshot()
    group = ClassicGroup.restore(
        GroupSnapshot("g", "test", 2, "range", None, -1, snapshot.members), GroupLimits(), now=0
    )
    assert group.snapshot().leader == "a-1"


# -- seen from outside


def test_describe_shows_metadata_while_it_holds() -> None:
    script = two_static()
    described = at_once(script.group.describe_classic())
    assert (described.group_state, described.protocol_type, described.protocol_data) == ("Stable", "test", "range")
    first = described.members[0]
    assert (first.member_id, first.group_instance_id, first.client_id, first.client_host) == ("A-1", "A", "a", "/h")
    assert (bytes(first.member_metadata), bytes(first.member_assignment)) == (b"a", b"x")
    script.play("join a")
    described = at_once(script.group.describe_classic())
    assert (described.group_state, described.protocol_data) == ("PreparingRebalance", "")
    assert {bytes(each.member_metadata) + bytes(each.member_assignment) for each in described.members} == {b""}
    listed = script.group.listing()
    assert (listed.group_id, listed.protocol_type, listed.group_state, listed.group_type) == (
        "g",
        "test",
        "PreparingRebalance",
        "classic",
    )


def test_G5_offsets_age_only_while_nobody_is_there() -> None:
    script = Script()

    def empty_since_ms() -> int | None:
        return script.group.empty_since_ms

    assert empty_since_ms() == 0, "offsets only: they age by their commit"
    script.play("join a               => a JOIN MEMBER_ID_REQUIRED")
    assert empty_since_ms() is None, "somebody is coming"
    script.play("join a               => a JOIN generation=1 leader=a protocol=range members=a")
    assert empty_since_ms() is None
    script.play("sync a               => STORE Stable 1 a(); a SYNC (none)")
    assert empty_since_ms() is None
    script.play("join b v3")
    assert empty_since_ms() is None
    script.play("wait 45              => b JOIN generation=2 leader=b protocol=range members=b")
    script.play("wait 60              => STORE Empty 3")
    assert empty_since_ms() == NOW_MS + 90_000
    script.play("restart")
    assert empty_since_ms() == NOW_MS + 90_000
    assert not script.group.forgettable


def test_offsets_of_subscribed_topics_cannot_be_deleted() -> None:
    # ConsumerProtocolSubscription v0: one topic "t", no user data
    subscription = b"\0\0\0\0\0\1\0\1t\xff\xff\xff\xff"
    request = JoinGroupRequest(
        group_id="g",
        session_timeout_ms=6000,
        member_id="",
        protocol_type="consumer",
        protocols=[
            JoinGroupRequestProtocol(name="range", metadata=subscription),
            JoinGroupRequestProtocol(name="other", metadata=b"?"),
        ],
    )
    group = ClassicGroup("g", GroupLimits(), now_ms=0)
    assert group.check_offset_delete() == frozenset()
    group.join(1, request, version=0, client=Client("c", ""), token="1", now=0, now_ms=0)
    assert group.check_offset_delete() == {"t"}
    group.resign()
    with pytest.raises(KafkaError) as raised:
        group.check_offset_delete()
    assert raised.value.code is ErrorCode.GROUP_ID_NOT_FOUND
    with pytest.raises(KafkaError) as raised:
        two().group.check_offset_delete()
    assert raised.value.code is ErrorCode.NON_EMPTY_GROUP


def test_before_version_1_the_session_timeout_bounds_the_rebalance_too() -> None:
    request = JoinGroupRequest(
        group_id="g",
        session_timeout_ms=7000,
        member_id="",
        protocol_type="t",
        protocols=[JoinGroupRequestProtocol(name="p", metadata=b"")],
    )
    group = ClassicGroup("g", GroupLimits(), now_ms=0)
    group.join(1, request, version=0, client=Client("", ""), token="1", now=0, now_ms=0)
    assert group.snapshot().members[0].rebalance_timeout_ms == 7000
