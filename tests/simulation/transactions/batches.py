"""What a fetch brings, and what of it a consumer of committed records delivers (Kafka: CompletedFetch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kafka_wire.records import ControlType, read_control, read_records
from tests.simulation.checker import Records, whole_batches

NEVER = 2**63 - 1


class Batch(NamedTuple):
    """A batch, as far as transactions are concerned."""

    base: int
    last: int
    producer_id: int
    producer_epoch: int
    is_transactional: bool
    marker: bool | None  # of a control batch: whether it commits; None: it holds records
    records: Records

    @property
    def identity(self) -> tuple[int, int, int, bool | None]:
        """What must stay the same at this offset, besides the records."""
        return self.last, self.producer_id, self.producer_epoch, self.marker


def parse(data: bytes) -> list[Batch]:
    """The batches of an answer. Raises Violation for bytes that are not whole batches."""
    found: list[Batch] = []
    for at, header in whole_batches(data):
        records = list(read_records(data, at, max_bytes=1 << 20))
        found.append(
            Batch(
                header.base_offset,
                header.last_offset,
                header.producer_id,
                header.producer_epoch,
                header.is_transactional,
                read_control(records[0]).type == ControlType.COMMIT if header.is_control else None,
                [] if header.is_control else [(record.offset, record.value or b"") for record in records],
            )
        )
    return found


def committed(batches: Iterable[Batch], aborted: Sequence[tuple[int, int]], position: int) -> Records:
    """What a consumer of committed records delivers from position on.

    aborted: (producer id, first offset) of aborted transactions, as the answer has them.
    """
    coming = sorted(aborted, key=lambda each: each[1], reverse=True)
    inside: set[int] = set()  # producers in a transaction that was aborted
    delivered: Records = []
    for batch in batches:
        while coming and coming[-1][1] <= batch.last:
            inside.add(coming.pop()[0])
        if batch.marker is not None:
            if not batch.marker:
                inside.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in inside):
            delivered += [record for record in batch.records if record[0] >= position]
    return delivered


def decided(batches: Iterable[Batch]) -> dict[int, bool | None]:
    """By offset, how each record of a whole log ended: True: committed; None: its transaction is open.

    Worked out from the markers alone, in another way than `committed`.
    """
    fates: dict[int, bool | None] = {}
    open_offsets: dict[int, list[int]] = {}
    for batch in batches:
        if batch.marker is not None:
            for offset in open_offsets.pop(batch.producer_id, ()):
                fates[offset] = batch.marker
        elif batch.is_transactional:
            mine = open_offsets.setdefault(batch.producer_id, [])
            mine += [offset for offset, _ in batch.records]
            fates.update((offset, None) for offset, _ in batch.records)
        else:
            fates.update((offset, True) for offset, _ in batch.records)
    return fates


def undecided(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """(first offset, marker's offset) of each transaction in a whole log; those that are open end nowhere."""
    firsts: dict[int, int] = {}
    spans: list[tuple[int, int]] = []
    for batch in batches:
        if batch.marker is not None:
            first = firsts.pop(batch.producer_id, None)
            if first is not None:
                spans.append((first, batch.base))
        elif batch.is_transactional:
            firsts.setdefault(batch.producer_id, batch.base)
    return spans + [(first, NEVER) for first in firsts.values()]
