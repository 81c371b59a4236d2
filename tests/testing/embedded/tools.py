"""A client of an embedded broker, for tests that are not async: each call has a connection and a loop of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from kafka_wire.messages.metadata import MetadataRequest
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import BareClient, connect
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce

T = TypeVar("T")
WAIT_S = 10.0


def talk(address: tuple[str, int], what: Callable[[BareClient], Awaitable[T]]) -> T:
    async def main() -> T:
        with trio.fail_after(WAIT_S):
            async with connect(RealNet(Features.detect()), *address) as client:
                return await what(client)

    return trio.run(main)


def write(address: tuple[str, int], *written: bytes, topic: str = "t") -> None:
    async def send(client: BareClient) -> None:
        assert (await produce(client, batch(*written), topic=topic)).error_code == 0

    talk(address, send)


def read(address: tuple[str, int], topic: str = "t") -> list[bytes]:
    async def fetch(client: BareClient) -> list[bytes]:
        return values(await client.call(fetch_request({(topic, 0): 0}), 12))

    return talk(address, fetch)


def topics(address: tuple[str, int]) -> dict[str, int]:
    """Names and numbers of partitions."""

    async def ask(client: BareClient) -> dict[str, int]:
        answer = await client.call(MetadataRequest(topics=None), 12)
        return {topic.name: len(topic.partitions) for topic in answer.topics}

    return talk(address, ask)
