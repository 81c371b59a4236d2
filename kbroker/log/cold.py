"""What is not in memory: those who must not wait for the disk ask without waiting, and let a worker bring what lacks.

    told = ask(now=True) ──NotInMemory──▶ work, in a worker ──▶ then(result), on the loop ──▶ ask(now=True) again

Indexes that are not loaded count as not in memory. What a worker brought may be gone again, when memory is short: after
a few attempts the asker waits for the disk himself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from kbroker.env import Buffer, Handle, Offload
from kbroker.turns import Errands

ATTEMPTS = 4  # each but the first follows what a worker brought; the last one waits for the disk

T = TypeVar("T")


class NotInMemory(Exception):
    """What was asked for cannot be told without waiting for the disk, and the caller had said not to."""

    def __init__(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], object] | None = None,
        *,
        cost: int = 0,
        is_large: bool = False,
    ) -> None:
        """
        Args:
            cost: bytes that the work goes through, where that is more than bringing what will be sent.
            is_large: it takes much memory: one such work at a time in the whole broker.
        """
        super().__init__("not in memory")
        self.cost = cost
        self.is_large = is_large
        self.work = work  # for a worker: blocks, changes nothing; may raise LogOffline, OSError
        self.then = then  # takes its result and changes state: on the loop

    def take(self, result: Any) -> None:
        """The work is done."""
        if self.then is not None:
            self.then(result)


def read_now(file: Handle, length: int, position: int) -> Buffer:
    """Like pread, for those who must not wait for the disk. Raises NotInMemory, OSError."""
    data = file.pread_now(length, position)
    if data is None:
        raise NotInMemory(partial(file.pread, length, position))
    return data


def told(ask: Callable[..., T]) -> Errands[T]:
    """What ask(now=True) tells, with errands for what is not in memory. Raises what ask or a worker does."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask(now=True)
        except NotInMemory as lacking:
            lacking.take((yield lacking.work))
    return ask(now=False)


async def when_told(ask: Callable[..., T], offload: Offload) -> T:
    """The same for a task of its own: wait for it. Raises what ask or a worker does."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask(now=True)
        except NotInMemory as lacking:
            lacking.take(await offload(lacking.work))
    return ask(now=False)
