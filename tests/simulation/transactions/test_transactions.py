"""Transactions in the simulated world: exact on every seed, and a planted bug does not get by.

`SIMULATION_SEEDS=200 pytest tests/simulation/transactions` runs that many seeds instead of the default.
"""

from __future__ import annotations

import ast
from typing import Any

import pytest
from pytest import MonkeyPatch

from tests.simulation.checker import Violation
from tests.simulation.runs import (
    batches,
    check_seeds,
    check_that_a_run_is_the_same_elsewhere,
    check_that_a_seed_is_a_run,
    last_words,
    run,
)
from tests.simulation.transactions.planted import PLANTED, Bug
from tests.simulation.transactions.scenario import transactions

MUTATION_SEEDS = 50


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(transactions, 4, 5)


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_is_the_same_in_another_process(hash_seed: str) -> None:
    check_that_a_run_is_the_same_elsewhere(transactions, 7, hash_seed)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(20, at_once=10), ids=str)
def test_transactions_are_exact(seeds: range) -> None:
    """No aborted read, no lost write, no duplicate, nothing torn or hanging; each input is copied once (T1-T6)."""
    check_seeds(transactions, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 2])
def test_work_is_done_without_faults(version: int) -> None:
    """A run in which nothing happens would promise little."""
    trace = run(transactions, 1, faults=("reset",), version=version, is_distant=False, keep_lines=True)
    acks, reads, states = ast.literal_eval(last_words(trace))
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
            run(transactions, seed, **options)
            patch.undo()
    assert "in the simulation of seed" in found.value.__notes__[-1]
