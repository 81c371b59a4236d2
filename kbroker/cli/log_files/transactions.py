"""Transactions as `log verify` follows them through a partition's segments: is every abort in its `.txnindex`?

An index that is there has all that the markers of its segment aborted, and nothing else. One that is not there says
nothing: it is made anew when somebody asks. What began below the first segment that is left, or with what compaction
has taken away, is known from the index alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kafka_wire.records import BatchHeader
from kbroker.cli.log_files.segments import Problems
from kbroker.log.derived.aborted import ENTRY_SIZE, SUFFIX, read_entries
from kbroker.log.derived.transactions import AbortedRange, Transactions, may_begin, read_marker


class TransactionsCheck:
    """One partition's transactions, as its batches pass."""

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset  # of the log
        self.due = first_offset  # behind the batches that have passed
        self.is_compacted = False  # records are missing: an index may speak of some
        self.transactions = Transactions()

    def segment(self, path: Path) -> AbortedIndexCheck:
        """The check of the next segment."""
        return AbortedIndexCheck(self, path.with_suffix(SUFFIX))


class AbortedIndexCheck:
    """An index of aborted transactions, compared with the markers as they pass."""

    def __init__(self, log: TransactionsCheck, path: Path) -> None:
        self.log = log
        self.path = path
        self.is_there = path.exists()
        self.entries = enumerate(aborted_entries(path)) if self.is_there else enumerate(())
        self.next: tuple[int, AbortedRange] | None = next(self.entries, None)

    def batch(self, header: BatchHeader, data: memoryview) -> Problems:
        """Follow a batch that is whole."""
        log, transactions, producer_id = self.log, self.log.transactions, header.producer_id
        if header.base_offset > log.due or header.count <= header.last_offset_delta:
            log.is_compacted = True
        log.due = header.next_offset
        if producer_id < 0 or not header.is_transactional:
            return
        if may_begin(header):
            if producer_id not in transactions.ongoing:
                transactions.begin(producer_id, header.base_offset)
            return
        marker = read_marker(data)
        if marker is not None:
            aborted = transactions.aborted_by(marker, header.base_offset)
            transactions.forget(producer_id)
            if self.is_there:
                yield from self._judge(header.base_offset, aborted)

    def _judge(self, offset: int, aborted: AbortedRange | None) -> Problems:
        """The entries up to a marker, and its own."""
        yield from self._judge_below(offset)
        entry = None
        if self.next is not None and self.next[1].last_offset == offset:
            number, entry = self.next
            self.next = next(self.entries, None)
        if entry is not None and entry.first_offset < self.log.first_offset:
            return  # who can tell?
        if (
            entry is not None
            and self.log.is_compacted
            and (aborted is None or entry.first_offset < aborted.first_offset)
        ):
            return  # what it began with may be gone
        if aborted is not None and entry is None:
            yield self.path, f"lacks what the marker at offset {offset} aborted, from offset {aborted.first_offset}"
        elif entry is not None and aborted is None:
            yield self.path, f"entry {number}: the marker at offset {offset} aborts nothing"
        elif entry is not None and aborted is not None and entry[:2] != aborted[:2]:
            said = f"producer {entry.producer_id} from offset {entry.first_offset}"
            true = f"producer {aborted.producer_id} from offset {aborted.first_offset}"
            yield self.path, f"entry {number}: {said}, the batches say {true}"

    def _judge_below(self, offset: int) -> Problems:
        while self.next is not None and self.next[1].last_offset < offset:
            yield self.path, f"entry {self.next[0]}: there is no marker at offset {self.next[1].last_offset}"
            self.next = next(self.entries, None)

    def end(self, end_offset: int, *, is_growing: bool) -> Problems:
        """The segment ends there. is_growing: an entry is written before its marker is."""
        yield from self._judge_below(end_offset if is_growing else 2**63)
        if self.is_there and self.path.stat().st_size % ENTRY_SIZE and not is_growing:
            yield self.path, f"{self.path.stat().st_size} bytes are no multiple of {ENTRY_SIZE}"


def aborted_entries(path: Path) -> Iterator[AbortedRange]:
    """What an index says, entry by entry. May raise OSError."""
    with path.open("rb") as file:
        while data := file.read(ENTRY_SIZE * 1000):
            yield from read_entries(data)
