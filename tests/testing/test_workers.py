"""Simulated workers: work interleaves with the loop at its system calls, as the seed decides, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from kbroker.env import Env
from kbroker.testing.world import Trace, World, simulate

SEEDS = range(60)
Program = Callable[[Env, list[str]], Awaitable[None]]


def run(seed: int, program: Program, *, keep_lines: bool = False) -> tuple[list[str], Trace]:
    """One process that runs the program; what it told, and the trace."""
    told: list[str] = []

    async def main(world: World) -> None:
        world.node("n").start(partial(program, told=told))
        await trio.sleep(10)

    return told, simulate(seed, main, keep_lines=keep_lines)


async def two_writers(env: Env, told: list[str]) -> None:
    """A worker and the loop replace one file."""

    async def by_worker() -> None:
        try:
            await env.offload(partial(env.disk.write_atomic, "x", b"worker"))
        except OSError as error:
            told.append(f"worker {type(error).__name__}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_worker)
        await env.clock.sleep(0.002)
        try:
            env.disk.write_atomic("x", b"loop")
        except OSError as error:
            told.append(f"loop {type(error).__name__}")
    told.append(env.disk.read("x").decode())


def test_two_writers_of_one_file_collide_in_every_way_they_can() -> None:
    told = {line for seed in SEEDS for line in run(seed, two_writers)[0]}
    assert told == {"worker FileNotFoundError", "loop FileNotFoundError", "loop", "worker"}


async def one_after_the_other(env: Env, told: list[str]) -> None:
    for n in range(3):
        await env.offload(partial(env.disk.write_atomic, "x", b"worker"))
        env.disk.write_atomic("x", f"loop {n}".encode())
        told.append(env.disk.read("x").decode())


def test_writers_who_wait_for_each_other_do_not() -> None:
    for seed in SEEDS:
        assert run(seed, one_after_the_other)[0] == ["loop 0", "loop 1", "loop 2"]


def test_one_seed_is_one_interleaving() -> None:
    hashes = [run(seed, two_writers)[1].hash for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_nobody_runs_beside_the_loop() -> None:
    """Between two system calls a worker is alone, and so is the loop: else no seed would be one run."""
    running: list[int] = []

    def be_alone() -> None:
        assert not running
        running.append(threading.get_ident())
        sum(range(2000))
        assert running.pop() == threading.get_ident()

    async def program(env: Env, told: list[str]) -> None:
        idents: set[int] = set()

        def work() -> None:
            idents.add(threading.get_ident())
            for _ in range(20):
                be_alone()
                env.disk.exists("x")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(env.offload, work)
            for _ in range(20):
                be_alone()
                await env.clock.sleep(0.0002)
        told.append(f"{len(idents)} {threading.get_ident() in idents}")

    assert run(1, program)[0] == ["3 False"]


def test_what_work_raises_is_raised() -> None:
    async def program(env: Env, told: list[str]) -> None:
        with pytest.raises(ZeroDivisionError):
            await env.offload(lambda: 1 // 0)
        told.append(await env.offload(lambda: "and the thread works on"))

    assert run(1, program)[0] == ["and the thread works on"]


def test_work_of_a_killed_process_ends_between_two_system_calls() -> None:
    ends = set()

    def work(env: Env) -> None:
        for n in range(50):
            env.disk.write_atomic(f"{n:02}", b"", sync=False)

    async def program(env: Env) -> None:
        await env.offload(partial(work, env))

    async def main(world: World) -> None:
        node = world.node("n")
        node.start(program)
        await trio.sleep(0.02)
        node.kill()
        names = node.env.disk.list_dir("")
        await trio.sleep(5)
        assert node.env.disk.list_dir("") == names, "the dead have no effect"
        ends.add(len(names))

    for seed in range(20):
        simulate(seed, main)
    assert len(ends) > 5
