"""Tables, log lines, the banner: what people and programs read."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from kbroker.cli.broker import logs
from kbroker.cli.broker.banner import banner, own_command, seconds_since_start
from kbroker.cli.broker.serve import why
from kbroker.cli.errors import Failed
from kbroker.cli.tables import bytes_text, json_text, plural, table, visible_lines
from kbroker.cli.times import span
from kbroker.env import AddressInUse, DirectoryLocked


def test_table() -> None:
    text = table(("NAME", "N", "LIST"), [("a", 1, [1, 2]), ("long name", None, ()), ("c", 100, None)])
    assert text.splitlines() == [
        "NAME         N  LIST",
        "a            1  1,2",
        "long name",
        "c          100",
    ]


def test_quantities_stand_to_the_right_as_numbers_do() -> None:
    text = table(("SIZE", "AGE"), [(bytes_text(812), span(7 * 86_400_000)), (bytes_text(37 * 10**9), None)])
    assert text.splitlines() == [
        "   SIZE  AGE",
        "  812 B  7 d",
        "37.0 GB",
    ]


HOSTILE = "a\x1b[2Jb\nc\u202ed\x9be"  # clears the screen, adds a line, turns the direction of writing
SHOWN = r"a\x1b[2Jb\nc\u202ed\x9be"


def test_names_that_would_command_the_terminal_are_shown_instead() -> None:
    assert table(("NAME", "LIST"), [(HOSTILE, [HOSTILE])]).splitlines()[1:] == ["  ".join([SHOWN, SHOWN])]
    assert visible_lines("one\ntwo\r") == "one\ntwo\\r"
    written = json_text([HOSTILE])
    assert json.loads(written) == [HOSTILE]
    assert not set(written) & set(HOSTILE) - set("abcde[2J\n")


def test_a_log_line_stays_one_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = record(message=f"transaction {HOSTILE} %s")
    assert logs.FileFormatter().format(said).endswith(f"transaction {SHOWN} so")
    assert logs.TerminalFormatter(colour=False).format(said).endswith(f"transaction {SHOWN} so")
    Failed(f"no coordinator knows {HOSTILE}").show()
    assert "\x1b" not in capsys.readouterr().err


def test_plural() -> None:
    assert [plural(1, "record"), plural(2, "record"), plural(1, "batch"), plural(0, "batch")] == [
        "1 record",
        "2 records",
        "1 batch",
        "0 batches",
    ]


def record(level: int = logging.INFO, message: str = "said %s", exc_info: object = None) -> logging.LogRecord:
    made = logging.LogRecord("kbroker.log", level, __file__, 1, message, ("so",), None)
    made.created, made.msecs = 1_700_000_000.5, 500
    made.exc_info = exc_info  # type: ignore[assignment]
    return made


def test_file_line() -> None:
    assert logs.FileFormatter().format(record()) == "2023-11-14T22:13:20.500Z INFO kbroker.log: said so"


def test_terminal_line_and_colour() -> None:
    plain = logs.TerminalFormatter(colour=False).format(record(logging.WARNING))
    assert plain.endswith("warning  said so")
    assert logs.TerminalFormatter(colour=True).format(record(logging.WARNING)) == f"\x1b[33m{plain}\x1b[0m"
    assert "\x1b" not in logs.TerminalFormatter(colour=True).format(record())


def test_json_line_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        line = logs.JsonFormatter().format(record(exc_info=sys.exc_info()))
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["message"], fields["time"]) == ("info", "said so", "2023-11-14T22:13:20.500Z")
    assert "ValueError: two" in fields["exception"]


@pytest.fixture
def root_logger() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_set_up(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up("warning", "auto", stream)
    logging.getLogger("kbroker").info("not this")
    logging.getLogger("kbroker").warning("this")
    assert stream.getvalue().endswith("WARNING kbroker: this\n")
    assert stream.getvalue().count("\n") == 1


def test_banner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = banner("node 1", "in memory: lost on exit", ["127.0.0.1:9092"], "ready in 0.21 s").splitlines()
    assert len(lines) <= 8
    assert lines[-1] == "ready in 0.21 s (CTRL+C to quit)"
    assert "  try        echo hi | kbroker topic produce demo" in lines
    assert "in memory: lost on exit" in lines[1]
    others = banner("n", "d", ["[::]:9092"], "ready", advertised=["localhost:9092"])
    assert "\n  advertised localhost:9092\n" in others
    assert "-b 127.0.0.1:19092 demo" in banner("node 1", "d", ["127.0.0.1:19092"], "ready")
    assert "-b localhost:19092 demo" in banner("node 1", "d", ["[::]:19092"], "ready")
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[1m" in banner("node 1", "d", ["127.0.0.1:9092"], "ready")


def test_the_banner_names_a_command_that_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `make run`, `kbroker` is in .venv/bin, and that is not on the PATH."""
    program = tmp_path / ".venv" / "bin" / "kbroker"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert own_command() == ".venv/bin/kbroker"
    assert "try        echo hi | .venv/bin/kbroker topic produce demo\n" in banner(
        "n", "d", ["127.0.0.1:9092"], "ready"
    )
    several = banner("n", "d", ["127.0.0.1:1"], "ready", ["cluster info"])
    assert "\n             .venv/bin/kbroker cluster info -b 127.0.0.1:1\n" in several
    monkeypatch.setenv("PATH", f"/nonexistent:{program.parent}")
    assert own_command() == "kbroker"
    another = tmp_path / "kbroker"  # comes first on the PATH, and is not this one
    another.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{program.parent}")
    assert own_command() == ".venv/bin/kbroker"
    monkeypatch.setattr(sys, "argv", ["/somewhere/kbroker/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    assert own_command() == ".venv/bin/python -m kbroker"


def test_why_is_one_line_or_nothing() -> None:
    assert why(AddressInUse("h", 1, "process 7 (java)")) == (
        "h:1 is in use by process 7 (java). Another port: kbroker --listen 127.0.0.1:0"
    )
    locked = ExceptionGroup("", [DirectoryLocked("d", "process 7")])
    assert why(locked) == "the data directory is in use by process 7. Another directory: kbroker --data-dir DIR"
    denied = f"cannot use /x: Permission denied (to user {os.geteuid()})"
    assert why(PermissionError(13, "Permission denied", "/x")) == denied
    assert why(OSError(28, "No space left on device")) == "cannot use the data directory: No space left on device"
    assert why(FileExistsError(17, "File exists", "/x")) == "cannot use /x: it is no directory"
    assert why(KeyError("bug")) is None


def test_seconds_since_start() -> None:
    assert 0 < seconds_since_start() < 36_000
