"""What handlers ask of the coordinator about offsets and whole groups: the steps that touch a group and its offsets.

What is long is done in turns. Each step of a turn finds groups and offsets as they are then; what must hold together
(who commits, and what is committed; a group without members, and its end) is one step.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch
from kbroker.coordinators.effects import Effect
from kbroker.coordinators.shard import CHUNK_RECORDS, Ticket, told
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.groups.group import MEMBER_EPOCH_SINCE, Committer, Group
from kbroker.groups.offsets import Changes, is_of, records_of
from kbroker.groups.shard import GroupShard
from kbroker.groups.storage.records import OffsetCommitValue
from kbroker.turns import Work

Partition: TypeAlias = "tuple[str, int]"
RECORD_BYTES_MIN = 32  # of the record of an offset, besides the names and the metadata; a little less than it is


# -- commit -----------------------------------------------------------------------------------------------------------


class Committed(NamedTuple):
    """What became of a commit: of all its partitions, and of those refused with STALE_MEMBER_EPOCH."""

    error: ErrorCode
    stale: Collection[Partition] = ()


def commit(
    coordinator: GroupCoordinator, group_id: str, committer: Committer, changes: Changes
) -> Committed | Coroutine[Any, Any, Committed]:
    """Commit offsets (Kafka: OffsetMetadataManager.commitOffset), all of them in one batch, or none.

    Whoever commits without being a member makes a group that has offsets and nothing else.
    """
    if sum(map(len, changes.values())) > CHUNK_RECORDS:
        return _commit_many(coordinator, group_id, committer, changes)
    return _commit(coordinator, group_id, committer, changes, None)


def _commit(
    coordinator: GroupCoordinator, group_id: str, committer: Committer, changes: Changes, batch: bytearray | None
) -> Committed | Coroutine[Any, Any, Committed]:
    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group, stale = _check_commit(coordinator, shard, group_id, committer, changes)
        offset = shard.change_offsets(group_id, _without(changes, stale), None if stale else batch)
        shard.keep(group)
        shard.after(offset, partial(ticket.answer, Committed(ErrorCode.NONE, stale)))
        return ()

    wait_s = coordinator.config().get_int("offsets.commit.timeout.ms") / 1000
    committed: Committed | Coroutine[Any, Any, Committed] = coordinator.runtime.submit(
        group_id, event, Committed, wait_s
    )
    return committed


async def _commit_many(
    coordinator: GroupCoordinator, group_id: str, committer: Committer, changes: Changes
) -> Committed:
    """The same, with the batch built in a worker. Nothing is built that would be too large (max.message.bytes)."""
    try:
        shard = coordinator.shard(group_id)
        _check_commit(coordinator, shard, group_id, committer, changes)
        check_size(shard, group_id, changes)
    except KafkaError as error:
        return Committed(told(error))
    now_ms = coordinator.env.clock.data_ms()
    batch = await coordinator.env.offload(lambda: build_batch(records_of(group_id, changes), timestamp=now_ms))
    committed = _commit(coordinator, group_id, committer, changes, batch)
    return committed if isinstance(committed, Committed) else await committed


def _check_commit(
    coordinator: GroupCoordinator, shard: GroupShard, group_id: str, committer: Committer, changes: Changes
) -> tuple[Group, frozenset[Partition]]:
    """The group, and the partitions that are refused as stale, if not all are. Raises KafkaError."""
    group: Group | None = shard.groups.get(group_id)
    if group is None:
        if committer.generation >= 0:
            is_new = committer.version >= MEMBER_EPOCH_SINCE  # KIP-848
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.ILLEGAL_GENERATION)
        group = shard.new_group(group_id)
    return group, group.check_commit(committer, changes, now=coordinator.env.clock.liveness())


def _without(changes: Changes, stale: Collection[Partition]) -> Changes:
    if not stale:
        return changes
    return {
        topic: {partition: value for partition, value in partitions.items() if (topic, partition) not in stale}
        for topic, partitions in changes.items()
    }


def check_size(shard: GroupShard, group_id: str, changes: Changes) -> None:
    """Raise KafkaError MESSAGE_TOO_LARGE for changes that certainly do not go into one batch."""
    most = shard.partition.log.config.max_message_bytes
    least = sum(
        len(partitions) * (RECORD_BYTES_MIN + len(group_id) + len(topic)) for topic, partitions in changes.items()
    )
    if least <= most:  # else there may be very many
        least += sum(len(each.metadata) for of in changes.values() for each in of.values() if each is not None)
    if least > most:
        raise KafkaError(ErrorCode.MESSAGE_TOO_LARGE)


# -- fetch ------------------------------------------------------------------------------------------------------------


class Fetched(NamedTuple):
    """A partition's answer in OffsetFetch."""

    partition: int
    value: OffsetCommitValue | None  # None: nothing was committed
    error: ErrorCode = ErrorCode.NONE


def fetch(
    coordinator: GroupCoordinator,
    group_id: str,
    topics: Iterable[tuple[str, Collection[int]]] | None,
    *,
    require_stable: bool,
    member_id: str | None = None,
    member_epoch: int = -1,
) -> Iterator[tuple[str, Iterator[Fetched]]]:
    """The committed offsets of partitions, or (None) of all that have one, as they are when they are asked for.

    An offset of a topic that has been deleted is none, also before housekeeping has removed it.

    require_stable: answer UNSTABLE_OFFSET_COMMIT while a transaction may still change an offset (KIP-447).
    Raises KafkaError for the whole group, at the call.
    """
    shard = coordinator.shard(group_id)
    group, offsets = shard.groups.get(group_id), shard.offsets
    if group is not None:
        group.check_fetch(member_id, member_epoch)
    images = coordinator.registration.image.topics
    if topics is None:
        committed = offsets.topics(group_id).items()
        topics = [(topic, list(partitions)) for topic, partitions in committed if topic in images]

    def fetched(topic: str, partitions: Iterable[int]) -> Iterator[Fetched]:
        topic_id = images[topic].id if topic in images else None
        for index in partitions:
            if require_stable and offsets.is_unstable(group_id, topic, index):
                yield Fetched(index, None, ErrorCode.UNSTABLE_OFFSET_COMMIT)
            else:
                value = offsets.get(group_id, topic, index)
                yield Fetched(index, value if value is not None and is_of(value, topic_id) else None)

    return ((topic, fetched(topic, partitions)) for topic, partitions in topics)


# -- delete -----------------------------------------------------------------------------------------------------------


def nothing(partition: int) -> bool:
    """No partition is wanted."""
    return False


def delete_offsets(
    coordinator: GroupCoordinator, group_id: str, topics: Iterable[tuple[str, Iterable[int]]]
) -> Work[ErrorCode | Coroutine[Any, Any, ErrorCode]]:
    """Forget offsets (KIP-496)."""
    try:
        shard, offset = coordinator.shard(group_id), -1
        for topic, partitions in topics:
            forgotten = yield from shard.forget_offsets(group_id, topic, partitions, nothing)
            offset = max(offset, forgotten)
        coordinator.runtime.note(shard, group_id)
    except KafkaError as error:
        return told(error)
    return when_committed(coordinator, shard, offset)


def delete_group(coordinator: GroupCoordinator, group_id: str) -> Work[tuple[GroupShard, int]]:
    """Delete a group without members, and its offsets (KIP-229); the shard, and the offset to wait for.

    Raises KafkaError; offsets that were removed before somebody joined are gone then.
    """
    shard = coordinator.shard(group_id)
    check_delete(shard, group_id)
    while (yield from _forget_all(shard, group_id)):  # what was committed meanwhile, too
        check_delete(shard, group_id)
    check_delete(shard, group_id)
    coordinator.runtime.perform(shard, group_id, shard.delete(group_id))
    yield
    return shard, shard.last_offset


def _forget_all(shard: GroupShard, group_id: str) -> Work[bool]:
    """Remove the offsets of a group while it can be deleted; whether there were any. Raises KafkaError."""

    def is_wanted(partition: int) -> bool:
        check_delete(shard, group_id)
        return False

    offset = -1
    for topic, partitions in shard.offsets.places(group_id):
        forgotten = yield from shard.forget_offsets(group_id, topic, partitions, is_wanted)
        offset = max(offset, forgotten)
    return offset >= 0


def check_delete(shard: GroupShard, group_id: str) -> None:
    """Whether a group can be deleted. Raises KafkaError."""
    group = shard.groups.get(group_id)
    if group is None:
        raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
    group.check_delete()


def when_committed(
    coordinator: GroupCoordinator, shard: GroupShard, offset: int
) -> ErrorCode | Coroutine[Any, Any, ErrorCode]:
    """NONE when the record at offset is committed; else why it will not be, or not in time."""
    return coordinator.runtime.when_committed(shard, offset, coordinator.wait_s)
