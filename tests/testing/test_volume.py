"""What a power loss, a kill and a failing call leave of the memory disk."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator

import pytest

from kbroker.env import DirectoryLocked
from kbroker.testing.disk import MemoryDisk

SEEDS = range(200)


def after_power_loss(prepare: Callable[[MemoryDisk], None]) -> Iterator[MemoryDisk]:
    """The disk that prepare made, after a power loss, once for each seed."""
    for seed in SEEDS:
        disk = MemoryDisk(seed=seed)
        prepare(disk)
        disk.power_loss()
        yield disk


def durable_file(disk: MemoryDisk, path: str, content: bytes) -> None:
    file = disk.open(path, create=True)
    file.append([content])
    file.sync()
    disk.sync_dir("")


def test_what_was_synced_stays() -> None:
    for disk in after_power_loss(lambda disk: durable_file(disk, "a", b"synced")):
        assert disk.read("a") == b"synced"
        assert disk.used == 6


def test_unsynced_bytes_survive_as_a_prefix_maybe_damaged_near_its_end() -> None:
    appended = random.Random(1).randbytes(10_000)

    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "a", b"synced")
        disk.open("a").append([appended])

    sizes, damaged = set(), 0
    for disk in after_power_loss(prepare):
        content = disk.read("a")
        assert content.startswith(b"synced")
        tail = content[6:]
        sizes.add(len(tail))
        damaged += tail != appended[: len(tail)]
        assert tail[:-4096] == appended[: len(tail)][:-4096], "only the last page may be damaged"
    assert min(sizes) == 0
    assert len(sizes) > 50
    assert 10 < damaged < 150


def test_a_file_whose_directory_was_not_synced_may_be_gone() -> None:
    def prepare(disk: MemoryDisk) -> None:
        file = disk.open("a", create=True)
        file.append([b"synced"])
        file.sync()

    contents = {disk.read("a") if disk.exists("a") else None for disk in after_power_loss(prepare)}
    assert contents == {None, b"synced"}


def test_an_unsynced_rename_happens_whole_or_not_at_all() -> None:
    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "old", b"content")
        durable_file(disk, "there", b"replaced")
        disk.rename("old", "there")

    seen = {tuple((name, disk.read(name)) for name in disk.list_dir("")) for disk in after_power_loss(prepare)}
    assert seen == {(("old", b"content"), ("there", b"replaced")), (("there", b"content"),)}


def test_an_unsynced_removal_may_be_undone() -> None:
    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "a", b"content")
        disk.remove("a")

    assert {disk.exists("a") for disk in after_power_loss(prepare)} == {True, False}


def test_an_unsynced_truncate_may_be_undone() -> None:
    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "a", b"0123456789")
        file = disk.open("a")
        file.truncate(8)
        file.truncate(4)
        file.append([b"X"])

    assert {b"0123456789", b"0123", b"0123X"} <= {disk.read("a") for disk in after_power_loss(prepare)}


def test_a_synced_truncate_stays() -> None:
    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "a", b"0123456789")
        file = disk.open("a")
        file.truncate(4)
        file.sync()

    assert {disk.read("a") for disk in after_power_loss(prepare)} == {b"0123"}


def test_changes_of_a_directory_survive_in_order() -> None:
    def prepare(disk: MemoryDisk) -> None:
        for name in "abcde":
            disk.open(name, create=True)

    seen = {"".join(disk.list_dir("")) for disk in after_power_loss(prepare)}
    assert seen == {"", "a", "ab", "abc", "abcd", "abcde"}


def test_syncing_a_directory_leaves_others_pending() -> None:
    def prepare(disk: MemoryDisk) -> None:
        disk.make_dirs("d")
        disk.make_dirs("e")
        disk.sync_dir("")
        disk.open("d/a", create=True)
        disk.open("e/a", create=True)
        disk.sync_dir("d")

    seen = {(disk.exists("d/a"), disk.exists("e/a")) for disk in after_power_loss(prepare)}
    assert seen == {(True, True), (True, False)}


def test_write_atomic_leaves_the_old_or_the_new() -> None:
    def prepare(disk: MemoryDisk) -> None:
        disk.write_atomic("synced", b"1")
        disk.write_atomic("synced", b"2")
        disk.write_atomic("lazy", b"1")
        disk.write_atomic("lazy", b"2", sync=False)

    seen = {(disk.read("synced"), disk.read("lazy")) for disk in after_power_loss(prepare)}
    assert {new for new, _ in seen} == {b"2"}
    assert {b"1", b"2"} <= {lazy for _, lazy in seen}


def test_L2_what_a_failed_sync_did_not_write_is_lost_though_the_next_one_succeeds() -> None:
    def prepare(disk: MemoryDisk) -> None:
        durable_file(disk, "a", b"synced")
        file = disk.open("a")
        file.append([b"lost"])
        disk.fail("sync", "a")
        with pytest.raises(OSError):
            file.sync()
        file.append([b"kept"])
        file.sync()
        assert file.pread(14, 0) == b"syncedlostkept"

    assert {disk.read("a") for disk in after_power_loss(prepare)} == {b"synced\0\0\0\0kept"}


def test_the_same_seed_leaves_the_same_disk() -> None:
    def content(seed: int) -> list[tuple[str, bytes]]:
        disk = MemoryDisk(seed=seed)
        for n in range(20):
            disk.open(f"f{n}", create=True).append([bytes(1000)])
        disk.power_loss()
        return [(name, disk.read(name)) for name in disk.list_dir("")]

    assert [content(seed) for seed in range(20)] == [content(seed) for seed in range(20)]


def test_a_power_loss_is_another_boot_and_a_kill_is_not() -> None:
    disk = MemoryDisk()
    boot_id = disk.boot_id
    disk.kill()
    assert disk.boot_id == boot_id
    disk.power_loss()
    assert disk.boot_id != boot_id


def test_a_kill_keeps_the_page_cache_and_ends_files_and_locks() -> None:
    disk = MemoryDisk()
    file, lock = disk.open("a", create=True), disk.lock(".lock")
    file.append([b"not synced"])
    disk.kill()
    with pytest.raises(OSError):
        file.append([b"from beyond"])
    assert disk.read("a") == b"not synced"
    again = disk.lock(".lock")
    lock.release()
    with pytest.raises(DirectoryLocked):
        disk.lock(".lock")
    again.release()


def test_the_nth_call_fails_and_the_next_succeeds() -> None:
    disk = MemoryDisk()
    disk.make_dirs("orders-0")
    file, other = disk.open("orders-0/1.log", create=True), disk.open("b", create=True)
    disk.fail("append", "orders-0/*", nth=3, times=2, error=errno.EIO)
    for _ in range(5):
        other.append([b"x"])
    outcomes = []
    for _ in range(6):
        try:
            outcomes.append(file.append([b"x"]))
        except OSError as error:
            assert error.errno == errno.EIO
            outcomes.append(0)
    assert outcomes == [1, 1, 0, 0, 1, 1]
    disk.fail("rename", times=1000)
    disk.heal()
    disk.rename("b", "c")


@pytest.mark.parametrize("operation", ["open", "read", "write_atomic", "size", "list_dir", "make_dirs", "remove"])
def test_any_operation_fails_when_told(operation: str) -> None:
    disk = MemoryDisk()
    disk.fail(operation, "a", error=errno.EACCES)
    arguments = ["a", b"content"] if operation == "write_atomic" else ["a"]
    with pytest.raises(PermissionError):
        getattr(disk, operation)(*arguments)
    assert disk.list_dir("") == []


def test_a_full_disk_takes_what_fits_and_recovers() -> None:
    disk = MemoryDisk(capacity=10)
    file = disk.open("a", create=True)
    file.append([b"12345678"])
    with pytest.raises(OSError) as failure:
        file.append([b"abc", b"d"])
    assert failure.value.errno == errno.ENOSPC
    assert file.size() == 10
    assert disk.free_bytes() == 0
    file.truncate(8)
    assert disk.free_bytes() == 2
    with pytest.raises(OSError):
        disk.write_atomic("b", b"too much")
    assert not disk.exists("b")
    assert disk.read("b.tmp") == b"to"
    disk.remove("b.tmp")
    disk.capacity = 100
    file.append([b"abcd"])
    disk.remove("a")
    assert disk.used == 0


def test_a_failing_append_lets_a_part_through() -> None:
    sizes = set()
    for seed in SEEDS:
        disk = MemoryDisk(seed=seed)
        disk.fail("append")
        file = disk.open("a", create=True)
        with pytest.raises(OSError):
            file.append([b"12345"])
        assert b"12345".startswith(disk.read("a"))
        sizes.add(file.size())
    assert sizes == set(range(6))
