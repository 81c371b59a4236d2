"""A coordinator, or a runtime by itself, running over a machine's logs: what the rigs of all kinds share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio

from kbroker.log.directory import LogDirectory


class Leads(Protocol):
    """Something that leads one partition of an internal topic."""

    logs: LogDirectory

    def lead(self, epoch: int) -> None:
        """Lead it in that epoch."""


R = TypeVar("R", bound=Leads)


@asynccontextmanager
async def running(made: R, run: Callable[..., Awaitable[object]], epoch: int) -> AsyncIterator[R]:
    """It runs, and leads its partition in that epoch; stopped as by kill -9."""
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        made.lead(epoch)
        try:
            yield made
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await made.logs.close(clean=False)
