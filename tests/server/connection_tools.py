"""A connection without a broker: made-up handlers of real APIs, requests as bytes, answers as numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import trio

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decode, encode
from kafka_wire.frames import Scratch, request_header
from kafka_wire.messages.groups import HeartbeatRequest, HeartbeatResponse
from kafka_wire.messages.metadata import MetadataRequest, MetadataResponse, MetadataResponseBroker
from kbroker.api.context import Peer
from kbroker.api.registry import Api, Routes
from kbroker.api.tallies import Tallies
from kbroker.awaited import Awaited
from kbroker.config import BrokerConfig
from kbroker.server.connection import Connection
from kbroker.testing.clock import SteeredClock
from kbroker.watermark import Bell, Watermark

T = TypeVar("T")

SERVICES: Any = SimpleNamespace(config=BrokerConfig(), env=SimpleNamespace(clock=SteeredClock()), tallies=Tallies())
VERSION = 3  # of Heartbeat: not flexible


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def heartbeat(correlation_id: int, group: str = "now", client_id: str = "c", version: int = VERSION) -> bytes:
    """A frame; the handler sees the group."""
    body = encode(HeartbeatRequest(group_id=group, generation_id=1, member_id="m"), version)
    return framed(request_header(ApiKey.HEARTBEAT, version, correlation_id, client_id) + body)


def metadata(correlation_id: int) -> bytes:
    """A frame that asks for much."""
    body = encode(MetadataRequest(topics=[]), 1)
    return framed(request_header(ApiKey.METADATA, 1, correlation_id, "greedy") + body)


class Tidal(Awaited):
    """Waits for a tide to be past a level; -1: for a second from the first look on."""

    def __init__(self, tide: Watermark, level: int) -> None:
        self.tide = tide
        self.level = level
        self.looks = 0
        self.bell: Bell | None = None
        self.failure: Exception | None = None
        self.until = -math.inf

    def look(self) -> HeartbeatResponse | None:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        if self.level < 0 and self.looks == 1:
            self.until = trio.current_time() + 1
            return None
        if self.level >= 0:
            self.until = math.inf
        is_there = self.tide.value > self.level if self.level >= 0 else trio.current_time() >= self.until
        return HeartbeatResponse(error_code=0) if is_there else None

    def listen(self, bell: Bell) -> None:
        assert self.bell is None
        self.bell = bell
        self.tide.attach(bell)

    def leave(self) -> None:
        assert self.bell is not None
        self.tide.detach(self.bell)
        self.bell = None


class Handlers:
    """Heartbeat: group "now" is answered at once, "wait" when told to, "later" too but requests behind it may overlap,
    "none" never, "fail" raises; "await" and a number when `tide` is past that, or with -1 a second later.
    Metadata: answered at once, with much."""

    def __init__(self, *, answer_size: int = 20_000) -> None:
        self.handled: list[str] = []
        self.contexts: list[Any] = []
        self.bells: list[trio.Event] = []
        self.tide = Watermark()
        self.awaited: list[Tidal] = []
        self.answer_size = answer_size
        self.on_handle: Callable[[], None] = lambda: None

    def apis(self, *, overlaps: bool = False) -> dict[int, Api]:
        return {
            key: Api(key, 0, 4, 0, handle, overlaps)
            for key, handle in ((ApiKey.HEARTBEAT, self.heartbeat), (ApiKey.METADATA, self.metadata))
        }

    def heartbeat(self, request: HeartbeatRequest, context: Any) -> Any:
        self.handled.append(request.group_id)
        self.contexts.append(context)
        self.on_handle()
        if request.group_id == "fail":
            raise ZeroDivisionError("a bug")
        if request.group_id == "none":
            return None
        if request.group_id == "wait":
            return self._wait()
        if request.group_id.startswith("await"):
            self.awaited.append(Tidal(self.tide, int(request.group_id.removeprefix("await"))))
            return self.awaited[-1]
        return HeartbeatResponse(error_code=0)

    def metadata(self, request: MetadataRequest, context: Any) -> MetadataResponse:
        self.handled.append("metadata")
        self.on_handle()
        many, rest = divmod(self.answer_size, 20_000)
        brokers = [MetadataResponseBroker(node_id=1, host="h" * 20_000, port=1)] * many
        brokers.append(MetadataResponseBroker(node_id=1, host="h" * rest, port=1))
        return MetadataResponse(brokers=brokers, cluster_id=None, controller_id=1, topics=[])

    async def _wait(self) -> HeartbeatResponse:
        bell = trio.Event()
        self.bells.append(bell)
        await bell.wait()
        return HeartbeatResponse(error_code=0)


def core(handlers: Handlers, *, overlaps: bool = False, now: Callable[[], float] = lambda: 0.0) -> Connection:
    """A connection of which the test is the driver."""
    peer = Peer(("127.0.0.1", 1), ("127.0.0.1", 2), "PLAINTEXT")
    return Connection(SERVICES, Routes(handlers.apis(overlaps=overlaps)), peer, Scratch(), now)


def receive(connection: Connection, data: bytes) -> None:
    """What a driver does with bytes that have arrived."""
    space = connection.frames.space()
    assert len(data) <= len(space)
    space[: len(data)] = data
    connection.frames.received(len(data))


def answered(parts: Any) -> list[int]:
    """The correlation ids of answers as they went out."""
    data, ids, pos = b"".join(parts), [], 0
    while pos < len(data):
        size, correlation_id = struct.unpack_from(">ii", data, pos)
        ids.append(correlation_id)
        pos += 4 + size
    assert pos == len(data)
    return ids


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def error_code(frame: bytes) -> int:
    """Of a Heartbeat response without its size."""
    return decode(HeartbeatResponse, VERSION, frame, 4).error_code
