"""Compaction held against Apache Kafka's own: both get the same files, and leave the same records, offset by offset.

What differs is meant to: a batch that would be gone is kept, empty, where a segment ends and where a leader epoch
begins, so that the segments still tell where that is; and of a producer without data one marker is kept, not all of its
epoch.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from kafka_wire.records import BatchHeader, Record
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
from tests.log.cleaner.tools import DAY_MS, Story, World, compact, orders
from tests.log.tools import NOW, batches

HERE = Path(__file__).parent
JARS = sorted(HERE.parents[2].glob(".compat/apache-kafka-*/*.jar"))
SEGMENT_BYTES, MAP_BYTES = 3000, 1 << 20
RETENTION_MS = DAY_MS * 3 // 2

pytestmark = [
    pytest.mark.java,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("java") and JARS), reason="no Java, or no jars of Apache Kafka"),
]


@pytest.fixture(scope="module")
def cleaner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs Kafka's."""
    classes = tmp_path_factory.mktemp("classes")
    path = ":".join(map(str, JARS))
    subprocess.run(["javac", "-cp", path, "-d", str(classes), str(HERE / "KafkaCleaner.java")], check=True, timeout=120)
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"
    return ["java", quiet, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{path}", "KafkaCleaner"]


class Left(NamedTuple):
    """What a directory holds, whoever has compacted it."""

    records: list[tuple[int, Record]]  # with the base offset of its batch
    markers: list[int]
    headers: dict[int, BatchHeader]  # by base offset
    ends: set[int]  # base offsets of the last batches of segments


def read(directory: Path) -> Left:
    left = Left([], [], {}, set())
    for path in sorted(directory.glob("*.log")):
        header = None
        for header, records in batches(path.read_bytes()):
            left.headers[header.base_offset] = header
            if header.is_control:
                left.markers.extend([header.base_offset] * bool(records))
            else:
                left.records.extend((header.base_offset, record) for record in records)
        if header is not None:
            left.ends.add(header.base_offset)
    return left


def by_kafka(cleaner: list[str], directory: Path, copy: Path, dirty_from: int, now_ms: int) -> tuple[Left, int]:
    shutil.copytree(directory, copy)
    arguments = [str(copy), *map(str, (dirty_from, now_ms, RETENTION_MS, SEGMENT_BYTES, MAP_BYTES))]
    done = subprocess.run([*cleaner, *arguments], stdout=subprocess.PIPE, check=True, timeout=120)
    return read(copy), int(done.stdout.split()[-1])


def likeness(header: BatchHeader) -> tuple[object, ...]:
    """What is to be the same of a batch that both have left; the base timestamp only where it is a delete horizon."""
    horizon = header.base_timestamp if header.has_delete_horizon else None
    return (*header[0:1], header.leader_epoch, *header[5:7], header.max_timestamp, *header[9:13], horizon)


@pytest.mark.parametrize("seed", range(5))
async def test_L9_apache_kafka_leaves_the_same_of_the_same_input(seed: int, cleaner: list[str], tmp_path: Path) -> None:
    world = World(RealDisk(str(tmp_path / "data"), Features.detect()))  # type: ignore[arg-type]
    directory = world.start()
    log = orders(directory, segment_bytes=SEGMENT_BYTES, delete_retention_ms=RETENTION_MS)
    story = Story(log, seed)
    for turn in range(6):
        story.write(120 if turn < 4 else 4)  # Kafka's does nothing at all where nothing is new
        if turn >= 2:
            story.end_all()
        log.roll()
        await log.flush(world.offload)
        world.clock.now_ms = NOW + turn * DAY_MS
        log._write_snapshot()  # of the producers, as a stop would: Kafka reads it
        theirs, their_end = by_kafka(
            cleaner, tmp_path / "data/orders-0", tmp_path / f"kafka-{turn}/orders-0", log.cleaned_to, world.clock.now_ms
        )
        outcome = await compact(directory, log)
        ours = read(tmp_path / "data/orders-0")
        assert outcome.cleaned_to == their_end
        assert ours.records == theirs.records
        extra = ours.headers.keys() - theirs.headers.keys()
        assert all(ours.headers[base].count == 0 and base in ours.ends | {min(ours.headers)} for base in extra)
        missing = theirs.headers.keys() - ours.headers.keys()
        assert all(theirs.headers[base].is_control for base in missing)
        assert set(ours.markers) <= set(theirs.markers)
        for base in ours.headers.keys() & theirs.headers.keys():
            if base in ours.ends | {min(ours.headers)} and not ours.headers[base].count:
                assert theirs.headers[base].count == 0  # and has a producer
                continue
            assert likeness(ours.headers[base]) == likeness(theirs.headers[base]), base
