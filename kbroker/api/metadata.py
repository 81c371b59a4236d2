"""ApiVersions 0-4, Metadata 0-13, DescribeCluster 0-2, DescribeTopicPartitions 0: who we are and what there is.

Metadata v0-3 cannot say whether a missing topic may be created: it may (trap of clients that loop otherwise). Topics
asked for by name are created on the way where `auto.create.topics.enable` allows it, and the answer waits until they
can be written to. v0 means "all" with an empty list, later versions with null. Leader epochs (v7) and topic IDs (v10)
never go back.

A broker is named by the address its listener advertises, see addresses.py. Every broker carries out what clients ask of
the controller: where there is none for the moment, they are told of this one.
"""

from __future__ import annotations

import re
from collections.abc import Container, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any

from kafka_wire.api import OWN_KEY_MIN, ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.metadata import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribeTopicPartitionsCursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
    FinalizedFeatureKey,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
    SupportedFeatureKey,
)
from kbroker.api.addresses import address_of, reachable
from kbroker.api.context import Context, Services
from kbroker.api.registry import APIS, handles
from kbroker.api.topics import create_missing
from kbroker.cluster.changes.features import FEATURES
from kbroker.cluster.changes.placement import check_topic_name
from kbroker.cluster.image import NO_LEADER, NO_TOPIC_ID, ClusterImage, PartitionImage, TopicImage
from kbroker.turns import STRIDE, Work, answer, each, finish

NOT_ASKED = -(2**31)  # authorized operations were not requested
# Bit n stands for AclOperation n: what an open broker lets everyone do (KIP-430).
TOPIC_OPERATIONS = sum(1 << n for n in (3, 4, 5, 6, 7, 8, 10, 11))  # read write create delete alter describe configs
CLUSTER_OPERATIONS = sum(1 << n for n in (5, 7, 8, 9, 10, 11, 12))
LISTENER_NOT_FOUND_SINCE = 6
BROKER_ENDPOINTS, CONTROLLER_ENDPOINTS = 1, 2
SOFTWARE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?")  # a client's name and version (KIP-511)
TOPICS_A_PAUSE = 8  # topics described between two pauses, most of them of few partitions


@handles(ApiKey.API_VERSIONS, 0, 4)
def api_versions(request: ApiVersionsRequest, context: Context) -> ApiVersionsResponse:
    """Tell which APIs are answered, which feature levels are possible, and which the cluster is at (KIP-584).

    Features of minimum 0 can be told from version 4 on: clients that are older cannot read them (KAFKA-17492).
    """
    if context.version >= 3:
        if not all(map(SOFTWARE.fullmatch, (request.client_software_name, request.client_software_version))):
            return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
        context.peer.software_name = request.client_software_name
        context.peer.software_version = request.client_software_version
    finalized = context.services.image.features
    return ApiVersionsResponse(
        api_keys=_advertised(),
        supported_features=[
            SupportedFeatureKey(name=feature.name, min_version=feature.low, max_version=feature.high)
            for feature in FEATURES.values()
            if feature.low or context.version >= 4
        ],
        finalized_features_epoch=finalized.epoch,
        finalized_features=[
            FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
            for name, level in finalized.levels.items()
            if level
        ],
    )


def unsupported_version() -> ApiVersionsResponse:
    """The answer, in the body of version 0, to an ApiVersions version we do not know."""
    return ApiVersionsResponse(
        error_code=ErrorCode.UNSUPPORTED_VERSION,
        api_keys=[key for key in _advertised() if key.api_key == ApiKey.API_VERSIONS],
    )


def _advertised() -> list[ApiVersion]:
    return [
        ApiVersion(api_key=api.key, min_version=api.advertised_min, max_version=api.version_max)
        for _, api in sorted(APIS.items())
        if api.key < OWN_KEY_MIN
    ]


# -- Metadata ---------------------------------------------------------------------------------------------------------


@handles(ApiKey.METADATA, 0, 13)
def metadata(request: MetadataRequest, context: Context) -> MetadataResponse | Coroutine[Any, Any, MetadataResponse]:
    """Describe brokers and the topics asked for; a coroutine when they are many, or some are created on the way."""
    return answer(_described(request, context))


def _described(request: MetadataRequest, context: Context) -> Work[Any]:
    """The answer, or a coroutine of it where topics have to be created first."""
    wanted = _Wanted()
    try:
        yield from each(partial(wanted.add, context.version), request.topics or ())
    except KafkaError as error:
        return _refused(request, error.code)
    if wanted.ids:
        wanted.names.clear()
    wanted.all = request.topics is None or (context.version == 0 and not request.topics)
    topics = context.services.image.topics
    may_create = context.version < 4 or request.allow_auto_topic_creation
    if may_create and wanted.names and context.services.config.get_bool("auto.create.topics.enable"):
        missing = [name for name in wanted.names if name not in topics]
        if missing:
            return _create_and_describe(missing, wanted, request, context)
    return (yield from _metadata(wanted, request, context, {}))


class _Wanted:
    """Which topics a request is about, each once. Where there are IDs the names beside them do not count (KIP-516)."""

    __slots__ = ("all", "ids", "names")

    def __init__(self) -> None:
        self.all = False
        self.ids: dict[bytes, None] = {}
        self.names: dict[str, None] = {}

    def add(self, version: int, topic: MetadataRequestTopic) -> None:
        """One more. Raises KafkaError INVALID_REQUEST for one without a name, or with an ID, before version 12."""
        if version < 12 and (topic.name is None or topic.topic_id != NO_TOPIC_ID):
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        if topic.topic_id != NO_TOPIC_ID:
            self.ids[topic.topic_id] = None
        elif topic.name is not None:
            self.names[topic.name] = None


async def _create_and_describe(
    missing: list[str], wanted: _Wanted, request: MetadataRequest, context: Context
) -> MetadataResponse:
    failed = await create_missing(missing, context)
    return await finish(_metadata(wanted, request, context, failed))


def _metadata(
    wanted: _Wanted, request: MetadataRequest, context: Context, failed: dict[str, ErrorCode]
) -> Work[MetadataResponse]:
    image, alive = context.services.image, reachable(context)
    partition = partial(_partition if context.version else _partition_0, alive, _unheard(alive, context))
    topics: list[MetadataResponseTopic] = []
    for topic, found in _asked_topics(wanted, image, failed):
        topics.append(found)
        if topic is not None:
            found.partitions = yield from each(partition, topic.partitions)
            if not context.services.registration.is_proven:
                yield from each(partial(_name_leader_if_heard, topic.kept_as, context.services), found.partitions)
        if not len(topics) % TOPICS_A_PAUSE:
            yield
    if context.version >= 8 and request.include_topic_authorized_operations:
        for described in topics:
            described.topic_authorized_operations = TOPIC_OPERATIONS
    return MetadataResponse(
        brokers=[
            MetadataResponseBroker(node_id=id, host=host, port=port, rack=image.brokers[id].rack)
            for id, (host, port) in alive.items()
        ],
        cluster_id=image.cluster_id,
        controller_id=image.controller_id if image.controller_id in alive else context.services.node_id,
        topics=topics,
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS
            if 8 <= context.version <= 10 and request.include_cluster_authorized_operations
            else NOT_ASKED
        ),
    )


def _asked_topics(
    wanted: _Wanted, image: ClusterImage, failed: dict[str, ErrorCode]
) -> Iterator[tuple[TopicImage | None, MetadataResponseTopic]]:
    """Each topic asked for, if it is there, and the answer about it but for its partitions."""
    for topic in image.topics.values() if wanted.all else ():
        yield topic, _topic(topic)
    for topic_id in wanted.ids:
        found = image.topics_by_id.get(topic_id)
        yield found, _topic(found) if found else _no_topic(ErrorCode.UNKNOWN_TOPIC_ID, None, topic_id)
    for name in wanted.names:
        found = image.topics.get(name)
        yield found, _topic(found) if found else _no_topic(failed.get(name) or _why_absent(name), name, NO_TOPIC_ID)


def _topic(topic: TopicImage) -> MetadataResponseTopic:
    return MetadataResponseTopic(name=topic.name, topic_id=topic.id, is_internal=topic.internal)


def _no_topic(error: ErrorCode, name: str | None, topic_id: bytes) -> MetadataResponseTopic:
    return MetadataResponseTopic(error_code=error, name=name, topic_id=topic_id)


def _refused(request: MetadataRequest, error: ErrorCode) -> MetadataResponse:
    """Kafka: MetadataRequest.getErrorResponse."""
    return MetadataResponse(
        topics=[_no_topic(error, topic.name or "", topic.topic_id) for topic in request.topics or ()],
        error_code=error,
    )


def _why_absent(name: str) -> ErrorCode:
    try:
        check_topic_name(name)
    except KafkaError as error:
        return error.code
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def _unheard(alive: Container[int], context: Context) -> Container[int]:
    """Brokers that are there, but not on the client's listener, where it can be told so."""
    if context.version < LISTENER_NOT_FOUND_SINCE:
        return ()
    return {id for id in context.services.image.brokers if id not in alive}


def _partition(alive: Container[int], unheard: Container[int], p: PartitionImage) -> MetadataResponsePartition:
    """A leader that is gone is none, whatever the image still says: nobody could be told where it is.

    alive: brokers that the client can reach.
    """
    is_led = p.leader in alive
    why_not = ErrorCode.LISTENER_NOT_FOUND if p.leader in unheard else ErrorCode.LEADER_NOT_AVAILABLE
    return MetadataResponsePartition(
        error_code=ErrorCode.NONE if is_led else why_not,
        partition_index=p.index,
        leader_id=p.leader if is_led else NO_LEADER,
        leader_epoch=p.leader_epoch,
        replica_nodes=list(p.replicas),
        isr_nodes=list(p.isr),
        offline_replicas=[replica for replica in p.replicas if replica not in alive],
    )


def _name_leader_if_heard(topic: str, services: Services, described: MetadataResponsePartition) -> None:
    """Name no leader where this broker seems to be it, and another may be by now: whoever asks another broker learns.

    The session with the cluster is in doubt, and the followers have not been heard of (R14).
    """
    if described.leader_id == services.node_id:
        held = services.partitions.get((topic, described.partition_index))
        if held is None or not held.is_heard:
            described.leader_id, described.error_code = NO_LEADER, ErrorCode.LEADER_NOT_AVAILABLE


def _partition_0(alive: Container[int], unheard: Container[int], p: PartitionImage) -> MetadataResponsePartition:
    """For clients of version 0, who know no broker that is not listed (KRaftMetadataCache.getPartitionMetadata)."""
    described = _partition(alive, unheard, p)
    if described.offline_replicas:
        described.replica_nodes = [replica for replica in p.replicas if replica in alive]
        described.isr_nodes = [replica for replica in p.isr if replica in alive]
        described.error_code = described.error_code or ErrorCode.REPLICA_NOT_AVAILABLE
    return described


# -- DescribeCluster, DescribeTopicPartitions -------------------------------------------------------------------------


@handles(ApiKey.DESCRIBE_CLUSTER, 0, 2)
def describe_cluster(request: DescribeClusterRequest, context: Context) -> DescribeClusterResponse:
    """Brokers, controller and cluster id (KIP-700); controllers have no endpoints of their own (KIP-919).

    A fenced broker has registered and is not there: listed for who asks for those, too (KIP-1073).
    """
    image = context.services.image
    if context.version >= 1 and request.endpoint_type != BROKER_ENDPOINTS:
        mismatched = request.endpoint_type == CONTROLLER_ENDPOINTS
        return DescribeClusterResponse(
            error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE if mismatched else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
            error_message="Only brokers can be described here: this is an endpoint of type BROKER, not CONTROLLER."
            if mismatched
            else f"Unsupported endpoint type {request.endpoint_type}: only brokers (1) can be described here.",
        )
    described = image.registrations if request.include_fenced_brokers else image.brokers
    return DescribeClusterResponse(
        cluster_id=image.cluster_id,
        controller_id=image.controller_id if image.controller_id in described else -1,
        brokers=[
            DescribeClusterBroker(
                broker_id=broker.id,
                host=address[0],
                port=address[1],
                rack=broker.rack,
                is_fenced=broker.id not in image.brokers,
            )
            for broker in described.values()
            if (address := address_of(broker, context)) is not None
        ],
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NOT_ASKED
        ),
    )


@handles(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, 0)
def describe_topic_partitions(
    request: DescribeTopicPartitionsRequest, context: Context
) -> DescribeTopicPartitionsResponse | Coroutine[Any, Any, DescribeTopicPartitionsResponse]:
    """Topics in name order, so many partitions an answer, with a cursor to go on from (KIP-966)."""
    cursor = request.cursor
    wanted = {topic.name for topic in request.topics}
    if cursor is not None and (cursor.partition_index < 0 or (wanted and cursor.topic_name not in wanted)):
        refused = [
            DescribeTopicPartitionsResponseTopic(error_code=ErrorCode.INVALID_REQUEST, name=topic.name)
            for topic in request.topics
        ]
        return DescribeTopicPartitionsResponse(topics=refused)
    return answer(_partitions_described(request, context))


def _partitions_described(
    request: DescribeTopicPartitionsRequest, context: Context
) -> Work[DescribeTopicPartitionsResponse]:
    image, cursor, alive = context.services.image, request.cursor, reachable(context)
    names = sorted({t.name for t in request.topics} or image.topics)
    most = context.services.config.get_int("max.request.partition.size.limit")
    room = max(1, min(request.response_partition_limit, most))
    response = DescribeTopicPartitionsResponse()
    for n, name in enumerate(names):
        if n % STRIDE == STRIDE - 1:
            yield
        if cursor is not None and name < cursor.topic_name:
            continue
        start = cursor.partition_index if cursor is not None and name == cursor.topic_name else 0
        if room <= 0:
            response.next_cursor = DescribeTopicPartitionsCursor(topic_name=name, partition_index=start)
            break
        topic = image.topics.get(name)
        if topic is None:
            absent = DescribeTopicPartitionsResponseTopic(error_code=_why_absent(name), name=name)
            absent.topic_authorized_operations = TOPIC_OPERATIONS
            response.topics.append(absent)
            continue
        shown = topic.partitions[start : start + room]
        room -= len(shown)
        response.topics.append(_described_topic(topic, shown, alive))
        if start + len(shown) < len(topic.partitions):
            response.next_cursor = DescribeTopicPartitionsCursor(topic_name=name, partition_index=start + len(shown))
            break
    return response


def _described_topic(
    topic: TopicImage, shown: Iterable[PartitionImage], alive: Container[int]
) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        name=topic.name,
        topic_id=topic.id,
        is_internal=topic.internal,
        partitions=[
            DescribeTopicPartitionsResponsePartition(
                error_code=ErrorCode.NONE,  # whether it is led or not
                partition_index=p.index,
                leader_id=p.leader if p.leader in alive else NO_LEADER,
                leader_epoch=p.leader_epoch,
                replica_nodes=list(p.replicas),
                isr_nodes=list(p.isr),
                eligible_leader_replicas=list(p.elr),
                last_known_elr=[p.last_leader] if p.last_leader != NO_LEADER else [],
                offline_replicas=[replica for replica in p.replicas if replica not in alive],
            )
            for p in shown
        ],
        topic_authorized_operations=TOPIC_OPERATIONS,
    )
