"""Delayed delivery in the simulated world: exact on every seed, and a planted bug does not get by.

`SIMULATION_SEEDS=200 pytest tests/simulation/delays` runs that many seeds instead of the default.
"""

from __future__ import annotations

import ast
from typing import Any

import pytest

from tests.simulation.delays.planted import PLANTED
from tests.simulation.delays.scenario import FAULT_SECONDS, cluster_delays, delays
from tests.simulation.runs import (
    Planted,
    batches,
    check_seeds,
    check_that_a_seed_is_a_run,
    check_that_it_is_found,
    last_words,
    run,
)


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(delays, 4, 5, FAULT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(4, at_once=4), ids=str)
def test_D1_D2_D3_of_a_broker_that_dies_and_comes_back(seeds: range) -> None:
    """Never early, never lost, never twice: whatever fails, and however the clock jumps."""
    check_seeds(delays, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(4, at_once=2), ids=str)
def test_D1_D2_D3_of_a_cluster_whose_leaders_change(seeds: range) -> None:
    check_seeds(cluster_delays, seeds)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [delays, cluster_delays])
def test_work_is_done_without_faults(scenario: Any) -> None:
    """A run in which nothing happens would promise little."""
    trace = run(scenario, 1, faults=("reset",), keep_lines=True)
    acks, delivered, cancelled = ast.literal_eval(last_words(trace))
    assert acks > 50
    assert delivered > 50
    assert cancelled > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "planted"),
    [pytest.param(scenario, each, id=each.id) for scenario, planted in PLANTED.items() for each in planted],
)
def test_a_planted_bug_is_found(scenario: Any, planted: Planted) -> None:
    check_that_it_is_found(planted, scenario)
