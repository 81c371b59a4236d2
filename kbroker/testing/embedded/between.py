"""Between: the controls of a broker whose process was killed, until the next one takes over from them.

A test may read the requests that came, set faults and move time as if the broker were there.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

import trio

from kbroker.testing.control.controls import Controls
from kbroker.testing.embedded.machines import real_time

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises


class Between:
    """saved: of the controls of the process that is gone; None for new ones."""

    def __init__(self, saved: dict[str, Any] | None) -> None:
        self._controls = Controls(real_time())
        if saved is not None:
            self._controls.restore(saved)

    def call(self, method: str, args: Any, kwargs: Any) -> Any:
        """See Portal."""

        async def run() -> Any:
            result = getattr(self._controls, method)(*args, **kwargs)
            return await result if isawaitable(result) else result

        return trio.run(run)

    def save(self) -> dict[str, Any]:
        """For the next process."""
        return self._controls.save()
