"""What runs beside a broker: from before it is registered until it ends, with its services."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from kbroker.api.context import Services
from kbroker.config import BrokerConfig
from kbroker.server.broker import Ready, run_broker
from kbroker.testing.broker import Machine

CONFIG = BrokerConfig().with_values({"listeners": "PLAINTEXT://127.0.0.1:0"})


async def test_it_begins_before_the_broker_is_registered_and_ends_with_it() -> None:
    machine, ready, seen = Machine(), trio.Event(), list[str]()

    async def beside(services: Services) -> None:
        seen.append(f"epoch {services.registration.broker_epoch}, ready {ready.is_set()}")
        await ready.wait()
        seen.append(f"brokers {list(services.image.brokers)}")
        try:
            await trio.sleep_forever()
        finally:
            seen.append("over")

    def on_ready(told: Ready) -> None:
        ready.set()

    async with trio.open_nursery() as nursery:
        run = partial(run_broker, machine.env(), CONFIG, store=machine.store, on_ready=on_ready, beside=beside)
        nursery.start_soon(run)
        await ready.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == ["epoch -1, ready False", "brokers [1]", "over"]


async def test_its_failure_ends_the_broker_cleanly() -> None:
    machine = Machine()

    async def beside(services: Services) -> None:
        raise AssertionError("ours")

    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="ours"), flatten_subgroups=True):
        await run_broker(machine.env(), CONFIG, store=machine.store, beside=beside)
    async with trio.open_nursery() as nursery:  # nothing is locked, nothing bound
        ready = trio.Event()
        run = partial(run_broker, machine.env(), CONFIG, store=machine.store, on_ready=lambda told: ready.set())
        nursery.start_soon(run)
        await ready.wait()
        nursery.cancel_scope.cancel()
