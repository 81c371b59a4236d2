"""What a view costs its broker, beside sending all of its source to a client that would pick for itself.

The source has batches of 16 KB, whose records have one tag each and the same in a batch; one batch in a hundred has the
tag that the views show. CPU is the broker's, and counts for each MB of the source, sent or passed over. There are many
views that show the same, each is read once: nothing is served from what an earlier reader has found.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator

import wire
from brokers import Broker, Failed, Sample, Scale
from measures import Measure

PRODUCE, FETCH = 0, 1
BATCH_BYTES, EVERY = 16_000, 100
FETCH_BYTES = 1 << 20
SENDINGS, VIEWS = 3, 10
SHOWN, OTHERS = b"eu", (b"us", b"uk", b"de")


def views(record_bytes: int, megabytes: int) -> Measure:
    """CPU of sending the source, of an exact view by tag, and of one that prunes."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        source = f"view-source-{record_bytes}"
        if source not in broker.memo:
            broker.memo[source] = fill(broker, source, record_bytes, scale.count(megabytes))
        total, number = broker.memo[source], broker.memo.get("views", 0)
        broker.memo["views"] = number + 1
        sending = cost(broker, [source] * SENDINGS, total)
        shown = {mode: [f"{source}-{mode}-{number}-{n}" for n in range(VIEWS)] for mode in ("exact", "prune")}
        for mode, names in shown.items():
            for name in names:
                make_view(broker, name, source, mode)
        exact, prune = (cost(broker, names, total) for names in shown.values())
        return {
            "send_us_mb": sending, "exact_us_mb": exact, "prune_us_mb": prune,
            "exact_percent": 100 * exact / sending, "prune_percent": 100 * prune / sending,
        }  # fmt: skip

    return measure


def fill(broker: Broker, topic: str, record_bytes: int, megabytes: int) -> int:
    """The source, of so many MB; its bytes."""
    from kafka_wire.records import build_batch

    try:
        wire.create_topic(broker.bootstrap, topic, 1, {"kbroker.tags.enable": "true"})
    except RuntimeError as refused:
        raise Failed(f"has no tags: {refused}") from None
    wire.partitions(broker.bootstrap, topic)
    value, each, total = random.Random(1).randbytes(record_bytes), max(1, BATCH_BYTES // record_bytes), 0
    bodies: list[bytes] = []
    while total < megabytes * 1_000_000:
        number = len(bodies)
        headers = (("kbroker-tags", SHOWN if number % EVERY == EVERY // 2 else OTHERS[number % len(OTHERS)]),)
        batch = bytes(build_batch([(time.time_ns() // 1_000_000, b"key", value, headers)] * each))
        total += len(batch)
        partition = struct.pack(">iii", 1, 0, len(batch)) + batch
        bodies.append(struct.pack(">hhii", -1, 1, 30_000, 1) + wire.text(topic) + partition)
    for answer in wire.ask_all(broker.bootstrap, PRODUCE, 3, bodies, in_flight=8):
        (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
        if error:
            raise Failed(f"filling {topic}: error {error}")
    return total


def make_view(broker: Broker, name: str, source: str, mode: str) -> None:
    configs = {"kbroker.view.source": source, "kbroker.view.tags": SHOWN.decode(), "kbroker.view.mode": mode}
    wire.create_topic(broker.bootstrap, name, 1, configs)


def cost(broker: Broker, topics: list[str], source_bytes: int) -> float:
    """CPU in us for each MB of the source, of reading topics to their ends, one after the other."""
    ends = [wire.offset(broker.bootstrap, topic, 0) for topic in topics]
    before = broker.cpu_seconds()
    for topic, end in zip(topics, ends, strict=True):
        last = max(goes_on(broker, topic, 0, end))
        if last != end:
            raise Failed(f"{topic} ends at {end}, its reader at {last}")
    after = broker.cpu_seconds()
    if before is None or after is None:
        raise Failed("there is no /proc to tell what CPU a broker takes")
    return 1e6 * (after - before) / (len(topics) * source_bytes / 1e6)


def goes_on(broker: Broker, topic: str, offset: int, end: int) -> Iterator[int]:
    """Where a client goes on after each answer that it gets, up to an offset."""
    header = struct.pack(">hhi", FETCH, 4, 1) + wire.text("perf")
    with wire.connected(broker.bootstrap, 60.0) as connection, connection.makefile("rb") as stream:
        while offset < end:
            partition = struct.pack(">iiqi", 1, 0, offset, FETCH_BYTES)
            body = struct.pack(">iiiibi", -1, 500, 1, FETCH_BYTES, 0, 1) + wire.text(topic) + partition
            connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
            answer = wire.exactly(stream, struct.unpack(">i", wire.exactly(stream, 4))[0])
            (error,) = struct.unpack_from(">h", answer, records_at(topic) - 2)
            if error:
                raise Failed(f"reading {topic}: error {error}")
            offset = after(answer, records_at(topic), offset)
            yield offset


def records_at(topic: str) -> int:
    """Where in an answer of one partition what follows its error code begins."""
    return 4 + 4 + 4 + 2 + len(topic) + 4 + 4 + 2


def after(answer: bytes, at: int, offset: int) -> int:
    """The offset behind the last batch of an answer."""
    (aborted,) = struct.unpack_from(">i", answer, at + 16)
    at += 16 + 4 + 16 * max(aborted, 0) + 4
    while at + 61 <= len(answer):
        base, size = struct.unpack_from(">qi", answer, at)
        offset = base + struct.unpack_from(">i", answer, at + 23)[0] + 1
        at += 12 + size
    return int(offset)
