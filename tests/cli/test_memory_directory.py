"""The directory of `start --memory`: gone at the end, and cleaned up after brokers that were killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kbroker.cli.broker import memory_directory as memory
from kbroker.env.features import Features
from kbroker.env.real_lock import take_lock
from kbroker.log.directory import LOCK


def test_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FREE_BYTES_MIN", 0)
    with memory.memory_directory(tmp_path) as (directory, words):
        assert Path(directory).parent == tmp_path
        assert words == "in memory: lost on exit"
    assert list(tmp_path.iterdir()) == []


def test_small_memory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FREE_BYTES_MIN", 1 << 62)
    with memory.memory_directory(tmp_path) as (directory, words):
        assert Path(directory).parent != tmp_path
        assert words == f"{directory}: lost on exit"
    with memory.memory_directory(tmp_path / "absent") as (directory, words):
        assert words == f"{directory}: lost on exit"


def test_stale_directories_go_and_live_ones_stay(tmp_path: Path) -> None:
    for name in ("stale", "live", "young"):
        (tmp_path / f"{memory.PREFIX}{name}").mkdir()
    (tmp_path / "of somebody else").mkdir()
    lock = take_lock(str(tmp_path / f"{memory.PREFIX}live" / LOCK), Features.detect())
    now_s = 2_000_000_000.0
    for path in tmp_path.iterdir():
        os.utime(path, (now_s - 3600, now_s - 3600))
    os.utime(tmp_path / f"{memory.PREFIX}young", (now_s, now_s))
    memory.remove_stale(tmp_path, now_s)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{memory.PREFIX}live", f"{memory.PREFIX}young", "of somebody else"]
    lock.release()


def test_what_others_have_put_there_is_neither_believed_nor_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is a link would have this user's file cut to nothing; a link for a directory, its target removed."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("precious")
    (tmp_path / f"{memory.PREFIX}link").symlink_to(mine)
    theirs = tmp_path / f"{memory.PREFIX}theirs"
    theirs.mkdir()
    (theirs / LOCK).symlink_to(mine / "file")
    os.utime(theirs, (0, 0))
    os.utime(tmp_path / f"{memory.PREFIX}link", (0, 0), follow_symlinks=False)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    memory.remove_stale(tmp_path, 2_000_000_000.0)
    assert memory.directories(tmp_path) == []
    monkeypatch.setattr(os, "geteuid", lambda: me)
    assert theirs in memory.directories(tmp_path)
    assert tmp_path / f"{memory.PREFIX}link" not in memory.directories(tmp_path)
    assert (mine / "file").read_text() == "precious" and [each.name for each in mine.iterdir()] == ["file"]
    assert theirs.is_dir()
