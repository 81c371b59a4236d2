"""Faults, journal and clock of a broker, in its own loop: what clients see of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_wire.messages.groups import FindCoordinatorRequest, HeartbeatRequest
from kafka_wire.messages.metadata import ApiVersionsRequest, MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.control import CONTROL_CLIENT_ID
from kbroker.testing.control.controls import Controls
from kbroker.testing.control.striking import SILENCE_S
from tests.api.test_fetch import fetch_request, shape, values
from tests.api.test_produce import batch, produce, produce_request

NOT_LEADER = ErrorCode.NOT_LEADER_OR_FOLLOWER
PATIENCE_S = 10


@asynccontextmanager
async def controlled(**options: Any) -> AsyncIterator[tuple[MemoryBroker, Controls]]:
    machine = Machine()
    controls = Controls(machine.clock)
    with trio.fail_after(PATIENCE_S):
        async with memory_broker(topics={"t": 2, "other": 1}, machine=machine, controls=controls, **options) as broker:
            yield broker, controls


def fates(controls: Controls, api: str) -> list[str]:
    return [row.fate for row in controls.journal.rows(api)]


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_is_answered_as_often_as_told_and_nothing_is_carried_out() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", times=2)
        for _ in range(2):
            assert (await produce(client, batch(b"a"))).error_code == NOT_LEADER
        assert controls.unfired() == []
        answer = await produce(client, batch(b"a"))
        assert (answer.error_code, answer.base_offset) == (0, 0)
        by_a_fault = "answered NOT_LEADER_OR_FOLLOWER by a fault"
        assert fates(controls, "Produce") == [by_a_fault, by_a_fault, "answered"]


async def test_with_a_topic_the_rest_of_the_request_is_served() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Produce", "NOT_ENOUGH_REPLICAS", topic="t", partition=1)
        data = [PartitionProduceData(index=index, records=batch(b"%d" % index)) for index in range(2)]
        other = TopicProduceData(name="other", partition_data=[PartitionProduceData(index=0, records=batch(b"o"))])
        topics = [TopicProduceData(name="t", partition_data=data), other]
        answer = await client.call(ProduceRequest(acks=-1, timeout_ms=1000, topic_data=topics), 9)
        assert {
            (topic.name, each.index): each.error_code
            for topic in answer.responses
            for each in topic.partition_responses
        } == {("t", 0): 0, ("t", 1): ErrorCode.NOT_ENOUGH_REPLICAS, ("other", 0): 0}
        read = await client.call(fetch_request({("t", 0): 0, ("t", 1): 0, ("other", 0): 0}), 12)
        assert values(read) == [b"0", b"o"]


async def test_only_the_client_that_is_meant_is_hit() -> None:
    async with controlled() as (broker, controls), broker.client("one") as one, broker.client("two") as two:
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", client_id="two", times=None)
        assert (await produce(one, batch(b"a"))).error_code == 0
        for _ in range(3):
            assert (await produce(two, batch(b"a"))).error_code == NOT_LEADER
        assert controls.unfired() == []  # one for all requests is done when it has hit any


async def test_who_asks_for_a_test_is_neither_hit_nor_noted() -> None:
    async with controlled() as (broker, controls), broker.client(CONTROL_CLIENT_ID) as client:
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER")
        assert (await produce(client, batch(b"a"))).error_code == 0
        assert not len(controls.journal)


async def test_faults_hit_in_the_order_in_which_they_were_set() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t")
        controls.faults.error("Produce", "KAFKA_STORAGE_ERROR")
        assert (await produce(client, batch(b"a"), topic="other")).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert (await produce(client, batch(b"a"))).error_code == NOT_LEADER
        assert (await produce(client, batch(b"a"))).error_code == 0


async def test_a_failed_produce_that_wants_no_answer_is_hung_up_on() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER")
        await client.send(produce_request(batch(b"a"), acks=0), 9)
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()


async def test_the_error_of_a_coordinator_is_where_clients_look() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("FindCoordinator", "COORDINATOR_NOT_AVAILABLE")
        controls.faults.error("OffsetCommit", "UNKNOWN_TOPIC_OR_PARTITION", topic="t")
        found = await client.call(FindCoordinatorRequest(coordinator_keys=["g"]), 4)
        assert [each.error_code for each in found.coordinators] == [ErrorCode.COORDINATOR_NOT_AVAILABLE]
        assert (await client.call(FindCoordinatorRequest(coordinator_keys=["g"]), 4)).coordinators[0].error_code == 0
        topics = [
            OffsetCommitRequestTopic(
                name=name, partitions=[OffsetCommitRequestPartition(partition_index=0, committed_offset=1)]
            )
            for name in ("t", "other")
        ]
        commit = OffsetCommitRequest(group_id="g", generation_id_or_member_epoch=-1, member_id="", topics=topics)
        answer = await client.call(commit, 8)
        assert {each.name: each.partitions[0].error_code for each in answer.topics} == {"t": 3, "other": 0}


# -- fetch and metadata -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 12, 13])
async def test_a_fetch_is_answered_at_the_partitions_at_once(version: int) -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        await produce(client, batch(b"a"))
        ids = {each.name: each.topic_id for each in (await client.call(MetadataRequest(topics=None), 12)).topics}
        places = {"t": ids["t"], "other": ids["other"]} if version >= 13 else {"t": "t", "other": "other"}
        asked = {(places["t"], 0): 0, (places["t"], 1): 0, (places["other"], 0): 0}
        controls.faults.error("Fetch", "OFFSET_OUT_OF_RANGE", topic="t")
        answer = await client.call(fetch_request(asked, max_wait_ms=30_000, min_bytes=1000), version)
        found = {
            (topic.topic or topic.topic_id, each.partition_index): each
            for topic in answer.responses
            for each in topic.partitions
        }
        assert {key: each.error_code for key, each in found.items()} == {
            (places["t"], 0): 1, (places["t"], 1): 1, (places["other"], 0): 0
        }  # fmt: skip
        assert values(answer) == []
        controls.faults.error("Fetch", "NOT_LEADER_OR_FOLLOWER")  # of no topic: of each partition
        assert {code for _, _, code in shape(await client.call(fetch_request(asked), version))} == {NOT_LEADER}
        assert values(await client.call(fetch_request(asked), version)) == [b"a"]


async def test_an_incremental_fetch_is_about_the_topics_of_its_session() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        first = await client.call(fetch_request({("t", 0): 0, ("other", 0): 0}, session_epoch=0), 12)
        session = {"session_id": first.session_id}
        assert first.session_id
        controls.faults.error("Fetch", "LEADER_NOT_AVAILABLE", topic="t")
        again = await client.call(fetch_request({}, session_epoch=1, max_wait_ms=30_000, **session), 12)
        assert (again.error_code, shape(again)) == (0, [("t", 0, ErrorCode.LEADER_NOT_AVAILABLE)])
        await produce(client, batch(b"a"))
        third = await client.call(fetch_request({}, session_epoch=2, **session), 12)  # the session goes on
        assert (third.error_code, values(third)) == (0, [b"a"])
        assert [row.topics for row in controls.journal.rows("Fetch", topic="t")] == [("t", "other")] * 3


async def test_the_error_of_a_fetch_session_is_at_the_top() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Fetch", "FETCH_SESSION_ID_NOT_FOUND")
        answer = await client.call(fetch_request({("t", 0): 0}), 12)
        assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


async def test_a_fetch_that_fails_by_itself_leaves_the_fault_for_the_next() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Fetch", "NOT_LEADER_OR_FOLLOWER", times=None)
        controls.faults.error("Fetch", "OFFSET_OUT_OF_RANGE", topic="t")
        answer = await client.call(fetch_request({}, session_id=77, session_epoch=5), 12)
        assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        assert len(controls.unfired()) == 2


@pytest.mark.parametrize("version", [0, 1, 9, 12])
@pytest.mark.parametrize("names", [["t", "other"], None], ids=["by name", "all"])
async def test_metadata_still_tells_the_brokers_and_the_other_topics(version: int, names: list[str] | None) -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        wanted = [MetadataRequestTopic(name=name) for name in names] if names else [] if version == 0 else None
        controls.faults.error("Metadata", "LEADER_NOT_AVAILABLE", topic="t")
        answer = await client.call(MetadataRequest(topics=wanted), version)
        assert len(answer.brokers) == 1
        found = {each.name: (each.error_code, len(each.partitions)) for each in answer.topics}
        assert found == {"t": (ErrorCode.LEADER_NOT_AVAILABLE, 0), "other": (0, 1)}
        controls.faults.error("Metadata", "UNKNOWN_SERVER_ERROR")
        answer = await client.call(MetadataRequest(topics=wanted), version)
        assert {each.name: each.error_code for each in answer.topics} == {"t": -1, "other": -1}
        assert len(answer.brokers) == 1


async def test_a_topic_that_an_error_hides_is_not_created_by_asking_for_it() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.error("Metadata", "UNKNOWN_TOPIC_OR_PARTITION", topic="new")
        asked = MetadataRequest(topics=[MetadataRequestTopic(name="new")])
        assert [each.error_code for each in (await client.call(asked, 9)).topics] == [3]
        assert {each.name for each in (await client.call(MetadataRequest(topics=None), 9)).topics} == {"t", "other"}


# -- late, lost, hung up ----------------------------------------------------------------------------------------------


async def test_a_late_answer_is_carried_out_at_once_and_holds_up_those_behind_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as other:
        controls.faults.delay("Produce", 2000)
        began = trio.current_time()
        await client.send(produce_request(batch(b"a")), 9)
        await client.send(ApiVersionsRequest(), 2)
        await trio.testing.wait_all_tasks_blocked()
        assert values(await other.call(fetch_request({("t", 0): 0}), 12)) == [b"a"]
        assert (await client.receive(0, 9)).responses[0].partition_responses[0].error_code == 0
        await client.receive(18, 2)
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)
        assert fates(controls, "Produce") == ["answered 2000 ms late by a fault"]


@pytest.mark.parametrize("kind", ["lose_request", "lose_response"])
async def test_what_is_lost_is_never_answered_and_nothing_behind_it(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as other:
        getattr(controls.faults, kind)("Produce")
        await client.send(produce_request(batch(b"a")), 9)
        await client.send(ApiVersionsRequest(), 2)
        with trio.move_on_after(5) as waited:
            await client.receive_frame()
        assert waited.cancelled_caught
        carried_out = kind == "lose_response"
        assert values(await other.call(fetch_request({("t", 0): 0}), 12)) == ([b"a"] if carried_out else [])
        controls.faults.clear()  # the next test's clients find no connection that is silent
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()


async def test_silence_ends_after_some_minutes(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker(machine=(machine := Machine()), controls=(controls := Controls(machine.clock))) as broker:
        async with broker.client() as client:
            controls.faults.lose_response("Heartbeat")
            began = trio.current_time()
            await client.send(HeartbeatRequest(group_id="g", generation_id=1, member_id="m"), 4)
            with pytest.raises(trio.EndOfChannel):
                await client.receive_frame()
            assert trio.current_time() - began == pytest.approx(SILENCE_S, abs=1)


@pytest.mark.parametrize("carried_out", [False, True])
async def test_hanging_up(carried_out: bool) -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as other:
        controls.faults.close("Produce", carried_out=carried_out)
        await client.send(ApiVersionsRequest(), 2)
        await client.send(produce_request(batch(b"a")), 9)
        await client.receive(18, 2)  # what came before is answered
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
        assert values(await other.call(fetch_request({("t", 0): 0}), 12)) == ([b"a"] if carried_out else [])


async def test_who_wants_no_answer_is_hung_up_on_too() -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as other:
        controls.faults.lose_request("Produce")
        controls.faults.close("Produce", carried_out=True)
        await client.send(produce_request(batch(b"lost"), acks=0), 9)
        await client.send(produce_request(batch(b"kept"), acks=0), 9)
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
        assert values(await other.call(fetch_request({("t", 0): 0}), 12)) == [b"kept"]


async def test_a_long_poll_can_be_lost() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        controls.faults.lose_response("Fetch", topic="t")
        await client.send(fetch_request({("t", 0): 0}, max_wait_ms=50), 12)
        while fates(controls, "Fetch") != ["carried out, and the answer lost by a fault"]:
            await trio.sleep(0.01)
        controls.faults.clear()
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()


# -- what tests get wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "api, code, options, says",
    [
        ("Prodce", "NOT_LEADER_OR_FOLLOWER", {}, r"there is no API 'Prodce' here, did you mean 'Produce'\?"),
        ("PRODUCE", "NOT_LEADER_OR_FOLLOWER", {}, "did you mean 'Produce'"),
        ("Introduce", "NOT_LEADER_OR_FOLLOWER", {}, "no API 'Introduce' here"),
        ("Produce", "NOT_LEADER", {}, "there is no error code 'NOT_LEADER', did you mean 'NOT_LEADER_OR_FOLLOWER'"),
        ("Produce", "not_leader_or_follower", {}, "did you mean 'NOT_LEADER_OR_FOLLOWER'"),
        ("Produce", "NONE", {}, "NONE is no error"),
        ("Produce", None, {}, "there is no error code None"),
        ("Produce", "NOT_LEADER_OR_FOLLOWER", {"times": 0}, "times is between 1 and 1000000, not 0"),
        ("Produce", "NOT_LEADER_OR_FOLLOWER", {"times": -2}, "times is between 1 and 1000000, not -2"),
        ("Produce", "NOT_LEADER_OR_FOLLOWER", {"partition": 1}, "a partition needs its topic"),
        ("Produce", "NOT_LEADER_OR_FOLLOWER", {"topic": "t", "partition": -1}, "partition is between 0"),
        ("Heartbeat", "NOT_COORDINATOR", {"topic": "t"}, "Heartbeat requests name no topics"),
        ("ConsumerGroupHeartbeat", "NOT_COORDINATOR", {"topic": "t"}, "no place for an error of a topic"),
        ("Metadata", "LEADER_NOT_AVAILABLE", {"topic": "t", "partition": 0}, "no place for an error of one partition"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_at_once(api: str, code: str, options: dict[str, Any], says: str) -> None:
    controls = Controls(Machine().clock)
    with pytest.raises(ValueError, match=says):
        controls.faults.error(api, code, **options)
    assert controls.unfired() == []


def test_other_values_are_checked_too() -> None:
    faults = Controls(Machine().clock).faults
    with pytest.raises(ValueError, match="ms is between 0 and 600000"):
        faults.delay("Produce", -1)
    for wrong in ({"times": 1.5}, {"times": True}, {"topic": 7}, {"client_id": b"x"}):
        with pytest.raises(ValueError, match="is text|is a whole number"):
            faults.close("Produce", **wrong)  # type: ignore[arg-type]


async def test_what_has_not_hit_is_told_in_a_line() -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        faults = controls.faults
        faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t", times=2)
        faults.lose_response("OffsetCommit", client_id="app")
        faults.close("Produce", carried_out=True, times=None, topic="nowhere")
        faults.delay("Produce", 1, topic="other")
        await produce(client, batch(b"a"))
        await produce(client, batch(b"a"), topic="other")
        assert controls.unfired() == [
            'faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t", times=2) hit 1 request of 2: '
            "of Produce requests there came 2",
            'faults.lose_response("OffsetCommit", client_id="app") hit no request: no OffsetCommit request came',
            'faults.close("Produce", carried_out=True, topic="nowhere", times=None) hit no request: '
            "of Produce requests there came 2",
        ]


# -- the journal ------------------------------------------------------------------------------------------------------


async def test_the_journal_says_who_asked_what_and_what_became_of_it() -> None:
    async with controlled() as (broker, controls), broker.client("app") as client:
        await produce(client, batch(b"a"))
        await produce(client, batch(b"a"), topic="nowhere")
        await client.send(produce_request(batch(b"a"), topic="nowhere", acks=0), 9)
        with pytest.raises(trio.EndOfChannel):
            await client.receive_frame()
        rows = controls.requests("Produce", client_id="app")["rows"]
        assert [row[:3] + row[4:5] for row in rows] == [["Produce", 9, "app", [t]] for t in ("t", "nowhere", "nowhere")]
        assert [row[5][:35] for row in rows] == [
            "answered",
            "answered UNKNOWN_TOPIC_OR_PARTITION"[:35],
            rows[2][5][:35],
        ]
        assert rows[2][5].startswith("hung up: ")
        assert controls.requests("Produce", topic="t")["rows"] == rows[:1]
        assert controls.requests(client_id="nobody")["rows"] == []
        lines = controls.journal_lines(2)
        assert lines[0] == "... 1 earlier requests"
        assert lines[1].endswith("app: Produce v9 nowhere: answered UNKNOWN_TOPIC_OR_PARTITION")
        with pytest.raises(ValueError, match="did you mean 'Produce'"):
            controls.requests("Prduce")


async def test_all_of_it_outlives_the_broker() -> None:
    machine = Machine()
    controls = Controls(machine.clock)
    async with memory_broker(topics={"t": 1}, machine=machine, controls=controls) as broker, broker.client() as client:
        await produce(client, batch(b"a"))
        controls.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t", times=2)
        assert (await produce(client, batch(b"a"))).error_code == NOT_LEADER
        await controls.advance(1_800_000)
        saved = controls.save()
    machine = Machine()
    controls = Controls(machine.clock)
    controls.restore(saved)
    before = machine.clock.data_ms()
    async with memory_broker(topics={"t": 1}, machine=machine, controls=controls) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == NOT_LEADER
        assert len(fates(controls, "Produce")) == 3 and controls.unfired() == []
        assert controls.save()["ahead_ms"] == saved["ahead_ms"] == 1_800_000
        assert [line[9:] for line in controls.history()] == ["clock.advance(1800 s)"]
        controls.reset()
        assert (controls.unfired(), list(controls.journal.rows()), controls.history()) == ([], [], [])
        assert before - 1_800_000 <= controls.now_ms() < before
