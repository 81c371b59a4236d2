"""Three brokers and one partition through all that may happen to them (R1-R9, P2); and bugs that this has to find."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.replication.planted import PLANTED, Bug
from tests.replication.world import STEPS, World, caught, run

SEEDS_TO_FIND_A_BUG = 50


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Power failures tear logs, and each is told."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(6))
def test_R2_nobody_is_ever_shown_two_values_at_one_offset_and_all_come_together(seed: int) -> None:
    run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1040, 20))
def test_R2_many_worlds(first: int) -> None:
    for seed in range(first, first + 20):
        run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert caught(range(SEEDS_TO_FIND_A_BUG)) is not None


class WorldMachine(RuleBasedStateMachine):
    """The same world, where hypothesis chooses the steps and makes what fails short."""

    @initialize(seed=st.integers(0, 1000), chance=st.randoms(use_true_random=False))
    def begin(self, seed: int, chance: random.Random) -> None:
        self.world = World(seed)
        self.world.chance = chance

    @rule(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=12))
    def do(self, names: list[str]) -> None:
        for name in names:
            getattr(self.world, name)()
            self.world.look()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.heal()


WorldMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestWorld = pytest.mark.slow(WorldMachine.TestCase)
