"""A broker that a supervisor has started (`supervisor.py`): what the two tell each other.

    stdout    {"ready": {"PLAINTEXT": ["127.0.0.1", 9092]}}    it serves, and where
              {"failed": "127.0.0.1:9092 is in use"}           it cannot start, and why: status 2
    stdin     its end: stop. The supervisor says so, or is gone, however it went

One JSON object a line. Pipes end with the process that holds them, on every system; nothing else has to be watched.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

STDIN = 0


class Supervised(NamedTuple):
    """How this broker stands in its cluster."""

    brokers_min: int  # so many are to live before it is ready

    def tell_ready(self, listeners: Mapping[str, tuple[str, int]]) -> None:
        """This broker serves."""
        _tell({"ready": listeners})

    def tell_failed(self, reason: str) -> None:
        """It cannot start."""
        _tell({"failed": reason})

    def watch(self, stop: Callable[[], None]) -> None:
        """Call stop, from another thread, when the supervisor wants it or has gone."""

        def wait_for_end() -> None:
            while os.read(STDIN, 1):
                pass
            stop()

        threading.Thread(target=wait_for_end, name="supervisor", daemon=True).start()


def _tell(message: object) -> None:
    try:
        print(json.dumps(message), flush=True, file=sys.stdout)
    except OSError:
        pass  # it has gone
