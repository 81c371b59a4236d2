"""The rebalances of a group, asked for with DescribeGroups and ConsumerGroupDescribe of a whole broker in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kafka_wire.codegen import encode
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatTopicPartitions
from kafka_wire.messages.group_admin import DescribeGroupsRequest
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kbroker.testing.broker import MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import find, join, sync
from tests.api.test_groups_admin import JOIN, beat
from tests.api.test_topics import topic_id_of


def topics(partitions: Iterable[int]) -> list[ConsumerProtocolTopicPartitions]:
    return [ConsumerProtocolTopicPartitions(topic="t", partitions=list(partitions))]


def says(*owned: int) -> dict[str, bytes]:
    """The offer of a consumer that owns these."""
    subscription = ConsumerProtocolSubscription(topics=["t"], owned_partitions=topics(owned))
    return {"p": b"\0\1" + encode(subscription, 1)}


def gives(*partitions: int) -> bytes:
    return b"\0\1" + encode(ConsumerProtocolAssignment(assigned_partitions=topics(partitions)), 1)


async def told(client: BareClient, *, version: int = 6) -> Any:
    request = DescribeGroupsRequest(groups=["g"], include_rebalances=True)
    return (await client.call(request, version)).groups[0]


def totals(group: Any) -> dict[int, float]:
    """Whole seconds, by partition."""
    return {each.partition: int(each.seconds) for each in group.unowned_seconds}


async def rejoin(broker: MemoryBroker, members: dict[str, tuple[BareClient, str, tuple[int, ...]]]) -> dict[str, Any]:
    """Members join in this order; what they own; two seconds pass before the last of them comes."""
    joined: dict[str, Any] = {}

    async def come(name: str) -> None:
        client, member_id, owned = members[name]
        known = {"member_id": member_id} if member_id else {}
        joined[name] = await join(client, "g", protocols=says(*owned), **known)

    async with trio.open_nursery() as nursery:
        for n, name in enumerate(members):
            if n == len(members) - 1:
                broker.clock.jump_liveness(2)
            nursery.start_soon(come, name)
            await wait_all_tasks_blocked(0.01)
    return joined


@pytest.mark.parametrize("version", [5, 6])
async def test_eager_members_leave_all_partitions_without_an_owner(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as one, broker.client() as two:
        await find(one, "g")
        a = await join(one, "g", protocols=says())
        await sync(one, "g", a, {a.member_id: gives(0, 1)})
        assert totals(await told(one, version=version)) == {0: 0, 1: 0}
        joined = await rejoin(broker, {"b": (two, "", ()), "a": (one, a.member_id, ())})
        broker.clock.jump_liveness(3)
        b_id = joined["b"].member_id
        assert (await sync(one, "g", joined["a"], {a.member_id: gives(0), b_id: gives(1)})).error_code == 0
        group = await told(one, version=version)
        assert [each.generation for each in group.rebalances] == [1, 2]
        last = group.rebalances[-1]
        assert "joined" in last.reason
        assert {each.member_id: each.after_ms >= 2000 for each in last.awaited}[a.member_id]
        assert (last.partitions_moved, last.partitions_unowned, last.given_up) == (1, 2, [])
        assert last.took_ms >= last.unowned_ms_max
        assert {(each.topic, each.partition): each.ms // 1000 for each in last.unowned} == {("t", 0): 3, ("t", 1): 3}
        assert totals(group) == {0: 3, 1: 3}


async def test_cooperative_members_keep_what_they_keep() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as one, broker.client() as two:
        await find(one, "g")
        a = await join(one, "g", protocols=says())
        await sync(one, "g", a, {a.member_id: gives(0, 1)})
        joined = await rejoin(broker, {"b": (two, "", ()), "a": (one, a.member_id, (0, 1))})
        await sync(one, "g", joined["a"], {a.member_id: gives(0)})
        assert totals(await told(one)) == {0: 0}, "nobody has 1 as yet"
        b_id = joined["b"].member_id
        joined = await rejoin(broker, {"a": (one, a.member_id, (0,)), "b": (two, b_id, ())})
        await sync(one, "g", joined["a"], {a.member_id: gives(0), b_id: gives(1)})
        group = await told(one)
        assert totals(group) == {0: 0, 1: 2}
        assert [each.partition for each in group.rebalances[-1].unowned] == [1]
        assert 0.0 in [each.seconds for each in group.unowned_seconds], "not a moment"


async def test_a_consumer_group_only_stops_what_moves() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        await find(client, "g")
        first = await beat(client, 0, **JOIN)
        await beat(client, 0, member="m2", **JOIN)
        asked = await beat(client, first.member_epoch)
        (kept,) = asked.assignment.topic_partitions[0].partitions
        has = ConsumerGroupHeartbeatTopicPartitions(topic_id=await topic_id_of(client, "t"), partitions=[kept])
        revoked = await beat(client, asked.member_epoch, topic_partitions=[has])
        broker.clock.jump_liveness(2)
        second = await beat(client, revoked.member_epoch, member="m2")
        assert second.assignment.topic_partitions[0].partitions == [1 - kept]

        async def described(**options: Any) -> Any:
            return (await client.call(ConsumerGroupDescribeRequest(group_ids=["g", "g"], **options), 1)).groups

        group, again = await described(include_rebalances=True)
        assert {each.partition: each.seconds >= 2 for each in group.unowned_seconds} == {kept: False, 1 - kept: True}
        assert next(each.seconds for each in group.unowned_seconds if each.partition == kept) == 0.0
        last = group.rebalances[-1]
        assert (last.generation, last.partitions_moved) == (group.group_epoch, 1)
        assert {each.member_id for each in last.awaited} == {"m1", "m2"}
        assert [(each.topic, each.partition) for each in last.unowned] == [("t", 1 - kept)]
        assert again.rebalances is None, "told once, however often the group is named"
        assert {each.rebalances is None for each in await described()} == {True}, "told only to who asks"


async def test_a_group_of_the_other_kind_or_none_tells_nothing() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await find(client, "g")
        assert (await told(client)).rebalances is None
        await beat(client, 0, **JOIN)
        for version in (5, 6):
            group = await told(client, version=version)
            assert (group.group_state, group.rebalances, group.unowned_seconds) == ("Dead", None, [])


async def test_the_timeline_outlives_changes_of_the_protocol() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as one:
        await find(one, "g")
        a = await join(one, "g", protocols=says())
        await sync(one, "g", a, {a.member_id: gives(0, 1)})
        assert (await beat(one, 0, **JOIN)).error_code == 0
        request = ConsumerGroupDescribeRequest(group_ids=["g"], include_rebalances=True)
        upgraded = (await one.call(request, 1)).groups[0].rebalances
        assert (await beat(one, -1)).error_code == 0
        downgraded = (await told(one)).rebalances
        assert len(upgraded) == 2 and len(downgraded) > 2
        assert [each.began_ms for each in downgraded[:2]] == [each.began_ms for each in upgraded]
        assert downgraded[-1].reason == "downgrade"
