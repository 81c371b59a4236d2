"""Links: connections to the brokers of any Kafka cluster, to ask one thing at a time. Owns them.

    links.ask(request)                    any broker that answers
    links.ask(request, node)              the one of that id
    links.leader / coordinator            who is asked about a partition, a group

Versions are agreed as clients do: the newest that both know, of those this package reads. What is not there yet, moves
or breaks is asked again until `patience_s` is over; a broker that refuses connections for a second is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from kafka_wire.api import APIS, ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.metadata import ApiVersionsRequest, MetadataRequest, MetadataRequestTopic
from kafka_wire.schema import layout
from kbroker.env import Net, address_text
from kbroker.testing.client import BareClient
from kbroker.testing.control import CONTROL_CLIENT_ID

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

CONNECT_S = 5.0
ANSWER_S = 10.0
REFUSED_S = 0.5  # connections are refused for so long: nobody comes back
AGAIN_S = 0.03

# The newest versions read here: beyond, topics have ids in place of names, or several things are asked in one request.
VERSIONS_MAX = {
    ApiKey.FETCH: 12, ApiKey.METADATA: 9, ApiKey.OFFSET_FETCH: 7, ApiKey.FIND_COORDINATOR: 3, ApiKey.DELETE_TOPICS: 5,
    ApiKey.LIST_OFFSETS: 5, ApiKey.API_VERSIONS: 2, ApiKey.DESCRIBE_GROUPS: 5,
}  # fmt: skip
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)

T = TypeVar("T")
Address = tuple[str, int]


class NoBroker(ConnectionError):
    """Nobody answers where a broker ought to be. The text says why; what trio raised is not shown behind it."""


class Link:
    """One connection, and what its broker can be asked. One asks at a time."""

    def __init__(self, client: BareClient) -> None:
        self.client = client
        self.lock = trio.Lock()
        self.versions: dict[int, tuple[int, int]] = {}  # by API key, of the broker
        self.is_broken = False

    async def ask(self, request: Any) -> Any:
        """The answer. Raises KafkaError UNSUPPORTED_VERSION; one of BROKEN, or TimeoutError, and is broken then."""
        version = self._version(ApiKey(layout(type(request)).key or 0))
        async with self.lock:
            if self.is_broken:
                raise trio.BrokenResourceError
            self.is_broken = True  # as long as an answer is owed
            with trio.move_on_after(ANSWER_S):
                answer = await self.client.call(request, version)
                self.is_broken = False
                return answer
        raise TimeoutError(f"no answer within {ANSWER_S:g} s: is the broker paused?")

    def _version(self, key: ApiKey) -> int:
        known = APIS[key]
        newest = min(VERSIONS_MAX.get(key, known.version_max), known.version_max)
        if key is ApiKey.API_VERSIONS:
            return newest
        low, high = self.versions.get(key, (1, 0))
        if max(low, known.version_min) > min(high, newest):
            raise KafkaError(ErrorCode.UNSUPPORTED_VERSION, f"this broker does not answer {known.name} as it is asked")
        return min(high, newest)

    async def close(self) -> None:
        """Disconnect; idempotent."""
        self.is_broken = True
        with trio.CancelScope(shield=True):
            await self.client.stream.aclose()


class Links:
    """The connections to one cluster. bootstrap: where it is now, "host:port[,host:port]"."""

    def __init__(self, bootstrap: Callable[[], str], net: Net) -> None:
        self._bootstrap = bootstrap
        self._net = net
        self._links: dict[Address, Link] = {}
        self._connecting = trio.Lock()
        self._brokers: dict[int, Address] = {}

    async def ask(self, request: Any, node: int | None = None) -> Any:
        """The answer of that broker, or of any. Raises KafkaError, NoBroker, TimeoutError, or one of BROKEN."""
        link = await self._any() if node is None else await self._link(await self._address(node))
        return await link.ask(request)

    async def metadata(self, *topics: str) -> Any:
        """Of these topics, or if none are named, of all. None of them is created."""
        named = [MetadataRequestTopic(name=name) for name in topics] or None
        told = await self.ask(MetadataRequest(topics=named, allow_auto_topic_creation=False))
        self._brokers = {each.node_id: (each.host, each.port) for each in told.brokers}
        return told

    async def coordinator(self, group: str) -> int:
        """The broker that coordinates a group. Raises KafkaError."""
        found = await self.ask(FindCoordinatorRequest(key=group, key_type=0))
        check(found.error_code, found.error_message)
        self._brokers[found.node_id] = found.host, found.port
        return int(found.node_id)

    async def close(self) -> None:
        """Disconnect from all."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()

    async def _address(self, node: int) -> Address:
        if node not in self._brokers:
            await self.metadata()
        if node not in self._brokers:
            raise KafkaError(ErrorCode.BROKER_NOT_AVAILABLE, f"there is no broker {node}")
        return self._brokers[node]

    async def _any(self) -> Link:
        failure: BaseException | None = None
        for host, port in addresses(self._bootstrap()):
            try:
                return await self._link((host, port))
            except BROKEN as error:
                failure = error
        raise NoBroker(f"no broker at {self._bootstrap()}: {_text(failure)}") from None

    async def _link(self, address: Address) -> Link:
        async with self._connecting:
            link = self._links.get(address)
            if link is None or link.is_broken:
                if link is not None:
                    del self._links[address]
                    await link.close()
                link = self._links[address] = await self._connect(address)
            return link

    async def _connect(self, address: Address) -> Link:
        with trio.move_on_after(CONNECT_S):
            link = Link(BareClient(await self._net.connect(*address), CONTROL_CLIENT_ID))
            try:
                told = await link.ask(ApiVersionsRequest())
                check(told.error_code)
            except BaseException:
                await link.close()
                raise
            link.versions = {each.api_key: (each.min_version, each.max_version) for each in told.api_keys}
            return link
        raise NoBroker(f"no connection to {address_text(*address)} within {CONNECT_S:g} s")


def addresses(bootstrap: str) -> list[Address]:
    """Of "host:port,[::1]:port". Raises ValueError."""
    found = []
    for each in bootstrap.split(","):
        host, colon, port = each.strip().rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"{each.strip()!r} is no address such as localhost:9092")
        found.append((host.strip("[]"), int(port)))
    return found


def check(code: int, message: str | None = None) -> None:
    """Raise KafkaError where there is one."""
    if code:
        raise KafkaError(ErrorCode(code), message)


async def persist(do: Callable[[], Awaitable[T]], until: float) -> T:
    """What `do` returns: while it fails as things do that pass by, it is done again, until that time of trio's clock.

    Raises what it raises in the end.
    """
    refused_since = None
    while True:
        try:
            return await do()
        except NoBroker:
            refused_since = refused_since or trio.current_time()
            if trio.current_time() >= min(until, refused_since + REFUSED_S):
                raise
        except KafkaError as error:
            if not error.code.retriable or trio.current_time() >= until:
                raise
        except BROKEN as error:
            if trio.current_time() >= until:
                raise NoBroker(f"the connection to the broker broke: {_text(error)}") from None
        await trio.sleep(AGAIN_S)


def _text(error: BaseException | None) -> str:
    with suppress(AttributeError):
        return str(error.strerror or error)  # type: ignore[union-attr]
    return str(error) or type(error).__name__
