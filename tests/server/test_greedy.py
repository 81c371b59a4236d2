"""B1: beside whoever asks much, a good client waits little. Lines of Python are counted, not seconds.

What the broker runs between the good client's request and its answer is bounded: a line takes some 50 to 100 ns, so
that LINES_WAITED are some 25 ms on the loop of a broker that does nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from kafka_wire.api import ApiKey
from kafka_wire.codegen import encode
from kafka_wire.frames import request_header
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kbroker.testing.broker import MemoryBroker
from kbroker.testing.client import BareClient
from tests.server.test_largest_requests import metered_broker

LINES_WAITED = 300_000
LINES_BETWEEN = 100_000  # two requests of the good client
GOOD_TURNS = 3
GONE = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)


def frame(request: Any, key: ApiKey) -> bytes:
    """Made beforehand, as what greedy clients do is counted too."""
    data = request_header(key, 7, 1, "greedy") + encode(request, 7)
    return struct.pack(">i", len(data)) + data


MUCH = frame(
    MetadataRequest(topics=[MetadataRequestTopic(name=f"topic-{n % 200:03}") for n in range(1_000)]), ApiKey.METADATA
)
ALL_TOPICS = frame(MetadataRequest(topics=None), ApiKey.METADATA)
OFFSETS = [ListOffsetsPartition(partition_index=n, timestamp=-1) for n in range(100_000)]
ALL_OFFSETS = frame(
    ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="wide", partitions=OFFSETS)]), ApiKey.LIST_OFFSETS
)


async def pipelined(broker: MemoryBroker, nursery: trio.Nursery) -> None:
    """Seven thousand requests in one go; their answers are read."""
    async with broker.client() as client:
        nursery.start_soon(read_all, client)
        for _ in range(700):
            await client.stream.send([MUCH] * 10)


async def unread(broker: MemoryBroker, nursery: trio.Nursery) -> None:
    """Twenty connections that ask and never read."""

    async def ask() -> None:
        async with broker.client() as client:
            for _ in range(100):
                await client.stream.send([MUCH] * 10)

    for _ in range(20):
        nursery.start_soon(quietly, ask)


async def over_and_over(broker: MemoryBroker, nursery: trio.Nursery) -> None:
    """The offsets of a hundred thousand partitions, and once more."""
    async with broker.client() as client:
        while True:
            await client.stream.send([ALL_OFFSETS])
            await client.receive_frame()


async def crowd(broker: MemoryBroker, nursery: trio.Nursery) -> None:
    """Three hundred connections that ask for all topics as fast as they are answered."""

    async def ask() -> None:
        async with broker.client() as client:
            while True:
                await client.stream.send([ALL_TOPICS])
                await client.receive_frame()

    for _ in range(300):
        nursery.start_soon(quietly, ask)


async def quietly(ask: Callable[[], Awaitable[None]]) -> None:
    """A greedy client may be hung up on."""
    try:
        await ask()
    except GONE:
        pass


async def read_all(client: BareClient) -> None:
    async def read() -> None:
        while True:
            await client.receive_frame()

    await quietly(read)


@pytest.mark.slow
@pytest.mark.parametrize("greedy", [pipelined, unread, over_and_over, crowd], ids=lambda each: each.__name__)
async def test_B1_a_good_client_waits_little_beside_a_greedy_one(greedy: Any) -> None:
    waited: list[int] = []
    async with metered_broker() as (broker, meter), broker.client() as good, trio.open_nursery() as nursery:
        with meter.running(), trio.fail_after(300):
            nursery.start_soon(quietly, lambda: greedy(broker, nursery))
            for _ in range(GOOD_TURNS):
                busy = meter.lines + LINES_BETWEEN
                while meter.lines < busy:  # the greedy are served meanwhile
                    await trio.lowlevel.checkpoint()
                before = meter.lines
                await good.call(MetadataRequest(topics=[]), 7)
                waited.append(meter.lines - before)
        nursery.cancel_scope.cancel()
    assert max(waited) <= LINES_WAITED, waited
