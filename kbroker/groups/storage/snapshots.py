"""What groups store: each value is one record of `__consumer_offsets`, written and read by stored.py.

classic group     GroupSnapshot (all of it, its members included) ──▶ GroupTombstone
consumer group    ConsumerGroupSnapshot, and of each member ConsumerMemberSnapshot, TargetMemberSnapshot,
                  CurrentMemberSnapshot; TargetEpochSnapshot, RegexSnapshot ──▶ ConsumerGroupTombstone, one each
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kbroker.coordinators.effects import StateRecord


class MemberSnapshot(NamedTuple):
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


# -- what a consumer group (KIP-848) stores; partitions are by topic id, sorted, no empty lists

Assigned: TypeAlias = tuple[tuple[bytes, tuple[int, ...]], ...]  # (topic id, partitions), sorted


@dataclass(frozen=True, slots=True)
class ConsumerGroupSnapshot(StateRecord):
    """A consumer group exists, in this epoch (key 3)."""

    group_id: str
    epoch: int
    metadata_hash: int  # of the subscribed topics' ids and partition counts, signed 64 bits; 0: of none


class ClassicMemberSnapshot(NamedTuple):
    """What a member of a consumer group said that speaks the classic protocol."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]  # name, metadata; in order of preference


@dataclass(frozen=True, slots=True)
class ConsumerMemberSnapshot(StateRecord):
    """What a member said of itself (key 5)."""

    group_id: str
    member_id: str
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    subscribed_topic_names: tuple[str, ...]  # sorted
    subscribed_topic_regex: str | None
    rebalance_timeout_ms: int
    server_assignor: str | None
    classic: ClassicMemberSnapshot | None  # None: it speaks the consumer protocol


@dataclass(frozen=True, slots=True)
class TargetEpochSnapshot(StateRecord):
    """The group epoch for which the target assignment was computed, and when (key 6)."""

    group_id: str
    epoch: int
    timestamp_ms: int  # data time


@dataclass(frozen=True, slots=True)
class TargetMemberSnapshot(StateRecord):
    """What a member is to own (key 7)."""

    group_id: str
    member_id: str
    partitions: Assigned


@dataclass(frozen=True, slots=True)
class CurrentMemberSnapshot(StateRecord):
    """What a member owns, and what it is giving up (key 8)."""

    group_id: str
    member_id: str
    member_epoch: int  # -2: a static member that left for a while
    previous_member_epoch: int
    state: int  # 0 stable, 1 unrevoked partitions, 2 unreleased partitions, 127 unknown
    assigned: Assigned
    assignment_epochs: tuple[tuple[int, ...], ...] | None  # aligned with `assigned`; None: not known
    pending_revocation: Assigned
    pending_epochs: tuple[tuple[int, ...], ...] | None  # aligned with `pending_revocation`


@dataclass(frozen=True, slots=True)
class RegexSnapshot(StateRecord):
    """The topics a regular expression was found to match (key 16)."""

    group_id: str
    regex: str
    topics: tuple[str, ...]  # sorted
    version: int  # of the cluster's picture; 0: not told
    timestamp_ms: int  # data time


@dataclass(frozen=True, slots=True)
class ConsumerGroupTombstone(StateRecord):
    """A record of the above is gone: its key without a value."""

    key_type: int  # 3, 5, 6, 7, 8 or 16
    group_id: str
    member_id: str = ""  # key types 5, 7 and 8; of 16 the regular expression
