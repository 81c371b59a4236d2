"""Whose records count, while batches pass in the order of their offsets: transactions as compaction sees them. Pure.

A record of an aborted transaction counts for nothing and goes at once. A marker stays as long as anything of its
transaction is left: without it a reader would take that for a transaction that is open. Only what is decided passes
here, as nothing above the last stable offset is compacted. (Kafka: CleanedTransactionMetadata.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kafka_wire.records import BatchHeader
from kbroker.log.derived.transactions import AbortedRange, Marker


class Decided:
    """The transactions of the batches that pass."""

    __slots__ = ("_coming", "_aborted", "_seen", "_left", "_committed")

    def __init__(self, aborted: Iterable[AbortedRange], start: int) -> None:
        """aborted: those of the log, in the order of their first offsets. start: what passes begins there."""
        self._coming = deque(each for each in aborted if each.last_offset >= start)
        self._aborted: dict[int, AbortedRange] = {}  # by producer: the one that is passing
        self._seen: set[int] = set()  # of those, whose batches have passed
        self._left: dict[int, int] = {}  # of those, the first offset of what is left: of a batch that is empty now
        self._committed: set[int] = set()  # producers of whose committed transaction something has passed

    def passes(self, header: BatchHeader) -> bool:
        """A data batch passes; whether it is of an aborted transaction."""
        if not header.is_transactional:
            return False
        self._meet(header.last_offset)
        aborted = self._aborted.get(header.producer_id)
        if aborted is None or header.base_offset > aborted.last_offset:
            self._committed.add(header.producer_id)
            return False
        self._seen.add(header.producer_id)
        return True

    def stays(self, header: BatchHeader) -> None:
        """A batch that has passed is left, if empty."""
        if header.is_transactional and header.producer_id in self._seen:
            self._left.setdefault(header.producer_id, header.base_offset)

    def ends(self, header: BatchHeader, marker: Marker | None) -> tuple[bool, AbortedRange | None]:
        """A control batch passes: (whether nothing of its transaction was there, what the index is to say of the rest).

        marker: what it says; None: of another kind, unless it is empty.
        """
        if not header.count:
            return True, None
        if marker is None:
            return False, None
        self._meet(header.last_offset)
        producer_id = header.producer_id
        if marker.is_commit:
            is_empty = producer_id not in self._committed
            self._committed.discard(producer_id)
            return is_empty, None
        aborted = self._aborted.pop(producer_id, None)
        is_empty = producer_id not in self._seen
        self._seen.discard(producer_id)
        first_left = self._left.pop(producer_id, None)
        if aborted is None or first_left is None:
            return is_empty, None
        return is_empty, aborted._replace(first_offset=first_left)

    def _meet(self, offset: int) -> None:
        coming = self._coming
        while coming and coming[0].first_offset <= offset:
            begun = coming.popleft()
            self._aborted[begun.producer_id] = begun
