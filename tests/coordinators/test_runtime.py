"""The runtime of coordinators serves any kind of state: here, counters. (Groups: tests/groups/test_coordinator.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.shard import ANSWERS_A_TURN, Ticket
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from tests.api.steps import Steps
from tests.coordinators.counters import Counter, rig


async def test_what_was_answered_is_there_after_a_kill() -> None:
    machine = Machine()
    async with rig(machine) as made:
        assert [made.add("a", 1), made.add("a", 2), made.add("b", 5)] == [1, 3, 5]
    async with rig(machine, epoch=2) as made:
        shard = await made.loaded()
        assert (made.add("a", 0), made.add("b", 0)) == (3, 5)
        await wait_all_tasks_blocked()
        assert shard.taken_up


async def test_G2_an_answer_waits_until_what_it_says_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        monkeypatch.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind
        answer, results = made.add("a", 1), list[int]()

        async def wait(waiting: Any) -> None:
            results.append(await waiting)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, answer)
            await wait_all_tasks_blocked()
            assert not results
            made.partition.high_watermark.advance(1)
            await wait_all_tasks_blocked()
            assert results == [1]


FLUSHED = {"flush.messages": "1"}


async def test_what_was_answered_is_durable_where_every_message_is_flushed() -> None:
    machine = Machine()
    async with rig(machine, **FLUSHED) as made:
        assert [await made.add("a", 1), await made.add("a", 2)] == [1, 3]
        machine.disk.power_loss()
    async with rig(machine, epoch=2, **FLUSHED) as made:
        await made.loaded()
        assert await made.add("a", 0) == 3


async def test_what_was_loaded_is_durable_before_it_is_acted_on() -> None:
    machine = Machine()
    async with rig(machine, **FLUSHED) as made:
        made.add("a", 1).close()  # killed before it was flushed
    async with rig(machine, epoch=2, **FLUSHED) as made:
        await made.loaded()
        machine.disk.power_loss()
    async with rig(machine, epoch=3, **FLUSHED) as made:
        await made.loaded()
        assert await made.add("a", 0) == 1


async def test_who_waits_for_a_core_is_answered_when_the_leadership_ends() -> None:
    async with rig() as made:
        answer = made.wait("a")

        async def wait() -> None:
            assert await answer == ErrorCode.NOT_COORDINATOR

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            made.partition.resign()
            made.runtime.leading.resign(0)
        assert not made.runtime.leading.shards


WAITING = 2_000


async def test_B1_very_many_who_wait_are_answered_in_turns_when_the_leadership_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        answers: list[ErrorCode] = []

        async def wait(waiting: Any) -> None:
            answers.append(await waiting)

        async with trio.open_nursery() as waiters:
            for n in range(WAITING):
                waiters.start_soon(wait, made.wait(f"c{n % 2}"))
            await wait_all_tasks_blocked()
            before = made.shard
            steps = Steps(nursery)
            monkeypatch.setattr(Ticket, "answer", steps.counted(Ticket.answer))
            made.lead(2)
            assert before.closed == ErrorCode.NOT_COORDINATOR, "at once"
            assert made.add("a", 1) == 1, "the next leadership does not wait for it"
        assert answers == [ErrorCode.NOT_COORDINATOR] * WAITING
        assert steps.longest <= 2 * ANSWERS_A_TURN
        nursery.cancel_scope.cancel()


async def test_B1_very_many_answers_that_are_committed_together_go_out_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        sums: list[int] = []

        async def wait(waiting: Any) -> None:
            sums.append(await waiting)

        with monkeypatch.context() as behind:
            behind.setattr(Partition, "follow_log", lambda self: None)  # a follower is behind
            async with trio.open_nursery() as waiters:
                for _ in range(WAITING):
                    waiters.start_soon(wait, made.add("a", 1))
                await wait_all_tasks_blocked()
                steps = Steps(nursery)
                behind.setattr(Ticket, "answer", steps.counted(Ticket.answer))
                made.partition.high_watermark.advance(WAITING)
        assert sorted(sums) == list(range(1, WAITING + 1))
        assert steps.longest <= 2 * ANSWERS_A_TURN
        assert made.add("a", 1) == WAITING + 1
        nursery.cancel_scope.cancel()


async def test_R14_a_coordinator_in_doubt_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        assert made.add("a", 1) == 1
        monkeypatch.setattr(Partition, "is_heard", False)  # another broker may have been given its partition
        assert made.add("a", 1) == ErrorCode.NOT_COORDINATOR
        monkeypatch.undo()
        assert made.add("a", 1) == 2


async def test_who_waits_too_long_is_answered(autojump_clock: MockClock) -> None:
    async with rig() as made:
        assert await made.wait("a") == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert trio.current_time() == pytest.approx(5)


async def test_an_alarm_rings_at_its_time_also_when_the_next_one_is_set_earlier(autojump_clock: MockClock) -> None:
    async with rig() as made:
        for name, seconds in (("late", 20.0), ("early", 10.0)):
            made.add(name, 1)
            made.shard.counter(name).deadline = made.env.clock.liveness() + seconds
            made.runtime.note(made.shard, name)
        await trio.sleep(11)
        assert [made.shard.counter(name).value for name in ("late", "early")] == [1, 0]
        await trio.sleep(10)
        assert made.shard.counter("late").value == 0
        before = made.shard
        made.runtime.leading.restart(before, ErrorCode.NOT_COORDINATOR)
        assert not (await made.loaded()).counters, "both have left a tombstone"


async def test_a_core_that_cannot_be_stored_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as made:
        made.add("a", 1)
        before = made.shard

        def refuse(*_: object) -> None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

        with monkeypatch.context() as broken:
            broken.setattr(Partition, "write", refuse)
            assert made.add("a", 1) == ErrorCode.NOT_COORDINATOR
        assert await made.loaded() is not before
        assert made.add("a", 0) == 1


async def test_a_core_that_fails_costs_its_shard_a_reload_and_no_more(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with rig() as made:
        made.add("a", 1)
        before = made.shard
        before.counter("a").deadline = made.env.clock.liveness() + 1
        made.runtime.note(before, "a")

        def fail(*_: object) -> None:
            raise AssertionError("a bug")

        with monkeypatch.context() as broken:
            broken.setattr(Counter, "clear", fail)
            await trio.sleep(2)
        assert await made.loaded() is not before
        assert made.add("a", 0) == 1


async def test_a_store_that_is_too_large_for_one_batch_is_several() -> None:
    async with rig() as made:
        shard = made.shard
        assert made.fill("a", 2_500) == 2_500
        assert made.shard is shard and shard.logged == 2_500
        assert made.add("b", 1) == 1, "nobody else is disturbed"


async def test_a_log_that_says_little_is_compacted() -> None:
    machine = Machine()
    async with rig(machine) as made:
        for n in range(25_000):
            assert made.add(f"c{n % 10}", 1) == n // 10 + 1
            if not n % 10:
                await trio.lowlevel.checkpoint()
        with trio.fail_after(60):
            while made.shard.is_compacting:
                await trio.lowlevel.checkpoint()
        assert made.shard.logged <= 10_000
    async with rig(machine, epoch=2) as made:
        shard = await made.loaded()
        assert shard.logged <= 10_000
        assert {each.value for each in shard.counters.values()} == {2_500}


async def test_what_takes_long_is_computed_in_turns_and_comes_back_as_an_event() -> None:
    async with rig() as made:
        turns, done = 0, trio.Event()

        async def others() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                made.add("b", 1)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            assert await made.add_slowly("a", 1000) == 1000
            done.set()
        assert turns > 50
        assert made.add("a", 1) == 1001


async def test_a_computation_of_a_shard_that_closed_is_dropped() -> None:
    async with rig() as made:
        slow = made.add_slowly("a", 1000)

        async def ask() -> None:
            assert await slow == ErrorCode.NOT_COORDINATOR

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.lowlevel.checkpoint()
            made.lead(2)
        await wait_all_tasks_blocked()
        assert (await made.loaded()).counter("a").value == 0
