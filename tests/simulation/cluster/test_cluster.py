"""A cluster of real brokers in the simulated world: it keeps its promises on every seed, and planted bugs are found.

`make simulate SEEDS=0-499 ARGS="--seconds 60"` runs as many seeds, as long, as one likes.
"""

from __future__ import annotations

import pytest

from tests.simulation.cluster.planted import PLANTED
from tests.simulation.cluster.scenario import FAULT_SECONDS, cluster
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


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(cluster, 4, 5, FAULT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_is_the_same_in_another_process(hash_seed: str) -> None:
    check_that_a_run_is_the_same_elsewhere(cluster, 7, hash_seed)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", batches(100, at_once=10), ids=str)
def test_R1_R2_R3_R4_R5_R7_R8_R14_promises_are_kept(seeds: range) -> None:
    """Nothing acknowledged is lost, doubled, reordered or changed; R1-R14 hold at every moment; replicas become one."""
    check_seeds(cluster, seeds)


@pytest.mark.slow
def test_work_is_done_without_faults() -> None:
    """A run in which nothing happens would promise little."""
    trace = run(cluster, 1, faults=("reset",), keep_lines=True)
    acks, reads = last_words(trace).split(", ")
    assert int(acks) > 100
    assert int(reads) > 500


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.id)
def test_a_planted_bug_is_found(planted: Planted) -> None:
    check_that_it_is_found(planted, cluster, size=3, operated=False, min_isr=2)
