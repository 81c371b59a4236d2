"""OffsetCommit 1-9, OffsetFetch 1-9, OffsetDelete 0: the committed offsets of a group.

OffsetCommit 1 is older than Kafka 4 answers; old clients still send it. Versions 2-4 say how long the offset is to be
kept. Without a commit OffsetFetch answers offset -1, metadata "" and no error. From version 8 on it asks for several
groups at once (KIP-709), from 9 on with the member's epoch (KIP-848).
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
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
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.groups import offset_requests
from kbroker.groups.group import Committer
from kbroker.groups.offset_requests import Fetched
from kbroker.groups.offsets import Change
from kbroker.groups.storage.records import OffsetCommitValue

CommitAnswer: TypeAlias = "OffsetCommitResponse | Coroutine[Any, Any, OffsetCommitResponse]"
DeleteAnswer: TypeAlias = "OffsetDeleteResponse | Coroutine[Any, Any, OffsetDeleteResponse]"

GROUPS_SINCE = 8  # OffsetFetch version
TOP_LEVEL_ERROR_SINCE = 2  # OffsetFetch version


# -- OffsetCommit -----------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_COMMIT, 1, 9)
def offset_commit(request: OffsetCommitRequest, context: Context) -> CommitAnswer:
    """Store offsets; every partition that can be stored is, the others are answered why not."""
    changes: list[Change] = []
    response = OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetCommitResponsePartition(
                        partition_index=partition.partition_index,
                        error_code=_take_commit(topic.name, partition, request, context, changes),
                    )
                    for partition in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )
    if not changes:
        return response

    def refuse(code: ErrorCode) -> OffsetCommitResponse:
        for topic in response.topics:
            for partition in topic.partitions:
                partition.error_code = partition.error_code or code
        return response

    def answer(stale: Collection[tuple[str, int]]) -> OffsetCommitResponse:
        for topic in response.topics if stale else ():
            for partition in topic.partitions:
                if (topic.name, partition.partition_index) in stale:
                    partition.error_code = partition.error_code or ErrorCode.STALE_MEMBER_EPOCH
        return response

    committer = Committer(
        request.member_id, request.group_instance_id, request.generation_id_or_member_epoch, context.version
    )
    committed: CommitAnswer = offset_requests.commit(
        context.services.groups, request.group_id, committer, changes, answer, refuse
    )
    return committed


def _take_commit(
    topic: str,
    partition: OffsetCommitRequestPartition,
    request: OffsetCommitRequest,
    context: Context,
    changes: list[Change],
) -> ErrorCode:
    """Note the change a partition asks for, or say why it cannot be made."""
    services, index = context.services, partition.partition_index
    known = services.image.topics.get(topic)
    if known is None or not 0 <= index < len(known.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    metadata = partition.committed_metadata or ""
    if len(metadata) > services.config.get_int("offset.metadata.max.bytes"):
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    now_ms = services.env.clock.data_ms()
    value = OffsetCommitValue(
        offset=partition.committed_offset,
        leader_epoch=partition.committed_leader_epoch,
        metadata=metadata,
        commit_timestamp=now_ms if partition.commit_timestamp < 0 else partition.commit_timestamp,
        expire_timestamp=now_ms + request.retention_time_ms if request.retention_time_ms >= 0 else -1,
        topic_id=known.id,
    )
    changes.append((request.group_id, topic, index, value))
    return ErrorCode.NONE


# -- OffsetFetch ------------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_FETCH, 1, 9)
def offset_fetch(request: OffsetFetchRequest, context: Context) -> OffsetFetchResponse:
    """How far groups have read."""
    if context.version >= GROUPS_SINCE:
        return OffsetFetchResponse(groups=[_fetched_group(group, request, context) for group in request.groups])
    asked = None if request.topics is None else [(topic.name, topic.partition_indexes) for topic in request.topics]
    try:
        found = offset_requests.fetch(
            context.services.groups, request.group_id, asked, require_stable=request.require_stable
        )
    except KafkaError as error:
        in_partitions = context.version < TOP_LEVEL_ERROR_SINCE
        failed = [
            (topic, [Fetched(index, None, error.code) for index in indexes])
            for topic, indexes in (asked if in_partitions and asked else ())
        ]
        return OffsetFetchResponse(error_code=error.code, topics=_old_topics(failed))
    return OffsetFetchResponse(topics=_old_topics(found))


def _old_topics(found: list[tuple[str, list[Fetched]]]) -> list[OffsetFetchResponseTopic]:
    return [
        OffsetFetchResponseTopic(
            name=topic,
            partitions=[
                OffsetFetchResponsePartition(
                    partition_index=each.partition,
                    committed_offset=each.value.offset if each.value else -1,
                    committed_leader_epoch=each.value.leader_epoch if each.value else -1,
                    metadata=each.value.metadata if each.value else "",
                    error_code=each.error,
                )
                for each in partitions
            ],
        )
        for topic, partitions in found
    ]


def _fetched_group(
    group: OffsetFetchRequestGroup, request: OffsetFetchRequest, context: Context
) -> OffsetFetchResponseGroup:
    asked = None if group.topics is None else [(topic.name, topic.partition_indexes) for topic in group.topics]
    try:
        found = offset_requests.fetch(
            context.services.groups,
            group.group_id,
            asked,
            require_stable=request.require_stable,
            member_id=group.member_id,
            member_epoch=group.member_epoch,
        )
    except KafkaError as error:
        return OffsetFetchResponseGroup(group_id=group.group_id, error_code=error.code)
    return OffsetFetchResponseGroup(
        group_id=group.group_id,
        topics=[
            OffsetFetchResponseTopics(
                name=topic,
                partitions=[
                    OffsetFetchResponsePartitions(
                        partition_index=each.partition,
                        committed_offset=each.value.offset if each.value else -1,
                        committed_leader_epoch=each.value.leader_epoch if each.value else -1,
                        metadata=each.value.metadata if each.value else "",
                        error_code=each.error,
                    )
                    for each in partitions
                ],
            )
            for topic, partitions in found
        ],
    )


# -- OffsetDelete -----------------------------------------------------------------------------------------------------


@handles(ApiKey.OFFSET_DELETE, 0, 0)
def offset_delete(request: OffsetDeleteRequest, context: Context) -> DeleteAnswer:
    """Forget offsets, but for topics that the group's members subscribe to (KIP-496)."""
    topics = context.services.image.topics

    def code_of(topic: str, index: int, kept: Collection[str]) -> ErrorCode:
        if topic not in topics or not 0 <= index < len(topics[topic].partitions):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if topic in kept else ErrorCode.NONE

    def answer(kept: Collection[str]) -> OffsetDeleteResponse:
        return OffsetDeleteResponse(
            topics=[
                OffsetDeleteResponseTopic(
                    name=topic.name,
                    partitions=[
                        OffsetDeleteResponsePartition(
                            partition_index=partition.partition_index,
                            error_code=code_of(topic.name, partition.partition_index, kept),
                        )
                        for partition in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def refuse(code: ErrorCode) -> OffsetDeleteResponse:
        return OffsetDeleteResponse(error_code=code)

    if not request.group_id:
        return refuse(ErrorCode.INVALID_GROUP_ID)
    places = [(topic.name, partition.partition_index) for topic in request.topics for partition in topic.partitions]
    deleted: DeleteAnswer = offset_requests.delete_offsets(
        context.services.groups, request.group_id, dict.fromkeys(places), answer, refuse
    )
    return deleted
