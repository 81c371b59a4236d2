"""Transactions from the first request to the last marker, on a log."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from kbroker.api.context import Context
from kbroker.api.transactions import add_partitions_to_txn
from kbroker.config import BrokerConfig
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.transaction import EPOCH_LAST, EPOCH_MAX, LOOK_AGAIN_S, Producer
from kbroker.turns import at_once
from tests.transactions.tools import Written, done, rig


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


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2])
async def test_T5_what_times_out_is_aborted_with_a_new_epoch(version: int, autojump_clock: MockClock) -> None:
    async with rig(version=version) as made:
        producer = await made.begin(timeout_ms=10_000)
        await made.add(producer, {"t": {1}}, client_version=version)
        await trio.sleep(9)
        assert await made.add(producer, {"t": {2}}, client_version=version) is ErrorCode.NONE
        assert made.transaction().entry.state is S.ONGOING, "and another partition gains it no time"
        await trio.sleep(2)
        fencing = Producer(producer.id, producer.epoch + 1)
        assert made.brokers.markers == [Written("t", each, fencing, False, 1) for each in (1, 2)]
        assert made.transaction().entry.state is S.COMPLETE_ABORT
        assert await made.add(producer, client_version=version) is ErrorCode.PRODUCER_FENCED
        commit = await made.end(producer, client_version=version)
        assert commit is (ErrorCode.PRODUCER_FENCED if version == 0 else ErrorCode.INVALID_TXN_STATE)


async def test_data_time_ends_no_transaction(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with rig(machine) as made:
        producer = await made.begin(timeout_ms=10_000)
        await made.add(producer)
        machine.clock.jump_data(3_600_000)
        await trio.sleep(5)
        assert made.transaction().entry.state is S.ONGOING


@pytest.mark.parametrize(
    ("jump_ms", "left_s"), [(0, 10), (4_000, 6), (9_999, 0), (10_000, 0), (3_600_000, 0), (-3_600_000, 10)]
)
async def test_the_time_that_is_left_survives_a_crash(jump_ms: int, left_s: float, autojump_clock: MockClock) -> None:
    machine = Machine()
    async with rig(machine) as made:
        producer = await made.begin(timeout_ms=10_000)
        await made.add(producer)
    machine.clock.jump_data(jump_ms)
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        deadline = made.transaction().deadline
        if deadline is not None:  # else it is over already
            assert deadline - made.env.clock.liveness() == pytest.approx(left_s, abs=0.1)
        await trio.sleep(left_s + 1)
        assert made.transaction().entry.state is S.COMPLETE_ABORT


async def test_a_late_transaction_without_a_further_epoch_waits_for_a_producer_id(autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin(timeout_ms=1_000)
        transaction = made.transaction()
        last = transaction.entry._replace(producer_epoch=EPOCH_LAST)
        transaction.restore(last, 0, now=0, now_ms=0)
        producer = Producer(producer.id, EPOCH_LAST)
        await made.add(producer)
        made.ids.error = KafkaError(ErrorCode.REQUEST_TIMED_OUT)
        await trio.sleep(8)
        assert transaction.entry.state is S.ONGOING
        made.ids.error = None
        await trio.sleep(LOOK_AGAIN_S)
        assert transaction.entry.state is S.COMPLETE_ABORT
        assert (transaction.entry.producer_id, transaction.entry.producer_epoch) == (made.ids.last, 0)
        assert made.brokers.markers == [Written("t", 0, Producer(producer.id, EPOCH_MAX), False, 1)]


# -- what is forgotten ------------------------------------------------------------------------------------------------


async def test_T7_unused_ids_are_forgotten_in_batches_that_fit(autojump_clock: MockClock) -> None:
    machine = Machine()
    config = BrokerConfig().with_values({"message.max.bytes": "1000"}, origin="test")
    async with rig(machine, config=config) as made:
        for n in range(200):
            await made.begin(f"idle-{n:03}-{'x' * 100}")
        busy = await made.begin("busy")
        await made.add(busy, transactional_id="busy")
        done = await made.begin("done")
        await made.add(done, transactional_id="done")
        await made.end(done, transactional_id="done")
        machine.clock.jump_data(config.get_int("transactional.id.expiration.ms") - 60_000)
        await made.begin("young")
        at_once(made.coordinator.housekeeping.expire(made.shard))
        assert len(made.shard.transactions) == 203, "not yet"
        machine.clock.jump_data(61_000)
        at_once(made.coordinator.housekeeping.expire(made.shard))
        assert set(made.shard.transactions) == {"busy", "young"}
        assert await made.end(done, transactional_id="done") is ErrorCode.INVALID_PRODUCER_ID_MAPPING
        assert await made.begin("done") != done, "a producer of its own"
    async with rig(machine, epoch=2, config=config) as made:
        assert set((await made.loaded()).transactions) == {"busy", "young", "done"}


async def test_housekeeping_comes_round(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with rig(machine) as made:
        await made.begin()
        machine.clock.jump_data(made.config.get_int("transactional.id.expiration.ms"))
        await trio.sleep(3_601)
        assert not made.shard.transactions


async def test_a_log_that_says_little_is_compacted() -> None:
    machine = Machine()
    async with rig(machine) as made:
        producer = await made.begin()
        for _ in range(1_000):
            assert await made.add(producer) is ErrorCode.NONE
            after = await made.end(producer)
            assert isinstance(after, Producer)
            producer = after
            await trio.lowlevel.checkpoint()
        made.shard.kept, made.shard.logged = 0, 10**6
        made.coordinator.runtime.note_growth(made.shard)
        with trio.fail_after(60):
            while made.shard.is_compacting:
                await trio.lowlevel.checkpoint()
        assert made.partition.log.size < 2_000, "of one transactional id"
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert await made.add(producer) is ErrorCode.NONE


# -- several at once --------------------------------------------------------------------------------------------------


async def test_of_two_producers_that_race_one_remains() -> None:
    async with rig() as made:
        producers = list[Producer]()

        async def race() -> None:
            producers.append(await made.begin())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(race)
        assert len({each.id for each in producers}) == 1, "whoever came first made the id; all others go on with it"
        assert [each.epoch for each in producers] == [0, 1, 2, 3, 4]
        answers = [await made.add(each) for each in producers]
        assert answers == [ErrorCode.PRODUCER_FENCED] * 4 + [ErrorCode.NONE]


async def test_P3_who_was_fenced_stays_so_when_the_other_ends_its_transaction_by_old_rules() -> None:
    """It does not get the epoch of the other as if it had ended that transaction itself, and asked again."""
    machine = Machine()
    async with rig(machine) as made:
        fenced, other = await made.begin(), await made.begin()
        await made.add(other, client_version=0)
        assert await made.end(other, commit=False, client_version=0) is ErrorCode.NONE
        assert await made.end(fenced, commit=False) is ErrorCode.PRODUCER_FENCED
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        assert await made.end(fenced, commit=False) is ErrorCode.PRODUCER_FENCED
        assert await made.end(other, commit=False, client_version=0) is ErrorCode.NONE


async def test_commit_and_abort_crossing_end_one_way(autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.gate = trio.Event()
        after = await made.end(producer, commit=True)
        assert await made.end(producer, commit=False) is ErrorCode.INVALID_TXN_STATE
        assert await made.end(producer, commit=True) is ErrorCode.CONCURRENT_TRANSACTIONS, "and is told when it is done"
        made.brokers.gate.set()
        await trio.sleep(1)
        assert await made.end(producer, commit=False) is ErrorCode.INVALID_TXN_STATE
        assert await made.end(producer, commit=True) == after
        assert [each.is_commit for each in made.brokers.markers] == [True]


async def test_a_transaction_of_very_many_partitions_is_busy_while_it_is_stored() -> None:
    async with rig() as made:
        made.add_topic("u", (1,) * 10_000)
        producer = await made.begin()
        answers = dict[str, Any]()

        async def ask(name: str, answer: Any) -> None:
            answers[name] = await answer

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", made.add(producer, {"u": set(range(10_000))}))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask, "second", made.add(producer))
            nursery.start_soon(ask, "end", made.end(producer))
        assert answers["first"] is ErrorCode.NONE
        assert {answers["second"], answers["end"]} <= {ErrorCode.NONE, ErrorCode.CONCURRENT_TRANSACTIONS}
        assert len(made.transaction().entry.partitions["u"]) == 10_000


async def test_more_partitions_than_a_record_can_hold_are_refused() -> None:
    config = BrokerConfig().with_values({"message.max.bytes": "2000"}, origin="test")
    async with rig(config=config) as made:
        producer = await made.begin()
        shard = made.shard
        assert await made.add(producer, {"u": set(range(1_000))}) is ErrorCode.UNKNOWN_SERVER_ERROR
        assert await made.add(producer, {"u": set(range(100))}) is ErrorCode.NONE
        assert await made.add(producer, {"v" * 200: set(range(400))}) is ErrorCode.UNKNOWN_SERVER_ERROR
        assert made.shard is shard and list(made.transaction().entry.partitions) == ["u"]


@pytest.mark.slow
async def test_ten_thousand_ids_take_less_than_40_MB() -> None:
    async with rig() as made:
        await made.begin()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(500):
                producer = await made.begin(f"transactional-id-{n:06}")
                await made.add(producer, transactional_id=f"transactional-id-{n:06}")
            bytes_an_id = (tracemalloc.get_traced_memory()[0] - before) / 500
        finally:
            tracemalloc.stop()
        assert bytes_an_id * 10_000 < 40_000_000, bytes_an_id


async def test_many_transactions_wait_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with rig() as made:
        producers = {f"x-{n}": await made.begin(f"x-{n}") for n in range(5)}
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind, and stays there
        topics = [AddPartitionsToTxnTopic(name="t", partitions=[0])]
        request = AddPartitionsToTxnRequest(
            transactions=[
                AddPartitionsToTxnTransaction(
                    transactional_id=name, producer_id=each.id, producer_epoch=each.epoch, topics=topics
                )
                for name, each in producers.items()
            ]
        )
        services = SimpleNamespace(transactions=made.coordinator, image=made.registration.image)
        context = cast(Context, SimpleNamespace(services=services, version=5))
        began = trio.current_time()
        response = await done(add_partitions_to_txn(request, context))
        assert trio.current_time() - began <= made.coordinator.wait_s
        codes = [
            row.partition_error_code
            for one in response.results_by_transaction
            for each in one.topic_results
            for row in each.results_by_partition
        ]
        assert codes == [ErrorCode.COORDINATOR_NOT_AVAILABLE] * 5
