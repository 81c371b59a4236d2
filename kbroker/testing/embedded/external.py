"""ExternalKafka: a Kafka that is there already, in the place of a broker of ours (`--kbroker-external HOST:PORT`).

Its topics and groups come and go by the protocol. It cannot be steered, and is nobody's to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbroker.testing.embedded.portal import CALL_S, CannotStart, Uncontrollable

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class ExternalKafka:
    """An Embedded that can do little."""

    def __init__(self, address: str) -> None:
        """address: "host:port". Raises CannotStart for what is none."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise CannotStart(f"{address!r} is not HOST:PORT")
        self.address = host.strip("[]"), int(port)
        self.is_running = True
        self.is_ours = False
        self.failure = ""

    def log_lines(self) -> list[str]:
        """None that we see."""
        return []

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """See Portal."""
        raise self._refusal("its faults, its clock and its requests are out of reach")

    def start(self) -> None:
        """Refused."""
        raise self._refusal("it is not ours to start")

    def stop(self) -> None:
        """Refused."""
        raise self._refusal("it is not ours to stop")

    def kill(self) -> None:
        """Refused."""
        raise self._refusal("it is not ours to kill")

    def pause(self) -> None:
        """Refused."""
        raise self._refusal("it is not ours to pause")

    def resume(self) -> None:
        """Nothing to do: it is never paused."""

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Nothing to do, unless it had to be configured. Wiping and topics are its user's, by the protocol."""
        if config:
            raise self._refusal(f"it is not ours to configure ({', '.join(config)})")

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def _refusal(self, why: str) -> Uncontrollable:
        return Uncontrollable(f"the Kafka at {self.address[0]}:{self.address[1]} is external: {why}")
