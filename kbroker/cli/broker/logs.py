"""Log lines on stderr: for people (short, coloured on a terminal), for files (dated), or JSON, one object a line.

What clients bring about is told of as it comes, up to a bound for each kind of event (kbroker/events.py): no client can
fill the disk with lines.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from kbroker.cli.tables import visible
from kbroker.events import LINES_LEFT_OUT, tell

LEVELS = ("debug", "info", "warning", "error")
LINES_AT_ONCE, LINES_A_SECOND = 100, 2  # of one kind of event
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
    handler.addFilter(Flood())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads it."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Flood(logging.Filter):
    """Lets so many lines of one kind of event pass, and then a few a second; says how many it has left out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}  # by event: how many may pass, as of when
        self._out: dict[str, int] = {}  # by event, during a flood: how many were left out since one passed

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is shown."""
        event = getattr(record, "event", None)
        if event is None or event == LINES_LEFT_OUT.name:
            return True
        now = self._now()
        left, since = self._left.get(event, (LINES_AT_ONCE, now))
        left = min(LINES_AT_ONCE, left + (now - since) * LINES_A_SECOND)
        out = self._out.get(event)
        if left < 1:
            self._left[event] = left, now
            self._out[event] = 1 if out is None else out + 1
            if out is None:
                tell(logging.getLogger(record.name), LINES_LEFT_OUT, of=event, count=1)
            return False
        self._left[event] = left - 1, now
        if out:
            self._out[event] = 0
            tell(logging.getLogger(record.name), LINES_LEFT_OUT, of=event, count=out)
        if left >= LINES_AT_ONCE:
            self._out.pop(event, None)  # it has been quiet: the next flood is told of at once
        return True


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
    """`{"time": ..., "level": "info", "logger": "kbroker.log", "message": ...}`, and "node" where there are several.

    A line that is an event has "event", its name, and its fields.
    """

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
        if hasattr(record, "event"):
            fields["event"] = record.event
            fields.update(getattr(record, "fields", {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def utc(record: logging.LogRecord) -> str:
    """The time of a record, ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
