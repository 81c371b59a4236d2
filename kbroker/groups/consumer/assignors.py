"""The assignors of consumer groups (KIP-848): who is to own which partition. Pure, and the same for the same input;
in turns, as a thousand members and a hundred thousand partitions take a while.

    uniform   everybody gets as many partitions as anybody else, give or take one; who has a partition keeps it if that
              can be. All members subscribe to the same: exact, in one pass. Else: as even as subscriptions allow, found
              by moving partitions, one at a time, from members with more to members with less.
    range     of every topic, each member gets a range of consecutive partitions; topics with as many partitions and the
              same subscribers are cut in the same places, so that equal keys meet in one member (co-partitioning).

An assignment gives every partition of a topic that somebody subscribes to, to one of those who do. (Kafka:
UniformAssignor with its homogeneous and heterogeneous builders, RangeAssignor.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import NamedTuple, TypeAlias

from kbroker.groups.consumer.member import Target
from kbroker.turns import Effort, Work, rest

Made: TypeAlias = dict[str, dict[bytes, list[int]]]  # member id -> topic id -> partitions
TopicPartition: TypeAlias = tuple[bytes, int]


class MemberSpec(NamedTuple):
    """What an assignor knows of a member."""

    topics: frozenset[bytes]  # it subscribes to, and that exist; one object for equal sets makes it faster
    assigned: Target  # by the last assignment
    instance_id: str | None = None


Assignor: TypeAlias = Callable[[Mapping[str, MemberSpec], Mapping[bytes, int]], Work[Made]]


# -- uniform ----------------------------------------------------------------------------------------------------------


def uniform(members: Mapping[str, MemberSpec], partitions: Mapping[bytes, int]) -> Work[Made]:
    """Even and sticky.

    Args:
        partitions: topic id -> number of partitions, of all topics somebody subscribes to.
    """
    subscriptions = {spec.topics for spec in members.values()}
    if not members:
        return {}
    if len(subscriptions) == 1:
        wanted = {topic_id: partitions[topic_id] for topic_id in next(iter(subscriptions))}
        yield from rest(len(wanted))
        return (yield from _homogeneous(members, wanted))
    return (yield from _Heterogeneous(members, partitions).make())


def _homogeneous(members: Mapping[str, MemberSpec], partitions: Mapping[bytes, int]) -> Work[Made]:
    """All subscribe to the same topics: each gets its quota. One more get those who have more already."""
    low, extra = divmod(sum(partitions.values()), len(members))
    taken: dict[bytes, set[int]] = {topic_id: set() for topic_id in partitions}
    yield from rest(len(taken))
    had: dict[str, list[TopicPartition]] = {}
    effort = Effort()
    for member_id in sorted(members):
        had[member_id] = yield from _still_there(members[member_id], partitions, taken, effort)
    # Of those with more than `low`, so many may keep one more; the others fall back to `low`.
    keeps_more = [member_id for member_id, found in had.items() if len(found) > low][:extra]
    quota = dict.fromkeys(had, low)
    quota.update(dict.fromkeys(keeps_more, low + 1))
    spare = extra - len(keeps_more)
    for member_id in sorted(had, key=lambda each: -len(had[each])):  # as in: whoever is closest to it
        if spare and quota[member_id] == low:
            quota[member_id] += 1
            spare -= 1
    made: Made = {}
    for member_id, found in had.items():
        made[member_id] = yield from _by_topic(found[: quota[member_id]], effort)
        for topic_id, partition in found[quota[member_id] :]:
            taken[topic_id].discard(partition)
    free = (
        (topic_id, partition)
        for topic_id in sorted(partitions)
        for partition in range(partitions[topic_id])
        if partition not in taken[topic_id]
    )
    for member_id, found in had.items():
        new = yield from _by_topic(islice(free, quota[member_id] - min(len(found), quota[member_id])), effort)
        for topic_id, numbers in new.items():
            made[member_id].setdefault(topic_id, []).extend(numbers)
    assert next(free, None) is None, "quotas add up to all partitions"
    return (yield from _sorted(made, effort))


def _still_there(
    spec: MemberSpec, partitions: Mapping[bytes, int], taken: dict[bytes, set[int]], effort: Effort
) -> Work[list[TopicPartition]]:
    """What a member had, wants still, exists, and nobody took before; marks it as taken."""
    found: list[TopicPartition] = []
    for topic_id in sorted(spec.assigned):
        if topic_id not in spec.topics or topic_id not in partitions:
            continue
        count, claimed = partitions[topic_id], taken[topic_id]
        here = [each for each in sorted(spec.assigned[topic_id]) if each < count and each not in claimed]
        claimed.update(here)
        found += [(topic_id, partition) for partition in here]
        if effort.spent(1 + len(here) // 4):
            yield
    return found


def _by_topic(partitions: Iterable[TopicPartition], effort: Effort) -> Work[dict[bytes, list[int]]]:
    found: dict[bytes, list[int]] = {}
    for topic_id, partition in partitions:
        found.setdefault(topic_id, []).append(partition)
        if effort.spent():
            yield
    return found


def _sorted(made: Made, effort: Effort) -> Work[Made]:
    done: Made = {}
    for member_id, found in made.items():
        done[member_id] = {topic_id: sorted(found[topic_id]) for topic_id in sorted(found) if found[topic_id]}
        yield from rest(len(found))
        if effort.spent():
            yield
    return done


class _Heterogeneous:
    """Members that subscribe to different topics.

    A move is good when it takes a partition from a member to one that has at least two fewer. Moves are made along
    chains, too: a → b of one topic and b → c of another evens out a and c although they share no topic. When no chain
    is good, it is as even as it can be. Each good move makes the sum of the squares of loads smaller, so it ends.
    """

    def __init__(self, members: Mapping[str, MemberSpec], partitions: Mapping[bytes, int]) -> None:
        self.partitions = partitions
        self.members = {member_id: members[member_id] for member_id in sorted(members)}
        self.load: dict[str, int] = {}
        self.owned: dict[str, dict[bytes, list[int]]] = {}
        self.subscribers: dict[bytes, list[str]] = {topic_id: [] for topic_id in sorted(partitions)}
        self.free: dict[bytes, list[int]] = {}
        self._effort = Effort()

    def _begin(self) -> Work[None]:
        """What members have that they may keep, and what is free."""
        for member_id, spec in self.members.items():
            for topic_id in spec.topics:
                if topic_id in self.partitions:
                    self.subscribers[topic_id].append(member_id)
            if self._effort.spent(1 + len(spec.topics) // 4):
                yield
        taken: dict[bytes, set[int]] = {topic_id: set() for topic_id in self.partitions}
        for member_id, spec in self.members.items():
            found = yield from _still_there(spec, self.partitions, taken, self._effort)
            self.load[member_id] = len(found)
            self.owned[member_id] = yield from _by_topic(found, self._effort)
        for topic_id, count in self.partitions.items():
            self.free[topic_id] = [partition for partition in range(count) if partition not in taken[topic_id]]
            if self._effort.spent(1 + count // 16):
                yield

    def make(self) -> Work[Made]:
        """The assignment."""
        yield from self._begin()
        # Topics with few subscribers first: the others can still make up for them.
        for topic_id in sorted(self.subscribers, key=lambda each: (len(self.subscribers[each]), each)):
            yield from self._give(topic_id)
        moved = True
        while moved:
            moved = False
            for topic_id, members in self.subscribers.items():
                moved |= yield from self._even_out(topic_id, members)
        while (yield from self._move_along_chain()):
            pass
        return (yield from _sorted(self.owned, self._effort))

    def _give(self, topic_id: bytes) -> Work[None]:
        """Each free partition of a topic goes to the subscriber with the least."""
        free, subscribers = self.free[topic_id], self.subscribers[topic_id]
        if not free or not subscribers:
            return
        loads = [(self.load[member_id], member_id) for member_id in subscribers]
        heapify(loads)
        for partition in free:
            if self._effort.spent():
                yield
            load, member_id = heappop(loads)
            self.owned[member_id].setdefault(topic_id, []).append(partition)
            self.load[member_id] = load + 1
            heappush(loads, (load + 1, member_id))

    def _even_out(self, topic_id: bytes, subscribers: list[str]) -> Work[bool]:
        """Move partitions of one topic from those with most to those with least, while they are two apart; whether any.

        A heap's entry may be out of date: it is put right when it comes to the top."""
        givers = [(-self.load[m], m) for m in subscribers if self.owned[m].get(topic_id)]
        takers = [(self.load[m], m) for m in subscribers]
        heapify(givers)
        heapify(takers)
        moved = False
        if self._effort.spent(1 + len(subscribers) // 4):
            yield
        while givers:
            if self._effort.spent(2):
                yield
            giver, taker = givers[0][1], takers[0][1]
            if -givers[0][0] != self.load[giver] or not self.owned[giver].get(topic_id):
                heappop(givers)  # said before it changed
                if self.owned[giver].get(topic_id):
                    heappush(givers, (-self.load[giver], giver))
                continue
            if takers[0][0] != self.load[taker]:
                heappop(takers)
                heappush(takers, (self.load[taker], taker))
                continue
            if self.load[giver] - self.load[taker] < 2:
                break
            self._move(topic_id, giver, taker)
            heappush(givers, (-self.load[taker], taker))
            moved = True
        return moved

    def _move(self, topic_id: bytes, giver: str, taker: str) -> None:
        """The giver parts with what it has had for the shortest time."""
        self.owned[taker].setdefault(topic_id, []).append(self.owned[giver][topic_id].pop())
        self.load[giver] -= 1
        self.load[taker] += 1

    def _move_along_chain(self) -> Work[bool]:
        """From the member with most, over others whose load stays the same, to one with at least two fewer."""
        spread = max(self.load.values()) - min(self.load.values())
        if spread < 2:
            return False
        tried: set[str] = set()
        for giver in sorted(self.load, key=lambda m: (-self.load[m], m)):
            # Whoever can be reached from a member that found nobody is no better for one with less to give.
            if giver in tried:
                continue
            path = yield from self._path(giver, tried)
            if path:
                for topic_id, source, sink in path:
                    self._move(topic_id, source, sink)
                return True
        return False

    def _path(self, giver: str, tried: set[str]) -> Work[list[tuple[bytes, str, str]]]:
        """The shortest chain of moves from giver to somebody with at least two fewer; [] when there is none."""
        came: dict[str, tuple[bytes, str]] = {}
        topics_seen: set[bytes] = set()
        todo = deque((giver,))
        reached = {giver} | tried
        while todo:
            source = todo.popleft()
            for topic_id in sorted(t for t, owned in self.owned[source].items() if owned and t not in topics_seen):
                topics_seen.add(topic_id)
                if self._effort.spent(1 + len(self.subscribers[topic_id]) // 4):
                    yield
                for sink in self.subscribers[topic_id]:
                    if sink in reached:
                        continue
                    reached.add(sink)
                    came[sink] = (topic_id, source)
                    if self.load[giver] - self.load[sink] >= 2:
                        return _trace(came, giver, sink)
                    todo.append(sink)
        tried |= reached
        return []


def _trace(came: Mapping[str, tuple[bytes, str]], giver: str, sink: str) -> list[tuple[bytes, str, str]]:
    path: list[tuple[bytes, str, str]] = []
    while sink != giver:
        topic_id, source = came[sink]
        path.append((topic_id, source, sink))
        sink = source
    return path  # from the end: nobody gives what it does not have yet


# -- range ------------------------------------------------------------------------------------------------------------


def range_assignor(members: Mapping[str, MemberSpec], partitions: Mapping[bytes, int]) -> Work[Made]:
    """Ranges, cut alike in topics that are alike. Args: as uniform's."""
    made: Made = {member_id: {} for member_id in members}
    effort = Effort()
    subscribers: dict[bytes, list[str]] = {}
    # Static members first, by instance id, so that a restart under another member id changes nothing.
    for member_id in sorted(members, key=lambda m: (members[m].instance_id is None, members[m].instance_id or m)):
        for topic_id in members[member_id].topics:
            subscribers.setdefault(topic_id, []).append(member_id)
        if effort.spent(1 + len(members[member_id].topics) // 4):
            yield
    for topic_id, member_ids in subscribers.items():
        count = partitions.get(topic_id, 0)
        low, extra = divmod(count, len(member_ids))
        start = 0
        for n, member_id in enumerate(member_ids[:count]):
            end = start + low + (n < extra)
            made[member_id][topic_id] = list(range(start, end))
            start = end
            if effort.spent():
                yield
    return made


ASSIGNORS: Mapping[str, Assignor] = {"uniform": uniform, "range": range_assignor}


def loads(made: Mapping[str, Mapping[bytes, Collection[int]]]) -> dict[str, int]:
    """How many partitions each member is given."""
    return {member_id: sum(map(len, target.values())) for member_id, target in made.items()}
