"""What handlers ask of the coordinator about members: to join, to synchronise, to be alive, to leave.

A group is classic or of the consumer protocol (KIP-848), and may change from one to the other with any of these: a
member of the consumer protocol turns a classic group, and a classic member an empty consumer group. Each function
returns its API's answer, or a coroutine of it when it has to wait; `refuse` makes the answer that an error stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias, cast

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest
from kafka_wire.messages.groups import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    LeaveGroupResponse,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kbroker.coordinators.effects import Effect, Reply
from kbroker.coordinators.shard import Refuse, Ticket
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.groups.group import Client, Group
from kbroker.groups.shard import GroupShard
from kbroker.turns import Work, answer, each

Answer: TypeAlias = "Any | Coroutine[Any, Any, Any]"

GRACE_S = 60.0  # how much later than the group's own timers an answer may come
WAIT_S_MAX = 24 * 3600.0
LEAVE_MAX = 500  # members that leave between two checkpoints
SYNC_S_MAX = 1800.0  # a SyncGroup does not say what the group's rebalance timeout is


class Asker(NamedTuple):
    """Who sent a request, in which version of its API."""

    client: Client
    version: int


def join(coordinator: GroupCoordinator, request: JoinGroupRequest, asker: Asker, refuse: Refuse) -> Answer:
    """JoinGroup: enter a group, or join its rebalance."""
    clock = coordinator.env.clock

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group, effects = shard.group_to_join(request.group_id)
        effects += _show_topics(coordinator, group)
        effects += group.join(
            ticket, request, version=asker.version, client=asker.client, token=coordinator.token(),
            now=clock.liveness(), now_ms=clock.data_ms(),
        )  # fmt: skip
        return effects

    timeout_s = max(request.rebalance_timeout_ms, request.session_timeout_ms) / 1000
    wait_s = min(timeout_s + GRACE_S, WAIT_S_MAX)
    return coordinator.runtime.submit(request.group_id, event, refuse, wait_s, late=ErrorCode.REBALANCE_IN_PROGRESS)


def sync(coordinator: GroupCoordinator, request: SyncGroupRequest, refuse: Refuse) -> Answer:
    """SyncGroup: the leader hands in the assignment, the others ask for theirs."""
    return answer(_sync(coordinator, request, refuse))


def _sync(coordinator: GroupCoordinator, request: SyncGroupRequest, refuse: Refuse) -> Work[Answer]:
    clock = coordinator.env.clock
    assignments = dict((yield from each(_assignment, request.assignments)))

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group = _member_group(shard, request.group_id)
        effects = _show_topics(coordinator, group)
        return effects + group.sync(ticket, request, assignments, now=clock.liveness(), now_ms=clock.data_ms())

    return coordinator.runtime.submit(request.group_id, event, refuse, SYNC_S_MAX, late=ErrorCode.REBALANCE_IN_PROGRESS)


def _assignment(of_member: SyncGroupRequestAssignment) -> tuple[str, bytes]:
    return of_member.member_id, bytes(of_member.assignment)


def heartbeat(coordinator: GroupCoordinator, request: HeartbeatRequest) -> ErrorCode:
    """Heartbeat: the most frequent of all. Raises KafkaError when the group is not to be found here."""
    group_id = request.group_id
    shard = coordinator.shard(group_id)
    group = shard.groups.get(group_id)
    if group is None:
        return ErrorCode.UNKNOWN_MEMBER_ID
    effects = _show_topics(coordinator, group)
    if effects:
        coordinator.runtime.perform(shard, group_id, effects)
    now = coordinator.env.clock.liveness()
    return group.heartbeat(request.member_id, request.group_instance_id, request.generation_id, now)


def leave(coordinator: GroupCoordinator, request: LeaveGroupRequest, version: int, refuse: Refuse) -> Answer:
    """LeaveGroup: members leave at once; very many do so some at a time."""
    if len(request.members) > LEAVE_MAX:
        return _leave_many(coordinator, request, version, refuse)
    return _leave(coordinator, request, version, refuse)


async def _leave_many(
    coordinator: GroupCoordinator, request: LeaveGroupRequest, version: int, refuse: Refuse
) -> LeaveGroupResponse:
    told = LeaveGroupResponse()
    for first in range(0, len(request.members), LEAVE_MAX):
        some = LeaveGroupRequest(group_id=request.group_id, members=request.members[first : first + LEAVE_MAX])
        left: Any = _leave(coordinator, some, version, refuse)
        if isinstance(left, CoroutineType):
            left = await left
        await trio.lowlevel.checkpoint()
        if left.error_code:
            return cast(LeaveGroupResponse, left)
        told.members += left.members
    return told


def _leave(coordinator: GroupCoordinator, request: LeaveGroupRequest, version: int, refuse: Refuse) -> Answer:
    clock = coordinator.env.clock

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group = _member_group(shard, request.group_id)
        return group.leave(ticket, request, version=version, now=clock.liveness(), now_ms=clock.data_ms())

    return coordinator.runtime.submit(request.group_id, event, refuse, GRACE_S)


def consumer_heartbeat(
    coordinator: GroupCoordinator,
    request: ConsumerGroupHeartbeatRequest,
    asker: Asker,
    refuse: Callable[[ErrorCode, str | None], Any],
) -> Answer:
    """ConsumerGroupHeartbeat (KIP-848). A group is made, or turned, only by a member that joins.

    refuse: the answer that an error stands for, with the group's reason if it has one.
    """
    from kbroker.groups.consumer.checks import check_heartbeat  # here: most brokers start faster without it

    group_id, clock = request.group_id, coordinator.env.clock

    def beat(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group, effects = shard.groups.get(group_id), list[Effect]()
        if request.member_epoch == 0:
            check_heartbeat(request, asker.version, coordinator.settings_of(group_id).consumer.assignors)
            group, effects = shard.consumer_group_to_join(group_id)
        try:
            if group is None:
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Consumer group {group_id} not found.")
            effects += _show_topics(coordinator, group)
            effects += group.consumer_heartbeat(
                ticket, request, version=asker.version, client=asker.client, token=coordinator.token(),
                now=clock.liveness(), now_ms=clock.data_ms(),
            )  # fmt: skip
        except KafkaError:  # there is no such group: what is wrong with the request itself is said first, as in Kafka
            check_heartbeat(request, asker.version, coordinator.settings_of(group_id).consumer.assignors)
            raise
        return effects

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        try:
            return beat(shard, ticket)
        except KafkaError as error:
            return [Reply(ticket, refuse(error.code, error.message))]

    return coordinator.runtime.submit(group_id, event, lambda code: refuse(code, None), GRACE_S)


def _show_topics(coordinator: GroupCoordinator, group: Group) -> list[Effect]:
    """What comes of it that there are other topics than when a member of the group was last heard of."""
    clock = coordinator.env.clock
    return group.see_topics(coordinator.topics, clock.liveness(), clock.data_ms())


def _member_group(shard: GroupShard, group_id: str) -> Group:
    group = shard.groups.get(group_id)
    if group is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
    return group
