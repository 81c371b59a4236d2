"""Transactions from the first request to the last marker, on a log."""

from __future__ import annotations

from kafka_wire.errors import ErrorCode
from kbroker.testing.broker import Machine
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.transaction import Producer
from tests.transactions.tools import Written, rig


async def test_a_transaction_of_each_version_comes_to_its_end() -> None:
    async with rig() as made:
        old = await made.begin("old")
        assert old == Producer(1000, 0)
        assert await made.add(old, transactional_id="old", client_version=0) is ErrorCode.NONE
        assert made.transaction("old").entry.state is S.ONGOING
        assert await made.end(old, transactional_id="old", client_version=0) is ErrorCode.NONE
        assert made.transaction("old").entry.state is S.COMPLETE_COMMIT
        assert made.brokers.markers == [Written("t", 0, old, True, 1)]

        new = await made.begin("new")
        assert await made.add(new, {"t": {1, 2}}, "new") is ErrorCode.NONE
        after = await made.end(new, commit=False, transactional_id="new")
        assert after == Producer(1001, 1), "transaction.version 2 bumps the epoch"
        assert made.transaction("new").entry.state is S.COMPLETE_ABORT
        assert made.brokers.markers[1:] == [Written("t", 1, after, False, 1), Written("t", 2, after, False, 1)]


async def test_T3_what_was_answered_is_there_after_a_kill() -> None:
    machine = Machine()
    async with rig(machine) as made:
        producer = await made.begin()
        assert await made.add(producer, {"t": {0, 3}}) is ErrorCode.NONE
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert await made.verify(producer) == {"t": {0, 3}}
        assert await made.end(producer) == Producer(producer.id, producer.epoch + 1)
        assert {(each.partition, each.coordinator_epoch) for each in made.brokers.markers} == {(0, 2), (3, 2)}
