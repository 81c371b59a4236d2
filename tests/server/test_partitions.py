"""What the disk refuses stays out, alone; all through a whole broker in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest
import trio
import trio.testing

from kafka_wire import records
from kafka_wire.errors import ErrorCode
from kbroker.config import BrokerConfig
from kbroker.log.opening import run_some
from kbroker.server.broker import run_broker
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import connect
from tests.api.test_produce import batch, produce
from tests.api.test_topics import call_delete, create
from tests.log.tools import Worker

T = TypeVar("T")

FIRST_SEGMENT = "bad-0/00000000000000000000.log"


async def test_L4_a_damaged_log_takes_its_partition_offline_and_no_other() -> None:
    machine = Machine()
    async with memory_broker(topics={"bad": 1, "good": 1}, machine=machine) as broker, broker.client() as client:
        for topic in ("bad", "good"):
            assert (await produce(client, batch(b"a" * 100), topic=topic)).error_code == 0
    data = bytearray(machine.disk.read(FIRST_SEGMENT))
    data[-10] ^= 0xFF
    machine.disk.write_atomic(FIRST_SEGMENT, data)
    machine.disk.remove(".kafka_cleanshutdown")
    machine.disk.power_loss()  # so that the next start reads what it had made durable
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"b"), topic="bad")).error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert (await produce(client, batch(b"b"), topic="good")).base_offset == 1
        assert machine.disk.read(FIRST_SEGMENT) == data  # never shortened
        await call_delete(client, "bad")
        assert (await create(client, "bad")).error_code == 0
        assert (await produce(client, batch(b"b"), topic="bad")).base_offset == 0


async def test_thousands_of_partitions_are_there_when_create_returns() -> None:
    async with memory_broker() as broker, broker.client() as client:
        assert (await create(client, "wide", 1000)).error_code == 0
        for index in (0, 500, 999):
            assert (await produce(client, batch(b"a"), topic="wide", index=index)).base_offset == 0


async def test_L3_an_epoch_the_cluster_has_not_reached_in_a_torn_tail_does_not_stop_a_partition() -> None:
    machine = Machine()
    async with memory_broker(topics={"bad": 1}, machine=machine) as broker, broker.client() as client:
        for _ in range(2):
            assert (await produce(client, batch(b"a"), topic="bad")).error_code == 0
    data = bytearray(machine.disk.read(FIRST_SEGMENT))
    position, header = list(records.headers(data))[-1]
    records.assign(data, position, header, header.base_offset, header.leader_epoch | 1 << 22)
    machine.disk.write_atomic(FIRST_SEGMENT, data)
    for name in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint"):
        machine.disk.remove(name)
    machine.disk.sync_dir("")
    machine.disk.power_loss()
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        sent = await produce(client, batch(b"b"), topic="bad")
        assert (sent.error_code, sent.base_offset) == (0, 1)


def opening_in(seconds: float) -> Callable[[Callable[[], T]], Awaitable[T]]:
    """A worker to whom it takes so long to open logs."""

    async def work_slowly(work: Callable[[], T]) -> T:
        if getattr(work, "func", None) is run_some:
            await trio.sleep(seconds)
        await trio.lowlevel.checkpoint()
        return work()

    return work_slowly


async def test_who_comes_early_is_not_refused_for_logs_that_are_open_in_a_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A producer without idempotence may have sent its next request by the time that it tries the first one again."""
    machine, listeners = Machine(), {"listeners": "PLAINTEXT://127.0.0.1:9092"}
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
    env = machine.env()
    starting = partial(
        run_broker, replace(env, offload=opening_in(0.5)), BrokerConfig().with_values(listeners), store=machine.store
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(starting)
        await trio.testing.wait_all_tasks_blocked()
        async with connect(env.net, "127.0.0.1", 9092, "early") as client:
            answers = [await produce(client, batch(value)) for value in (b"b", b"c")]
        assert [(answer.error_code, answer.base_offset) for answer in answers] == [(0, 1), (0, 2)]
        nursery.cancel_scope.cancel()


async def test_clients_are_answered_while_logs_are_opened(autojump_clock: trio.testing.MockClock) -> None:
    machine, listeners = Machine(), {"listeners": "PLAINTEXT://127.0.0.1:9092"}
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
    env, worker, ready = machine.env(), Worker(), trio.Event()
    worker.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                run_broker,
                replace(env, offload=worker),
                BrokerConfig().with_values(listeners),
                store=machine.store,
                on_ready=lambda told: ready.set(),
            )
        )
        await trio.testing.wait_all_tasks_blocked()
        async with connect(env.net, "127.0.0.1", 9092, "early") as client:
            assert (await create(client, "u")).error_code == 0
            assert (await produce(client, batch(b"b"), topic="u")).error_code == 0
            assert (await produce(client, batch(b"b"))).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            first, second = (batch(b"c", producer_id=9, producer_epoch=0, base_sequence=n) for n in range(2))
            assert (await produce(client, bytearray(first))).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert not ready.is_set()
            worker.gate.set()
            await ready.wait()
            assert (await produce(client, batch(b"b"))).base_offset == 1
            answer = await produce(client, bytearray(second))  # was on its way behind the first one
            assert answer.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert [(await produce(client, bytearray(each))).base_offset for each in (first, second)] == [2, 3]
        nursery.cancel_scope.cancel()


async def test_a_session_lives_through_a_recovery_of_a_minute(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten times as long as a session does without a sign of life; what needs no recovery is served meanwhile."""
    machine, listeners = Machine(), {"listeners": "PLAINTEXT://127.0.0.1:9092"}
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
    env, ready = machine.env(), trio.Event()

    def on_ready(told: object) -> None:
        ready.set()

    async with trio.open_nursery() as nursery:
        config = BrokerConfig().with_values(listeners)
        slow = replace(env, offload=opening_in(60))
        nursery.start_soon(partial(run_broker, slow, config, store=machine.store, on_ready=on_ready))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        async with connect(env.net, "127.0.0.1", 9092, "early") as client:
            assert (await create(client, "u")).error_code == 0
            while trio.current_time() < began + 50:
                assert not ready.is_set()
                assert (await produce(client, batch(b"b"), topic="u")).error_code == 0
                assert (await produce(client, batch(b"b"))).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
                await trio.sleep(5)
            await ready.wait()
            assert trio.current_time() >= began + 60
            assert (await produce(client, batch(b"b"))).base_offset == 1
        nursery.cancel_scope.cancel()
    assert "lost its session" not in caplog.text
