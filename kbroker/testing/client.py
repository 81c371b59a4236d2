"""A bare Kafka client for tests: one connection, any request in any version, no retries, no opinions.

    async with connect(env.net, "127.0.0.1", 9092) as client:
        answer = await client.call(MetadataRequest(topics=None), version=12)

It runs on whatever `Net` it is given, so the same test speaks to a broker over loopback and inside the simulation.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from kafka_wire.api import ApiKey, response_class
from kafka_wire.codegen import decode, encode
from kafka_wire.frames import read_response_header, request_header
from kafka_wire.schema import layout
from kbroker.env import Net, Stream

RECEIVE_SIZE = 65536


class BareClient:
    """One connection. Correlation ids count up from 0."""

    def __init__(self, stream: Stream, client_id: str | None = "bare") -> None:
        self.stream = stream
        self.client_id = client_id
        self._correlation_id = -1
        self._received = bytearray()

    async def call(self, request: Any, version: int) -> Any:
        """Send a request and return its response, decoded. The caller bounds the wait."""
        return await self.receive(ApiKey(await self.send(request, version)), version)

    async def send(self, request: Any, version: int) -> int:
        """Send a request without waiting for anything; its API key."""
        key = layout(type(request)).key
        assert key is not None, f"{type(request).__name__} is no request"
        self._correlation_id += 1
        await self.send_frame(
            request_header(key, version, self._correlation_id, self.client_id), encode(request, version)
        )
        return key

    async def send_frame(self, *parts: bytes) -> None:
        """Send any bytes as one frame."""
        body = b"".join(parts)
        await self.stream.send([struct.pack(">i", len(body)) + body])

    async def receive(self, key: ApiKey, version: int) -> Any:
        """The next response, which has to be of that API and version."""
        frame = await self.receive_frame()
        return decode(response_class(key), version, frame, read_response_header(frame, key, version)[1])

    async def receive_frame(self) -> bytes:
        """The next frame without its length. Raises trio.EndOfChannel when the broker hung up."""
        size = struct.unpack(">i", await self._receive_exactly(4))[0]
        return await self._receive_exactly(size)

    async def _receive_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            chunk = bytearray(RECEIVE_SIZE)
            received = await self.stream.receive_into(memoryview(chunk))
            if not received:
                raise trio.EndOfChannel
            self._received += chunk[:received]
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken


@asynccontextmanager
async def connect(net: Net, host: str, port: int, client_id: str | None = "bare") -> AsyncIterator[BareClient]:
    """A connected client, closed at the end of the block."""
    client = BareClient(await net.connect(host, port), client_id)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.stream.aclose()
