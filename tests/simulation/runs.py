"""Runs of a scenario by seed: what the tests of all simulations ask of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest import MonkeyPatch

from kbroker.testing.world import Trace, simulate
from tests.simulation.checker import Violation

ROOT = Path(__file__).parents[2]
OFFLOAD_S, SLOW_OFFLOAD_S = 0.002, 0.1
MUTATION_SEEDS = 50
PRINT_HASH = """
from kbroker.testing.world import simulate
from {module} import {name}
print(simulate({seed}, {name}, offload_s={offload_s}).hash)
"""

Scenario: TypeAlias = "Callable[..., Awaitable[Any]]"


class Planted(NamedTuple):
    """A bug that has to be found: what plants it, what is then to be said of it (a pattern), and what lets it be seen.

    That everything stands still is said of many a bug, also of one that only breaks: what a bug does is to be named.
    """

    bug: Callable[[MonkeyPatch], None]
    says: str
    faults: tuple[str, ...]
    rules: Mapping[str, Any] = {}  # further options of a run
    first: int = 0  # the seed to begin with: one that finds it, where many do not

    @property
    def id(self) -> str:
        """Its name, as pytest shows it."""
        return self.bug.__name__


def run(
    scenario: Scenario, seed: int, *, slow_disk: bool | None = None, keep_lines: bool = False, **options: Any
) -> Trace:
    """A run; on every third seed the disk is slow, so that more happens while an fsync is under way."""
    slow_disk = not seed % 3 if slow_disk is None else slow_disk
    offload_s = SLOW_OFFLOAD_S if slow_disk else OFFLOAD_S
    return simulate(seed, partial(scenario, **options), offload_s=offload_s, keep_lines=keep_lines)


def batches(seeds: int, at_once: int) -> list[range]:
    """The seeds of a scenario, so many a test. SIMULATION_SEEDS says how many there are to be instead."""
    seeds = int(os.environ.get("SIMULATION_SEEDS", seeds))
    return [range(first, min(first + at_once, seeds)) for first in range(0, seeds, at_once)]


def check_seeds(scenario: Scenario, seeds: range) -> None:
    """The scenario keeps what it promises, seed by seed."""
    for seed in seeds:
        run(scenario, seed)


def check_that_it_is_found(planted: Planted, scenario: Scenario, **options: Any) -> None:
    """By one of so many seeds, with the words that are due."""
    said = "nothing"
    for seed in range(planted.first, planted.first + MUTATION_SEEDS):
        try:
            with MonkeyPatch.context() as patch:
                planted.bug(patch)
                run(scenario, seed, faults=planted.faults, **planted.rules, **options)
        except Violation as found:
            said = str(found)
            if re.search(planted.says, said):
                assert found.__notes__[-1].startswith(f"in the simulation of seed {seed},")
                return
    raise AssertionError(f"{planted.id} is not found; what was said last: {said}")


def check_that_a_seed_is_a_run(scenario: Scenario, seed: int, other: int, seconds: float = 12) -> None:
    """The same seed twice is one run, another seed is another; and there is something in it, for so long at least."""
    first, again = run(scenario, seed), run(scenario, seed)
    assert first == again
    assert first.hash != run(scenario, other).hash
    assert first.seconds > seconds
    assert first.events > 1000


def check_that_a_run_is_the_same_elsewhere(scenario: Any, seed: int, hash_seed: str) -> None:
    """In another process too, whatever order its sets have."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "protocol")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    script = PRINT_HASH.format(module=scenario.__module__, name=scenario.__name__, seed=seed, offload_s=OFFLOAD_S)
    told = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip()
    assert told == run(scenario, seed, slow_disk=False).hash


def last_words(trace: Trace) -> str:
    """What a scenario that came to its end said of it: the arguments of its `done`."""
    done = next(line for line in reversed(trace.lines) if "('done', " in line)
    return done.partition("('done', ")[2].rstrip(")")
