"""An answer that is not there yet, and needs no task to wait for it: what it waits for rings.

    look ─▶ None: not yet ─▶ listen ─▶ something rings, or `until` has come ─▶ leave ─▶ look ─▶ ... ─▶ the answer

What waits for one thing after the other, for workers or for other brokers is a coroutine, and a task sees to it. But
where a broker waits with each acknowledged batch, for its followers to have it and for the next batch to send them, two
turns of the loop and a task in each would cost more than the rest of the request. So whoever owes the answer has its
own bell rung (server/porter.py), and looks.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any

import trio

from kbroker.watermark import Bell


class Awaited:
    """An answer to come. One waits for it at a time. (No ABC: whether an answer is one is asked for each request.)"""

    __slots__ = ("until",)

    until: float  # trio's clock: when it is to be looked at, though nothing has rung; each look tells it anew

    def look(self) -> Any:
        """The answer, or a coroutine that goes on with it; None: not yet. Not to be asked again once it is there."""
        raise NotImplementedError

    def listen(self, bell: Bell) -> None:
        """From now on ring this bell when it is to be looked at; what rang before a look is seen by it."""
        raise NotImplementedError

    def leave(self) -> None:
        """Ring no more."""
        raise NotImplementedError

    async def wait(self) -> Any:
        """The same for a task: the answer, or a coroutine that goes on with it."""
        while (answer := self.look()) is None:
            bell = trio.Event()
            self.listen(bell)
            try:
                with trio.CancelScope(deadline=self.until):
                    await bell.wait()
            finally:
                self.leave()
        return answer


LATER = (CoroutineType, Awaited)  # an answer to come; a union in place of the tuple would be made anew at each look
