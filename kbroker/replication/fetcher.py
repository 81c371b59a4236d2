"""The fetch session with one leader broker, as its follower keeps it: what to ask next, what an answer means. Pure.

    follow ──▶ changed ── request ──▶ known to the leader ── take: a step ──▶ moved ──▶ changed ...
                  ▲                        │
                  │                        └─ delay: an error ──▶ delayed, forgotten ── its time comes ─┐
                  └─────────────────────────────────────────────────────────────────────────────────────┘

A session (KIP-227) begins with a full request and goes on with what changed: a partition costs something only when
it has news. No request names more than so many partitions, so a session of ten thousand begins in several. A partition
that is delayed, or busy with a truncation, is not in the session: its leader need not guess what it has. An answer
about a partition that has moved meanwhile says nothing any more.

Truncation needs no request of its own: each position tells the epoch of its last record, and a leader that knows
another history answers where the two part (KIP-595). A follower whose log ends before the leader's begins is answered
OFFSET_OUT_OF_RANGE with the leader's log start, and starts over there. (Kafka: AbstractFetcherThread,
FetchSessionHandler.)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchPartitionData,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    ReplicaState,
)
from kafka_wire.records import HEADER_SIZE, LENGTH_OFFSET

VERSION = 17  # of Fetch: topics by id, the follower's broker epoch
NAMED_MAX = 500  # partitions that one request adds or moves, and as many that it forgets
EPOCH_MAX = 2**31 - 1  # of a session; 1 comes next
DELAY_S_MIN = 0.05  # after the first error; twice as long after each further one
PIECE_BYTES = 256 * 1024  # of records appended in one go
PIECE_BATCHES = 64

Key: TypeAlias = "tuple[bytes, int]"  # topic id, index


class Position(NamedTuple):
    """Where a follower is with a partition."""

    offset: int  # the next it wants: the end of its log
    last_fetched_epoch: int  # of the record before that; -1: there is none
    leader_epoch: int  # in which it follows
    log_start: int


class Limits(NamedTuple):
    """What a request asks for at most."""

    wait_ms: int
    bytes_min: int
    bytes_max: int
    partition_bytes_max: int


class Append(NamedTuple):
    """Records (or none), and what the leader tells with them."""

    records: memoryview
    high_watermark: int
    log_start: int


class Truncate(NamedTuple):
    """The leader's history is another one: of the follower's last epochs this is the last it shares, up to there."""

    epoch: int
    end_offset: int


class StartOver(NamedTuple):
    """The leader's log begins behind the follower's end: nothing of it is of use."""

    offset: int


class Refused(NamedTuple):
    """Not now."""

    code: ErrorCode


Step: TypeAlias = "Append | Truncate | StartOver | Refused"


class Fetcher:
    """One session. Its owner performs the steps, and says when a partition has moved on or has to wait."""

    def __init__(self, replica_id: int, broker_epoch: int) -> None:
        """replica_id, broker_epoch: of the follower."""
        self._replica = ReplicaState(replica_id=replica_id, replica_epoch=broker_epoch)
        self._session_id = self._epoch = 0
        self._wanted: dict[Key, Position] = {}
        self._changed: dict[Key, None] = {}  # of those: what the leader does not know
        self._known: set[Key] = set()  # what the leader has in its session
        self._forgotten: dict[Key, None] = {}  # of those: not wanted any more
        self._delayed: dict[Key, tuple[float, Position]] = {}  # not wanted until
        self._due: list[tuple[float, Key]] = []  # a heap of them; may hold what is delayed no more
        self._refusals: dict[Key, int] = {}  # one after the other, so far

    def __len__(self) -> int:
        return len(self._wanted) + len(self._delayed)

    def follow(self, key: Key, position: Position) -> None:
        """Want a partition from a position on."""
        self._wanted[key] = position
        self._changed[key] = None
        self._forgotten.pop(key, None)
        self._delayed.pop(key, None)

    def moved(self, key: Key, position: Position) -> None:
        """What was wanted is there."""
        self._wanted[key] = position
        self._changed[key] = None
        if self._refusals:
            self._refusals.pop(key, None)

    def leave(self, key: Key) -> None:
        """Want a partition no more; an unknown one is fine."""
        self._refusals.pop(key, None)
        self._delayed.pop(key, None)
        self._drop(key)

    def delay(self, key: Key, now_s: float, delay_s_max: float) -> int:
        """Something is wrong with a partition that is wanted: it waits, longer each time. How often in a row."""
        refusals = self._refusals[key] = self._refusals.get(key, 0) + 1
        self.hold(key, now_s + delay_s(refusals, delay_s_max))
        return refusals

    def hold(self, key: Key, until_s: float) -> None:
        """Do not want a partition for a while."""
        self._delayed[key] = until_s, self._wanted[key]
        heapq.heappush(self._due, (until_s, key))
        self._drop(key)

    def position(self, key: Key) -> Position | None:
        """Where the partition is, if it is wanted now."""
        return self._wanted.get(key)

    def request(self, now_s: float, limits: Limits) -> FetchRequest | None:
        """What to ask now. None: nothing is wanted, at least not until `due_s`."""
        self._recall(now_s)
        if not self._wanted and not self._forgotten:
            return None
        if not self._wanted and not self._session_id:
            self._forgotten.clear()
            return None
        topics, forgotten = self._name_changed(limits), self._name_forgotten()
        wait_ms = limits.wait_ms
        if self._changed or self._forgotten or not self._wanted:
            wait_ms = 0  # there is more to be told
        elif self._due:
            wait_ms = max(0, min(wait_ms, int((self._due[0][0] - now_s) * 1000) + 1))
        return FetchRequest(
            replica_state=self._replica, max_wait_ms=wait_ms, min_bytes=limits.bytes_min, max_bytes=limits.bytes_max,
            session_id=self._session_id, session_epoch=self._epoch, topics=topics, forgotten_topics_data=forgotten,
        )  # fmt: skip

    @property
    def due_s(self) -> float:
        """When the first partition that is delayed may be asked for again; infinity when none is."""
        return self._due[0][0] if self._due else float("inf")

    def take(self, response: FetchResponse) -> list[tuple[Key, Step]]:
        """What the answer to the last request means, for each partition that it still speaks of.

        Raises KafkaError when it means that the session is over: the next request begins another.
        """
        if response.error_code:
            self.start_over()
            raise KafkaError(code_of(response.error_code))
        self._session_id = response.session_id
        self._epoch = self._epoch % EPOCH_MAX + 1 if response.session_id else 0
        if not response.session_id:  # it was too much for the leader
            self.start_over()
        steps: list[tuple[Key, Step]] = []
        for topic in response.responses:
            for data in topic.partitions:
                key = topic.topic_id, data.partition_index
                if key in self._wanted and key not in self._changed:
                    steps.append((key, step_of(data)))
        return steps

    def start_over(self) -> None:
        """The leader may have forgotten the session, or lost an answer: begin another."""
        self._session_id = self._epoch = 0
        self._known.clear()
        self._forgotten.clear()
        self._changed = dict.fromkeys(self._wanted)

    def _drop(self, key: Key) -> None:
        self._wanted.pop(key, None)
        self._changed.pop(key, None)
        if key in self._known:
            self._forgotten[key] = None

    def _recall(self, now_s: float) -> None:
        """Want again what has waited long enough."""
        while self._due and self._due[0][0] <= now_s:
            due, key = heapq.heappop(self._due)
            waits, position = self._delayed.get(key, (None, None))
            if position is not None and waits == due:
                self.follow(key, position)

    def _name_changed(self, limits: Limits) -> list[FetchTopic]:
        topics: dict[bytes, FetchTopic] = {}
        for key in list(islice(self._changed, NAMED_MAX)):
            del self._changed[key]
            self._known.add(key)
            topic_id, index = key
            offset, last_fetched_epoch, leader_epoch, log_start = self._wanted[key]
            topic = topics.get(topic_id)
            if topic is None:
                topic = topics[topic_id] = FetchTopic(topic_id=topic_id, partitions=[])
            topic.partitions.append(
                FetchPartition(
                    partition=index, current_leader_epoch=leader_epoch, fetch_offset=offset,
                    last_fetched_epoch=last_fetched_epoch, log_start_offset=log_start,
                    partition_max_bytes=limits.partition_bytes_max,
                )
            )  # fmt: skip
        return list(topics.values())

    def _name_forgotten(self) -> list[ForgottenTopic]:
        topics: dict[bytes, ForgottenTopic] = {}
        for key in list(islice(self._forgotten, NAMED_MAX)):
            del self._forgotten[key]
            self._known.discard(key)
            topic = topics.setdefault(key[0], ForgottenTopic(topic_id=key[0], partitions=[]))
            topic.partitions.append(key[1])
        return list(topics.values())


def step_of(data: FetchPartitionData) -> Step:
    """What a leader's answer about one partition means."""
    if data.error_code == ErrorCode.NONE:
        parting = data.diverging_epoch
        if parting is not None and parting.end_offset >= 0:
            return Truncate(parting.epoch, parting.end_offset)
        return Append(memoryview(data.records or b""), data.high_watermark, data.log_start_offset)
    if data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE and data.log_start_offset >= 0:
        return StartOver(data.log_start_offset)
    return Refused(code_of(data.error_code))


def code_of(number: int) -> ErrorCode:
    """An error code as it came; one that nobody here knows counts as Kafka's word for that."""
    try:
        return ErrorCode(number)
    except ValueError:
        return ErrorCode.UNKNOWN_SERVER_ERROR


def delay_s(failures: int, longest_s: float) -> float:
    """How many seconds to wait after so many failures in a row."""
    return min(DELAY_S_MIN * 2.0 ** min(failures - 1, 20), longest_s)


def pieces(records: memoryview) -> Iterator[memoryview]:
    """Records in pieces of whole batches, none of which takes long to append; the last is the rest, if that is none."""
    start = end = batches = 0
    while end < len(records):
        size = LENGTH_OFFSET + int.from_bytes(records[end + 8 : end + LENGTH_OFFSET], "big", signed=True)
        if size < HEADER_SIZE or end + size > len(records):
            break  # for who appends it to judge
        if batches and (batches == PIECE_BATCHES or end + size - start > PIECE_BYTES):
            yield records[start:end]
            start, batches = end, 0
        end += size
        batches += 1
    if start < end:
        yield records[start:end]
    if end < len(records):
        yield records[end:]
