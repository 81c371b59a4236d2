"""One member's step from what it owns towards what it should own. Pure; nobody else is disturbed.

    kept     = assigned ∩ target      never taken away, whatever happens to the rest
    revoked  = assigned − target      first given up, and acknowledged: UNREVOKED_PARTITIONS, still in the old epoch
    wanted   = target − assigned      then given, as far as nobody owns it: STABLE, or UNRELEASED_PARTITIONS

A partition has one owner: it is wanted by the next one only after the last one said, in a heartbeat, that it let go.
(Kafka: CurrentAssignmentBuilder.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kbroker.groups.consumer.member import ConsumerMember, MemberState, Owned, Target

STABLE, UNREVOKED, UNRELEASED, UNKNOWN = MemberState


class Step(NamedTuple):
    """What becomes of the member."""

    state: MemberState
    epoch: int
    assigned: Owned
    pending: Owned


class Owners:
    """Who owns which partition: at most one member."""

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: dict[bytes, dict[int, str]] = {}

    def of(self, topic_id: bytes, partition: int) -> str | None:
        """The member that owns it."""
        return self._owners.get(topic_id, {}).get(partition)

    def owned(self, topic_id: bytes) -> Mapping[int, str]:
        """The partitions of a topic that have owners."""
        return self._owners.get(topic_id, {})

    def give(self, member_id: str, topic_id: bytes, numbers: Collection[int]) -> None:
        """A member owns these from now on; nobody else does."""
        partitions = self._owners.setdefault(topic_id, {})
        assert partitions.keys().isdisjoint(numbers), "a partition has one owner"
        partitions.update(dict.fromkeys(numbers, member_id))

    def free(self, member_id: str, topic_id: bytes, numbers: Iterable[int]) -> None:
        """A member owns these no longer."""
        partitions = self._owners[topic_id]
        for partition in numbers:
            assert partitions.pop(partition) == member_id
        if not partitions:
            del self._owners[topic_id]


def next_step(
    member: ConsumerMember,
    target_epoch: int,
    target: Target,
    owners: Owners,
    reported: Mapping[bytes, Collection[int]] | None,
) -> Step | None:
    """What the member may do now; None: nothing changes.

    Args:
        target: what it is to own, in target_epoch.
        reported: what it says it owns; None: it did not say, so it has revoked nothing yet.
    """
    if member.reconciled_to(target_epoch):
        return None
    if member.state is UNREVOKED and _has_any(reported, member.pending):
        return None
    step = _advance(member, target_epoch, target, owners, reported)
    unchanged = (step.state, step.epoch, step.assigned, step.pending) == (
        member.state, member.epoch, member.assigned, member.pending
    )  # fmt: skip
    return None if unchanged else step


def awaits_others(member: ConsumerMember, target: Target, owners: Owners) -> bool:
    """Whether something it is to own is still somebody else's."""
    return any(
        partition not in member.assigned.get(topic_id, ())
        and owners.of(topic_id, partition) not in (None, member.member_id)
        for topic_id, numbers in target.items()
        for partition in numbers
    )


def _advance(
    member: ConsumerMember,
    target_epoch: int,
    target: Target,
    owners: Owners,
    reported: Mapping[bytes, Collection[int]] | None,
) -> Step:
    kept: Owned = {}
    revoked: Owned = {}
    for topic_id, numbers in member.assigned.items():
        wanted = target.get(topic_id, ())
        gone = numbers.keys() - wanted
        if gone:
            revoked[topic_id] = {partition: numbers[partition] for partition in numbers if partition in gone}
        if len(gone) < len(numbers):
            kept[topic_id] = {partition: numbers[partition] for partition in numbers if partition not in gone}
    if revoked and _has_any(reported, revoked):
        return Step(UNREVOKED, member.epoch, kept, revoked)
    unreleased = False
    for topic_id, wanted in target.items():
        owned = owners.owned(topic_id)
        new = set(wanted).difference(kept.get(topic_id, ()))
        others = {partition for partition in new.intersection(owned) if owned[partition] != member.member_id}
        new -= others
        unreleased |= bool(others)
        if new:
            kept.setdefault(topic_id, {}).update(dict.fromkeys(sorted(new), target_epoch))
    return Step(UNRELEASED if unreleased else STABLE, target_epoch, kept, {})


def _has_any(reported: Mapping[bytes, Collection[int]] | None, partitions: Owned) -> bool:
    """Whether a member still has one of these, or did not say."""
    if reported is None:
        return bool(partitions)
    return any(not partitions[topic_id].keys().isdisjoint(reported.get(topic_id, ())) for topic_id in partitions)
