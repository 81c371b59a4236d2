"""Transactions and groups over a cluster: exact on every seed, whoever leads and coordinates, and when."""

from __future__ import annotations

import ast

import pytest

from tests.simulation.cluster.transactions import FAULT_SECONDS, cluster_transactions
from tests.simulation.runs import batches, check_seeds, check_that_a_seed_is_a_run, last_words, run


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(cluster_transactions, 1, 2, FAULT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(10, at_once=5), ids=str)
def test_T2_T3_T4_T6_transactions_are_exact(seeds: range) -> None:
    """No aborted read, no lost write, no duplicate, nothing torn or hanging; each input is copied once; R1-R14 hold."""
    check_seeds(cluster_transactions, seeds)


@pytest.mark.slow
def test_work_is_done_without_faults() -> None:
    """A run in which nothing happens would promise little."""
    trace = run(cluster_transactions, 1, faults=("reset",), version=2, keep_lines=True)
    acks, reads, states = ast.literal_eval(last_words(trace))
    assert acks > 100
    assert reads > 500
    assert states["COMMITTED"] > 20
    assert states["ABORTED"] > 2
