"""Pending offsets: what transactions that have not ended may make of the committed ones. Pure: no clock, no log.

    add ──▶ open ──end──▶ its marker is in the log ──take──▶ each place is settled, or what was pending there is gone

Of several records of one place the last in the log holds, whichever is committed first (Kafka: OffsetMetadataManager,
KAFKA-15784). So each keeps its record's offset, and one that is outdone, as a later record of its place has been
settled, loses its value. Its place is unstable all the same until its transaction ends, as in Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from kbroker.groups.storage.records import OffsetCommitValue

TRANSACTIONS_MAX = 100  # that are pending at one place; even a member that is replaced all the time leaves fewer


class Transaction:
    """The offsets of one producer's transaction, from the first to its marker."""

    __slots__ = ("producer_id", "producer_epoch", "is_commit", "places")

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.producer_epoch = -1  # of its last batch
        self.is_commit: bool | None = None  # what its marker says; None: it is open
        self.places: dict[str, dict[str, set[int]]] = {}  # group -> topic -> partitions that it has committed for


# One record of a place: of which transaction, where in the log, and the offset; None when a later record has been
# settled. A bare tuple: a request may bring many.
Entry: TypeAlias = "tuple[Transaction, int, OffsetCommitValue | None]"


class Pending:
    """What is pending, by place; the records of a place in the order of the log, one a transaction."""

    __slots__ = ("count", "_open", "_groups")

    def __init__(self) -> None:
        self.count = 0  # of entries
        self._open: dict[int, Transaction] = {}  # by producer id
        self._groups: dict[str, dict[str, dict[int, list[Entry]]]] = {}

    # -- looking ------------------------------------------------------------------------------------------------------

    def __contains__(self, group: str) -> bool:
        return group in self._groups

    def groups(self) -> Iterable[str]:
        """The groups that have something pending."""
        return self._groups.keys()

    def places(self, group: str) -> Mapping[str, Mapping[int, Sequence[Entry]]]:
        """What is pending in a group: by topic and partition."""
        return self._groups.get(group, {})

    def entries(self, group: str, topic: str, partition: int) -> Sequence[Entry]:
        """What is pending at a place."""
        topics = self._groups.get(group)
        return () if topics is None else topics.get(topic, {}).get(partition, ())

    def is_crowded(
        self, producer_id: int, group: str, changes: Mapping[str, Mapping[int, OffsetCommitValue | None]]
    ) -> bool:
        """Whether as many other transactions as may be are pending where this producer wants to commit."""
        own = self._open.get(producer_id)
        for topic, present in self._groups.get(group, {}).items():
            for partition in present.keys() & changes.get(topic, {}).keys():
                entries = present[partition]
                if len(entries) >= TRANSACTIONS_MAX and all(each[0] is not own for each in entries):
                    return True
        return False

    # -- transactions -------------------------------------------------------------------------------------------------

    def add(
        self,
        producer_id: int,
        producer_epoch: int,
        group: str,
        changes: Mapping[str, Mapping[int, OffsetCommitValue | None]],
        offset: int,
    ) -> None:
        """A producer's batch for a group is in the log at offset: behind every other of its places."""
        transaction = self._open.get(producer_id)
        if transaction is None:
            transaction = self._open[producer_id] = Transaction(producer_id)
        transaction.producer_epoch = producer_epoch
        own, topics = transaction.places.setdefault(group, {}), self._groups.setdefault(group, {})
        for topic, partitions in changes.items():
            present = topics.setdefault(topic, {})
            for partition in present.keys() & partitions.keys():
                entries = present[partition]
                others = [each for each in entries if each[0] is not transaction]
                self.count += len(others) - len(entries) + 1
                present[partition] = [*others, (transaction, offset, partitions[partition])]
            fresh = partitions.keys() - present.keys()
            present.update({each: [(transaction, offset, partitions[each])] for each in fresh})
            self.count += len(fresh)
            own.setdefault(topic, set()).update(partitions)

    def end(self, producer_id: int, is_commit: bool) -> Transaction | None:
        """A producer's marker is in the log: what it commits from now on is another transaction's. None: it had none.

        `take` is to follow for each of its places, once the marker is committed.
        """
        transaction = self._open.pop(producer_id, None)
        if transaction is not None:
            transaction.is_commit = is_commit
        return transaction

    def take(self, transaction: Transaction, group: str, topic: str, partition: int) -> OffsetCommitValue | None:
        """A transaction has ended: what is settled of it at a place; None when nothing is."""
        entries = self.entries(group, topic, partition)
        own = [each for each in entries if each[0] is transaction]
        if not own:
            return None  # its place was removed meanwhile
        ((_, offset, value),) = own
        self._replace(group, topic, partition, [each for each in entries if each[0] is not transaction])
        if not transaction.is_commit or value is None:
            return None
        self._outdo(group, topic, partition, offset)
        return value

    # -- what happens to a place besides ------------------------------------------------------------------------------

    def on_settled(
        self, group: str, changes: Mapping[str, Mapping[int, OffsetCommitValue | None]], offset: int
    ) -> None:
        """These are settled, by a record at offset: it outdoes what is pending before it, and a removal ends that."""
        for topic, present in list(self._groups.get(group, {}).items()):
            changed = changes.get(topic, {})
            for partition in present.keys() & changed.keys():
                if changed[partition] is None:
                    later = [each for each in present[partition] if each[1] > offset]
                    self._replace(group, topic, partition, later)
                else:
                    self._outdo(group, topic, partition, offset)

    def _outdo(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Nothing before offset counts any more at a place. Those that do not count already stand first."""
        entries = self._groups.get(group, {}).get(topic, {}).get(partition, [])
        for n in range(len(entries) - 1, -1, -1):
            transaction, at, value = entries[n]
            if value is None:
                break
            if at < offset:
                entries[n] = (transaction, at, None)

    def _replace(self, group: str, topic: str, partition: int, entries: list[Entry]) -> None:
        """These are left at a place."""
        topics = self._groups[group]
        partitions = topics[topic]
        self.count += len(entries) - len(partitions[partition])
        if entries:
            partitions[partition] = entries
            return
        del partitions[partition]
        if not partitions:
            del topics[topic]
        if not topics:
            del self._groups[group]


def alive(entries: Sequence[Entry], after: int) -> Iterator[Entry]:
    """Those that still count, of records behind an offset."""
    return (each for each in entries if each[2] is not None and each[1] > after)
