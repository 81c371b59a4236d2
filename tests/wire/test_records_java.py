"""Record batches judged by Kafka's own classes, where Java and the jars are (`compat/apache_kafka.py` fetches them)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kafka_wire import compression as codecs
from kafka_wire.records import (
    ControlMarker,
    ControlType,
    Record,
    build_batch,
    check_crc,
    control_batch,
    headers,
    payload,
    read_control,
    read_header,
    read_records,
    set_log_append_time,
    with_records,
)
from kafka_wire.walk import keyed

HERE = Path(__file__).parent
JARS = sorted(HERE.parents[1].glob(".compat/apache-kafka-*/*.jar"))
NOW = 1_700_000_000_000
LARGE = bytes((i * i >> 3) & 0xFF for i in range(100_000))
SAMPLE: list[Any] = [
    (NOW, b"key", b"value", [("h", b"\x01\x02"), ("none", None)]),
    (NOW - 5, None, LARGE),
    (NOW + 70_000, b"", None),
]
IDS: dict[str, Any] = {"producer_id": 9, "producer_epoch": 1, "base_sequence": 5, "leader_epoch": 3}

pytestmark = [
    pytest.mark.java,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") and JARS), reason="no Java, or no jars of Apache Kafka"),
]


def judge(command: str, data: bytes = b"") -> bytes:
    """What Kafka's classes answer. Raises CalledProcessError, with Java's words on stderr, where they throw."""
    classpath = ":".join(map(str, JARS))
    java = [
        "java",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        classpath,
        str(HERE / "RecordJudge.java"),
        command,
    ]
    return subprocess.run(java, input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout


def told(batch: bytes | bytearray) -> list[str]:
    """What RecordJudge says of a batch that it reads as we do."""
    header = read_header(batch)
    kind = "LogAppendTime" if header.log_append_time else "CreateTime"
    flags = f"{header.is_transactional} {header.is_control}".lower()
    lines = [
        f"batch {header.base_offset} {header.last_offset} {header.count} {header.producer_id} {header.producer_epoch}"
        f" {header.base_sequence} {codecs.NAMES[header.compression]} {flags} {kind} {header.max_timestamp}"
    ]
    for record in read_records(batch, max_bytes=1 << 20):
        fields = "".join(f" {hexed(name.encode())}={hexed(value)}" for name, value in record.headers)
        lines.append(f"record {record.offset} {record.timestamp} {hexed(record.key)} {hexed(record.value)}{fields}")
        if header.is_control:
            marker = read_control(record)
            lines.append(f"marker {ControlType(marker.type).name} {marker.coordinator_epoch}")
    return lines


def hexed(data: bytes | None) -> str:
    return "null" if data is None else f"'{data.hex()}'"


def test_kafka_reads_what_we_write() -> None:
    batches = [
        build_batch(SAMPLE, base_offset=1000, compression=codec, transactional=True, **IDS) for codec in range(5)
    ]
    batches += [build_batch([(b"k", b"v")] * 2000, compression=codec, timestamp=NOW) for codec in range(5)]
    for batch in batches[:5]:  # without their first record, as compaction may leave them
        records = payload(batch, max_bytes=1 << 20)
        start = keyed(records, len(SAMPLE))[1][0]
        batches.append(with_records(read_header(batch)._replace(count=len(SAMPLE) - 1), records[start:]))
    batches += [with_records(read_header(batches[0])._replace(count=0), b"")]
    for codec in range(5):
        stamped = build_batch(SAMPLE, compression=codec)
        set_log_append_time(stamped, 0, read_header(stamped), NOW + 99)
        batches.append(stamped)
    for marker in ControlType:
        batches.append(
            control_batch(marker, producer_id=9, producer_epoch=4, coordinator_epoch=77, timestamp=NOW, base_offset=500)
        )
    expected = [line for batch in batches for line in told(batch)]
    assert judge("read", b"".join(batches)).decode().splitlines() == expected


def test_we_read_what_kafka_writes() -> None:
    theirs = judge("write")
    found = list(headers(theirs))
    assert [header.compression for _, header in found] == [0, 1, 2, 3, 4, 0, 0]
    assert sum(header.size for _, header in found) == len(theirs)
    expected = [Record(1000 + i, *record) for i, record in enumerate(SAMPLE)]
    expected[0] = expected[0]._replace(headers=tuple(expected[0].headers))
    for pos, header in found[:5]:
        assert check_crc(theirs, pos, header)
        assert (header.producer_id, header.producer_epoch, header.base_sequence, header.leader_epoch) == (9, 1, 5, 3)
        assert list(read_records(theirs, pos, max_bytes=1 << 20)) == expected
    for (pos, header), marker in zip(found[5:], (ControlType.COMMIT, ControlType.ABORT), strict=True):
        assert check_crc(theirs, pos, header)
        assert header.is_control
        [record] = read_records(theirs, pos, max_bytes=100)
        assert read_control(record) == ControlMarker(marker, 77)


def test_we_write_the_same_bytes() -> None:
    theirs = judge("write")
    found = list(headers(theirs))
    plain, (pos, marker) = found[0][1], found[5]
    assert theirs[: plain.size] == build_batch(SAMPLE, base_offset=1000, transactional=True, **IDS)
    epochs: dict[str, Any] = {"producer_epoch": 4, "coordinator_epoch": 77, "leader_epoch": 2}
    ours = control_batch(ControlType.COMMIT, producer_id=9, timestamp=NOW, base_offset=500, **epochs)
    assert theirs[pos : pos + marker.size] == ours
