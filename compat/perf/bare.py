"""The bare path: a server that decodes, checks the CRC, appends and answers, and nothing that a broker owes its users.

    python compat/perf/bare.py --listen 127.0.0.1:9092 --dir DIRECTORY

It uses kbroker's own codecs over trio's cheapest way with sockets, so it marks what Python on trio can reach at all: a
row's CPU beside this one's is the distance to the limit. No groups, sessions, indexes, producers, leaders, limits,
long polls or recovery. It knows what the load generator sends it: CreateTopics, Metadata, ListOffsets, Produce, Fetch.
"""

from __future__ import annotations

import argparse
import os
import socket
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from crc32c import crc32c

from kafka_wire.codegen import decode, encode, encode_parts
from kafka_wire.frames import read_request_header
from kafka_wire.messages.metadata import (
    ApiVersionsResponse,
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from kafka_wire.messages.offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from kafka_wire.messages.topics import CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse
from kafka_wire.records import assign, read_header

INDEX_BYTES = 4096
JOIN_MAX = 65536  # a slice up to here is read, a larger one goes by sendfile
TURNS = 64  # calls without a wait before the others get a turn


class Log:
    """One partition: a file of batches and a sparse index."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.end = self.size = self.unindexed = 0
        self.offsets, self.positions = [0], [0]

    def append(self, batch: memoryview) -> int:
        header = read_header(batch)
        if header.length + 12 != len(batch) or crc32c(batch[21:]) != header.crc:
            raise ValueError("a broken batch")
        base = self.end
        assign(batch, 0, header, base, 0)
        written = os.write(self.fd, batch)
        if self.unindexed > INDEX_BYTES:
            self.offsets.append(base)
            self.positions.append(self.size)
            self.unindexed = 0
        self.unindexed += written
        self.size += written
        self.end = base + header.last_offset_delta + 1
        return base

    def slice(self, offset: int, bytes_max: int) -> tuple[int, int]:
        """(position, length) of whole batches from the one that holds offset."""
        position = self.positions[bisect_right(self.offsets, offset) - 1]
        near = os.pread(self.fd, 2 * INDEX_BYTES, position)
        at = 0
        while at + 61 <= len(near):
            header = read_header(near, at)
            if header.last_offset >= offset:
                break
            at += header.length + 12
        position += at
        end = self.positions[bisect_right(self.positions, position + bytes_max) - 1]
        length = end - position if end > position else bytes_max
        return position, min(length, self.size - position)


class Slice:
    """A range of a file in an answer."""

    def __init__(self, fd: int, position: int, length: int) -> None:
        self.fd, self.position, self.length = fd, position, length

    def __len__(self) -> int:
        return self.length


class Bare:
    """The server: logs by topic and partition, and an answer for each API."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.logs: dict[tuple[str, int], Log] = {}
        self.answers: dict[int, Callable[[Any, int, int], Any]] = {
            0: self.produce, 1: self.fetch, 2: self.list_offsets, 3: self.metadata, 18: self.api_versions,
            19: self.create_topics,
        }  # fmt: skip

    def answer(self, frame: bytearray) -> list[Any]:
        """The parts that answer a frame."""
        header = read_request_header(frame)
        response, tagged = self.answers[header.key](frame, header.version, header.body), header.key != 18
        parts = encode_parts(response, header.version) if header.key == 1 else [encode(response, header.version)]
        head = header.correlation_id.to_bytes(4, "big") + (b"\0" if tagged else b"")
        size = sum(map(len, parts)) + len(head)
        return [size.to_bytes(4, "big") + head, *parts]

    def produce(self, frame: bytearray, version: int, body: int) -> ProduceResponse:
        request = decode(ProduceRequest, version, frame, body)
        topics = []
        for topic in request.topic_data:
            rows = []
            for data in topic.partition_data:
                base = self.logs[topic.name, data.index].append(data.records)
                rows.append(PartitionProduceResponse(index=data.index, base_offset=base))
            topics.append(TopicProduceResponse(name=topic.name, partition_responses=rows))
        return ProduceResponse(responses=topics)

    def fetch(self, frame: bytearray, version: int, body: int) -> FetchResponse:
        request = decode(FetchRequest, version, frame, body)
        topic = request.topics[0]
        asked = topic.partitions[0]
        log = self.logs[topic.topic, asked.partition]
        position, length = log.slice(asked.fetch_offset, asked.partition_max_bytes)
        records: Any = Slice(log.fd, position, length)
        if length <= JOIN_MAX:
            records = os.pread(log.fd, length, position)
        data = FetchPartitionData(partition_index=asked.partition, high_watermark=log.end, records=records)
        return FetchResponse(responses=[FetchableTopicResponse(topic=topic.topic, partitions=[data])])

    def list_offsets(self, frame: bytearray, version: int, body: int) -> ListOffsetsResponse:
        topic = decode(ListOffsetsRequest, version, frame, body).topics[0]
        asked = topic.partitions[0]
        log = self.logs[topic.name, asked.partition_index]
        row = ListOffsetsPartitionResponse(
            partition_index=asked.partition_index, offset=log.end if asked.timestamp == -1 else 0
        )
        return ListOffsetsResponse(topics=[ListOffsetsTopicResponse(name=topic.name, partitions=[row])])

    def metadata(self, frame: bytearray, version: int, body: int) -> MetadataResponse:
        request = decode(MetadataRequest, version, frame, body)
        asked = None if request.topics is None else {topic.name for topic in request.topics}
        topics: dict[str, list[MetadataResponsePartition]] = {}
        for topic, index in self.logs:
            if asked is not None and topic not in asked:
                continue
            topics.setdefault(topic, []).append(MetadataResponsePartition(partition_index=index, leader_id=1))
        return MetadataResponse(
            brokers=[MetadataResponseBroker(node_id=1, host="127.0.0.1", port=self.port)],
            topics=[MetadataResponseTopic(name=name, partitions=rows) for name, rows in topics.items()],
        )

    def api_versions(self, frame: bytearray, version: int, body: int) -> ApiVersionsResponse:
        return ApiVersionsResponse()

    def create_topics(self, frame: bytearray, version: int, body: int) -> CreateTopicsResponse:
        topics = decode(CreateTopicsRequest, version, frame, body).topics
        for topic in topics:
            for index in range(topic.num_partitions):
                if (topic.name, index) not in self.logs:
                    folder = self.directory / f"{topic.name}-{index}"
                    folder.mkdir(parents=True, exist_ok=True)
                    self.logs[topic.name, index] = Log(folder / f"{0:020d}.log")
        return CreateTopicsResponse(topics=[CreatableTopicResult(name=topic.name, configs=None) for topic in topics])

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection: ask the kernel first, wait only when it has nothing to give."""
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = stream.socket.fileno()
        buffer, have, turns = bytearray(1 << 16), 0, 0
        connected = socket.socket(fileno=os.dup(fd))
        connected.setblocking(False)
        try:
            while True:
                try:
                    received = connected.recv_into(memoryview(buffer)[have:])
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(fd)
                    turns = 0
                    continue
                if not received:
                    return
                have += received
                at, out = 0, []
                while have - at >= 4:
                    size = int.from_bytes(buffer[at : at + 4], "big")
                    if size + 4 > len(buffer):
                        buffer += bytes(size + 4 - len(buffer))
                    if have - at - 4 < size:
                        break
                    out += self.answer(buffer[at + 4 : at + 4 + size])
                    at += 4 + size
                if at:
                    buffer[: have - at] = buffer[at:have]
                    have -= at
                await send(connected, fd, out)
                turns += 1
                if turns > TURNS:
                    await trio.lowlevel.checkpoint()
                    turns = 0
        except (ConnectionError, ValueError, KeyError) as error:
            print(repr(error))
        finally:
            connected.close()


async def send(connected: socket.socket, fd: int, parts: list[Any]) -> None:
    """All parts in order; slices by sendfile."""
    run: list[bytes] = []
    for part in [*parts, None]:
        if isinstance(part, bytes | bytearray | memoryview):
            run.append(bytes(part))
            continue
        rest = memoryview(b"".join(run))
        run = []
        while rest:
            try:
                rest = rest[connected.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(fd)
        if isinstance(part, Slice):
            position, end = part.position, part.position + part.length
            while position < end:
                try:
                    position += os.sendfile(fd, part.fd, position, end - position)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(fd)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--dir", required=True, type=Path)
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    listeners = await trio.open_tcp_listeners(int(port), host=host)
    print("ready", flush=True)
    await trio.serve_listeners(Bare(options.dir, int(port)).serve, listeners)


if __name__ == "__main__":
    trio.run(main)
