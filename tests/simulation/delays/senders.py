"""Producers of records for now, for later, to cancel and to hurry, all in one batch; with transactions and without."""

from __future__ import annotations

from typing import Any

from kafka_wire.records import build_batch
from tests.simulation.clients import Client, IdempotentProducer
from tests.simulation.delays.ledger import DelayLedger
from tests.simulation.transactions.producers import TransactionalProducer


class Sender(IdempotentProducer):
    """Idempotent."""

    def _fill(self, lane: Any, batches: int) -> None:
        self.place = str(lane.history)
        super()._fill(lane, batches)

    def batch(self, values: list[bytes], **options: Any) -> bytearray:
        return mixed_batch(self, self.place, values, **options)


class TransactionalSender(TransactionalProducer):
    """In transactions."""

    def put(self, history: Any, values: list[bytes]) -> Any:
        self.place = str(history)
        return super().put(history, values)

    def batch(self, values: list[bytes], **options: Any) -> bytearray:
        return mixed_batch(self, self.place, values, **options)


def mixed_batch(client: Client, place: str, values: list[bytes], **options: Any) -> bytearray:
    """A batch in which each record asks for something else."""
    ledger, now_ms = client.checker, client.env.clock.data_ms()
    assert isinstance(ledger, DelayLedger)
    rows = []
    for value in values:
        note = ledger.plan(value, place, client.name, client.random, now_ms)
        headers = [] if note.header is None else [(note.header.decode(), note.text)]
        rows.append((now_ms, note.key, value, headers))
    return build_batch(rows, compression=client.random.choice([0, 0, 1, 4]), **options)
