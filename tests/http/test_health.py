"""Liveness and readiness, from before a broker has its parts until after it is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from kbroker.config import BrokerConfig
from kbroker.http.beside import http_server
from kbroker.http.health import Life
from kbroker.http.metrics.internals import RECOVERING
from kbroker.log.opening import run_some
from kbroker.server.broker import Ready, run_broker
from kbroker.server.identity import StartFailed
from kbroker.testing.broker import Machine, memory_broker
from tests.api.test_produce import batch, produce
from tests.http.exposition import parse
from tests.http.tools import PORT, Reply, StillProcess, connected

T = TypeVar("T")
CONFIG = BrokerConfig().with_values({"listeners": "PLAINTEXT://127.0.0.1:9092", "kbroker.http.port": str(PORT)})


async def ask(machine: Machine, path: str) -> Reply:
    async with connected(machine.network.host("prober"), PORT, machine.name) as client:
        return await client.get(path)


async def test_readiness_follows_the_broker_from_start_to_end() -> None:
    machine, ready, may_open = Machine(), trio.Event(), trio.Event()
    async with memory_broker(topics={"t": 3}, machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"))).error_code == 0
    env = machine.env()

    async def worker(work: Callable[[], T]) -> T:
        if getattr(work, "func", None) is run_some:
            await may_open.wait()
        await trio.lowlevel.checkpoint()
        return work()

    async def readiness(status: int) -> dict[str, str]:
        await trio.testing.wait_all_tasks_blocked()
        told = await ask(machine, "/readyz")
        assert told.status == status, told.text
        alive = await ask(machine, "/healthz")
        assert (alive.status, alive.json) == (200, {"status": "alive"})
        return told.json  # type: ignore[no-any-return]

    async with http_server(env, CONFIG, StillProcess()) as http:
        detail = "opening the data directory and the coordination store"
        assert await readiness(503) == {"status": "starting", "detail": detail}

        def on_ready(told: Ready) -> None:
            http.note_ready()
            ready.set()

        async with trio.open_nursery() as nursery:
            slow = replace(env, offload=worker)
            run = partial(run_broker, slow, CONFIG, store=machine.store, on_ready=on_ready, beside=http.attach)
            nursery.start_soon(run)
            assert await readiness(503) == {"status": "starting", "detail": "opening logs: 0 of 1 partitions done"}
            page = parse((await ask(machine, "/metrics")).body)  # there is one at any moment
            assert page.value("kafka_server_kafkaserver_brokerstate") == RECOVERING
            may_open.set()
            await ready.wait()
            assert await readiness(200) == {"status": "ready"}
            nursery.cancel_scope.cancel()
        assert await readiness(503) == {"status": "unavailable", "detail": "stopping"}


def test_who_is_not_part_of_the_cluster_or_leaves_it_is_not_ready() -> None:
    mine = SimpleNamespace(leaving=False)
    registration = SimpleNamespace(session=None)
    image = SimpleNamespace(brokers={1: mine})
    services: Any = SimpleNamespace(registration=registration, image=image, node_id=1)
    life = Life()
    life.attach(services)
    assert life.hindrance() == "joining the cluster"
    life.note_ready()
    assert "session with the coordination store is lost" in life.hindrance()
    registration.session = object()
    assert life.hindrance() == ""
    mine.leaving = True
    assert life.hindrance() == "stopping: what it leads is handed over"


async def test_a_port_that_is_taken_is_told_at_once() -> None:
    env = Machine().env()
    async with http_server(env, CONFIG, StillProcess()):
        with pytest.raises(StartFailed, match=f"127.0.0.1:{PORT} is in use.*kbroker --http-port 0"):
            async with http_server(env, CONFIG, StillProcess()):
                pass


async def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(StartFailed, match="cannot serve HTTP on elsewhere:9644: "):
        async with http_server(Machine().env(), CONFIG.with_values({"kbroker.http.host": "elsewhere"}), StillProcess()):
            pass
