"""Fetch 4-17: what is there now, or a wait (`max_wait_ms`) until `min_bytes` are.

    request ─▶ session (fetch_sessions.py) ─▶ wanted partitions in order ─▶ read each ─▶ enough? ──yes──▶ answer
                                                                              ▲            │ no
                                                                              │            ▼
                                         enough, an error, or max_wait_ms ────┴── wait, counting what is appended

Records are never decoded: the answer carries slices of segments, or a copy of the bytes where they are few. The first
batch of an answer is sent even when it is bigger than every limit, so that a client always gets on (KIP-74). Version 13
and later name topics by ID (KIP-516). What is not in memory is brought there by workers (kbroker.log.cold).

Consumers of version 11 and later may read from followers, up to the high watermark these know of. Where brokers have a
rack and `replica.selector.class` asks for it, the leader names a replica in the consumer's rack instead of sending
records, in each answer anew (read_replicas.py, KIP-392). What followers ask is answered by replica_fetch.py.

A partition that cannot be read ends the wait for all; one that the cluster does not have is only told, at the end of
the answer, as long as there is another one to wait for (Kafka: KafkaApis.handleFetchRequest, DelayedFetch). While it
waits, a fetch looks only at partitions whose high watermark moved, and only counts (fetch_waits.py); a fetch of many
partitions reads and answers in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

from kafka_wire.api import ApiKey
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
from kbroker.api.fetch_sessions import FINAL, FULL, NO_SESSION, PartitionKey, Session, Wanted
from kbroker.api.fetch_waits import Hearing
from kbroker.api.leaders import current_leader
from kbroker.api.read_replicas import NO_REPLICA, is_rack_aware, preferred
from kbroker.api.registry import handles
from kbroker.api.replica_fetch import replica_fetch
from kbroker.awaited import Awaited
from kbroker.cluster.image import TopicImage
from kbroker.env import Buffer, FileSlice
from kbroker.log.cold import ATTEMPTS, NotInMemory
from kbroker.log.derived.epochs import NO_EPOCH
from kbroker.log.errors import LogOffline
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import READ_COMMITTED, READ_UNCOMMITTED, Partition
from kbroker.replication.reads import SCANNED_IN_PART
from kbroker.replication.traffic import TopicTraffic
from kbroker.turns import Work, answer, each, finish, one_at_a_time

if TYPE_CHECKING:
    from kbroker.views.view import ViewPartition

RACKS_SINCE = 11  # consumers may be sent to followers, and these serve them (KIP-392)
TOPIC_IDS_SINCE = 13
LEADERS_SINCE = 16  # the answer says who leads instead (KIP-951)
STORAGE_ERRORS_SINCE = 6  # clients before it know no KAFKA_STORAGE_ERROR
COPY_MAX = 64 * 1024  # bytes of records that an answer holds itself; more are sent from the file
COPIES_MAX = 256 * 1024  # of all partitions
OWED_MAX = 4 * 1024 * 1024  # bytes that a worker goes through for one fetch, to find what is looked for
LONG = 128  # partitions: more are seen to in turns
READS, ENTRIES = 8, 64  # partitions read, and entries looked at, between two pauses: some 50 us
UNKNOWN = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID)
MOVED = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH)

T = TypeVar("T")
Row: TypeAlias = tuple[PartitionKey, FetchPartitionData, int]  # an answer, and how many bytes of records it has


@handles(ApiKey.FETCH, 4, 17)
def fetch(request: FetchRequest, context: Context) -> FetchResponse | Awaited | Coroutine[Any, Any, Any]:
    """Read batches from partitions, waiting for more where there are too few.

    Returns the response if there is enough, or nothing to wait for; else a coroutine that waits. Of a follower it is
    awaited.
    """
    by_id = context.version >= TOPIC_IDS_SINCE
    if request.isolation_level not in (READ_UNCOMMITTED, READ_COMMITTED):
        return answer(_refused(request, by_id))
    if request.replica_state is not None and context.is_replica(request.replica_state.replica_id):
        return replica_fetch(request, context)
    if _entries(request) > LONG:
        return _fetch_many(request, context)
    try:
        job = FetchJob(request, context, dict(_asked(request, by_id)))
    except KafkaError as error:
        return FetchResponse(error_code=error.code)
    if job.session is not None:
        job.session.forget(_forgotten(request, by_id))
        job.take_session()
        if len(job.wanted) > LONG:
            return job.run()
    job.read(job.wanted.items())
    if job.cold or job.lacking or job.doubts:
        return job.run()
    if job.is_settled():
        return job.response()
    return job.wait()


def _replica_id_of(request: FetchRequest) -> int:
    return request.replica_id if request.replica_state is None else request.replica_state.replica_id


def _entries(request: FetchRequest) -> int:
    entries = 0
    for topic in request.topics:
        entries += len(topic.partitions)
    for forgotten in request.forgotten_topics_data:
        entries += len(forgotten.partitions)
    return entries


async def _fetch_many(request: FetchRequest, context: Context) -> FetchResponse:
    """Like fetch, but even to see what is wanted takes turns."""
    by_id = context.version >= TOPIC_IDS_SINCE
    asked: dict[PartitionKey, Wanted] = {}
    await finish(_chunks(asked.update, _asked(request, by_id), ENTRIES))
    try:
        job = FetchJob(request, context, asked)
    except KafkaError as error:
        return FetchResponse(error_code=error.code)
    if job.session is not None:
        await finish(_chunks(job.session.forget, _forgotten(request, by_id), ENTRIES))
        job.take_session()
    return await job.run()


async def _in_chunks(function: Callable[[Collection[T]], None], items: Collection[T]) -> None:
    """function(items): a few at a time and in turns where there are many, else at once."""
    if len(items) > LONG:
        await finish(_chunks(function, items, READS))
    else:
        function(items)


def _chunks(function: Callable[[Collection[T]], None], items: Iterable[T], size: int) -> Work[None]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        function(chunk)
        yield


def _asked(request: FetchRequest, by_id: bool) -> Iterator[tuple[PartitionKey, Wanted]]:
    """What the request names. Of a partition named twice the last counts, in the place of the first."""
    for topic in request.topics:
        name = topic.topic_id if by_id else topic.topic
        for p in topic.partitions:
            epoch = p.current_leader_epoch
            wanted = Wanted(
                p.fetch_offset, p.partition_max_bytes, epoch if epoch >= 0 else NO_EPOCH, p.last_fetched_epoch
            )
            yield (name, p.partition), wanted


def _forgotten(request: FetchRequest, by_id: bool) -> Iterator[PartitionKey]:
    for topic in request.forgotten_topics_data:
        name = topic.topic_id if by_id else topic.topic
        for index in topic.partitions:
            yield name, index


def _refused(request: FetchRequest, by_id: bool) -> Work[FetchResponse]:
    """The answer to a request that makes no sense as a whole: there is no such isolation level."""
    code = ErrorCode.UNKNOWN_SERVER_ERROR  # as Kafka says, which has no better word for it here
    response = FetchResponse(error_code=code, session_id=request.session_id)
    if not by_id:  # older clients look at the partitions

        def refuse(p: FetchPartition) -> FetchPartitionData:
            return FetchPartitionData(partition_index=p.partition, error_code=code, high_watermark=-1)

        for topic in request.topics:
            rows = yield from each(refuse, topic.partitions)
            response.responses.append(FetchableTopicResponse(topic=topic.topic, partitions=rows))
    return response


def _attempt(work: Callable[[], Any]) -> tuple[Any, OSError | LogOffline | None]:
    """What a worker got, or why the disk did not give it."""
    try:
        return work(), None
    except (OSError, LogOffline) as error:
        return None, error


class FetchJob:
    """One fetch under way. What it found is what the last reading of all partitions found."""

    __slots__ = (
        "context", "services", "by_id", "isolation", "claimed_id", "bytes_max", "bytes_min", "max_wait_ms", "opens",
        "session", "epoch", "wanted", "found", "unknown", "left", "size", "must_answer", "answer", "topic", "copied",
        "cold", "lacking", "broken", "now", "grew", "rack", "only_leader", "doubts", "scans", "owed",
    )  # fmt: skip

    def __init__(self, request: FetchRequest, context: Context, asked: dict[PartitionKey, Wanted]) -> None:
        """Take the request into its session. Raises KafkaError when there is none such."""
        self.context = context
        self.services = context.services
        self.by_id = context.version >= TOPIC_IDS_SINCE
        self.claimed_id = _replica_id_of(request)  # of a client that says it is a broker; else negative
        self.isolation = request.isolation_level
        self.only_leader = context.version < RACKS_SINCE
        rack = "" if self.only_leader else request.rack_id
        self.rack = rack if rack and is_rack_aware(self.services.config) else ""
        self.bytes_max = min(request.max_bytes, self.services.config.get_int("fetch.max.bytes"))
        self.bytes_min = min(request.min_bytes, self.bytes_max)
        self.max_wait_ms = request.max_wait_ms
        self.opens = request.session_epoch == FULL
        self.session: Session | None = None
        self.epoch = 0  # of the session of an incremental fetch, as this fetch left it
        self.grew = False  # the session, by this fetch
        self.wanted = asked
        self.broken: dict[PartitionKey, OSError | LogOffline] = {}  # why a worker could not read it
        self.now = True  # what is not in memory is left to a worker
        if request.session_epoch not in (FULL, FINAL):
            self._resume(request)
        elif request.session_id != NO_SESSION:
            self.services.fetch_sessions.close(request.session_id)
        self._forget_reading()

    def _resume(self, request: FetchRequest) -> None:
        """The request's own partitions join the session at once; what it forgets is the caller's to take out."""
        now_ms = self.services.env.clock.data_ms()
        session = self.services.fetch_sessions.resume(request.session_id, request.session_epoch, self.by_id, now_ms)
        before = len(session.wanted)
        session.wanted.update(self.wanted)
        self.session, self.epoch = session, session.epoch
        self.grew = len(session.wanted) > before

    def take_session(self) -> None:
        """Want what is in the session now; it ends with nothing left in it, or when it outgrows the cache."""
        session, sessions = self.session, self.services.fetch_sessions
        assert session is not None
        self.wanted = dict(session.wanted)
        if not self.wanted or (self.grew and not sessions.has_room()):
            sessions.close(session.id)
            self.session = None

    def _forget_reading(self) -> None:
        self.found: list[Row] = []
        self.unknown: list[Row] = []  # partitions that the cluster does not have
        self.left = self.bytes_max  # of the limit
        self.size = 0  # of all records found
        self.must_answer = False  # at once: a partition cannot be read here, or something is to be told
        self.answer = FetchResponse()
        self.topic: FetchableTopicResponse | None = None  # the last one of the answer
        self.copied = 0  # bytes of records that the answer holds itself
        self.cold: list[tuple[Row, FileSlice]] = []  # records to be read by a worker
        self.lacking: list[tuple[PartitionKey, NotInMemory]] = []  # what it takes to find more
        self.doubts: list[tuple[int, InDoubt]] = []  # what is to be confirmed, by its place in `found`
        self.scans = False  # something is looked for, and may not be in what there is
        self.owed = 0  # bytes that a worker has to go through for what is lacking

    async def run(self) -> FetchResponse:
        """The whole fetch, in turns, and with workers for what is not in memory."""
        await self._read_all()
        return await self._respond() if self.is_settled() else await self.wait()

    async def _read_all(self) -> None:
        """Read everything; again, when a worker has brought into memory what was lacking."""
        for attempt in range(ATTEMPTS):
            self.now = attempt < ATTEMPTS - 1  # memory may be short of room: what we get by waiting we have
            self._forget_reading()
            await _in_chunks(self.read, self.wanted.items())
            if not self.lacking:
                break
            await self._bring_lacking()
        if self.cold:
            await self._read_cold()

    async def _bring_lacking(self) -> None:
        """Have a worker do what the last reading could not; the lookups that failed for it will succeed."""
        lacking = self.lacking

        def work() -> list[tuple[Any, OSError | LogOffline | None]]:
            return [_attempt(one.work) for _, one in lacking]

        is_large = any(one.is_large for _, one in lacking)
        async with one_at_a_time("large looks") if is_large else nullcontext():
            found = await self.services.env.offload(work)
        for (key, one), (result, error) in zip(lacking, found, strict=True):
            if error is not None:
                self.broken[key] = error
            else:
                one.take(result)

    async def _read_cold(self) -> None:
        """Have a worker read the records that the answer is to hold itself."""
        cold = self.cold

        def work() -> list[tuple[Any, OSError | LogOffline | None]]:
            return [_attempt(piece.read) for _, piece in cold]

        for ((key, data, _), _), (records, error) in zip(cold, await self.services.env.offload(work), strict=True):
            data.records = records
            if error is not None:
                self.services.tell_of_disk(self._name_of(key), key[1], error)
                data.error_code, data.high_watermark, data.records = self._code(ErrorCode.KAFKA_STORAGE_ERROR), -1, b""

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, wanted: Iterable[tuple[PartitionKey, Wanted]]) -> None:
        """Read partitions, in order, within the limits that those before them left."""
        for key, (offset, bytes_max, leader_epoch, fetched_epoch) in wanted:
            try:
                partition = self._find(key)
                if self.claimed_id >= 0:
                    partition.check_follower(self.claimed_id, leader_epoch)
                    raise KafkaError(ErrorCode.TOPIC_AUTHORIZATION_FAILED)  # as who may not act for the cluster (R12)
                if self.rack and self._is_sent_elsewhere(key, partition, offset, leader_epoch):
                    continue
                if fetched_epoch >= 0 and self._has_diverged(key, partition, offset, leader_epoch, fetched_epoch):
                    continue
                limit = bytes_max if bytes_max < self.left else self.left
                if self.left < 0:
                    self.left = 0  # only the first partition is held to a negative limit, as in Kafka
                if self.owed >= OWED_MAX:
                    limit = 0
                slices, high_watermark, last_stable, log_start, length, aborted, scan = partition.read(
                    offset, limit, leader_epoch, isolation=self.isolation, at_least_one=not self.size and not self.owed,
                    now=self.now, only_leader=self.only_leader,
                )  # fmt: skip
                records = self._copied(slices, length) if slices else b""
            except (OSError, KafkaError) as error:
                self._note_failure(key, error)
                continue
            except NotInMemory as lacking:
                if key in self.broken:
                    self._note_failure(key, self.broken[key])
                else:
                    self.lacking.append((key, lacking))
                    self.owed += lacking.cost
                continue
            if scan:
                self.scans = True
                if scan == SCANNED_IN_PART:
                    self.must_answer = True  # how far it has come is told at once
            data = FetchPartitionData(partition_index=key[1])
            data.high_watermark = high_watermark
            data.last_stable_offset = last_stable
            data.log_start_offset = log_start
            data.aborted_transactions = aborted
            data.records = slices if records is None else records
            row = (key, data, length)
            self.found.append(row)
            if length:
                self.size += length
                self.left = max(self.left - length, 0)
                if records is None:
                    self.cold.append((row, slices[0]))  # type: ignore[arg-type]

    def _copied(
        self, slices: Sequence[FileSlice | Buffer], length: int
    ) -> Buffer | Sequence[FileSlice | Buffer] | None:
        """Records as the answer is to have them: a few in memory, many as slices to be sent from the file.

        None for a few that are not in memory yet, which would be in slices[0]. May raise OSError.
        """
        if length > COPY_MAX or len(slices) > 1 or self.copied > COPIES_MAX:
            return slices
        self.copied += length
        piece = slices[0]
        return piece.read_now() if isinstance(piece, FileSlice) else piece

    def _find(self, key: PartitionKey) -> Partition | ViewPartition:
        name, index = key
        if isinstance(name, bytes):
            topic = self.services.image.topics_by_id.get(name)
            if topic is None:
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
            name = topic.name
        return self.services.reading(name, index)

    def _has_diverged(
        self,
        key: PartitionKey,
        partition: Partition | ViewPartition,
        offset: int,
        leader_epoch: int,
        fetched_epoch: int,
    ) -> bool:
        """Whether the reader has another history than this log: then it is told where they part, and gets nothing."""
        parting = partition.parting(offset, leader_epoch, fetched_epoch, only_leader=self.only_leader)
        if parting is None:
            return False
        data = FetchPartitionData(
            partition_index=key[1],
            high_watermark=partition.high_watermark.value,
            last_stable_offset=partition.last_stable_offset,
            log_start_offset=partition.log.start_offset,
            diverging_epoch=EpochEndOffset(epoch=parting[0], end_offset=parting[1]),
            aborted_transactions=[] if self.isolation == READ_COMMITTED else None,
        )
        if partition.leading and (doubt := partition.doubt()) is not None:
            self.doubts.append((len(self.found), doubt))
        self.found.append((key, data, 0))
        self.must_answer = True
        return True

    def _is_sent_elsewhere(
        self, key: PartitionKey, partition: Partition | ViewPartition, offset: int, leader_epoch: int
    ) -> bool:
        """Whether a replica in the reader's rack is to be read from: then it is told so, and gets nothing here."""
        listener = self.context.peer.listener
        held = self.services.partition(partition.topic, partition.index)  # of a view, what its source is kept as
        replica_id = preferred(held, offset, self.rack, listener, self.services.image)
        if replica_id == NO_REPLICA:
            return False
        partition.check_leader(leader_epoch)
        data = FetchPartitionData(
            partition_index=key[1],
            high_watermark=partition.high_watermark.value,
            last_stable_offset=partition.last_stable_offset,
            log_start_offset=partition.log.start_offset,
            preferred_read_replica=replica_id,
            aborted_transactions=[] if self.isolation == READ_COMMITTED else None,
        )
        self.found.append((key, data, 0))
        self.must_answer = True
        return True

    def _name_of(self, key: PartitionKey) -> str:
        """The topic's name, or its id for people where it is gone."""
        if isinstance(key[0], str):
            return key[0]
        topic = self.services.image.topics_by_id.get(key[0])
        return key[0].hex() if topic is None else topic.name

    def _note_failure(self, key: PartitionKey, error: OSError | KafkaError) -> None:
        code = ErrorCode.KAFKA_STORAGE_ERROR if isinstance(error, OSError) else error.code
        if code is ErrorCode.KAFKA_STORAGE_ERROR:
            self.services.tell_of_disk(self._name_of(key), key[1], error)
        if code in UNKNOWN:
            data = FetchPartitionData(partition_index=key[1], error_code=code, high_watermark=-1)
            self.unknown.append((key, data, 0))
            return
        if isinstance(error, InDoubt):
            self.doubts.append((len(self.found), error))
            code = error.found.code
        self.found.append((key, self._refused(key, code), 0))
        self.must_answer = True

    def _refused(self, key: PartitionKey, code: ErrorCode) -> FetchPartitionData:
        code = self._code(code)
        data = FetchPartitionData(partition_index=key[1], error_code=code, high_watermark=-1, aborted_transactions=None)
        if code in MOVED and self.context.version >= LEADERS_SINCE:
            self._name_leader(key, data)
        return data

    async def _confirm(self) -> None:
        """Have confirmed what clients act on for good; where another broker might know better, they ask on (R14)."""
        for place in await self.services.replicas.unconfirmed(self.doubts):
            key = self.found[place][0]
            self.found[place] = key, self._refused(key, ErrorCode.NOT_LEADER_OR_FOLLOWER), 0

    def _code(self, code: ErrorCode) -> ErrorCode:
        """The error as this client knows it."""
        if code == ErrorCode.KAFKA_STORAGE_ERROR and self.context.version < STORAGE_ERRORS_SINCE:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        return code

    def _name_leader(self, key: PartitionKey, data: FetchPartitionData) -> None:
        """Say who leads the partition, and where that broker is reached (KIP-951)."""
        nodes = self.answer.node_endpoints if self.claimed_id < 0 else []  # brokers know where others are
        data.current_leader = current_leader(self._topic(key[0]), key[1], self.context, nodes)

    def _topic(self, name: str | bytes) -> TopicImage | None:
        """Of that name or id."""
        image = self.services.image
        return image.topics_by_id.get(name) if isinstance(name, bytes) else image.topics.get(name)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.size >= self.bytes_min or self.must_answer or self.max_wait_ms <= 0 or not self.found

    async def wait(self) -> FetchResponse:
        """Wait until there is enough, something fails, or max_wait_ms is over; then read everything again.

        Where something is looked for, what came may not be it: then wait on.
        """
        with trio.move_on_after(self.max_wait_ms / 1000) as scope:
            while True:
                await self._wait_enough()
                if not self.scans:
                    break
                await self._read_all()
                if self.is_settled():
                    break
        if scope.cancelled_caught or not self.scans:
            await self._read_all()
        return await self._respond()

    async def _wait_enough(self) -> None:
        hearing = Hearing(self.bytes_min)
        try:
            await _in_chunks(partial(self._listen, hearing), self.found)
            await hearing.wait_enough()
        finally:
            with trio.CancelScope(shield=True):
                await _in_chunks(Hearing.forget, hearing.ears)

    def _listen(self, hearing: Hearing, rows: Iterable[Row]) -> None:
        for key, data, length in rows:
            data.records = b""  # all is read again then; who waits, maybe for hours, holds nothing
            wanted = self.wanted[key]
            try:
                partition = self._find(key)
            except KafkaError:
                hearing.is_over = True
                return
            bytes_max = min(wanted.bytes_max, self.bytes_max)
            ear = hearing.listen(partition, wanted.offset, bytes_max, length, self.isolation)
            if partition.high_watermark.value != data.high_watermark:  # it moved since it was read
                ear.set()

    # -- the answer ---------------------------------------------------------------------------------------------------

    def response(self) -> FetchResponse:
        """All partitions for a full fetch; for an incremental one those the client does not know already."""
        self._meet_session()
        self._put(self.found)
        self._put(self.unknown)
        return self.answer

    async def _respond(self) -> FetchResponse:
        """The same, in turns where there are many, and with what is in doubt confirmed."""
        if self.doubts:
            await self._confirm()
        self._meet_session()
        await _in_chunks(self._put, self.found)
        await _in_chunks(self._put, self.unknown)
        return self.answer

    def _meet_session(self) -> None:
        """Open the session that is asked for, or see whether the one there is still is where this fetch left it."""
        if self.opens:
            partitions, now_ms = len(self.found) + len(self.unknown), self.services.env.clock.data_ms()
            self.session = self.services.fetch_sessions.open(self.by_id, partitions, now_ms)
        session = self.session
        if session is None:
            return
        self.answer.session_id = session.id
        if not self.opens and session.epoch != self.epoch:  # the same request, sent again, has overtaken this one
            self.answer.error_code = ErrorCode.INVALID_FETCH_SESSION_EPOCH
            self.found, self.unknown = [], []

    def _traffic(self, name: str | bytes) -> TopicTraffic | None:
        """Of a topic that there is."""
        topic = self._topic(name)
        return None if topic is None else self.services.replicas.traffic.of(topic.name)

    def _put(self, rows: Iterable[Row]) -> None:
        """Add to the answer what the client does not know. Neighbours of one topic share an entry, as in Kafka."""
        session, opens, topic = self.session, self.opens, self.topic
        counted: str | bytes | None = None
        traffic: TopicTraffic | None = None
        for key, data, length in rows:
            if key[0] != counted:
                counted, traffic = key[0], self._traffic(key[0])
            if traffic is not None:
                traffic.fetched(length, data.error_code)
            if session is None:
                pass
            elif opens:
                session.add(key, self.wanted[key], data.high_watermark, data.log_start_offset)
            elif not session.is_news(
                key, data.high_watermark, data.log_start_offset, length or len(data.records or b""),
                must_tell=data.error_code != 0 or data.preferred_read_replica >= 0,
            ):  # fmt: skip
                continue
            name = key[0]
            if topic is None or name != (topic.topic_id if self.by_id else topic.topic):
                topic = FetchableTopicResponse()
                if isinstance(name, bytes):
                    topic.topic_id = name
                else:
                    topic.topic = name
                self.answer.responses.append(topic)
            topic.partitions.append(data)
        self.topic = topic
