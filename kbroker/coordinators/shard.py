"""Shard: the state kept in one partition of an internal topic that is led here, in one leader epoch.

    loading ──restore──▶ active ──close──▶ closed            a later epoch is another shard; none is ever opened again

It performs what the cores return, in order: a Store is appended to the partition; a Reply that comes after it is sent
when the high watermark has passed it (G2). What is appended but not committed waits in `_waiting`, by offset. With a
single replica everything is committed as it is appended, and nothing ever waits.

`logged` counts the records that a replay would read. When that has grown to a multiple of what was left when the log
was compacted last, it is to be compacted again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial as bind
from typing import Any, Protocol, TypeAlias

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, read_header
from kbroker.coordinators.effects import Compute, Effect, Pair, Reply, StateRecord, Store
from kbroker.coordinators.replay import Unsettled
from kbroker.env import Clock, Offload
from kbroker.log.content.validation import check_size
from kbroker.log.derived.producers import Guard
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import ACKS_ALL, Partition
from kbroker.turns import PAUSES_A_TURN, Work, advance, each

CHUNK_RECORDS = 500  # of changes that are encoded at once
BATCH_BYTES_FIXED, RECORD_BYTES_FIXED = 128, 32  # of a batch, and of a record in it, at most
ANSWERS_STRIDE = 4  # between two pauses: each wakes a task, which sends it
ANSWERS_A_TURN = ANSWERS_STRIDE * PAUSES_A_TURN
REPLAY_RECORDS_MIN = 10_000  # a log this short is read at once: it need not be compacted
REPLAY_FACTOR = 2  # else it may have so many times the records that were left of it the last time

# What a failed append looks like to clients (Kafka: CoordinatorOperationExceptionHelper).
APPEND_ERRORS = {
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.NETWORK_EXCEPTION: ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,  # another coordinator was not reached
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
}


def told(error: KafkaError) -> ErrorCode:
    """What clients of a coordinator are told for an error."""
    return APPEND_ERRORS.get(error.code, error.code)


def same(code: ErrorCode) -> ErrorCode:
    """The answer that stands for a code, where a code is the answer."""
    return code


Refuse: TypeAlias = Callable[[ErrorCode], Any]


class Ticket:
    """A request that waits for its answer. `refuse` makes the answer that a code stands for in its API."""

    __slots__ = ("response", "refuse", "_bell")

    def __init__(self, refuse: Refuse) -> None:
        self.response: Any = None  # None: not answered yet
        self.refuse = refuse
        self._bell: trio.Event | None = None

    def answer(self, response: Any) -> None:
        """Answer it; once answered it stays so."""
        if self.response is None:
            self.response = response
            if self._bell is not None:
                self._bell.set()

    async def wait(self) -> Any:
        """The answer. The caller bounds the wait."""
        if self.response is None:
            self._bell = trio.Event()
            await self._bell.wait()
        return self.response


class Tasks(Protocol):
    """What a shard cannot do without waiting (the runtime can)."""

    def on_waiting(self, shard: Shard) -> None:
        """Something begins to wait for the high watermark: see to `wait_committed`."""

    def on_compute(self, shard: Shard, name: str, compute: Compute) -> None:
        """A core wants something computed in turns."""

    def on_closing(self, answers: Work[None]) -> None:
        """A shard is closed, and there are many to be told: do this in turns."""


class Shard(ABC):
    """One partition's state. What changes it goes through here."""

    __slots__ = (
        "index", "partition", "epoch", "logged", "kept", "alarms", "closed", "is_active", "is_compacting", "tickets",
        "clock", "has_failed", "_tasks", "_waiting", "_barriers",
    )  # fmt: skip

    def __init__(self, partition: Partition, clock: Clock, tasks: Tasks) -> None:
        self.index = partition.index
        self.partition = partition
        self.epoch = partition.leader_epoch
        self.clock = clock
        self.logged = 0  # records between the log's start and its end
        self.kept = 0  # of them when it was compacted last; when it was loaded: those that are live
        self.alarms: dict[str, float] = {}  # by name, when it is to be woken; owned by alarms.py
        self.closed: ErrorCode | None = None  # why it serves no longer
        self.is_active = False  # loaded
        self.has_failed = False  # it could not be, so far
        self.is_compacting = False
        self.tickets: set[Ticket] = set()  # of requests that wait
        self._tasks = tasks
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # what is to be done when committed, in order
        self._barriers: dict[str, int] = {}  # name -> offset of its newest record, while that is not committed

    def __str__(self) -> str:
        return f"{self.partition.topic}-{self.index}"

    # -- what a kind of state adds -----------------------------------------------------------------------------------

    @abstractmethod
    def pair_of(self, record: StateRecord | Pair) -> Pair:
        """The record that a core wants stored."""

    @abstractmethod
    def restore(self, live: dict[bytes, bytes]) -> Work[None]:
        """Take over what a replay found.

        A record that cannot be read costs what it stood for, nothing else.
        """

    def restore_open(self, records: Sequence[Unsettled]) -> Work[None]:
        """Take over, after the rest, what transactions that have not ended have written, in the order of the log.

        A kind of state that is not written in transactions has none.
        """
        yield from ()

    @abstractmethod
    def names(self) -> Collection[str]:
        """The names of all cores."""

    @abstractmethod
    def deadline(self, name: str) -> float | None:
        """When that core is to be woken; None: not, or there is none."""

    @abstractmethod
    def on_alarm(self, name: str, now: float, now_ms: int) -> Iterable[Effect]:
        """The deadline of a core has passed."""

    @abstractmethod
    def resign(self, code: ErrorCode) -> Iterable[Effect]:
        """What answers those who wait in cores, with the code."""

    def carry_out(self, name: str, what: object) -> None:
        """What a core ordered is to be done now. Raises nothing."""
        raise AssertionError(f"{name} orders {what!r}")

    def key_of(self, key: bytes) -> bytes:
        """The key under which a record is remembered: another one for a format of long ago."""
        return key

    @abstractmethod
    def summary(self) -> str:
        """What it holds, for the log."""

    # -- the log -----------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Pair]) -> int:
        """Append records as one batch; the offset of the last. Raises KafkaError."""
        return self.append_batch(build_batch(records, timestamp=self.clock.data_ms()), len(records))

    def append_batch(self, batch: bytearray, records: int, guard: Guard | None = None) -> int:
        """Append a batch of so many records; the offset of the last. Raises KafkaError.

        guard: of a transactional batch, see Partition.write.
        """
        if self.closed is not None:
            raise KafkaError(self.closed)
        self.partition.check_append(ACKS_ALL)
        check_size(len(batch), self.partition.log.config)  # it is our own: nothing else can be wrong with it
        try:
            appended = self.partition.write(batch, read_header(batch), self.clock.data_ms(), guard)
        except InDoubt as doubt:  # for a coordinator it is enough to be heard; see Leading
            raise doubt.found from doubt
        self.logged += records
        return appended.last_offset

    @property
    def last_offset(self) -> int:
        """The offset of the last record appended."""
        return self.partition.log.end.value - 1

    @property
    def is_bloated(self) -> bool:
        """Whether a replay would read far more than it has to."""
        return self.logged > max(REPLAY_RECORDS_MIN, REPLAY_FACTOR * self.kept)

    def compacted(self, gone: int) -> None:
        """So many records are gone from the log; none, when it could not be compacted: that is tried again later."""
        self.logged = self.kept = max(self.logged - gone, 0)

    @property
    def committed_end(self) -> int:
        """What is below is committed; and durable, where flush.messages or flush.ms asks for a flush by now."""
        end, log = self.partition.high_watermark.value, self.partition.log
        return min(end, log.flushed.value) if self.owes_flush else end

    @property
    def owes_flush(self) -> bool:
        """Whether flush.messages or flush.ms asks for a flush before anything more is told, or acted on."""
        return self.partition.log.flushes and self.partition.log.needs_flush(self.clock.data_ms())

    def is_committed(self, offset: int) -> bool:
        """Whether the record at offset is committed, and nothing waits before it."""
        return not self._waiting and offset < self.committed_end

    def after(self, offset: int, action: Callable[[], None]) -> None:
        """Do something when the record at offset is committed: now, if it is and nothing waits before it."""
        if self.is_committed(offset):
            action()
            return
        self._waiting.append((offset, action))
        if len(self._waiting) == 1:
            self._tasks.on_waiting(self)

    async def wait_committed(self, offload: Offload) -> None:
        """Do what waits as it is committed, until nothing waits. Raises when the leadership ends, or the disk fails."""
        while self._waiting:
            await self.partition.high_watermark.wait_past(self._waiting[0][0])
            if self.owes_flush:
                await self.partition.log.flush(offload)
            done, end = 0, self.committed_end
            while self._waiting and self._waiting[0][0] < end:
                self._waiting.popleft()[1]()
                done += 1
                if not done % ANSWERS_A_TURN:
                    await trio.lowlevel.checkpoint()
            if not self._waiting:
                self._barriers.clear()

    # -- effects -----------------------------------------------------------------------------------------------------

    def perform(self, name: str, effects: Iterable[Effect]) -> None:
        """Do what a core asks. Raises KafkaError when a Store failed: memory is ahead of the log then, and the caller
        ends this shard."""
        for effect in effects:
            if isinstance(effect, Store):
                for pairs in self._batches([self.pair_of(record) for record in effect.records]):
                    offset = self.append(pairs)
                if offset >= self.committed_end:
                    self._barriers[name] = offset
            elif isinstance(effect, Reply):
                assert isinstance(effect.to, Ticket)
                self.after(self._barriers.get(name, -1), bind(effect.to.answer, effect.response))
            elif isinstance(effect, Compute):
                self._tasks.on_compute(self, name, effect)
            else:
                self.after(self._barriers.get(name, -1), bind(self.carry_out, name, effect.what))

    def _batches(self, pairs: list[Pair]) -> Iterator[list[Pair]]:
        """One batch; several only where one would exceed max.message.bytes, so that no core, however large, is in the
        way of the others of its shard. A core puts last what makes the rest count."""
        limit = self.partition.log.config.max_message_bytes - BATCH_BYTES_FIXED
        sizes = [RECORD_BYTES_FIXED + len(key) + len(value or b"") for key, value in pairs]
        if sum(sizes) <= limit:
            yield pairs
            return
        batch: list[Pair] = []
        size = 0
        for pair, own in zip(pairs, sizes, strict=True):
            if batch and size + own > limit:
                yield batch
                batch, size = [], 0
            batch.append(pair)
            size += own
        yield batch

    def close(self, code: ErrorCode) -> None:
        """Serve no longer, from now on: who waits is answered with the code; very many are in turns. Idempotent."""
        if self.closed is not None:
            return
        self.closed = code
        self._waiting.clear()
        answers = self._answer_all(code)
        if advance(answers, PAUSES_A_TURN) is None:
            self._tasks.on_closing(answers)

    def _answer_all(self, code: ErrorCode) -> Work[None]:
        """Those who wait in cores; the rest of those who wait. Nobody joins them, as the shard is closed."""
        for number, effect in enumerate(self.resign(code), start=1):
            if isinstance(effect, Reply) and isinstance(effect.to, Ticket):
                effect.to.answer(effect.response)
            if not number % ANSWERS_STRIDE:
                yield
        yield from each(lambda ticket: ticket.answer(ticket.refuse(code)), tuple(self.tickets), ANSWERS_STRIDE)
