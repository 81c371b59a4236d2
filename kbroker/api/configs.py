"""DescribeConfigs 1-4, AlterConfigs 0-2, IncrementalAlterConfigs 0-1, ListConfigResources 0-1.

Resources are topics, brokers (this one by its id, or all of them by the empty name) and groups. What may be set, and
what it means, is the table in `kbroker.config`; what is set lives in the coordination store and reaches topics and
brokers with the next image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.configs import (
    AlterConfigsRequest,
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
    IncrementalAlterConfigsResourceResponse,
    IncrementalAlterConfigsResponse,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.cluster.config_changes import ConfigChange, ConfigOp
from kbroker.cluster.placement import check_topic_name
from kbroker.config import (
    ConfigRow,
    Scope,
    describe_broker,
    describe_cluster_default,
    describe_group,
    describe_topic,
)
from kbroker.coordinators.settings import CONSUMER_GROUP_KEYS

CLIENT_METRICS = 16  # a resource type that has no configs here (KIP-714)
RESOURCE_TYPES = (Scope.TOPIC, Scope.BROKER, Scope.GROUP)
BOUNDED_GROUP_KEYS = {f"consumer.{key}": key for key in CONSUMER_GROUP_KEYS}
TIMEOUT_S = 30.0


# -- describe ---------------------------------------------------------------------------------------------------------


@handles(ApiKey.DESCRIBE_CONFIGS, 1, 4)
def describe_configs(request: DescribeConfigsRequest, context: Context) -> DescribeConfigsResponse:
    """The configs of each resource, with where each value comes from (KIP-133, KIP-226)."""
    return DescribeConfigsResponse(
        results=[_described(resource, request, context.services) for resource in request.resources]
    )


def _described(
    resource: DescribeConfigsResource, request: DescribeConfigsRequest, services: Services
) -> DescribeConfigsResult:
    try:
        rows = _rows(resource, request.include_documentation, services)
    except KafkaError as error:
        return DescribeConfigsResult(
            error_code=error.code,
            error_message=error.message,
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
        )
    return DescribeConfigsResult(
        error_code=ErrorCode.NONE,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=[_result(row, request.include_synonyms) for row in rows],
    )


def _rows(resource: DescribeConfigsResource, documentation: bool, services: Services) -> list[ConfigRow]:
    name, names, config = resource.resource_name, resource.configuration_keys, services.config
    if resource.resource_type == Scope.TOPIC:
        check_topic_name(name, ())
        topic = services.image.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        return describe_topic(topic.configs, config, names, documentation=documentation)
    if resource.resource_type == Scope.BROKER:
        _check_broker(name, services)
        if not name:
            return describe_cluster_default(config, names, documentation=documentation)
        return describe_broker(config, names, documentation=documentation)
    if resource.resource_type == Scope.GROUP:
        own = services.image.group_configs.get(name, {})
        return describe_group(own, config, names, documentation=documentation)
    if resource.resource_type == CLIENT_METRICS:
        return []
    raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unsupported resource type: {resource.resource_type}")


def _check_broker(name: str, services: Services) -> None:
    if name not in ("", str(services.node_id)):
        raise KafkaError(
            ErrorCode.INVALID_REQUEST,
            f"Unexpected broker id, expected {services.node_id} or empty string, but received {name}",
        )


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
    changes = [
        (
            resource.resource_type,
            resource.resource_name,
            [(int(ConfigOp.SET), config.name, config.value) for config in resource.configs],
        )
        for resource in request.resources
    ]
    results = await _alter(changes, context.services, replace=True, validate_only=request.validate_only)
    return AlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(
                error_code=_code(error), error_message=_text(error), resource_type=kind, resource_name=name
            )
            for (kind, name, _), error in zip(changes, results, strict=True)
        ]
    )


@handles(ApiKey.INCREMENTAL_ALTER_CONFIGS, 0, 1)
async def incremental_alter_configs(
    request: IncrementalAlterConfigsRequest, context: Context
) -> IncrementalAlterConfigsResponse:
    """Set, delete, append to or subtract from single configs (KIP-339)."""
    changes = [
        (
            resource.resource_type,
            resource.resource_name,
            [(config.config_operation, config.name, config.value) for config in resource.configs],
        )
        for resource in request.resources
    ]
    results = await _alter(changes, context.services, replace=False, validate_only=request.validate_only)
    return IncrementalAlterConfigsResponse(
        responses=[
            IncrementalAlterConfigsResourceResponse(
                error_code=_code(error), error_message=_text(error), resource_type=kind, resource_name=name
            )
            for (kind, name, _), error in zip(changes, results, strict=True)
        ]
    )


async def _alter(
    wishes: Sequence[tuple[int, str, list[tuple[int, str, str | None]]]],
    services: Services,
    *,
    replace: bool,
    validate_only: bool,
) -> list[KafkaError | None]:
    """Each resource stands for itself: one that is refused does not stop the others."""
    results: list[KafkaError | None] = []
    changes: list[ConfigChange] = []
    for kind, name, ops in wishes:
        try:
            changes.append(_change(kind, name, ops, replace, services))
            results.append(None)
        except KafkaError as error:
            results.append(error)
    outcomes: Sequence[KafkaError | None] = [KafkaError(ErrorCode.REQUEST_TIMED_OUT)] * len(changes)
    with trio.move_on_after(TIMEOUT_S):
        outcomes = await services.admin.alter_configs(changes, validate_only=validate_only)
        await services.wait_applied()
    carried_out = iter(outcomes)
    return [next(carried_out) if refused is None else refused for refused in results]


def _code(error: KafkaError | None) -> ErrorCode:
    return error.code if error else ErrorCode.NONE


def _text(error: KafkaError | None) -> str | None:
    return error.message if error else None


def _change(
    kind: int, name: str, ops: list[tuple[int, str, str | None]], replace: bool, services: Services
) -> ConfigChange:
    if kind not in RESOURCE_TYPES:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unsupported resource type: {kind}")
    if kind == Scope.BROKER:
        _check_broker(name, services)
    if kind == Scope.GROUP:
        _check_group(name, ops, services)
    known = {int(op) for op in ConfigOp}
    for op, key, _ in ops:
        if op not in known:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown operation {op} for {key}")
    return ConfigChange(Scope(kind), name, [(ConfigOp(op), key, value) for op, key, value in ops], replace)


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
            text = f"{key}: {value} is not allowed: this broker's bounds are {low} to {high}"
            raise KafkaError(ErrorCode.INVALID_CONFIG, text)


# -- list -------------------------------------------------------------------------------------------------------------


@handles(ApiKey.LIST_CONFIG_RESOURCES, 0, 1)
def list_config_resources(request: ListConfigResourcesRequest, context: Context) -> ListConfigResourcesResponse:
    """List what has configs (KIP-1142). Version 0 asks for client metrics only: there are none (KIP-1000)."""
    wanted = set(request.resource_types) or {int(kind) for kind in RESOURCE_TYPES}
    if context.version == 0:
        wanted = set()
    if not wanted <= {*RESOURCE_TYPES, CLIENT_METRICS, 8}:
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    return ListConfigResourcesResponse(
        error_code=ErrorCode.NONE,
        config_resources=[
            ConfigResource(resource_name=name, resource_type=kind)
            for kind, name in _resources(context.services)
            if kind in wanted
        ],
    )


def _resources(services: Services) -> Iterator[tuple[int, str]]:
    for name in services.image.topics:
        yield Scope.TOPIC, name
    for broker_id in services.image.brokers:
        yield Scope.BROKER, str(broker_id)
    for group_id in services.image.group_configs:
        yield Scope.GROUP, group_id
