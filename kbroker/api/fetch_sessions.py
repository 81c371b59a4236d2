"""Fetch sessions (KIP-227): a consumer of many partitions says only what changed, and is told only what changed.

    epoch 0     full fetch, asks for a session       epoch -1    full fetch, ends the session and wants none
    epoch n>0   incremental: the request's partitions are added or replaced, the forgotten ones removed;
                the answer has the partitions with records, an error, or a moved high watermark or log start

A session begins with the answer to a full fetch, and ends when a request leaves no partition in it. It names topics the
way it began: all by name or all by ID. It is a dict of partitions in the order of that answer; one that had records
moves to the end, so that a busy one cannot starve those behind it. The cache is bounded
(`max.incremental.fetch.session.cache.slots`, and a number of partitions in all): when it is full, the longest unused
session gives way once it has been idle for two minutes, else a client does without. Everything here is pure. (Kafka:
FetchSession.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.replication.fetcher import EPOCH_MAX

IDLE_BEFORE_EVICTION_MS = 120_000
PARTITIONS_MAX = 250_000  # of all sessions: some 80 MB
NO_SESSION = 0
FULL, FINAL = 0, -1

PartitionKey = tuple["str | bytes", int]  # topic name or topic ID as it came on the wire, partition index


class Wanted(NamedTuple):
    """What a client wants of one partition."""

    offset: int
    bytes_max: int
    current_leader_epoch: int  # negative: it does not know
    last_fetched_epoch: int = -1  # of the record before offset; negative: it does not say


class Session:
    """One client's partitions, and what it was last told of each."""

    __slots__ = ("id", "by_id", "epoch", "wanted", "told", "used_ms")

    def __init__(self, session_id: int, by_id: bool, now_ms: int) -> None:
        self.id = session_id
        self.by_id = by_id  # topics are named by ID
        self.epoch = 1  # the epoch the next incremental request must carry
        self.wanted: dict[PartitionKey, Wanted] = {}  # what a request names is added or replaced
        self.told: dict[PartitionKey, tuple[int, int]] = {}  # (high watermark, log start) last sent
        self.used_ms = now_ms

    def add(self, key: PartitionKey, wanted: Wanted, high_watermark: int, log_start: int) -> None:
        """Take a partition in, in the answer that begins the session and tells these."""
        self.wanted[key] = wanted
        self.told[key] = high_watermark, log_start

    def forget(self, keys: Iterable[PartitionKey]) -> None:
        """Let partitions go; unknown ones are fine."""
        for key in keys:
            if self.wanted.pop(key, None) is not None:
                self.told.pop(key, None)

    def is_news(
        self, key: PartitionKey, high_watermark: int, log_start: int, length: int, *, must_tell: bool = False
    ) -> bool:
        """Whether the client has to be told; from now on it knows.

        length: bytes of records. must_tell: there is an error, or another replica to read from.
        """
        news = (high_watermark, log_start)
        if length:
            wanted = self.wanted.pop(key, None)
            if wanted is not None:
                self.wanted[key] = wanted
        elif not must_tell and self.told.get(key) == news:
            return False
        self.told[key] = news
        return True


class FetchSessions:
    """The bounded cache of sessions."""

    __slots__ = ("slots", "_sessions", "_next_id")

    def __init__(self, slots: int, first_id: int = 1) -> None:
        self.slots = slots
        self._sessions: dict[int, Session] = {}  # in order of last use
        self._next_id = first_id

    def __len__(self) -> int:
        return len(self._sessions)

    def partitions(self, session_id: int) -> Sequence[PartitionKey]:
        """What is in a session now; nothing where there is none."""
        session = self._sessions.get(session_id)
        return tuple(session.wanted) if session is not None else ()

    def resume(self, session_id: int, epoch: int, by_id: bool, now_ms: int) -> Session:
        """The session an incremental request means, for it to change.

        Raises KafkaError FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR, by
        which nothing is changed: the client starts over.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise KafkaError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if epoch != session.epoch:
            raise KafkaError(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if by_id != session.by_id:
            raise KafkaError(ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        del self._sessions[session_id]
        self._sessions[session_id] = session
        session.epoch = session.epoch % EPOCH_MAX + 1
        session.used_ms = now_ms
        return session

    def has_room(self, partitions: int = 0) -> bool:
        """Whether the sessions may have so many partitions more."""
        return sum([len(session.wanted) for session in self._sessions.values()]) + partitions <= PARTITIONS_MAX

    def open(self, by_id: bool, partitions: int, now_ms: int) -> Session | None:
        """A new session for a number of partitions, or None when the cache is full of sessions in use."""
        while len(self._sessions) >= self.slots or not self.has_room(partitions):
            oldest = next(iter(self._sessions.values()), None)
            if oldest is None or now_ms - oldest.used_ms < IDLE_BEFORE_EVICTION_MS:
                return None
            del self._sessions[oldest.id]
        session = Session(self._next_id, by_id, now_ms)
        self._next_id = self._next_id % EPOCH_MAX + 1
        self._sessions[session.id] = session
        return session

    def close(self, session_id: int) -> None:
        """Forget a session; an unknown one is fine."""
        self._sessions.pop(session_id, None)
