"""The loop meter finds who holds the loop, and nobody else."""

from __future__ import annotations

import trio

from tests.server.loop_meter import LINES_MAX, LoopMeter


def stall(lines: int) -> None:
    """Runs for about so many lines."""
    for _ in range(lines // 2):
        pass


async def stall_between_turns(lines: int) -> None:
    await trio.lowlevel.checkpoint()
    stall(lines)
    await trio.lowlevel.checkpoint()


async def metered(*tasks: int) -> LoopMeter:
    """The meter of tasks that stall for so many lines each."""
    meter = LoopMeter()
    with meter.running():
        async with trio.open_nursery() as nursery:
            for lines in tasks:
                nursery.start_soon(stall_between_turns, lines)
    return meter


async def test_a_stall_is_found_and_who_it_is() -> None:
    meter = await metered(1000, LINES_MAX + 1000, 1000)
    assert LINES_MAX < meter.worst < LINES_MAX + 1500
    assert meter.report().splitlines()[1].split()[1] == "stall"
    assert "stall_between_turns" in meter.report()


async def test_turns_of_many_tasks_are_no_stall() -> None:
    meter = await metered(*[1000] * 60)
    assert 1000 <= meter.worst < 1500
    assert meter.lines > 60_000


async def test_neither_the_tests_own_task_nor_a_worker_is_counted() -> None:
    meter = LoopMeter()

    async def work_elsewhere() -> None:
        await meter.offload(lambda: stall(5000))

    with meter.running():
        stall(5000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work_elsewhere)
        stall(5000)
    assert meter.worst < 500
