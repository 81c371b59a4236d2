"""How late what is delayed comes, whether anything comes early, and how fast what is due together is delivered.

Records are due at moments spread evenly over some time; a reader waits for each and compares the moment at which it has
it with the one at which it was due, by the clock of this machine, which is the broker's, too. Then as many again are
due at one moment.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Iterator

import wire
from brokers import Broker, Failed, Sample, Scale
from measures import Measure

PRODUCE, FETCH = 0, 1
RECORD_BYTES, BATCH_RECORDS = 100, 200
RATE = 100_000 / 300  # due each second
LEAD_S = 3.0  # from the sending to the first that is due
LATE_S = 30.0  # no later than that after the last was due
BURST = 20_000
FETCH_BYTES = 8_000_000


def delays(count: int) -> Measure:
    """So many pending, due within as many seconds as RATE gives them; then BURST at one moment."""

    def measure(broker: Broker, scale: Scale) -> Sample:
        if broker.name == "kafka":
            raise Failed("Apache Kafka has no delayed delivery")
        number = broker.memo["delayed"] = broker.memo.get("delayed", 0) + 1
        spread, at_once = f"delayed-{number}", f"delayed-{number}-at-once"
        total, burst = scale.count(count), scale.count(BURST)
        span_ms = int(total / RATE * 1000)
        begin_ms = send(broker, spread, total, span_ms)
        late = sorted(now - due for now, due in received(broker, spread, total, begin_ms + span_ms))
        due_ms = send(broker, at_once, burst, 0)
        last_ms = max(now for now, _ in received(broker, at_once, burst, due_ms))
        return {
            "p50": late[total // 2],
            "p99": late[total * 99 // 100],
            "early": sum(each < 0 for each in late),
            "rate": burst / max(last_ms - due_ms, 1) * 1000,
        }

    return measure


def missing(name: str) -> str | None:
    """Five minutes are for who asks for them."""
    return None if any(name in each for each in sys.argv) else "it takes five minutes: ask for it by name (--rows)"


def now_ms() -> float:
    return time.time_ns() / 1e6


def send(broker: Broker, topic: str, count: int, span_ms: int) -> int:
    """Have so many pending, due within so long; from when on, in ms."""
    from kafka_wire.records import build_batch

    wire.create_topic(broker.bootstrap, topic, 1, {"kbroker.delay.enable": "true"})
    wire.offset(broker.bootstrap, topic, 0)
    chance = random.Random(1)
    # how long sending takes is not known before: as long as it might
    begin_ms = int(now_ms() + 1000 * LEAD_S + count / 10)
    dues = [begin_ms + int(span_ms * n / count) for n in range(count)]
    chance.shuffle(dues)
    value, bodies = chance.randbytes(RECORD_BYTES), []
    for at in range(0, count, BATCH_RECORDS):
        stamp = int(now_ms())
        rows = [
            (stamp, b"%d" % due, value, [("kbroker-deliver-at", b"%d" % due)]) for due in dues[at : at + BATCH_RECORDS]
        ]
        batch = bytes(build_batch(rows))
        partition = struct.pack(">iii", 1, 0, len(batch)) + batch
        bodies.append(struct.pack(">hhii", -1, 1, 30_000, 1) + wire.text(topic) + partition)
    for answer in wire.ask_all(broker.bootstrap, PRODUCE, 3, bodies, in_flight=8):
        (error,) = struct.unpack_from(">h", answer, 4 + 2 + len(topic) + 4 + 4)
        if error:
            raise Failed(f"sending to {topic}: error {error}")
    if now_ms() > begin_ms:
        raise Failed(f"sending took until {now_ms() - begin_ms:.0f} ms after the first was due")
    return begin_ms


def received(broker: Broker, topic: str, count: int, last_ms: int) -> Iterator[tuple[float, int]]:
    """For each of so many: when it was there, and when it was due."""
    offset = found = 0
    with wire.connected(broker.bootstrap, 60.0) as connection, connection.makefile("rb") as stream:
        while found < count:
            if now_ms() > last_ms + 1000 * LATE_S:
                raise Failed(f"{found} of {count} are there {LATE_S:.0f} s after the last was due")
            head = struct.pack(">hhi", FETCH, 4, 1) + wire.text("compat")
            body = struct.pack(">iiiib", -1, 500, 1, FETCH_BYTES, 0)
            body += struct.pack(">i", 1) + wire.text(topic) + struct.pack(">iiqi", 1, 0, offset, FETCH_BYTES)
            connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
            answer = wire.exactly(stream, struct.unpack(">i", wire.exactly(stream, 4))[0])
            there_ms = now_ms()
            for following, due in delivered(answer, topic, offset):
                offset = following
                if due >= 0:
                    found += 1
                    yield there_ms, due


def delivered(answer: bytes, topic: str, offset: int) -> Iterator[tuple[int, int]]:
    """(the offset to go on with, when it was due) of each record of an answer; -1: of a batch that is passed over."""
    from kafka_wire.records import headers, read_records

    at = 4 + 4 + 4 + 2 + len(topic) + 4 + 4
    error, _, _, aborted = struct.unpack_from(">hqqi", answer, at)
    if error:
        raise Failed(f"reading {topic}: error {error}")
    at += 22 + 16 * max(0, aborted)
    (size,) = struct.unpack_from(">i", answer, at)
    data = answer[at + 4 : at + 4 + size]
    for position, header in headers(data):
        if not header.is_control:
            for record in read_records(data, position, max_bytes=FETCH_BYTES):
                if record.offset >= offset:
                    yield record.offset + 1, int(record.key or b"")
        yield header.next_offset, -1
