"""Offsets: what the groups of one `__consumer_offsets` partition have committed. Pure: no clock, no log.

    commit ──▶ changes ──▶ the shard appends their records ──stage──▶ in the log ──settle──▶ committed, and fetched
                                                                           └ at once where nobody replicates

A fetch sees settled values only, so an offset that a client was told never goes back (G7). `items` gives what the log
says, staged values included: it is what a rewritten log has to hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from kbroker.cluster.image import NO_TOPIC_ID
from kbroker.coordinators.effects import Pair
from kbroker.groups.storage.records import OffsetCommitValue, offset_record

Place: TypeAlias = "tuple[str, str, int]"  # group, topic, partition
# What becomes of offsets of one group: topic -> partition -> its new value; None: none any more.
Changes: TypeAlias = "Mapping[str, Mapping[int, OffsetCommitValue | None]]"


def records_of(group: str, changes: Changes) -> list[Pair]:
    """The records that say these changes."""
    return [
        offset_record(group, topic, partition, value)
        for topic, partitions in changes.items()
        for partition, value in partitions.items()
    ]


def is_of(value: OffsetCommitValue, topic_id: bytes | None) -> bool:
    """Whether an offset was committed for the topic that has its name now; None: no topic has.

    One that does not say which topic it was for is of any.
    """
    return topic_id is not None and value.topic_id in (NO_TOPIC_ID, topic_id)


class Offsets:
    """Committed offsets by group, topic and partition."""

    __slots__ = ("count", "unstable", "_groups", "_newest", "_staged")

    def __init__(self) -> None:
        self.count = 0  # of settled offsets
        # Places with an offset of a transaction that has not ended. Empty until transactions commit offsets.
        self.unstable: set[Place] = set()
        self._groups: dict[str, dict[str, dict[int, OffsetCommitValue]]] = {}
        # What the log says where that may not be settled: all changes since nothing was staged.
        self._newest: dict[str, dict[str, dict[int, OffsetCommitValue | None]]] = {}
        self._staged = 0  # changes that were staged and are not settled

    # -- changing -----------------------------------------------------------------------------------------------------

    def stage(self, group: str, changes: Changes) -> None:
        """These are in the log, but not committed yet. `settle_staged` is to follow, in the order of the log."""
        self._staged += 1
        topics = self._newest.setdefault(group, {})
        for topic, partitions in changes.items():
            topics.setdefault(topic, {}).update(partitions)

    def settle_staged(self, group: str, changes: Changes) -> None:
        """These were staged, and are committed now."""
        self.settle(group, changes)
        self._staged -= 1
        if not self._staged:
            self._newest.clear()

    def settle(self, group: str, changes: Changes) -> None:
        """These are committed. In the order of the log."""
        topics = self._groups.setdefault(group, {})
        for topic, changed in changes.items():
            partitions = topics.setdefault(topic, {})
            before = len(partitions)
            partitions.update(changed)  # type: ignore[arg-type]  # without the removed ones in a moment
            if None in changed.values():
                for partition in [partition for partition, value in changed.items() if value is None]:
                    del partitions[partition]
            self.count += len(partitions) - before
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
        """Whether a group has offsets, or may have when the log is committed."""
        return group in self._groups or group in self._newest

    def topic_names(self) -> set[str]:
        """Every topic that has an offset."""
        return {topic for topics in self._groups.values() for topic in topics}

    def newest(self, group: str, topic: str, partition: int) -> OffsetCommitValue | None:
        """The offset that the log has, committed or not."""
        newest = self._newest.get(group, {}).get(topic, {})
        return newest[partition] if partition in newest else self.get(group, topic, partition)

    def places(self, group: str) -> list[tuple[str, list[int]]]:
        """Topics and partitions for which a group has an offset in the log."""
        settled, newest = self._groups.get(group, {}), self._newest.get(group, {})
        found = [
            (
                topic,
                [each for each in settled.get(topic, {}) | newest.get(topic, {}) if self.newest(group, topic, each)],
            )
            for topic in settled | newest
        ]
        return [(topic, partitions) for topic, partitions in found if partitions]

    def items(self) -> Iterator[tuple[str, str, int, OffsetCommitValue]]:
        """What the log says of each place that has an offset, as it is when asked. It may change meanwhile."""
        for group in list(self._groups | self._newest):
            for topic, partitions in self.places(group):
                for partition in partitions:
                    value = self.newest(group, topic, partition)
                    if value is not None:
                        yield group, topic, partition, value

    # -- what is to go ------------------------------------------------------------------------------------------------

    def is_over(
        self, group: str, topic: str, partition: int, now_ms: int, retention_ms: int, empty_since_ms: int
    ) -> bool:
        """Whether an offset is too old, in a group without members (G5). A transaction that may change it keeps it.

        empty_since_ms: when it lost its last member; 0 or less: it never had any, or nobody knows. Retention counts
        from the later of that and the commit, unless the commit said itself when it expires.
        """
        value = self.get(group, topic, partition)
        if value is None or (group, topic, partition) in self.unstable:
            return False
        if value.expire_timestamp >= 0:
            return now_ms >= value.expire_timestamp
        return now_ms - max(value.commit_timestamp, empty_since_ms) >= retention_ms
