"""`--ready-file FILE`: a file that is there, whole, for as long as the broker serves. JSON: address, pid and more.

    {"bootstrap_servers": "127.0.0.1:9092", "pid": 4711, "node": 1, "listeners": {"PLAINTEXT": "127.0.0.1:9092"}, ...}

One that was left by a broker that was killed is removed at the next start. Any other file is left alone: the start is
refused.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from kbroker.cli.broker.service.life import READY, RECORD_BYTES_MAX, Life, read_record, write_whole
from kbroker.cli.errors import Misconfigured
from kbroker.env.procfs import process_identity, process_name


class ReadyFile:
    """The herald of whoever waits for the file."""

    def __init__(self, path: Path) -> None:
        """Raises Misconfigured where it cannot be written, or is somebody else's."""
        self._path = path = Path(os.path.realpath(path))  # a link stays one: /dev/stdout is one
        self._identity = process_identity(os.getpid())
        self._is_there = False
        _clear(path)
        try:
            write_whole(path, {})
            os.remove(path)
        except OSError as error:
            raise Misconfigured(f"--ready-file {path} cannot be written: {error.strerror}") from None

    def __str__(self) -> str:
        return f"--ready-file {self._path}"

    def tell(self, life: Life) -> None:
        """Write it when the broker is ready, remove it when it is not any more."""
        if life.state == READY:
            servers = ",".join(life.about["bootstrap_servers"])
            write_whole(self._path, {**life.record(), "bootstrap_servers": servers, "identity": self._identity})
            self._is_there = True
        elif self._is_there:
            self._is_there = False
            with suppress(FileNotFoundError):
                os.remove(self._path)


def bootstrap_servers(path: Path) -> str | None:
    """What the ready file says of where the broker is; None where there is none."""
    servers = read_record(path).get("bootstrap_servers")
    return servers if isinstance(servers, str) and servers else None


def _clear(path: Path) -> None:
    """Remove what a broker has left that is gone. Raises Misconfigured.

    Nothing is read that is no file: a pipe would be waited for, and /dev/null, as good as empty, replaced.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Misconfigured(f"--ready-file {path} is there, and is no file: left alone")
        with open(path, encoding="utf-8") as file:
            found = json.loads(file.read(RECORD_BYTES_MAX) or "{}")
        pid, identity = found.get("pid"), found.get("identity")
    except FileNotFoundError:
        return
    except OSError as error:
        raise Misconfigured(f"--ready-file {path} cannot be used: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):
        raise Misconfigured(f"--ready-file {path} is there, and is no ready file of a broker: left alone") from None
    if not found:
        return
    if not isinstance(pid, int) or not isinstance(identity, str):
        raise Misconfigured(f"--ready-file {path} is there, and is no ready file of a broker: left alone")
    if identity and process_identity(pid) == identity:
        raise Misconfigured(f"--ready-file {path} is that of {process_name(pid)}: give each broker its own")
