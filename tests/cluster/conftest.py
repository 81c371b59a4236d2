"""Every test that takes `store` runs on every engine; on etcd where `make test-etcd` has brought one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kbroker.cluster.store import CoordinationStore
from kbroker.cluster.stores.memory import MemoryStore
from tests.cluster.stores.etcd import servers
from tests.cluster.tools import HandClock, InTurn, sqlite_at


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite", "sqlite-shared", *servers.programs()])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> AsyncIterator[CoordinationStore]:
    if isinstance(request.param, Path):
        async with servers.etcd(request.param, tmp_path) as members, servers.opened(members, clock) as opened:
            yield opened
    elif request.param == "memory":
        yield MemoryStore(clock)
    elif request.param == "sqlite":
        async with sqlite_at(tmp_path / "coord.db", clock) as opened:
            yield opened
    else:
        path = tmp_path / "coord.db"
        async with sqlite_at(path, clock) as one, sqlite_at(path, clock) as two:
            yield InTurn(one, two)
