"""Replication throttles: what is owed, and whom they name."""

from __future__ import annotations

import pytest

from kbroker.config.keys import LONG_MAX
from kbroker.replication.throttles import Throttle, is_throttled


def test_what_was_moved_is_paid_for_with_time() -> None:
    now, rate = 0.0, 1000
    throttle = Throttle(lambda: rate, lambda: now)
    assert throttle.is_set and throttle.wait_s() == 0
    throttle.record(3000)
    assert throttle.wait_s() == 3
    now = 2.0
    assert throttle.wait_s() == 1
    throttle.record(500)
    assert throttle.wait_s() == 1.5
    now = 100.0
    assert throttle.wait_s() == 0
    throttle.record(1000)
    assert throttle.wait_s() == 1, "time in which nothing was moved is not saved up"


def test_without_a_rate_nothing_is_held_back_and_none_is_none_at_all() -> None:
    rate = LONG_MAX
    throttle = Throttle(lambda: rate, lambda: 0.0)
    throttle.record(1 << 40)
    assert not throttle.is_set and throttle.wait_s() == 0
    rate = 0
    assert throttle.is_set and throttle.wait_s() > 1 << 30


@pytest.mark.parametrize(
    ("replicas", "expected"), [("", False), ("*", True), ("0:1,3:2", True), ("3:1", False), ("2:3", False)]
)
def test_a_list_names_replicas(replicas: str, expected: bool) -> None:
    assert is_throttled(replicas, 3, 2) == expected
