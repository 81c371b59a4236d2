"""What the process of a broker, or the supervisor of several, is doing. Whoever is to know is told of every change.

    starting ──▶ ready ──▶ stopping ──▶ ended
        │                      ▲
        └── a signal comes ────┘        a start that fails goes to ended at once

A herald is told after each change, looks at the Life and does its part. One that fails is no reason to stop: the log
tells of it.

The first herald is the data directory's:

    DIR/.lock           who holds the directory: a process, proven by the lock (env/real_lock.py)
    DIR/running.json    what that process says of itself, from a few milliseconds after it has the lock, and removed at
                        the end. One that another process left, as it was killed, is not believed

Of brokers that are started together, the common directory speaks for all; each broker's own for that one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kbroker import __version__
from kbroker.cli.broker.layout import LOCK
from kbroker.env.procfs import process_identity
from kbroker.env.real_lock import LockHolder, promptly, read_holder

RUNNING = "running.json"
RECORD_BYTES_MAX = 1 << 20

STARTING, READY, STOPPING, ENDED = "starting", "ready", "stopping", "ended"
SAID_EVERY_S = 0.5  # heralds are not told more often what a start or a stop is about

log = logging.getLogger("kbroker")


class Herald(Protocol):
    """Tells somebody."""

    def tell(self, life: Life) -> None:
        """The state, or what is being done, has changed. May raise OSError."""


class Life:
    """Owns the state. Changed by the process it is about; `say` by any of its threads."""

    def __init__(self, heralds: Iterable[Herald], **about: Any) -> None:
        """about: what is known from the start, as running.json has it."""
        self.state = STARTING
        self.doing = ""  # while it starts or stops: in words
        self.about: dict[str, Any] = {"version": __version__, "pid": os.getpid(), **about}
        self._heralds = list(heralds)
        self._lock = threading.RLock()
        self._told_at = 0.0
        self._failed: set[Herald] = set()

    def say(self, text: str) -> None:
        """What is being done, while it is not ready."""
        with self._lock:
            if self.state in (STARTING, STOPPING):
                self.doing = text
                if time.monotonic() - self._told_at >= SAID_EVERY_S:
                    self._tell()

    def learn(self, **about: Any) -> None:
        """Something more is known, or has changed, whatever the state."""
        with self._lock:
            self.about.update(about)
            self._tell()

    def become_ready(self, **about: Any) -> None:
        """Clients are served. about: `listeners` and whatever else is known now."""
        self._enter(READY, "", about)

    def stop(self, reason: str) -> None:
        """The end has begun."""
        self._enter(STOPPING, reason, {})

    def end(self) -> None:
        """It is over; also of a start that failed. Idempotent."""
        if self.state != ENDED:
            self._enter(ENDED, "", {})

    def record(self) -> dict[str, Any]:
        """All of it, for running.json and the like."""
        doing = {"doing": self.doing} if self.doing else {}
        return {"state": self.state, **doing, **self.about}

    def _enter(self, state: str, doing: str, about: Mapping[str, Any]) -> None:
        with self._lock:
            if self.state == STOPPING and state == READY:
                return  # it became ready too late
            self.state, self.doing = state, doing
            self.about.update(about)
            self._tell()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        for herald in self._heralds:
            try:
                herald.tell(self)
            except OSError as error:
                if herald not in self._failed:
                    self._failed.add(herald)
                    log.warning("%s: %s", herald, error.strerror or error)


class LastWord(logging.Handler):
    """Takes what the log says while a broker starts or stops for what it is doing."""

    def __init__(self, life: Life) -> None:
        super().__init__(logging.INFO)
        self._life = life

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the line on."""
        if self._life.state in (STARTING, STOPPING) and not hasattr(record, "event"):
            self._life.say(record.getMessage())


class RunningFile:
    """The herald of a data directory. Only who holds the lock writes."""

    def __init__(self, data_dir: str) -> None:
        self._path = Path(data_dir) / RUNNING
        self._lock = Path(data_dir) / LOCK
        self._me = LockHolder(os.getpid(), process_identity(os.getpid()))
        self._is_written = False

    def __str__(self) -> str:
        return f"{self._path} is not up to date"

    def tell(self, life: Life) -> None:
        """Write it anew, or remove it."""
        if life.state == ENDED:
            if self._is_written and writer_of(read_record(self._path)) == self._me:
                with suppress(FileNotFoundError):
                    os.remove(self._path)
        elif read_holder(str(self._lock)) == self._me:
            self._is_written = True
            write_whole(self._path, {**life.record(), "identity": self._me.identity})


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file, so that whoever reads it meets the old one or the new one. Not made durable: it is about a
    process, which no power failure outlives."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.remove(beside)
        raise


def read_record(path: Path) -> Mapping[str, Any]:
    """What a file says that write_whole has written; {} where there is none that can be understood."""
    try:
        with open(path, encoding="utf-8", opener=promptly) as file:
            found = json.loads(file.read(RECORD_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def writer_of(record: Mapping[str, Any]) -> LockHolder:
    """The process that wrote it, as far as the record is whole."""
    return LockHolder(record.get("pid"), record.get("identity", ""))


def is_whole(record: Mapping[str, Any]) -> bool:
    """Whether it has the form of a Life's record: nobody has changed it by hand."""
    texts = [record.get(name) for name in ("state", "version", "who", "data_dir", "identity")]
    texts += [record.get(name, "") for name in ("doing", "log_file")]
    numbers, brokers = [record.get(name) for name in ("pid", "started_ms")], record.get("brokers", [])
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) and 0 < number < 1 << 63 for number in numbers)
        and _are_addresses(record.get("listeners", {}))
        and (isinstance(brokers, list) and all(map(_is_broker, brokers)))
    )


def _is_broker(found: object) -> bool:
    """Whether it is one of several, as their supervisor tells of it."""
    return (
        isinstance(found, dict) and {"node", "state", "pid"} <= found.keys() and _are_addresses(found.get("listeners"))
    )


def _are_addresses(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
