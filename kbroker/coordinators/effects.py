"""What a pure core asks of its shell, in order; and the values a classic group keeps in `__consumer_offsets`.

    core.event(..., now) ──▶ [Store(records), Reply(ticket, response), ...]       core.deadline ──▶ when to call on_alarm

The rules the shell keeps:
 - Effects of one group are performed in the order they were returned, across calls too: a Reply is sent when every
   Store of its group that was returned before it is committed (G2).
 - A Store that cannot be committed leaves the memory ahead of the log. The shell then drops the shard's groups
   (`Group.resign` answers those who wait) and loads them again from the log; a core knows no undo.
 - `deadline` is in liveness seconds. It may be early, never late: on_alarm finds out, and sets it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Ticket: TypeAlias = object  # a waiting request; made by the shell, opaque and hashable here, answered exactly once
EncodedRecord: TypeAlias = tuple[bytes, bytes | None]  # key, value; the value None is a tombstone


class StateRecord:
    """Base of the values that coordinators/records.py turns into one record's key and value, and back."""

    __slots__ = ()


class Client(NamedTuple):
    """Who sent a request, as describe shows it."""

    id: str  # the client.id of the request header; "" when it had none
    host: str  # "/127.0.0.1", as Kafka writes it


@dataclass(frozen=True, slots=True)
class MemberSnapshot:
    """One member in GroupMetadataValue."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes  # its metadata for the group's protocol
    assignment: bytes


@dataclass(frozen=True, slots=True)
class GroupSnapshot(StateRecord):
    """A classic group as one record (GroupMetadataKey 2, GroupMetadataValue 0–4): STABLE, or EMPTY without members."""

    group_id: str
    protocol_type: str | None  # stored as "" when None
    generation: int
    protocol: str | None  # None when empty
    leader: str | None  # member id; None when empty
    state_timestamp_ms: int  # data time of the last change of state; -1 when unknown (value versions 0 and 1)
    members: tuple[MemberSnapshot, ...]


@dataclass(frozen=True, slots=True)
class GroupTombstone(StateRecord):
    """The classic group is gone: its key without a value."""

    group_id: str


@dataclass(frozen=True, slots=True)
class Store:
    """Append these to the group's partition, in one batch."""

    records: tuple[StateRecord | EncodedRecord, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a waiting request with a response of kafka_wire.messages."""

    to: Ticket
    response: object


Effect: TypeAlias = Store | Reply
