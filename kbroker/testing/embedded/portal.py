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


class CannotStart(Exception):
    """A broker does not start; the message is one line for people."""


class Portal(Protocol):
    """Calls a method of a broker's controls by name."""

    def call(self, method: str, *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """What the method returns, or what it raises (ValueError, LookupError, TimeoutError, with their text).

        BrokerGone when there is no broker to ask, Uncontrollable when there will never be one.
        """


KINDS = (CannotStart, BrokerGone, Uncontrollable, TimeoutError, LookupError, ValueError)


def as_told(error: BaseException) -> tuple[str, str]:
    """An exception on its way to another process: its kind, as far as it is one of KINDS, and its text."""
    text = str(error.args[0]) if error.args else ""
    for kind in KINDS:
        if isinstance(error, kind):
            return kind.__name__, text
    return "", f"{type(error).__name__}: {error}"


def told(kind: str, text: str) -> Exception:
    """The exception again, in the process that asked."""
    return next((each(text) for each in KINDS if each.__name__ == kind), RuntimeError(f"in the broker: {text}"))
