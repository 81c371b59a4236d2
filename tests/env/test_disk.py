"""What every Disk does, real or in memory, whatever the operating system lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from kbroker.env import DirectoryLocked, Disk, FileSlice
from tests.env.worlds import DISK_WORLDS, MEMORY, make_disk


@pytest.fixture(params=DISK_WORLDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return make_disk(request.param, tmp_path / "data")


def test_a_file_is_made_only_when_asked_for(disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        disk.open("a")
    with pytest.raises(FileNotFoundError):
        disk.open("no-such-directory/a", create=True)
    disk.open("a", create=True).close()
    assert disk.exists("a")
    assert disk.open("a").size() == 0


def test_a_directory_is_no_file(disk: Disk) -> None:
    disk.make_dirs("d")
    for attempt in (lambda: disk.open("d"), lambda: disk.read("d"), lambda: disk.remove("d")):
        with pytest.raises((IsADirectoryError, PermissionError)):
            attempt()


def test_appends_land_at_the_end_in_order(disk: Disk) -> None:
    file = disk.open("a", create=True)
    assert file.append([b"one"]) == 3
    assert file.append([b"two", bytearray(b"three"), memoryview(b"xfourx")[1:5]]) == 12
    assert file.append([b""]) == 0
    assert file.append([]) == 0
    assert file.size() == 15
    assert disk.size("a") == 15
    assert disk.read("a") == b"onetwothreefour"


def test_append_takes_more_buffers_than_one_system_call_does(disk: Disk) -> None:
    file = disk.open("a", create=True)
    assert file.append([b"%04d" % n for n in range(3000)]) == 12000
    assert file.pread(4, 4 * 2999) == b"2999"


def test_pread_now_reads_what_is_in_memory_like_pread(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"0123456789"])
    for source in (file, file.handle):
        for length, position, expected in ((4, 3, b"3456"), (4, 8, b"89"), (4, 10, b""), (4, 99, b""), (0, 0, b"")):
            assert source.pread_now(length, position) == expected
    file.close()
    with pytest.raises(OSError, match="."):
        file.pread_now(1, 0)


def test_pread_is_short_only_at_the_end(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"0123456789"])
    assert file.pread(4, 3) == b"3456"
    assert file.pread(4, 8) == b"89"
    assert file.pread(4, 10) == b""
    assert file.pread(4, 99) == b""
    file.append([b"ab"])
    assert file.pread(4, 8) == b"89ab"


def test_a_file_opened_again_goes_on_at_its_end(disk: Disk) -> None:
    first = disk.open("a", create=True)
    first.append([b"one"])
    first.close()
    again = disk.open("a", create=True)
    assert again.size() == 3
    again.append([b"two"])
    assert again.pread(6, 0) == b"onetwo"


def test_truncate_cuts_and_appends_go_on_there(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"0123456789"])
    file.truncate(4)
    assert file.size() == 4
    file.append([b"x"])
    file.sync()
    assert disk.read("a") == b"0123x"


def test_a_closed_file_refuses(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"abc"])
    file.close()
    file.close()
    for attempt in (
        lambda: file.append([b"x"]),
        lambda: file.pread(1, 0),
        file.sync,
        lambda: file.truncate(0),
        file.fileno,
        FileSlice(file, 0, 3).read,
    ):
        with pytest.raises(OSError):
            attempt()


def test_what_holds_an_open_file_keeps_it_whatever_becomes_of_the_file(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"0123456789"])
    handle, part = file.handle, FileSlice(file.handle, 2, 5)
    file.close()
    disk.remove("a")
    assert part.read() == b"23456" and handle.pread(2, 8) == b"89"
    handle.sync()
    with pytest.raises(OSError):
        FileSlice(file.handle, 2, 5).read()


def test_a_slice_reads_its_range_or_fails(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"0123456789"])
    part = FileSlice(file, 2, 5)
    assert len(part) == 5
    assert part.read() == b"23456"
    file.truncate(5)
    with pytest.raises(OSError):
        part.read()


def test_an_open_file_survives_the_removal_of_its_name(disk: Disk) -> None:
    file = disk.open("a", create=True)
    file.append([b"still here"])
    disk.remove("a")
    assert file.pread(10, 0) == b"still here"


def test_write_atomic_replaces_the_whole_file(disk: Disk) -> None:
    disk.write_atomic("a", b"a long first content")
    disk.write_atomic("a", bytearray(b"short"), sync=False)
    assert disk.read("a") == b"short"
    disk.write_atomic("a", memoryview(b""))
    assert disk.read("a") == b""
    assert disk.list_dir("") == ["a"]


def test_names_are_listed_in_order(disk: Disk) -> None:
    disk.make_dirs("d/e/f")
    disk.make_dirs("d/e")
    for name in ("c", "a", "b"):
        disk.open(f"d/{name}", create=True).close()
    assert disk.list_dir("d") == ["a", "b", "c", "e"]
    assert disk.list_dir("d/e/f") == []
    with pytest.raises(FileNotFoundError):
        disk.list_dir("nowhere")
    with pytest.raises(NotADirectoryError):
        disk.list_dir("d/a")
    with pytest.raises(FileExistsError):
        disk.make_dirs("d/a")


def test_rename_moves_files_over_files_and_whole_directories(disk: Disk) -> None:
    disk.make_dirs("d")
    disk.write_atomic("d/a", b"new")
    disk.write_atomic("d/b", b"old")
    disk.rename("d/a", "d/b")
    disk.sync_dir("d")
    assert disk.list_dir("d") == ["b"]
    disk.rename("d", "e")
    disk.sync_dir("")
    assert not disk.exists("d")
    assert disk.read("e/b") == b"new"
    with pytest.raises(FileNotFoundError):
        disk.rename("d", "f")


def test_remove_and_remove_tree(disk: Disk) -> None:
    disk.make_dirs("d/e")
    disk.write_atomic("d/e/a", b"x")
    disk.write_atomic("d/b", b"x")
    disk.remove("d/b")
    with pytest.raises(FileNotFoundError):
        disk.remove("d/b")
    disk.remove_tree("d")
    disk.remove_tree("d")
    assert disk.list_dir("") == []


def test_what_is_absent_has_no_size_content_or_time(disk: Disk) -> None:
    for attempt in (disk.size, disk.read, disk.modified_ms):
        with pytest.raises(FileNotFoundError):
            attempt("a")
    disk.write_atomic("a", b"x")
    assert disk.modified_ms("a") > 1_600_000_000_000


def test_the_lock_has_one_holder(disk: Disk) -> None:
    lock = disk.lock(".lock")
    with pytest.raises(DirectoryLocked) as refusal:
        disk.lock(".lock")
    assert "process" in refusal.value.holder
    assert refusal.value.holder in str(refusal.value)
    lock.release()
    lock.release()
    second = disk.lock(".lock")
    lock.release()  # must not give up what another has taken since
    with pytest.raises(DirectoryLocked):
        disk.lock(".lock")
    second.release()


def test_space_is_finite(disk: Disk) -> None:
    assert 0 < disk.free_bytes() <= disk.total_bytes()


@pytest.mark.parametrize("world", [world for world in DISK_WORLDS if world != MEMORY])
async def test_a_watch_tells_that_somebody_has_written_to_a_file(world: str, tmp_path: Path) -> None:
    disk = make_disk(world, tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.watch("bell")
    path = tmp_path / "bell"
    path.write_bytes(b"0")
    watch = disk.watch("bell")
    with trio.fail_after(10), path.open("r+b", buffering=0) as other:
        for number in range(3):
            other.seek(0)
            other.write(b"%d" % number)
            await watch.wait_written()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait_written)
            await trio.testing.wait_all_tasks_blocked()
            other.write(b"1")
    watch.close()
    watch.close()
