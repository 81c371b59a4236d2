"""Embedded, what all kinds of embedded brokers have in common, and the choice of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kbroker.testing.embedded.portal import Portal

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class Embedded(Portal, Protocol):
    """A broker in a thread, in a process, or external. Each method blocks until it is done; any thread may call it.

    What starts one raises CannotStart; what a kind of broker cannot do, Uncontrollable.
    """

    is_ours: bool  # else nothing can be done to it

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
        """Another broker on the same port, without anything of this one. config: beside what all of them have."""

    def prepare(self, config: Mapping[str, str] | None = None) -> None:
        """Begin to `renew` with that config, and do not wait for it."""

    def close(self) -> None:
        """End it for good."""


def make_embedded(
    backend: str, host: str, port: int, config: Mapping[str, str], topics: Mapping[str, int] | None = None
) -> Embedded:
    """Start one. backend: "thread", "process", or "external HOST:PORT". Raises CannotStart."""
    kind, _, address = backend.partition(" ")
    if kind == "external":
        from kbroker.testing.embedded.external import ExternalKafka

        return ExternalKafka(address)
    if kind == "process":
        from kbroker.testing.embedded.process import ProcessBroker

        return ProcessBroker(host=host, port=port, config=config, topics=topics)
    assert kind == "thread", backend
    from kbroker.testing.embedded.thread import ThreadBroker

    return ThreadBroker(host=host, port=port, config=config, topics=topics)
