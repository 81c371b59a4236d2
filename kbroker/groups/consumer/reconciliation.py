"""One member's step from what it owns towards what it should own. Pure; nobody else is disturbed.

    kept     = assigned ∩ target      never taken away, whatever happens to the rest
    revoked  = assigned − target      first given up, and acknowledged: UNREVOKED_PARTITIONS, still in the old epoch
    wanted   = target − assigned      then given, as far as nobody owns it: STABLE, or UNRELEASED_PARTITIONS

A partition has one owner: it is wanted by the next one only after the last one said, in a heartbeat, that it let go.
(Kafka: CurrentAssignmentBuilder.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import NamedTuple

from kbroker.coordinators.effects import Pair
from kbroker.groups.consumer.member import (
    ConsumerMember,
    MemberState,
    Owned,
    Target,
    assigned_of,
    epochs_of,
    owned_of,
)
from kbroker.groups.storage.snapshots import CurrentMemberSnapshot
from kbroker.groups.storage.stored import state_pair_in_turns
from kbroker.turns import Effort, Work, rest

TOPIC_STEPS = 8  # to look at one topic
LONG_TOPICS = 100  # whose record is made in turns

STABLE, UNREVOKED, UNRELEASED, UNKNOWN = MemberState


class Step(NamedTuple):
    """What becomes of the member."""

    state: MemberState
    epoch: int
    assigned: Owned
    pending: Owned


class Move(NamedTuple):
    """A step with all that is made of it: what takes long is done when it is made, not when it is carried out."""

    step: Step
    freed: Mapping[bytes, Set[int]]  # owned before, and not any more
    given: Mapping[bytes, Set[int]]  # owned from now on
    freed_names: Sequence[tuple[str, int]]  # the same with names for ids
    given_names: Sequence[tuple[str, int]]
    is_other: bool  # what the member may use is different
    record: CurrentMemberSnapshot | Pair


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

    def are_free(self, partitions: Mapping[bytes, Collection[int]]) -> bool:
        """Whether nobody owns any of these."""
        owners = self._owners
        return all(owners[topic_id].keys().isdisjoint(partitions[topic_id]) for topic_id in owners.keys() & partitions)

    def give_all(self, member_id: str, partitions: Mapping[bytes, Collection[int]]) -> None:
        """A member owns these from now on; nobody else does."""
        owners = self._owners
        assert self.are_free(partitions), "a partition has one owner"
        for topic_id, numbers in partitions.items():
            owners.setdefault(topic_id, {}).update(dict.fromkeys(numbers, member_id))

    def free_all(self, member_id: str, partitions: Mapping[bytes, Collection[int]]) -> None:
        """A member owns these no longer."""
        owners = self._owners
        whole = [topic_id for topic_id in partitions if len(owners[topic_id]) == len(partitions[topic_id])]
        gone = [owners.pop(topic_id) == dict.fromkeys(partitions[topic_id], member_id) for topic_id in whole]
        assert all(gone), "it was theirs"
        for topic_id in partitions.keys() - whole:
            self.free(member_id, topic_id, partitions[topic_id])

    def give(self, member_id: str, topic_id: bytes, numbers: Collection[int]) -> None:
        """A member owns these from now on; nobody else does."""
        partitions = self._owners.setdefault(topic_id, {})
        assert partitions.keys().isdisjoint(numbers), "a partition has one owner"
        partitions.update(dict.fromkeys(numbers, member_id))

    def free(self, member_id: str, topic_id: bytes, numbers: Collection[int]) -> None:
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
) -> Work[Step | None]:
    """What the member may do now; None: nothing changes. In turns: what was free may not be when it is done.

    Args:
        target: what it is to own, in target_epoch.
        reported: what it says it owns; None: it did not say, so it has revoked nothing yet.
    """
    if member.reconciled_to(target_epoch):
        return None
    if member.state is UNREVOKED and _has_any(reported, member.pending):
        return None
    step = yield from _advance(member, target_epoch, target, owners, reported)
    unchanged = (step.state, step.epoch, step.assigned, step.pending) == (
        member.state, member.epoch, member.assigned, member.pending
    )  # fmt: skip
    return None if unchanged else step


def move(
    group_id: str,
    member: ConsumerMember,
    step: Step,
    named: Callable[[Mapping[bytes, Collection[int]]], Sequence[tuple[str, int]]],
) -> Work[Move]:
    """What a step comes to. named: puts names for topic ids."""
    before, after = member.owned(), owned_of(step.assigned, step.pending)
    yield from rest(len(before) + len(after))
    freed = _without(before, after)
    yield from rest(2 * len(before))
    given = _without(after, before)
    yield from rest(2 * len(after))
    names = named(freed), named(given)
    yield from rest(4 * (len(names[0]) + len(names[1])))
    is_other = _partitions(member.assigned) != _partitions(step.assigned)
    yield from rest(len(before) + len(after))
    previous = member.epoch if step.epoch != member.epoch else member.previous_epoch
    snapshot = CurrentMemberSnapshot(
        group_id,
        member.member_id,
        step.epoch,
        previous,
        int(step.state),
        assigned_of(step.assigned),
        epochs_of(step.assigned),
        assigned_of(step.pending),
        epochs_of(step.pending),
    )
    if len(after) < LONG_TOPICS:
        return Move(step, freed, given, *names, is_other, snapshot)
    yield from rest(4 * len(after))
    return Move(step, freed, given, *names, is_other, (yield from state_pair_in_turns(snapshot)))


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
) -> Work[Step]:
    kept: Owned = {}
    revoked: Owned = {}
    effort = Effort()
    for topic_id, numbers in member.assigned.items():
        wanted = target.get(topic_id, ())
        gone = numbers.keys() - wanted
        if gone:
            revoked[topic_id] = {partition: numbers[partition] for partition in numbers if partition in gone}
        if len(gone) < len(numbers):
            kept[topic_id] = {partition: numbers[partition] for partition in numbers if partition not in gone}
        if effort.spent(TOPIC_STEPS):
            yield
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
        if effort.spent(TOPIC_STEPS):
            yield
    return Step(UNRELEASED if unreleased else STABLE, target_epoch, kept, {})


def _has_any(reported: Mapping[bytes, Collection[int]] | None, partitions: Owned) -> bool:
    """Whether a member still has one of these, or did not say."""
    if reported is None:
        return bool(partitions)
    return any(not partitions[topic_id].keys().isdisjoint(reported.get(topic_id, ())) for topic_id in partitions)


def _partitions(owned: Owned) -> dict[bytes, Set[int]]:
    return {topic_id: numbers.keys() for topic_id, numbers in owned.items()}


def _without(owned: Mapping[bytes, Set[int]], others: Mapping[bytes, Set[int]]) -> dict[bytes, Set[int]]:
    left = {
        topic_id: owned[topic_id] - others[topic_id] if topic_id in others else owned[topic_id] for topic_id in owned
    }
    return {topic_id: numbers for topic_id, numbers in left.items() if numbers}
