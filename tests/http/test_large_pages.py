"""A page of many partitions and groups costs the event loop little, in short turns; nothing while nobody reads it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kbroker.groups.storage.records import OffsetCommitValue
from tests.api.group_tools import commit, find
from tests.http.exposition import parse
from tests.http.tools import GET, PORT, metered, told_broker
from tests.server.loop_meter import LINES_MAX, LoopMeter

PARTITIONS = 5000
LINES_A_MS = 10_000  # of Python


@pytest.mark.slow
async def test_5000_partitions_take_50_ms_in_turns_of_less_than_5() -> None:
    async with told_broker({f"topic-{n}": 100 for n in range(PARTITIONS // 100)}) as told:
        meter, reply = await metered(told, "/metrics")
    assert len(parse(reply.body).of("kafka_log_log_size")) == PARTITIONS
    assert meter.lines <= 50 * LINES_A_MS, f"{meter.lines:,} lines"
    assert meter.worst <= LINES_MAX // 3, meter.report()


@pytest.mark.slow
async def test_thousands_of_offsets_are_gone_through_in_turns() -> None:
    """2,000 groups of 5 partitions each, and one of 10,000 offsets."""
    async with told_broker({"t": 5}) as told, told.broker.client() as client:
        await find(client, "g")
        assert await commit(client, "g", 1) == 0
        (shard,) = [each for each in told.services.groups.runtime.leading.active() if "g" in each.groups]
        value = OffsetCommitValue(offset=1, leader_epoch=-1, metadata="", commit_timestamp=0)
        for n in range(2000):
            shard.offsets.settle(f"g{n}", {"t": dict.fromkeys(range(5), value)}, 1)
        shard.offsets.settle("many", {"t": dict.fromkeys(range(10_000), value)}, 1)
        meter, reply = await metered(told, "/metrics")
    page = parse(reply.body)
    assert len(page.of("kafka_consumergroup_current_offset")) == 20_001
    assert len(page.of("kafka_consumergroup_lag")) == 10_006  # of those that there are
    assert meter.worst <= LINES_MAX // 3, meter.report()


async def test_who_does_not_read_a_page_has_no_more_of_it_made() -> None:
    async with told_broker({f"topic-{n}": 100 for n in range(5)}) as told:
        told.broker.machine.network.buffer_size = 16384
        stream = await told.broker.env.net.connect("localhost", PORT)
        await stream.send((GET % b"/metrics",))
        await wait_all_tasks_blocked()
        meter = LoopMeter()
        with meter.running():
            for _ in range(20):
                await trio.lowlevel.checkpoint()
        assert meter.lines < 1000
        assert (await told.get("/healthz")).status == 200
        stream.close()
