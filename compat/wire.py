"""A few Kafka requests written out by hand: what the compatibility tools need where no client can be used.

Owns: nothing. Each function opens a connection, asks once, closes it. Only the standard library, so it runs before any
client is installed and tells what the broker put on the wire without a client's opinion in between. The versions are
old ones without tagged fields, all inside the range that Kafka 4 still serves:

    Metadata v1, v7 · CreateTopics v2 · Fetch v4 · ListOffsets v1

What is asked of a partition is asked of its leader, whichever broker of the cluster `bootstrap` is.

A request is `size key version correlation client_id body`, a response `size correlation body`; integers are big endian.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

T = TypeVar("T")

METADATA, CREATE_TOPICS, FETCH, LIST_OFFSETS = 3, 19, 1, 2
EARLIEST, LATEST = -2, -1
NOT_YET = (3, 5, 6, 103)  # UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, UNKNOWN_TOPIC_ID


@dataclass(frozen=True)
class Batch:
    """The header of one record batch (v2) as it lies in the log."""

    base_offset: int
    last_offset_delta: int
    codec: int  # 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
    log_append_time: bool
    producer_id: int
    records: int


@dataclass(frozen=True)
class Partition:
    """A partition as the metadata of one broker has it."""

    topic: str
    index: int
    leader: int  # -1: none
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]


def partitions(bootstrap: str, *topics: str) -> list[Partition]:
    """The partitions of these topics, as the broker at `bootstrap` sees them, without those that it does not know."""
    return cluster(bootstrap, *topics)[1]


def cluster(bootstrap: str, *topics: str) -> tuple[dict[int, str], list[Partition]]:
    """The brokers' addresses by id, and the partitions of these topics, or of all."""
    body = struct.pack(">i", len(topics) or -1) + b"".join(map(text, topics)) + b"\0"
    reply = Reader(ask(bootstrap, METADATA, 7, body))
    reply.skip(4)
    brokers = dict(reply.broker() for _ in range(reply.int32()))
    reply.string()
    reply.skip(4)
    found = []
    for _ in range(reply.int32()):
        reply.skip(2)
        topic = reply.string()
        reply.skip(1)
        found += [reply.partition(topic) for _ in range(reply.int32())]
    return brokers, found


def leader_of(bootstrap: str, topic: str, partition: int) -> str:
    """The address of its leader; the broker that was asked, where it knows none."""
    brokers, found = cluster(bootstrap, topic)
    return next(
        (brokers[each.leader] for each in found if each.index == partition and each.leader in brokers), bootstrap
    )


def broker_ids(bootstrap: str) -> list[int]:
    """Node ids of the brokers that the broker at `bootstrap` knows."""
    reply = Reader(ask(bootstrap, METADATA, 1, struct.pack(">i", 0)))
    return [reply.broker()[0] for _ in range(reply.int32())]


def create_topic(
    bootstrap: str,
    name: str,
    partitions: int | Sequence[Sequence[int]],
    configs: dict[str, str] | None = None,
    replicas: int = 1,
) -> None:
    """Create a topic of so many partitions, or of these, as the replicas of each. RuntimeError has the error code."""
    placed = [] if isinstance(partitions, int) else partitions
    count, replicas = (-1, -1) if placed else (partitions, replicas)
    body = struct.pack(">i", 1) + text(name) + struct.pack(">ihi", count, replicas, len(placed))
    for index, brokers in enumerate(placed):
        body += struct.pack(">ii", index, len(brokers)) + b"".join(struct.pack(">i", broker) for broker in brokers)
    body += struct.pack(">i", len(configs or {})) + b"".join(text(k) + text(v) for k, v in (configs or {}).items())
    reply = Reader(ask(bootstrap, CREATE_TOPICS, 2, body + struct.pack(">i?", 10_000, False)))
    reply.skip(4 + 4)
    reply.string()
    if code := reply.int16():
        raise RuntimeError(f"CreateTopics {name}: error {code}")


def offset(bootstrap: str, topic: str, partition: int, timestamp: int = LATEST) -> int:
    """The partition's offset for a timestamp, or its end (LATEST) or beginning (EARLIEST)."""
    body = struct.pack(">ii", -1, 1) + text(topic) + struct.pack(">iiq", 1, partition, timestamp)

    def once() -> tuple[int, int]:
        reply = Reader(ask(leader_of(bootstrap, topic, partition), LIST_OFFSETS, 1, body))
        reply.skip(4)
        reply.string()
        reply.skip(4 + 4)
        code = reply.int16()
        reply.skip(8)
        return code, reply.int64()

    return settled(once, f"ListOffsets {topic}-{partition}")


def batches(bootstrap: str, topic: str, partition: int, at: int = 0) -> list[Batch]:
    """Headers of the batches from offset `at` on, as many as 8 MB hold."""
    limit = 8_000_000
    body = struct.pack(">iiiib", -1, 100, 1, limit, 0)
    body += struct.pack(">i", 1) + text(topic) + struct.pack(">iiqi", 1, partition, at, limit)

    def once() -> tuple[int, list[Batch]]:
        reply = Reader(ask(leader_of(bootstrap, topic, partition), FETCH, 4, body))
        reply.skip(4 + 4)
        reply.string()
        reply.skip(4 + 4)
        code = reply.int16()
        reply.skip(8 + 8)
        reply.skip(16 * max(0, reply.int32()))
        return code, list(split(reply.take(max(0, reply.int32()))))

    return settled(once, f"Fetch {topic}-{partition}")


def settled(once: Callable[[], tuple[int, T]], what: str, seconds: float = 5.0) -> T:
    """Ask again while a partition that was created a moment ago has no leader yet."""
    deadline = time.monotonic() + seconds
    while True:
        code, value = once()
        if code == 0:
            return value
        if code not in NOT_YET or time.monotonic() > deadline:
            raise RuntimeError(f"{what}: error {code}")
        time.sleep(0.02)


def split(data: bytes) -> Iterator[Batch]:
    """Batch headers in a piece of log; a batch cut off at the end is left out."""
    at = 0
    while at + 61 <= len(data):
        base, size = struct.unpack_from(">qi", data, at)
        if at + 12 + size > len(data):
            return
        attributes, last_delta = struct.unpack_from(">hi", data, at + 21)
        producer_id = struct.unpack_from(">q", data, at + 43)[0]
        count = struct.unpack_from(">i", data, at + 57)[0]
        yield Batch(base, last_delta, attributes & 7, bool(attributes & 8), producer_id, count)
        at += 12 + size


def ask(bootstrap: str, key: int, version: int, body: bytes, timeout: float = 10.0) -> bytes:
    """One request on its own connection, to the first of these addresses that can be reached; the response's body."""
    header = struct.pack(">hhi", key, version, 1) + text("compat")
    with connected(bootstrap, timeout) as connection:
        connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        with connection.makefile("rb") as stream:
            size = struct.unpack(">i", exactly(stream, 4))[0]
            return exactly(stream, size)[4:]


def connected(bootstrap: str, timeout: float) -> socket.socket:
    """A connection to one of `HOST:PORT,HOST:PORT`. Raises OSError."""
    *others, last = bootstrap.split(",")
    for server in others:
        try:
            return socket.create_connection(address(server), timeout)
        except OSError:
            continue
    return socket.create_connection(address(last), timeout)


def ask_all(bootstrap: str, key: int, version: int, bodies: list[bytes], in_flight: int = 50) -> list[bytes]:
    """Many requests on one connection, some of them under way at a time; the bodies of the responses, in order."""
    header, answers = struct.pack(">hhi", key, version, 1) + text("compat"), []
    with connected(bootstrap, 60.0) as connection, connection.makefile("rb") as stream:
        for start in range(0, len(bodies), in_flight):
            some = bodies[start : start + in_flight]
            connection.sendall(b"".join(struct.pack(">i", len(header) + len(each)) + header + each for each in some))
            answers += [exactly(stream, struct.unpack(">i", exactly(stream, 4))[0])[4:] for _ in some]
    return answers


def address(bootstrap: str) -> tuple[str, int]:
    host, _, port = bootstrap.rpartition(":")
    return host.strip("[]"), int(port)


def free_port(avoid: tuple[int, ...] = ()) -> int:
    """A free port below the ephemeral range.

    No client's outgoing connection can take it while a broker restarts, and no client that dials a dead broker can be
    connected to itself.
    """
    for _ in range(200):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            if port not in avoid and probe.connect_ex(("127.0.0.1", port)) != 0:
                with socket.socket() as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        listener.bind(("127.0.0.1", port))
                        return port
                    except OSError:
                        continue
    raise OSError("no free port between 20000 and 30000")


class Reader:
    """Reads a response body from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    skip = take

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), "big", signed=True)

    def string(self) -> str:
        return self.take(max(0, self.int16())).decode()

    def int32s(self) -> tuple[int, ...]:
        return tuple(self.int32() for _ in range(self.int32()))

    def broker(self) -> tuple[int, str]:
        node, host, port = self.int32(), self.string(), self.int32()
        self.string()
        return node, f"{host}:{port}"

    def partition(self, topic: str) -> Partition:
        self.skip(2)
        index, leader, epoch, replicas, isr = self.int32(), self.int32(), self.int32(), self.int32s(), self.int32s()
        self.int32s()
        return Partition(topic, index, leader, epoch, replicas, isr)


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ConnectionError("the broker closed the connection")
    return data
