"""Offsets: what the groups of one `__consumer_offsets` partition have committed. Pure: no clock, no log.

    commit ──▶ changes ──▶ the shard appends their records ──stage──▶ in the log ──settle──▶ committed, and fetched
                                                                           └ at once where nobody replicates
    TxnOffsetCommit ──▶ appended ──pend──▶ pending ──end, by a marker──▶ ended ──fold, when that is committed──▶ settled

A fetch sees settled values only, so an offset that a client was told never goes back (G7). `logged` gives what the log
says, staged values and open transactions included. What is pending is in pending.py.

A transaction of many offsets is folded in turns. Each place is unstable until it is settled, so whoever asks for
stable offsets sees none of before beside one of after (T6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain, islice
from typing import NamedTuple, TypeAlias

from kbroker.cluster.image import NO_TOPIC_ID
from kbroker.coordinators.effects import Pair
from kbroker.groups.pending import Entry, Pending, Transaction, alive
from kbroker.groups.storage.records import OffsetCommitValue, offset_record
from kbroker.turns import STRIDE, Work

Place: TypeAlias = "tuple[str, str, int]"  # group, topic, partition
# What becomes of offsets of one group: topic -> partition -> its new value; None: none any more.
Changes: TypeAlias = "Mapping[str, Mapping[int, OffsetCommitValue | None]]"


class Logged(NamedTuple):
    """What the log says of a place."""

    value: OffsetCommitValue | None  # committed, or about to be
    open: list[Entry]  # what open transactions may make of it, in the order of the log; each with a value

    @property
    def is_anything(self) -> bool:
        """Whether there is anything to be removed."""
        return self.value is not None or bool(self.open)

    def is_of(self, topic_id: bytes | None) -> bool:
        """Whether any of it is of the topic that has its name now."""
        values = (self.value, *[value for _, _, value in self.open])
        return any(value is not None and is_of(value, topic_id) for value in values)


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
    """Committed offsets by group, topic and partition, and those of transactions that have not ended."""

    __slots__ = ("count", "_pending", "_groups", "_newest", "_staged")

    def __init__(self) -> None:
        self.count = 0  # of settled offsets
        self._pending = Pending()
        self._groups: dict[str, dict[str, dict[int, OffsetCommitValue]]] = {}
        # What the log says where that may not be settled: the last change since nothing was staged, and where it is.
        self._newest: dict[str, dict[str, dict[int, tuple[int, OffsetCommitValue | None]]]] = {}
        self._staged = 0  # changes that were staged and are not settled

    # -- changing -----------------------------------------------------------------------------------------------------

    def stage(self, group: str, changes: Changes, offset: int) -> None:
        """These are in the log at offset, but not committed yet. `settle_staged` is to follow, in the order of the
        log."""
        self._staged += 1
        topics = self._newest.setdefault(group, {})
        for topic, partitions in changes.items():
            topics.setdefault(topic, {}).update({each: (offset, value) for each, value in partitions.items()})

    def settle_staged(self, group: str, changes: Changes, offset: int) -> None:
        """These were staged, and are committed now."""
        self.settle(group, changes, offset)
        self._staged -= 1
        if not self._staged:
            self._newest.clear()

    def settle(self, group: str, changes: Changes, offset: int) -> None:
        """These are committed, by records at offset. In the order of the log."""
        self._settle(group, changes)
        if group in self._pending:
            self._pending.on_settled(group, changes, offset)

    def _settle(self, group: str, changes: Changes) -> None:
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

    # -- transactions -------------------------------------------------------------------------------------------------

    def is_crowded(self, producer_id: int, group: str, changes: Changes) -> bool:
        """Whether too many transactions are pending where this producer wants to commit."""
        return group in self._pending and self._pending.is_crowded(producer_id, group, changes)

    def pend(self, producer_id: int, producer_epoch: int, group: str, changes: Changes, offset: int) -> None:
        """These are in the log at offset, and count if the transaction of that producer is committed."""
        self._pending.add(producer_id, producer_epoch, group, changes, offset)

    def end(self, producer_id: int, is_commit: bool) -> Transaction | None:
        """A producer's marker is in the log. `fold` is to follow when it is committed; None: there is nothing to be
        folded."""
        return self._pending.end(producer_id, is_commit)

    def fold(self, transaction: Transaction) -> Work[None]:
        """The marker of a transaction is committed: settle its offsets, or drop them, in turns."""
        for group, topics in transaction.places.items():
            for topic, partitions in topics.items():
                rest = iter(partitions)
                while some := list(islice(rest, STRIDE)):
                    taken = {each: self._pending.take(transaction, group, topic, each) for each in some}
                    changes = {each: value for each, value in taken.items() if value is not None}
                    if changes:
                        self._settle(group, {topic: changes})
                    yield

    def is_unstable(self, group: str, topic: str, partition: int) -> bool:
        """Whether a transaction may still change an offset (KIP-447)."""
        return group in self._pending and bool(self._pending.entries(group, topic, partition))

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
        """The groups that have offsets, pending ones too."""
        return self._groups.keys() | self._pending.groups()

    def is_known(self, group: str) -> bool:
        """Whether a group has offsets, or may have when the log is committed and its transactions have ended."""
        return group in self._groups or group in self._newest or group in self._pending

    def topic_names(self) -> set[str]:
        """Every topic that has an offset."""
        return {topic for group in self.groups() for topic in (*self.topics(group), *self._pending.places(group))}

    def logged(self, group: str, topic: str, partition: int) -> Logged:
        """What the log says of a place, committed or not."""
        after, value = self._newest.get(group, {}).get(topic, {}).get(partition, (-1, None))
        if after < 0:
            value = self.get(group, topic, partition)
        still_open: list[Entry] = []
        for entry in alive(self._pending.entries(group, topic, partition), after):
            if entry[0].is_commit is None:
                still_open.append(entry)
            elif entry[0].is_commit:  # its marker is in the log, and outdoes what stands before
                value, still_open = entry[2], []
        return Logged(value, still_open)

    def places(self, group: str, among: Collection[str] | None = None) -> list[tuple[str, list[int]]]:
        """Topics (all, or those among) and partitions for which a group may have an offset in the log, pending ones
        included."""
        parts = (self._groups.get(group, {}), self._newest.get(group, {}), self._pending.places(group))
        topics = dict.fromkeys(topic for part in parts for topic in part if among is None or topic in among)
        return [(topic, list(dict.fromkeys(chain(*[part.get(topic, ()) for part in parts])))) for topic in topics]

    # -- what is to go ------------------------------------------------------------------------------------------------

    def is_over(
        self, group: str, topic: str, partition: int, now_ms: int, retention_ms: int, empty_since_ms: int
    ) -> bool:
        """Whether an offset is too old, in a group without members (G5). A transaction that may change it keeps it.

        empty_since_ms: when it lost its last member; 0 or less: it never had any, or nobody knows. Retention counts
        from the later of that and the commit, unless the commit said itself when it expires.
        """
        value = self.get(group, topic, partition)
        if value is None or self.is_unstable(group, topic, partition):
            return False
        if value.expire_timestamp >= 0:
            return now_ms >= value.expire_timestamp
        return now_ms - max(value.commit_timestamp, empty_since_ms) >= retention_ms
