"""FindCoordinator 0-6, JoinGroup 0-9, SyncGroup 0-5, Heartbeat 0-4, LeaveGroup 0-5: the classic group protocol.

What these requests mean is decided by the group (`groups/classic/group.py`), found and asked by
`groups/membership.py`. A JoinGroup waits for the rebalance, a SyncGroup for the leader's assignment; both are
bounded by the group's own timers, and by a later bound of ours. While the coordinator loads, a heartbeat is told that
all is well, and a SyncGroup to join again, as Kafka does: clients take the true error there for a fatal one.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberResponse,
    SyncGroupRequest,
    SyncGroupResponse,
)
from kbroker.api.addresses import address_of
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.coordinators.routing import NAME_COMMON_MAX, InternalTopic, partition_of, pauses_for
from kbroker.groups import membership
from kbroker.groups.group import Client
from kbroker.groups.membership import Asker
from kbroker.turns import Work, answer, finish

GROUP, TRANSACTION, SHARE = 0, 1, 2  # key types of FindCoordinator
BATCHED_SINCE = 4  # FindCoordinator version (KIP-699)
KEYS_STRIDE = 8  # keys between two pauses
TOPIC_WAIT_S = 15.0  # until an internal topic is there; then the answer is that it is not
LEAVE_MANY_SINCE = 3  # LeaveGroup version

JoinAnswer: TypeAlias = "JoinGroupResponse | Coroutine[Any, Any, JoinGroupResponse]"
SyncAnswer: TypeAlias = "SyncGroupResponse | Coroutine[Any, Any, SyncGroupResponse]"
LeaveAnswer: TypeAlias = "LeaveGroupResponse | Coroutine[Any, Any, LeaveGroupResponse]"
FindAnswer: TypeAlias = "FindCoordinatorResponse | Coroutine[Any, Any, FindCoordinatorResponse]"


# -- FindCoordinator --------------------------------------------------------------------------------------------------


@handles(ApiKey.FIND_COORDINATOR, 0, 6)
def find_coordinator(request: FindCoordinatorRequest, context: Context) -> FindAnswer:
    """Who coordinates these groups or transactions. The first to ask waits until their internal topic is made."""
    topic = _internal_topic(request.key_type, context)
    if topic is not None and topic.image is None:
        return _make_topic_and_find(topic, request, context)
    return answer(_found(request, context))


def _internal_topic(key_type: int, context: Context) -> InternalTopic | None:
    """Where what such keys name is kept."""
    if key_type == GROUP:
        return context.services.groups.topic
    return context.services.transactions.topic if key_type == TRANSACTION else None


async def _make_topic_and_find(
    topic: InternalTopic, request: FindCoordinatorRequest, context: Context
) -> FindCoordinatorResponse:
    with trio.move_on_after(TOPIC_WAIT_S):
        try:
            await topic.ensure()
            await context.services.wait_applied()
        except KafkaError:
            pass  # the answer says so
    return await finish(_found(request, context))


def _found(request: FindCoordinatorRequest, context: Context) -> Work[FindCoordinatorResponse]:
    batched = context.version >= BATCHED_SINCE
    keys = request.coordinator_keys if batched else [request.key]
    found = []
    for number, key in enumerate(keys, 1):
        found.append(_coordinator(key, request.key_type, context))
        if not number % KEYS_STRIDE or len(key) > NAME_COMMON_MAX:
            yield from pauses_for(key)
    if batched:
        return FindCoordinatorResponse(coordinators=found)
    only = found[0]
    return FindCoordinatorResponse(
        error_code=only.error_code,
        error_message=only.error_message or "NONE",  # the text of Kafka's code 0
        node_id=only.node_id,
        host=only.host,
        port=only.port,
    )


def _coordinator(key: str, key_type: int, context: Context) -> Coordinator:
    try:
        topic = _internal_topic(key_type, context)
        if topic is None:
            raise _no_coordinator(key_type)
        broker = context.services.image.brokers.get(topic.leader_of(key))
        address = None if broker is None else address_of(broker, context)
        if broker is None or address is None or _may_be_elsewhere(key, topic, context.services):
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    except KafkaError as error:
        return Coordinator(key=key, node_id=-1, host="", port=-1, error_code=error.code, error_message=error.message)
    return Coordinator(key=key, node_id=broker.id, host=address[0], port=address[1], error_message="")


def _may_be_elsewhere(key: str, topic: InternalTopic, services: Services) -> bool:
    """Whether this broker seems to be the coordinator, and another may be by now: whoever asks another broker learns.

    The session with the cluster is in doubt, and the followers have not been heard of (R14).
    """
    image = topic.image
    index = 0 if image is None else partition_of(key, len(image.partitions))
    held = services.partitions.get((topic.name, index))
    return held is not None and held.leading and not held.is_heard


def _no_coordinator(key_type: int) -> KafkaError:
    """Errors on which clients give up at once, with the text: a coordinator not available they would ask for again."""
    if key_type == SHARE:
        return KafkaError(ErrorCode.INVALID_REQUEST, "This broker does not offer share groups.")
    return KafkaError(ErrorCode.INVALID_REQUEST, f"There is no coordinator type {key_type}.")


# -- JoinGroup, SyncGroup ---------------------------------------------------------------------------------------------


@handles(ApiKey.JOIN_GROUP, 0, 9)
def join_group(request: JoinGroupRequest, context: Context) -> JoinAnswer:
    """Enter a group, or join its rebalance."""
    # Null only since version 7; before, the empty string (JoinGroupResponse of Kafka).
    no_protocol = None if context.version >= 7 else ""

    def refuse(code: ErrorCode) -> JoinGroupResponse:
        return JoinGroupResponse(error_code=code, member_id=request.member_id, protocol_name=no_protocol)

    if not request.group_id:
        return refuse(ErrorCode.INVALID_GROUP_ID)
    joined: JoinAnswer = membership.join(context.services.groups, request, asker(context), refuse)
    if isinstance(joined, JoinGroupResponse):
        return _without_protocol(joined, no_protocol)
    return _later_without_protocol(joined, no_protocol)


async def _later_without_protocol(
    joined: Coroutine[Any, Any, JoinGroupResponse], no_protocol: str | None
) -> JoinGroupResponse:
    return _without_protocol(await joined, no_protocol)


def _without_protocol(response: JoinGroupResponse, no_protocol: str | None) -> JoinGroupResponse:
    """A refusal names no protocol."""
    if response.error_code:
        response.protocol_name = no_protocol
    return response


@handles(ApiKey.SYNC_GROUP, 0, 5)
def sync_group(request: SyncGroupRequest, context: Context) -> SyncAnswer:
    """Hand in the group's assignment (its leader), or ask for one's own."""

    def refuse(code: ErrorCode) -> SyncGroupResponse:
        loading = code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS if loading else code)

    if context.version >= 5 and (request.protocol_type is None or request.protocol_name is None):
        return refuse(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)  # KIP-559
    if not request.group_id:
        return refuse(ErrorCode.INVALID_GROUP_ID)
    synced: SyncAnswer = membership.sync(context.services.groups, request, refuse)
    return synced


def asker(context: Context) -> Asker:
    """Who asks, as groups remember it."""
    return Asker(Client(context.client_id or "", f"/{context.peer.address[0]}"), context.version)


# -- Heartbeat, LeaveGroup --------------------------------------------------------------------------------------------


@handles(ApiKey.HEARTBEAT, 0, 4)
def heartbeat(request: HeartbeatRequest, context: Context) -> HeartbeatResponse:
    """A member is alive. The most frequent request of all about groups."""
    if not request.group_id:
        return HeartbeatResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    try:
        return HeartbeatResponse(error_code=membership.heartbeat(context.services.groups, request))
    except KafkaError as error:
        loading = error.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return HeartbeatResponse(error_code=ErrorCode.NONE if loading else error.code)


@handles(ApiKey.LEAVE_GROUP, 0, 5)
def leave_group(request: LeaveGroupRequest, context: Context) -> LeaveAnswer:
    """Members leave; an operator may have static ones leave by their instance ids (KIP-345)."""
    version = context.version

    def refuse(code: ErrorCode) -> LeaveGroupResponse:
        if code == ErrorCode.UNKNOWN_MEMBER_ID and version >= LEAVE_MANY_SINCE:
            return LeaveGroupResponse(
                members=[
                    MemberResponse(
                        member_id=member.member_id, group_instance_id=member.group_instance_id, error_code=code
                    )
                    for member in request.members
                ]
            )
        return LeaveGroupResponse(error_code=code)

    if not request.group_id:
        return refuse(ErrorCode.INVALID_GROUP_ID)
    left: LeaveAnswer = membership.leave(context.services.groups, request, version, refuse)
    return left
