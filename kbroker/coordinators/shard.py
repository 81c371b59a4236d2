"""Shard: the groups and offsets of one `__consumer_offsets` partition that is led here, in one leader epoch.

    loading ──restore──▶ active ──close──▶ closed            a later epoch is another shard; none is ever opened again

It performs what the cores return, in order: a Store is appended to the partition; a Reply that comes after it is sent
when the high watermark has passed it (G2). What is appended but not committed waits in `_waiting`, by offset. With a
single replica everything is committed as it is appended, and nothing ever waits.

`live` is what the log says of groups, key by key, and with `offsets.items` it is all that the log has to hold; `logged`
counts the records that a replay would read. Their relation says when the log is to be rewritten (rewrite.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial as bind
from typing import Any, Protocol, TypeAlias

import trio

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.records import build_batch
from kbroker.coordinators.consumer_group import ConsumerGroup
from kbroker.coordinators.effects import Effect, StateRecord, Store
from kbroker.coordinators.group import Group
from kbroker.coordinators.offsets import Change, Offsets, records_of
from kbroker.coordinators.records import (
    CURRENT_OFFSET_KEY,
    KeyType,
    Pair,
    decode_key,
    decode_value,
    read_offset_commit_key,
)
from kbroker.coordinators.stored import read_state, state_pair
from kbroker.env import Clock
from kbroker.replication.partition import ACKS_ALL, Partition

CHUNK_RECORDS = 500  # of changes that need not be one batch
REPLAY_RECORDS_MIN = 2000  # a log this short is never rewritten
REPLAY_FACTOR = 4  # else it may hold so many records for each that is live

AnyGroup: TypeAlias = "Group | ConsumerGroup"

log = logging.getLogger("kbroker.groups")

# What a failed append of a group's record looks like to clients (Kafka: CoordinatorOperationExceptionHelper).
APPEND_ERRORS = {
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
}


class GroupMaker(Protocol):
    """Who knows what groups are made with (the coordinator)."""

    def new_group(self, group_id: str) -> Group:
        """A group of which nothing is stored."""

    def restored_group(self, group_id: str, stored: Sequence[StateRecord]) -> AnyGroup:
        """A group as it was stored."""


class Ticket:
    """A request that waits for its answer. `refuse` makes the answer that a code stands for in its API."""

    __slots__ = ("response", "refuse", "_bell")

    def __init__(self, refuse: Callable[[ErrorCode], Any]) -> None:
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


class Shard:
    """One partition's groups. What changes them goes through here."""

    __slots__ = (
        "index", "partition", "epoch", "groups", "offsets", "live", "logged", "alarms", "closed", "is_active",
        "is_rewriting", "tickets", "on_waiting", "_clock", "_waiting", "_barriers",
    )  # fmt: skip

    def __init__(self, partition: Partition, clock: Clock, on_waiting: Callable[[Shard], None]) -> None:
        """on_waiting: called when something begins to wait for the high watermark; see `wait_committed`."""
        self.index = partition.index
        self.partition = partition
        self.epoch = partition.leader_epoch
        self.groups: dict[str, AnyGroup] = {}
        self.offsets = Offsets()
        self.live: dict[bytes, bytes] = {}  # records of groups (not of offsets) as the log has them
        self.logged = 0  # records between the log's start and its end
        self.alarms: dict[str, float] = {}  # by group, when it is to be woken; owned by shell.py
        self.closed: ErrorCode | None = None  # why it serves no longer
        self.is_active = False  # loaded
        self.is_rewriting = False
        self.tickets: set[Ticket] = set()  # of requests that wait
        self.on_waiting = on_waiting
        self._clock = clock
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # what is to be done when committed, in order
        self._barriers: dict[str, int] = {}  # group -> offset of its newest record, while that is not committed

    # -- the log ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Pair]) -> int:
        """Append records as one batch; the offset of the last. Raises KafkaError."""
        if self.closed is not None:
            raise KafkaError(self.closed)
        now_ms = self._clock.data_ms()
        appended = self.partition.append(build_batch(records, timestamp=now_ms), ACKS_ALL, now_ms)
        self.logged += len(records)
        for key, value in records:
            if key[:2] != CURRENT_OFFSET_KEY:
                if value is None:
                    self.live.pop(key, None)
                else:
                    self.live[key] = value
        return appended.last_offset

    @property
    def last_offset(self) -> int:
        """The offset of the last record appended."""
        return self.partition.log.end.value - 1

    @property
    def is_bloated(self) -> bool:
        """Whether a replay would read far more than there is."""
        return self.logged > max(REPLAY_RECORDS_MIN, REPLAY_FACTOR * (len(self.live) + self.offsets.count))

    def after(self, offset: int, action: Callable[[], None]) -> None:
        """Do something when the record at offset is committed: now, if it is and nothing waits before it."""
        if not self._waiting and offset < self.partition.high_watermark.value:
            action()
            return
        self._waiting.append((offset, action))
        if len(self._waiting) == 1:
            self.on_waiting(self)

    async def wait_committed(self) -> None:
        """Do what waits as the high watermark passes it, until nothing waits. Raises when the leadership ends."""
        while self._waiting:
            await self.partition.high_watermark.wait_past(self._waiting[0][0])
            while self._waiting and self._waiting[0][0] < self.partition.high_watermark.value:
                self._waiting.popleft()[1]()
            if not self._waiting:
                self._barriers.clear()

    # -- effects ------------------------------------------------------------------------------------------------------

    def perform(self, group_id: str, effects: Iterable[Effect]) -> None:
        """Do what a group asks. Raises KafkaError when a Store failed: memory is ahead of the log then, and the caller
        ends this shard."""
        for effect in effects:
            if isinstance(effect, Store):
                offset = self.append([state_pair(record) for record in effect.records])
                if offset >= self.partition.high_watermark.value:
                    self._barriers[group_id] = offset
            else:
                assert isinstance(effect.to, Ticket)
                self.after(self._barriers.get(group_id, -1), bind(effect.to.answer, effect.response))

    def change_offsets(self, changes: Sequence[Change]) -> int:
        """Append changes of offsets as one batch; they settle when it is committed.

        Returns the offset to wait for. Raises KafkaError, and has changed nothing then.
        """
        offset = self.append(records_of(changes))
        if not self._waiting and offset < self.partition.high_watermark.value:
            self.offsets.settle(changes)
        else:
            self.offsets.stage(changes)
            self.after(offset, bind(self.offsets.settle, changes))
        return offset

    def forget_offsets(self, changes: Sequence[Change]) -> int:
        """As change_offsets, in as many batches as it takes. -1 for no changes."""
        offset = -1
        for start in range(0, len(changes), CHUNK_RECORDS):
            offset = self.change_offsets(changes[start : start + CHUNK_RECORDS])
        return offset

    # -- groups -------------------------------------------------------------------------------------------------------

    def drop_if_idle(self, group_id: str) -> None:
        """Take a group out of memory that has nothing stored, nobody waiting and no offsets."""
        group = self.groups.get(group_id)
        if group is not None and group.forgettable and not self.offsets.is_known(group_id):
            del self.groups[group_id]
            self.alarms.pop(group_id, None)

    def restore(self, live: dict[bytes, bytes], maker: GroupMaker) -> Iterator[None]:
        """Take over what a replay found; a generator, so that it can be done in slices. maker: makes the groups.

        A record that cannot be read costs what it stood for, not the other groups of the partition.
        """
        self.live, self.offsets = live, Offsets()
        states: dict[str, list[StateRecord]] = {}
        for key in list(live):
            try:
                self._restore_one(key, live, states)
            except ProtocolError as error:
                log.error("%s-%d: a record cannot be read: %s", self.partition.topic, self.index, error)
            yield
        self.groups = {}
        for group_id, stored in states.items():
            self.groups[group_id] = maker.restored_group(group_id, stored)
            yield
        for group_id in self.offsets.groups():
            if group_id not in self.groups:  # whoever commits without joining leaves no record of a group
                self.groups[group_id] = maker.new_group(group_id)
            yield

    def _restore_one(self, key: bytes, live: dict[bytes, bytes], states: dict[str, list[StateRecord]]) -> None:
        if key[:2] == CURRENT_OFFSET_KEY:
            value = decode_value(KeyType.OFFSET_COMMIT, live.pop(key))
            self.offsets.settle(((*read_offset_commit_key(key), value),))
            return
        state = read_state(key, live[key])
        if state is not None:
            states.setdefault(decode_key(key).group, []).append(state)

    def close(self, code: ErrorCode) -> None:
        """Serve no longer: who waits is answered with the code. Idempotent."""
        if self.closed is not None:
            return
        self.closed = code
        self._waiting.clear()
        for group in self.groups.values():
            for effect in group.resign(code):
                if not isinstance(effect, Store) and isinstance(effect.to, Ticket):
                    effect.to.answer(effect.response)
        for ticket in tuple(self.tickets):
            ticket.answer(ticket.refuse(code))
