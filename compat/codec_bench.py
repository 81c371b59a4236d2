"""How fast kafka_wire is beside kafka-python 3 (and kio, where it is installed): `make bench-codec`.

Owns: nothing. Every message is encoded by all, and the bytes must be the same, before anything is measured. Times are
CPU time, the best of several rounds, in microseconds; look at the ratios, which hold on any machine. Ratios above 1
mean that kafka_wire is faster. The last rows are steps of a request's way that nobody else has.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from typing import Any

import kafka.protocol.consumer
import kafka.protocol.metadata
import kafka.protocol.producer

from kafka_wire.api import ApiKey
from kafka_wire.codegen import decoder, encoder, part_encoder
from kafka_wire.frames import FrameBuffer, read_request_header, response_parts
from kafka_wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from kafka_wire.schema import layout

KAFKA_PYTHON: dict[type, Any] = {
    ProduceRequest: kafka.protocol.producer.ProduceRequest,
    ProduceResponse: kafka.protocol.producer.ProduceResponse,
    FetchRequest: kafka.protocol.consumer.FetchRequest,
    FetchResponse: kafka.protocol.consumer.FetchResponse,
    MetadataRequest: kafka.protocol.metadata.MetadataRequest,
    MetadataResponse: kafka.protocol.metadata.MetadataResponse,
}


def produce_request(topics: int, record_bytes: int) -> ProduceRequest:
    data = [PartitionProduceData(index=0, records=b"x" * record_bytes)]
    return ProduceRequest(
        acks=-1,
        timeout_ms=30000,
        topic_data=[TopicProduceData(name=f"topic-{n}", partition_data=data) for n in range(topics)],
    )


def produce_response(topics: int) -> ProduceResponse:
    return ProduceResponse(
        responses=[
            TopicProduceResponse(
                name=f"topic-{n}",
                partition_responses=[PartitionProduceResponse(index=0, base_offset=1, log_start_offset=0)],
            )
            for n in range(topics)
        ]
    )


def fetch_request(topics: int, partitions: int) -> FetchRequest:
    asked = [
        FetchPartition(partition=n, current_leader_epoch=3, fetch_offset=12345 + n, partition_max_bytes=1 << 20)
        for n in range(partitions)
    ]
    return FetchRequest(
        max_wait_ms=500, min_bytes=1, topics=[FetchTopic(topic=f"topic-{n}", partitions=asked) for n in range(topics)]
    )


def fetch_response(topics: int, partitions: int, record_bytes: int) -> FetchResponse:
    found = [
        FetchPartitionData(
            partition_index=n,
            high_watermark=999,
            last_stable_offset=999,
            log_start_offset=0,
            aborted_transactions=None,
            records=b"x" * record_bytes,
        )
        for n in range(partitions)
    ]
    responses = [FetchableTopicResponse(topic=f"topic-{n}", partitions=found) for n in range(topics)]
    return FetchResponse(responses=responses)


def metadata_request() -> MetadataRequest:
    return MetadataRequest(topics=[MetadataRequestTopic(name="topic-1")])


def metadata_response(brokers: int, topics: int, partitions: int) -> MetadataResponse:
    return MetadataResponse(
        cluster_id="a-cluster",
        controller_id=1,
        brokers=[MetadataResponseBroker(node_id=n, host=f"host-{n}.example.com", port=9092) for n in range(brokers)],
        topics=[
            MetadataResponseTopic(
                name=f"topic-{n}",
                topic_id=n.to_bytes(16, "big"),
                partitions=[
                    MetadataResponsePartition(
                        partition_index=p, leader_id=1, leader_epoch=3, replica_nodes=[1, 2, 3], isr_nodes=[1, 2, 3]
                    )
                    for p in range(partitions)
                ],
            )
            for n in range(topics)
        ],
    )


CASES: list[tuple[str, Any, int]] = [
    ("Produce request 1x1, 1 KiB", produce_request(1, 1024), 9),
    ("Produce request 10x1, 1 KiB", produce_request(10, 1024), 9),
    ("Produce response 1x1", produce_response(1), 9),
    ("Produce response 10x1", produce_response(10), 9),
    ("Fetch request 1x1", fetch_request(1, 1), 12),
    ("Fetch request 20x10", fetch_request(20, 10), 12),
    ("Fetch response 1x1, 1 KiB", fetch_response(1, 1, 1024), 12),
    ("Fetch response 20x10, 1 KiB", fetch_response(20, 10, 1024), 12),
    ("Metadata request", metadata_request(), 12),
    ("Metadata response 1 broker 1x1", metadata_response(1, 1, 1), 12),
    ("Metadata response 20 brokers 20x10", metadata_response(20, 20, 10), 12),
]


def best_us(call: Callable[[], Any], seconds: float = 0.08, rounds: int = 7) -> float:
    """CPU microseconds of a call: the best round of several."""
    call()
    start = time.process_time()
    call()
    turns = max(1, int(seconds / max(time.process_time() - start, 1e-6) / 10))
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(turns):
            call()
        best = min(best, (time.process_time() - start) / turns)
    return best * 1e6


def kio_times(message: Any, version: int, data: bytes) -> tuple[float, float] | None:
    """kio's decode and encode, or None where it is not installed."""
    try:
        from kio.index import load_entity_module
        from kio.schema.index import api_key_map
        from kio.serial import entity_reader, entity_writer
        from kio.static.constants import EntityType
    except ImportError:
        return None
    name = type(message).__name__
    entity: Any = EntityType.request if name.endswith("Request") else EntityType.response
    cls = getattr(load_entity_module(api_key_map[layout(type(message)).key or 0], version, entity), name)
    read, write = entity_reader(cls), entity_writer(cls)
    theirs, _ = read(data, 0)

    def encode_theirs() -> bytes:
        out = io.BytesIO()
        write(out, theirs)
        return out.getvalue()

    assert encode_theirs() == data, name
    return best_us(lambda: read(data, 0)), best_us(encode_theirs)


def compare(label: str, message: Any, version: int) -> str:
    """One line of the table."""
    cls = type(message)
    judge = KAFKA_PYTHON[cls]
    decode, encode = decoder(cls, version), encoder(cls, version)
    data = encode(message)
    frame = bytearray(data)
    theirs = judge.decode(data, version=version)
    theirs._header = None
    assert theirs.encode(version=version) == data, label
    ours = best_us(lambda: decode(frame)), best_us(lambda: encode(message))
    other = best_us(lambda: judge.decode(data, version=version)), best_us(lambda: theirs.encode(version=version))
    third = kio_times(message, version, data)
    line = f"{label:36}{len(data):8}{ours[0]:9.1f}{ours[1]:8.1f}{other[0]:10.1f}{other[1]:8.1f}"
    line += f"{other[0] / ours[0]:9.1f}x{other[1] / ours[1]:6.1f}x"
    return line + (f"{third[0] / ours[0]:10.1f}x{third[1] / ours[1]:6.1f}x" if third else "")


class Slice:
    """Records in a file."""

    def __len__(self) -> int:
        return 1 << 20


def steps() -> list[tuple[str, float]]:
    """What a request's way costs besides its body."""
    body = encoder(ProduceRequest, 9)(produce_request(1, 1024))
    frame = bytearray(struct.pack(">hhih", ApiKey.PRODUCE, 9, 7, 8) + b"producer" + b"\0" + body)
    answer = produce_response(1)
    from_file = fetch_response(1, 1, 0)
    from_file.responses[0].partitions[0].records = Slice()
    parts = part_encoder(FetchResponse, 12)
    small = (struct.pack(">i", 100) + bytes(100)) * 600
    large = memoryview(struct.pack(">i", 1 << 20) + bytes(1 << 20))
    return [
        ("request header", best_us(lambda: read_request_header(frame))),
        ("Produce response built", best_us(lambda: produce_response(1))),
        ("Produce response to frame", best_us(lambda: response_parts(ApiKey.PRODUCE, 9, 7, answer))),
        ("Fetch response 1x1 from a file, parts", best_us(lambda: parts(from_file))),
        ("Fetch response 1x1 from a file, frame", best_us(lambda: response_parts(ApiKey.FETCH, 12, 7, from_file))),
        ("frame of 100 bytes, 600 in the stream", best_us(lambda: receive(small)) / 600),
        ("frame of 1 MiB, one copy included", best_us(lambda: receive(large))),
    ]


def receive(stream: bytes | memoryview) -> None:
    buffer, pos = FrameBuffer(1 << 24), 0
    while pos < len(stream):
        space = buffer.space()
        count = min(len(space), len(stream) - pos)
        space[:count] = stream[pos : pos + count]
        buffer.received(count)
        pos += count
        while buffer.next_frame() is not None:
            pass


def main() -> None:
    """Print the table."""
    print(f"{'':36}{'':8}{'kafka_wire':>17}{'kafka-python':>18}{'ratio to it':>17}{'ratio to kio':>18}")
    print(f"{'':36}{'bytes':>8}" + f"{'decode':>9}{'encode':>8}" + f"{'decode':>10}{'encode':>8}" * 3)
    for label, message, version in CASES:
        print(compare(f"{label} v{version}", message, version), flush=True)
    print()
    for label, microseconds in steps():
        print(f"{label:44}{microseconds:9.2f}")


if __name__ == "__main__":
    main()
