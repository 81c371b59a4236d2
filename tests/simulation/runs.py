"""Runs of a scenario by seed: what the tests of all simulations ask of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from kbroker.testing.world import Trace, simulate

ROOT = Path(__file__).parents[2]
OFFLOAD_S, SLOW_OFFLOAD_S = 0.002, 0.1
PRINT_HASH = """
from kbroker.testing.world import simulate
from {module} import {name}
print(simulate({seed}, {name}, offload_s={offload_s}).hash)
"""

Scenario: TypeAlias = "Callable[..., Awaitable[Any]]"


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
