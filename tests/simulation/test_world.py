"""The simulated world: one seed is one run, the dead are fenced, the paused stand still, planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from kbroker.env import DirectoryLocked, Env
from kbroker.testing.world import Deadlock, Killed, World, simulate
from tests.simulation.journal import journal_under_faults

ROOT = Path(__file__).parent.parent.parent
PRINT_HASH = """
from kbroker.testing.world import simulate
from tests.simulation.journal import journal_under_faults
print(simulate(7, journal_under_faults).hash)
"""


async def faults(world: World) -> None:
    await journal_under_faults(world)


def test_one_seed_is_one_run_and_another_is_another() -> None:
    first, again, other = simulate(7, faults), simulate(7, faults), simulate(8, faults)
    assert first == again
    assert first.events > 500
    assert first.seconds > 10
    assert first.hash != other.hash


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_is_the_same_in_another_process(hash_seed: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protocol")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    printed = subprocess.check_output([sys.executable, "-c", PRINT_HASH], env=environment, text=True)
    assert printed.strip() == simulate(7, faults).hash


def test_the_lines_of_a_run_are_kept_when_asked_for() -> None:
    trace = simulate(7, faults, keep_lines=True)
    assert len(trace.lines) == trace.events
    assert trace.hash == simulate(7, faults).hash


@pytest.mark.parametrize("seed", range(20))
def test_what_is_acknowledged_is_never_lost(seed: int) -> None:
    simulate(seed, faults)


def test_an_acknowledgement_before_the_sync_is_caught() -> None:
    with pytest.raises(AssertionError, match="acknowledged and lost") as failure:
        for seed in range(20):
            simulate(seed, partial(journal_under_faults, early_ack=True))  # type: ignore[arg-type]
    assert "in the simulation of seed" in failure.value.__notes__[0]


def test_the_dead_have_no_effect() -> None:
    """kill -9: finally blocks run, as Python must unwind, but reach neither disk nor network nor clock."""
    unwound = []

    async def program(env: Env) -> None:
        env.disk.lock(".lock")
        file = env.disk.open("a", create=True)
        listener = await env.net.listen("", 1)
        try:
            stream = await listener.accept()
            await env.clock.sleep(60)
        finally:
            for attempt in (
                lambda: file.append([b"x"]),
                lambda: env.disk.exists("a"),
                env.clock.data_ms,
                lambda: env.rng.token(1),
            ):
                with pytest.raises(Killed):
                    attempt()
                unwound.append(1)
            with trio.CancelScope(shield=True):
                await stream.send([b"from beyond"])

    async def main(world: World) -> None:
        node = world.node("n")
        node.start(program)
        stream = await world.client_env("c").net.connect("n", 1)
        with pytest.raises(DirectoryLocked):
            node.env.disk.lock(".lock")
        node.kill()
        assert not node.running
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_into(memoryview(bytearray(10)))
        assert node.env.disk.read("a") == b""
        node.env.disk.lock(".lock").release()

    simulate(1, main)
    assert len(unwound) == 4


def test_not_a_line_of_a_paused_process_runs() -> None:
    """Not even by a timeout, a cancellation or an event from outside, which no gate in the Env would hold back."""

    async def main(world: World) -> None:
        steps: list[float] = []
        event = trio.Event()

        async def program(env: Env) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(event.wait)
                while True:
                    with trio.move_on_after(1):
                        await trio.sleep_forever()
                    steps.append(trio.current_time())

        node = world.node("n")
        node.start(program)
        await trio.sleep(3.5)
        assert len(steps) == 3
        node.pause()
        event.set()
        await trio.sleep(100)
        assert len(steps) == 3
        node.resume()
        await trio.sleep(2)
        assert len(steps) in (5, 6)
        assert steps[3] >= 103.5
        node.pause()
        node.kill()

    simulate(1, main)


def test_a_power_loss_is_silent_and_changes_the_boot_id() -> None:
    async def program(env: Env) -> None:
        listener = await env.net.listen("", 1)
        stream = await listener.accept()
        await stream.receive_into(memoryview(bytearray(10)))

    async def main(world: World) -> None:
        node = world.node("n")
        node.start(program)
        boot_id = node.env.disk.boot_id
        stream = await world.client_env("c").net.connect("n", 1)
        node.power_loss()
        with trio.move_on_after(100) as waiting:
            await stream.receive_into(memoryview(bytearray(10)))
        assert waiting.cancelled_caught
        node.start(program)
        assert node.env.disk.boot_id != boot_id
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_into(memoryview(bytearray(10)))

    simulate(1, main)


def test_a_program_that_ends_frees_the_node() -> None:
    async def program(env: Env) -> None:
        env.disk.lock(".lock")
        await env.clock.sleep(1)

    async def main(world: World) -> None:
        for _ in range(3):
            world.node("n").start(program)
            await trio.sleep(2)
            assert not world.node("n").running

    simulate(1, main)


def test_each_node_has_its_clocks() -> None:
    async def main(world: World) -> None:
        fast, steady = world.node("fast", drift=1.5), world.node("steady")
        begin = steady.env.clock.data_ms()
        fast.clock.jump_data(-60_000)
        await trio.sleep(10)
        assert steady.env.clock.data_ms() - begin == 10_000
        assert fast.env.clock.data_ms() - begin == 15_000 - 60_000
        assert fast.env.clock.liveness() == pytest.approx(15)

    simulate(1, main)


def test_a_failing_process_fails_the_simulation_with_its_seed() -> None:
    async def program(env: Env) -> None:
        await env.clock.sleep(1)
        raise ZeroDivisionError

    async def main(world: World) -> None:
        world.node("n").start(program)
        await trio.sleep(5)

    with pytest.raises(ZeroDivisionError) as failure:
        simulate("a seed", main)
    assert failure.value.__notes__ == ["in the simulation of seed 'a seed', after 1.000 s"]


def test_a_thread_is_refused_and_offload_is_not() -> None:
    async def main(world: World) -> None:
        assert await world.client_env("c").offload(lambda: 42) == 42
        assert world.now() > 0
        await trio.to_thread.run_sync(print)

    with pytest.raises(RuntimeError, match="env.offload"):
        simulate(1, main)


def test_a_deadlock_is_reported() -> None:
    async def main(world: World) -> None:
        await trio.sleep_forever()

    with pytest.raises(Deadlock):
        simulate(1, main)


def test_nothing_of_trio_stays_changed() -> None:
    async def main(world: World) -> None:
        pass

    run_sync = trio.to_thread.run_sync
    simulate(1, main)
    assert trio.to_thread.run_sync is run_sync
    assert trio.run(trio.to_thread.run_sync, os.getpid) == os.getpid()


def test_a_livelock_is_reported() -> None:
    async def main(world: World) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(Deadlock, match="time does not move"):
        simulate(1, main)


def test_who_waits_for_a_time_of_a_drifting_clock_reaches_it() -> None:
    async def main(world: World) -> None:
        chance = world.random("test")
        for n in range(500):
            clock = world.node(f"n{n}", drift=chance.uniform(0.98, 1.0)).env.clock
            await trio.sleep(chance.random())
            due = clock.liveness() + 0.1
            while (rest := due - clock.liveness()) > 0:
                with trio.move_on_after(rest):
                    await trio.sleep_forever()

    simulate(1, main)
