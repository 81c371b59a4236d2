"""`kbroker ping`: does a broker answer? Two requests over a plain socket, so that it costs a health check little.

ApiVersions 0    is it Kafka, and which version of Metadata does it know?
Metadata         which broker of which cluster is it? (of no topic: it costs the broker nothing)
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from kafka_wire.api import ApiKey
from kafka_wire.errors import ProtocolError
from kbroker.cli.errors import Unreachable
from kbroker.cli.tables import format_option, json_text, plural, visible
from kbroker.cli.times import DurationType

DEFAULT_PORT = 9092
TIMEOUT_S, WAIT_S = 3.0, 60.0
RETRY_S = 0.1
ATTEMPT_S = 3.0  # who has not answered by then is asked again, where there is time
ANSWER_BYTES_MAX = 16 << 20
METADATA_VERSION = 9  # with cluster id and controller; an older broker is asked in what it has
CLIENT_ID = "kbroker-ping"


@click.command(epilog="\b\nStatus 0: a broker answers. 3: none does.")
@click.option(
    "-b",
    "--bootstrap-server",
    "--bootstrap-servers",
    "--brokers",
    "servers",
    metavar="HOST:PORT,...",
    envvar=["KBROKER_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"],
    default=lambda: _told_by_ready_file() or "localhost:9092",
    show_default="localhost:9092",
    help="Where brokers are; one that answers is enough. Else $KBROKER_BROKERS, $KAFKA_BOOTSTRAP_SERVERS.",
)
@click.option("-w", "--wait", is_flag=True, help="Wait until one answers.")
@click.option(
    "--timeout", "timeout_ms", type=DurationType(), help="How long to try, such as 500ms.  [default: 3s; with -w 60s]"
)
@format_option
def ping(servers: str, wait: bool, timeout_ms: int | None, style: str) -> None:
    """Ask whether a broker answers, and which."""
    addresses = [located(part.strip()) for part in servers.split(",") if part.strip()]
    if not addresses:
        raise click.UsageError("-b names no broker")
    seconds = timeout_ms / 1000 if timeout_ms is not None else WAIT_S if wait else TIMEOUT_S
    answer = _first(addresses, time.monotonic() + seconds, wait)
    click.echo(json_text(answer.fields()) if style == "json" else answer)


def _told_by_ready_file() -> str | None:
    """Where the broker of this environment is: in a container, whose health is asked for, it may have any port."""
    from kbroker.cli.broker.service.ready_file import bootstrap_servers

    path = os.environ.get("KBROKER_READY_FILE")
    return bootstrap_servers(Path(path)) if path else None


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


def located(server: str) -> tuple[str, int]:
    """ "h:1", "h" (port 9092), "[::1]:5". Raises UsageError."""
    host, colon, port = server.rpartition(":") if ":" in server and not server.endswith("]") else (server, "", "")
    if (colon and not port.isdecimal()) or not host or int(port or 0) > 65535 or (":" in host and host[:1] != "["):
        raise click.UsageError(f"{server!r} is not HOST:PORT")
    return host.strip("[]"), int(port or DEFAULT_PORT)


def _first(addresses: Sequence[tuple[str, int]], until: float, wait: bool) -> Answer:
    """The first that answers. Raises Unreachable with what each said at last."""
    while True:
        problems = []
        for address in addresses:
            try:
                return ask(address, until)
            except Unreachable as error:
                problems.append(error.message)
        if not wait or time.monotonic() + RETRY_S >= until:
            raise Unreachable("; ".join(problems))
        time.sleep(RETRY_S)


def ask(address: tuple[str, int], until: float) -> Answer:
    """What the broker there says. until: time.monotonic(). Raises Unreachable."""
    text = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
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
    versions = _call(connection, ApiKey.API_VERSIONS, 0, ApiVersionsRequest())
    highest = next((each.max_version for each in versions.api_keys if each.api_key == ApiKey.METADATA), None)
    if versions.error_code or highest is None:
        raise ProtocolError("no Metadata")
    metadata = _call(connection, ApiKey.METADATA, min(METADATA_VERSION, highest), MetadataRequest(topics=[]))
    brokers = {each.node_id: f"{each.host}:{each.port}" for each in metadata.brokers}
    peers = {connection.getpeername()[:2], (text.rpartition(":")[0].strip("[]"), connection.getpeername()[1])}
    found = [each.node_id for each in metadata.brokers if (each.host, each.port) in peers or len(brokers) == 1]
    controller = metadata.controller_id if metadata.controller_id >= 0 else None
    took_ms = (time.monotonic() - began) * 1000
    return Answer(text, found[0] if len(found) == 1 else None, metadata.cluster_id, brokers, controller, took_ms)


def _call(connection: socket.socket, key: ApiKey, version: int, request: object) -> Any:
    """One request and its response."""
    from kafka_wire.api import response_class
    from kafka_wire.codegen import decode, encode
    from kafka_wire.frames import read_response_header, request_parts

    connection.sendall(b"".join(request_parts(key, version, 1, CLIENT_ID, [encode(request, version)])))
    (size,) = struct.unpack(">i", _receive(connection, 4))
    if not 0 < size <= ANSWER_BYTES_MAX:
        raise ProtocolError(f"an answer of {size} bytes")
    frame = _receive(connection, size)
    correlation_id, body = read_response_header(frame, key, version)
    if correlation_id != 1:
        raise ProtocolError("the answer is to another request")
    return decode(response_class(key), version, frame, body)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = connection.recv(min(65536, size - len(received)))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)
