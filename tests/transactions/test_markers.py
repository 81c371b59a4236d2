"""Markers: asked for of whoever leads, never before the end is decided, until every partition has its own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.transactions.markers import PIECE_MAX, REQUEST_MAX
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.transaction import Producer, Transaction
from kbroker.turns import one_at_a_time
from tests.transactions.tools import Rig, rig

RETRIED = (
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
)


async def test_T2_no_marker_before_the_decision_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind
        told = list[Any]()

        async def end() -> None:
            told.append(await made.end(producer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await wait_all_tasks_blocked()
            assert made.transaction().entry.state is S.PREPARE_COMMIT
            assert not made.brokers.requests and not told
            made.partition.high_watermark.advance(made.partition.log.end.value)
            await wait_all_tasks_blocked()
        assert told and len(made.brokers.markers) == 1


@pytest.mark.parametrize("code", RETRIED, ids=lambda code: code.name)
async def test_a_partition_that_cannot_take_it_now_is_asked_again(code: ErrorCode, autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer, {"t": {0, 1, 2}})
        refusals = iter([code] * 5)
        made.brokers.answer = lambda topic, index: next(refusals, ErrorCode.NONE) if index == 1 else ErrorCode.NONE
        after = await made.end(producer)
        assert {each.partition for each in made.brokers.markers} == {0, 2}
        assert await made.add(after if isinstance(after, Producer) else producer) is ErrorCode.CONCURRENT_TRANSACTIONS
        await trio.sleep(10)
        assert [each.partition for each in made.brokers.markers] == [0, 2, 1], "each once"
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_a_broker_that_cannot_be_asked_is_asked_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kbroker.transactions")
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.error = KafkaError(ErrorCode.NETWORK_EXCEPTION)
        assert isinstance(await made.end(producer), Producer), "it is decided, whatever comes"
        await trio.sleep(5)
        assert made.transaction().entry.state is S.PREPARE_COMMIT
        assert 4 < len(made.brokers.requests) < 20, "soon at first, then less often"
        told = [each.getMessage() for each in caplog.records]
        assert len([line for line in told if "did not answer" in line]) == 1, "and people are told once"
        made.brokers.error = None
        await trio.sleep(2)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_a_broker_that_breaks_off_is_asked_again(autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.gate = trio.Event()
        await made.end(producer)
        made.brokers.error = KafkaError(ErrorCode.NETWORK_EXCEPTION)
        made.brokers.gate.set()
        await trio.sleep(1)
        assert not made.brokers.markers
        made.brokers.error = made.brokers.gate = None
        await trio.sleep(2)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_whoever_leads_now_is_asked(autojump_clock: MockClock) -> None:
    async with rig() as made:
        made.add_topic("u", (2, -1, 3))
        producer = await made.begin()
        await made.add(producer, {"u": {0, 1, 2}})
        made.brokers.answer = lambda topic, index: ErrorCode.NOT_LEADER_OR_FOLLOWER
        await made.end(producer)
        assert {broker for broker, _ in made.brokers.requests} == {2, 3}, "nobody leads the second"
        made.add_topic("u", (4, 5, 4))
        made.brokers.answer = lambda topic, index: ErrorCode.NONE
        made.brokers.requests.clear()
        await trio.sleep(2)
        assert {broker for broker, _ in made.brokers.requests} == {4, 5}
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_partitions_of_topics_that_are_gone_are_done(autojump_clock: MockClock) -> None:
    async with rig() as made:
        made.add_topic("u", (1, 1))
        made.add_topic("v", (1,))
        producer = await made.begin()
        await made.add(producer, {"u": {0, 1}, "v": {0}})
        made.brokers.answer = lambda topic, index: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        made.remove_topic("u")
        await made.end(producer)
        assert made.transaction().entry.state is S.PREPARE_COMMIT
        made.remove_topic("v")
        await trio.sleep(2)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT and not made.brokers.markers


async def test_a_partition_that_has_seen_a_later_epoch_needs_none() -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.answer = lambda topic, index: ErrorCode.INVALID_PRODUCER_EPOCH
        await made.end(producer)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_a_fenced_coordinator_gives_up(autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.answer = lambda topic, index: ErrorCode.TRANSACTION_COORDINATOR_FENCED
        await made.end(producer)
        await trio.sleep(5)
        assert len(made.brokers.requests) == 1
        assert made.transaction().entry.state is S.PREPARE_COMMIT, "the end is a later coordinator's"


async def test_a_spread_that_pauses_at_its_end_completes_a_transaction_once() -> None:
    """What is queued is written while the rest is still looked up, and turns out to be of a topic that is gone."""
    async with rig() as made:
        made.add_topic("u", (1,) * PIECE_MAX)
        made.add_topic("gone", (1,) * 244)  # the last pause comes right behind the last partition
        first, second = await made.begin("a"), await made.begin("b")
        await made.add(first, transactional_id="a")
        await made.add(second, {"u": set(range(PIECE_MAX))}, transactional_id="b")
        await made.add(second, {"gone": set(range(244))}, transactional_id="b")
        made.remove_topic("gone")
        made.brokers.gate = trio.Event()
        await made.end(first, transactional_id="a")
        await made.end(second, transactional_id="b")
        floor = one_at_a_time("turns of long work")
        async with floor:
            await wait_all_tasks_blocked()
        async with floor:  # behind the first turn
            made.brokers.gate.set()
            await wait_all_tasks_blocked()
            assert (1, PIECE_MAX) in made.brokers.requests
        await wait_all_tasks_blocked()
        assert made.transaction("b").entry.state is S.COMPLETE_COMMIT


async def test_the_log_tells_once_of_markers_that_have_to_wait(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kbroker.transactions")
    async with rig() as made:
        made.add_topic("u", (1,) * 200)
        producer = await made.begin()
        await made.add(producer, {"u": set(range(200))})
        caplog.clear()
        made.brokers.answer = lambda topic, index: ErrorCode.KAFKA_STORAGE_ERROR
        await made.end(producer)
        await trio.sleep(60)
        assert len(made.brokers.requests) > 50
        [told] = [each.getMessage() for each in caplog.records]
        assert "200" in told and "error 56" in told


async def test_a_thousand_ends_at_once_are_asked_for_together() -> None:
    async with rig() as made:
        made.brokers.gate = trio.Event()
        for n in range(1001):
            producer = await made.begin(f"x-{n}")
            await made.add(producer, transactional_id=f"x-{n}")
            assert isinstance(await made.end(producer, transactional_id=f"x-{n}"), Producer)
        assert made.brokers.requests == [(1, 1)]
        made.brokers.gate.set()
        await wait_all_tasks_blocked()
        assert [size for _, size in made.brokers.requests] == [1, REQUEST_MAX, 1000 - REQUEST_MAX]
        assert {each.entry.state for each in made.shard.transactions.values()} == {S.COMPLETE_COMMIT}


async def test_a_large_transaction_is_asked_for_in_pieces() -> None:
    async with rig() as made:
        made.add_topic("u", (1,) * 5_000)
        producer = await made.begin()
        assert await made.add(producer, {"u": set(range(5_000))}) is ErrorCode.NONE
        after = await made.end(producer)
        await wait_all_tasks_blocked()
        assert max(size for _, size in made.brokers.requests) <= max(PIECE_MAX, REQUEST_MAX)
        assert sorted(each.partition for each in made.brokers.markers) == list(range(5_000))
        assert made.transaction().entry.state is S.COMPLETE_COMMIT
        assert isinstance(after, Producer) and await made.add(after) is ErrorCode.NONE


async def test_T2_a_loaded_coordinator_has_the_markers_written(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with rig(machine) as made:
        made.brokers.error = KafkaError(ErrorCode.NETWORK_EXCEPTION)
        producers = [await made.begin(f"x-{n}") for n in range(3)]
        for n, producer in enumerate(producers):
            await made.add(producer, {"t": {n}}, f"x-{n}")
        await made.end(producers[0], True, "x-0")
        await made.end(producers[1], False, "x-1")
    async with rig(machine, epoch=2) as made:
        await made.loaded()
        await wait_all_tasks_blocked()
        assert {(each.partition, each.is_commit, each.coordinator_epoch) for each in made.brokers.markers} == {
            (0, True, 2), (1, False, 2)
        }  # fmt: skip
        states = [made.transaction(f"x-{n}").entry.state for n in range(3)]
        assert states == [S.COMPLETE_COMMIT, S.COMPLETE_ABORT, S.ONGOING]


@pytest.mark.parametrize("client_version", [0, 2])
async def test_T2_what_is_ended_while_a_loaded_coordinator_takes_up_the_rest_has_its_markers_once(
    client_version: int, autojump_clock: MockClock
) -> None:
    """Partitions that are not led yet, right after a start, have both wait."""
    async with rig() as made:
        for n in range(300):
            await made.begin(f"other-{n}")
        producer = await made.begin()
        await made.add(producer, client_version=client_version)
        made.lead(2)
        made.brokers.answer = lambda topic, index: ErrorCode.NOT_LEADER_OR_FOLLOWER
        await made.loaded()
        await made.end(producer, client_version=client_version)
        await trio.sleep(5)
        made.brokers.answer = lambda topic, index: ErrorCode.NONE
        await trio.sleep(5)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT
        assert len(made.brokers.markers) == 1


async def test_what_a_coordinator_hears_after_its_epoch_completes_nothing() -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer, {"t": {0, 1}})
        gate = made.brokers.gate = trio.Event()
        await made.end(producer)
        made.brokers.gate = trio.Event()
        made.lead(2)
        await made.loaded()
        gate.set()  # the request of epoch 1 is answered
        await wait_all_tasks_blocked()
        assert {each.coordinator_epoch for each in made.brokers.markers} == {1}
        assert made.transaction().entry.state is S.PREPARE_COMMIT
        made.brokers.gate.set()
        await wait_all_tasks_blocked()
        assert [(each.partition, each.coordinator_epoch) for each in made.brokers.markers][2:] == [(0, 2), (1, 2)]
        assert made.transaction().entry.state is S.COMPLETE_COMMIT


async def test_B1_what_goes_wrong_at_the_end_of_a_transaction_stays_with_its_shard(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        complete, failures = Transaction.complete, iter([True])

        def failing(self: Transaction, *args: Any) -> Any:
            assert not next(failures, False), "planted"
            return complete(self, *args)

        monkeypatch.setattr(Transaction, "complete", failing)
        await made.end(producer)
        await trio.sleep(2)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT, "the shard was loaded again, and took it up"


async def test_who_resigns_asks_no_more(autojump_clock: MockClock) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        made.brokers.answer = lambda topic, index: ErrorCode.NOT_LEADER_OR_FOLLOWER
        await made.end(producer)
        made.partition.resign()
        made.coordinator.resign(0)
        made.brokers.requests.clear()
        await trio.sleep(5)
        assert not made.brokers.requests


@pytest.mark.parametrize("failing", ["PREPARE_COMMIT", "COMPLETE_COMMIT"])
@pytest.mark.parametrize("is_written", [False, True], ids=["not written", "written all the same"])
async def test_a_full_disk_costs_no_decision(
    failing: str, is_written: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with rig() as made:
        producer = await made.begin()
        await made.add(producer)
        write, armed = Partition.write, [True]

        def full(partition: Partition, *more: Any) -> Any:
            if armed[0] and made.transaction().entry.state.name == failing:
                armed[0] = False
                if is_written:
                    write(partition, *more)
                raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)
            return write(partition, *more)

        monkeypatch.setattr(Partition, "write", full)
        before = made.shard
        answer = await made.end(producer)
        assert made.coordinator.runtime.leading.active() != [before], "its memory was ahead of the log"
        if failing == "COMPLETE_COMMIT":
            assert answer == Producer(producer.id, 1), "it was decided"
        else:
            assert answer is ErrorCode.NOT_COORDINATOR
        await _end_until_known(made, producer)
        assert made.transaction().entry.state is S.COMPLETE_COMMIT
        assert made.brokers.markers and all(each.is_commit for each in made.brokers.markers)


async def _end_until_known(made: Rig, producer: Producer) -> None:
    """As a client does: the same request, until it is told."""
    retriable = (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.CONCURRENT_TRANSACTIONS)
    while (answer := await made.end(producer)) in retriable:
        await trio.sleep(0.1)
    assert answer == Producer(producer.id, producer.epoch + 1)
