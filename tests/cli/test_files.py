"""Files that commands read whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from kbroker.cli import cli, files
from kbroker.cli.errors import Failed, Misconfigured
from kbroker.cli.topics import given


@pytest.mark.parametrize(
    "command",
    [
        ["config", "check", "/dev/zero"],
        ["config", "show", "-c", "/dev/zero"],
        ["start", "--seed", "/dev/zero"],
        ["status", "-c", "/dev/zero"],
        ["coord", "info", "sqlite:none", "-c", "/dev/zero"],
        ["coord", "adopt-logs", "sqlite:none", "/dev/zero"],
        ["topic", "list", "--command-config", "/dev/zero"],
    ],
    ids=" ".join,
)
@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without end")
def test_what_has_no_end_is_refused(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TEXT_CHARACTERS_MAX", 1000)
    result = CliRunner().invoke(cli, command)
    assert isinstance(result.exception, Misconfigured) or result.exit_code == 2
    assert "/dev/zero is too large to be read" in str(result.exception) + result.output


def test_what_is_as_large_as_can_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TEXT_CHARACTERS_MAX", 4)
    file = tmp_path / "file"
    file.write_text("äöü\n", encoding="utf-8")
    assert files.read_text(file) == "äöü\n"
    file.write_bytes(b"\xff")
    with pytest.raises(Misconfigured, match="file is not text in UTF-8"):
        files.read_text(file)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without end")
def test_a_record_is_no_larger_than_it_may_be_whatever_its_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "RECORD_BYTES_MAX", 1000)
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(1000))
    records = given.from_files([whole, Path("/dev/zero")])
    assert next(records).record.value == bytes(1000)
    with pytest.raises(Failed, match="/dev/zero has more than .*, the most a record may have"):
        next(records)
