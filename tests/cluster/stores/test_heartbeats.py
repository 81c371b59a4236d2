"""The ends of sessions, as holders write and judges read them."""

from __future__ import annotations

from pathlib import Path

from kbroker.cluster.stores.heartbeats import ENDED, Heartbeats


def test_what_a_holder_writes_a_judge_reads(tmp_path: Path) -> None:
    judge, other = Heartbeats(str(tmp_path / "ends")), Heartbeats(str(tmp_path / "ends"))
    heartbeat = judge.begin(7, 10.5)
    assert [judge.end_of(n) for n in (0, 6, 7, 8)] == [0.0, 0.0, 10.5, ENDED]
    assert heartbeat.prolong(12.0)
    assert (judge.end_of(7), other.end_of(7), heartbeat.end) == (12.0, 12.0, 12.0)
    assert (tmp_path / "ends").stat().st_mode & 0o777 == 0o600


def test_what_a_judge_ended_stays_ended(tmp_path: Path) -> None:
    judge = Heartbeats(str(tmp_path / "ends"))
    mine, others = judge.begin(1, 10.0), judge.begin(2, 10.0)
    judge.mark_ended(1)
    assert not mine.prolong(20.0)
    assert others.prolong(20.0)
    assert (judge.end_of(1), judge.end_of(2)) == (ENDED, 20.0)


def test_a_heartbeat_takes_no_new_room(tmp_path: Path) -> None:
    judge = Heartbeats(str(tmp_path / "ends"))
    heartbeat = judge.begin(1000, 0.0)
    size = (tmp_path / "ends").stat().st_size
    assert all(heartbeat.prolong(float(n)) for n in range(1, 100))
    assert (tmp_path / "ends").stat().st_size == size
