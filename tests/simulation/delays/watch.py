"""Sees what leaders hide and deliver, at the moment they append it, by their own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka_wire.records import read_header, read_records
from kbroker.log.content.delayed import Kind, hidden_records, is_delivery
from kbroker.replication.partition import Partition
from kbroker.testing.scheduler import replaced
from kbroker.testing.world import current_process
from tests.simulation.delays.ledger import TOPICS, DelayLedger
from tests.simulation.delays.story import delivered_id


@contextmanager
def watching(ledger: DelayLedger, report: Callable[[Exception], None]) -> Iterator[None]:
    """While the block runs. report: told what is wrong, as nothing may be raised in the midst of a broker's code."""
    write, write_hidden = Partition.write, Partition.write_hidden

    def told(look: Callable[..., None], *args: Any) -> None:
        try:
            look(*args)
        except Exception as error:
            report(error)

    def hides(self: Partition, batch: Any, header: Any, now_ms: int, guard: Any = None, diverted: Any = None) -> Any:
        if diverted is not None:
            told(_hides, ledger, bytes(diverted.batch))
        if self.topic in TOPICS and not (diverted is not None and diverted.is_all):
            told(_passes, ledger, bytes(batch))
        return write(self, batch, header, now_ms, guard, diverted)

    def delivers(self: Partition, batch: bytearray, now_ms: int) -> int:
        told(_delivers, ledger, bytes(batch), self.log.directory)
        return write_hidden(self, batch, now_ms)

    with replaced(Partition, "write", hides), replaced(Partition, "write_hidden", delivers):
        yield


def _hides(ledger: DelayLedger, batch: bytes) -> None:
    for hidden in hidden_records(batch):
        if hidden.kind is Kind.DELAYED:
            ledger.hides(hidden.value or b"", hidden.due_ms)


def _passes(ledger: DelayLedger, batch: bytes) -> None:
    process = current_process.get()
    assert process is not None
    for record in read_records(batch, 0, max_bytes=1 << 20):
        ledger.passes(record.value or b"", process.env.clock.data_ms(), process.node.name)


def _delivers(ledger: DelayLedger, batch: bytes, where: str) -> None:
    process = current_process.get()
    assert process is not None
    if is_delivery(read_header(batch)):
        now_ms = process.env.clock.data_ms()
        for record in read_records(batch, 0, max_bytes=1 << 20):
            ledger.delivers(record.value or b"", delivered_id(record), now_ms, f"{process.node.name}, {where}")
