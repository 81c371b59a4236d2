"""Neither dividing the largest batch nor delivering all of it holds the event loop for more than a few milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from kbroker.testing.broker import MemoryBroker
from kbroker.testing.client import BareClient
from tests.delay.tools import Row, after, at_once, cancel, create, now, read, send
from tests.server.loop_meter import LINES_MAX, LoopMeter
from tests.server.test_largest_requests import metered_broker

pytestmark = pytest.mark.slow

ORDERS = {"kbroker-delay-cancel", "kbroker-delay-now"}
DELAYED = dict(after(2000, b"")[2])


@asynccontextmanager
async def metered() -> AsyncIterator[tuple[MemoryBroker, BareClient, LoopMeter]]:
    off = {"kbroker.scrub.bytes.per.second": "0"}  # what it costs is its own affair
    async with metered_broker(off) as (broker, meter), broker.client() as client:
        await create(client)
        yield broker, client, meter


@pytest.mark.parametrize(
    ("codec", "rows"),
    [
        pytest.param(0, [after(2000 + n % 50, b"") for n in range(15_000)], id="delayed"),
        pytest.param(4, [after(2000 + n % 50, b"") for n in range(15_000)], id="delayed, compressed"),
        pytest.param(0, [at_once(b"kbroker-de") for _ in range(30_000)], id="looks like it"),
        pytest.param(4, [at_once(b"") for _ in range(60_000)] + [after(2000, b"")], id="one of many, compressed"),
        pytest.param(0, [cancel(b"%d" % n) for n in range(15_000)], id="cancels"),
        pytest.param(0, [cancel(None, range(1, 100_000))], id="cancels many ids"),
        pytest.param(4, [now(b"%d" % n) for n in range(15_000)], id="hurries, compressed"),
        pytest.param(0, [(b"k", b"v", dict.fromkeys(map(str, range(100_000)), b"") | DELAYED)], id="headers"),
    ],
)
async def test_B1_delay_holds_the_loop_for_a_few_milliseconds_at_a_time(
    codec: int, rows: list[Row], autojump_clock: object
) -> None:
    async with metered() as (broker, client, meter):
        await send(client, after(1000, b"first"))
        with meter.running(), trio.fail_after(300):
            await send(client, *rows, compression=codec)
            await trio.sleep(4)
        delivered = [row for row in rows if not ORDERS & row[2].keys()]
        assert len(await read(client)) == 1 + len(delivered)
    assert meter.worst <= LINES_MAX, meter.report()
