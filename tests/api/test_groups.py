"""FindCoordinator and the classic group protocol, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_admin import DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestGroup
from kafka_wire.messages.groups import LeaveGroupRequest, MemberIdentity, SyncGroupRequest
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kbroker.api.groups import TOPIC_WAIT_S
from kbroker.coordinators import leading
from kbroker.coordinators.routing import partition_of
from kbroker.replication.manager import ReplicaManager
from kbroker.testing.broker import Machine, memory_broker
from tests.api.group_tools import beat, commit, committed, enter, find, join, join_request, leave, sync
from tests.api.test_produce import batch, produce

JOIN_ID = ErrorCode.MEMBER_ID_REQUIRED


async def state(client: Any, group: str) -> str:
    return str((await client.call(DescribeGroupsRequest(groups=[group]), 5)).groups[0].group_state)


# -- FindCoordinator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(7))
async def test_find_coordinator_makes_the_topic_and_names_this_broker(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        found = await find(client, "g", version=version)
        if version >= 4:
            assert [each.key for each in found.coordinators] == ["g"]
            found = found.coordinators[0]
        assert (found.error_code, found.node_id, found.host, found.port) == (0, 1, "127.0.0.1", broker.port)
        topics = (await client.call(MetadataRequest(topics=None), 12)).topics
        assert [(t.name, t.is_internal, len(t.partitions)) for t in topics] == [("__consumer_offsets", True, 50)]
        joined = await join(client, "g", version=0)  # at once: it is led by now
        assert joined.error_code == 0


async def test_find_coordinator_answers_each_key_of_a_batch() -> None:
    async with memory_broker() as broker, broker.client() as client:
        found = (await find(client, "a", "b", "")).coordinators
        assert [(each.key, each.error_code, each.node_id) for each in found] == [("a", 0, 1), ("b", 0, 1), ("", 0, 1)]
        found = (await find(client, "tx", key_type=1)).coordinators[0]
        assert (found.error_code, found.node_id, found.host, found.port) == (0, 1, "127.0.0.1", broker.port)
        found = (await find(client, "share", key_type=2)).coordinators[0]
        assert (found.error_code, found.node_id) == (ErrorCode.INVALID_REQUEST, -1) and found.error_message
        assert (await find(client, "x", key_type=7, version=3)).error_code == ErrorCode.INVALID_REQUEST


async def test_a_coordinator_is_named_with_the_words_of_kafka() -> None:
    async with memory_broker() as broker, broker.client() as client:
        assert [(await find(client, "g", version=version)).error_message for version in (1, 3)] == ["NONE", "NONE"]
        assert (await find(client, "g", version=6)).coordinators[0].error_message == ""


async def test_a_refused_join_names_no_protocol() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await find(client, "g")
        for version, none in ((0, ""), (6, ""), (7, None), (9, None)):
            refused = await client.call(join_request("g", session_timeout_ms=1), version)
            assert (refused.error_code, refused.protocol_name) == (ErrorCode.INVALID_SESSION_TIMEOUT, none)
        given_id = await client.call(join_request("g"), 9)
        assert (given_id.error_code, given_id.protocol_name) == (JOIN_ID, None)


async def test_a_sync_without_protocols_is_told_of_them_first() -> None:
    async with memory_broker() as broker, broker.client() as client:
        request = SyncGroupRequest(group_id="", generation_id=0, member_id="", assignments=[])
        assert (await client.call(request, 5)).error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert (await client.call(request, 4)).error_code == ErrorCode.INVALID_GROUP_ID


async def test_many_at_once_make_one_topic() -> None:
    async with memory_broker(config={"offsets.topic.num.partitions": "4"}) as broker:
        async with trio.open_nursery() as nursery:

            async def ask(n: int) -> None:
                async with broker.client() as client:
                    assert (await find(client, f"g{n}", version=3)).error_code == 0

            for n in range(8):
                nursery.start_soon(ask, n)


async def test_a_coordinator_is_not_waited_for_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic is made, but its partitions are never here."""
    async with memory_broker() as broker, broker.client() as client:
        monkeypatch.setattr(ReplicaManager, "wait_applied", lambda self: trio.sleep_forever())
        begun = trio.current_time()
        assert (await find(client, "g")).error_code == 0
        assert TOPIC_WAIT_S <= trio.current_time() - begun <= TOPIC_WAIT_S + 1


async def test_a_group_request_before_the_topic_is_there() -> None:
    async with memory_broker() as broker, broker.client() as client:
        first = await client.call(join_request("g"), 9)
        assert first.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        with trio.fail_after(5):
            while (await client.call(join_request("g"), 9)).error_code != JOIN_ID:
                await trio.lowlevel.checkpoint()


async def test_metadata_makes_the_topic_as_the_coordinator_would_and_nobody_writes_to_it() -> None:
    async with memory_broker(config={"offsets.topic.num.partitions": "3"}) as broker, broker.client() as client:
        asked = MetadataRequest(topics=[MetadataRequestTopic(name="__consumer_offsets")])
        topic = (await client.call(asked, 12)).topics[0]
        assert (topic.error_code, len(topic.partitions), topic.is_internal) == (0, 3, True)
        refused = await produce(client, batch(b"x"), topic="__consumer_offsets")
        assert refused.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


# -- the classic protocol ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(10))
async def test_join_sync_heartbeat_leave(version: int) -> None:
    async with memory_broker() as broker, broker.client("app") as client:
        await find(client, "g")
        if version >= 4:
            first = await client.call(join_request("g"), version)
            assert first.error_code == JOIN_ID and first.member_id.startswith("app-")
        joined = await join(client, "g", version=version)
        assert (joined.error_code, joined.generation_id, joined.protocol_name) == (0, 1, "range")
        assert joined.leader == joined.member_id and [m.member_id for m in joined.members] == [joined.member_id]
        synced = await sync(client, "g", joined, {joined.member_id: b"mine"}, version=min(version, 5))
        assert (synced.error_code, bytes(synced.assignment)) == (0, b"mine")
        assert await beat(client, "g", joined, version=min(version, 4)) == 0
        left = await leave(client, "g", joined, version=min(version, 5))
        assert left.error_code == 0 and all(m.error_code == 0 for m in left.members)
        assert await beat(client, "g", joined) == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_rebalance_of_two_members_waits_for_both() -> None:
    async with memory_broker() as broker, broker.client("a") as one, broker.client("b") as two:
        await find(one, "g")
        first = await enter(one, "g")
        answers: dict[str, Any] = {}

        async def come_in() -> None:
            answers["two"] = await join(two, "g")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_in)
            with trio.fail_after(5):
                while await beat(one, "g", first) != ErrorCode.REBALANCE_IN_PROGRESS:
                    await trio.lowlevel.checkpoint()
            assert "two" not in answers
            again = await one.call(join_request("g", first.member_id), 9)
        assert again.generation_id == answers["two"].generation_id == 2
        assert len(again.members) == 2 and not answers["two"].members
        ids = [m.member_id for m in again.members]

        async def follow() -> None:
            answers["assigned"] = await sync(two, "g", answers["two"], {})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await sync(one, "g", again, {each: each.encode() for each in ids})
        assert bytes(answers["assigned"].assignment) == answers["two"].member_id.encode()


async def test_G6_a_vanished_connection_breaks_nothing(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker, broker.client("a") as one:
        await find(one, "g")
        first = await enter(one, "g", rebalance_timeout_ms=6000, session_timeout_ms=6000)
        async with broker.client("b") as two:
            given = await two.call(join_request("g", session_timeout_ms=6000, rebalance_timeout_ms=6000), 9)
            await two.send(join_request("g", given.member_id, session_timeout_ms=6000, rebalance_timeout_ms=6000), 9)
            with trio.fail_after(5):
                while await beat(one, "g", first) != ErrorCode.REBALANCE_IN_PROGRESS:
                    await trio.lowlevel.checkpoint()
        # It is gone. The rebalance goes on with it, and its session ends it.
        again = await one.call(join_request("g", first.member_id, session_timeout_ms=6000), 9)
        assert (again.error_code, again.generation_id) == (0, 2)
        assert (await sync(one, "g", again, {again.member_id: b"x"})).error_code == 0
        await trio.sleep(5)
        assert await beat(one, "g", again) == 0
        await trio.sleep(4)  # the other one has not synchronised for 9 seconds
        assert await beat(one, "g", again) == ErrorCode.REBALANCE_IN_PROGRESS


@pytest.mark.parametrize("version", range(6))
async def test_G1_leave_of_a_stranger(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await find(client, "g")
        request = LeaveGroupRequest(group_id="g", member_id="x", members=[MemberIdentity(member_id="x")])
        left = await client.call(request, version)
        codes = [left.error_code] if version < 3 else [m.error_code for m in left.members]
        assert codes == [ErrorCode.UNKNOWN_MEMBER_ID]


async def test_G1_stale_generations_have_no_effect() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        assert await commit(client, "g", 5, joined=joined) == 0
        joined.generation_id = 7
        assert await beat(client, "g", joined) == ErrorCode.ILLEGAL_GENERATION
        assert (await sync(client, "g", joined, {})).error_code == ErrorCode.ILLEGAL_GENERATION
        assert await commit(client, "g", 9, joined=joined) == ErrorCode.ILLEGAL_GENERATION
        assert await commit(client, "g", 9) == ErrorCode.UNKNOWN_MEMBER_ID
        assert await committed(client, "g") == (5, "", 0)


async def test_names_of_groups() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        assert (await client.call(join_request(""), 9)).error_code == ErrorCode.INVALID_GROUP_ID
        assert (await client.call(join_request("ä" * 16_383), 9)).error_code == JOIN_ID
        assert await commit(client, "", 3) == 0  # Kafka allows it to those who only commit
        assert await committed(client, "") == (3, "", 0)
        assert (await join(client, "gräßlich/../\N{SNOWMAN} ")).error_code == 0
        for name in ("x" * 10_000_000, "ä" * 16_384):  # no string: a request that is not the protocol, as in Kafka
            async with broker.client() as other:
                with pytest.raises(trio.EndOfChannel):
                    await other.call(join_request(name), 9)


async def test_members_that_never_come_back_leave_nothing(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await find(client, "g")
        for n in range(50):
            assert (await client.call(join_request(f"g{n}"), 9)).error_code == JOIN_ID
            assert await beat(client, f"h{n}", await client.call(join_request(f"g{n}"), 9)) != 0
        assert await state(client, "g7") == "Empty"
        await trio.sleep(11)
        assert await state(client, "g7") == "Dead"


# -- restarts ---------------------------------------------------------------------------------------------------------


async def test_G2_members_and_offsets_survive_a_restart() -> None:
    machine = Machine()
    topics = {"t": 1}
    async with memory_broker(topics=topics, machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g", assignment=b"mine")
        static = await enter(client, "s", group_instance_id="host-1")
        assert await commit(client, "g", 42, joined=joined, metadata="note") == 0
    async with memory_broker(topics=topics, machine=machine) as broker, broker.client() as client:
        with trio.fail_after(5):
            while await state(client, "g") != "Stable":
                await trio.lowlevel.checkpoint()
        assert await beat(client, "g", joined) == 0
        assert await committed(client, "g") == (42, "note", 0)
        again = await sync(client, "g", joined, {})
        assert (again.error_code, bytes(again.assignment)) == (0, b"mine")
        # G4: the same instance, started again, gets its assignment back under a new id.
        back = await client.call(join_request("s", group_instance_id="host-1"), 9)
        assert (back.error_code, back.generation_id) == (0, static.generation_id)
        assert back.member_id != static.member_id
    async with memory_broker(topics=topics, machine=machine) as broker, broker.client() as client:
        with trio.fail_after(5):
            while await state(client, "s") != "Stable":  # its partition may still be read
                await trio.lowlevel.checkpoint()
        assert await committed(client, "g") == (42, "note", 0)
        described = (await client.call(DescribeGroupsRequest(groups=["s"]), 5)).groups[0]
        assert [m.member_id for m in described.members] == [back.member_id]


async def test_silent_members_are_gone_after_a_restart(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        while await state(client, "g") != "Stable":  # it loads
            await trio.sleep(0.01)
        await trio.sleep(11)
        assert await state(client, "g") == "Empty"
        assert await beat(client, "g", joined) == ErrorCode.UNKNOWN_MEMBER_ID


async def test_G3_what_members_hear_while_the_coordinator_loads(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, gate, replay = Machine(), trio.Event(), leading.replay

    async def slow(*arguments: Any) -> Any:
        await gate.wait()
        return await replay(*arguments)

    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        assert await commit(client, "g", 5, joined=joined) == 0
    monkeypatch.setattr(leading, "replay", slow)
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        loading = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        assert await beat(client, "g", joined) == 0
        assert (await sync(client, "g", joined, {})).error_code == ErrorCode.REBALANCE_IN_PROGRESS
        assert (await client.call(join_request("g"), 9)).error_code == loading
        assert await commit(client, "g", 6, joined=joined) == loading
        asked = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g", topics=None)])
        assert (await client.call(asked, 8)).groups[0].error_code == loading
        assert (await client.call(DescribeGroupsRequest(groups=["g"]), 5)).groups[0].error_code == loading
        assert (await client.call(ListGroupsRequest(), 4)).error_code == loading
        gate.set()
        await trio.sleep(2)
        assert await beat(client, "g", joined) == 0
        assert await committed(client, "g") == (5, "", 0)
        assert (await client.call(ListGroupsRequest(), 4)).error_code == 0


async def test_G3_what_members_hear_while_the_coordinator_cannot_load(autojump_clock: MockClock) -> None:
    """Not to wait, as that may take for ever; who lists the groups sees those of the other partitions."""
    machine = Machine()
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        for group in ("g", "h"):
            await find(client, group)
            joined = await enter(client, group)
            assert await commit(client, group, 5, joined=joined) == 0
    machine.disk.fail("pread", f"__consumer_offsets-{partition_of('g', 50)}/*.log", times=1_000_000)
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        await trio.sleep(100)
        assert await beat(client, "g", joined) == ErrorCode.NOT_COORDINATOR
        assert (await client.call(join_request("g"), 9)).error_code == ErrorCode.NOT_COORDINATOR
        assert await commit(client, "g", 6, joined=joined) == ErrorCode.NOT_COORDINATOR
        listed = await client.call(ListGroupsRequest(), 4)
        assert (listed.error_code, [group.group_id for group in listed.groups]) == (0, ["h"])
        machine.disk.heal()
        await trio.sleep(60)
        assert await committed(client, "g") == (5, "", 0)


async def test_a_lost_session_of_the_broker_ends_nobodys_membership(autojump_clock: MockClock) -> None:
    """The broker registers again, in a new leader epoch: its coordinator starts over from the log."""
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        assert await commit(client, "g", 5, joined=joined) == 0
        broker.clock.jump_liveness(9)  # more than the broker's own session
        await trio.sleep(2)
        assert await beat(client, "g", joined) == 0
        assert await commit(client, "g", 6, joined=joined) == 0
        assert await committed(client, "g") == (6, "", 0)
