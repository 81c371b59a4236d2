"""What a test says from another thread arrives at the broker's controls, and what is wrong comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from kbroker.testing.clock import EPOCH_MS, SteeredClock
from kbroker.testing.control.controls import Controls
from kbroker.testing.control.journal import Journal, Row
from kbroker.testing.control.remote import Clock, Faults, Requests


class Direct:
    """A portal to controls that nobody else uses."""

    def __init__(self) -> None:
        self.controls = Controls(SteeredClock(now=lambda: 0.0))

    def call(self, method: str, *args: Any, timeout_s: float = 1.0, **kwargs: Any) -> Any:
        async def main() -> Any:
            made = getattr(self.controls, method)(*args, **kwargs)
            return await made if hasattr(made, "__await__") else made

        return trio.run(main)


def test_faults_are_set_as_they_are_said() -> None:
    portal = Direct()
    faults = Faults(portal)
    faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders", partition=1, times=2, client_id="app")
    faults.delay("Fetch", 200, times=None)
    faults.lose_request("Heartbeat")
    faults.lose_response("OffsetCommit", topic="orders")
    faults.close("Metadata", carried_out=True)
    faults.close("Metadata", times=3)
    assert [str(each) for each in portal.controls.faults.faults] == [
        'faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders", partition=1, times=2, client_id="app")',
        'faults.delay("Fetch", 200, times=None)',
        'faults.lose_request("Heartbeat")',
        'faults.lose_response("OffsetCommit", topic="orders")',
        'faults.close("Metadata", carried_out=True)',
        'faults.close("Metadata", times=3)',
    ]
    assert len(faults.unfired()) == 6
    with pytest.raises(ValueError, match="did you mean 'Produce'"):
        faults.error("Prod", "NOT_LEADER_OR_FOLLOWER")
    faults.clear()
    assert faults.unfired() == []
    assert [line[9:] for line in portal.controls.history()][-2:] == [
        'faults.close("Metadata", times=3)',
        "faults.clear()",
    ]


def test_the_clock_moves_forward_only() -> None:
    clock = Clock(Direct())
    began = datetime.fromtimestamp(EPOCH_MS / 1000, UTC)
    assert clock.now() == began
    assert clock.advance("30m") == clock.now() == began + timedelta(minutes=30)
    assert clock.advance_to(began + timedelta(hours=1)) == began + timedelta(hours=1)
    with pytest.raises(
        ValueError, match="cannot go back to 2023-11-14 22:13:20 UTC: it is 2023-11-14 23:13:20 already"
    ):
        clock.advance_to(began)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="beyond the year 9999"):
        for _ in range(100):
            clock.advance("36500d")


def test_requests_are_counted_as_long_as_all_are_known() -> None:
    portal = Direct()
    journal = portal.controls.journal
    for topic in ("orders", "bills", "orders"):
        journal.note(Row("Produce", 9, "app", EPOCH_MS, (topic,)))
    journal.note(Row("Fetch", 12, "other", EPOCH_MS, ("orders",)))
    assert Requests(portal, "Produce").count == 3
    assert Requests(portal, "Produce", topic="orders").count == 2
    assert Requests(portal, client_id="other", topic="orders")[0].api == "Fetch"
    assert [each.topics for each in Requests(portal)] == [("orders",), ("bills",), ("orders",), ("orders",)]
    assert "app: Produce v9 bills: answered" in repr(Requests(portal))
    with pytest.raises(ValueError, match="did you mean 'Fetch'"):
        Requests(portal, "Fech")
    journal.dropped = 7
    assert len(Requests(portal, "Fetch")) == 1
    with pytest.raises(RuntimeError, match="7 requests came before"):
        _ = Requests(portal, "Fetch").count


def test_a_journal_is_bounded() -> None:
    journal = Journal(rows_max=3)
    for n in range(5):
        journal.note(Row("Produce", n, None, 0, ()))
    assert ([row.version for row in journal.rows()], journal.dropped) == ([2, 3, 4], 2)
