"""A cluster of real brokers in the simulated world: it keeps its promises on every seed."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simulation.cluster.scenario import cluster
from tests.simulation.runs import check_that_a_seed_is_a_run, last_words, run


@pytest.mark.slow
def test_one_seed_is_one_run_and_another_is_another() -> None:
    check_that_a_seed_is_a_run(partial(cluster, factor=1, faults=("kill", "pause", "isolate", "store_loss")), 3, 4)


@pytest.mark.slow
def test_work_is_done_without_faults() -> None:
    """A run in which nothing happens would promise little."""
    trace = run(cluster, 1, faults=("reset",), factor=1, keep_lines=True)
    acks, reads = last_words(trace).split(", ")
    assert int(acks) > 100
    assert int(reads) > 500
