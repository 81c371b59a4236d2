"""Fetch as a follower asks: what it has is noted, what it lacks is sent, in a session with this leader.

    named partitions ─▶ epoch right? one history? ─▶ noted ─▶ those with news, in order ─▶ enough? ─yes─▶ answer
                             │ no: told why                       ▲                    │ no: awaited
                             └──────────────────▶ answer          └─── a bell rings ───┴─ max_wait_ms ─▶ answer

The answer has only what is news: records, a high watermark that moved, an error. Followers read up to the log's end.
One that has another history than this log is told where the two part, and what it says it has is not counted (R1). One
whose end lies before the log's start is told the start, with OFFSET_OUT_OF_RANGE: it has nothing to ask then. What is
not in memory is brought there by workers.

Only a broker may ask so, with its own id and in its own epoch (R12); others are answered as clients (fetch.py). (Kafka:
KafkaApis.handleFetchRequest, ReplicaManager.fetchMessages, Partition.fetchRecords, DelayedFetch.)
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from functools import partial
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    EpochEndOffset,
    FetchableTopicResponse,
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from kbroker.api.context import Context
from kbroker.api.fetch_sessions import FINAL, FULL
from kbroker.api.read_replicas import is_rack_aware
from kbroker.awaited import Awaited
from kbroker.env import FileSlice
from kbroker.log.cold import told
from kbroker.replication.fetcher import Key
from kbroker.replication.partition import Partition
from kbroker.replication.reads import ReadResult
from kbroker.replication.sessions import HURRIED_WAIT_S, Followed, ReplicaSession
from kbroker.replication.throttles import is_throttled
from kbroker.turns import PAUSES_A_TURN, Errand, Errands, finish_errands
from kbroker.watermark import Bell

COPY_MAX = 64 * 1024  # bytes of records that an answer holds itself; more are sent from the file
COPIES_MAX = 256 * 1024  # of all partitions
ENTRIES_A_PAUSE, READS_A_PAUSE = 16, 8
TOLD_MAX = 500  # high watermarks told in one answer besides those of records
_DONE: Any = object()


def replica_fetch(
    request: FetchRequest, context: Context
) -> FetchResponse | Awaited | Coroutine[Any, Any, FetchResponse | Awaited]:
    """Answer a follower that has proven who it is, or have the answer awaited; a coroutine if it takes more turns."""
    job = ReplicaFetch(request, context)
    work = job.take_in()
    errand = _one_turn(work)
    return job.settled() if errand is _DONE else job.go_on(work, errand)


def _one_turn(work: Errands[None]) -> Errand | None:
    """Do as much of work as goes into a turn, here and now. What it sends for, if it does; _DONE when that was all."""
    for _ in range(PAUSES_A_TURN):
        errand = next(work, _DONE)
        if errand is not None:
            return errand
    return None


class ReplicaFetch(Awaited):
    """One fetch of a follower under way."""

    __slots__ = (
        "request",
        "context",
        "services",
        "session",
        "epoch",
        "error",
        "rows",
        "read",
        "size",
        "copied",
        "failed",
        "answer_at",
        "bell",
    )

    def __init__(self, request: FetchRequest, context: Context) -> None:
        self.request = request
        self.context = context
        self.services = context.services
        self.session: ReplicaSession | None = None
        self.epoch = 0  # of the session, as this fetch left it
        self.error = ErrorCode.NONE  # of the session
        self.rows: list[tuple[Key, FetchPartitionData]] = []
        self.read: dict[Followed, int] = {}  # whose records are in them, how many bytes
        self.size = 0  # of those
        self.copied = 0  # bytes of records that the answer holds itself
        self.failed = False  # the follower is to be told something at once
        self.answer_at = 0.0  # whatever there is by then, on trio's clock
        self.bell: Bell | None = None  # hung on the session

    # -- the request --------------------------------------------------------------------------------------------------

    def take_in(self) -> Errands[None]:
        """Take the request into its session, and read what is news."""
        try:
            session = self.session = yield from self._find_session()
            session.hear(self.services.env.clock.liveness())
            session.wakes_early = is_rack_aware(self.services.config)
            self.epoch = session.epoch
            for number, (key, wanted) in enumerate(_named(self.request), start=1):
                if not number % ENTRIES_A_PAUSE:
                    yield None
                self._note(session, key, wanted)
            for number, key in enumerate(_forgotten(self.request), start=1):
                if not number % ENTRIES_A_PAUSE:
                    yield None
                session.drop(key)
        except KafkaError as error:
            self.error, self.failed = error.code, True
            return
        yield from self._read_news(session)

    def _find_session(self) -> Errands[ReplicaSession]:
        request, peer, sessions = self.request, self.context.peer, self.services.replicas.sessions
        if request.session_epoch in (FULL, FINAL):
            return (yield from sessions.open(peer.broker_id, peer.broker_epoch))
        return sessions.resume(peer.broker_id, peer.broker_epoch, request.session_id, request.session_epoch)

    def _note(self, session: ReplicaSession, key: Key, wanted: FetchPartition) -> None:
        """A partition is named: the follower has everything below its offset, if it has the same history."""
        offset, epoch, last_epoch = wanted.fetch_offset, wanted.current_leader_epoch, wanted.last_fetched_epoch
        partition: Partition | None = None
        try:
            partition = self._partition(key)
            partition.check_follower(session.replica_id, epoch)
            parting = partition.parting(offset, epoch, last_epoch, as_replica=True) if last_epoch >= 0 else None
            if parting is None:
                session.put(key, partition).move(offset, epoch, wanted.partition_max_bytes)
                start = wanted.log_start_offset
                partition.note_fetch(session.replica_id, session.broker_epoch, offset, session.heard_s, session, start)
                return
            session.drop(key)
            self._tell_parting(key, partition, parting)
        except KafkaError as error:
            if session.is_over:
                raise
            session.drop(key)
            self._tell(key, error, partition)

    def _partition(self, key: Key) -> Partition:
        topic_id, index = key
        topic = self.services.image.topics_by_id.get(topic_id)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
        partition = self.services.partition(topic.name, index)
        if partition.topic_id != topic_id:
            raise KafkaError(ErrorCode.INCONSISTENT_TOPIC_ID)
        return partition

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read_news(self, session: ReplicaSession) -> Errands[None]:
        """Read what is news, as much as goes into the answer. What is read is no news any more."""
        left = self.request.max_bytes - self.size
        for number, followed in enumerate(tuple(session.news), start=1):
            if left <= 0 and self.size:
                return
            if not number % READS_A_PAUSE:
                yield None
            if followed not in session.news:
                continue  # it has left meanwhile
            if self._is_held_back(followed, session):
                continue
            try:
                result = yield from told(partial(self._read_one, followed, min(followed.bytes_max, left)))
                records = (yield from self._copied(result)) if result.length else b""
            except (KafkaError, OSError) as error:
                session.drop(followed.key)
                self._tell(followed.key, error, followed.partition)
                continue
            if result.length:
                session.news.pop(followed, None)
                session.stale.pop(followed, None)
                self._add(followed, result, records)
                left -= result.length
            elif followed.offset >= followed.partition.log.end.value:
                session.news.pop(followed, None)

    def _read_one(self, followed: Followed, bytes_max: int, *, now: bool) -> ReadResult:
        partition = followed.partition
        return partition.read_as_replica(
            followed.offset, bytes_max, followed.leader_epoch, at_least_one=not self.size, now=now
        )

    def _copied(self, result: ReadResult) -> Errands[Any]:
        """Records as the answer is to have them: few in memory, many as slices to be sent from the file."""
        slices = result.slices
        if result.length > COPY_MAX or len(slices) > 1 or self.copied > COPIES_MAX:
            return slices
        self.copied += result.length
        piece = slices[0]
        assert isinstance(piece, FileSlice)
        records = piece.read_now()
        return (yield piece.read) if records is None else records

    def _add(self, followed: Followed, result: ReadResult, records: Any) -> None:
        data = FetchPartitionData(partition_index=followed.key[1], aborted_transactions=None)
        data.high_watermark = followed.told = result.high_watermark
        data.last_stable_offset = result.last_stable_offset
        data.log_start_offset = followed.told_start = result.log_start_offset
        data.records = records
        self.rows.append((followed.key, data))
        self.read[followed] = result.length
        self.size += result.length
        throttle = self.services.replicas.leader_throttle
        if throttle.is_set and self._is_throttled(followed.partition):
            throttle.record(result.length)

    def _is_held_back(self, followed: Followed, session: ReplicaSession) -> bool:
        """Whether what there is has to wait, so that replication leaves room for others (KIP-73).

        Only of a replica that is not in sync. (Kafka: ReplicaManager.shouldLeaderThrottle.)
        """
        throttle = self.services.replicas.leader_throttle
        return (
            throttle.is_set
            and session.replica_id not in followed.partition.isr
            and self._is_throttled(followed.partition)
            and throttle.wait_s() > 0
        )

    def _is_throttled(self, partition: Partition) -> bool:
        replicas = partition.log.config.leader_replication_throttled_replicas
        return is_throttled(replicas, partition.index, self.services.node_id)

    def _tell_parting(self, key: Key, partition: Partition, parting: tuple[int, int]) -> None:
        self.rows.append(
            (
                key,
                FetchPartitionData(
                    partition_index=key[1],
                    high_watermark=partition.high_watermark.value,
                    log_start_offset=partition.log.start_offset,
                    diverging_epoch=EpochEndOffset(epoch=parting[0], end_offset=parting[1]),
                    aborted_transactions=None,
                ),
            )
        )
        self.failed = True

    def _tell(self, key: Key, error: KafkaError | OSError, partition: Partition | None) -> None:
        """Why a partition is not served. The log's start lets a follower behind it start over."""
        code = ErrorCode.KAFKA_STORAGE_ERROR if isinstance(error, OSError) else error.code
        data = FetchPartitionData(partition_index=key[1], error_code=code, high_watermark=-1, aborted_transactions=None)
        if code is ErrorCode.OFFSET_OUT_OF_RANGE and partition is not None:
            data.log_start_offset = partition.log.start_offset
        if code is ErrorCode.KAFKA_STORAGE_ERROR and partition is not None:
            self.services.tell_of_disk(partition.topic, partition.index, error)
        self.rows.append((key, data))
        self.failed = True

    # -- the answer ---------------------------------------------------------------------------------------------------

    def settled(self) -> FetchResponse | Awaited:
        """The answer, if there is nothing to wait for; else what is awaited."""
        if self.failed or self.size >= self.request.min_bytes or self.request.max_wait_ms <= 0:
            return self.answer()
        assert self.session is not None
        self._put_back(self.session)
        self.answer_at = trio.current_time() + self.request.max_wait_ms / 1000
        return self

    async def go_on(self, work: Errands[None], errand: Errand | None) -> FetchResponse | Awaited:
        """Finish what takes more than one turn; then it may have to be awaited."""
        await finish_errands(work, errand, self.services.env.offload)
        return self.settled()

    def look(self) -> FetchResponse | Coroutine[Any, Any, FetchResponse] | None:
        """The answer, when there is enough, the session goes on without this fetch, or max_wait_ms is over."""
        session, now = self.session, trio.current_time()
        assert session is not None
        if self._is_overtaken():
            return self.answer()
        if not self._is_enough(session) and now < self.answer_at:
            is_hurried = self.services.env.clock.liveness() < session.hurried_until_s
            if is_hurried:
                self.answer_at = min(self.answer_at, now + HURRIED_WAIT_S)
            self.until = min(self.answer_at, now + self._held_s(session))
            return None
        work = self._read_news(session)
        errand = _one_turn(work)
        return self.answer() if errand is _DONE else self._finish(work, errand)

    async def _finish(self, work: Errands[None], errand: Errand | None) -> FetchResponse:
        await finish_errands(work, errand, self.services.env.offload)
        return self.answer()

    def listen(self, bell: Bell) -> None:
        """Ring this bell for news."""
        assert self.session is not None
        self.bell = self.session.bell = bell

    def leave(self) -> None:
        """Ring no more."""
        assert self.session is not None
        if self.session.bell is self.bell:
            self.session.bell = None

    def _put_back(self, session: ReplicaSession) -> None:
        """What was read is too little: it will be read again, and first."""
        if self.read:
            session.news = {**dict.fromkeys(self.read), **session.news}
            self.rows, self.read, self.size, self.copied = [], {}, 0, 0

    def _held_s(self, session: ReplicaSession) -> float:
        """How long what there is may be held back, seconds."""
        return (self.services.replicas.leader_throttle.wait_s() if session.news else 0) or float("inf")

    def _is_enough(self, session: ReplicaSession) -> bool:
        """Whether to wait no longer: there are bytes_min to be read, or something that cannot be."""
        if session.wakes_early and session.stale:
            return True
        if self.request.min_bytes <= 1:
            return any(not self._is_held_back(followed, session) for followed in session.news)
        length = 0
        for followed in session.news:
            if not self._is_held_back(followed, session):
                log, most = followed.partition.log, followed.bytes_max
                try:
                    followed.partition.high_watermark.check()
                    length += min(most, log.bytes_between(followed.offset, log.end.value, most))
                except (KafkaError, OSError):
                    return True
            if length >= self.request.min_bytes:
                return True
        return False

    def _is_overtaken(self) -> bool:
        session = self.session
        return session is None or session.is_over or session.epoch != self.epoch

    def answer(self) -> FetchResponse:
        """What was found, and the high watermarks and log starts that moved."""
        session = self.session
        if session is None or self.error:
            return FetchResponse(error_code=self.error)
        if self._is_overtaken():
            return FetchResponse(error_code=ErrorCode.INVALID_FETCH_SESSION_EPOCH, session_id=session.id)
        for followed in session.take_stale(TOLD_MAX):
            self._tell_offsets(followed)
        session.answer(self.services.env.clock.liveness())
        for followed, size in self.read.items():
            followed.partition.traffic.sent_to_follower(size)
        return FetchResponse(session_id=session.id, responses=_by_topic(self.rows))

    def _tell_offsets(self, followed: Followed) -> None:
        partition = followed.partition
        high_watermark, start = partition.high_watermark.value, partition.log.start_offset
        if high_watermark != followed.told or start != followed.told_start:
            followed.told, followed.told_start = high_watermark, start
            data = FetchPartitionData(partition_index=followed.key[1], aborted_transactions=None)
            data.high_watermark, data.log_start_offset = high_watermark, start
            self.rows.append((followed.key, data))


def _named(request: FetchRequest) -> Iterator[tuple[Key, FetchPartition]]:
    for topic in request.topics:
        for partition in topic.partitions:
            yield (topic.topic_id, partition.partition), partition


def _forgotten(request: FetchRequest) -> Iterator[Key]:
    for topic in request.forgotten_topics_data:
        for index in topic.partitions:
            yield topic.topic_id, index


def _by_topic(rows: Iterable[tuple[Key, FetchPartitionData]]) -> list[FetchableTopicResponse]:
    """Neighbours of one topic share an entry."""
    topics: list[FetchableTopicResponse] = []
    for (topic_id, _), data in rows:
        if not topics or topics[-1].topic_id != topic_id:
            topics.append(FetchableTopicResponse(topic_id=topic_id, partitions=[]))
        topics[-1].partitions.append(data)
    return topics
