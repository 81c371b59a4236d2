"""Group, the classic group (signatures first; the body follows)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_admin import DescribedGroup, ListedGroup
from kafka_wire.messages.groups import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from kbroker.coordinators.effects import Client, Effect, GroupSnapshot, Ticket
from kbroker.coordinators.timeline import Timeline


class GroupState(Enum):
    """The value is Kafka's name on the wire."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What a broker's configuration says about classic groups."""

    session_timeout_min_ms: int = 6_000  # group.min.session.timeout.ms
    session_timeout_max_ms: int = 1_800_000  # group.max.session.timeout.ms
    size_max: int = 1_000  # group.max.size
    initial_rebalance_delay_ms: int = 0  # group.initial.rebalance.delay.ms
    snapshot_bytes_max: int = 1_000_000  # a group's record must fit max.message.bytes of __consumer_offsets


class Group:
    """now: liveness, seconds; now_ms: data time. Every event returns effects, to be performed in order."""

    group_id: str
    state: GroupState
    generation: int
    protocol_type: str | None
    protocol: str | None
    deadline: float | None  # liveness seconds
    timeline: Timeline

    def __init__(self, group_id: str, limits: GroupLimits, *, now_ms: int) -> None:
        """A new group: EMPTY, generation 0. Nothing is stored until it has members or offsets."""

    @classmethod
    def restore(cls, snapshot: GroupSnapshot, limits: GroupLimits, *, now: float) -> Group:
        """STABLE with fresh session timers, or EMPTY. (A missing or tombstoned record: no group, or Group() for offsets only.)"""
        raise NotImplementedError

    def join(
        self, ticket: Ticket, request: JoinGroupRequest, *, version: int, client: Client, token: str, now: float, now_ms: int
    ) -> list[Effect]:
        """token: a random UUID's text; a new member's id is "<instance id or client id>-<token>"."""
        raise NotImplementedError

    def sync(self, ticket: Ticket, request: SyncGroupRequest, *, now: float, now_ms: int) -> list[Effect]:
        raise NotImplementedError

    def heartbeat(self, member_id: str, group_instance_id: str | None, generation: int, now: float) -> ErrorCode:
        """Answered at once, by a code: the hottest event."""
        raise NotImplementedError

    def leave(self, ticket: Ticket, request: LeaveGroupRequest, *, version: int, now: float, now_ms: int) -> list[Effect]:
        raise NotImplementedError

    def check_commit(
        self, member_id: str, group_instance_id: str | None, generation: int, *, now: float, transactional: bool = False
    ) -> None:
        """Raise KafkaError when this commit must not be stored; else it counts as a heartbeat."""

    def check_offset_delete(self) -> frozenset[str]:
        """The topics whose offsets must stay (GROUP_SUBSCRIBED_TO_TOPIC). Raises GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP."""
        raise NotImplementedError

    def on_alarm(self, now: float, now_ms: int) -> list[Effect]:
        raise NotImplementedError

    def delete(self, now_ms: int) -> list[Effect]:
        """[Store(tombstone)] and DEAD. Raises KafkaError NON_EMPTY_GROUP; GROUP_ID_NOT_FOUND when DEAD."""
        raise NotImplementedError

    def resign(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> list[Effect]:
        """The shard goes away: DEAD, and a Reply with code for everybody who waits."""
        raise NotImplementedError

    def snapshot(self) -> GroupSnapshot:
        """The record of the group as it is (compaction by rewriting; conversion to a consumer group)."""
        raise NotImplementedError

    def describe(self) -> DescribedGroup:
        raise NotImplementedError

    def list(self) -> ListedGroup:
        raise NotImplementedError

    @property
    def empty_since_ms(self) -> int | None:
        """Data time since when it has no members; None while it has (G5: offsets do not expire); 0 for a group that never
        had any, whose offsets expire by their own commit time."""
        raise NotImplementedError

    @property
    def forgettable(self) -> bool:
        """Nothing of it is stored and nobody waits: the shell may drop it from memory."""
        raise NotImplementedError
