"""Data time jumps: what is due follows at once, and nobody who is alive notices (I/O and liveness stay as they are)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kbroker.testing.client import BareClient
from tests.api.group_tools import beat, commit, committed, enter, find
from tests.api.test_fetch import fetch_request
from tests.api.test_produce import batch, produce
from tests.api.test_views import data, make_view
from tests.delay import tools as delay
from tests.testing.control.test_controls import controlled

MINUTE_MS = 60_000
AT_ONCE_S = 0.1  # of I/O time; nothing else passes here
UNKNOWN_MEMBER_ID = 25


async def create(client: BareClient, name: str, **configs: str) -> None:
    """A topic of one partition. configs: dots as `__`."""
    pairs = [CreatableTopicConfig(name=key.replace("__", "."), value=value) for key, value in configs.items()]
    topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1, assignments=[], configs=pairs)
    answer = await client.call(CreateTopicsRequest(topics=[topic], timeout_ms=10_000), 7)
    assert answer.topics[0].error_code == 0, answer


async def earliest(client: BareClient, topic: str) -> int:
    wanted = [ListOffsetsTopic(name=topic, partitions=[ListOffsetsPartition(partition_index=0, timestamp=-2)])]
    answer = await client.call(ListOffsetsRequest(replica_id=-1, topics=wanted), 5)
    return int(answer.topics[0].partitions[0].offset)


async def shown(client: BareClient, topic: str, max_wait_ms: int = 0) -> list[bytes]:
    """The values of what a consumer would get."""
    return data(await client.call(fetch_request({(topic, 0): 0}, max_wait_ms=max_wait_ms), 12))


async def test_a_delayed_record_is_delivered_at_once_and_not_a_minute_early(autojump_clock: object) -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        await create(client, "later", kbroker__delay__enable="true")
        record = (b"k", b"in half an hour", {"kbroker-deliver-after": b"%d" % (30 * MINUTE_MS)})
        records = delay.records.build_batch([(broker.clock.data_ms(), record[0], record[1], tuple(record[2].items()))])
        assert (await produce(client, records, topic="later")).error_code == 0
        await controls.advance(29 * MINUTE_MS)
        await trio.sleep(1)
        assert await shown(client, "later") == []
        began = trio.current_time()
        await controls.advance(MINUTE_MS)
        with trio.fail_after(AT_ONCE_S):
            while await shown(client, "later") != [b"in half an hour"]:
                await trio.lowlevel.checkpoint()
        assert trio.current_time() - began < AT_ONCE_S


async def test_retention_has_looked_when_the_clock_has_moved(autojump_clock: object) -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        await create(client, "short", retention__ms=str(60 * MINUTE_MS))
        await produce(client, batch(b"a", timestamp=broker.clock.data_ms()), topic="short")
        began = trio.current_time()
        await controls.advance(59 * MINUTE_MS)
        assert await earliest(client, "short") == 0
        await controls.advance(2 * MINUTE_MS)
        assert await earliest(client, "short") == 1
        assert trio.current_time() - began < AT_ONCE_S


async def test_a_late_view_shows_what_was_there_before_the_jump_and_wakes_who_waits(autojump_clock: object) -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as reader:
        await make_view(client, "t.later", lag_ms=str(30 * MINUTE_MS))
        await trio.sleep(3)  # its source is noted every second or so
        await produce(client, batch(b"a"))  # and this is not noted yet
        await controls.advance(29 * MINUTE_MS)
        await produce(client, batch(b"b"))
        assert await shown(reader, "t.later") == []
        found: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                found.extend(await shown(reader, "t.later", max_wait_ms=30_000))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await controls.advance(MINUTE_MS)
        assert found == [b"a"]  # and not b, which is a minute old
        assert trio.current_time() - began < AT_ONCE_S
        await controls.advance(29 * MINUTE_MS)
        assert await shown(reader, "t.later") == [b"a", b"b"]


async def test_a_jump_expels_no_live_member_and_breaks_no_long_poll(autojump_clock: object) -> None:
    async with controlled() as (broker, controls), broker.client() as client, broker.client() as poller:
        await find(client, "g")
        joined = await enter(client, "g")
        async with trio.open_nursery() as nursery:
            found: list[Any] = []

            async def poll() -> None:
                found.extend(await shown(poller, "t", max_wait_ms=20_000))

            nursery.start_soon(poll)
            await trio.testing.wait_all_tasks_blocked()
            await controls.advance(24 * 60 * MINUTE_MS)
            await trio.sleep(3)
            assert (await beat(client, "g", joined), found) == (0, [])
            await produce(client, batch(b"a"))
        assert found == [b"a"]
        assert await beat(client, "g", joined) == 0


async def test_liveness_moves_when_it_is_asked_to_and_the_broker_survives_it(autojump_clock: object) -> None:
    async with controlled() as (broker, controls), broker.client() as client:
        await find(client, "g")
        joined = await enter(client, "g")
        await controls.advance(30 * MINUTE_MS, liveness=True)
        await trio.sleep(1)  # an alarm may be late by half a second
        assert await beat(client, "g", joined) == UNKNOWN_MEMBER_ID
        assert (await produce(client, batch(b"a"))).error_code == 0


async def test_what_a_group_without_members_committed_expires(autojump_clock: object) -> None:
    async with controlled(config={"offsets.retention.minutes": "60"}) as (broker, controls), broker.client() as client:
        await find(client, "g")
        assert await commit(client, "g", 7) == 0
        await controls.advance(59 * MINUTE_MS)
        assert (await committed(client, "g"))[0] == 7
        await controls.advance(2 * MINUTE_MS)
        assert (await committed(client, "g"))[0] == -1


async def test_a_jump_of_nothing_and_one_beyond_all_clocks(autojump_clock: object) -> None:
    async with controlled() as (broker, controls):
        before = controls.now_ms()
        assert await controls.advance(0) == before
        with pytest.raises(ValueError, match="never goes back"):
            await controls.advance(-1)
        with pytest.raises(ValueError, match="beyond the year 9999"):
            await controls.advance(10**16)
        with pytest.raises(ValueError, match="cannot go back to"):
            await controls.advance_to(before - 1)
        assert await controls.advance_to(before + 5) == before + 5
