"""`running.json`: what runs on a data directory; and how others find out, without a broker's help.

    DIR/.lock           who holds the directory: a process, proven by the lock (env/real_lock.py)
    DIR/running.json    what that process says of itself; written when it is ready, or takes long to be, and removed at
                        the end. One that another process left, as it was killed, is not believed

Of brokers that are started together, the common directory speaks for all; each broker's own for that one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kbroker.cli.broker.layout import LOCK
from kbroker.cli.broker.service.life import ENDED, Life
from kbroker.env.features import Features
from kbroker.env.procfs import process_identity
from kbroker.env.real_lock import LockHolder, lock_holder, read_holder

RUNNING = "running.json"
RECORD_BYTES_MAX = 1 << 20


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
            if self._is_written and _belongs_to(_read(self._path), self._me):
                with suppress(FileNotFoundError):
                    os.remove(self._path)
        elif read_holder(str(self._lock)) == self._me:
            self._is_written = True
            write_whole(self._path, {**life.record(), "identity": self._me.identity})


class Found(NamedTuple):
    """Who has a data directory."""

    data_dir: str
    holder: LockHolder
    record: Mapping[str, Any]  # {}: it has not said anything yet

    @property
    def pid(self) -> int | None:
        """Of the process; None while it is not written yet."""
        return self.holder.pid


def find(data_dir: str) -> Found | None:
    """Who has it; None: nobody. May raise OSError."""
    holder = lock_holder(os.path.join(data_dir, LOCK), Features.detect())
    if holder is None:
        return None
    record = _read(Path(data_dir) / RUNNING)
    return Found(data_dir, holder, record if _belongs_to(record, holder) else {})


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


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(RECORD_BYTES_MAX))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _belongs_to(record: Mapping[str, Any], holder: LockHolder) -> bool:
    return (record.get("pid"), record.get("identity")) == holder
