"""What the bell tells whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.cluster.stores.bell import Bell


@pytest.fixture
def bells(tmp_path: Path) -> list[Bell]:
    return [Bell(str(tmp_path / "bell"), who) for who in (b"process1", b"process2", b"process3")]


def test_it_is_heard_once_by_all_others(bells: list[Bell]) -> None:
    one, two, three = bells
    assert not any(bell.has_rung() for bell in bells)
    for _ in range(2):
        one.ring()
        assert not one.has_rung()
        assert two.has_rung() and not two.has_rung()
    assert three.has_rung() and not three.has_rung()


def test_who_rings_last_has_heard_the_others_before(bells: list[Bell]) -> None:
    """It reads what is new after it has rung."""
    one, two, three = bells
    one.ring()
    two.ring()
    assert one.has_rung() and not two.has_rung() and three.has_rung()
