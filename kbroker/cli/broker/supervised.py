"""What a broker tells the process that started it and reads its stdout: a supervisor, or `start --detach`.

    stdout    {"doing": "opening logs: 3 of 40 ..."}           it starts, which takes long
              {"ready": {"listeners": {...}, "pid": ...}}      it serves: all that running.json has
              {"failed": "127.0.0.1:9092 is in use"}           it cannot start, and why; its exit status says the rest
    stdin     its end: stop. The supervisor says so, or is gone, however it went

One JSON object a line. Pipes end with the process that holds them, on every system; nothing else has to be watched.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from kbroker.cli.broker.service.life import READY, STARTING, Life

STDIN, STDOUT = 0, 1


def told(stdout: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What a broker tells, to its end, read by who has started it. Lines that are not its words are passed over."""
    for line in stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            yield message


class Starter:
    """The herald of whoever reads our stdout."""

    def __init__(self, *, until_ready: bool = False) -> None:
        """until_ready: it reads no longer; stdout is nowhere then."""
        self._until_ready = until_ready
        self._was_ready = False

    def __str__(self) -> str:
        return "stdout"

    def tell(self, life: Life) -> None:
        """What it waits for."""
        if life.state == STARTING and life.doing:
            _tell({"doing": life.doing})
        elif life.state == READY and not self._was_ready:
            self._was_ready = True
            _tell({"ready": life.record()})
            if self._until_ready:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, STDOUT)
                os.close(nowhere)

    def tell_failed(self, reason: str) -> None:
        """It cannot start."""
        _tell({"failed": reason})


def watch_stdin(stop: Callable[[], None]) -> None:
    """Call stop, from another thread, when the supervisor wants it or has gone."""

    def wait_for_end() -> None:
        while os.read(STDIN, 1):
            pass
        stop()

    threading.Thread(target=wait_for_end, name="supervisor", daemon=True).start()


def _tell(message: object) -> None:
    with suppress(OSError):  # it has gone
        os.write(STDOUT, f"{json.dumps(message)}\n".encode())
