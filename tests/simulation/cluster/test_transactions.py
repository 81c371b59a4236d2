"""Transactions and groups over a cluster: exact on every seed, whoever leads and coordinates, and when."""

from __future__ import annotations

import ast
import os

import pytest

from tests.simulation.cluster.transactions import FAULT_SECONDS, cluster_transactions
from tests.simulation.runs import check_that_a_seed_is_a_run, last_words, run

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "10"))
SEEDS_IN_A_TEST = 5


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(cluster_transactions, 1, 2, FAULT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_IN_A_TEST))
def test_T2_T3_T4_T6_transactions_are_exact(first: int) -> None:
    """No aborted read, no lost write, no duplicate, nothing torn or hanging; each input is copied once; R1-R14 hold."""
    for seed in range(first, min(first + SEEDS_IN_A_TEST, SEEDS)):
        run(cluster_transactions, seed)


@pytest.mark.slow
def test_work_is_done_without_faults() -> None:
    """A run in which nothing happens would promise little."""
    trace = run(cluster_transactions, 1, faults=("reset",), version=2, keep_lines=True)
    acks, reads, states = ast.literal_eval(last_words(trace))
    assert acks > 100
    assert reads > 500
    assert states["COMMITTED"] > 20
    assert states["ABORTED"] > 2
