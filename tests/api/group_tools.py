"""What a classic consumer group does, step by step, over bare clients."""

from __future__ import annotations

from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from kafka_wire.messages.groups import (
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    LeaveGroupRequest,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kbroker.testing.client import BareClient


async def find(client: BareClient, *keys: str, version: int = 6, key_type: int = 0) -> Any:
    """FindCoordinator; the whole response."""
    request = FindCoordinatorRequest(
        key=keys[0] if version < 4 else "", key_type=key_type, coordinator_keys=list(keys) if version >= 4 else []
    )
    return await client.call(request, version)


def join_request(group: str, member_id: str = "", **options: Any) -> JoinGroupRequest:
    protocols = options.pop("protocols", {"range": b"subscription"})
    fields = {"session_timeout_ms": 10_000, "rebalance_timeout_ms": 10_000, "protocol_type": "consumer", **options}
    return JoinGroupRequest(
        group_id=group,
        member_id=member_id,
        protocols=[JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols.items()],
        **fields,
    )


async def join(client: BareClient, group: str, *, version: int = 9, **options: Any) -> Any:
    """JoinGroup, twice where the first only gives the member its id."""
    response = await client.call(join_request(group, **options), version)
    if response.error_code == 79:
        response = await client.call(join_request(group, response.member_id, **options), version)
    return response


async def sync(client: BareClient, group: str, joined: Any, assignments: dict[str, bytes], *, version: int = 5) -> Any:
    request = SyncGroupRequest(
        group_id=group,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        protocol_type="consumer",
        protocol_name=joined.protocol_name,
        assignments=[SyncGroupRequestAssignment(member_id=k, assignment=v) for k, v in assignments.items()],
    )
    return await client.call(request, version)


async def enter(client: BareClient, group: str, *, assignment: bytes = b"all", **options: Any) -> Any:
    """Be the only member of a group, with an assignment; the JoinGroup response."""
    joined = await join(client, group, **options)
    assert joined.error_code == 0, joined
    assert (await sync(client, group, joined, {joined.member_id: assignment})).error_code == 0
    return joined


async def beat(client: BareClient, group: str, joined: Any, *, version: int = 4) -> int:
    request = HeartbeatRequest(group_id=group, generation_id=joined.generation_id, member_id=joined.member_id)
    return int((await client.call(request, version)).error_code)


async def leave(client: BareClient, group: str, joined: Any, *, version: int = 5) -> Any:
    members = [MemberIdentity(member_id=joined.member_id)] if version >= 3 else []
    request = LeaveGroupRequest(group_id=group, member_id="" if members else joined.member_id, members=members)
    return await client.call(request, version)


async def topic_id_of(client: BareClient, name: str) -> bytes:
    """A topic's ID; all zeros if there is no such topic."""
    request = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=False)
    return bytes((await client.call(request, 12)).topics[0].topic_id)


async def commit(
    client: BareClient, group: str, offset: int, *, topic: str = "t", index: int = 0, version: int = 8, **options: Any
) -> int:
    """Commit one offset; its error."""
    joined, metadata = options.pop("joined", None), options.pop("metadata", "")
    topic_id = options.pop("topic_id", None) or (await topic_id_of(client, topic) if version >= 10 else bytes(16))
    request = OffsetCommitRequest(
        group_id=group,
        generation_id_or_member_epoch=joined.generation_id if joined else -1,
        member_id=joined.member_id if joined else "",
        topics=[
            OffsetCommitRequestTopic(
                name=topic,
                topic_id=topic_id,
                partitions=[
                    OffsetCommitRequestPartition(
                        partition_index=index, committed_offset=offset, committed_metadata=metadata
                    )
                ],
            )
        ],
        **options,
    )
    return int((await client.call(request, version)).topics[0].partitions[0].error_code)


async def committed(
    client: BareClient, group: str, *, topic: str = "t", index: int = 0, version: int = 7
) -> tuple[int, str, int]:
    """(offset, metadata, error) of one partition. Asks again while the coordinator loads, as clients do."""
    with trio.fail_after(5):
        while True:
            if version >= 8:
                topic_id = await topic_id_of(client, topic) if version >= 10 else bytes(16)
                topics = [OffsetFetchRequestTopics(name=topic, topic_id=topic_id, partition_indexes=[index])]
                request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=topics)])
                answer = (await client.call(request, version)).groups[0]
            else:
                asked = [OffsetFetchRequestTopic(name=topic, partition_indexes=[index])]
                answer = await client.call(OffsetFetchRequest(group_id=group, topics=asked), version)
            if answer.error_code != ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                break
    assert answer.error_code == 0, answer
    partition = answer.topics[0].partitions[0]
    return partition.committed_offset, partition.metadata, partition.error_code
