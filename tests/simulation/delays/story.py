"""What the log of a partition says, from its first batch to its last: a second reading, which holds all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kafka_wire.records import BatchHeader, ControlType, Record, read_control, read_header, read_records
from kbroker.log.content.delayed import Hidden, Kind, hidden_records, is_delivery, is_hidden, is_rest_of, key_digest
from kbroker.log.content.delayed import needs_rest as may_be_alone
from tests.simulation.checker import Violation

ID = "kbroker-delay-id"


class Pending(NamedTuple):
    """A record that waits."""

    due_ms: int
    key: bytes | None
    value: bytes


class Story:
    """What became of all records of a partition."""

    def __init__(self, name: str, start: int) -> None:
        self.name = name
        self.start = start  # of the log: what came before may be gone
        self.visible: list[tuple[int, bytes]] = []  # (offset, value), as consumers of committed records see it
        self.pending: dict[int, Pending] = {}
        self.cancelled: set[bytes] = set()  # values
        self.orders: set[bytes] = set()  # values of the records that cancel and hurry
        self.deliveries = 0
        self._cancels: list[Hidden] = []
        self._open: dict[int, list[tuple[BatchHeader, bytes]]] = {}  # batches of transactions, by producer

    @property
    def waits(self) -> bool:
        """Whether anything is pending, or undecided."""
        return bool(self.pending or self._open)

    def broken(self, what: str) -> Violation:
        """The log contradicts itself."""
        return Violation(f"{self.name}: {what}")

    def tell(self, batches: Iterable[bytes]) -> Story:
        """Go through the batches of the whole log, in order."""
        alone: tuple[BatchHeader, bytes] | None = None  # hidden, and counts with the batch behind it
        for data in batches:
            header = read_header(data)
            if alone is not None and is_rest_of(alone[0], header):
                self._batch(*alone)
            alone = None
            if is_hidden(header) and may_be_alone(header):
                alone = header, data
            else:
                self._batch(header, data)
        return self

    def _batch(self, header: BatchHeader, data: bytes) -> None:
        if header.is_control and not is_hidden(header):
            marker = read_control(next(iter(_records(data))))
            for batch in self._open.pop(header.producer_id, ()):
                if marker.type == ControlType.COMMIT:
                    self._count(*batch)
        elif header.is_transactional:
            self._open.setdefault(header.producer_id, []).append((header, data))
        else:
            self._count(header, data)

    def _count(self, header: BatchHeader, data: bytes) -> None:
        if is_hidden(header):
            for hidden in hidden_records(data):
                self._hidden(hidden)
            return
        if is_delivery(header):
            self._deliver(header, data)
        self.visible += [(record.offset, record.value or b"") for record in _records(data)]

    def _hidden(self, hidden: Hidden) -> None:
        if hidden.kind in (Kind.DELAYED, Kind.CARRIED):
            self._wait(hidden)
            return
        self.orders.add(hidden.value or b"")
        if hidden.kind is Kind.CANCEL:
            self._cancels.append(hidden)
            for id in [id for id, pending in self.pending.items() if _means(hidden, id, pending)]:
                self.cancelled.add(self.pending.pop(id).value)

    def _wait(self, hidden: Hidden) -> None:
        pending = Pending(hidden.due_ms, hidden.key, hidden.value or b"")
        if hidden.kind is Kind.CARRIED and hidden.id >= self.start and hidden.id not in self.pending:
            raise self.broken(f"{hidden.id} is carried forward at {hidden.offset}, and was not pending")
        if any(_means(cancel, hidden.id, pending) for cancel in self._cancels):  # it was committed after that
            self.cancelled.add(pending.value)
        else:
            self.pending[hidden.id] = pending

    def _deliver(self, header: BatchHeader, data: bytes) -> None:
        for record in _records(data):
            id = delivered_id(record)
            self.deliveries += 1
            pending = self.pending.pop(id, None)
            if pending is None:
                if id >= self.start:
                    raise self.broken(f"{id} is delivered at {record.offset}, and is not pending: {record.value!r}")
                continue
            if pending.value != record.value or pending.key != record.key:
                raise self.broken(f"{id} is delivered at {record.offset} as {record.value!r}, it was {pending.value!r}")


def delivered_id(record: Record) -> int:
    """Which record a delivery is of."""
    (found,) = [value for name, value in record.headers or () if name == ID]
    return int(found or b"")


def _records(data: bytes) -> Iterator[Record]:
    return iter(list(read_records(data, 0, max_bytes=1 << 20)))


def _means(order: Hidden, id: int, pending: Pending) -> bool:
    """Whether an order is about a record: what lies before it in the log."""
    is_of_key = order.key is not None and key_digest(pending.key) == key_digest(order.key)
    return id < order.offset and (id in order.ids if order.ids else is_of_key)
