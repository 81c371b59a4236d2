"""DescribeGroups, ListGroups, DeleteGroups and the consumer groups' APIs, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    ListConfigResourcesRequest,
)
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest
from kafka_wire.messages.group_admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
)
from kafka_wire.messages.topics import CreatePartitionsRequest, CreatePartitionsTopic
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import commit, committed, enter, find, leave
from tests.api.test_topics import topic_id_of


@pytest.mark.parametrize("version", range(7))
async def test_describe(version: int) -> None:
    async with memory_broker() as broker, broker.client("app") as client:
        await find(client, "g")
        joined = await enter(client, "g", assignment=b"mine", group_instance_id="one")
        request = DescribeGroupsRequest(groups=["g", "none"], include_authorized_operations=version >= 3)
        known, unknown = (await client.call(request, version)).groups
        assert (known.error_code, known.group_state, known.protocol_type) == (0, "Stable", "consumer")
        assert known.protocol_data == "range"
        member = known.members[0]
        assert (member.member_id, member.client_id, member.client_host) == (joined.member_id, "app", "/127.0.0.1")
        assert (bytes(member.member_metadata), bytes(member.member_assignment)) == (b"subscription", b"mine")
        if version >= 4:
            assert member.group_instance_id == "one"
        if version >= 3:
            assert known.authorized_operations == 0b1101_0100_1000
        # Trap 26: an unknown group is Dead, and an error only since version 6.
        code = ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else 0
        assert (unknown.error_code, unknown.group_state) == (code, "Dead")


@pytest.mark.parametrize("version", range(6))
async def test_list(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert (await client.call(ListGroupsRequest(), version)).groups == []
        await find(client, "g")
        await enter(client, "g")
        await commit(client, "offsets-only", 1)
        listed = await client.call(ListGroupsRequest(), version)
        assert listed.error_code == 0
        rows = {each.group_id: each for each in listed.groups}
        assert {name: row.protocol_type for name, row in rows.items()} == {"g": "consumer", "offsets-only": ""}
        if version >= 4:
            assert [rows[name].group_state for name in ("g", "offsets-only")] == ["Stable", "Empty"]
            filtered = await client.call(ListGroupsRequest(states_filter=["stable", "Dead"]), version)
            assert [each.group_id for each in filtered.groups] == ["g"]
        if version >= 5:
            assert rows["g"].group_type == "classic"
            filtered = await client.call(ListGroupsRequest(types_filter=["consumer"]), version)
            assert filtered.groups == []


@pytest.mark.parametrize("version", range(3))
async def test_delete(version: int) -> None:
    machine = Machine()
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        await commit(client, "g", 5, joined=joined)

        async def delete(*names: str) -> list[int]:
            response = await client.call(DeleteGroupsRequest(groups_names=list(names)), version)
            return [each.error_code for each in response.results]

        assert await delete("g", "none") == [ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND]
        await leave(client, "g", joined)
        assert await delete("g", "g") == [0]  # once, as in Kafka
        assert await committed(client, "g") == (-1, "", 0)
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert await committed(client, "g") == (-1, "", 0)
        assert (await client.call(ListGroupsRequest(), 5)).groups == []


# -- consumer groups --------------------------------------------------------------------------------------------------


async def beat_when_loaded(client: BareClient, epoch: int, **fields: Any) -> Any:
    """A heartbeat to a coordinator that has just started."""
    with trio.fail_after(30):
        while (answer := await beat(client, epoch, **fields)).error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            await trio.lowlevel.checkpoint()
        return answer


async def beat(client: BareClient, epoch: int, *, member: str = "m1", version: int = 1, **fields: Any) -> Any:
    request = ConsumerGroupHeartbeatRequest(group_id="g", member_id=member, member_epoch=epoch, **fields)
    return await client.call(request, version)


JOIN: dict[str, Any] = {"rebalance_timeout_ms": 10_000, "subscribed_topic_names": ["t"], "topic_partitions": []}


async def test_what_is_wrong_with_a_heartbeat_is_said_before_the_group_is_looked_for(autojump_clock: object) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await find(client, "g")
        for _ in range(2):  # no group at all; then a classic one
            assert (await beat(client, 9, member="")).error_code == ErrorCode.INVALID_REQUEST
            assert (await beat(client, -3)).error_code == ErrorCode.INVALID_REQUEST
            assert (await beat(client, -2)).error_code == ErrorCode.INVALID_REQUEST
            assert (await beat(client, 9)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
            await enter(client, "g")


@pytest.mark.parametrize(
    ("member", "epoch", "fields", "text"),
    [
        ("", 9, {}, "MemberId can't be empty."),
        ("m1", -3, {}, "MemberEpoch is -3, but must be greater than or equal to -2."),
        ("m1", -2, {}, "InstanceId can't be null."),
        ("m1", 9, {}, "Consumer group g not found."),
        ("m1", 0, {}, "RebalanceTimeoutMs must be provided in first request."),
        (
            "m1",
            0,
            {"server_assignor": "no"},
            "ServerAssignor no is not supported. Supported assignors: uniform, range.",
        ),
    ],
)
async def test_a_refused_heartbeat_is_told_the_reason(
    member: str, epoch: int, fields: dict[str, Any], text: str
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joins = JOIN if fields else {}
        assert (await beat(client, epoch, member=member, **joins, **fields)).error_message == text


async def test_a_member_without_a_regular_expression_has_an_empty_one() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        await find(client, "g")
        await beat(client, 0, **JOIN)
        request = ConsumerGroupDescribeRequest(group_ids=["g"], include_authorized_operations=False)
        (group,) = (await client.call(request, 1)).groups
        assert [member.subscribed_topic_regex for member in group.members] == [""]


@pytest.mark.parametrize("version", range(2))
async def test_a_consumer_group_from_joining_to_a_restart(version: int) -> None:
    machine = Machine()
    async with memory_broker(topics={"t": 3}, machine=machine) as broker, broker.client() as client:
        await find(client, "g")
        joined = await beat(client, 0, version=version, **JOIN)
        assert joined.error_code == 0, joined
        given = joined.assignment.topic_partitions[0]
        assert (given.topic_id, given.partitions) == (await topic_id_of(client, "t"), [0, 1, 2])
        assert await commit(client, "g", 5, version=9) == ErrorCode.UNKNOWN_MEMBER_ID
    async with memory_broker(topics={"t": 3}, machine=machine) as broker, broker.client() as client:
        again = await beat_when_loaded(client, joined.member_epoch, version=version)
        assert (again.error_code, again.member_epoch) == (0, joined.member_epoch)
        request = ConsumerGroupDescribeRequest(group_ids=["g", "none"], include_authorized_operations=False)
        known, unknown = (await client.call(request, version)).groups
        assert (known.error_code, known.group_state, known.members[0].member_id) == (0, "Stable", "m1")
        assert unknown.error_code == ErrorCode.GROUP_ID_NOT_FOUND
        listed = (await client.call(ListGroupsRequest(types_filter=["consumer"]), 5)).groups
        assert [(each.group_id, each.group_type) for each in listed] == [("g", "consumer")]
        assert (await client.call(DescribeGroupsRequest(groups=["g"]), 6)).groups[0].error_code == 69
        assert (await beat(client, -1, version=version)).error_code == 0


async def test_G1_commits_and_fetches_are_fenced_by_the_member_epoch() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await beat(client, 0, **JOIN)

        async def commit_as(member: str, epoch: int, version: int = 9) -> int:
            place = OffsetCommitRequestPartition(partition_index=0, committed_offset=epoch, committed_metadata="")
            topics = [OffsetCommitRequestTopic(name="t", partitions=[place])]
            request = OffsetCommitRequest(
                group_id="g", member_id=member, generation_id_or_member_epoch=epoch, topics=topics
            )
            return int((await client.call(request, version)).topics[0].partitions[0].error_code)

        async def fetch_as(member: str | None, epoch: int) -> int:
            group = OffsetFetchRequestGroup(group_id="g", member_id=member, member_epoch=epoch, topics=None)
            return int((await client.call(OffsetFetchRequest(groups=[group]), 9)).groups[0].error_code)

        epoch = joined.member_epoch
        assert await commit_as("m1", epoch) == 0
        assert await commit_as("m1", epoch + 1) == ErrorCode.STALE_MEMBER_EPOCH
        assert await commit_as("m2", epoch) == ErrorCode.UNKNOWN_MEMBER_ID
        assert await commit_as("m1", epoch, version=8) == ErrorCode.UNSUPPORTED_VERSION
        assert await fetch_as("m1", epoch) == await fetch_as(None, -1) == 0
        assert await fetch_as("m1", epoch + 1) == ErrorCode.STALE_MEMBER_EPOCH
        assert await fetch_as("m2", epoch) == ErrorCode.UNKNOWN_MEMBER_ID
        assert (await committed(client, "g"))[0] == epoch


async def test_a_consumer_group_learns_of_new_partitions() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await beat(client, 0, **JOIN)
        grow = CreatePartitionsTopic(name="t", count=2, assignments=None)
        await client.call(CreatePartitionsRequest(topics=[grow], timeout_ms=5000, validate_only=False), 3)
        later = await beat(client, joined.member_epoch)
        assert later.member_epoch > joined.member_epoch
        assert later.assignment.topic_partitions[0].partitions == [0, 1]


async def test_a_classic_group_is_turned_by_a_consumer_that_joins_and_back() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        await leave(client, "g", joined)
        assert (await beat(client, 3, **JOIN)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
        assert (await beat(client, 0, **JOIN)).error_code == 0
        assert (await beat(client, -1)).error_code == 0
        assert (await enter(client, "g")).error_code == 0
        described = (await client.call(DescribeGroupsRequest(groups=["g"]), 6)).groups[0]
        assert (described.error_code, described.group_state) == (0, "Stable")


# -- configs of groups ------------------------------------------------------------------------------------------------


async def set_config(client: BareClient, group: str, name: str, value: str | None, *, op: int = 0) -> int:
    config = IncrementalAlterableConfig(name=name, config_operation=op, value=value)
    resource = IncrementalAlterConfigsResource(resource_type=32, resource_name=group, configs=[config])
    request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=False)
    return int((await client.call(request, 1)).responses[0].error_code)


async def config_of(client: BareClient, group: str, name: str) -> tuple[str, int]:
    """(value, source) of a group's config."""
    resource = DescribeConfigsResource(resource_type=32, resource_name=group, configuration_keys=[name])
    row = (await client.call(DescribeConfigsRequest(resources=[resource]), 4)).results[0].configs[0]
    return row.value, row.config_source


async def test_configs_of_a_group_reach_its_members_and_survive() -> None:
    machine, group = Machine(), "g"
    name, odd = "consumer.heartbeat.interval.ms", "gräßlich/../%41\N{SNOWMAN} "
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        await find(client, group)
        joined = await beat(client, 0, **JOIN)
        assert joined.heartbeat_interval_ms == 5000
        for each in (group, odd):
            assert await set_config(client, each, name, "7000") == 0
            assert await config_of(client, each, name) == ("7000", 8)
        assert (await beat(client, joined.member_epoch)).heartbeat_interval_ms == 7000
        assert await set_config(client, group, name, "4999") == ErrorCode.INVALID_CONFIG
        assert await set_config(client, group, name, "soon") == ErrorCode.INVALID_CONFIG
        assert await set_config(client, group, "retention.ms", "1") == ErrorCode.INVALID_CONFIG
        assert await set_config(client, "", name, "7000") == ErrorCode.INVALID_REQUEST
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert (await beat_when_loaded(client, joined.member_epoch)).heartbeat_interval_ms == 7000
        listed = (await client.call(ListConfigResourcesRequest(resource_types=[32]), 1)).config_resources
        assert {(each.resource_name, each.resource_type) for each in listed} == {(group, 32), (odd, 32)}
        assert await set_config(client, group, name, None, op=1) == 0
        assert await config_of(client, group, name) == ("5000", 5)
        assert (await beat(client, joined.member_epoch)).heartbeat_interval_ms == 5000
