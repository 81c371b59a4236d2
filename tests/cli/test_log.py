"""`kbroker log`: what it shows of a segment, and that it finds every kind of damage."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from kafka_wire.primitives import crc32c
from kafka_wire.records import ControlType, Record, assign, build_batch, control_batch, headers, read_header
from kbroker.cli import cli
from kbroker.cli.progress import Progress
from kbroker.env import DirectoryLocked
from kbroker.env.features import Features
from kbroker.env.real import real_env
from kbroker.env.real_lock import take_lock
from kbroker.log.checkpoints import metadata_content
from kbroker.log.content.delayed import Hidden, Kind, carrying_batch, delivery_batch
from kbroker.log.content.tagged import number_of
from kbroker.log.derived.producers import ProducerStates
from kbroker.log.derived.transactions import read_marker
from tests.log.cleaner.tools import Story, World, compact, orders
from tests.log.content.odd_batches import KAFKA_FIELDS, KAFKA_RECORDS, batch_of, record
from tests.log.test_transactions import several_segments
from tests.log.tools import NOW, Worker, open_log, thinned


def batch(base_offset: int, *values: bytes, **settings: int) -> bytearray:
    records = [Record(i, 1_700_000_000_000 + i, b"k", value, (("h", b"x"),)) for i, value in enumerate(values)]
    return build_batch(records, base_offset=base_offset, **settings)


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """A partition of two segments with three batches, and indexes."""
    directory = tmp_path / "demo-0"
    directory.mkdir()
    first, second = batch(0, b"a", b"b"), batch(2, b"c", compression=4)
    (directory / f"{0:020}.log").write_bytes(first + second)
    (directory / f"{0:020}.index").write_bytes(struct.pack(">ii", 2, len(first)) + bytes(16))
    (directory / f"{0:020}.timeindex").write_bytes(struct.pack(">qi", 1_700_000_000_001, 1))
    (directory / f"{3:020}.log").write_bytes(batch(3, b"d"))
    (directory / "partition.metadata").write_bytes(metadata_content(bytes(range(16))))
    return directory


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["log", *map(str, arguments)])


def segment(partition: Path, base_offset: int = 0, suffix: str = ".log") -> Path:
    return partition / f"{base_offset:020}{suffix}"


def test_dump(partition: Path) -> None:
    result = invoke("dump", segment(partition), "--records")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("offsets 0-1  records 2  position 0  size ")
    assert "time 2023-11-14T22:13:20.001Z  codec none" in lines[0]
    assert lines[1] == "  offset 0  time 2023-11-14T22:13:20.000Z  key 'k'  value 'a'  headers h='x'"
    assert "codec zstd" in lines[3]
    assert len(lines) == 5


def test_dump_for_programs(partition: Path) -> None:
    """An object a line, in Kafka's terms; records in that of their batch; damage too."""
    first, second = map(json.loads, invoke("dump", segment(partition), "--records", "-o", "json").stdout.splitlines())
    assert (first["base_offset"], first["last_offset"], first["count"], first["problem"]) == (0, 1, 2, None)
    assert second["compression"] == "zstd" and second["position"] == first["size"]
    assert first["records"][0] == {
        "offset": 0, "timestamp": 1_700_000_000_000, "key": "k", "value": "a", "headers": [["h", "x"]]
    }  # fmt: skip
    segment(partition).write_bytes(batch(0, b"\xff", b"b")[:-1])
    damaged = invoke("dump", segment(partition), "--records", "--format", "json")
    assert damaged.exit_code == 1 and json.loads(damaged.stdout)["problem"].startswith("torn")
    segment(partition).write_bytes(batch(0, b"\xff"))
    (told,) = map(json.loads, invoke("dump", segment(partition), "--records", "-o", "json").stdout.splitlines())
    assert told["records"][0]["value"] == {"base64": "/w=="}


def test_verify_for_programs(partition: Path) -> None:
    whole = json.loads(invoke("verify", partition, "-o", "json").stdout)
    assert whole == {"partitions": 1, "segments": 2, "batches": 3, "bytes": whole["bytes"], "problems": []}
    segment(partition, 3).write_bytes(batch(3, b"d")[:-1])
    result = invoke("verify", partition, "-o", "json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert result.exit_code == 1
    assert problem["file"] == f"{3:020}.log" and "torn" in problem["problem"]


def test_verify_counts_every_byte_for_who_waits(partition: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Progress, "at", lambda self, done: told.append(done))
    assert invoke("verify", partition).exit_code == 0
    sizes = [segment(partition, base).stat().st_size for base in (0, 3)]
    assert told == sorted(told) and told[-1] == sum(sizes) and len(told) == 3


def test_verify_tells_of_a_gap_between_segments(partition: Path) -> None:
    segment(partition, 10).write_bytes(batch(10, b"d"))
    segment(partition, 3).unlink()
    result = invoke("verify", partition)
    assert result.exit_code == 1
    assert f"{10:020}.log: offsets 3 to 9 are missing before it" in result.stdout


def test_verify_leaves_a_swap_to_the_next_start_and_reads_what_compaction_has_left(tmp_path: Path) -> None:
    disk = real_env(str(tmp_path)).disk

    async def made() -> None:
        directory = World(disk).start()
        log = orders(directory)
        story = Story(log, 1)
        story.write(150)
        story.end_all()
        await compact(directory, log)
        await directory.close()

    trio.run(made)
    assert invoke("verify", tmp_path).exit_code == 0, invoke("verify", tmp_path).output
    first = segment(tmp_path / "orders-0")
    first.rename(first.with_name(first.name + ".swap"))
    result = invoke("verify", tmp_path)
    assert result.exit_code == 0, result.output
    assert "orders-0 is left out: compacted segments are taking the place of others" in result.stderr


def producers(*offsets: int) -> bytes:
    """A snapshot of a producer that wrote a record at each of those."""
    states = ProducerStates()
    for n, offset in enumerate(offsets):
        written = batch(offset, b"v", producer_id=7, producer_epoch=0, base_sequence=n)
        states.update(read_header(written), offset)
    return states.snapshot()


SMALL_FILES: dict[str, list[tuple[bytes | None, str]]] = {
    "demo-0/partition.metadata": [
        (None, "missing"),
        (b"", "does not say whose data this is"),
        (b"version: 0\ntopic_id: AAEC", "does not say whose data this is"),
        (b"version: 1\ntopic_id: AAECAwQFBgcICQoLDA0ODw\n", "does not say whose data this is"),
        (b"\xff" * 40, "does not say whose data this is"),
    ],
    "demo-0/leader-epoch-checkpoint": [
        (b"", "is damaged"),
        (b"0\n1\n-1 0", "is damaged"),
        (b"1\n1\n-1 0\n", "is damaged"),
        (b"\xff" * 40, "is damaged"),
        (b"0\n1\n5 0\n", "offset 0 is of epoch 5, its batch of epoch -1"),
        (b"0\n2\n-1 0\n5 9\n", "epoch 5 begins at offset 9, the log ends at 4"),
    ],
    f"demo-0/{3:020}.snapshot": [
        (b"", "is damaged: too short"),
        (producers(0, 2)[:-1], "is damaged: "),
        (b"\0\2" + producers(0)[2:], "is damaged: version 2"),
        (b"\xff" * 40, "is damaged: "),
        (producers(0, 3), "producer 7 has a batch at offset 3, not below it"),
    ],
    f"demo-0/{9:020}.snapshot": [(producers(0), "is of offset 9, the log ends at 4")],
    f"demo-0/{7:020}.index": [(bytes(8), "its segment is not there")],
    f"demo-0/{7:020}.txnindex": [(bytes(8), "its segment is not there")],
    "recovery-point-offset-checkpoint": [
        (b"", "is damaged"),
        (b"0\n2\ndemo 0 3\n", "is damaged"),
        (b"1\n1\ndemo 0 3\n", "is damaged"),
        (b"\xff" * 40, "is damaged"),
        (b"0\n1\ndemo 0 5\n", "demo-0 is at offset 5, its log ends at 4"),
        (b"0\n1\ndemo 1 5\n", "demo-1 is at offset 5, and has no segment"),
    ],
    "log-start-offset-checkpoint": [(b"0\n1\ndemo 0 5\n", "demo-0 is at offset 5, its log ends at 4")],
}


@pytest.mark.parametrize("name", SMALL_FILES)
def test_what_is_wrong_with_a_small_file_is_found(partition: Path, name: str) -> None:
    path = partition.parent / name
    for content, message in SMALL_FILES[name]:
        path.write_bytes(content) if content is not None else path.unlink()
        result = invoke("verify", partition.parent)
        assert (result.exit_code, result.stdout.splitlines()) == (1, [f"{name}: {result.stdout[len(name) + 2 : -1]}"])
        assert f"{name}: {message}" in result.stdout


def test_small_files_that_are_right_are_no_problem(partition: Path) -> None:
    root = partition.parent
    (partition / "leader-epoch-checkpoint").write_bytes(b"0\n1\n-1 0\n")
    (partition / f"{3:020}.snapshot").write_bytes(producers(0, 2))
    (root / "recovery-point-offset-checkpoint").write_bytes(b"0\n1\ndemo 0 4\n")
    (root / "log-start-offset-checkpoint").write_bytes(b"0\n1\ndemo 0 1\n")
    assert invoke("verify", root).exit_code == 0


def test_partitions_of_a_topic_have_its_id_and_no_other_topic_has_it(partition: Path) -> None:
    for name, topic_id in (("demo-1", bytes(15) + b"x"), ("other-0", bytes(range(16)))):
        other = partition.with_name(name)
        other.mkdir()
        segment(other).write_bytes(batch(0, b"a"))
        (other / "partition.metadata").write_bytes(metadata_content(topic_id))
    told = invoke("verify", partition.parent).stdout
    assert "demo-1/partition.metadata: another topic id than that of the other partitions of demo" in told
    assert "other-0/partition.metadata: the topic id of demo" in told


def test_dump_control_batch(partition: Path) -> None:
    marker = control_batch(ControlType.COMMIT, producer_id=7, producer_epoch=0, coordinator_epoch=1, timestamp=0)
    segment(partition).write_bytes(marker)
    assert "transactional  control  commit  coordinator epoch 1" in invoke("dump", segment(partition)).stdout


def test_dump_tells_what_is_delayed_and_what_delivers_it(partition: Path) -> None:
    hidden = Hidden(0, Kind.DELAYED, 5, 0, b"\x02k\x02v\x00")
    segment(partition).write_bytes(carrying_batch([hidden], 1) + delivery_batch([(5, hidden)]))
    first, second = invoke("dump", segment(partition)).stdout.splitlines()
    assert first.endswith("  delayed") and second.endswith("  delivery")


@pytest.fixture
def transactions(tmp_path: Path) -> Path:
    """A partition of several segments with transactions across them, as a log wrote it and stopped."""
    log = several_segments(real_env(str(tmp_path)).disk).log
    trio.run(log.close, Worker())
    return tmp_path / "orders-0"


def test_aborted_transactions_are_shown(transactions: Path) -> None:
    index = next(path for path in sorted(transactions.glob("*.txnindex")) if path.stat().st_size)
    result = invoke("dump", index)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "producer 0  offsets 0-5  last stable offset 2"


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A partition whose three batches have tags, as a log wrote it and stopped."""
    log = open_log(real_env(str(tmp_path)).disk, kbroker_tags_enable=True)
    for tag in (b"eu", b"us", b""):
        rows = [(NOW, b"k", b"v" * 5000, (("kbroker-tags", tag),))]
        log.append(build_batch(rows), leader_epoch=0, now_ms=NOW)
    trio.run(log.close, Worker())
    return tmp_path / "orders-0"


def test_tags_are_shown(tagged: Path) -> None:
    result = invoke("dump", next(tagged.glob("*.tags")))
    tags = [line.rpartition("  tags ")[2] for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and tags == [str(number_of(b"eu")), str(number_of(b"us")), "none"]
    assert result.stdout.startswith("offsets 0-0  position 0  size ")


def test_an_index_that_leaves_out_tags_is_found_and_one_that_nobody_believes_is_not(tagged: Path) -> None:
    assert invoke("verify", tagged).exit_code == 0
    path = next(tagged.glob("*.tags"))
    content, eu = path.read_bytes(), number_of(b"eu").to_bytes(2)
    changed = content[8:].replace(eu, number_of(b"de").to_bytes(2))
    path.write_bytes(content[:4] + struct.pack(">I", crc32c(changed)) + changed)
    result = invoke("verify", tagged)
    assert result.exit_code == 1 and f"{path.name}: leaves out tags of the batch at offset 0" in result.stdout
    path.write_bytes(content[:8] + changed)
    assert invoke("verify", tagged).exit_code == 0


def test_each_abort_is_in_its_index(transactions: Path) -> None:
    assert invoke("verify", transactions).exit_code == 0, invoke("verify", transactions).stdout
    for path in transactions.glob("*.txnindex"):
        path.unlink()
    assert invoke("verify", transactions).exit_code == 0, "what is not there does not lie"


@pytest.mark.parametrize("damage", ["lacks", "torn", "begins elsewhere", "of no marker", "of a commit"])
def test_an_index_that_lies_about_aborts_is_found(transactions: Path, damage: str) -> None:
    index, commit = next(
        (path, min(ended))
        for path in sorted(transactions.glob("*.txnindex"))
        if path.stat().st_size and (ended := commits(path.with_suffix(".log").read_bytes()))
    )
    data = index.read_bytes()
    producer, first, last, stable = struct.unpack_from(">qqqq", data, 2)
    of_commit = struct.pack(">hqqqq", 0, 1, 0, commit, 0)
    message, changed = {
        "lacks": (f"lacks what the marker at offset {last} aborted, from offset {first}", b""),
        "torn": (f"{len(data) + 5} bytes are no multiple of 34", data + b"12345"),
        "begins elsewhere": (
            f"entry 0: producer {producer} from offset {first + 1}, the batches say producer {producer} from offset",
            struct.pack(">hqqqq", 0, producer, first + 1, last, stable) + data[34:],
        ),
        "of no marker": (
            f"entry 0: there is no marker at offset {last - 1}", struct.pack(">hqqqq", 0, 1, 0, last - 1, 0) + data
        ),
        "of a commit": (
            f"entry {int(commit > last)}: the marker at offset {commit} aborts nothing",
            data[:34] + of_commit + data[34:] if commit > last else of_commit + data,
        ),
    }[damage]  # fmt: skip
    index.write_bytes(changed)
    result = invoke("verify", transactions)
    assert result.exit_code == 1 and f"{index.name}: {message}" in result.stdout, result.stdout


def commits(data: bytes) -> list[int]:
    found = []
    for position, header in headers(data):
        marker = read_marker(data[position : position + header.size]) if header.is_control else None
        if marker is not None and marker.is_commit:
            found.append(header.base_offset)
    return found


def test_whole(partition: Path) -> None:
    result = invoke("verify", partition.parent)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 partition, 2 segments, 3 batches, ")
    assert "no damage" in result.stdout


def damage(partition: Path, what: str) -> None:
    path = segment(partition)
    data = bytearray(path.read_bytes())
    second = read_header(data).size
    if what == "torn":
        del data[-3:]
    elif what == "torn header":
        del data[second + 20 :]
    elif what == "flipped bit":
        data[-1] ^= 1
    elif what == "zeros":
        data[second:] = bytes(200)
    elif what == "magic":
        data[second + 16] = 1
    elif what == "offset goes back":
        data[second : second + 8] = bytes(8)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("torn", "torn: the batch is"),
        ("torn header", "torn or damaged: 20 bytes left"),
        ("flipped bit", "the CRC does not match"),
        ("zeros", "200 bytes that begin with zeros"),
        ("magic", "magic 1: only batches of magic 2"),
        ("offset goes back", ": where 2 or more is due"),
    ],
)
def test_damage_is_found(partition: Path, what: str, message: str) -> None:
    damage(partition, what)
    result = invoke("verify", partition.parent)
    assert result.exit_code == 1
    assert message in result.stdout
    where = "at byte" if what in ("torn header", "zeros") else "offset"
    assert f"demo-0/{0:020}.log: {where} " in result.stdout
    if what != "offset goes back":
        dumped = invoke("dump", segment(partition))
        assert (dumped.exit_code, "DAMAGED: " in dumped.stdout) == (1, True)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".index", struct.pack(">iiii", 2, 0, 1, 0), "entry 1: not after the entry before it"),
        (".index", struct.pack(">ii", 2, 7), "entry 0: no batch begins at byte 7"),
        (".index", struct.pack(">ii", 2, 0), "entry 0: offset 2 is not in the batch at byte 0"),
        (".timeindex", struct.pack(">qiqi", 9, 1, 8, 1), "entry 1: not after the entry before it"),
        (".timeindex", struct.pack(">qi", 9, 3), "entry 0: offset 3 is not in the segment"),
    ],
)
def test_damaged_index_is_found(partition: Path, suffix: str, content: bytes, message: str) -> None:
    segment(partition, suffix=suffix).write_bytes(content)
    result = invoke("verify", partition)
    assert result.exit_code == 1
    assert message in result.stdout


def test_overlapping_segments_are_found(partition: Path) -> None:
    segment(partition, 3).rename(segment(partition, 1))
    assert "begins before the end of the segment before it, offset 3" in invoke("verify", partition).stdout


def test_empty_directory(tmp_path: Path) -> None:
    result = invoke("verify", tmp_path)
    assert result.exit_code == 1
    assert f"there are no segments below {tmp_path}" in result.stderr


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("name", [*KAFKA_RECORDS, *KAFKA_FIELDS])
def test_what_a_consumer_would_choke_on_is_found(partition: Path, name: str, codec: int) -> None:
    """Batches with a right CRC that `kbroker.produce.validate` let in."""
    odd = {**KAFKA_RECORDS, **KAFKA_FIELDS}[name]
    bad = batch_of(odd.payload, odd.count, codec, **odd.fields)
    assign(bad, 0, read_header(bad), 100, 0)
    path = segment(partition, 3)
    path.write_bytes(path.read_bytes() + bad)
    result = invoke("verify", partition)
    if name in ("one ahead", "one behind"):  # they can be read, and are what their header says
        assert result.exit_code == 0
    else:
        assert (result.exit_code, result.stdout.count("\n")) == (1, 1)
        assert f"{3:020}.log: offset 100 at byte " in result.stdout


@pytest.mark.parametrize("latest", [-1, 0, 1])
def test_a_header_that_lies_about_time_is_found(partition: Path, latest: int) -> None:
    bad = batch_of(record(5), 1, latest=latest)
    assign(bad, 0, read_header(bad), 4, 0)
    segment(partition, 4).write_bytes(bad)
    result = invoke("verify", partition)
    assert result.exit_code == 1
    assert f"offset 4 at byte 0: its largest timestamp is {NOW + 5}, the header says {latest}" in result.stdout


def test_compacted_batches_are_whole(partition: Path) -> None:
    whole = batch(4, b"a", b"b", b"c", b"d")
    kept = thinned(whole, lambda offset: offset in (5, 6))
    empty = thinned(batch(8, b"a"), lambda offset: False)
    segment(partition, 4).write_bytes(kept + empty)
    assert invoke("verify", partition).exit_code == 0


def test_several_directories(partition: Path) -> None:
    other = partition.with_name("demo-1")
    other.mkdir()
    segment(other).write_bytes(batch(0, b"a")[:-1] + b"!")
    (other / "partition.metadata").write_bytes(metadata_content(bytes(range(16))))
    result = invoke("verify", partition, other)
    assert (result.exit_code, "the CRC does not match" in result.stdout) == (1, True)
    assert "2 partitions, 3 segments, 4 batches" in result.stderr


def test_beside_a_running_broker_it_only_reads(partition: Path) -> None:
    """The newest segment may be torn where the broker is writing; nothing else may."""
    lock = take_lock(str(partition.parent / ".lock"), Features.detect())
    try:
        before = (partition.parent / ".lock").read_bytes()
        path = segment(partition, 3)
        path.write_bytes(path.read_bytes() + batch(4, b"half")[:-7])
        result = invoke("verify", partition.parent)
        assert (result.exit_code, "no damage" in result.stdout) == (0, True)
        assert f"process {os.getpid()}" in result.stderr and "is writing to" in result.stderr
        damage(partition, "torn")
        assert invoke("verify", partition.parent).exit_code == 1
        assert (partition.parent / ".lock").read_bytes() == before
    finally:
        lock.release()


def test_no_broker_starts_while_it_looks(partition: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def look(directory: Path) -> dict[Path, list[Path]]:
        with pytest.raises(DirectoryLocked):
            take_lock(str(directory / ".lock"), Features.detect())
        held.append(directory)
        return {}

    take_lock(str(partition.parent / ".lock"), Features.detect()).release()
    monkeypatch.setattr("kbroker.cli.log_files.segments.segment_paths", look)
    invoke("verify", partition.parent)
    assert held
    take_lock(str(partition.parent / ".lock"), Features.detect()).release()


def test_memory_does_not_grow_with_the_segment(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{0:020}.log"
        path.write_bytes(b"".join(batch(n, b"v") for n in range(count)))
        invoke("verify", tmp_path)
        tracemalloc.start()
        assert invoke("verify", tmp_path).exit_code == 0
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(3000) < peak(300) + 100_000
