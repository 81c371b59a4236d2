"""A member of a consumer group (KIP-848): what it said of itself, and what it owns. No decisions.

    epoch     0 joining ──▶ n: reconciled to the target assignment of epoch n ──▶ m > n ...     -2 static, away
    state     STABLE                  it has what it should have, as of `epoch`
              UNREVOKED_PARTITIONS    it has been asked to give up `pending`, and has not said yet that it did
              UNRELEASED_PARTITIONS   it waits for partitions that others have not given up yet

`assigned` and `pending` together are what the member owns: nobody else may have any of it.
(Kafka: ConsumerGroupMember, MemberState.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from kbroker.groups.group import Client
from kbroker.groups.storage.snapshots import (
    Assigned,
    ClassicMemberSnapshot,
    ConsumerMemberSnapshot,
    CurrentMemberSnapshot,
)

Target: TypeAlias = Mapping[bytes, Collection[int]]  # topic id -> partitions
Owned: TypeAlias = dict[bytes, dict[int, int]]  # topic id -> partition -> member epoch at which it was assigned

LEAVING_STATIC = -2  # member epoch of one who leaves (any other: -1), and will be back under the same instance id


class MemberState(IntEnum):
    """The value is what Kafka stores."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    UNRELEASED_PARTITIONS = 2
    UNKNOWN = 127


@dataclass(slots=True)
class ConsumerMember:
    """One member. Changed by its ConsumerGroup only."""

    member_id: str
    client: Client = Client("", "")
    instance_id: str | None = None
    rack_id: str | None = None
    topics: frozenset[str] = frozenset()  # subscribed by name
    regex: str | None = None  # subscribed by regular expression; None or "": not
    rebalance_timeout_ms: int = -1
    server_assignor: str | None = None
    classic: ClassicMemberSnapshot | None = None  # it speaks the classic protocol, and said this
    epoch: int = 0
    previous_epoch: int = 0
    state: MemberState = MemberState.STABLE
    assigned: Owned = field(default_factory=dict)
    pending: Owned = field(default_factory=dict)  # to be given up; empty unless UNREVOKED_PARTITIONS
    session_end: float = 0.0  # liveness seconds
    rebalance_end: float | None = None  # by when it must have revoked; a classic member: joined again, or synced

    def reconciled_to(self, epoch: int) -> bool:
        """Whether it has all that the target assignment of that epoch gives it, and nothing else."""
        return self.state is MemberState.STABLE and self.epoch == epoch

    def owned(self) -> dict[bytes, Set[int]]:
        """All that nobody else may have: topic id -> partitions."""
        return owned_of(self.assigned, self.pending)

    def had(self, topic_id: bytes, epoch: int) -> set[int]:
        """The partitions of a topic that it has, and was given in that member epoch or before (KIP-1251)."""
        return {
            partition
            for partitions in (self.assigned, self.pending)
            for partition, since in partitions.get(topic_id, {}).items()
            if since <= epoch
        }

    def member_snapshot(self, group_id: str) -> ConsumerMemberSnapshot:
        """What it said of itself, as it is stored."""
        return ConsumerMemberSnapshot(
            group_id,
            self.member_id,
            self.instance_id,
            self.rack_id,
            self.client.id,
            self.client.host,
            tuple(sorted(self.topics)),
            self.regex,
            self.rebalance_timeout_ms,
            self.server_assignor,
            self.classic,
        )

    def current_snapshot(self, group_id: str) -> CurrentMemberSnapshot:
        """What it owns, as it is stored."""
        return CurrentMemberSnapshot(
            group_id,
            self.member_id,
            self.epoch,
            self.previous_epoch,
            int(self.state),
            assigned_of(self.assigned),
            epochs_of(self.assigned),
            assigned_of(self.pending),
            epochs_of(self.pending),
        )

    def describe_from(self, snapshot: ConsumerMemberSnapshot) -> None:
        """What it had said of itself."""
        self.client = Client(snapshot.client_id, snapshot.client_host)
        self.instance_id = snapshot.instance_id
        self.rack_id = snapshot.rack_id
        self.topics = frozenset(snapshot.subscribed_topic_names)
        self.regex = snapshot.subscribed_topic_regex
        self.rebalance_timeout_ms = snapshot.rebalance_timeout_ms
        self.server_assignor = snapshot.server_assignor
        self.classic = snapshot.classic

    def own_from(self, snapshot: CurrentMemberSnapshot) -> None:
        """What it had owned. A state of the future is UNKNOWN, as in Kafka."""
        self.epoch = snapshot.member_epoch
        self.previous_epoch = snapshot.previous_member_epoch
        known = snapshot.state in MemberState.__members__.values()
        self.state = MemberState(snapshot.state) if known else MemberState.UNKNOWN
        self.assigned = _owned_from(snapshot.assigned, snapshot.assignment_epochs, snapshot.member_epoch)
        self.pending = _owned_from(snapshot.pending_revocation, snapshot.pending_epochs, snapshot.member_epoch)


def owned_of(assigned: Owned, pending: Owned) -> dict[bytes, Set[int]]:
    """Both together: topic id -> partitions."""
    owned: dict[bytes, Set[int]] = {topic_id: numbers.keys() for topic_id, numbers in assigned.items()}
    for topic_id, numbers in pending.items():
        owned[topic_id] = owned.get(topic_id, frozenset()) | numbers.keys()
    return owned


def assigned_of(partitions: Target) -> Assigned:
    """Partitions as they are stored."""
    return tuple((topic_id, tuple(sorted(partitions[topic_id]))) for topic_id in sorted(partitions))


def epochs_of(owned: Owned) -> tuple[tuple[int, ...], ...]:
    """Since when each of them is owned, as it is stored."""
    return tuple(tuple(owned[topic_id][p] for p in sorted(owned[topic_id])) for topic_id in sorted(owned))


def _owned_from(assigned: Assigned, epochs: tuple[tuple[int, ...], ...] | None, epoch: int) -> Owned:
    """Records of Kafka before 4.3 do not know since when: the member's epoch then, which fences what is older."""
    owned: Owned = {}
    for n, (topic_id, numbers) in enumerate(assigned):
        since = epochs[n] if epochs is not None and n < len(epochs) and len(epochs[n]) == len(numbers) else None
        owned[topic_id] = dict(zip(numbers, since or [epoch] * len(numbers), strict=True))
    return owned
