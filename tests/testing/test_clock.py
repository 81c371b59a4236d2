"""The run's clock jumps, an Env's clock is steered."""

from __future__ import annotations

import math
import time

import pytest
import trio

from kbroker.testing.clock import EPOCH_MS, FOLLOW_S, JumpClock, SteeredClock


def test_an_hour_takes_no_time() -> None:
    began = time.monotonic()
    clock = JumpClock()
    trio.run(trio.sleep, 3600, clock=clock)
    assert clock.current_time() == 3600
    assert time.monotonic() - began < 5


def test_timers_fire_in_order_between_tasks() -> None:
    clock = JumpClock()
    fired: list[tuple[str, float]] = []

    def timer(name: str) -> None:
        fired.append((name, clock.current_time()))
        if name == "b":
            clock.call_at(0, lambda: timer("set in the past"))

    async def main() -> None:
        for name, when in (("c", 2.0), ("a", 1.0), ("b", 1.0), ("late", 9.0)):
            clock.call_at(when, lambda name=name: timer(name))  # type: ignore[misc]
        await trio.sleep(3)
        assert fired == [("a", 1.0), ("b", 1.0), ("set in the past", 1.0), ("c", 2.0)]

    trio.run(main, clock=clock)


def test_waiting_for_nothing_is_noticed() -> None:
    clock = JumpClock()
    with pytest.raises(RuntimeError, match="no deadline, no timer"):
        for _ in range(100):
            clock.deadline_to_sleep_time(math.inf)


def test_who_waits_for_idleness_wakes_before_time_jumps() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 10)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == 0

    trio.run(main, clock=JumpClock())


async def test_the_domains_move_apart(autojump_clock: trio.testing.MockClock) -> None:
    clock = SteeredClock()
    assert (clock.data_ms(), clock.liveness()) == (EPOCH_MS, 0.0)
    await clock.sleep(2)
    assert (clock.data_ms(), clock.liveness()) == (EPOCH_MS + 2000, 2.0)
    clock.jump_data(1_800_000)
    assert (clock.data_ms(), clock.liveness()) == (EPOCH_MS + 1_802_000, 2.0)
    clock.jump_liveness(30)
    assert clock.liveness() == 32.0
    clock.jump_data(-1_800_000)
    assert clock.data_ms() == EPOCH_MS + 2000
    with pytest.raises(AssertionError):
        clock.jump_liveness(-1)


class Looker:
    """Looks at data time every hour, and notes what it saw and whether it was rung for."""

    def __init__(self, clock: SteeredClock, takes_s: float = 0.0) -> None:
        self.clock, self.takes_s, self.seen = clock, takes_s, list[tuple[int, bool]]()

    async def run(self) -> None:
        while True:
            is_set = await self.clock.sleep_data(3600)
            await self.clock.sleep(self.takes_s)
            self.seen.append((self.clock.data_ms() - EPOCH_MS, is_set))


async def test_who_looks_at_data_time_looks_before_and_after_it_is_advanced(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    clock = SteeredClock()
    lookers = [Looker(clock), Looker(clock)]
    for each in lookers:
        nursery.start_soon(each.run)
    await trio.testing.wait_all_tasks_blocked()
    await clock.advance_data(1_800_000)
    for each in lookers:
        assert each.seen == [(0, True), (1_800_000, True)]  # and all that when advance_data returns
    clock.jump_data(5)  # nobody is told
    await trio.sleep(3601)
    for each in lookers:
        assert each.seen[2:] == [(5_400_005, False)]
    with pytest.raises(AssertionError):
        await clock.advance_data(-1)


async def test_advancing_does_not_wait_for_long_for_who_does_not_come_back(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    clock = SteeredClock(origin=trio.current_time())
    slow, gone = Looker(clock, takes_s=100), trio.CancelScope()

    async def sleep_until_cancelled() -> None:
        with gone:
            await clock.sleep_data(3600)

    nursery.start_soon(slow.run)
    nursery.start_soon(sleep_until_cancelled)
    await trio.testing.wait_all_tasks_blocked()
    gone.cancel()
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await clock.advance_data(1000)
    assert trio.current_time() - began == FOLLOW_S  # the second time nobody was there to be waited for
    await trio.sleep(100)
    assert slow.seen == [(101_000, True)]


async def test_who_advances_at_the_same_time_takes_turns(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    clock = SteeredClock(origin=trio.current_time())
    looker = Looker(clock)
    nursery.start_soon(looker.run)
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    async with trio.open_nursery() as advancing:
        advancing.start_soon(clock.advance_data, 1000)
        advancing.start_soon(clock.advance_data, 1000)
    assert trio.current_time() == began  # nobody was waited for in vain
    assert looker.seen == [(0, True), (1000, True), (1000, True), (2000, True)]


async def test_a_fast_clock_sleeps_shorter(autojump_clock: trio.testing.MockClock) -> None:
    clock = SteeredClock(origin=trio.current_time(), drift=2.0)
    began = trio.current_time()
    await clock.sleep(10)
    assert trio.current_time() - began == pytest.approx(5)
    assert clock.liveness() == pytest.approx(10)
