"""Broker configs that change while the broker runs (KIP-226), where no client's record shows it: limits of connections,
and what is merely read anew. The others are in test_config_behaviour.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.metadata import ApiVersionsRequest
from kbroker.api.context import Services
from kbroker.config import TABLE, ConfigError, ConfigKey, Scope, format_value, parse
from kbroker.server.broker import Broker
from kbroker.testing.broker import MemoryBroker, memory_broker
from kbroker.testing.client import BareClient


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[MemoryBroker, BareClient, Services]]:
    """A broker with a topic t, a client, and the broker's parts."""
    assembled: list[Services] = []
    assemble = Broker.assemble

    def noted(self: Broker, *parts: Any) -> Services:
        assembled.append(assemble(self, *parts))
        return assembled[0]

    monkeypatch.setattr(Broker, "assemble", noted)
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        yield broker, client, assembled[0]


async def change(client: BareClient, name: str, value: str) -> None:
    config = IncrementalAlterableConfig(name=name, config_operation=0, value=value)
    resource = IncrementalAlterConfigsResource(resource_type=Scope.BROKER, resource_name="", configs=[config])
    answer = await client.call(IncrementalAlterConfigsRequest(resources=[resource], validate_only=False), 1)
    assert answer.responses[0].error_code == 0, answer


def another_value(key: ConfigKey) -> str:
    """One that is allowed and not the default."""
    if key.choices:
        return next(choice for choice in key.choices if choice != key.default)
    if isinstance(key.default, bool):
        return str(not key.default).lower()
    for number in ("5", "1234567"):
        try:
            if parse(key, number) != key.default:
                return number
        except ConfigError:
            continue
    raise AssertionError(f"no value known for {key.name}")


async def is_refused(broker: MemoryBroker) -> bool:
    """Whether one more connection is closed at once."""
    async with broker.client() as another:
        try:
            await another.call(ApiVersionsRequest(client_software_name="x", client_software_version="1"), 3)
        except (trio.EndOfChannel, trio.BrokenResourceError):
            return True
    return False


# The value that each goes by now.
READERS: dict[str, Callable[[Services], object]] = {
    "group.consumer.assignment.interval.ms": lambda s: s.groups.settings_of("g").consumer.assignment_interval_ms,
    "kbroker.scrub.bytes.per.second": lambda s: s.logs.config.get_int("kbroker.scrub.bytes.per.second"),
}
CONNECTIONS = {"max.connections", "max.connections.per.ip"}


@pytest.mark.parametrize("name", READERS)
async def test_who_goes_by_a_config_reads_it_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = TABLE[Scope.BROKER][name]
    async with running(monkeypatch) as (_, client, services):
        assert READERS[name](services) == key.default
        await change(client, name, another_value(key))
        assert format_value(READERS[name](services)) == another_value(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(CONNECTIONS))
async def test_limits_of_connections_hold_from_the_next_one_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (broker, client, _):
        assert not await is_refused(broker)
        await change(client, name, "1")
        assert await is_refused(broker)
        await change(client, name, "10")
        assert not await is_refused(broker)
