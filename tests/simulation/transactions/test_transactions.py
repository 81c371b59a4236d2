"""Transactions in the simulated world: exact on every seed, and a planted bug does not get by.

`SIMULATION_SEEDS=200 pytest tests/simulation/transactions` runs that many seeds instead of the default.
"""

from __future__ import annotations

import ast

import pytest

from tests.simulation.runs import (
    Planted,
    batches,
    check_seeds,
    check_that_a_run_is_the_same_elsewhere,
    check_that_a_seed_is_a_run,
    check_that_it_is_found,
    last_words,
    run,
)
from tests.simulation.transactions.planted import PLANTED
from tests.simulation.transactions.scenario import transactions


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
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.id)
def test_a_planted_bug_is_found(planted: Planted) -> None:
    check_that_it_is_found(planted, transactions)
