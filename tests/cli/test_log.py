"""`kbroker log`: what it shows of a segment, and that it finds every kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kafka_wire.records import ControlType, Record, build_batch, control_batch, read_header
from kbroker.cli import cli


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


def test_dump_control_batch(partition: Path) -> None:
    marker = control_batch(ControlType.COMMIT, producer_id=7, producer_epoch=0, coordinator_epoch=1, timestamp=0)
    segment(partition).write_bytes(marker)
    assert "transactional  control" in invoke("dump", segment(partition)).stdout


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
        ("offset goes back", "offset 0, 2 or more is due"),
    ],
)
def test_damage_is_found(partition: Path, what: str, message: str) -> None:
    damage(partition, what)
    result = invoke("verify", partition.parent)
    assert result.exit_code == 1
    assert message in result.stdout
    assert f"demo-0/{0:020}.log: at byte " in result.stdout
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
    assert result.exit_code == 0
    assert "there are no segments" in result.stderr
