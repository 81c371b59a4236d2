"""OffsetCommit 1-10, OffsetFetch 1-10, OffsetDelete 0: the committed offsets of a group.

OffsetCommit 1 is older than Kafka 4 answers; old clients still send it. Versions 2-4 say how long the offset is to be
kept. Without a commit OffsetFetch answers offset -1, metadata "" and no error. From version 8 on it asks for several
groups at once (KIP-709), from 9 on with the member's epoch (KIP-848).
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from kbroker.api.context import Context
from kbroker.api.offset_changes import Taker
from kbroker.api.registry import handles
from kbroker.cluster.image import NO_TOPIC_ID
from kbroker.coordinators.routing import pauses_for
from kbroker.groups import offset_requests
from kbroker.groups.group import Committer
from kbroker.groups.offset_requests import Committed, Fetched
from kbroker.turns import STRIDE, Work, answer, each, then

CommitAnswer: TypeAlias = "OffsetCommitResponse | Coroutine[Any, Any, OffsetCommitResponse]"
FetchAnswer: TypeAlias = "OffsetFetchResponse | Coroutine[Any, Any, OffsetFetchResponse]"
DeleteAnswer: TypeAlias = "OffsetDeleteResponse | Coroutine[Any, Any, OffsetDeleteResponse]"

IDS_SINCE = 10  # version of both
GROUPS_SINCE = 8  # OffsetFetch version
TOP_LEVEL_ERROR_SINCE = 2  # OffsetFetch version
FETCHED_BYTES_MAX = 48 * 1024 * 1024  # of memory for one answer, roughly
ROW_BYTES = 120  # of a partition in it, besides its metadata
INT64_MAX = 2**63 - 1


# -- OffsetCommit -----------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_COMMIT, 1, 10)
def offset_commit(request: OffsetCommitRequest, context: Context) -> CommitAnswer:
    """Store offsets; every partition that can be stored is, the others are answered why not."""
    return answer(_commit(request, context))


def _commit(request: OffsetCommitRequest, context: Context) -> Work[CommitAnswer]:
    services, retention_ms = context.services, request.retention_time_ms
    at_ms = services.env.clock.data_ms() + retention_ms
    taker = Taker(services, -1 if retention_ms == -1 else min(max(at_ms, 0), INT64_MAX))

    def row(partition: OffsetCommitRequestPartition, code: ErrorCode) -> OffsetCommitResponsePartition:
        return OffsetCommitResponsePartition(partition_index=partition.partition_index, error_code=code)

    def take(topic: str, partition: OffsetCommitRequestPartition) -> OffsetCommitResponsePartition:
        return row(partition, taker.take(topic, partition, partition.commit_timestamp))

    topics = []
    for number, topic in enumerate(request.topics, 1):
        name = _name_of(topic.topic_id, context) if context.version >= IDS_SINCE else topic.name
        asked = partial(row, code=ErrorCode.UNKNOWN_TOPIC_ID) if name is None else partial(take, name)
        partitions = yield from each(asked, topic.partitions)
        if partitions or name not in taker.topics:  # as in Kafka: a topic without any is not answered, if known
            topics.append(OffsetCommitResponseTopic(name=name or "", topic_id=topic.topic_id, partitions=partitions))
        if number % STRIDE == 0:
            yield
    response, changes = OffsetCommitResponse(topics=topics), taker.changes
    if not changes:
        return response
    committer = Committer(
        request.member_id, request.group_instance_id, request.generation_id_or_member_epoch, context.version
    )
    committed = offset_requests.commit(context.services.groups, request.group_id, committer, changes)
    return then(committed, lambda committed: answer(_told(response, committed)))


def _told(response: OffsetCommitResponse, committed: Committed) -> Work[OffsetCommitResponse]:
    """The response, with what became of the partitions that there was nothing against."""
    error, stale = committed

    def tell(topic: str, partition: OffsetCommitResponsePartition) -> None:
        if not partition.error_code:
            is_stale = (topic, partition.partition_index) in stale
            partition.error_code = ErrorCode.STALE_MEMBER_EPOCH if is_stale else error

    for topic in response.topics if error or stale else ():
        yield from each(partial(tell, topic.name), topic.partitions)
        yield
    return response


def _name_of(topic_id: bytes, context: Context) -> str | None:
    """The topic of that ID; None: there is none."""
    topic = context.services.image.topics_by_id.get(topic_id)
    return None if topic is None else topic.name


# -- OffsetFetch ------------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_FETCH, 1, 10)
def offset_fetch(request: OffsetFetchRequest, context: Context) -> FetchAnswer:
    """How far groups have read."""
    return answer((_fetched_groups if context.version >= GROUPS_SINCE else _fetched_one)(request, context))


def _fetched_one(request: OffsetFetchRequest, context: Context) -> Work[OffsetFetchResponse]:
    asked = None if request.topics is None else [(topic.name, topic.partition_indexes) for topic in request.topics]
    try:
        found = offset_requests.fetch(
            context.services.groups, request.group_id, asked, require_stable=request.require_stable
        )
    except KafkaError as error:
        in_partitions = context.version < TOP_LEVEL_ERROR_SINCE
        failed = (
            (topic, (Fetched(index, None, error.code) for index in indexes))
            for topic, indexes in (asked if in_partitions and asked else ())
        )
        topics = yield from _old_topics(failed)
        return OffsetFetchResponse(error_code=error.code, topics=topics)
    topics = yield from _old_topics(found)
    return OffsetFetchResponse(topics=topics)


def _old_topics(found: Iterable[tuple[str, Iterable[Fetched]]]) -> Work[list[OffsetFetchResponseTopic]]:
    topics = []
    for topic, partitions in found:
        rows = yield from each(_old_row, partitions)
        topics.append(OffsetFetchResponseTopic(name=topic, partitions=rows))
        if len(topics) % STRIDE == 0:
            yield
    return topics


def _old_row(fetched: Fetched) -> OffsetFetchResponsePartition:
    index, value, error = fetched
    return OffsetFetchResponsePartition(
        partition_index=index,
        committed_offset=value.offset if value else -1,
        committed_leader_epoch=value.leader_epoch if value else -1,
        metadata=value.metadata if value else "",
        error_code=error,
    )


def _fetched_groups(request: OffsetFetchRequest, context: Context) -> Work[OffsetFetchResponse]:
    """The answer has a bound: a few bytes may ask for all offsets of a group, and do so ten thousand times."""
    groups, size = [], 0
    for group in request.groups:
        try:
            if size > FETCHED_BYTES_MAX:
                raise KafkaError(ErrorCode.INVALID_REQUEST)
            fetched = yield from _fetched_group(group, request, context)
            for topic in fetched.topics:
                size += sum((yield from each(_size_of, topic.partitions)))
        except KafkaError as error:
            fetched = OffsetFetchResponseGroup(group_id=group.group_id, error_code=error.code)
        groups.append(fetched)
        yield from pauses_for(group.group_id)
    return OffsetFetchResponse(groups=groups)


def _size_of(row: OffsetFetchResponsePartitions) -> int:
    return ROW_BYTES + len(row.metadata or "")


def _fetched_group(
    group: OffsetFetchRequestGroup, request: OffsetFetchRequest, context: Context
) -> Work[OffsetFetchResponseGroup]:
    asked, unknown = _named(group, context)
    found = offset_requests.fetch(
        context.services.groups,
        group.group_id,
        asked,
        require_stable=request.require_stable,
        member_id=group.member_id,
        member_epoch=group.member_epoch,
    )
    topics, images = [], context.services.image.topics
    for topic, partitions in found:
        rows = yield from each(_row, partitions)
        topic_id = images[topic].id if topic in images else NO_TOPIC_ID
        topics.append(OffsetFetchResponseTopics(name=topic, topic_id=topic_id, partitions=rows))
        if len(topics) % STRIDE == 0:
            yield
    for nowhere in unknown:
        lost = (Fetched(index, None, ErrorCode.UNKNOWN_TOPIC_ID) for index in nowhere.partition_indexes)
        rows = yield from each(_row, lost)
        topics.append(OffsetFetchResponseTopics(topic_id=nowhere.topic_id, partitions=rows))
        if len(topics) % STRIDE == 0:
            yield
    return OffsetFetchResponseGroup(group_id=group.group_id, topics=topics)


def _named(
    group: OffsetFetchRequestGroup, context: Context
) -> tuple[list[tuple[str, list[int]]] | None, list[OffsetFetchRequestTopics]]:
    """What is asked for, by the topics' names, None for all; and what cannot be, as no topic has the ID."""
    if group.topics is None:
        return None, []
    if context.version < IDS_SINCE:
        return [(topic.name, topic.partition_indexes) for topic in group.topics], []
    names = [(_name_of(topic.topic_id, context), topic) for topic in group.topics]
    asked = [(name, topic.partition_indexes) for name, topic in names if name is not None]
    return asked, [topic for name, topic in names if name is None]


def _row(fetched: Fetched) -> OffsetFetchResponsePartitions:
    index, value, error = fetched
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=value.offset if value else -1,
        committed_leader_epoch=value.leader_epoch if value else -1,
        metadata=value.metadata if value else "",
        error_code=error,
    )


# -- OffsetDelete -----------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_DELETE, 0, 0)
def offset_delete(request: OffsetDeleteRequest, context: Context) -> DeleteAnswer:
    """Forget offsets, but for topics that the group's members subscribe to (KIP-496)."""
    if not request.group_id:
        return OffsetDeleteResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    return answer(_delete(request, context))


def _delete(request: OffsetDeleteRequest, context: Context) -> Work[DeleteAnswer]:
    coordinator = context.services.groups
    try:
        group = coordinator.shard(request.group_id).groups.get(request.group_id)
        if group is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        kept = group.check_offset_delete()
    except KafkaError as error:
        return OffsetDeleteResponse(error_code=error.code)
    images = context.services.image.topics

    def row(topic: str, asked: OffsetDeleteRequestPartition) -> OffsetDeleteResponsePartition:
        code, index = ErrorCode.NONE, asked.partition_index
        if topic not in images or not 0 <= index < len(images[topic].partitions):
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topic in kept:
            code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
        return OffsetDeleteResponsePartition(partition_index=index, error_code=code)

    topics = []
    for topic in request.topics:
        rows = yield from each(partial(row, topic.name), topic.partitions)
        if rows or topic.name not in images:
            topics.append(OffsetDeleteResponseTopic(name=topic.name, partitions=rows))
        yield
    gone = ((topic.name, [row.partition_index for row in topic.partitions if not row.error_code]) for topic in topics)
    deleted = yield from offset_requests.delete_offsets(coordinator, request.group_id, gone)
    return then(deleted, partial(_deleted, topics))


def _deleted(topics: list[OffsetDeleteResponseTopic], code: ErrorCode) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(error_code=code) if code else OffsetDeleteResponse(topics=topics)
