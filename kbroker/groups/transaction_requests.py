"""What handlers ask of the coordinator about offsets that are committed with a transaction (TxnOffsetCommit).

    changes ─▶ a transactional batch ─▶ is its partition in the transaction? ─▶ may these commit? ─▶ appended, pending
                                              the transaction's coordinator        KIP-447             offsets.py

The question may take a while, and a marker may come meanwhile: the log's guard finds out (T4).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.records import build_batch, read_header
from kbroker.coordinators.effects import Effect
from kbroker.coordinators.shard import APPEND_ERRORS, CHUNK_RECORDS, Ticket, same, told
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.groups.group import Committer, Group
from kbroker.groups.offset_requests import check_size
from kbroker.groups.offsets import Changes, records_of
from kbroker.groups.shard import GroupShard
from kbroker.log.derived.producers import UNVERIFIED, Guard
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import Partition
from kbroker.turns import then

Code: TypeAlias = "ErrorCode | Coroutine[Any, Any, ErrorCode]"
Verify: TypeAlias = "Callable[[Partition], Code]"


class Writer(NamedTuple):
    """The producer whose transaction it is, and who says whether it has a partition; None: nobody is asked."""

    producer_id: int
    producer_epoch: int
    verify: Verify | None


def commit(
    coordinator: GroupCoordinator, group_id: str, committer: Committer, changes: Changes, writer: Writer
) -> Code:
    """Commit offsets with a transaction, all of them in one batch, or none (Kafka: commitTransactionalOffset)."""
    if sum(map(len, changes.values())) > CHUNK_RECORDS:
        return _commit_many(coordinator, group_id, committer, changes, writer)
    batch = _batch(group_id, changes, writer, coordinator.env.clock.data_ms())
    return _commit(coordinator, group_id, committer, changes, writer, batch)


def _batch(group_id: str, changes: Changes, writer: Writer, now_ms: int) -> bytearray:
    return build_batch(
        records_of(group_id, changes),
        timestamp=now_ms,
        producer_id=writer.producer_id,
        producer_epoch=writer.producer_epoch,
        transactional=True,
    )


async def _commit_many(
    coordinator: GroupCoordinator, group_id: str, committer: Committer, changes: Changes, writer: Writer
) -> ErrorCode:
    """The same, with the batch built in a worker. Nothing is built that would be too large."""
    try:
        check_size(coordinator.shard(group_id), group_id, changes)
    except KafkaError as error:
        return told(error)
    now_ms = coordinator.env.clock.data_ms()
    batch = await coordinator.env.offload(lambda: _batch(group_id, changes, writer, now_ms))
    committed = _commit(coordinator, group_id, committer, changes, writer, batch)
    return committed if isinstance(committed, ErrorCode) else await committed


def _commit(
    coordinator: GroupCoordinator,
    group_id: str,
    committer: Committer,
    changes: Changes,
    writer: Writer,
    batch: bytearray,
) -> Code:
    """Ask if that is needed, then append."""

    def append(code: ErrorCode, guard: Guard | None) -> Code:
        if code is not ErrorCode.NONE:
            return APPEND_ERRORS.get(code, code)
        return _append(coordinator, group_id, committer, changes, batch, guard)

    try:
        partition = coordinator.shard(group_id).partition
        guard = partition.verification(read_header(batch))
    except InDoubt as doubt:  # it is enough to be heard: a producer's epoch never falls, whoever coordinates
        return told(doubt.found)
    except KafkaError as error:
        return told(error)
    if guard is not None and writer.verify is None and min(writer.producer_id, writer.producer_epoch) < 0:
        return ErrorCode.UNKNOWN_SERVER_ERROR  # as Kafka: there are no such batches, and nobody else found out
    if guard is None or writer.verify is None:
        return append(ErrorCode.NONE, None if guard is None else UNVERIFIED)
    return then(writer.verify(partition), partial(append, guard=guard))


def _append(
    coordinator: GroupCoordinator,
    group_id: str,
    committer: Committer,
    changes: Changes,
    batch: bytearray,
    guard: Guard | None,
) -> Code:
    def event(shard: GroupShard, ticket: Ticket) -> Iterable[Effect]:
        group = _check_commit(coordinator, shard, group_id, committer, changes)
        offset = shard.pend_offsets(group_id, changes, batch, guard)
        shard.keep(group)
        shard.after(offset, partial(ticket.answer, ErrorCode.NONE))
        return ()

    wait_s = coordinator.config().get_int("offsets.commit.timeout.ms") / 1000
    committed: Code = coordinator.runtime.submit(group_id, event, same, wait_s)
    return committed


def _check_commit(
    coordinator: GroupCoordinator, shard: GroupShard, group_id: str, committer: Committer, changes: Changes
) -> Group:
    """The group that may commit with a transaction. One partition that it may not commit for refuses all.

    Raises KafkaError. What is stale is an ILLEGAL_GENERATION here: TxnOffsetCommit knows no member epochs.
    """
    group: Group | None = shard.groups.get(group_id)
    if group is None:
        if committer.generation >= 0:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        return shard.new_group(group_id)
    try:
        stale = group.check_commit(committer, changes, now=coordinator.env.clock.liveness())
    except KafkaError as error:
        if error.code is ErrorCode.STALE_MEMBER_EPOCH:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION, str(error)) from None
        raise
    if stale:
        raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
    return group
