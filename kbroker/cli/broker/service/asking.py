"""Asking a broker who it is: two requests over a plain socket, so that it costs a health check little.

ApiVersions 0    is it Kafka, and which version of Metadata does it know?
Metadata         which broker of which cluster is it? (of no topic: it costs the broker nothing)
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey
from kafka_wire.errors import ProtocolError
from kbroker.cli.broker.banner import address_of
from kbroker.cli.client.plain import call
from kbroker.cli.errors import Unreachable
from kbroker.cli.tables import plural, visible
from kbroker.env import address_text

ATTEMPT_S = 3.0  # who has not answered by then is asked again, where there is time
METADATA_VERSION = 9  # with cluster id and controller; an older broker is asked in what it has
CLIENT_ID = "kbroker-ping"


class Answer(NamedTuple):
    """What a broker says."""

    address: str
    node: int | None  # None: it cannot be told which of the brokers it is
    cluster_id: str | None
    brokers: dict[int, str]
    controller: int | None
    took_ms: float

    def __str__(self) -> str:
        who = f"node {self.node}" if self.node is not None else "a broker"
        cluster = f" of cluster {self.cluster_id}" if self.cluster_id else ""
        return visible(f"{self.address} answers: {who}{cluster}, {plural(len(self.brokers), 'broker')}")

    def fields(self) -> dict[str, Any]:
        """For programs."""
        return {**self._asdict(), "took_ms": round(self.took_ms, 1)}


def ask(address: tuple[str, int], until: float) -> Answer:
    """What the broker there says. until: time.monotonic(). Raises Unreachable."""
    text = address_text(*address)
    began = time.monotonic()
    seconds = max(0.001, min(ATTEMPT_S, until - began))
    try:
        with socket.create_connection(address, timeout=seconds) as connection:
            return _ask(connection, text, began)
    except TimeoutError:
        raise Unreachable(f"{text}: no answer within {seconds:.3g} s") from None
    except (ConnectionResetError, BrokenPipeError, EOFError):
        raise Unreachable(f"{text}: it hangs up: no Kafka broker, or not its plaintext port") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
        raise Unreachable(f"no broker at {text}: {reason}") from None
    except (ProtocolError, struct.error):
        raise Unreachable(f"{text}: what answers there does not speak Kafka's protocol") from None


def _ask(connection: socket.socket, text: str, began: float) -> Answer:
    from kafka_wire.messages.metadata import ApiVersionsRequest, MetadataRequest

    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    versions = call(connection, ApiKey.API_VERSIONS, 0, ApiVersionsRequest(), CLIENT_ID)
    highest = next((each.max_version for each in versions.api_keys if each.api_key == ApiKey.METADATA), None)
    if versions.error_code or highest is None:
        raise ProtocolError("no Metadata")
    request, version = MetadataRequest(topics=[]), min(METADATA_VERSION, highest)
    metadata = call(connection, ApiKey.METADATA, version, request, CLIENT_ID)
    brokers = {each.node_id: address_text(each.host, each.port) for each in metadata.brokers}
    peers = {connection.getpeername()[:2], address_of(text)}
    found = [each.node_id for each in metadata.brokers if (each.host, each.port) in peers or len(brokers) == 1]
    controller = metadata.controller_id if metadata.controller_id >= 0 else None
    took_ms = (time.monotonic() - began) * 1000
    return Answer(text, found[0] if len(found) == 1 else None, metadata.cluster_id, brokers, controller, took_ms)
