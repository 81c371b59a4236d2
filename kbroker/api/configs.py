"""DescribeConfigs 1-4, AlterConfigs 0-2, IncrementalAlterConfigs 0-1, ListConfigResources 0-1.

Resources are topics, brokers (this one by its id, or all of them by the empty name) and groups. What may be set, and
what it means, is the table in `kbroker.config`; what is set lives in the coordination store and reaches topics and
brokers with the next image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.configs import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
    ConfigResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    IncrementalAlterConfigsResourceResponse,
    IncrementalAlterConfigsResponse,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.api.telling import ConfigChanges
from kbroker.cluster.changes.config_changes import ConfigChange, ConfigOp, check_ops
from kbroker.cluster.changes.placement import check_topic_name
from kbroker.cluster.image import ClusterImage, TopicImage
from kbroker.config import (
    ConfigRow,
    Scope,
    describe_broker,
    describe_cluster_default,
    describe_group,
    describe_topic,
)
from kbroker.config.views import VIEW_FILTER, VIEW_LAG_MS, VIEW_MODE, VIEW_TAGS
from kbroker.groups.settings import CONSUMER_GROUP_KEYS
from kbroker.turns import Work, answer, each, finish

BROKER_LOGGER, CLIENT_METRICS = 8, 16  # resource types that have no configs here (KIP-412, KIP-714)
R = TypeVar("R")
Wish: TypeAlias = "tuple[int, str, list[tuple[int, str, str | None]]]"  # resource type, its name, (op, key, value)...

INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
RESOURCE_TYPES = (Scope.TOPIC, Scope.BROKER, Scope.GROUP)
BOUNDED_GROUP_KEYS = {f"consumer.{key}": key for key in CONSUMER_GROUP_KEYS}
KNOWN_OPS = {int(op) for op in ConfigOp}
TWICE = KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
OF_VIEWS = {VIEW_FILTER, VIEW_LAG_MS, VIEW_MODE, VIEW_TAGS}  # what may be altered of a view
TIMEOUT_S = 30.0
DESCRIBED_BYTES_MAX = 32 * 1024 * 1024  # of one answer, roughly
ROW_BYTES = 16  # of a row, or one of its synonyms, besides its texts


# -- describe ---------------------------------------------------------------------------------------------------------


@handles(ApiKey.DESCRIBE_CONFIGS, 1, 4)
def describe_configs(
    request: DescribeConfigsRequest, context: Context
) -> DescribeConfigsResponse | Coroutine[Any, Any, DescribeConfigsResponse]:
    """The configs of each resource, with where each value comes from (KIP-133, KIP-226)."""
    for resource in request.resources:
        if resource.resource_type not in (*RESOURCE_TYPES, BROKER_LOGGER, CLIENT_METRICS):
            refused = [_described(each, [], KafkaError(ErrorCode.INVALID_REQUEST)) for each in request.resources]
            return DescribeConfigsResponse(results=refused)
    return answer(_all_described(request, context.services))


class _Rows(NamedTuple):
    rows: list[DescribeConfigsResourceResult]
    size: int  # in bytes, roughly


def _all_described(request: DescribeConfigsRequest, services: Services) -> Work[DescribeConfigsResponse]:
    """Resources that have nothing of their own, as most topics, share their rows: what costs memory is the answer."""
    shared: dict[object, _Rows] = {}
    results: list[DescribeConfigsResult] = []
    size = 0
    for resource in request.resources:
        try:
            if size > DESCRIBED_BYTES_MAX:
                text = f"An answer has no more than some {DESCRIBED_BYTES_MAX} bytes: ask in several requests."
                raise KafkaError(ErrorCode.INVALID_REQUEST, text)
            found = _shared_rows(resource, request, services, shared)
            size += found.size
            results.append(_described(resource, found.rows, KafkaError(ErrorCode.NONE)))
        except KafkaError as error:
            results.append(_described(resource, [], error))
        yield
    return DescribeConfigsResponse(results=results)


def _shared_rows(
    resource: DescribeConfigsResource,
    request: DescribeConfigsRequest,
    services: Services,
    shared: dict[object, _Rows],
) -> _Rows:
    """The rows of a resource, made once for all that have the same configs. Raises KafkaError."""
    names = resource.configuration_keys or None  # none is all
    same = (resource.resource_type, *_own(resource, services), None if names is None else tuple(names))
    if same not in shared:
        rows = _rows(resource, names, request.include_documentation, services)
        results = [_result(row, request.include_synonyms) for row in rows]
        shared[same] = _Rows(results, sum(map(_size_of, results)))
    return shared[same]


def _size_of(row: DescribeConfigsResourceResult) -> int:
    texts = (
        row.name,
        row.value,
        row.documentation,
        *(text for each in row.synonyms for text in (each.name, each.value)),
    )
    return ROW_BYTES * (1 + len(row.synonyms)) + sum(len(text) for text in texts if text is not None)


def _own(resource: DescribeConfigsResource, services: Services) -> tuple[object, ...]:
    """What tells a resource's configs from those of others of its type. Raises KafkaError for one that is not there."""
    name = resource.resource_name
    if resource.resource_type == Scope.TOPIC:
        check_topic_name(name)
        topic = services.image.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "")  # without a word, as in Kafka
        return tuple(_shown_configs(topic, services).items())
    if resource.resource_type == Scope.GROUP:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Group name must not be empty")
        return tuple(services.image.group_configs.get(name, {}).items())
    return (name,)


def _described(
    resource: DescribeConfigsResource, rows: list[DescribeConfigsResourceResult], error: KafkaError
) -> DescribeConfigsResult:
    return DescribeConfigsResult(
        error_code=error.code,
        error_message=error.message if error.code else "",  # not null, as Kafka writes it
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=rows,
    )


def _rows(
    resource: DescribeConfigsResource, names: Collection[str] | None, documentation: bool, services: Services
) -> list[ConfigRow]:
    name, config = resource.resource_name, services.config
    if resource.resource_type == Scope.TOPIC:
        topic = services.image.topics[name]
        rows = describe_topic(_shown_configs(topic, services), config, names, documentation=documentation)
        return rows if topic.view is None else [row._replace(read_only=row.name not in OF_VIEWS) for row in rows]
    if resource.resource_type == Scope.BROKER:
        _check_broker(name, services)
        if not name:
            return describe_cluster_default(config, names, documentation=documentation)
        return describe_broker(config, names, documentation=documentation)
    if resource.resource_type == Scope.GROUP:
        own = services.image.group_configs.get(name, {})
        return describe_group(own, config, names, documentation=documentation)
    if resource.resource_type == BROKER_LOGGER:
        _check_broker(name, services, or_all=False)
    if resource.resource_type == CLIENT_METRICS:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Client metrics subscription name must not be empty")
        return []
    raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unsupported resource type: {resource.resource_type}")


def _shown_configs(topic: TopicImage, services: Services) -> Mapping[str, str]:
    """What a topic has set; of a view, for all that it cannot set itself, its source has."""
    source = services.image.topics.get(topic.kept_as)
    return topic.configs if topic.view is None or source is None else {**source.configs, **topic.configs}


def _check_broker(name: str, services: Services, *, or_all: bool = True) -> None:
    """A broker speaks for itself, or by the empty name for all. Its number is read as Java reads one ("01", "+1")."""
    if not name and or_all:
        return
    if not INTEGER.fullmatch(name):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Broker id must be an integer, but it is: {name[:100]}")
    if int(name) != services.node_id:
        expected = f"{services.node_id} or empty string" if or_all else f"{services.node_id}"
        text = f"Unexpected broker id, expected {expected}, but received {name}"
        raise KafkaError(ErrorCode.INVALID_REQUEST, text)


def _result(row: ConfigRow, with_synonyms: bool) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=row.name,
        value=row.value,
        read_only=row.read_only,
        config_source=row.source,
        is_sensitive=row.sensitive,
        synonyms=[
            DescribeConfigsSynonym(name=synonym.name, value=synonym.value, source=synonym.source)
            for synonym in (row.synonyms if with_synonyms else ())
        ],
        config_type=row.type,
        documentation=row.documentation,
    )


# -- alter ------------------------------------------------------------------------------------------------------------


@handles(ApiKey.ALTER_CONFIGS, 0, 2)
async def alter_configs(request: AlterConfigsRequest, context: Context) -> AlterConfigsResponse:
    """Replace each resource's configs by the ones given."""

    def wish(resource: AlterConfigsResource) -> Wish:
        ops = [(int(ConfigOp.SET), config.name, config.value) for config in resource.configs]
        return resource.resource_type, resource.resource_name, ops

    responses = await _alter(request, wish, AlterConfigsResourceResponse, context, replace=True)
    return AlterConfigsResponse(responses=responses)


@handles(ApiKey.INCREMENTAL_ALTER_CONFIGS, 0, 1)
async def incremental_alter_configs(
    request: IncrementalAlterConfigsRequest, context: Context
) -> IncrementalAlterConfigsResponse:
    """Set, delete, append to or subtract from single configs (KIP-339)."""

    def wish(resource: IncrementalAlterConfigsResource) -> Wish:
        ops = [(config.config_operation, config.name, config.value) for config in resource.configs]
        return resource.resource_type, resource.resource_name, ops

    responses = await _alter(request, wish, IncrementalAlterConfigsResourceResponse, context, replace=False)
    return IncrementalAlterConfigsResponse(responses=responses)


async def _alter(
    request: AlterConfigsRequest | IncrementalAlterConfigsRequest,
    wish: Callable[[Any], Wish],
    response: Callable[..., R],
    context: Context,
    *,
    replace: bool,
) -> list[R]:
    """Each resource stands for itself: one that is refused does not stop the others."""

    services, changed = context.services, ConfigChanges()
    resources: list[Any] = [*request.resources]
    times = Counter((resource.resource_type, resource.resource_name) for resource in resources)

    def planned() -> Work[list[ConfigChange | KafkaError]]:
        plans: list[ConfigChange | KafkaError] = []
        for resource in resources:
            if times[resource.resource_type, resource.resource_name] > 1:
                plans.append(TWICE)
            else:
                try:
                    plans.append((yield from _change(*wish(resource), replace, services)))
                except KafkaError as error:
                    plans.append(error.with_traceback(None))  # which holds all these, in a circle
            if not len(plans) % 4:
                yield
        return plans

    plans = await finish(planned())
    changes = [plan for plan in plans if isinstance(plan, ConfigChange)]
    alteration = services.admin.alter_configs(changes, changed.note, validate_only=request.validate_only)
    outcomes = await services.carry_out(alteration, len(changes), TIMEOUT_S)
    changed.tell(context)
    carried_out = iter(outcomes)
    results = (next(carried_out) if isinstance(plan, ConfigChange) else plan for plan in plans)

    def answered(pair: tuple[Any, KafkaError | None]) -> R:
        resource, error = pair
        return response(
            error_code=error.code if error else ErrorCode.NONE,
            error_message=error.message if error else None,
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
        )

    return await finish(each(answered, zip(resources, results, strict=True)))


def _change(
    kind: int, name: str, ops: list[tuple[int, str, str | None]], replace: bool, services: Services
) -> Work[ConfigChange]:
    check_ops(ops)
    if kind == BROKER_LOGGER:
        _check_broker(name, services, or_all=False)
    if kind not in RESOURCE_TYPES:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")
    if kind == Scope.BROKER:
        _check_broker(name, services)
        name = name and str(int(name))
    if kind == Scope.TOPIC:
        if not name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
        check_topic_name(name)
    if kind == Scope.GROUP:
        _check_group(name, ops, services)
    return ConfigChange(Scope(kind), name, (yield from each(_step, ops)), replace)


def _step(change: tuple[int, str, str | None]) -> tuple[ConfigOp, str, str | None]:
    op, key, value = change
    if op not in KNOWN_OPS:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown operation {op} for {key}")
    return ConfigOp(op), key, value


def _check_group(name: str, ops: list[tuple[int, str, str | None]], services: Services) -> None:
    """A group's timeouts and intervals lie within the broker's bounds (Kafka: GroupConfig.validateValues)."""
    if not name:
        raise KafkaError(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
    for op, key, value in ops:
        broker_key = BOUNDED_GROUP_KEYS.get(key)
        if op != ConfigOp.SET or broker_key is None or not (value or "").isdigit():
            continue
        low, high = (services.config.get_int(f"group.consumer.{end}.{broker_key}") for end in ("min", "max"))
        if not low <= int(value or 0) <= high:
            end, bound = ("min", low) if int(value or 0) < low else ("max", high)
            text = f"{key}: {value} is not allowed: group.consumer.{end}.{broker_key} is {bound}"
            raise KafkaError(ErrorCode.INVALID_CONFIG, text)


# -- list -------------------------------------------------------------------------------------------------------------


@handles(ApiKey.LIST_CONFIG_RESOURCES, 0, 1)
def list_config_resources(
    request: ListConfigResourcesRequest, context: Context
) -> ListConfigResourcesResponse | Coroutine[Any, Any, ListConfigResourcesResponse]:
    """List what has configs (KIP-1142). Version 0 asks for client metrics only: there are none (KIP-1000)."""
    wanted = set(request.resource_types) or {BROKER_LOGGER, *map(int, RESOURCE_TYPES)}
    if context.version == 0:
        wanted = set()
    if not wanted <= {*RESOURCE_TYPES, CLIENT_METRICS, BROKER_LOGGER}:
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    return answer(_listed(context.services.image, wanted))


def _listed(image: ClusterImage, wanted: Collection[int]) -> Work[ListConfigResourcesResponse]:
    found = yield from each(_resource, _resources(image, wanted))
    return ListConfigResourcesResponse(error_code=ErrorCode.NONE, config_resources=found)


def _resource(pair: tuple[str, int]) -> ConfigResource:
    return ConfigResource(resource_name=pair[0], resource_type=pair[1])


def _resources(image: ClusterImage, wanted: Collection[int]) -> Iterator[tuple[str, int]]:
    names: dict[int, Iterable[object]] = {
        Scope.TOPIC: image.topics,
        Scope.BROKER: image.brokers,
        BROKER_LOGGER: image.brokers,
        Scope.GROUP: image.group_configs,
    }
    for kind, each_name in names.items():
        if kind in wanted:
            yield from ((str(name), int(kind)) for name in each_name)
