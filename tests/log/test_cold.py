"""Asking without waiting for the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

from kbroker.log.cold import ATTEMPTS, NotInMemory, told, when_told
from kbroker.turns import do_errands

T = TypeVar("T")


class Shelf:
    """Holds 7, which is brought as often as it is lost."""

    def __init__(self, losses: int = 1) -> None:
        self.losses = losses
        self.held: int | None = None
        self.waits = 0

    def ask(self, *, now: bool) -> int:
        if self.losses and self.held is not None:
            self.losses -= 1
            self.held = None if self.losses else self.held
        if self.held is None:
            if now:
                raise NotInMemory(lambda: 7, self.take)
            self.waits += 1
            return 7
        return self.held

    def take(self, value: int) -> None:
        self.held = value


async def offload(work: Callable[[], T]) -> T:
    await trio.lowlevel.checkpoint()
    return work()


@pytest.mark.parametrize(("losses", "waits"), [(1, 0), (2, 0), (100, 1)])
async def test_a_worker_brings_what_lacks_and_in_the_end_it_is_waited_for(losses: int, waits: int) -> None:
    for shelf in (Shelf(losses), Shelf(losses)):
        assert do_errands(told(shelf.ask)) == 7
        assert shelf.waits == waits
    shelf = Shelf(losses)
    assert await when_told(shelf.ask, offload) == 7
    assert shelf.waits == waits and ATTEMPTS > 2


async def test_what_the_worker_raises_is_raised() -> None:
    def broken() -> int:
        raise OSError("broken")

    def ask(*, now: bool) -> int:
        raise NotInMemory(broken)

    with pytest.raises(OSError, match="broken"):
        do_errands(told(ask))
    with pytest.raises(OSError, match="broken"):
        await when_told(ask, offload)
