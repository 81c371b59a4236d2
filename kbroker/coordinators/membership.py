"""What handlers ask of the coordinator about members: to join, to synchronise, to be alive, to leave.

A group is classic or of the consumer protocol (KIP-848), and may change from one to the other with any of these: a
member of the consumer protocol turns a classic group, and a classic member an empty consumer group. Each function
returns its API's answer, or a coroutine of it when it has to wait; `refuse` makes the answer that an error stands for.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest
from kafka_wire.messages.groups import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from kbroker.coordinators.consumer_checks import check_heartbeat
from kbroker.coordinators.consumer_group import ConsumerGroup
from kbroker.coordinators.effects import Client, Effect
from kbroker.coordinators.group import Group
from kbroker.coordinators.shard import Shard, Ticket
from kbroker.coordinators.shell import Coordinator, Refuse

Answer: TypeAlias = "Any | Coroutine[Any, Any, Any]"

GRACE_S = 60.0  # how much later than the group's own timers an answer may come
WAIT_S_MAX = 24 * 3600.0
SYNC_S_MAX = 1800.0  # a SyncGroup does not say what the group's rebalance timeout is


class Asker(NamedTuple):
    """Who sent a request, in which version of its API."""

    client: Client
    version: int


def join(coordinator: Coordinator, request: JoinGroupRequest, asker: Asker, refuse: Refuse) -> Answer:
    """JoinGroup: enter a group, or join its rebalance."""
    group_id, clock = request.group_id, coordinator.env.clock

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        now, now_ms, token = clock.liveness(), clock.data_ms(), coordinator.token()
        group = shard.groups.get(group_id)
        if isinstance(group, ConsumerGroup) and group.is_empty:
            coordinator.perform(shard, group_id, group.delete(now_ms))
            shard.groups.pop(group_id, None)
            group = None
        if group is None:
            group = shard.groups[group_id] = coordinator.new_group(group_id)
        enter = group.classic_join if isinstance(group, ConsumerGroup) else group.join
        return enter(ticket, request, version=asker.version, client=asker.client, token=token, now=now, now_ms=now_ms)

    timeout_s = max(request.rebalance_timeout_ms, request.session_timeout_ms) / 1000
    wait_s = min(timeout_s + GRACE_S, WAIT_S_MAX)
    return coordinator.submit(group_id, event, refuse, wait_s, late=ErrorCode.REBALANCE_IN_PROGRESS)


def sync(coordinator: Coordinator, request: SyncGroupRequest, refuse: Refuse) -> Answer:
    """SyncGroup: the leader hands in the assignment, the others ask for theirs."""

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        group, clock = _member_group(shard, request.group_id), coordinator.env.clock
        ask = group.classic_sync if isinstance(group, ConsumerGroup) else group.sync
        return ask(ticket, request, now=clock.liveness(), now_ms=clock.data_ms())

    return coordinator.submit(request.group_id, event, refuse, SYNC_S_MAX, late=ErrorCode.REBALANCE_IN_PROGRESS)


def heartbeat(coordinator: Coordinator, request: HeartbeatRequest) -> ErrorCode:
    """Heartbeat: the most frequent of all. Raises KafkaError when the group is not to be found here."""
    group_id = request.group_id
    group = coordinator.shard(group_id).groups.get(group_id)
    if group is None:
        return ErrorCode.UNKNOWN_MEMBER_ID
    beat = group.heartbeat if isinstance(group, Group) else group.classic_heartbeat
    return beat(request.member_id, request.group_instance_id, request.generation_id, coordinator.env.clock.liveness())


def leave(coordinator: Coordinator, request: LeaveGroupRequest, version: int, refuse: Refuse) -> Answer:
    """LeaveGroup: members leave at once."""

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        group, clock = _member_group(shard, request.group_id), coordinator.env.clock
        go = group.classic_leave if isinstance(group, ConsumerGroup) else group.leave
        return go(ticket, request, version=version, now=clock.liveness(), now_ms=clock.data_ms())

    return coordinator.submit(request.group_id, event, refuse, GRACE_S)


def consumer_heartbeat(
    coordinator: Coordinator, request: ConsumerGroupHeartbeatRequest, asker: Asker, refuse: Refuse
) -> Answer:
    """ConsumerGroupHeartbeat (KIP-848). A group is made, or turned, only by a member that joins."""
    group_id, clock = request.group_id, coordinator.env.clock

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        now, now_ms = clock.liveness(), clock.data_ms()
        group = shard.groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            if request.member_epoch != 0:
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Consumer group {group_id} not found.")
            limits = coordinator.consumer_limits(group_id)
            check_heartbeat(request, asker.version, limits.assignors)
            group = _consumer_group(coordinator, shard, group_id, group, now)
        return group.heartbeat(
            ticket, request, version=asker.version, client=asker.client, token=coordinator.token(),
            now=now, now_ms=now_ms,
        )  # fmt: skip

    return coordinator.submit(group_id, event, refuse, GRACE_S)


def _consumer_group(
    coordinator: Coordinator, shard: Shard, group_id: str, classic: Group | None, now: float
) -> ConsumerGroup:
    """A new consumer group, or what a classic one becomes. Raises KafkaError when that one may not."""
    limits, topics = coordinator.consumer_limits(group_id), coordinator.topics
    if classic is None:
        made = shard.groups[group_id] = ConsumerGroup(group_id, limits, topics)
        return made
    made, effects = ConsumerGroup.from_classic(classic, limits, topics, now=now)
    shard.groups[group_id] = made
    coordinator.perform(shard, group_id, effects)
    return made


def _member_group(shard: Shard, group_id: str) -> Group | ConsumerGroup:
    group = shard.groups.get(group_id)
    if group is None:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
    return group
