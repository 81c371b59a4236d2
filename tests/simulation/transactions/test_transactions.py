"""Transactions in the simulated world: exact on every seed, and a planted bug does not get by.

`SIMULATION_SEEDS=200 pytest tests/simulation/transactions` runs that many seeds instead of the default.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch

from kbroker.testing.world import Trace, simulate
from tests.simulation.checker import Violation
from tests.simulation.transactions.planted import PLANTED, Bug
from tests.simulation.transactions.scenario import transactions

ROOT = Path(__file__).parents[3]
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "20"))
SEEDS_IN_A_TEST = 10
MUTATION_SEEDS = 50
PRINT_HASH = """
from kbroker.testing.world import simulate
from tests.simulation.transactions.scenario import transactions
print(simulate({seed}, transactions, offload_s=0.002).hash)
"""


def run(seed: int, *, keep_lines: bool = False, **options: Any) -> Trace:
    """A run; on every third seed the disk is slow, so that more happens while an fsync is under way."""
    offload_s = 0.002 if seed % 3 else 0.1
    return simulate(seed, partial(transactions, **options), offload_s=offload_s, keep_lines=keep_lines)


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    first, again, other = run(4), run(4), run(5)
    assert first == again
    assert first.hash != other.hash
    assert first.seconds > 12
    assert first.events > 1000


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_is_the_same_in_another_process(hash_seed: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protocol")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    command = [sys.executable, "-c", PRINT_HASH.format(seed=7)]
    assert subprocess.check_output(command, env=environment, text=True).strip() == run(7).hash


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_IN_A_TEST))
def test_transactions_are_exact(first: int) -> None:
    """No aborted read, no lost write, no duplicate, nothing torn or hanging; each input is copied once (T1-T6)."""
    for seed in range(first, min(first + SEEDS_IN_A_TEST, SEEDS)):
        run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 2])
def test_work_is_done_without_faults(version: int) -> None:
    """A run in which nothing happens would promise little."""
    trace = run(1, faults=("reset",), version=version, is_distant=False, keep_lines=True)
    done = next(line for line in reversed(trace.lines) if "('done', " in line)
    acks, reads, states = ast.literal_eval(done.partition("('done', ")[2].rstrip(")"))
    assert acks > 100
    assert reads > 500
    assert states["COMMITTED"] > 20
    assert states["ABORTED"] > 2


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "options"), PLANTED, ids=[bug.__name__ for bug, _ in PLANTED])
def test_a_planted_bug_is_found(bug: Bug, options: dict[str, Any]) -> None:
    with MonkeyPatch.context() as patch, pytest.raises(Violation) as found:
        for seed in range(MUTATION_SEEDS):
            bug(patch)
            run(seed, **options)
            patch.undo()
    assert "in the simulation of seed" in found.value.__notes__[-1]
