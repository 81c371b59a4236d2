"""Fixtures for tests in trio, loaded where pytest-trio is: a broker in the test's own loop, on the test's own clock.

    async def test_delay(akbroker, autojump_clock):
        async with akbroker.client() as client:
            ...

Disk and network are in memory, so that nothing waits for anything but the clock: with `autojump_clock` half an hour
passes at once. Clients are `akbroker.client()`: real ones have sockets, which are not in that world.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import pytest_trio

from kbroker.testing.pytest_plugin import texts, wish_of

if TYPE_CHECKING:
    from kbroker.testing.broker import MemoryBroker


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]
async def akbroker(request: pytest.FixtureRequest, kbroker_config: Mapping[str, Any]) -> AsyncIterator[MemoryBroker]:
    """A MemoryBroker (kbroker.testing.broker) of this test's own."""
    from kbroker.testing.broker import memory_broker

    wish = wish_of(request.node)
    async with memory_broker(topics=wish.topics, config={**texts(kbroker_config), **wish.config}) as broker:
        yield broker
