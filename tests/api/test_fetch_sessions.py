"""Fetch sessions, as the pure cache they are (KIP-227)."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api.fetch_sessions import EPOCH_MAX, IDLE_BEFORE_EVICTION_MS, FetchSessions, Session, Wanted

WANTED = Wanted(0, 1024, -1)


def test_an_incremental_request_must_carry_the_next_epoch() -> None:
    sessions = FetchSessions(slots=2)
    session = sessions.open(0)
    assert session is not None
    assert sessions.find(session.id, 1, 0) is session
    assert sessions.find(session.id, 2, 0) is session
    with pytest.raises(KafkaError) as caught:
        sessions.find(session.id, 2, 0)
    assert caught.value.code == ErrorCode.INVALID_FETCH_SESSION_EPOCH


def test_epochs_wrap_to_one() -> None:
    sessions = FetchSessions(slots=1)
    session = sessions.open(0)
    assert session is not None
    session.epoch = EPOCH_MAX
    sessions.find(session.id, EPOCH_MAX, 0)
    assert session.epoch == 1


def test_an_unknown_session_is_named_so() -> None:
    with pytest.raises(KafkaError) as caught:
        FetchSessions(slots=1).find(7, 1, 0)
    assert caught.value.code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_a_full_cache_evicts_only_the_idle() -> None:
    sessions = FetchSessions(slots=2)
    first, second = sessions.open(0), sessions.open(0)
    assert first is not None and second is not None
    assert sessions.open(1000) is None
    sessions.find(first.id, 1, 1000)  # now second is the longest unused
    assert sessions.open(IDLE_BEFORE_EVICTION_MS) is not None
    assert len(sessions) == 2
    with pytest.raises(KafkaError):
        sessions.find(second.id, 1, 0)


def test_partitions_are_added_replaced_and_forgotten() -> None:
    session = Session(1, 0)
    session.update([(("a", 0), WANTED), (("a", 1), WANTED)], [])
    session.update([(("a", 0), WANTED._replace(offset=9))], [("a", 1), ("never", 0)])
    assert session.wanted == {("a", 0): WANTED._replace(offset=9)}


def test_a_busy_partition_goes_to_the_end_of_the_line() -> None:
    session = Session(1, 0)
    session.update([(("a", i), WANTED) for i in range(3)], [])
    session.had_records(("a", 0))
    assert list(session.wanted) == [("a", 1), ("a", 2), ("a", 0)]


def test_only_news_is_news() -> None:
    session = Session(1, 0)
    assert session.changed(("a", 0), 5, 0)
    assert not session.changed(("a", 0), 5, 0)
    assert session.changed(("a", 0), 6, 0)
