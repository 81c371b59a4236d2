"""Every test that takes `store` runs on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kbroker.cluster.store import CoordinationStore
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.tools import HandClock, sqlite_at


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[CoordinationStore]:
    if request.param == "memory":
        yield MemoryStore(clock)
    else:
        async with sqlite_at(tmp_path / "coord.db", clock) as opened:
            yield opened
