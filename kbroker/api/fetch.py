"""Fetch 4-17: what is there now, or a wait (`max_wait_ms`) until `min_bytes` are.

    request ─▶ session (fetch_sessions.py) ─▶ wanted partitions in order ─▶ read each ─▶ enough? ─▶ answer
                                                    ▲                                      │ no
                                                    └────── a bell on their high watermarks ┘ until max_wait_ms

Record bytes are never read here: the answer carries slices of segments. The first batch of an answer is sent even when
it is bigger than every limit, so that a client always gets on (KIP-74). Version 13 and later name topics by ID
(KIP-516).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    FetchableTopicResponse,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
)
from kbroker.api.context import Context
from kbroker.api.fetch_sessions import FINAL, FULL, NO_SESSION, PartitionKey, Session, Wanted
from kbroker.api.registry import handles
from kbroker.replication.partition import Partition

TOPIC_IDS_SINCE = 13
READ_COMMITTED = 1


@handles(ApiKey.FETCH, 4, 17)
def fetch(request: FetchRequest, context: Context) -> FetchResponse | Coroutine[Any, Any, FetchResponse]:
    """Read batches from partitions, waiting for more where there are too few.

    Returns the response if there is enough, or nothing to wait for; else a coroutine that waits.
    """
    try:
        job = FetchJob(request, context)
    except KafkaError as error:
        return FetchResponse(error_code=error.code)
    job.read()
    if job.settled():
        return job.response()
    return job.wait()


class FetchJob:
    """One fetch under way."""

    __slots__ = (
        "services", "by_id", "aborted", "session", "is_full", "wanted", "bytes_max", "bytes_min", "max_wait_ms",
        "found", "size", "failed", "in_wait",
    )  # fmt: skip

    def __init__(self, request: FetchRequest, context: Context) -> None:
        self.services = context.services
        self.by_id = context.version >= TOPIC_IDS_SINCE
        self.aborted: list[Any] | None = [] if request.isolation_level == READ_COMMITTED else None
        self.bytes_max = min(request.max_bytes, self.services.config.get_int("fetch.max.bytes"))
        self.bytes_min = min(request.min_bytes, self.bytes_max)
        self.max_wait_ms = request.max_wait_ms
        self.session: Session | None = None
        self.is_full = True
        self.wanted = self._take_session(request)
        self.found: dict[PartitionKey, FetchPartitionData] = {}
        self.size = 0
        self.failed = False
        self.in_wait: list[Partition] = []

    # -- what is wanted -----------------------------------------------------------------------------------------------

    def _take_session(self, request: FetchRequest) -> dict[PartitionKey, Wanted]:
        sessions = self.services.sessions
        if request.session_epoch in (FULL, FINAL):
            if request.session_id != NO_SESSION:
                sessions.close(request.session_id)
            wanted = dict(self._asked(request))
            if request.session_epoch == FULL and wanted:
                self.session = sessions.open(self.services.env.clock.data_ms())
                if self.session is not None:
                    self.session.update(wanted.items(), ())
            return wanted
        now_ms = self.services.env.clock.data_ms()
        self.session = sessions.find(request.session_id, request.session_epoch, now_ms)
        self.is_full = False
        self.session.update(self._asked(request), self._forgotten(request))
        return dict(self.session.wanted)

    def _asked(self, request: FetchRequest) -> Iterator[tuple[PartitionKey, Wanted]]:
        for topic in request.topics:
            name = topic.topic_id if self.by_id else topic.topic
            for p in topic.partitions:
                yield (name, p.partition), Wanted(p.fetch_offset, p.partition_max_bytes, p.current_leader_epoch)

    def _forgotten(self, request: FetchRequest) -> Iterator[PartitionKey]:
        for topic in request.forgotten_topics_data:
            name = topic.topic_id if self.by_id else topic.topic
            for index in topic.partitions:
                yield name, index

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Read every wanted partition anew, in order, within the limits."""
        self.found.clear()
        self.in_wait.clear()
        self.size = 0
        for key, wanted in self.wanted.items():
            try:
                partition = self._find(key)
                limit = min(wanted.bytes_max, self.bytes_max - self.size)
                result = partition.read(wanted.offset, limit, wanted.current_leader_epoch, at_least_one=self.size == 0)
            except KafkaError as error:
                self.failed = True
                self.found[key] = FetchPartitionData(
                    partition_index=key[1], error_code=error.code, high_watermark=-1, records=b""
                )
                continue
            self.size += result.length
            self.in_wait.append(partition)
            self.found[key] = FetchPartitionData(
                partition_index=key[1],
                high_watermark=result.high_watermark,
                last_stable_offset=result.last_stable_offset,
                log_start_offset=result.log_start_offset,
                aborted_transactions=self.aborted,
                records=result.slices or b"",
            )

    def _find(self, key: PartitionKey) -> Partition:
        name, index = key
        if isinstance(name, bytes):
            topic = self.services.image.topics_by_id.get(name)
            if topic is None:
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
            name = topic.name
        return self.services.partition(name, index)

    def settled(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.size >= self.bytes_min or self.failed or self.max_wait_ms <= 0 or not self.wanted

    async def wait(self) -> FetchResponse:
        """Wait until settled or max_wait_ms is over, woken by growth of any wanted partition."""
        with trio.move_on_after(self.max_wait_ms / 1000):
            while not self.settled():
                bell = trio.Event()
                watching = [partition.high_watermark for partition in self.in_wait]
                for watermark in watching:
                    watermark.attach(bell)
                try:
                    await bell.wait()
                finally:
                    for watermark in watching:
                        watermark.detach(bell)
                self.read()
        return self.response()

    # -- the answer ---------------------------------------------------------------------------------------------------

    def response(self) -> FetchResponse:
        """All partitions for a full fetch; for an incremental one those the client does not know already."""
        session = self.session
        topics: dict[str | bytes, FetchableTopicResponse] = {}
        for key, data in self.found.items():
            if session is not None:
                news = session.changed(key, data.high_watermark, data.log_start_offset)
                if data.records:
                    session.had_records(key)
                elif not (self.is_full or news or data.error_code):
                    continue
            name = key[0]
            topic = topics.get(name)
            if topic is None:
                if isinstance(name, bytes):
                    topic = FetchableTopicResponse(topic_id=name, partitions=[])
                else:
                    topic = FetchableTopicResponse(topic=name, partitions=[])
                topics[name] = topic
            topic.partitions.append(data)
        return FetchResponse(
            session_id=session.id if session is not None else NO_SESSION, responses=list(topics.values())
        )
