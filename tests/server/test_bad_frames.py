"""B1, B2: twenty thousand bad frames against a real broker, while a good client goes on producing.

Of each kind some: cut short, of a negative or absurd length, random bytes, unknown APIs and versions, sound headers
with garbage behind them, sound requests with a byte changed. Each is answered or costs its sender the connection,
never anybody else anything.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from kafka_wire.api import ApiKey, request_class
from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode
from kafka_wire.frames import request_header
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.records import build_batch
from kbroker.env import Stream
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import BareClient, connect
from tests.server.process import BrokerProcess

FRAMES = 20_000
SENDERS = 8
ANSWER_SECONDS = 0.3  # a garbled long poll may wait for ever; then we leave
RSS_GROWTH_MAX = 30 * 1024 * 1024
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
HARMLESS = (ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.LIST_OFFSETS, ApiKey.METADATA, ApiKey.API_VERSIONS,
            ApiKey.INIT_PRODUCER_ID, ApiKey.OFFSET_FOR_LEADER_EPOCH, ApiKey.DESCRIBE_CONFIGS)  # fmt: skip
VERSIONS = {ApiKey.PRODUCE: 9, ApiKey.FETCH: 12, ApiKey.LIST_OFFSETS: 7, ApiKey.METADATA: 12, ApiKey.API_VERSIONS: 3,
            ApiKey.INIT_PRODUCER_ID: 4, ApiKey.OFFSET_FOR_LEADER_EPOCH: 4, ApiKey.DESCRIBE_CONFIGS: 4}  # fmt: skip

Frames = Callable[[random.Random], bytes]


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def cut_short(chance: random.Random) -> bytes:
    return struct.pack(">i", chance.randint(100, 100_000)) + chance.randbytes(chance.randint(0, 99))


def oversized(chance: random.Random) -> bytes:
    return struct.pack(">i", chance.choice([2**31 - 1, 2**30, 105_000_000])) + chance.randbytes(50)


def negative(chance: random.Random) -> bytes:
    return struct.pack(">i", -chance.randint(1, 2**31)) + chance.randbytes(20)


def noise(chance: random.Random) -> bytes:
    return framed(chance.randbytes(chance.randint(0, 300)))


def unknown(chance: random.Random) -> bytes:
    key, version = chance.choice([(999, 0), (-1, 3), (0, 99), (1, -1), (3, 77), (18, 99), (68, 0)])
    return framed(struct.pack(">hhih", key, version, 1, -1) + chance.randbytes(chance.randint(0, 60)))


def garbage_behind_a_header(chance: random.Random) -> bytes:
    key = chance.choice(HARMLESS)
    return framed(request_header(key, VERSIONS[key], 1, "bad") + chance.randbytes(chance.randint(0, 200)))


def huge_count(chance: random.Random) -> bytes:
    key = chance.choice(HARMLESS)
    return framed(request_header(key, VERSIONS[key], 1, "bad") + b"\xff\xff\xff\xff\x07" * chance.randint(1, 30))


def changed(chance: random.Random) -> bytes:
    key = chance.choice([ApiKey.LIST_OFFSETS, ApiKey.METADATA, ApiKey.PRODUCE])
    body = bytearray(encode(good_request(b"x" * 100) if key == ApiKey.PRODUCE else request_class(key)(**FIELDS[key]),
                            VERSIONS[key]))  # fmt: skip
    for _ in range(chance.randint(1, 4)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return framed(request_header(key, VERSIONS[key], 1, "bad") + bytes(body))


FIELDS: dict[ApiKey, dict[str, Any]] = {
    ApiKey.LIST_OFFSETS: {"replica_id": -1, "topics": []},
    ApiKey.METADATA: {"topics": []},
}
KINDS: tuple[Frames, ...] = (
    cut_short, oversized, negative, noise, unknown, garbage_behind_a_header, huge_count, changed,
)  # fmt: skip


def good_request(value: bytes) -> ProduceRequest:
    data = PartitionProduceData(index=0, records=bytes(build_batch([(None, value)])))
    return ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[TopicProduceData(name="good", partition_data=[data])])


class BadClient:
    """Sends bad frames, over a new connection whenever the broker has hung up."""

    def __init__(self, broker: BrokerProcess, number: int) -> None:
        self.broker = broker
        self.chance = random.Random(f"bad/{number}")
        self.sent = dict.fromkeys(KINDS, 0)
        self.connections = 0

    async def run(self, frames: int) -> None:
        """Send so many frames."""
        net, stream = RealNet(Features.detect()), None
        for _ in range(frames):
            kind = self.chance.choice(KINDS)
            try:
                if stream is None:
                    stream = await net.connect(self.broker.host, self.broker.port)
                    self.connections += 1
                await stream.send([kind(self.chance)])
                self.sent[kind] += 1
                if kind is not cut_short and await self._is_answered(stream):
                    continue
            except BROKEN:
                pass
            if stream is not None:
                await stream.aclose()
            stream = None
        if stream is not None:
            await stream.aclose()

    async def _is_answered(self, stream: Stream) -> bool:
        with trio.move_on_after(ANSWER_SECONDS):
            return await stream.receive_into(memoryview(bytearray(65536))) > 0
        return False


class GoodClient:
    """Produces, and is served every time."""

    def __init__(self, client: BareClient) -> None:
        self.client = client
        self.seconds: list[float] = []
        self.ended = False
        self.offset = -1

    async def run(self) -> None:
        """Produce until told to end."""
        while not self.ended:
            begin = trio.current_time()
            response = await self.client.call(good_request(b"x" * 1000), 9)
            self.seconds.append(trio.current_time() - begin)
            answer = response.responses[0].partition_responses[0]
            assert answer.error_code == ErrorCode.NONE
            assert answer.base_offset > self.offset
            self.offset = answer.base_offset


@pytest.mark.slow
async def test_B1_B2_bad_frames_harm_nobody_else(tmp_path: Path) -> None:
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            options = ("--topic", "good:1", "--log-level", "info", "--override", "auto.create.topics.enable=false")
            broker = BrokerProcess(nursery, tmp_path, *options)
            await broker.start()
            async with connect(RealNet(Features.detect()), broker.host, broker.port) as client:
                await BadClient(broker, -1).run(500)  # code and caches come into memory
                rss_before = broker.resident_bytes()
                good = GoodClient(client)
                bad = [BadClient(broker, n) for n in range(SENDERS)]
                async with trio.open_nursery() as working:
                    working.start_soon(good.run)
                    async with trio.open_nursery() as sending:
                        for each in bad:
                            sending.start_soon(each.run, FRAMES // SENDERS)
                    good.ended = True
                growth = broker.resident_bytes() - rss_before
                p99 = sorted(good.seconds)[math.ceil(len(good.seconds) * 0.99) - 1]
                print(
                    f"{sum(sum(each.sent.values()) for each in bad)} bad frames, "
                    f"{sum(each.connections for each in bad)} connections; {len(good.seconds)} good requests, "
                    f"p99 {p99 * 1000:.1f} ms; RSS grew by {growth / 1e6:.1f} MB"
                )
                assert len(good.seconds) > 100
                assert growth < RSS_GROWTH_MAX
            assert broker.process.poll() is None
            async with connect(RealNet(Features.detect()), broker.host, broker.port) as client:
                response = await client.call(good_request(b"last"), 9)
                assert response.responses[0].partition_responses[0].error_code == ErrorCode.NONE
            assert await broker.stop() == 0
            assert "Traceback" not in broker.said
