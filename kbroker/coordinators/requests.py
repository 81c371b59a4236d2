"""What handlers ask of the coordinator about offsets and whole groups: the steps that touch a group and its offsets.

Each returns its API's answer, or a coroutine of it where something must be committed first. `refuse` makes the answer
that an error stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.consumer_group import ConsumerGroup
from kbroker.coordinators.effects import Effect
from kbroker.coordinators.offsets import Change
from kbroker.coordinators.records import OffsetCommitValue
from kbroker.coordinators.shard import APPEND_ERRORS, AnyGroup, Shard, Ticket
from kbroker.coordinators.shell import Coordinator, Refuse

Answer: TypeAlias = "Any | Coroutine[Any, Any, Any]"
Partition: TypeAlias = "tuple[str, int]"
GROUP_NOT_FOUND_SINCE = 9  # OffsetCommit version that may be told GROUP_ID_NOT_FOUND (KIP-848)


class Committer(NamedTuple):
    """Who commits offsets, as an OffsetCommit request says it."""

    member_id: str
    group_instance_id: str | None
    generation: int  # or member epoch; negative: no member
    version: int  # of OffsetCommit


class Fetched(NamedTuple):
    """A partition's answer in OffsetFetch."""

    partition: int
    value: OffsetCommitValue | None  # None: nothing was committed
    error: ErrorCode = ErrorCode.NONE


def commit(
    coordinator: Coordinator,
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

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        group = shard.groups.get(group_id)
        if group is None:
            if committer.generation >= 0:
                is_new = committer.version >= GROUP_NOT_FOUND_SINCE
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.ILLEGAL_GENERATION)
            group = coordinator.new_group(group_id)
        stale = _check_commit(coordinator, group, committer, changes)
        fresh = [change for change in changes if change[1:3] not in stale] if stale else changes
        try:
            offset = shard.change_offsets(fresh)
        except KafkaError as error:
            if error.code == ErrorCode.MESSAGE_TOO_LARGE:
                raise KafkaError(ErrorCode.INVALID_COMMIT_OFFSET_SIZE) from error
            raise
        shard.groups.setdefault(group_id, group)
        shard.after(offset, partial(ticket.answer, answer(stale)))
        return ()

    wait_s = coordinator.config().get_int("offsets.commit.timeout.ms") / 1000
    return coordinator.submit(group_id, event, refuse, wait_s)


def _check_commit(
    coordinator: Coordinator, group: AnyGroup, committer: Committer, changes: Sequence[Change]
) -> frozenset[Partition]:
    """Which of the changes are refused as stale, if not all are. Raises KafkaError."""
    member_id, instance_id, generation, version = committer
    if isinstance(group, ConsumerGroup):
        partitions = [change[1:3] for change in changes]
        return group.check_commit(member_id, instance_id, generation, version=version, partitions=partitions)
    group.check_commit(member_id, instance_id, generation, now=coordinator.env.clock.liveness())
    return frozenset()


def fetch(
    coordinator: Coordinator,
    group_id: str,
    topics: Iterable[tuple[str, Collection[int]]] | None,
    *,
    require_stable: bool,
    member_id: str | None = None,
    member_epoch: int = -1,
) -> list[tuple[str, list[Fetched]]]:
    """The committed offsets of partitions, or (None) of all that have one. Raises KafkaError for the whole group.

    require_stable: answer UNSTABLE_OFFSET_COMMIT while a transaction may still change an offset (KIP-447).
    """
    shard = coordinator.shard(group_id)
    group, offsets = shard.groups.get(group_id), shard.offsets
    if isinstance(group, ConsumerGroup):
        group.check_fetch(member_id, member_epoch)
    if topics is None:
        topics = [(topic, list(partitions)) for topic, partitions in offsets.topics(group_id).items()]
    unstable = offsets.unstable if require_stable else ()
    return [
        (
            topic,
            [
                Fetched(index, None, ErrorCode.UNSTABLE_OFFSET_COMMIT)
                if unstable and (group_id, topic, index) in unstable
                else Fetched(index, offsets.get(group_id, topic, index))
                for index in partitions
            ],
        )
        for topic, partitions in topics
    ]


def delete_offsets(
    coordinator: Coordinator,
    group_id: str,
    places: Iterable[Partition],
    answer: Callable[[Collection[str]], Any],
    refuse: Refuse,
) -> Answer:
    """Forget offsets (KIP-496). answer: makes the response, given the topics that the group subscribes to and keeps."""

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
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

    return coordinator.submit(group_id, event, refuse, _timeout_s(coordinator))


def delete_group(coordinator: Coordinator, group_id: str, response: Any, refuse: Refuse) -> Answer:
    """Delete a group without members, and its offsets (KIP-229)."""

    def event(shard: Shard, ticket: Ticket) -> Iterable[Effect]:
        group = shard.groups.get(group_id)
        if group is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        effects = group.delete(coordinator.env.clock.data_ms())
        del shard.groups[group_id]
        try:
            offset = shard.forget_offsets(shard.offsets.removal(group_id))
        except KafkaError as error:
            coordinator.restart(shard, APPEND_ERRORS.get(error.code, ErrorCode.UNKNOWN_SERVER_ERROR))
            raise
        coordinator.perform(shard, group_id, effects)
        shard.after(max(offset, shard.last_offset), partial(ticket.answer, response))
        return ()

    return coordinator.submit(group_id, event, refuse, _timeout_s(coordinator))


def find_group(coordinator: Coordinator, group_id: str) -> AnyGroup | None:
    """The group of that name, of either type. Raises KafkaError when it cannot be looked for here and now."""
    return coordinator.shard(group_id).groups.get(group_id)


def _timeout_s(coordinator: Coordinator) -> float:
    return coordinator.config().get_int("request.timeout.ms") / 1000
