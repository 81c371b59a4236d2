"""Offsets: what the groups of one `__consumer_offsets` partition have committed. Pure: no clock, no log.

    commit ──▶ changes ──▶ the shell appends their records ──stage──▶ in the log ──settle──▶ committed, and fetched
                                                                           └ at once where nobody replicates

A fetch sees settled values only, so an offset that a client was told never goes back (G7). `items` gives what the log
says, staged values included: it is what a rewritten log has to hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from kbroker.coordinators.effects import Pair
from kbroker.groups.storage.records import OffsetCommitValue, offset_record

NO_TOPIC_ID = bytes(16)

Place: TypeAlias = "tuple[str, str, int]"  # group, topic, partition
Change: TypeAlias = "tuple[str, str, int, OffsetCommitValue | None]"  # a place and its new value; None: none any more


def records_of(changes: Iterable[Change]) -> list[Pair]:
    """The records that say these changes."""
    return [offset_record(*change) for change in changes]


def is_of(value: OffsetCommitValue, topic_id: bytes | None) -> bool:
    """Whether an offset was committed for the topic that has its name now; None: no topic has.

    One that does not say which topic it was for is of any.
    """
    return topic_id is not None and value.topic_id in (NO_TOPIC_ID, topic_id)


class Offsets:
    """Committed offsets by group, topic and partition."""

    __slots__ = ("count", "unstable", "_groups", "_staged")

    def __init__(self) -> None:
        self.count = 0  # of settled offsets
        # Places with an offset of a transaction that has not ended. Empty until transactions commit offsets.
        self.unstable: set[Place] = set()
        self._groups: dict[str, dict[str, dict[int, OffsetCommitValue]]] = {}
        # Places with changes that are not settled: how many, and the newest value.
        self._staged: dict[Place, tuple[int, OffsetCommitValue | None]] = {}

    # -- changing -----------------------------------------------------------------------------------------------------

    def stage(self, changes: Iterable[Change]) -> None:
        """These are in the log, but not committed yet."""
        for group, topic, partition, value in changes:
            place = group, topic, partition
            self._staged[place] = self._staged.get(place, (0, None))[0] + 1, value

    def settle(self, changes: Iterable[Change]) -> None:
        """These are committed. In the order of the log."""
        staged = self._staged
        for group, topic, partition, value in changes:
            if staged and (group, topic, partition) in staged:
                self._unstage((group, topic, partition))
            if value is None:
                self._remove(group, topic, partition)
            else:
                self._put(group, topic, partition, value)

    def _unstage(self, place: Place) -> None:
        left, newest = self._staged.pop(place)
        if left > 1:
            self._staged[place] = left - 1, newest

    def _put(self, group: str, topic: str, partition: int, value: OffsetCommitValue) -> None:
        topics = self._groups.get(group)
        if topics is None:
            topics = self._groups[group] = {}
        partitions = topics.get(topic)
        if partitions is None:
            partitions = topics[topic] = {}
        if partition not in partitions:
            self.count += 1
        partitions[partition] = value

    def _remove(self, group: str, topic: str, partition: int) -> None:
        topics = self._groups.get(group, {})
        partitions = topics.get(topic, {})
        if partitions.pop(partition, None) is not None:
            self.count -= 1
            if not partitions:
                del topics[topic]
            if not topics:
                del self._groups[group]

    # -- looking ------------------------------------------------------------------------------------------------------

    def get(self, group: str, topic: str, partition: int) -> OffsetCommitValue | None:
        """The committed offset; None when there is none."""
        topics = self._groups.get(group)
        if topics is None:
            return None
        partitions = topics.get(topic)
        return None if partitions is None else partitions.get(partition)

    def topics(self, group: str) -> Mapping[str, Mapping[int, OffsetCommitValue]]:
        """All committed offsets of a group."""
        return self._groups.get(group, {})

    def groups(self) -> Collection[str]:
        """The groups that have offsets."""
        return self._groups.keys()

    def is_known(self, group: str) -> bool:
        """Whether a group has offsets, or will have when the log is committed."""
        return group in self._groups or any(place[0] == group for place in self._staged)

    def places(self) -> list[Place]:
        """Every place with an offset, settled or staged."""
        settled = [
            (group, topic, partition)
            for group, topics in self._groups.items()
            for topic, partitions in topics.items()
            for partition in partitions
        ]
        staged = [place for place in self._staged if self.get(*place) is None]
        return settled + staged if staged else settled

    def items(self, places: Iterable[Place]) -> Iterator[Change]:
        """What the log says of these places now: of those that have an offset."""
        for place in places:
            value = self._staged[place][1] if place in self._staged else self.get(*place)
            if value is not None:
                yield (*place, value)

    # -- what is to go ------------------------------------------------------------------------------------------------

    def removal(self, group: str) -> list[Change]:
        """The changes that leave a group no offset."""
        return [
            (group, topic, partition, None)
            for topic, partitions in self.topics(group).items()
            for partition in partitions
        ]

    def of_topics(self, group: str, ids: Mapping[str, bytes | None]) -> list[Change]:
        """The changes that forget topics. ids: name -> the id of the topic that has the name now, None: no topic has.

        What is of the present topic stays.
        """
        changes: list[Change] = []
        topics = self.topics(group)
        for topic in topics.keys() & ids.keys():
            present = ids[topic]
            changes += [
                (group, topic, partition, None)
                for partition, value in topics[topic].items()
                if not is_of(value, present)
            ]
        return changes

    def topic_names(self) -> set[str]:
        """Every topic that has an offset."""
        return {topic for topics in self._groups.values() for topic in topics}

    def expired(self, group: str, now_ms: int, retention_ms: int, empty_since_ms: int) -> list[Change]:
        """The changes that forget what is too old, in a group without members (G5).

        empty_since_ms: when it lost its last member; 0 or less: it never had any, or nobody knows. Retention counts
        from the later of that and the commit, unless the commit said itself when it expires.
        """
        changes: list[Change] = []
        for topic, partitions in self.topics(group).items():
            for partition, value in partitions.items():
                if value.expire_timestamp >= 0:
                    is_over = now_ms >= value.expire_timestamp
                else:
                    is_over = now_ms - max(value.commit_timestamp, empty_since_ms) >= retention_ms
                if is_over and (group, topic, partition) not in self.unstable:
                    changes.append((group, topic, partition, None))
        return changes
