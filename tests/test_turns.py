"""Long work in turns."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from kbroker.turns import (
    LONG_MAX,
    PAUSES_A_TURN,
    STRIDE,
    Errands,
    Later,
    Work,
    answer,
    do_errands,
    each,
    finish,
    finish_errands,
    is_long,
    one_at_a_time,
    then,
    under_way,
)

TURN = STRIDE * PAUSES_A_TURN  # calls


def test_small_work_is_answered_at_once() -> None:
    assert answer(each(str, [1, 2])) == ["1", "2"]
    assert answer(each(str, [])) == []


async def test_long_work_lets_others_have_their_turn() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    long = answer(each(str, range(10 * TURN)))
    assert isinstance(long, Coroutine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        assert await long == [str(n) for n in range(10 * TURN)]
        nursery.cancel_scope.cancel()
    assert turns >= 8


async def test_work_is_done_in_order_and_an_exception_ends_it() -> None:
    seen: list[int] = []

    def see(n: int) -> None:
        if n == TURN + 1:
            raise ValueError(n)
        seen.append(n)

    try:
        await finish(each(see, range(2 * TURN)))
    except ValueError as error:
        assert error.args == (TURN + 1,)
    assert seen == list(range(TURN + 1))


async def test_much_long_work_takes_one_turn_in_each_round_of_the_loop() -> None:
    rounds, calls, most = 0, 0, 0

    async def count_rounds() -> None:
        nonlocal rounds, calls, most
        while True:
            rounds, most, calls = rounds + 1, max(most, calls), 0
            await trio.lowlevel.checkpoint()

    def call(_: int) -> None:
        nonlocal calls
        calls += 1

    async def work() -> None:
        await finish(each(call, range(4 * TURN)))

    async with trio.open_nursery() as watching:
        watching.start_soon(count_rounds)
        async with trio.open_nursery() as working:
            for _ in range(50):
                working.start_soon(work)
        watching.cancel_scope.cancel()
    assert rounds >= 200
    assert most <= 2 * TURN


def test_what_an_errand_raises_is_the_works_to_handle() -> None:
    def errand() -> None:
        raise KeyError("x")

    def work() -> Errands[str]:
        try:
            yield errand
        except KeyError:
            return "handled"
        return "not raised"

    assert do_errands(work()) == "handled"


async def test_what_is_done_one_at_a_time_is_told_apart_by_name() -> None:
    assert one_at_a_time("a") is one_at_a_time("a")
    assert one_at_a_time("a") is not one_at_a_time("b")


async def test_B5_a_few_long_requests_are_under_way_at_a_time() -> None:
    begun, ended, most = set[int](), set[int](), 0

    def work(number: int) -> Work[None]:
        nonlocal most
        for pauses in range(20 * PAUSES_A_TURN):
            if pauses == PAUSES_A_TURN:  # what `answer` does at once
                begun.add(number)
                most = max(most, len(begun - ended))
            yield
        ended.add(number)

    async def ask(number: int) -> None:
        long = answer(work(number))
        assert is_long(long)
        async with under_way():
            await long

    async with trio.open_nursery() as nursery:
        for number in range(5 * LONG_MAX):
            nursery.start_soon(ask, number)
    assert len(ended) == 5 * LONG_MAX
    assert most == LONG_MAX


async def test_brokers_do_not_stand_in_line_with_clients() -> None:
    for number in range(LONG_MAX):
        await under_way().acquire_on_behalf_of(number)
    assert under_way().available_tokens == 0
    with trio.fail_after(1):
        async with under_way(of_broker=True):
            await trio.lowlevel.checkpoint()


async def test_an_answer_that_waits_is_not_long() -> None:
    async def wait() -> None:
        await trio.lowlevel.checkpoint()

    waiting = wait()
    assert not is_long(waiting)
    assert not is_long("an answer")
    await waiting


class Large:
    """What an errand had in hand when it failed."""


@pytest.mark.parametrize("goes_on", [False, True])
async def test_an_errand_that_fails_leaves_nothing_behind(goes_on: bool) -> None:
    """At once, not when Python looks for circles: that may be a thousand failures later."""
    left: list[weakref.ref[Large]] = []

    def errand() -> None:
        large = Large()
        left.append(weakref.ref(large))
        raise ValueError

    def work() -> Errands[int]:
        try:
            yield errand
        except ValueError:
            pass
        if goes_on:
            yield None
        return 1

    async def offload(work: Callable[[], Any]) -> Any:
        return work()

    gc.disable()
    try:
        assert await finish_errands(work(), None, offload) == do_errands(work()) == 1
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()


async def test_what_comes_after_an_answer_waits_only_if_the_answer_does() -> None:
    async def later(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    assert then(1, str) == "1"
    assert await then(later(1), str) == "1"  # type: ignore[misc]
    assert await then(Later(later(1)), later) == 1  # type: ignore[misc]
    assert await then(1, later) == 1  # type: ignore[misc]


@pytest.mark.filterwarnings("error")
def test_an_answer_that_is_given_up_before_anybody_waits_is_closed_with_all_that_it_waits_for() -> None:
    async def later() -> int:
        raise AssertionError("nobody waits")

    inner = later()
    outer = then(inner, str)
    outer.close()  # type: ignore[union-attr]
    del outer
    assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED
