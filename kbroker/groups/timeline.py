"""The last rebalances of one group: when each began, who was waited for, how long which partition had no owner.

    began ──▶ arrived(member) ... ──▶ joined ──▶ ended(generation)          one Rebalance; a ring of the last 32
                released(member, partitions)   taken(member, partitions)    who owns what, meanwhile

A partition is unowned from the moment its owner gives it up until the next owner has it. The group says when that is:

    classic, eager         from the JoinGroup of the old owner, which revokes all before it, to the new assignments
    classic, cooperative   a member that joins lists what it keeps (KIP-429); what it must hand over is free from the
                           assignment that takes it away to the one that gives it to another
    KIP-848                from the heartbeat that acknowledges the revocation to the assignment of the new owner

Pure: `now` (liveness, seconds) measures, `now_ms` (data time) dates. Bounded: the ring, the members and partitions of
each rebalance have limits; what falls beyond is still counted. In memory only: it starts anew with the coordinator.
Outside it is seen by way of timeline_views.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

REBALANCES_MAX = 32
PARTITIONS_MAX = 1_000  # whose unowned time one rebalance itemises
MEMBERS_MAX = 1_000  # whose arrival one rebalance itemises
TOTALS_MAX = 10_000  # partitions whose unowned time is summed up; a leader may assign what does not exist

TopicPartition: TypeAlias = tuple[str, int]


@dataclass(slots=True)
class Rebalance:
    """One rebalance. Times of length None have not come, or never will."""

    reason: str
    began_ms: int  # data time
    generation: int = -1  # the generation (or group epoch) that came of it; -1: none yet, or another rebalance cut in
    waits_ms: dict[str, int | None] = field(default_factory=dict)  # member id -> when it came; None: not yet
    given_up: list[str] = field(default_factory=list)  # members removed because they did not come
    joined_after_ms: int | None = None  # until everybody had come, or was given up
    ended_after_ms: int | None = None  # until assignments were handed out
    partitions_moved: int = 0  # whose owner is another one than before
    partitions_unowned: int = 0  # which were without an owner for a while
    unowned_ms_max: int = 0
    unowned_ms: dict[TopicPartition, int] = field(default_factory=dict)  # the first PARTITIONS_MAX of them


class _Freed(NamedTuple):
    since: float
    owner: str  # the last one
    assignments: int  # how many had been made by then


class Timeline:
    """The rebalances of a group, and the owners of its partitions as far as that is known."""

    __slots__ = ("rebalances", "_began", "_owner", "_owned", "_free", "_assignments", "_unowned_s")

    def __init__(self) -> None:
        self.rebalances: deque[Rebalance] = deque(maxlen=REBALANCES_MAX)  # oldest first
        self._began = 0.0  # of the last one; liveness seconds
        self._owner: dict[TopicPartition, str] = {}
        self._owned: dict[str, set[TopicPartition]] = {}  # the same, by member id
        self._free: dict[TopicPartition, _Freed] = {}
        self._assignments = 0
        self._unowned_s: dict[TopicPartition, float] = {}  # of all rebalances so far, forgotten ones too

    @property
    def under_way(self) -> Rebalance | None:
        """The rebalance that has not ended."""
        if self.rebalances and self.rebalances[-1].ended_after_ms is None:
            return self.rebalances[-1]
        return None

    @property
    def began(self) -> float:
        """When the last rebalance began, in liveness seconds."""
        return self._began

    def unowned_s(self) -> dict[TopicPartition, float]:
        """Seconds without an owner, by partition; never less than before, and 0 for one that has always had one.

        A gap counts when it is over. (The counter kbroker_group_partition_unowned_seconds_total.)
        """
        return {**dict.fromkeys(self._owner, 0.0), **self._unowned_s}

    def begin(self, reason: str, awaited: Iterable[str], now: float, now_ms: int) -> None:
        """A rebalance begins, and these members have not come yet. One under way is cut short by it."""
        self.end(-1, now)
        waits: dict[str, int | None] = dict.fromkeys(awaited)
        for member_id in list(waits)[MEMBERS_MAX:]:
            del waits[member_id]
        self._began = now
        self.rebalances.append(Rebalance(reason, now_ms, waits_ms=waits))

    def arrived(self, member_id: str, now: float) -> None:
        """A member has joined: awaited ones get their time, others are added."""
        current = self.under_way
        if current is None or current.waits_ms.get(member_id) is not None:
            return
        if member_id in current.waits_ms or len(current.waits_ms) < MEMBERS_MAX:
            current.waits_ms[member_id] = self._after_ms(now)

    def joined(self, given_up: Iterable[str], now: float) -> None:
        """Everybody has come but these, who are given up."""
        current = self.under_way
        if current is not None:
            current.given_up.extend(list(given_up)[:MEMBERS_MAX])
            current.joined_after_ms = self._after_ms(now)

    def end(self, generation: int, now: float) -> None:
        """The rebalance is over: its assignments are handed out, or the group is empty."""
        current = self.under_way
        if current is not None:
            current.generation = generation
            current.ended_after_ms = self._after_ms(now)

    def released(self, member_id: str, partitions: Collection[TopicPartition], since: float) -> None:
        """A member has given these up. Those it does not own are ignored."""
        owned = self._owned.get(member_id)
        if owned:
            gone = owned.intersection(partitions)
            owned -= gone
            self._free.update(dict.fromkeys(gone, _Freed(since, member_id, self._assignments)))
            deque(map(self._owner.pop, gone), maxlen=0)

    def kept(self, member_id: str, partitions: Collection[TopicPartition], since: float) -> None:
        """A member owns no more than these: the rest it has given up."""
        owned = self._owned.get(member_id)
        if owned:
            self.released(member_id, owned.difference(partitions), since)

    def left(self, member_id: str, since: float) -> None:
        """A member is gone, and gave up what it had."""
        self.kept(member_id, (), since)
        self._owned.pop(member_id, None)

    def renamed(self, old_id: str, new_id: str) -> None:
        """A static member came back under a new id and goes on where it was (KIP-345)."""
        owned = self._owned.pop(old_id, None)
        if owned:
            self._owned[new_id] = owned
            self._owner.update(dict.fromkeys(owned, new_id))

    def taken(self, member_id: str, partitions: Iterable[TopicPartition], now: float) -> None:
        """A member owns these from now on."""
        owned = self._owned.setdefault(member_id, set())
        last = self.rebalances[-1] if self.rebalances else None
        new = set(partitions) - owned
        for each in new & self._owner.keys():  # handed over without a gap
            self._owned[self._owner[each]].discard(each)
            if last is not None:
                last.partitions_moved += 1
        gaps: dict[_Freed, list[TopicPartition]] = {}
        for each in sorted(new & self._free.keys()):
            gaps.setdefault(self._free.pop(each), []).append(each)
        for freed, after_gap in gaps.items():
            self._count_gap(after_gap, now - freed.since)
            if last is not None:
                _note_gap(last, after_gap, round((now - freed.since) * 1000))
                if freed.owner != member_id:
                    last.partitions_moved += len(after_gap)
        self._owner.update(dict.fromkeys(new, member_id))
        owned |= new

    def assigned(self, assignment: Mapping[str, Collection[TopicPartition]], now: float) -> None:
        """Everybody's partitions at once: what a member does not find in its own, it has to give up."""
        for member_id in list(self._owned):
            self.kept(member_id, assignment.get(member_id, ()), now)
            if member_id not in assignment:
                self._owned.pop(member_id)
        for member_id, partitions in assignment.items():
            self.taken(member_id, partitions, now)
        self._assignments += 1
        # What two assignments in a row leave out is not about to be handed over: nobody wants it (any more).
        forgotten = [each for each, freed in self._free.items() if self._assignments - freed.assignments > 1]
        for each in forgotten:
            del self._free[each]

    def _count_gap(self, partitions: Sequence[TopicPartition], gap_s: float) -> None:
        if gap_s > 0:
            total = self._unowned_s
            known = total.keys() & partitions
            if len(known) < len(partitions) and len(total) < TOTALS_MAX:
                new = [each for each in partitions if each not in known]
                total.update(dict.fromkeys(new[: TOTALS_MAX - len(total)], gap_s))
            total.update({each: total[each] + gap_s for each in known})

    def _after_ms(self, now: float) -> int:
        return round((now - self._began) * 1000)


def _note_gap(rebalance: Rebalance, partitions: Sequence[TopicPartition], gap_ms: int) -> None:
    """Partitions had no owner for a while; no time at all is not worth a line."""
    if gap_ms <= 0:
        return
    rebalance.partitions_unowned += len(partitions)
    rebalance.unowned_ms_max = max(rebalance.unowned_ms_max, gap_ms)
    itemised = rebalance.unowned_ms
    known = itemised.keys() & partitions
    if len(known) < len(partitions) and len(itemised) < PARTITIONS_MAX:
        new = islice((each for each in partitions if each not in known), PARTITIONS_MAX - len(itemised))
        itemised.update(dict.fromkeys(new, gap_ms))
    itemised.update({each: itemised[each] + gap_ms for each in known})
