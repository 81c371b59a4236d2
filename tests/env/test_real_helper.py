"""The process that computes: steps on demand, errors, death on either side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kbroker.env import Disk
from kbroker.env.real_helper import GREET_SECONDS_MAX, STEP_SECONDS_MAX, HelperLost, ProcessHelper
from kbroker.log.errors import CorruptLog


def squares(disk: Disk, count: int) -> Iterator[int]:
    for number in range(count):
        yield number * number


def content(disk: Disk, path: str) -> Iterator[bytes]:
    yield disk.read(path)


def whereabouts(disk: Disk) -> Iterator[tuple[int, int]]:
    yield os.getpid(), os.nice(0)
    yield os.getpid(), os.nice(0)


def trouble(disk: Disk, path: str) -> Iterator[int]:
    yield 1
    raise CorruptLog(f"{path}: damage")


def odd_trouble(disk: Disk) -> Iterator[int]:
    class Local(Exception):
        pass

    raise Local("which nobody else knows")
    yield 0


def chatter(disk: Disk) -> Iterator[str]:
    print("printed by mistake")
    yield "answered"


async def all_of(helper: ProcessHelper, work: Any, *args: Any) -> list[Any]:
    found = []
    async with helper.begin(work, *args) as steps:
        while (step := await steps.step()) is not None:
            found.append(step)
    return found


@pytest.fixture
async def helper(tmp_path: Path) -> AsyncIterator[ProcessHelper]:
    made = ProcessHelper(str(tmp_path))
    yield made
    made.close()


async def test_work_is_done_elsewhere_on_the_same_disk_and_the_process_serves_again(
    helper: ProcessHelper, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"what is there")
    assert await all_of(helper, content, "file") == [b"what is there"]
    assert await all_of(helper, squares, 4) == [0, 1, 4, 9]
    [(first, niceness), _] = await all_of(helper, whereabouts)
    [(second, _), _] = await all_of(helper, whereabouts)
    assert first == second != os.getpid()
    assert niceness > os.nice(0)
    assert await all_of(helper, chatter) == ["answered"]


async def test_what_goes_wrong_there_is_raised_here(helper: ProcessHelper) -> None:
    with pytest.raises(CorruptLog, match="orders-0: damage"):
        await all_of(helper, trouble, "orders-0")
    with pytest.raises(FileNotFoundError):
        await all_of(helper, content, "absent")
    with pytest.raises(RuntimeError, match="Local: which nobody else knows"):
        await all_of(helper, odd_trouble)
    assert await all_of(helper, squares, 2) == [0, 1]


async def test_who_leaves_early_ends_the_work_and_its_process(helper: ProcessHelper) -> None:
    async with helper.begin(whereabouts) as steps:
        found = await steps.step()
    assert found is not None
    with pytest.raises(ProcessLookupError):
        os.kill(found[0], 0)


async def test_a_process_that_dies_is_told_of_and_another_one_takes_its_place(helper: ProcessHelper) -> None:
    with pytest.raises(HelperLost):
        async with helper.begin(whereabouts) as steps:
            found = await steps.step()
            assert found is not None
            os.kill(found[0], signal.SIGKILL)
            await steps.step()
    assert await all_of(helper, squares, 2) == [0, 1]
    [(idle, _), _] = await all_of(helper, whereabouts)
    os.kill(idle, signal.SIGKILL)
    assert await all_of(helper, squares, 2) == [0, 1]


@pytest.fixture
def clock() -> MockClock:
    """Time stands still but for `jump`."""
    return MockClock()


async def after(clock: MockClock, seconds: float) -> None:
    await wait_all_tasks_blocked()
    clock.jump(seconds)


async def test_a_process_that_does_not_answer_is_ended_in_time(helper: ProcessHelper, clock: MockClock) -> None:
    """One that was stopped would hold its work, and whoever waits for that, for ever."""
    async with trio.open_nursery() as nursery:
        with pytest.raises(HelperLost, match="does not answer"):
            async with helper.begin(whereabouts) as steps:
                found = await steps.step()
                assert found is not None
                os.kill(found[0], signal.SIGSTOP)
                nursery.start_soon(after, clock, STEP_SECONDS_MAX)
                await steps.step()
        with pytest.raises(ProcessLookupError):
            os.kill(found[0], 0)
        [(idle, _), _] = await all_of(helper, whereabouts)
        os.kill(idle, signal.SIGSTOP)
        nursery.start_soon(after, clock, GREET_SECONDS_MAX)
        assert await all_of(helper, squares, 2) == [0, 1]


BROKER = """
import os, sys, trio
from kbroker.env.real_helper import ProcessHelper
from tests.env.test_real_helper import whereabouts

async def main():
    async with ProcessHelper(sys.argv[1]).begin(whereabouts) as steps:
        print((await steps.step())[0], flush=True)
        os.kill(os.getpid(), 9)

trio.run(main)
"""


def test_a_helper_does_not_outlive_a_broker_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BROKER, str(tmp_path)]
    # It shares the broker's standard error: that ends with the last of them, and run() waits for it.
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert int(ended.stdout) != os.getpid()
