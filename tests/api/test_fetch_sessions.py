"""Fetch sessions, as the pure cache they are (KIP-227)."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api.fetch_sessions import (
    EPOCH_MAX,
    IDLE_BEFORE_EVICTION_MS,
    PARTITIONS_MAX,
    FetchSessions,
    PartitionKey,
    Session,
    Wanted,
)

WANTED = Wanted(0, 1024, -1)


def opened(sessions: FetchSessions, now_ms: int = 0, *, by_id: bool = False) -> Session:
    """A session with one partition in it."""
    session = sessions.open(by_id, 1, now_ms)
    assert session is not None
    session.add(("a", 0), WANTED, 0, 0)
    return session


def resume(sessions: FetchSessions, session: Session, epoch: int, now_ms: int = 0) -> Session:
    return sessions.resume(session.id, epoch, session.by_id, now_ms)


def test_an_incremental_request_must_carry_the_next_epoch() -> None:
    sessions = FetchSessions(slots=2)
    session = opened(sessions)
    assert resume(sessions, session, 1) is session
    assert resume(sessions, session, 2) is session
    for epoch in (2, 4, -2):
        with pytest.raises(KafkaError) as caught:
            resume(sessions, session, epoch)
        assert caught.value.code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert resume(sessions, session, 3) is session  # what was refused has changed nothing


def test_epochs_wrap_to_one() -> None:
    sessions = FetchSessions(slots=1)
    session = opened(sessions)
    session.epoch = EPOCH_MAX
    resume(sessions, session, EPOCH_MAX)
    assert session.epoch == 1


def test_an_unknown_session_is_named_so() -> None:
    for session_id in (7, 0, -3):
        with pytest.raises(KafkaError) as caught:
            FetchSessions(slots=1).resume(session_id, 1, False, 0)
        assert caught.value.code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


@pytest.mark.parametrize("by_id", [False, True])
def test_a_session_names_topics_in_one_way(by_id: bool) -> None:
    sessions = FetchSessions(slots=1)
    session = opened(sessions, by_id=by_id)
    with pytest.raises(KafkaError) as caught:
        sessions.resume(session.id, 1, not by_id, 0)
    assert caught.value.code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
    assert resume(sessions, session, 1) is session


def test_a_full_cache_evicts_only_the_idle() -> None:
    sessions = FetchSessions(slots=2)
    first, second = opened(sessions), opened(sessions)
    assert sessions.open(False, 1, 1000) is None
    resume(sessions, first, 1, 1000)  # now second is the longest unused
    with pytest.raises(KafkaError):
        resume(sessions, second, 9, 1500)  # a refused request is no use
    assert sessions.open(False, 1, IDLE_BEFORE_EVICTION_MS) is not None
    assert len(sessions) == 2
    with pytest.raises(KafkaError):
        resume(sessions, second, 1)


def test_the_partitions_of_all_sessions_are_bounded() -> None:
    sessions = FetchSessions(slots=10)
    large = opened(sessions)
    large.wanted.update({("a", index): WANTED for index in range(PARTITIONS_MAX - 10)})
    assert sessions.open(False, 10, 1000) is not None and sessions.open(False, 11, 1000) is None
    assert sessions.has_room(10) and not sessions.has_room(11)
    assert sessions.open(False, PARTITIONS_MAX, IDLE_BEFORE_EVICTION_MS) is not None, "the idle give way"
    with pytest.raises(KafkaError):
        resume(sessions, large, 1)
    assert sessions.open(False, PARTITIONS_MAX + 1, 10 * IDLE_BEFORE_EVICTION_MS) is None


def test_what_is_forgotten_is_news_when_it_comes_again() -> None:
    session = opened(FetchSessions(slots=1))
    session.forget([("a", 0), ("never", 0)])
    assert session.wanted == {}
    session.wanted[("a", 0)] = WANTED
    assert session.is_news(("a", 0), 0, 0, 0)


def test_a_busy_partition_goes_to_the_end_of_the_line() -> None:
    session = Session(1, False, 0)
    session.wanted.update({("a", i): WANTED for i in range(3)})
    assert session.is_news(("a", 0), 5, 0, 100)
    assert list(session.wanted) == [("a", 1), ("a", 2), ("a", 0)]
    assert session.is_news(("gone", 0), 5, 0, 100)
    assert ("gone", 0) not in session.wanted


def test_only_news_is_news() -> None:
    session = Session(1, False, 0)
    key: PartitionKey = ("a", 0)
    session.add(key, WANTED, 5, 0)
    assert not session.is_news(key, 5, 0, 0)
    assert session.is_news(key, 6, 0, 0)
    assert session.is_news(key, 6, 1, 0)
    assert not session.is_news(key, 6, 1, 0)
    assert session.is_news(key, 6, 1, 10)
    assert all(session.is_news(key, -1, -1, 0, must_tell=True) for _ in range(3))  # an error is, every time
    assert session.is_news(key, 6, 1, 0)  # and its end
