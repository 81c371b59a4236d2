"""Counting work instead of timing it."""

from __future__ import annotations

from typing import Any

import trio


class Steps:
    """Counts calls, and how many of them were made at most without the loop turning to others."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.calls = self.longest = self._since = 0
        nursery.start_soon(self._watch)

    def counted(self, function: Any) -> Any:
        """The same function, whose calls count."""

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            self._since += 1
            self.longest = max(self.longest, self._since)
            return function(*args, **options)

        return call

    async def _watch(self) -> None:
        while True:
            self._since = 0
            await trio.lowlevel.checkpoint()
