"""Portal: the way of a test's thread to the controls of a broker, which live in the broker's own loop.

    portal.call("advance", 1_800_000)          blocks until it is done there; plain values (JSON) there and back

Behind it are a thread of this process, or a pipe to another one; or nothing, where the broker is not one of ours.
"""

from __future__ import annotations

from typing import Any, Protocol

CALL_S = 10.0  # a call is bounded by so much if not told otherwise


class BrokerGone(RuntimeError):
    """There is no broker to do what is asked."""


class Uncontrollable(RuntimeError):
    """What is asked cannot be done with this kind of broker, whatever the test does."""


class Portal(Protocol):
    """Calls a method of a broker's controls by name."""

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """What the method returns, or what it raises (ValueError, LookupError, TimeoutError, with their text).

        BrokerGone when there is no broker to ask, Uncontrollable when there will never be one.
        """


class NoPortal:
    """Where there is no way in. why: said to whoever asks."""

    def __init__(self, why: str) -> None:
        self.why = why

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """Raises Uncontrollable."""
        raise Uncontrollable(self.why)
