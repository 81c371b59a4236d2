"""The fetch session as a follower keeps it: what is asked, and what answers mean."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    EpochEndOffset,
    FetchableTopicResponse,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from kafka_wire.records import build_batch
from kbroker.replication.fetcher import (
    NAMED_MAX,
    PIECE_BATCHES,
    PIECE_BYTES,
    Append,
    Fetcher,
    Key,
    Limits,
    Position,
    Refused,
    StartOver,
    Truncate,
    pieces,
)

A, B = bytes([1] * 16), bytes([2] * 16)
LIMITS = Limits(500, 1, 10_000_000, 1_000_000)
START = Position(0, -1, 3, 0)


def fetcher(*keys: Key) -> Fetcher:
    made = Fetcher(2, 77)
    for key in keys:
        made.follow(key, START)
    return made


def asked(request: FetchRequest | None) -> dict[Key, int]:
    assert request is not None
    return {(topic.topic_id, p.partition): p.fetch_offset for topic in request.topics for p in topic.partitions}


def forgotten(request: FetchRequest | None) -> list[Key]:
    assert request is not None
    return [(topic.topic_id, index) for topic in request.forgotten_topics_data for index in topic.partitions]


def answer(*rows: tuple[Key, FetchPartitionData], session_id: int = 9, error_code: int = 0) -> FetchResponse:
    topics = [FetchableTopicResponse(topic_id=key[0], partitions=[data]) for key, data in rows]
    return FetchResponse(error_code=error_code, session_id=session_id, responses=topics)


def data(index: int = 0, **fields: object) -> FetchPartitionData:
    return FetchPartitionData(partition_index=index, **fields)  # type: ignore[arg-type]


def test_a_session_begins_with_everything_and_goes_on_with_what_changed() -> None:
    session = fetcher((A, 0), (A, 1), (B, 0))
    request = session.request(0.0, LIMITS)
    assert request is not None and request.replica_state is not None
    assert (request.session_id, request.session_epoch, request.max_wait_ms) == (0, 0, 500)
    assert (request.replica_state.replica_id, request.replica_state.replica_epoch) == (2, 77)
    assert asked(request) == {(A, 0): 0, (A, 1): 0, (B, 0): 0}

    assert session.take(answer(((A, 1), data(1, records=b"x", high_watermark=4, log_start_offset=1)))) == [
        ((A, 1), Append(memoryview(b"x"), 4, 1))
    ]
    session.moved((A, 1), Position(5, 3, 3, 1))
    request = session.request(0.0, LIMITS)
    assert request is not None
    assert (request.session_id, request.session_epoch) == (9, 1)
    assert asked(request) == {(A, 1): 5}
    session.take(answer())
    request = session.request(0.0, LIMITS)
    assert request is not None
    assert (asked(request), request.session_epoch) == ({}, 2)


def test_an_idle_session_of_ten_thousand_is_asked_about_nothing_and_begins_in_pieces() -> None:
    keys = [(A, index) for index in range(10_000)]
    session = fetcher(*keys)
    seen: list[Key] = []
    while len(seen) < len(keys):
        request = session.request(0.0, LIMITS)
        assert request is not None
        named = list(asked(request))
        assert 0 < len(named) <= NAMED_MAX
        seen += named
        assert request.max_wait_ms == (500 if len(seen) == len(keys) else 0)
        session.take(answer())
    assert seen == keys
    request = session.request(0.0, LIMITS)
    assert asked(request) == {} and forgotten(request) == []


def test_what_is_left_is_forgotten_and_may_come_again() -> None:
    session = fetcher((A, 0), (A, 1))
    session.request(0.0, LIMITS)
    session.take(answer())
    session.leave((A, 0))
    session.leave((A, 7))
    request = session.request(0.0, LIMITS)
    assert (asked(request), forgotten(request)) == ({}, [(A, 0)])
    assert session.take(answer(((A, 0), data(records=b"late")))) == []
    session.leave((A, 1))
    session.follow((A, 1), Position(3, 3, 4, 0))  # before it was told: it never left
    request = session.request(0.0, LIMITS)
    assert (asked(request), forgotten(request)) == ({(A, 1): 3}, [])


def test_an_answer_about_a_partition_that_moved_meanwhile_says_nothing() -> None:
    session = fetcher((A, 0), (A, 1))
    session.request(0.0, LIMITS)
    session.follow((A, 0), Position(0, -1, 4, 0))  # another leader epoch
    session.leave((A, 1))
    assert session.take(answer(((A, 0), data(records=b"x")), ((A, 1), data(1, records=b"x")))) == []
    assert asked(session.request(0.0, LIMITS)) == {(A, 0): 0}


def test_errors_delay_a_partition_longer_each_time_and_no_other() -> None:
    session = fetcher((A, 0), (A, 1))
    session.request(0.0, LIMITS)
    session.take(answer())
    waits = []
    for _ in range(7):
        now = session.due_s if waits else 10.0
        request = session.request(now, LIMITS)
        session.take(answer(((A, 0), data(error_code=ErrorCode.UNKNOWN_LEADER_EPOCH))))
        session.delay((A, 0), now, 1.0)
        waits.append(round(session.due_s - now, 3))
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    request = session.request(now, LIMITS)
    assert (asked(request), forgotten(request)) == ({}, [(A, 0)])
    session.take(answer())
    request = session.request(session.due_s - 0.2, LIMITS)
    assert request is not None and request.max_wait_ms <= 201  # it is wanted again by then
    session.take(answer())
    assert asked(session.request(session.due_s, LIMITS)) == {(A, 0): 0}
    session.take(answer())
    session.moved((A, 0), Position(1, 3, 3, 0))
    session.request(now, LIMITS)
    session.take(answer())
    session.delay((A, 0), 50.0, 1.0)
    assert session.due_s == 50.05  # it went well in between


def test_nothing_is_asked_while_all_is_delayed() -> None:
    session = fetcher((A, 0))
    session.delay((A, 0), 1.0, 1.0)
    assert session.request(1.0, LIMITS) is None
    assert len(session) == 1
    assert asked(session.request(1.05, LIMITS)) == {(A, 0): 0}


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    ],
)
def test_a_session_that_is_over_begins_again(code: ErrorCode) -> None:
    session = fetcher((A, 0), (A, 1))
    session.request(0.0, LIMITS)
    session.take(answer())
    session.leave((A, 1))
    with pytest.raises(KafkaError) as caught:
        session.take(answer(error_code=code))
    assert caught.value.code == code
    request = session.request(0.0, LIMITS)
    assert request is not None
    assert (request.session_id, request.session_epoch, forgotten(request)) == (0, 0, [])
    assert asked(request) == {(A, 0): 0}


def test_an_answer_that_is_lost_begins_again_with_everything() -> None:
    session = fetcher((A, 0))
    session.request(0.0, LIMITS)
    session.take(answer())
    session.request(0.0, LIMITS)
    session.start_over()
    assert asked(session.request(0.0, LIMITS)) == {(A, 0): 0}


def test_every_answer_has_a_meaning() -> None:
    session = fetcher((A, 0), (A, 1), (A, 2), (A, 3), (A, 4))
    session.request(0.0, LIMITS)
    steps = session.take(
        answer(
            ((A, 0), data(0, diverging_epoch=EpochEndOffset(epoch=2, end_offset=40))),
            ((A, 1), data(1, error_code=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=100)),
            ((A, 2), data(2, error_code=ErrorCode.OFFSET_OUT_OF_RANGE)),
            ((A, 3), data(3, error_code=ErrorCode.UNKNOWN_TOPIC_ID)),
            ((A, 4), data(4, error_code=9999)),
        )
    )
    assert dict(steps) == {
        (A, 0): Truncate(2, 40),
        (A, 1): StartOver(100),
        (A, 2): Refused(ErrorCode.OFFSET_OUT_OF_RANGE),
        (A, 3): Refused(ErrorCode.UNKNOWN_TOPIC_ID),
        (A, 4): Refused(ErrorCode.UNKNOWN_SERVER_ERROR),
    }


def test_records_come_in_pieces_of_whole_batches() -> None:
    small = bytes(build_batch([(b"k", b"v")]))
    large = bytes(build_batch([(b"k", bytes(PIECE_BYTES))]))
    assert [len(piece) for piece in pieces(memoryview(small * (PIECE_BATCHES + 1)))] == [
        len(small) * PIECE_BATCHES,
        len(small),
    ]
    assert [bytes(piece) for piece in pieces(memoryview(small + large + small))] == [small, large, small]
    assert [bytes(piece) for piece in pieces(memoryview(small + b"no batch"))] == [small, b"no batch"]
    assert [bytes(piece) for piece in pieces(memoryview(small + large[:-1]))] == [small, large[:-1]]
    assert list(pieces(memoryview(b""))) == []
