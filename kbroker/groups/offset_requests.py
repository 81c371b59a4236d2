"""What handlers ask of the coordinator about offsets and whole groups: the steps that touch a group and its offsets.

Each returns its API's answer, or a coroutine of it where something must be committed first. `refuse` makes the answer
that an error stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.effects import Effect
from kbroker.coordinators.shard import APPEND_ERRORS, Refuse, Ticket
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.groups.group import MEMBER_EPOCH_SINCE, Committer
from kbroker.groups.offsets import Change, is_of
from kbroker.groups.shard import GroupShard
from kbroker.groups.storage.records import OffsetCommitValue

Answer: TypeAlias = "Any | Coroutine[Any, Any, Any]"
Partition: TypeAlias = "tuple[str, int]"


class Fetched(NamedTuple):
    """A partition's answer in OffsetFetch."""

    partition: int
    value: OffsetCommitValue | None  # None: nothing was committed
    error: ErrorCode = ErrorCode.NONE


def commit(
    coordinator: GroupCoordinator,
    group_id: str,
    committer: Committer,
    changes: Sequence[Change],
    answer: Callable[[Collection[Partition]], Any],
    refuse: Refuse,
) -> Answer:
    """Commit offsets (Kafka: OffsetMetadataManager.commitOffset). Answered once that is committed.

    Whoever commits without being a member makes a group that has offsets and nothing else. answer: makes the response,
    given the partitions that were refused with STALE_MEMBER_EPOCH.
    """

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group = shard.groups.get(group_id)
        if group is None:
            if committer.generation >= 0:
                is_new = committer.version >= MEMBER_EPOCH_SINCE  # KIP-848
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.ILLEGAL_GENERATION)
            group = shard.new_group(group_id)
        partitions = [change[1:3] for change in changes]
        stale = group.check_commit(committer, partitions, now=coordinator.env.clock.liveness())
        fresh = [change for change in changes if change[1:3] not in stale] if stale else changes
        try:
            offset = shard.change_offsets(fresh)
        except KafkaError as error:
            if error.code == ErrorCode.MESSAGE_TOO_LARGE:
                raise KafkaError(ErrorCode.INVALID_COMMIT_OFFSET_SIZE) from error
            raise
        shard.keep(group)
        shard.after(offset, partial(ticket.answer, answer(stale)))
        return ()

    wait_s = coordinator.config().get_int("offsets.commit.timeout.ms") / 1000
    return coordinator.runtime.submit(group_id, event, refuse, wait_s)


def fetch(
    coordinator: GroupCoordinator,
    group_id: str,
    topics: Iterable[tuple[str, Collection[int]]] | None,
    *,
    require_stable: bool,
    member_id: str | None = None,
    member_epoch: int = -1,
) -> list[tuple[str, list[Fetched]]]:
    """The committed offsets of partitions, or (None) of all that have one. Raises KafkaError for the whole group.

    An offset of a topic that has been deleted is none, also before housekeeping has removed it.

    require_stable: answer UNSTABLE_OFFSET_COMMIT while a transaction may still change an offset (KIP-447).
    """
    shard = coordinator.shard(group_id)
    group, offsets = shard.groups.get(group_id), shard.offsets
    if group is not None:
        group.check_fetch(member_id, member_epoch)
    images = coordinator.registration.image.topics
    if topics is None:
        committed = offsets.topics(group_id).items()
        topics = [(topic, list(partitions)) for topic, partitions in committed if topic in images]
    unstable = offsets.unstable if require_stable else ()

    def fetched(topic: str, index: int, topic_id: bytes | None) -> Fetched:
        if unstable and (group_id, topic, index) in unstable:
            return Fetched(index, None, ErrorCode.UNSTABLE_OFFSET_COMMIT)
        value = offsets.get(group_id, topic, index)
        return Fetched(index, value if value is not None and is_of(value, topic_id) else None)

    return [
        (topic, [fetched(topic, index, images[topic].id if topic in images else None) for index in partitions])
        for topic, partitions in topics
    ]


def delete_offsets(
    coordinator: GroupCoordinator,
    group_id: str,
    places: Iterable[Partition],
    answer: Callable[[Collection[str]], Any],
    refuse: Refuse,
) -> Answer:
    """Forget offsets (KIP-496). answer: makes the response, given the topics that the group subscribes to and keeps."""

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group = shard.groups.get(group_id)
        if group is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        kept = group.check_offset_delete()
        changes: list[Change] = [
            (group_id, topic, index, None)
            for topic, index in places
            if topic not in kept and shard.offsets.get(group_id, topic, index) is not None
        ]
        shard.after(shard.forget_offsets(changes), partial(ticket.answer, answer(kept)))
        return ()

    return coordinator.runtime.submit(group_id, event, refuse, _timeout_s(coordinator))


def delete_group(coordinator: GroupCoordinator, group_id: str, response: Any, refuse: Refuse) -> Answer:
    """Delete a group without members, and its offsets (KIP-229)."""

    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        if group_id not in shard.groups:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        effects = shard.delete(group_id)
        try:
            offset = shard.forget_offsets(shard.offsets.removal(group_id))
        except KafkaError as error:
            coordinator.runtime.leading.restart(shard, APPEND_ERRORS.get(error.code, ErrorCode.UNKNOWN_SERVER_ERROR))
            raise
        coordinator.runtime.perform(shard, group_id, effects)
        shard.after(max(offset, shard.last_offset), partial(ticket.answer, response))
        return ()

    return coordinator.runtime.submit(group_id, event, refuse, _timeout_s(coordinator))


def _timeout_s(coordinator: GroupCoordinator) -> float:
    return coordinator.config().get_int("request.timeout.ms") / 1000
