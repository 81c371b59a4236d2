"""CreateTopics 2-7, DeleteTopics 1-6, CreatePartitions 0-3, DeleteRecords 0-2.

Every change of the cluster is a guarded transaction by this broker on the coordination store (`cluster/admin.py`), so
it does not matter which broker is asked. It is answered once this broker's partitions have caught up with it: a topic
is usable when CreateTopics returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeAlias

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeletableTopicResult,
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.api.telling import ASKED, AUTO, tell_created, tell_deleted, tell_grown
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import NO_TOPIC_ID, ClusterImage, TopicImage
from kbroker.config import describe_topic
from kbroker.groups.coordinator import OFFSETS_TOPIC
from kbroker.replication.doubt import InDoubt
from kbroker.replication.partition import Partition
from kbroker.turns import STRIDE, Work, each, finish

TIMEOUT_MS_MAX = 120_000  # no admin request waits longer, whatever it asks for
AUTO_CREATE_TIMEOUT_MS = 10_000
DUPLICATE_NAME = KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
DELETE_RECORDS_TIMEOUT_S = 5.0  # at least: noting the new start takes an fsync, which Kafka does not wait for

Moves: TypeAlias = dict[Partition, DeleteRecordsPartitionResult]  # what is to be answered once it is done
Doubts: TypeAlias = list[tuple[DeleteRecordsPartitionResult, InDoubt]]  # refusals that are to be confirmed


def timeout_s(timeout_ms: int) -> float:
    """How long a client says that it waits for a change of the cluster."""
    return max(0, min(timeout_ms, TIMEOUT_MS_MAX)) / 1000


# -- create -----------------------------------------------------------------------------------------------------------


@handles(ApiKey.CREATE_TOPICS, 2, 7)
async def create_topics(request: CreateTopicsRequest, context: Context) -> CreateTopicsResponse:
    """Create topics; each gets its own answer. A timeout answers REQUEST_TIMED_OUT, and the topic may still appear."""
    services = context.services
    wishes = await finish(each(_new_topic, request.topics))
    creation = services.admin.create_topics(wishes, validate_only=request.validate_only)
    results = await services.carry_out(creation, len(wishes), timeout_s(request.timeout_ms))
    if not request.validate_only:
        tell_created([result for result in results if isinstance(result, TopicImage)], context, ASKED)
    by_name = {topic.name: (topic, result) for topic, result in zip(request.topics, results, strict=True)}
    describe = partial(_created, services=services)
    return CreateTopicsResponse(  # a name given twice is answered once, as in Kafka
        topics=await finish(each(lambda pair: describe(*pair), by_name.values(), stride=1))
    )


def _new_topic(topic: CreatableTopic) -> NewTopic:
    return NewTopic(
        name=topic.name,
        partitions=topic.num_partitions,
        replication_factor=topic.replication_factor,
        assignments=[(a.partition_index, tuple(a.broker_ids)) for a in topic.assignments],
        configs={c.name: c.value for c in topic.configs},
    )


def _created(topic: CreatableTopic, result: TopicImage | KafkaError, services: Services) -> CreatableTopicResult:
    if isinstance(result, KafkaError):
        return CreatableTopicResult(
            name=topic.name, error_code=result.code, error_message=result.message,
            num_partitions=-1, replication_factor=-1,
        )  # fmt: skip
    return CreatableTopicResult(
        name=result.name,
        topic_id=result.id,
        num_partitions=len(result.partitions),
        replication_factor=len(result.partitions[0].replicas),
        configs=[
            CreatableTopicConfigs(
                name=row.name,
                value=row.value,
                read_only=row.read_only,
                config_source=row.source,
                is_sensitive=row.sensitive,
            )
            for row in describe_topic(result.configs, services.config)
        ],
    )


async def create_missing(names: Iterable[str], context: Context) -> dict[str, ErrorCode]:
    """Create topics that a Metadata request asked for, with the broker's defaults. Returns the errors by name."""
    services = context.services
    wanted = [
        services.groups.topic.wish() if name == OFFSETS_TOPIC else NewTopic(name) for name in dict.fromkeys(names)
    ]
    creation = services.admin.create_topics(wanted, validate_only=False)
    timeout_s, late = AUTO_CREATE_TIMEOUT_MS / 1000, ErrorCode.LEADER_NOT_AVAILABLE
    results = await services.carry_out(creation, len(wanted), timeout_s, late)
    tell_created([result for result in results if isinstance(result, TopicImage)], context, AUTO)
    return {
        topic.name: result.code
        for topic, result in zip(wanted, results, strict=True)
        if isinstance(result, KafkaError) and result.code != ErrorCode.TOPIC_ALREADY_EXISTS
    }


# -- delete -----------------------------------------------------------------------------------------------------------


@handles(ApiKey.DELETE_TOPICS, 1, 6)
async def delete_topics(request: DeleteTopicsRequest, context: Context) -> DeleteTopicsResponse:
    """Delete topics by name, or by ID from version 6 (KIP-516)."""
    services = context.services
    asked = request.topics
    if context.version < 6:
        asked = [DeleteTopicState(name=name, topic_id=NO_TOPIC_ID) for name in request.topic_names]
    wanted, responses = await finish(_deletions(asked, services.image))
    results: Sequence[TopicImage | KafkaError] = [KafkaError(ErrorCode.TOPIC_DELETION_DISABLED)] * len(wanted)
    if services.config.get_bool("delete.topic.enable"):
        deletion = services.admin.delete_topics(wanted)
        results = await services.carry_out(deletion, len(wanted), timeout_s(request.timeout_ms))
        tell_deleted([result for result in results if isinstance(result, TopicImage)], context)
    pairs = zip(wanted, results, strict=True)
    return DeleteTopicsResponse(responses=responses + await finish(each(lambda pair: _deleted(*pair), pairs)))


def _deletions(
    asked: Sequence[DeleteTopicState], image: ClusterImage
) -> Work[tuple[list[str | bytes], list[DeletableTopicResult]]]:
    """Names and IDs to delete, and refusals of what is not named in one way, once (ControllerApis.deleteTopics)."""
    refusals: list[DeletableTopicResult] = []
    names: Counter[str] = Counter()
    ids: Counter[bytes] = Counter()
    for number, topic in enumerate(asked):
        if topic.name is None:
            ids[topic.topic_id] += 1
        elif topic.topic_id == NO_TOPIC_ID:
            names[topic.name] += 1
        else:
            text = "You may not specify both topic name and topic id."
            refusals.append(_refused(topic.name, topic.topic_id, text))
        if number % STRIDE == STRIDE - 1:
            yield
    refusals += [_refused(None, NO_TOPIC_ID, "Neither topic name nor id were specified.")] * ids.pop(NO_TOPIC_ID, 0)
    refusals += [_refused(name, NO_TOPIC_ID, "Duplicate topic name.") for name, times in names.items() if times > 1]
    yield
    refusals += [_refused(None, topic_id, "Duplicate topic id.") for topic_id, times in ids.items() if times > 1]
    yield
    wanted: list[str | bytes] = []
    for number, name in enumerate(name for name, times in names.items() if times == 1):
        if number % STRIDE == STRIDE - 1:
            yield
        topic_id = image.topics[name].id if name in image.topics else NO_TOPIC_ID
        if topic_id not in ids:
            wanted.append(name)
            continue
        refusals.append(_refused(name, topic_id, "The provided topic name maps to an ID that was already supplied."))
        ids[topic_id] += 1  # and is not deleted by it either
    return [*wanted, *(topic_id for topic_id, times in ids.items() if times == 1)], refusals


def _refused(name: str | None, topic_id: bytes, text: str) -> DeletableTopicResult:
    return DeletableTopicResult(name=name, topic_id=topic_id, error_code=ErrorCode.INVALID_REQUEST, error_message=text)


def _deleted(asked: str | bytes, result: TopicImage | KafkaError) -> DeletableTopicResult:
    if isinstance(result, KafkaError):
        name, topic_id = (None, asked) if isinstance(asked, bytes) else (asked, NO_TOPIC_ID)
        return DeletableTopicResult(name=name, topic_id=topic_id, error_code=result.code, error_message=result.message)
    return DeletableTopicResult(name=result.name, topic_id=result.id, error_code=ErrorCode.NONE)


# -- grow -------------------------------------------------------------------------------------------------------------


@handles(ApiKey.CREATE_PARTITIONS, 0, 3)
async def create_partitions(request: CreatePartitionsRequest, context: Context) -> CreatePartitionsResponse:
    """Raise topics to a total number of partitions."""
    times = Counter(topic.name for topic in request.topics)
    wanted = [topic for topic in request.topics if times[topic.name] == 1]
    results = [_grown(name, DUPLICATE_NAME) for name, number in times.items() if number > 1]
    outcomes: list[KafkaError | None] = []

    async def grow() -> Sequence[KafkaError | None]:
        for number, topic in enumerate(wanted):
            if number % STRIDE == STRIDE - 1:
                await trio.lowlevel.checkpoint()  # a refusal makes none
            outcomes.append(await _grow(topic, request.validate_only, context.services))
        return outcomes

    done = await context.services.carry_out(grow(), len(wanted), timeout_s(request.timeout_ms))
    if not request.validate_only:
        grown = [topic for topic, error in zip(wanted, outcomes, strict=False) if error is None]
        tell_grown([(topic.name, topic.count) for topic in grown], context)
    refusals = [*outcomes, *[None] * (len(wanted) - len(outcomes))]  # what is certain is told, whatever is late
    for number, (topic, *told) in enumerate(zip(wanted, refusals, done, strict=True)):
        results.append(_grown(topic.name, *told))
        if number % STRIDE == STRIDE - 1:
            await trio.lowlevel.checkpoint()
    return CreatePartitionsResponse(results=results)


async def _grow(topic: CreatePartitionsTopic, validate_only: bool, services: Services) -> KafkaError | None:
    assignments = None if topic.assignments is None else [tuple(a.broker_ids) for a in topic.assignments]
    try:
        await services.admin.create_partitions(topic.name, topic.count, assignments, validate_only=validate_only)
    except KafkaError as error:
        return error
    return None


def _grown(name: str, *errors: KafkaError | None) -> CreatePartitionsTopicResult:
    error = next(filter(None, errors), None)
    return CreatePartitionsTopicResult(
        name=name,
        error_code=error.code if error else ErrorCode.NONE,
        error_message=error.own_message if error else None,
    )


# -- delete records ---------------------------------------------------------------------------------------------------


@handles(ApiKey.DELETE_RECORDS, 0, 2)
async def delete_records(request: DeleteRecordsRequest, context: Context) -> DeleteRecordsResponse:
    """Move the log start of partitions; offset -1 means the high watermark (KIP-107).

    It is answered when no replica of a broker that is alive has anything of that any more.
    """
    services = context.services
    moves: Moves = {}
    doubts: Doubts = []
    results = await finish(_moves(request, services, moves, doubts))
    for result in await services.replicas.unconfirmed(doubts):
        result.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
    failed = ErrorCode.REQUEST_TIMED_OUT
    with trio.move_on_after(max(timeout_s(request.timeout_ms), DELETE_RECORDS_TIMEOUT_S)):
        try:
            if moves:
                await _move(moves, services)
        except OSError:
            failed = ErrorCode.KAFKA_STORAGE_ERROR
    for number, (partition, row) in enumerate(moves.items()):
        if not partition.leading:
            row.low_watermark, row.error_code = -1, ErrorCode.NOT_LEADER_OR_FOLLOWER
        elif partition.low_watermark(services.is_alive) < row.low_watermark:
            row.low_watermark, row.error_code = -1, failed
        if number % STRIDE == STRIDE - 1:
            await trio.lowlevel.checkpoint()
    return DeleteRecordsResponse(topics=results)


async def _move(moves: Moves, services: Services) -> None:
    """Have these logs, and those of their followers, start there. Raises OSError."""
    from kbroker.replication.starts import wait_started  # only for those who ask: a broker starts without it

    starts = {partition.log: row.low_watermark for partition, row in moves.items()}
    await services.delays.carry(starts)
    await services.logs.move_starts(starts)
    offsets = [(partition, row.low_watermark) for partition, row in moves.items()]
    await wait_started(offsets, services.is_alive, services.replicas.sessions, services.env.clock)


def _moves(
    request: DeleteRecordsRequest, services: Services, moves: Moves, doubts: Doubts
) -> Work[list[DeleteRecordsTopicResult]]:
    """As in Kafka, the last word about a partition counts, and it is answered once."""
    last: dict[str, dict[int, DeleteRecordsPartition]] = {}
    for topic in request.topics:
        for number, asked in enumerate(topic.partitions):
            last.setdefault(topic.name, {})[asked.partition_index] = asked
            if number % STRIDE == STRIDE - 1:
                yield
        yield
    results = []
    for name, partitions in last.items():
        start_of = partial(_start_of, name, services=services, moves=moves, doubts=doubts)
        rows = yield from each(start_of, partitions.values())
        results.append(DeleteRecordsTopicResult(name=name, partitions=rows))
        yield
    return results


def _start_of(
    topic: str, asked: DeleteRecordsPartition, services: Services, moves: Moves, doubts: Doubts
) -> DeleteRecordsPartitionResult:
    """What to answer once the log starts there, which is noted in moves; or why it will not."""
    row = DeleteRecordsPartitionResult(
        partition_index=asked.partition_index, low_watermark=-1, error_code=ErrorCode.NONE
    )
    try:
        partition = services.partition(topic, asked.partition_index)
        row.low_watermark = partition.deletable_to(asked.offset)
        moves[partition] = row
    except InDoubt as doubt:
        row.error_code = doubt.found.code
        doubts.append((row, doubt))
    except KafkaError as error:
        row.error_code = error.code
    return row
