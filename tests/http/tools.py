"""A client for tests: raw bytes over a memory stream, and answers read by h11."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import h11
import trio

from kbroker.api.context import Services
from kbroker.config import BrokerConfig
from kbroker.env import Stream, Usage
from kbroker.http.beside import http_server
from kbroker.http.hosts import Hosts
from kbroker.http.messages import Answer, Request
from kbroker.http.server import Server
from kbroker.testing.broker import Life, Machine, MemoryBroker
from kbroker.testing.client import BareClient
from kbroker.testing.net import MemoryNet, MemoryNetwork
from tests.api.group_tools import find, join, sync
from tests.api.test_groups_timeline import gives, rejoin, says
from tests.http.exposition import Page, parse
from tests.server.loop_meter import LoopMeter

PORT = 9644
PIECES, PIECE = 2000, b"x" * 1000
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def echo(request: Request) -> Answer:
    """What was asked for; /long in pieces; /broken as a bug would."""
    if request.path == ("long",):
        return Answer(iter([PIECE] * PIECES))
    if request.path == ("broken",):
        raise AssertionError("a bug")
    if request.path == ("midway",):
        return Answer(_fails_midway())
    return Answer(f"{request.path} {dict(request.query)}".encode())


def _fails_midway() -> Iterator[bytes]:
    yield PIECE
    raise AssertionError("a bug midway")


class Reply:
    """An answer, whole."""

    def __init__(self, response: h11.Response, body: bytes) -> None:
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def get(self, path: str, *, method: str = "GET", host: str = "localhost") -> Reply:
        """Ask, and read the answer."""
        request = h11.Request(method=method, target=path, headers=[("Host", host)])
        await self.send(self.http.send(request) + self.http.send(h11.EndOfMessage()))
        return await self.reply()

    async def send(self, data: bytes) -> None:
        await self.stream.send((data,))

    async def reply(self) -> Reply:
        """The next answer."""
        response, body = None, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await receive(self.stream))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
                    self.http.start_next_cycle()
                return Reply(response, body)
            else:
                raise AssertionError(f"no answer, but {event!r}")


async def receive(stream: Stream) -> bytes:
    """Some bytes; b"" at the end."""
    buffer = bytearray(65536)
    return bytes(buffer[: await stream.receive_into(memoryview(buffer))])


async def raw(net: MemoryNet, port: int, data: bytes) -> bytes:
    """All that comes back for these bytes, until the server closes; it must not reset the connection."""
    stream = await net.connect("localhost", port)
    await stream.send((data,))
    answer = b""
    while received := await receive(stream):
        answer += received
    stream.close()
    return answer


@asynccontextmanager
async def connected(net: MemoryNet, port: int, host: str = "localhost") -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    stream = await net.connect(host, port)
    try:
        yield Client(stream)
    finally:
        stream.close()


@asynccontextmanager
async def serving(
    handle: Callable[[Request], Awaitable[Answer]], *names: str
) -> AsyncIterator[tuple[MemoryNet, Server]]:
    """A server of this handler in memory; names: by which it may be called."""
    net = MemoryNetwork(seed=1).host("broker")
    server = Server(await net.listen("127.0.0.1", PORT), handle, Hosts(names), lambda: 1_764_340_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield net, server
        nursery.cancel_scope.cancel()


class StillProcess:
    """A process that uses what it is said to."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.used = Usage(1.5, [3, 2, 1], 1000, 2000, 17, 1024, 4, 1.7e9, 4096, 8192)

    def now(self) -> float:
        return 1 + trio.current_time()

    def loop_cpu_s(self) -> float:
        return self.cpu_s

    def usage(self) -> Usage:
        return self.used


class Told:
    """A broker, and what it tells over HTTP."""

    def __init__(self, broker: MemoryBroker, services: Services, process: StillProcess) -> None:
        self.broker = broker
        self.services = services
        self.process = process

    async def get(self, path: str, *, method: str = "GET") -> Reply:
        """An answer."""
        async with connected(self.broker.env.net, PORT) as client:
            return await client.get(path, method=method)

    async def metrics(self) -> Page:
        """A scrape."""
        told = await self.get("/metrics")
        assert told.status == 200, told.text
        assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(told.body)

    async def json(self, path: str, status: int = 200) -> Any:
        """A JSON answer of that status."""
        told = await self.get(path)
        assert told.status == status, told.text
        return told.json


async def metered(told: Told, path: str) -> tuple[LoopMeter, Reply]:
    """What answering takes of the event loop, and the answer."""
    meter = LoopMeter()
    async with connected(told.broker.env.net, PORT) as client:
        await client.get("/healthz")
        with meter.running():
            reply = await client.get(path)
    assert reply.status == 200
    return meter, reply


async def stand_still(told: Told, one: BareClient, two: BareClient) -> None:
    """Group g: both partitions of t have no owner for three seconds, and one of them another one then."""
    await find(one, "g")
    a = await join(one, "g", protocols=says())
    await sync(one, "g", a, {a.member_id: gives(0, 1)})
    joined = await rejoin(told.broker, {"b": (two, "", ()), "a": (one, a.member_id, ())})
    told.broker.clock.jump_liveness(3)
    given = {a.member_id: gives(0), joined["b"].member_id: gives(1)}
    assert (await sync(one, "g", joined["a"], given)).error_code == 0


@asynccontextmanager
async def told_broker(
    topics: Mapping[str, int] | None = None, machine: Machine | None = None, **config: str
) -> AsyncIterator[Told]:
    """A broker in memory with its HTTP server. config: dots as `__`."""
    machine = machine or Machine()
    machine.life = Life()
    settings = BrokerConfig().with_values(
        {"listeners": "PLAINTEXT://127.0.0.1:9092", "kbroker.http.port": str(PORT)}
        | {name.replace("__", "."): value for name, value in config.items()}
    )
    broker, process, seen = MemoryBroker(machine, machine.env()), StillProcess(), list[Services]()
    async with http_server(broker.env, settings, process) as http, trio.open_nursery() as nursery:

        async def beside(services: Services) -> None:
            seen.append(services)
            await http.attach(services)

        nursery.start_soon(partial(broker.run, settings, machine.store, topics, beside=beside))
        await broker.wait_serving()
        http.note_ready()
        yield Told(broker, seen[0], process)
        nursery.cancel_scope.cancel()
