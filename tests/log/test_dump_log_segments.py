"""Our files judged by Kafka's own dump tool, where Java and Maven (or the jars in .compat/) are."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from kafka_wire.records import Record, build_batch
from kbroker.env.real import real_env
from kbroker.log.content.delayed import Hidden, Kind, carrying_batch, delivery_batch
from tests.log.cleaner.tools import Story, World, all_records, compact, markers, orders
from tests.log.test_transactions import Writer, several_segments
from tests.log.tools import NOW, Worker, append, open_log

pytestmark = [pytest.mark.java, pytest.mark.slow]

VERSION = "4.3.0"
CACHE = Path(__file__).parents[2] / ".compat" / f"kafka-tools-{VERSION}"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kbroker.compat</groupId><artifactId>kafka-tools</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@pytest.fixture(scope="module")
def classpath() -> str:
    if not shutil.which("java"):
        pytest.skip("no Java")
    if not list(CACHE.glob("kafka-tools-*.jar")):
        fetch_jars()
    return f"{CACHE}/*"


def fetch_jars() -> None:
    if not shutil.which("mvn"):
        pytest.skip("no Maven to fetch kafka-tools with")
    CACHE.parent.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=CACHE.parent) as work:  # another run of tests may be at it, too
        Path(work, "pom.xml").write_text(POM.replace("{version}", VERSION))
        copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={work}/jars"]
        try:
            done = subprocess.run([*copy, "-DincludeScope=runtime"], cwd=work, capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip("Maven does not get kafka-tools in time")
        if done.returncode:
            pytest.skip("Maven cannot fetch kafka-tools")
        with suppress(OSError):  # the other was first
            Path(work, "jars").rename(CACHE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A log of several segments with all there is in it, stopped in order; and how many records it has."""
    root = tmp_path_factory.mktemp("data")
    log = open_log(real_env(str(root)).disk, segment_bytes=15_000, index_interval_bytes=1000)
    sequence = 0
    for number in range(400):
        values = [b"%d/%d" % (number, n) * 20 for n in range(number % 5 + 1)]
        idempotent = number % 2 == 1
        append(
            log, *values, at=1_700_000_000_000 + number * 7 % 1000, compression=number % 5, leader_epoch=number // 100,
            producer=77 if idempotent else -1, sequence=sequence if idempotent else -1,
        )  # fmt: skip
        sequence += len(values) if idempotent else 0
    assert len(log.segments) > 2
    trio.run(log.close, Worker())
    return root / "orders-0", log.end.value


@pytest.fixture(scope="module")
def transactions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Writer]:
    """A log with transactions across its segments, stopped in order."""
    root = tmp_path_factory.mktemp("transactions")
    writer = several_segments(real_env(str(root)).disk)
    writer.log.roll()
    trio.run(writer.log.close, Worker())
    return root / "orders-0", writer


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record], list[int]]:
    """A log that was compacted twice, stopped in order; its records, and its markers' offsets."""
    root = tmp_path_factory.mktemp("compacted")

    async def make() -> tuple[list[Record], list[int]]:
        world = World(real_env(str(root)).disk)
        directory = world.start()
        log = orders(directory, segment_bytes=20_000)
        story = Story(log, 1, keys=2000)
        for _ in range(2):
            story.write(500)
            story.end_all()
            await compact(directory, log)
        assert log.segments[0].size > 8000
        left = all_records(log), markers(log)
        await directory.close()
        return left

    return root / "orders-0", *trio.run(make)


@pytest.fixture(scope="module")
def delayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which records lie hidden, in all ways that there are, and are delivered; stopped in order."""
    root = tmp_path_factory.mktemp("delayed")
    log = open_log(real_env(str(root)).disk, kbroker_delay_enable=True, index_interval_bytes=1000)
    sequence = 0
    for number in range(50):
        fields = (("kbroker-deliver-after", b"%d" % (number + 1)),)
        rows = [(NOW, b"k", b"later" * 40, fields), (NOW, b"k", b"now", ())][: 1 + number % 2]
        who = {"producer_id": 7, "producer_epoch": 0, "base_sequence": sequence} if number % 3 else {}
        sequence += len(rows) if who else 0
        log.append(build_batch(rows, compression=number % 5, **who), leader_epoch=0, now_ms=NOW)
    pending = [Hidden(0, Kind.DELAYED, NOW, n, b"\x02k\x02v\x00") for n in range(9)]
    log.append_hidden(carrying_batch(pending, NOW), leader_epoch=0, now_ms=NOW)
    for codec in range(5):
        batch = delivery_batch([(NOW, each) for each in pending], codec)
        log.append_hidden(batch, leader_epoch=0, now_ms=NOW)
    log.roll()
    trio.run(log.close, Worker())
    return root / "orders-0"


def dump(classpath: str, files: list[Path], *options: str) -> str:
    """What the tool prints; it speaks of what it does not like, and exits with 0 all the same."""
    java = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", classpath]
    tool = [*java, "org.apache.kafka.tools.DumpLogSegments", "--files", ",".join(map(str, files)), *options]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def files(directory: Path, suffix: str) -> list[Path]:
    return sorted(directory.glob("*" + suffix))


def test_segments_are_read_to_the_last_record(classpath: str, written: tuple[Path, int]) -> None:
    directory, count = written
    text = dump(classpath, files(directory, ".log"), "--deep-iteration", "--print-data-log")
    offsets = [int(found) for found in re.findall(r"^\| offset: (\d+)", text, re.MULTILINE)]
    assert offsets == list(range(count))
    assert not re.search(r"isvalid: false|mismatch|\binvalid", text)


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_indexes_agree_with_the_segments(classpath: str, written: tuple[Path, int], suffix: str) -> None:
    directory, _ = written
    found = files(directory, suffix)
    assert len(found) == len(files(directory, ".log"))
    text = dump(classpath, found)
    assert not re.search(r"mismatch|non-consecutive|found|exception|error", text, re.IGNORECASE), text[-2000:]
    assert text.count("offset") >= len(found)
    assert "passed sanity check" in dump(classpath, found, "--index-sanity-check")


def test_snapshots_name_their_producer(classpath: str, written: tuple[Path, int]) -> None:
    directory, count = written
    text = dump(classpath, files(directory, ".snapshot"))
    assert "producerId: 77" in text and f"lastOffset: {count - 1}" in text and "exception" not in text.lower()


def test_aborted_transactions_and_their_markers_are_read(classpath: str, transactions: tuple[Path, Writer]) -> None:
    directory, writer = transactions
    text = dump(classpath, files(directory, ".txnindex"))
    entry = r"version: 0 producerId: (\d+) firstOffset: (\d+) lastOffset: (\d+) lastStableOffset: (\d+)"
    found = [tuple(map(int, each)) for each in re.findall(entry, text)]
    assert [each[:3] for each in found] == writer.aborted, text[-2000:]
    text = dump(classpath, files(directory, ".log"), "--deep-iteration", "--print-data-log")
    markers = re.findall(r"offset: (\d+) .*endTxnMarker: (COMMIT|ABORT) coordinatorEpoch: 0", text)
    assert [int(offset) for offset, kind in markers if kind == "ABORT"] == [last for _, _, last in writer.aborted]
    assert not re.search(r"isvalid: false|mismatch|\binvalid", text)


def test_snapshots_name_open_transactions(classpath: str, transactions: tuple[Path, Writer]) -> None:
    directory, writer = transactions
    text = dump(classpath, files(directory, ".snapshot")[-1:])
    found = re.findall(r"producerId: (\d+) .*currentTxnFirstOffset: (?:OptionalLong\[)?(\d+)", text)
    assert {int(producer): int(first) for producer, first in found} == writer.open, text[-2000:]


def test_L9_compacted_segments_are_read_to_the_last_record(
    classpath: str, compacted: tuple[Path, list[Record], list[int]]
) -> None:
    directory, records, kept_markers = compacted
    text = dump(classpath, files(directory, ".log"), "--deep-iteration", "--print-data-log")
    found = re.findall(r"^\| offset: (\d+)(.*)", text, re.MULTILINE)
    assert [int(offset) for offset, rest in found if "endTxnMarker" not in rest] == [each.offset for each in records]
    assert [int(offset) for offset, rest in found if "endTxnMarker" in rest] == kept_markers
    assert "deleteHorizonMs: OptionalLong[" in text and "count: 0" in text
    assert not re.search(r"isvalid: false|mismatch|\binvalid", text)


@pytest.mark.parametrize("suffix", [".index", ".timeindex", ".txnindex"])
def test_L9_indexes_agree_with_compacted_segments(
    classpath: str, compacted: tuple[Path, list[Record], list[int]], suffix: str
) -> None:
    found = files(compacted[0], suffix)
    assert len(found) == len(files(compacted[0], ".log"))
    text = dump(classpath, found)
    assert not re.search(r"mismatch|non-consecutive|found|exception|error", text, re.IGNORECASE), text[-2000:]


@pytest.mark.parametrize("suffix", [".log", ".index", ".timeindex", ".snapshot"])
def test_D2_what_is_hidden_and_delivered_is_read(classpath: str, delayed: Path, suffix: str) -> None:
    text = dump(classpath, files(delayed, suffix), *(["--deep-iteration", "--print-data-log"] * (suffix == ".log")))
    assert not re.search(r"isvalid: false|mismatch|\binvalid|exception|error", text, re.IGNORECASE)
    if suffix == ".log":
        assert text.count("controlType: UNKNOWN(19266)") == 59  # 50 that came, 9 carried on
        assert text.count("headerKeys: [kbroker-delay-id]") == 45
    if suffix == ".snapshot":
        assert "producerId: 7" in text
