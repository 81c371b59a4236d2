"""Sending a request that kafka-python has no class for, over its own connections, with the messages of kafka_wire.

kafka-python asks of a request: a version, a header with the correlation id, its bytes; of the header: the class that
reads the response; of that class: `parse_header`, then `decode`. `_Request` and `_Reader` are those.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka_wire.api import APIS, ApiKey, request_header_version, response_class, response_header_version
from kafka_wire.codegen import decode, encode
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import read_uvarint
from kbroker.cli.errors import Failed

IN_FLIGHT_MAX = 5  # for a broker: kafka-python refuses more, or forgets them
NULL = b"\xff\xff"
NO_TAGS = b"\x00"


def supported_version(client: Any, key: int) -> int | None:
    """The latest version of an API that both sides know; None when the broker does not have the API."""
    known = client._manager.broker_version_data.api_versions.get(key)
    if known is None:
        return None
    version = min(known[1], APIS[key].version_max)
    return version if version >= max(known[0], APIS[key].version_min) else None


def version_of(client: Any, key: ApiKey) -> int:
    """The same. Raises Failed when the broker does not have the API."""
    version = supported_version(client, key)
    if version is None:
        raise Failed(f"this broker does not have {key.name}")
    return version


def send(client: Any, node_id: Any, request: object, key: ApiKey, version: int | None = None) -> Any:
    """Send a request to a broker, by an admin client's connections; returns the response, a message of kafka_wire.

    version: None for the latest. Raises Failed when the broker does not have the API, kafka-python's errors: no
    connection, no answer in time.
    """
    if version is None:
        version = version_of(client, key)

    async def exchange() -> Any:
        return await client._manager.send(_Request(request, response_class(key), key, version), node_id=node_id)

    return client._manager.run(exchange)


class Asked(NamedTuple):
    """A request, and the broker it is for."""

    node_id: Any
    request: object
    key: int
    version: int


def send_all(client: Any, asked: Sequence[Asked]) -> list[Any]:
    """Send several requests at once; their responses, in the order of the requests. In the place of a response there
    may be kafka-python's error instead: no connection, no answer in time.
    """
    answers: list[Any] = [None] * len(asked)
    left = list(enumerate(asked))
    while left:
        per_node = Counter[Any]()
        now, later = list[tuple[int, Asked]](), list[tuple[int, Asked]]()
        for place, each in left:
            (now if per_node[each.node_id] < IN_FLIGHT_MAX else later).append((place, each))
            per_node[each.node_id] += 1
        for (place, _), answer in zip(now, _exchanged(client, [each for _, each in now]), strict=True):
            answers[place] = answer
        left = later
    return answers


def _exchanged(client: Any, asked: Sequence[Asked]) -> list[Any]:
    from kafka.errors import KafkaError

    async def exchange() -> list[Any]:
        sent = [_sent(client, each) for each in asked]
        answers: list[Any] = []
        for future in sent:
            try:
                answers.append(future if isinstance(future, KafkaError) else await future)
            except KafkaError as error:
                answers.append(error)
        return answers

    return client._manager.run(exchange)  # type: ignore[no-any-return]


def _sent(client: Any, asked: Asked) -> Any:
    """The answer to come, or why there will be none."""
    from kafka.errors import KafkaError

    request = _Request(asked.request, response_class(asked.key), asked.key, asked.version)
    try:
        return client._manager.send(request, asked.node_id)
    except KafkaError as error:  # such as a broker that it has not heard of
        return error


def learn_brokers(client: Any) -> None:
    """Have kafka-python ask who the brokers are: it does by itself every five minutes. Raises its errors."""
    client._manager.run(client._manager.cluster.refresh_metadata)


class _Request:
    """A request as kafka-python's connection wants it; it is its own header."""

    def __init__(self, request: object, response: type, key: int, version: int) -> None:
        self.request, self.response, self.api_key, self.API_VERSION = request, response, key, version
        self.correlation_id, self.client_id = 0, ""

    @property
    def header(self) -> _Request:
        return self

    def __str__(self) -> str:
        return f"{type(self.request).__name__} v{self.API_VERSION}"

    def with_header(self, correlation_id: int, client_id: str) -> None:
        """What goes into the header."""
        self.correlation_id, self.client_id = correlation_id, client_id

    def expect_response(self) -> bool:
        """Whether there will be one."""
        return True

    def encode(self, framed: bool, header: bool) -> bytes:
        """The whole frame."""
        assert framed and header
        name = self.client_id.encode()
        client = struct.pack(">h", len(name)) + name if name else NULL
        tags = NO_TAGS if request_header_version(self.api_key, self.API_VERSION) >= 2 else b""
        head = struct.pack(">hhi", self.api_key, self.API_VERSION, self.correlation_id)
        frame = head + client + tags + encode(self.request, self.API_VERSION)
        return struct.pack(">i", len(frame)) + frame

    def get_response_class(self) -> _Reader:
        """What reads the response."""
        return _Reader(self)


class _Reader:
    """Reads the response to one request: kafka-python hands it the frame twice, for its header and for the rest."""

    def __init__(self, request: _Request) -> None:
        self.of, self.correlation_id, self.frame, self.body = request, -1, b"", 0

    def parse_header(self, buffer: Any) -> _Reader:
        """The correlation id; remembers where the body begins."""
        self.frame = bytes(buffer.read())
        (self.correlation_id,) = struct.unpack_from(">i", self.frame)
        self.body = 4
        if response_header_version(self.of.api_key, self.of.API_VERSION) >= 1:
            count, self.body = read_uvarint(self.frame, 4)
            for _ in range(count):
                _, self.body = read_uvarint(self.frame, self.body)
                size, self.body = read_uvarint(self.frame, self.body)
                self.body += size
        return self

    def decode(self, buffer: Any) -> Any:
        """The body. Raises ValueError, which kafka-python reports as an answer it cannot read."""
        try:
            return decode(self.of.response, self.of.API_VERSION, self.frame, self.body)
        except ProtocolError as error:
            raise ValueError(str(error)) from None
