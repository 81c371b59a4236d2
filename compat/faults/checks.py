"""What must hold in the end: nothing lost, nothing twice, nothing in another order, and all replicas the same bytes.

Owns nothing. Replicas are compared as they lie in the brokers' directories, batch by batch as bytes, whichever way they
are cut into segments.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import wire
from clusters import Cluster
from ledger import Ledger, Sightings, differences
from loads import read_all

SETTLE_SECONDS_MAX = 15.0
HEADER_BYTES = 61


def contents(cluster: Cluster, ledger: Ledger, sightings: Sightings | None) -> list[str]:
    """What is wrong with what a topic holds."""
    count = len(ledger.acks)
    ends = {partition: wire.offset(cluster.bootstrap, ledger.topic, partition) for partition in range(count)}
    found = read_all(cluster.servers, ledger.topic, ends)
    wrong = [
        f"UNREAD: {ledger.topic}-{partition} ends at {ends[partition]}, {len(records)} records came"
        for partition, records in found.items()
        if len(records) != ends[partition]
    ]
    in_order = {partition: sorted(records.items()) for partition, records in found.items()}
    wrong += differences(ledger, in_order)
    return wrong + (sightings.missing_from(found) if sightings else [])


def replicas(cluster: Cluster) -> list[str]:
    """Partitions whose replicas are not the same, when that does not change any more."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while (wrong := unequal(cluster)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return wrong


def unequal(cluster: Cluster) -> list[str]:
    wrong = []
    for each in wire.partitions(cluster.bootstrap):
        logs = {broker: log_of(cluster[broker].directory / "data", each) for broker in each.replicas}
        if len(set(logs.values())) > 1:
            wrong.append(f"UNEQUAL: {each.topic}-{each.index}: {told(logs)}")
    return wrong


def log_of(data: Path, partition: wire.Partition) -> bytes:
    """The whole batches of a log, from its first segment to its last."""
    folder = data / f"{partition.topic}-{partition.index}"
    return b"".join(whole_batches(file.read_bytes()) for file in sorted(folder.glob("*.log")))


def whole_batches(data: bytes) -> bytes:
    at = 0
    while at + HEADER_BYTES <= len(data):
        size = struct.unpack_from(">i", data, at + 8)[0]
        if size <= 0 or at + 12 + size > len(data):
            break
        at += 12 + size
    return data[:at]


def told(logs: dict[int, bytes]) -> str:
    """Where they part, for people."""
    shortest = min(map(len, logs.values()))
    at = next((n for n in batch_ends(logs) if len({log[:n] for log in logs.values()}) > 1), shortest)
    return (
        ", ".join(f"broker {broker} has {len(log)} bytes" for broker, log in logs.items()) + f"; they part by byte {at}"
    )


def batch_ends(logs: dict[int, bytes]) -> Iterator[int]:
    log, at = min(logs.values(), key=len), 0
    while at + HEADER_BYTES <= len(log):
        at += 12 + int(struct.unpack_from(">i", log, at + 8)[0])
        yield at
