"""GroupShard: the groups and offsets of one `__consumer_offsets` partition that is led here.

It owns its groups: which there are, of which type, and when one is forgotten. A group of which nothing is stored and
that nobody is in is dropped with the event that left it so; one whose offsets were removed stays, empty, until
housekeeping comes round, as in Kafka.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

from kafka_wire.errors import ErrorCode, KafkaError, ProtocolError
from kafka_wire.records import read_header
from kbroker.coordinators.effects import Compute, Effect, Pair, StateRecord
from kbroker.coordinators.replay import Unsettled
from kbroker.coordinators.shard import Shard, Tasks
from kbroker.env import Clock
from kbroker.events import MEMBER_EXPELLED, MORE_CHANGED, first_ones, tell
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.group import Expelled, Group, Topics
from kbroker.groups.offsets import Changes, Offsets, records_of
from kbroker.groups.pending import Transaction
from kbroker.groups.settings import Settings
from kbroker.groups.storage.records import (
    CURRENT_OFFSET_KEY,
    LEGACY_OFFSET_KEY,
    KeyType,
    decode_key,
    decode_value,
    read_offset_commit_key,
)
from kbroker.groups.storage.snapshots import GroupSnapshot
from kbroker.groups.storage.stored import read_state, state_pair
from kbroker.log.derived.producers import Guard
from kbroker.log.derived.transactions import Marker
from kbroker.replication.partition import Partition
from kbroker.turns import PAUSES_A_TURN, Work, advance

FORGET_RECORDS = 32  # in one batch, between two pauses

log = logging.getLogger("kbroker.groups")


class Surroundings(Protocol):
    """What groups are made with (the coordinator's)."""

    def settings_of(self, group_id: str) -> Settings:
        """What the configs say about a group."""

    @property
    def topics(self) -> Topics:
        """All topics of the cluster; the same object while they are the same."""


class GroupShard(Shard):
    """One partition's groups. What changes them goes through here."""

    __slots__ = ("_groups", "offsets", "_surroundings", "_emptied")

    def __init__(
        self,
        partition: Partition,
        clock: Clock,
        tasks: Tasks,
        surroundings: Surroundings,
    ) -> None:
        super().__init__(partition, clock, tasks)
        self.offsets = Offsets()
        self._groups: dict[str, Group] = {}
        self._surroundings = surroundings
        self._emptied: set[str] = set()  # groups without offsets that had some: they stay until housekeeping

    # -- groups -------------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, Group]:
        """All groups, by name."""
        return self._groups

    def new_group(self, group_id: str) -> ClassicGroup:
        """A classic group that nobody has heard of; it is not kept before `keep`."""
        return ClassicGroup(group_id, self._surroundings.settings_of(group_id).classic, now_ms=self.clock.data_ms())

    def keep(self, group: Group) -> None:
        """A group is there from now on."""
        self._groups[group.group_id] = group

    def group_to_join(self, group_id: str) -> tuple[Group, list[Effect]]:
        """The group that a JoinGroup enters, and what comes before it: it is made if there is none, and an empty
        consumer group gives way to a classic one."""
        group = self._groups.get(group_id)
        effects: list[Effect] = []
        if group is not None and group.gives_way:
            effects = group.delete(self.clock.data_ms())
            group = None
        if group is None:
            group = self._groups[group_id] = self.new_group(group_id)
        return group, effects

    def consumer_group_to_join(self, group_id: str) -> tuple[Group, list[Effect]]:
        """The group that a member of the consumer protocol joins, and what comes before it: it is made if there is
        none, and a classic group is turned into one. Raises KafkaError when that may not be (check_upgrade)."""
        from kbroker.groups.consumer.group import ConsumerGroup

        present, limits = self._groups.get(group_id), self._surroundings.settings_of(group_id).consumer
        topics, effects = self._surroundings.topics, list[Effect]()
        if isinstance(present, ConsumerGroup):
            return present, effects
        if isinstance(present, ClassicGroup):
            made, effects = ConsumerGroup.from_classic(present, limits, topics, now=self.clock.liveness())
        else:
            made = ConsumerGroup(group_id, limits, topics)
        self._groups[group_id] = made
        return made, effects

    def delete(self, group_id: str) -> list[Effect]:
        """Take a group without members out; its offsets are removed before, by the caller. Raises KafkaError."""
        effects = self._groups[group_id].delete(self.clock.data_ms())
        self._drop(group_id)
        return effects

    def _drop(self, group_id: str) -> None:
        del self._groups[group_id]
        self._emptied.discard(group_id)
        self.alarms.pop(group_id, None)

    def perform(self, name: str, effects: Iterable[Effect]) -> None:
        """Do what a group asks; then it may have turned into a classic one, or there is nothing left of it."""
        super().perform(name, effects)
        group = self._groups.get(name)
        if group is None:
            return
        if group.replaced_by is not None:
            now, limits = self.clock.liveness(), self._surroundings.settings_of(name).classic
            classic = ClassicGroup.restore(group.replaced_by, limits, now=now, timeline=group.timeline)
            self._groups[name] = classic
            super().perform(name, classic.rebalance("downgrade", now, self.clock.data_ms()))
        elif group.forgettable and name not in self._emptied and not self.offsets.is_known(name):
            self._drop(name)

    # -- offsets ------------------------------------------------------------------------------------------------------

    def change_offsets(self, group_id: str, changes: Changes, batch: bytearray | None = None) -> int:
        """Append changes of a group's offsets as one batch; they settle when it is committed.

        batch: of the records of these changes, if it has been built already.
        Returns the offset to wait for. Raises KafkaError, and has changed nothing then.
        """
        if batch is None:
            offset = self.append(records_of(group_id, changes))
        else:
            offset = self.append_batch(batch, sum(map(len, changes.values())))
        if self.is_committed(offset):
            self.offsets.settle(group_id, changes, offset)
        else:
            self.offsets.stage(group_id, changes, offset)
            self.after(offset, partial(self.offsets.settle_staged, group_id, changes, offset))
        return offset

    def pend_offsets(self, group_id: str, changes: Changes, batch: bytearray, guard: Guard | None) -> int:
        """Append changes of a group's offsets that count if a transaction is committed, as one batch.

        batch: of the records of these changes, transactional. guard: see Partition.write.
        Returns the offset to wait for. Raises KafkaError, and has changed nothing then.
        """
        header = read_header(batch)
        if self.offsets.is_crowded(header.producer_id, group_id, changes):
            raise KafkaError(ErrorCode.CONCURRENT_TRANSACTIONS)
        offset = self.append_batch(batch, sum(map(len, changes.values())), guard)
        self.offsets.pend(header.producer_id, header.producer_epoch, group_id, changes, offset)
        self._emptied.add(group_id)  # it may come to nothing
        return offset

    def write_marker(self, marker: Marker) -> int:
        """End a producer's transaction: its offsets settle, or are dropped, when the marker is committed.

        Returns the marker's offset. Raises KafkaError, and has changed nothing then.
        """
        offset = self.partition.write_marker(marker, self.clock.data_ms()).last_offset
        self.logged += 1
        transaction = self.offsets.end(marker.producer_id, marker.is_commit)
        if transaction is not None:
            self.after(offset, partial(self._fold, transaction))
        return offset

    def _fold(self, transaction: Transaction) -> None:
        work = self.offsets.fold(transaction)
        if advance(work, PAUSES_A_TURN) is None:
            self._tasks.on_compute(self, "", Compute(work, lambda *_: ()))

    def forget_offsets(
        self, group_id: str, topic: str, partitions: Iterable[int], is_wanted: Callable[[int], bool]
    ) -> Work[int]:
        """Remove a group's offsets of these partitions, those that are not wanted at that moment, in batches.

        Returns the offset to wait for, -1 if there are none. Raises KafkaError; what was removed before stays so.
        """
        offset = -1
        for chunk in _chunks(partitions):
            logged = partial(self.offsets.logged, group_id, topic)
            gone = [partition for partition in chunk if logged(partition).is_anything and not is_wanted(partition)]
            if gone:
                self._emptied.add(group_id)
                offset = self.change_offsets(group_id, {topic: dict.fromkeys(gone)})
            yield
        return offset

    # -- as a shard ---------------------------------------------------------------------------------------------------

    def names(self) -> Collection[str]:
        """Of all groups."""
        return self._groups.keys()

    def deadline(self, name: str) -> float | None:
        """When that group is to be woken."""
        group = self._groups.get(name)
        return None if group is None else group.deadline

    def on_alarm(self, name: str, now: float, now_ms: int) -> Iterable[Effect]:
        """The deadline of a group has passed."""
        return self._groups[name].on_alarm(now, now_ms)

    def carry_out(self, name: str, what: object) -> None:
        """Tell people of members that are out."""
        assert isinstance(what, Expelled)
        members, left = first_ones(what.members)
        for member_id, client, reason in members:
            who = {"client_id": client.id, "client": client.host.removeprefix("/")}
            tell(log, MEMBER_EXPELLED, group=name, member=member_id, reason=reason, **who)
        if left:
            tell(log, MORE_CHANGED, count=left, what=f"members out of group {name}")

    def resign(self, code: ErrorCode) -> Iterable[Effect]:
        """What answers those who wait for their groups."""
        for group in self._groups.values():
            yield from group.resign(code)

    def pair_of(self, record: StateRecord | Pair) -> Pair:
        """The record that a group wants stored."""
        return state_pair(record)

    def key_of(self, key: bytes) -> bytes:
        """Kafka before 0.9 wrote offsets under keys of another type."""
        return CURRENT_OFFSET_KEY + key[2:] if key[:2] == LEGACY_OFFSET_KEY else key

    def summary(self) -> str:
        """What it holds."""
        return f"{len(self._groups)} groups and {self.offsets.count} offsets"

    def restore(self, live: dict[bytes, bytes]) -> Work[None]:
        """Take over what a replay found. A record that cannot be read costs what it stood for, not other groups."""
        self.offsets = Offsets()
        states: dict[str, list[StateRecord]] = {}
        for key in list(live):
            try:
                self._restore_one(key, live, states)
            except ProtocolError as error:
                log.error("%s: a record cannot be read: %s", self, error)
            yield
        self._groups = {}
        for group_id, stored in states.items():
            self._groups[group_id] = self._restored(group_id, stored)
            yield
        for group_id in self.offsets.groups():
            self._keep_simple(group_id)
            yield

    def restore_open(self, records: Sequence[Unsettled]) -> Work[None]:
        """Take over the offsets of transactions that have not ended."""
        for offset, producer_id, producer_epoch, key, content in records:
            if content is None or key[:2] != CURRENT_OFFSET_KEY:
                continue  # we write no such records
            try:
                value = decode_value(KeyType.OFFSET_COMMIT, content)
                group_id, topic, partition = read_offset_commit_key(key)
            except ProtocolError as error:
                log.error("%s: a record cannot be read: %s", self, error)
                continue
            self.offsets.pend(producer_id, producer_epoch, group_id, {topic: {partition: value}}, offset)
            self._keep_simple(group_id)
            self._emptied.add(group_id)
            yield

    def _keep_simple(self, group_id: str) -> None:
        """Whoever commits without joining leaves no record of a group."""
        if group_id not in self._groups:
            self._groups[group_id] = self.new_group(group_id)

    def _restore_one(self, key: bytes, live: dict[bytes, bytes], states: dict[str, list[StateRecord]]) -> None:
        if key[:2] == CURRENT_OFFSET_KEY:
            value = decode_value(KeyType.OFFSET_COMMIT, live.pop(key))
            group_id, topic, partition = read_offset_commit_key(key)
            self.offsets.settle(group_id, {topic: {partition: value}}, -1)
            return
        state = read_state(key, live[key])
        if state is not None:
            states.setdefault(decode_key(key).group, []).append(state)

    def _restored(self, group_id: str, stored: Sequence[StateRecord]) -> Group:
        """A group as it was stored, of the type that its records are of."""
        settings, now = self._surroundings.settings_of(group_id), self.clock.liveness()
        for state in stored:
            if isinstance(state, GroupSnapshot):
                return ClassicGroup.restore(state, settings.classic, now=now)
        from kbroker.groups.consumer.group import ConsumerGroup

        return ConsumerGroup.restore(group_id, stored, settings.consumer, self._surroundings.topics, now=now)


def _chunks(items: Iterable[int]) -> Iterator[list[int]]:
    """As many as go into one batch, and so on."""
    rest = iter(items)
    while chunk := list(islice(rest, FORGET_RECORDS)):
        yield chunk
