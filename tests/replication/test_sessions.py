"""What a leader keeps of its followers' sessions: what rings, and how a session ends."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.followers import NEVER
from kbroker.replication.partition import NotLeader, Partition
from kbroker.replication.sessions import HURRY_S, Followed, ReplicaSession, ReplicaSessions
from kbroker.turns import at_once
from kbroker.watermark import Watermark

ID = b"t" * 16
REPLICA, EPOCH = 2, 7


class Log:
    def __init__(self) -> None:
        self.end = Watermark(10)


class Led:
    """As much of a partition as a session needs."""

    def __init__(self) -> None:
        self.log = Log()
        self.high_watermark = Watermark(10)
        self.gone: list[int] = []

    def note_gone(self, replica_id: int) -> None:
        self.gone.append(replica_id)


def put(session: ReplicaSession, partition: Led, index: int = 0, offset: int = 10) -> Followed:
    followed = session.put((ID, index), cast(Partition, partition))
    followed.move(offset, 0, 1000)
    return followed


def opened(sessions: ReplicaSessions) -> ReplicaSession:
    return at_once(sessions.open(REPLICA, EPOCH))


def bells(partition: Led) -> Any:
    return partition.log.end._bells, partition.high_watermark._bells


def test_what_grows_is_news_once_and_a_high_watermark_is_told_along() -> None:
    session, partition = opened(ReplicaSessions(1)), Led()
    followed = put(session, partition)
    session.stale.clear()
    session.hear(1.0)
    partition.log.end.advance(11)
    partition.log.end.advance(12)
    assert list(session.news) == [followed] and not session.stale
    followed.move(12, 0, 1000)
    session.news.clear()
    partition.high_watermark.advance(12)
    assert not session.news and list(session.take_stale(5)) == [followed]
    assert not session.stale


def test_who_reads_from_followers_waits_for_no_records_to_hear_of_a_high_watermark() -> None:
    for wakes_early in (False, True):
        session, partition = opened(ReplicaSessions(1)), Led()
        put(session, partition)
        session.wakes_early = wakes_early
        session.bell = bell = trio.Event()
        partition.high_watermark.advance(11)
        assert bell.is_set() == wakes_early


def test_the_end_of_an_epoch_is_news() -> None:
    session, partition = opened(ReplicaSessions(1)), Led()
    followed = put(session, partition)
    session.news.clear()
    partition.high_watermark.close(NotLeader())
    assert list(session.news) == [followed]
    partition.high_watermark = Watermark(10)  # it leads again
    assert put(session, partition) is not followed


def test_requests_are_answered_in_their_order_or_not_at_all() -> None:
    sessions = ReplicaSessions(first_id=5)
    session = opened(sessions)
    session.hear(1.0)
    assert (session.id, session.epoch, session.heard_s, session.proven_s) == (5, 1, 1.0, NEVER)
    session.answer(1.5)
    assert sessions.resume(REPLICA, EPOCH, 5, 1) is session
    session.hear(2.0)
    assert (session.epoch, session.heard_s, session.proven_s) == (2, 2.0, 1.5)
    for arguments, code in (
        ((REPLICA, EPOCH, 5, 1), ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        ((REPLICA, EPOCH, 6, 2), ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        ((REPLICA, EPOCH + 1, 5, 2), ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        ((REPLICA + 1, EPOCH, 5, 2), ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
    ):
        with pytest.raises(KafkaError) as caught:
            sessions.resume(*arguments)
        assert caught.value.code == code


@pytest.mark.parametrize("how", ["another", "its registration"])
def test_a_session_that_ends_lets_go_of_everything(how: str) -> None:
    sessions, partitions = ReplicaSessions(1), [Led() for _ in range(100)]
    session = opened(sessions)
    for index, partition in enumerate(partitions):
        put(session, partition, index)
    at_once(sessions.drop(REPLICA, EPOCH - 1))  # of an earlier registration: nothing to it
    assert not session.is_over
    if how == "another":
        opened(sessions)
    else:
        at_once(sessions.drop(REPLICA, EPOCH))
    assert session.is_over and not session.partitions and not session.news and not session.stale
    assert all(bells(partition) == (None, None) and partition.gone == [REPLICA] for partition in partitions)
    with pytest.raises(KafkaError):
        put(session, Led())


def test_followers_of_a_new_leadership_are_hurried() -> None:
    sessions = ReplicaSessions(1)
    session = opened(sessions)
    session.bell = bell = trio.Event()
    sessions.hurry((REPLICA, 3), 100.0)
    assert bell.is_set() and session.hurried_until_s == 100.0 + HURRY_S
