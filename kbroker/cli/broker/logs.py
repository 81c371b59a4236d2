"""Log lines on stderr: for people (short, coloured on a terminal), for files (dated), or JSON, one object a line."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO

from kbroker.cli.tables import visible

LEVELS = ("debug", "info", "warning", "error")
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": "\x1b[2m"}


def set_up(level: str, style: str, stream: TextIO | None = None, *, node_id: int | None = None) -> None:
    """Send the log of this process to stream (stderr). style: "auto" (a terminal or a file) or "json".

    node_id: whose lines these are, where several brokers write to one stream.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if style == "json":
        handler.setFormatter(JsonFormatter(node_id))
    else:
        lines = TerminalFormatter(colour="NO_COLOR" not in os.environ) if is_terminal(stream) else FileFormatter()
        handler.setFormatter(lines if node_id is None else PrefixFormatter(f"[{node_id}] ", lines))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads it."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class TerminalFormatter(logging.Formatter):
    """`12:03:04 warning  what happened`"""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{when} {record.levelname.lower():8} {visible(record.getMessage())}"
        start = _COLOURS.get(record.levelname, "") if self.colour else ""
        return (f"{start}{line}\x1b[0m" if start else line) + _traceback(self, record)


class FileFormatter(logging.Formatter):
    """`2026-11-22T12:03:04.567Z INFO kbroker.log: what happened`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        return f"{utc(record)} {record.levelname} {record.name}: {visible(record.getMessage())}" + _traceback(
            self, record
        )


class PrefixFormatter(logging.Formatter):
    """`[2] 2026-11-22T12:03:04.567Z INFO kbroker.log: what happened`: each line of another format, and whose it is."""

    def __init__(self, prefix: str, lines: logging.Formatter) -> None:
        super().__init__()
        self.prefix = prefix
        self.lines = lines

    def format(self, record: logging.LogRecord) -> str:
        """The lines."""
        return "\n".join(self.prefix + line for line in self.lines.format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": "info", "logger": "kbroker.log", "message": ...}`, and "node" where there are several."""

    def __init__(self, node_id: int | None = None) -> None:
        super().__init__()
        self.node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        import json

        fields: dict[str, object] = {
            "time": utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.node_id is not None:
            fields["node"] = self.node_id
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def utc(record: logging.LogRecord) -> str:
    """The time of a record, ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
