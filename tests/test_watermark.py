"""The watermark: grows, wakes, closes."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kbroker
from kbroker.watermark import Watermark


def test_never_goes_back() -> None:
    mark = Watermark(5)
    mark.advance(3)
    assert mark.value == 5


async def test_wakes_those_it_has_passed(nursery: trio.Nursery) -> None:
    mark, woken = Watermark(), []

    async def wait(offset: int) -> None:
        await mark.wait_past(offset)
        woken.append(offset)

    for offset in (0, 1, 5):
        nursery.start_soon(wait, offset)
    await wait_all_tasks_blocked()
    mark.advance(2)
    await wait_all_tasks_blocked()
    assert sorted(woken) == [0, 1]
    mark.advance(6)


async def test_timeout_takes_no_real_time(autojump_clock: MockClock) -> None:
    with trio.move_on_after(3600) as scope:
        await Watermark().wait_past(0)
    assert scope.cancelled_caught


async def test_close_wakes_waiters_with_the_reason(nursery: trio.Nursery) -> None:
    mark, reasons = Watermark(), []

    async def wait() -> None:
        try:
            await mark.wait_past(0)
        except LookupError as error:
            reasons.append(error)

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    error = LookupError("moved")
    mark.close(error)
    await wait_all_tasks_blocked()
    assert reasons == [error]
    with pytest.raises(LookupError):
        await mark.wait_past(0)


async def test_one_bell_hears_many_marks() -> None:
    marks, bell = [Watermark() for _ in range(3)], trio.Event()
    for mark in marks:
        mark.attach(bell)
    marks[1].advance(1)
    assert bell.is_set()
    for mark in marks:
        mark.detach(bell)
        mark.detach(bell)  # unknown bells are fine


def test_the_reason_does_not_grow_with_those_who_ask() -> None:
    mark = Watermark()
    mark.close(error := LookupError("moved"))
    for _ in range(5):
        with pytest.raises(LookupError):
            mark.check()
    assert len(traceback.extract_tb(error.__traceback__)) <= 2


def test_nobody_sets_a_watermark_but_by_advancing_it() -> None:
    marks = re.compile(r"\.(end|flushed|high_watermark|mark|watermark)\.value\s*[-+]?=[^=]")
    for path in Path(kbroker.__file__).parent.rglob("*.py"):
        assert not marks.search(path.read_text(encoding="utf-8")), path
