"""Exactly once under kills, in short: `compat/exactly_once` in full is `make test-eos`."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import pytest

COMPAT = Path(__file__).resolve().parents[2] / "compat"
sys.path[:0] = [str(COMPAT), str(COMPAT / "exactly_once")]
spec = util.spec_from_file_location("exactly_once_run", COMPAT / "exactly_once" / "run.py")
assert spec is not None
assert spec.loader is not None
eos = util.module_from_spec(spec)
sys.modules[spec.name] = eos
spec.loader.exec_module(eos)


def test_a_plan_kills_both_as_often_as_it_says_while_there_is_something_to_copy() -> None:
    plan = eos.Plan("kafka-python", 100_000, broker_kills=10, copier_kills=10)
    kills = plan.kills()
    assert kills == sorted(kills, key=lambda kill: kill[0])
    assert sorted(whom for _, whom in kills) == ["broker"] * 10 + ["copier"] * 10
    assert kills[-1][0] <= 100_000 // 750
    assert plan.kills() == kills != eos.Plan("kafka-python", seed=2).kills()


class Record:
    def __init__(self, value: bytes) -> None:
        self.value, self.offset = value, 0


@pytest.mark.parametrize("found", [[b"b"], [b"a", b"a"], [b"a", b"b", b"c"], [b"a", b"x"]], ids=str)
def test_what_is_lost_there_twice_or_torn_is_found(found: list[bytes]) -> None:
    place = eos.PLACES[0]
    with pytest.raises(eos.Failed):
        eos.compare({place: list(map(Record, found))}, [[b"a", b"b"], [], []], [0, 0, 0])


@pytest.mark.slow
def test_F13_a_copy_is_exact_while_broker_and_copier_are_killed() -> None:
    seen = eos.run(eos.Plan("kafka-python", 4_000, broker_kills=2, copier_kills=2, records=250))
    assert seen.kills == {"broker": 2, "copier": 2}
    assert not seen.ended, seen
