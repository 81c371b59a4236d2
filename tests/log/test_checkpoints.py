"""The small text files: Kafka's formats, and what is not believed."""

from __future__ import annotations

import pytest

from kbroker.config.keys import LONG_MAX
from kbroker.log.checkpoints import OffsetCheckpoint, gaps_content, metadata_content, read_gaps, read_topic_id
from tests.log.tools import TOPIC_ID, new_disk


def test_an_offset_checkpoint_goes_round() -> None:
    disk = new_disk()
    written = OffsetCheckpoint(disk, "points")
    written.set(("orders", 0), 7)
    written.set(("a-b.c_d", 12), 2**40)
    written.save()
    assert disk.read("points") == b"0\n2\norders 0 7\na-b.c_d 12 1099511627776\n"
    found = OffsetCheckpoint(disk, "points")
    assert found.load() and found.offsets == written.offsets and not found.is_dirty
    found.set(("orders", 0), 7)
    assert not found.is_dirty
    found.set(("orders", 0), None)
    assert found.is_dirty and found.is_stale_on_disk(("orders", 0))
    found.save()
    assert not found.is_stale_on_disk(("orders", 0))


@pytest.mark.parametrize(
    "content", [b"", b"1\n0\n", b"0\n2\na 0 1\n", b"0\n1\na 0\n", b"0\n1\na b c\n", b"\xff", b"\0" * 30]
)
def test_a_damaged_checkpoint_is_as_good_as_none(content: bytes) -> None:
    disk = new_disk()
    disk.write_atomic("points", content)
    assert not OffsetCheckpoint(disk, "points").load()


def test_a_checkpoint_that_could_not_be_saved_stays_dirty() -> None:
    disk = new_disk()
    points = OffsetCheckpoint(disk, "points")
    points.set(("orders", 0), 7)
    disk.fail("write_atomic", "points")
    with pytest.raises(OSError):
        points.save()
    assert points.is_dirty


def test_below_which_offset_there_may_be_gaps() -> None:
    disk, whole = new_disk(), gaps_content(4123)
    disk.make_dirs("orders-0")
    disk.write_atomic("orders-0/compacted", whole)
    assert read_gaps(disk, "orders-0") == 4123
    for damaged in [whole[:size] for size in range(len(whole))] + [b"1\n4123\n", b"0\nx\n", b"\xff" * 7, bytes(7)]:
        disk.write_atomic("orders-0/compacted", damaged)
        assert read_gaps(disk, "orders-0") == LONG_MAX, "it is better to believe one too many"


def test_partition_metadata() -> None:
    disk = new_disk()
    disk.make_dirs("orders-0")
    assert read_topic_id(disk, "orders-0") is None
    assert metadata_content(TOPIC_ID) == b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw\n"
    disk.write_atomic("orders-0/partition.metadata", metadata_content(TOPIC_ID))
    assert read_topic_id(disk, "orders-0") == TOPIC_ID
    other_version = metadata_content(TOPIC_ID).replace(b"0", b"3", 1)
    for damaged in (b"", b"version: 0\n", b"version: 0\ntopic_id: AAEC\n", other_version):
        disk.write_atomic("orders-0/partition.metadata", damaged)
        assert read_topic_id(disk, "orders-0") is None
