"""Members of a consumer group that speak the classic protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup (KIP-848).

    Heartbeat: REBALANCE_IN_PROGRESS ──▶ JoinGroup (what it owns) ──▶ SyncGroup ──▶ its partitions, as of its epoch
         ▲   its epoch is behind, it has to revoke, or what it waited for is free           │
         └──────────────────────────────────────────────────────────────────────────────────┘

A generation is the member's epoch. The broker assigns, so nobody is told to be the leader. All is answered at once.
A member that is asked to rejoin, or that has joined, has its rebalance timeout to do the next step.
(Kafka: GroupMetadataManager.classicGroupJoinToConsumerGroup, classicGroupSyncToConsumerGroup, ...)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    MemberResponse,
    SyncGroupRequest,
    SyncGroupResponse,
)
from kafka_wire.messages.internal import ConsumerProtocolSubscription
from kbroker.coordinators.effects import Effect, Reply, Ticket
from kbroker.groups.consumer import migration
from kbroker.groups.consumer.checks import ID_BYTES_MAX, check_instance, check_size
from kbroker.groups.consumer.core import Core
from kbroker.groups.consumer.member import ConsumerMember, MemberState
from kbroker.groups.consumer.reconciliation import awaits_others
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, read_subscription
from kbroker.groups.group import Client
from kbroker.groups.storage.snapshots import ClassicMemberSnapshot

REQUIRES_MEMBER_ID_SINCE = 4  # JoinGroup, KIP-394
LEAVE_MANY_SINCE = 3  # LeaveGroup, KIP-345
CLIENT_ID_IN_MEMBER_ID_MAX = 255


def join(
    core: Core,
    ticket: Ticket,
    request: JoinGroupRequest,
    version: int,
    client: Client,
    token: str,
    now: float,
    now_ms: int,
) -> list[Effect]:
    """JoinGroup. Codes: INVALID_SESSION_TIMEOUT, GROUP_MAX_SIZE_REACHED, INCONSISTENT_GROUP_PROTOCOL,
    MEMBER_ID_REQUIRED, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, INVALID_GROUP_ID."""
    try:
        response = _join(core, request, version, client, token, now, now_ms)
    except KafkaError as error:
        response = JoinGroupResponse(error_code=error.code, member_id=request.member_id)
    return core.take(Reply(ticket, response))


def _join(
    core: Core, request: JoinGroupRequest, version: int, client: Client, token: str, now: float, now_ms: int
) -> JoinGroupResponse:
    subscription = _check_join(core, request)
    given_id = f"{request.group_instance_id or client.id[:CLIENT_ID_IN_MEMBER_ID_MAX]}-{token}"
    if not request.member_id and request.group_instance_id is None and version >= REQUIRES_MEMBER_ID_SINCE:
        return JoinGroupResponse(error_code=ErrorCode.MEMBER_ID_REQUIRED, member_id=given_id)
    member, is_new, came_over = _member_of(core, request, given_id, now)
    core.verify_topics(now, now_ms)
    before = None if is_new else member.member_snapshot(core.group_id)
    member.client = client
    member.instance_id = request.group_instance_id
    member.rack_id = subscription.rack_id
    member.topics = core.shared(frozenset(subscription.topics))
    member.regex = member.server_assignor = None
    timeout_ms = request.rebalance_timeout_ms
    member.rebalance_timeout_ms = timeout_ms if timeout_ms >= 0 else request.session_timeout_ms
    protocols = tuple((each.name, bytes(each.metadata)) for each in request.protocols)
    member.classic = ClassicMemberSnapshot(request.session_timeout_ms, protocols)
    if core.describe(before, member):
        core.bump(f"{member.member_id} {'joined' if is_new else 'changed its subscription'}", now, now_ms)
    core.compute_target(now, now_ms)
    core.reconcile(member, _reported(core, subscription), now)
    core.renew(member, now)
    core.expect(member, now)  # to sync
    response = JoinGroupResponse(
        generation_id=member.epoch,
        protocol_type=PROTOCOL_TYPE,
        protocol_name=request.protocols[0].name,
        member_id=member.member_id,
    )
    if came_over:
        migration.downgrade_if_possible(core, now_ms)
    return response


def _check_join(core: Core, request: JoinGroupRequest) -> ConsumerProtocolSubscription:
    """Whether the request makes sense in this group; what its first protocol says. Raises KafkaError."""
    limits = core.limits
    if not request.group_id:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)
    if not limits.classic_session_min_ms <= request.session_timeout_ms <= limits.classic_session_max_ms:
        raise KafkaError(ErrorCode.INVALID_SESSION_TIMEOUT)
    if max(len(request.member_id.encode()), len((request.group_instance_id or "").encode())) > ID_BYTES_MAX:
        raise KafkaError(ErrorCode.INVALID_REQUEST)
    offered = {each.name for each in request.protocols}
    others = [
        {name for name, _ in member.classic.protocols}
        for member in core.members.values()
        if member.classic is not None and member.classic.protocols and member.member_id != request.member_id
    ]
    common = offered.intersection(*others)
    if request.protocol_type != PROTOCOL_TYPE or not common:
        raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    subscription = read_subscription(bytes(request.protocols[0].metadata))
    if subscription is None:
        text = "Malformed embedded consumer protocol in subscription deserialization."
        raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, text)
    return subscription


def _member_of(core: Core, request: JoinGroupRequest, given_id: str, now: float) -> tuple[ConsumerMember, bool, bool]:
    """Who this is; whether it is new; whether it, or who it replaces, spoke the consumer protocol."""
    instance_id = request.group_instance_id
    if instance_id is not None:
        holder = core.members.get(core.static.get(instance_id, ""))
        if holder is not None and not request.member_id:
            return core.replace(holder, given_id, now), False, holder.classic is None
        if request.member_id:
            check_instance(core, instance_id, request.member_id)
    member = core.members.get(request.member_id)
    if member is not None:
        return member, False, member.classic is None
    check_size(core)
    return ConsumerMember(request.member_id or given_id), True, False


def _reported(core: Core, subscription: ConsumerProtocolSubscription) -> Mapping[bytes, Collection[int]]:
    """What a member says it still has: eager ones nothing, they revoke before they join (KIP-429)."""
    found: dict[bytes, set[int]] = {}
    names = {name: topic_id for topic_id, name in core.names.items()}
    for topic in subscription.owned_partitions:
        if topic.topic in names:
            found.setdefault(names[topic.topic], set()).update(topic.partitions)
    return found


def sync(core: Core, ticket: Ticket, request: SyncGroupRequest, now: float) -> list[Effect]:
    """SyncGroup. Codes: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, INCONSISTENT_GROUP_PROTOCOL, ILLEGAL_GENERATION,
    REBALANCE_IN_PROGRESS."""
    try:
        response = _sync(core, request, now)
    except KafkaError as error:
        response = SyncGroupResponse(error_code=error.code)
    return core.take(Reply(ticket, response))


def _sync(core: Core, request: SyncGroupRequest, now: float) -> SyncGroupResponse:
    member = _classic(core, request.member_id, request.group_instance_id)
    assert member.classic is not None
    name = member.classic.protocols[0][0] if member.classic.protocols else None
    if request.protocol_type not in (None, PROTOCOL_TYPE) or request.protocol_name not in (None, name):
        raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    if request.generation_id != member.epoch:
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
    if _is_behind(core, member, now) and member.state is not MemberState.UNREVOKED_PARTITIONS:
        _expect_join(core, member, now)
        raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
    member.rebalance_end = None
    core.renew(member, now)
    return SyncGroupResponse(
        protocol_type=PROTOCOL_TYPE, protocol_name=name, assignment=migration.assignment_bytes(core, member)
    )


def heartbeat(core: Core, member_id: str, instance_id: str | None, generation: int, now: float) -> ErrorCode:
    """Heartbeat. Codes: as sync's."""
    try:
        member = _classic(core, member_id, instance_id)
    except KafkaError as error:
        return error.code
    if generation != member.epoch:
        return ErrorCode.ILLEGAL_GENERATION
    core.renew(member, now)
    rejoin = (
        _is_behind(core, member, now)
        or member.state is MemberState.UNREVOKED_PARTITIONS
        or (
            member.state is MemberState.UNRELEASED_PARTITIONS
            and not awaits_others(member, core.target_of(member), core.owners)
        )
    )
    if not rejoin:
        return ErrorCode.NONE
    _expect_join(core, member, now)
    return ErrorCode.REBALANCE_IN_PROGRESS


def leave(
    core: Core, ticket: Ticket, request: LeaveGroupRequest, version: int, now: float, now_ms: int
) -> list[Effect]:
    """LeaveGroup: one member up to version 2, then several, by member id or instance id; as in Kafka 4.3, whichever
    protocol they speak, so that an operator can remove any. Codes of each: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID."""
    many = version >= LEAVE_MANY_SINCE
    identities = request.members if many else [MemberIdentity(member_id=request.member_id)]
    leaving: dict[str, ConsumerMember] = {}
    answers = [
        MemberResponse(
            member_id=each.member_id,
            group_instance_id=each.group_instance_id,
            error_code=_find_leaving(core, each, leaving),
        )
        for each in identities
    ]
    if leaving:
        names = ", ".join(list(leaving)[:3])
        migration.remove(core, leaving.values(), f"{names} left", now, now_ms)
    response = LeaveGroupResponse(members=answers) if many else LeaveGroupResponse(error_code=answers[0].error_code)
    return core.take(Reply(ticket, response))


def _find_leaving(core: Core, identity: MemberIdentity, leaving: dict[str, ConsumerMember]) -> ErrorCode:
    member_id = identity.member_id
    if not member_id and identity.group_instance_id is not None:  # an operator removes a static member
        member_id = core.static.get(identity.group_instance_id, "")
    try:
        leaving[member_id] = _member(core, member_id, identity.group_instance_id)
    except KafkaError as error:
        return error.code
    return ErrorCode.NONE


def _classic(core: Core, member_id: str, instance_id: str | None) -> ConsumerMember:
    """The member. Raises KafkaError: UNKNOWN_MEMBER_ID, if it speaks the consumer protocol too; FENCED_INSTANCE_ID."""
    member = _member(core, member_id, instance_id)
    if member.classic is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
    return member


def _member(core: Core, member_id: str, instance_id: str | None) -> ConsumerMember:
    """The member, whichever protocol it speaks. Raises KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID."""
    if instance_id is not None:
        check_instance(core, instance_id, member_id)
    member = core.members.get(member_id)
    if member is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
    return member


def _is_behind(core: Core, member: ConsumerMember, now: float) -> bool:
    """Whether joining again would take it to a later epoch; while a new target has to wait, it would not."""
    goal = core.target_epoch if core.deferred(now) else core.epoch
    return member.epoch < goal


def _expect_join(core: Core, member: ConsumerMember, now: float) -> None:
    """It has its rebalance timeout to join again, from the first time it is asked."""
    if member.rebalance_end is None:
        core.expect(member, now)
