"""Listeners: bad frames, other people's peace, limits, closing."""

from __future__ import annotations

import struct

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.codegen import encode
from kafka_wire.frames import request_header
from kafka_wire.messages.metadata import ApiVersionsRequest, MetadataRequest
from kbroker.testing.broker import MemoryBroker, memory_broker
from tests.api.test_fetch import fetch_request
from tests.api.test_produce import batch, produce, produce_request

LENGTH = struct.Struct(">i")


async def is_hung_up_on(broker: MemoryBroker, data: bytes) -> bool:
    async with broker.client() as client:
        await client.stream.send([data])
        try:
            await client.receive_frame()
        except (trio.EndOfChannel, trio.BrokenResourceError):
            return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        LENGTH.pack(-1),
        LENGTH.pack(2**31 - 1),
        LENGTH.pack(104857601),
        LENGTH.pack(0),
        LENGTH.pack(3) + b"abc",
        LENGTH.pack(10) + b"\xff" * 10,
        LENGTH.pack(12) + request_header(ApiKey.METADATA, 1, 1, "ab"),  # the body is missing
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["negative", "2GB", "over-limit", "empty", "short", "ones", "no-body", "http"],
)
async def test_B1_a_bad_frame_ends_its_connection_and_no_other(data: bytes) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as bystander:
        assert (await produce(bystander, batch(b"before"))).base_offset == 0
        assert await is_hung_up_on(broker, data)
        assert (await produce(bystander, batch(b"after"))).base_offset == 1


@pytest.mark.parametrize("acks", [1, -1])
async def test_B1_a_record_that_was_appended_is_acknowledged_whatever_follows(acks: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        frame = request_header(ApiKey.PRODUCE, 9, 5, "x") + encode(produce_request(batch(b"a"), acks=acks), 9)
        await client.stream.send([LENGTH.pack(len(frame)) + frame + LENGTH.pack(-1)])
        answer = await client.receive(ApiKey.PRODUCE, 9)
        assert answer.responses[0].partition_responses[0].base_offset == 0
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await client.receive_frame()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.sampled_from([0, 1, 2, 3, 18, 19, 20, 21, 22, 23, 32, 33, 35, 37, 44, 60, 74, 75]),
    version=st.integers(0, 13),
    body=st.binary(max_size=200),
)
async def test_B1_random_bodies_never_harm(key: int, version: int, body: bytes) -> None:
    async with memory_broker(topics={"t": 1}) as broker:
        frame = request_header(key, version, 1, "x") + body
        async with broker.client() as client:
            await client.send_frame(frame)
            with trio.move_on_after(0.05):
                try:
                    await client.receive_frame()
                except (trio.EndOfChannel, trio.BrokenResourceError):
                    pass
        async with broker.client() as bystander:
            assert (await produce(bystander, batch(b"fine"))).error_code == 0


async def test_frames_in_pieces_and_many_in_one() -> None:
    async with memory_broker() as broker, broker.client() as client:
        frame = request_header(ApiKey.API_VERSIONS, 0, 5, "x")
        data = (LENGTH.pack(len(frame)) + frame) * 3
        for byte in data:
            await client.stream.send([bytes([byte])])
        await client.stream.send([data])
        for _ in range(6):
            assert LENGTH.unpack_from(await client.receive_frame()) == (5,)


async def test_a_null_client_id_is_fine() -> None:
    async with memory_broker() as broker, broker.client(None) as client:
        await client.call(ApiVersionsRequest(), 0)


async def test_connections_are_limited() -> None:
    async with memory_broker(config={"max.connections": "2"}) as broker:
        async with broker.client() as one, broker.client() as two:
            await one.call(MetadataRequest(topics=[]), 1)
            await two.call(MetadataRequest(topics=[]), 1)
            async with broker.client() as three:
                with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                    await three.call(MetadataRequest(topics=[]), 1)
        async with broker.client() as four:
            await four.call(MetadataRequest(topics=[]), 1)


async def test_a_half_sent_request_is_forgotten_with_its_connection() -> None:
    async with memory_broker(topics={"t": 1}) as broker:
        async with broker.client() as client:
            await client.stream.send([LENGTH.pack(1000) + b"half"])
        async with broker.client() as client:
            assert (await produce(client, batch(b"a"))).base_offset == 0


class TestReaper:
    """B5: who has gone quiet is hung up on."""

    async def test_an_idle_connection(self, autojump_clock: MockClock) -> None:
        async with memory_broker(config={"connections.max.idle.ms": "60000"}) as broker, broker.client() as client:
            await client.call(ApiVersionsRequest(), 0)
            with pytest.raises(trio.EndOfChannel):
                await client.receive_frame()
            assert 50 <= trio.current_time() <= 90

    async def test_a_frame_begun_and_not_ended(self, autojump_clock: MockClock) -> None:
        async with memory_broker() as broker, broker.client() as client:
            await client.stream.send([LENGTH.pack(1000) + b"half"])
            with pytest.raises(trio.EndOfChannel):
                await client.receive_frame()
            assert 25 <= trio.current_time() <= 60

    async def test_a_long_poll_with_a_request_pipelined_behind_it(self, autojump_clock: MockClock) -> None:
        """What arrived whole and waits for its turn is no frame begun and not ended."""
        async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
            await client.send(fetch_request({("t", 0): 0}, max_wait_ms=60_000), 11)
            await client.send(ApiVersionsRequest(), 0)
            assert (await client.receive(ApiKey.FETCH, 11)).error_code == 0
            assert (await client.receive(ApiKey.API_VERSIONS, 0)).error_code == 0
            assert 60 <= trio.current_time() <= 61
