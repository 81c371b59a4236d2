"""The broker on the real operating system, walked through once with every system call it may have to do without.

macOS and Windows lack some of them; here each is switched off in turn, and then all at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kafka_wire.api import ApiKey
from kafka_wire.messages.produce_fetch import FetchResponse
from kafka_wire.records import headers, read_records
from kbroker.cluster.changes.placement import NewTopic
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.env.features import Features
from kbroker.env.real import real_env
from kbroker.server.broker import Ready, run_broker
from kbroker.testing.client import BareClient, connect
from tests.api.test_fetch import fetch_request
from tests.api.test_produce import batch, produce, produce_request

LOOPBACK = "127.0.0.1"
LACKING = [(), *((name,) for name in Features.names()), Features.names()]
MAX = 1 << 24


@asynccontextmanager
async def real_broker(env: Env) -> AsyncIterator[int]:
    """A broker on loopback; its port. Stops cleanly at the end of the block."""
    config = BrokerConfig().with_values({"listeners": f"PLAINTEXT://{LOOPBACK}:0", "message.max.bytes": str(MAX)})
    async with trio.open_nursery() as nursery:
        ready: list[Ready] = []
        served = trio.Event()

        def on_ready(told: Ready) -> None:
            ready.append(told)
            served.set()

        async def run() -> None:
            await run_broker(env, config, topics=[NewTopic("t", 2)], on_ready=on_ready)

        nursery.start_soon(run)
        await served.wait()
        yield next(iter(ready[0].listeners.values()))[1]
        nursery.cancel_scope.cancel()


def values(response: FetchResponse, index: int = 0) -> list[bytes | None]:
    records = response.responses[0].partitions[index].records
    return [r.value for at, _ in headers(records) for r in read_records(records, at, max_bytes=MAX)]


@pytest.mark.parametrize("lacking", LACKING, ids=lambda names: "+".join(names) if len(names) < 3 else "everything")
async def test_the_broker_does_without(lacking: tuple[str, ...], tmp_path: Path) -> None:
    features = Features.detect().without(*lacking)
    big, huge = b"b" * 100_000, b"h" * 3_000_000
    with trio.fail_after(30):
        async with real_broker(real_env(str(tmp_path), features=features)) as port:
            env = real_env(str(tmp_path), features=features)
            async with connect(env.net, LOOPBACK, port) as client:
                for value in (b"small", big, huge):
                    assert (await produce(client, batch(value))).error_code == 0
                await pipelined(client)
                await reads_everything(client, [b"small", big, huge])
                await a_slow_reader_gets_all(client, huge)
            async with connect(env.net, LOOPBACK, port) as rude:
                await rude.stream.send([b"\xff\xff\xff\xff rubbish"])
                with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                    await rude.receive_frame()
        async with real_broker(real_env(str(tmp_path), features=features)) as port:  # and everything is there
            env = real_env(str(tmp_path), features=features)
            async with connect(env.net, LOOPBACK, port) as client:
                await reads_everything(client, [b"small", big, huge])
                await long_poll(client, env, port)


async def pipelined(client: BareClient) -> None:
    """Many requests in flight; answers in order."""
    for n in range(200):
        await client.send(produce_request(batch(b"%d" % n), acks=1, index=1), 9)
    for n in range(200):
        response = await client.receive(ApiKey.PRODUCE, 9)
        assert response.responses[0].partition_responses[0].base_offset == n


async def reads_everything(client: BareClient, expected: list[bytes]) -> None:
    response = await client.call(fetch_request({("t", 0): 0}, max_bytes=MAX, partition_max_bytes=MAX), 11)
    assert values(response) == expected
    response = await client.call(fetch_request({("t", 1): 0}, max_bytes=MAX, partition_max_bytes=MAX), 11)
    assert values(response) == [b"%d" % n for n in range(200)]


async def a_slow_reader_gets_all(client: BareClient, huge: bytes) -> None:
    """Answers pile up until the socket is full: the broker waits, and goes on."""
    request = fetch_request({("t", 0): 2}, max_bytes=MAX, partition_max_bytes=MAX)
    for _ in range(5):
        await client.send(request, 11)
    for _ in range(5):
        assert values(await client.receive(ApiKey.FETCH, 11)) == [huge]


async def long_poll(client: BareClient, env: Env, port: int) -> None:
    await client.send(fetch_request({("t", 1): 200}, max_wait_ms=20_000), 11)
    async with connect(env.net, LOOPBACK, port) as producer:
        assert (await produce(producer, batch(b"now"), index=1)).base_offset == 200
    assert values(await client.receive(ApiKey.FETCH, 11)) == [b"now"]
