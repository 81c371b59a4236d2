"""KBroker: a broker as a test sees it, whatever is behind it. What the fixtures `kbroker` and `make_kbroker` give.

kbroker.bootstrap_servers           for any client
kbroker.kill(); kbroker.start()     the same port, the same data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kbroker.testing.embedded.portal import Portal


class Embedded(Portal, Protocol):
    """A broker of ours, in a thread or in a process. Each method blocks until it is done, and may raise what its broker
    does. See embedded/thread.py for what they promise."""

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""

    @property
    def is_running(self) -> bool:
        """Whether there is a broker."""

    @property
    def failure(self) -> str:
        """Why it ended by itself; "" where it did not."""

    def log_lines(self) -> list[str]:
        """What it logged, oldest first."""

    def start(self) -> None:
        """Start it again."""

    def stop(self) -> None:
        """Stop it cleanly."""

    def kill(self) -> None:
        """End it as kill -9 does."""

    def pause(self) -> None:
        """Stop it as SIGSTOP does."""

    def resume(self) -> None:
        """Let it go on."""

    def renew(self, config: Mapping[str, str] | None = None, topics: Mapping[str, int] | None = None) -> None:
        """Another broker on the same port."""

    def close(self) -> None:
        """End it for good."""


class KBroker:
    """A broker in a test's hands."""

    def __init__(self, embedded: Embedded) -> None:
        self.embedded = embedded

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.embedded.address

    @property
    def bootstrap_servers(self) -> str:
        """What a client's setting of that name takes: "127.0.0.1:54321"."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def is_running(self) -> bool:
        """Whether there is a broker; a paused one counts."""
        return self.embedded.is_running

    @property
    def log_lines(self) -> list[str]:
        """What it logged since the test began, oldest first; the latest 2,000 lines."""
        return self.embedded.log_lines()

    def start(self) -> None:
        """Start it again after `stop` or `kill`: the same port, the same data. Returns when it serves."""
        self.embedded.start()

    def stop(self) -> None:
        """Stop it cleanly, as SIGTERM does. Clients are refused until `start`."""
        self.embedded.stop()

    def kill(self) -> None:
        """End it as kill -9 does: connections break; what it had written, though not synced, is there at `start`."""
        self.embedded.kill()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP or a long garbage collection does, until `resume`. Connections stay open."""
        self.embedded.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.embedded.resume()
