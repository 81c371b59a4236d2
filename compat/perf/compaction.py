"""How fast a broker's cleaner is, and what it does to who produces meanwhile.

A topic is filled with keyed records while nothing compacts it; then its policy changes, and the size of its log is
looked at until it moves no more. The cleaner looks for work every 100 ms. The clock runs from when the change was
answered to the last change of size, so what a broker needs to begin is a part of it.
"""

from __future__ import annotations

import random
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import wire
from brokers import Broker, Failed, Sample, Scale, load
from measures import Measure

PRODUCE, DESCRIBE_LOG_DIRS, ALTER_CONFIGS = 0, 35, 44
TOPIC, BROKER = 2, 4  # types of what has configs
BATCH_BYTES = 200_000
KEYS_SHARE = 4  # so many records of each key
STILL_SECONDS, LIMIT_SECONDS = 1.0, 120.0


def compaction(record_bytes: int, megabytes: int) -> Measure:
    """MB/s of the dirty part, and p99 of produce, acks=1, beside it and alone."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        alter(broker, BROKER, "", {"log.cleaner.backoff.ms": "100"})
        number = broker.memo["compacted"] = broker.memo.get("compacted", 0) + 1
        flags = {"topic": "beside", "conns": 1, "record_bytes": 100, "warmup": scale.warmup}
        quick, slow = f"compacted-{record_bytes}-{number}", f"compacted-{record_bytes}-{number}-beside"
        dirty = [fill(broker, name, record_bytes, scale.count(megabytes)) for name in (quick, slow)]
        sample: Sample = {"mb_s": dirty[0] / 1e6 / compacted(broker, quick)}
        alone = load(broker, "produce", seconds=scale.seconds, **flags)
        with ThreadPoolExecutor(1) as pool:
            seconds = pool.submit(compacted, broker, slow)
            beside = load(broker, "produce", seconds=min(scale.seconds, dirty[1] / 1e6 / sample["mb_s"]), **flags)
            seconds.result()
        return {**sample, "p99": beside["p99"], "p99_times": beside["p99"] / alone["p99"]}

    return measure


def fill(broker: Broker, topic: str, record_bytes: int, megabytes: int) -> int:
    """A log of so many MB, in segments of a sixteenth; the bytes of those that are closed."""
    from kafka_wire.records import build_batch

    configs = {"segment.bytes": str(max(megabytes * 1_000_000 // 16, 1 << 20)), "file.delete.delay.ms": "1000"}
    wire.create_topic(broker.bootstrap, topic, 1, {**configs, "min.cleanable.dirty.ratio": "0.01"})
    wire.partitions(broker.bootstrap, topic)
    chance, value = random.Random(1), random.Random(2).randbytes(record_bytes)
    total = megabytes * 1_000_000 // record_bytes
    each = max(1, BATCH_BYTES // record_bytes)
    bodies = []
    for _ in range(0, total, each):
        keys = [b"%010d" % chance.randrange(max(total // KEYS_SHARE, 1)) for _ in range(each)]
        batch = bytes(build_batch([(time.time_ns() // 1_000_000, key, value) for key in keys]))
        partition = struct.pack(">iii", 1, 0, len(batch)) + batch
        bodies.append(struct.pack(">hhii", -1, 1, 30_000, 1) + wire.text(topic) + partition)
    for answer in wire.ask_all(broker.bootstrap, PRODUCE, 3, bodies, in_flight=8):
        (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
        if error:
            raise Failed(f"filling {topic}: error {error}")
    return size(broker, topic)


def compacted(broker: Broker, topic: str) -> float:
    """Seconds until it is compacted."""
    before = last = size(broker, topic)
    alter(broker, TOPIC, topic, {"cleanup.policy": "compact"})
    began = changed = time.monotonic()
    while last == before or time.monotonic() - changed < STILL_SECONDS:
        time.sleep(0.02)
        now = size(broker, topic)
        if now != last:
            last, changed = now, time.monotonic()
        if time.monotonic() - began > LIMIT_SECONDS:
            raise Failed(f"{topic} is not compacted after {LIMIT_SECONDS:.0f} s: {before} bytes, now {now}")
    return changed - began


def size(broker: Broker, topic: str) -> int:
    """Bytes of the only partition of a topic."""
    body = struct.pack(">i", 1) + wire.text(topic) + struct.pack(">ii", 1, 0)
    answer = wire.ask(broker.bootstrap, DESCRIBE_LOG_DIRS, 1, body)
    return int(struct.unpack_from(">q", answer, answer.index(wire.text(topic)) + 2 + len(topic) + 4 + 4)[0])


def alter(broker: Broker, kind: int, name: str, configs: dict[str, str]) -> None:
    entries = b"".join(wire.text(key) + b"\0" + wire.text(value) for key, value in configs.items())
    body = struct.pack(">ib", 1, kind) + wire.text(name) + struct.pack(">i", len(configs)) + entries + b"\0"
    answer = wire.ask(broker.bootstrap, ALTER_CONFIGS, 0, body)
    if (error := struct.unpack_from(">h", answer, 8)[0]) != 0:
        raise Failed(f"IncrementalAlterConfigs {name or 'brokers'}: error {error}")
