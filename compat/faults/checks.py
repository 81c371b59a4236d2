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
        logs = from_the_same_offset({b: log_of(cluster[b].directory / "data", each) for b in each.replicas})
        if len({tuple(log) for log in logs.values()}) > 1:
            wrong.append(f"UNEQUAL: {each.topic}-{each.index}: {told(logs)}")
    return wrong


def log_of(data: Path, partition: wire.Partition) -> list[bytes]:
    """The whole batches of a log, from its first segment to its last."""
    folder = data / f"{partition.topic}-{partition.index}"
    return [batch for file in sorted(folder.glob("*.log")) for batch in whole_batches(file.read_bytes())]


def whole_batches(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + HEADER_BYTES <= len(data):
        size = 12 + int(struct.unpack_from(">i", data, at + 8)[0])
        if size <= HEADER_BYTES or at + size > len(data):
            break
        yield data[at : at + size]
        at += size


def from_the_same_offset(logs: dict[int, list[bytes]]) -> dict[int, list[bytes]]:
    """Without what some have below the start of others: a log that began anew lacks it, others delete it later."""
    first = max((base_of(log[0]) for log in logs.values() if log), default=0)
    return {broker: [batch for batch in log if base_of(batch) >= first] for broker, log in logs.items()}


def base_of(batch: bytes) -> int:
    return int(struct.unpack_from(">q", batch)[0])


def told(logs: dict[int, list[bytes]]) -> str:
    """Where they part, for people."""
    sizes = ", ".join(f"broker {broker} has {len(log)} batches" for broker, log in logs.items())
    parted = (base_of(some[0]) for some in zip(*logs.values(), strict=False) if len(set(some)) > 1)
    return f"{sizes}; they part at offset {next(parted, 'of the shortest end')}"
