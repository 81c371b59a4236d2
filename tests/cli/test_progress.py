"""The line that tells how far a long command is."""

from __future__ import annotations

import io
import sys

import pytest

from kbroker.cli import progress
from kbroker.cli.progress import ERASE, Progress
from kbroker.cli.tables import bytes_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_it_says() -> None:
    bar = Progress(4_000_000, bytes_text)
    assert bar.line(1_000_000, 2.0) == " 25%  1.0 of 4.0 MB  500.0 KB/s  6 s left"
    assert bar.line(4_000_000, 2.0) == "100%  4.0 of 4.0 MB  2.0 MB/s"
    assert bar.line(0, 0.0) == "  0%  0 B of 4.0 MB  0 B/s"
    assert Progress(None, bytes_text).line(1000, 1.0) == "1.0 KB  1.0 KB/s"


def test_it_is_written_over_and_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter([0.0, 0.05, 0.2, 0.25, 0.4])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress(None, str) as bar:
        for done in range(4):
            bar.at(done)
    assert sys.stderr.getvalue() == f"{ERASE}1  5/s{ERASE}3  7/s{ERASE}"


def test_nobody_at_a_terminal_sees_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", -1.0)
    with Progress(1, str) as bar:
        bar.at(1)
    assert capsys.readouterr() == ("", "")
