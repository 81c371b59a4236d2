"""Describing and altering configs, through a whole broker in memory."""

from __future__ import annotations

from typing import Any

import pytest

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.configs import (
    AlterableConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
    ListConfigResourcesRequest,
)
from kbroker.config import Scope, Source
from kbroker.testing.broker import Machine, memory_broker
from kbroker.testing.client import BareClient
from tests.api.test_produce import batch, produce

SET, DELETE, APPEND, SUBTRACT = range(4)
BROKER_LOGGER = 8


async def describe(client: BareClient, kind: int, name: str, *names: str, version: int = 4) -> Any:
    resource = DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=list(names) if names else None
    )
    request = DescribeConfigsRequest(resources=[resource], include_synonyms=True, include_documentation=version >= 3)
    return (await client.call(request, version)).results[0]


async def alter(client: BareClient, kind: int, name: str, key: str, value: str | None, op: int = SET) -> int:
    config = IncrementalAlterableConfig(name=key, config_operation=op, value=value)
    resource = IncrementalAlterConfigsResource(resource_type=kind, resource_name=name, configs=[config])
    request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=False)
    return int((await client.call(request, 1)).responses[0].error_code)


@pytest.mark.parametrize("version", range(1, 5))
async def test_describe_a_topic(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        result = await describe(client, Scope.TOPIC, "t", "retention.ms", "no.such.config", version=version)
        assert [(c.name, c.value, c.config_source) for c in result.configs] == [
            ("retention.ms", "604800000", Source.DEFAULT)
        ]
        assert len((await describe(client, Scope.TOPIC, "t", version=version)).configs) > 25


async def test_describe_refuses_what_is_not_there() -> None:
    async with memory_broker() as broker, broker.client() as client:
        for kind, name, code in (
            (Scope.TOPIC, "absent", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            (Scope.TOPIC, "bad name", ErrorCode.INVALID_TOPIC_EXCEPTION),
            (Scope.BROKER, "77", ErrorCode.INVALID_REQUEST),
            (99, "x", ErrorCode.INVALID_REQUEST),
        ):
            result = await describe(client, kind, name)
            assert result.error_code == code
            assert bool(result.error_message) == (name != "absent")  # of which Kafka says nothing


async def test_trap_30_a_broker_describes_its_listeners() -> None:
    async with memory_broker(config={"num.partitions": "3"}) as broker, broker.client() as client:
        result = await describe(client, Scope.BROKER, str(broker.ready.node_id), "num.partitions", "node.id")
        assert {c.name: (c.value, c.config_source, c.read_only) for c in result.configs} == {
            "num.partitions": ("3", Source.STATIC_BROKER, True),
            "node.id": (str(broker.ready.node_id), Source.DEFAULT, True),
        }


async def test_altered_topic_configs_take_effect_and_survive() -> None:
    machine = Machine()
    async with memory_broker(topics={"t": 1}, machine=machine) as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "t", "max.message.bytes", "100") == 0
        assert (await produce(client, batch(b"x" * 200))).error_code == ErrorCode.MESSAGE_TOO_LARGE
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        result = await describe(client, Scope.TOPIC, "t", "max.message.bytes")
        assert (result.configs[0].value, result.configs[0].config_source) == ("100", Source.DYNAMIC_TOPIC)
        assert await alter(client, Scope.TOPIC, "t", "max.message.bytes", None, DELETE) == 0
        assert (await produce(client, batch(b"x" * 200))).error_code == 0


async def test_append_and_subtract() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "compact", APPEND) == 0
        value = (await describe(client, Scope.TOPIC, "t", "cleanup.policy")).configs[0].value
        assert set(value.split(",")) == {"delete", "compact"}
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "delete", SUBTRACT) == 0
        assert (await describe(client, Scope.TOPIC, "t", "cleanup.policy")).configs[0].value == "compact"


async def test_dynamic_broker_configs_are_the_topics_defaults() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await alter(client, Scope.BROKER, "", "message.max.bytes", "100") == 0
        assert (await produce(client, batch(b"x" * 200))).error_code == ErrorCode.MESSAGE_TOO_LARGE
        result = await describe(client, Scope.TOPIC, "t", "max.message.bytes")
        assert (result.configs[0].value, result.configs[0].config_source) == ("100", Source.DYNAMIC_DEFAULT_BROKER)
        assert await alter(client, Scope.BROKER, "", "message.max.bytes", None, DELETE) == 0
        assert (await produce(client, batch(b"x" * 200))).error_code == 0


@pytest.mark.parametrize(
    ("kind", "name", "key", "value", "code"),
    [
        (Scope.TOPIC, "t", "retention.mss", "1", ErrorCode.INVALID_CONFIG),
        (Scope.TOPIC, "t", "retention.ms", "soon", ErrorCode.INVALID_CONFIG),
        (Scope.TOPIC, "absent", "retention.ms", "1", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (Scope.BROKER, "77", "message.max.bytes", "1", ErrorCode.INVALID_REQUEST),
        (Scope.TOPIC, "", "retention.ms", "1", ErrorCode.INVALID_REQUEST),
        (Scope.TOPIC, "a b", "retention.ms", "1", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (Scope.BROKER, "", "node.id", "7", ErrorCode.INVALID_REQUEST),  # KAFKA-13609
        (Scope.BROKER, "one", "message.max.bytes", "1", ErrorCode.INVALID_REQUEST),
        (127, "t", "retention.ms", "1", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_bad_changes_change_nothing(kind: int, name: str, key: str, value: str, code: ErrorCode) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        before = (await describe(client, Scope.TOPIC, "t")).configs
        assert await alter(client, kind, name, key, value) == code
        assert (await describe(client, Scope.TOPIC, "t")).configs == before


async def test_a_resource_given_twice_stays_as_it_is() -> None:
    async with memory_broker(topics={"t": 1, "u": 1}) as broker, broker.client() as client:
        set_to = [AlterableConfig(name="retention.ms", value="1000")]
        resources = [
            AlterConfigsResource(resource_type=Scope.TOPIC, resource_name=name, configs=set_to)
            for name in ("t", "u", "t")
        ]
        response = await client.call(AlterConfigsRequest(resources=resources, validate_only=False), 2)
        assert [r.error_code for r in response.responses] == [ErrorCode.INVALID_REQUEST, 0, ErrorCode.INVALID_REQUEST]
        assert response.responses[0].error_message == "Each resource must appear at most once."
        assert (await describe(client, Scope.TOPIC, "t", "retention.ms")).configs[0].value == "604800000"


async def test_what_is_wrong_with_a_change_is_said_before_the_topic_is_looked_for() -> None:
    async with memory_broker() as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "absent", "retention.ms", None) == ErrorCode.INVALID_REQUEST
        assert await alter(client, Scope.TOPIC, "a b", "retention.ms", None) == ErrorCode.INVALID_REQUEST
        assert await alter(client, Scope.TOPIC, "absent", "no.such", None) == ErrorCode.INVALID_REQUEST
        assert await alter(client, Scope.TOPIC, "absent", "no.such", "1") == ErrorCode.INVALID_CONFIG
        assert (
            await alter(client, Scope.TOPIC, "absent", "no.such", None, DELETE) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        )


async def test_an_append_of_nothing_is_refused() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "", APPEND) == ErrorCode.INVALID_CONFIG
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "compact", APPEND) == 0


async def test_a_compaction_lag_cannot_be_longer_than_the_longest() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "t", "max.compaction.lag.ms", "10") == 0
        assert await alter(client, Scope.TOPIC, "t", "min.compaction.lag.ms", "11") == ErrorCode.INVALID_CONFIG
        assert await alter(client, Scope.TOPIC, "t", "min.compaction.lag.ms", "10") == 0


async def test_a_topic_is_delayed_or_compacted_whatever_is_set_first() -> None:
    async with memory_broker(topics={"t": 1, "u": 1}) as broker, broker.client() as client:
        assert await alter(client, Scope.TOPIC, "t", "kbroker.delay.enable", "true") == 0
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "compact,delete") == ErrorCode.INVALID_CONFIG
        assert await alter(client, Scope.TOPIC, "t", "cleanup.policy", "compact", APPEND) == ErrorCode.INVALID_CONFIG
        assert await alter(client, Scope.TOPIC, "u", "cleanup.policy", "compact") == 0
        assert await alter(client, Scope.TOPIC, "u", "kbroker.delay.enable", "true") == ErrorCode.INVALID_CONFIG
        assert await alter(client, Scope.TOPIC, "u", "kbroker.delay.max.ms", "-1") == ErrorCode.INVALID_CONFIG


async def test_an_unknown_type_refuses_the_whole_describe_as_in_kafka() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        resources = [
            DescribeConfigsResource(resource_type=kind, resource_name="t", configuration_keys=None)
            for kind in (Scope.TOPIC, 3)
        ]
        response = await client.call(DescribeConfigsRequest(resources=resources), 4)
        assert [(r.error_code, r.configs) for r in response.results] == [(ErrorCode.INVALID_REQUEST, [])] * 2


async def test_no_keys_are_all_keys() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        resource = DescribeConfigsResource(resource_type=Scope.TOPIC, resource_name="t", configuration_keys=[])
        (result,) = (await client.call(DescribeConfigsRequest(resources=[resource]), 4)).results
        every = (await describe(client, Scope.TOPIC, "t")).configs
        assert [c.name for c in result.configs] == [c.name for c in every] != []
        assert (result.error_code, result.error_message) == (0, "")


@pytest.mark.parametrize(("name", "code"), [("{}", 0), ("0{}", 0), ("+{}", 0), ("-{}", 42), ("x", 42), ("9" * 11, 42)])
async def test_a_brokers_name_is_read_as_a_number(name: str, code: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        named = name.format(broker.ready.node_id)
        assert (await describe(client, Scope.BROKER, named, "node.id")).error_code == code
        assert (await describe(client, Scope.GROUP, "", "consumer.session.timeout.ms")).error_code == 42


async def test_alter_configs_replaces_them_all() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        await alter(client, Scope.TOPIC, "t", "retention.ms", "1000")
        configs = [AlterableConfig(name="segment.bytes", value="2000000")]
        resources = [
            AlterConfigsResource(resource_type=Scope.TOPIC, resource_name="t", configs=configs),
            AlterConfigsResource(resource_type=Scope.TOPIC, resource_name="absent", configs=[]),
        ]
        response = await client.call(AlterConfigsRequest(resources=resources, validate_only=False), 2)
        assert [r.error_code for r in response.responses] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        values = {c.name: c.value for c in (await describe(client, Scope.TOPIC, "t")).configs}
        assert (values["segment.bytes"], values["retention.ms"]) == ("2000000", "604800000")


async def test_config_resources_are_listed() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        response = await client.call(ListConfigResourcesRequest(resource_types=[]), 1)
        listed = {(r.resource_type, r.resource_name) for r in response.config_resources}
        node_id = str(broker.ready.node_id)
        assert listed == {(Scope.TOPIC, "t"), (Scope.BROKER, node_id), (BROKER_LOGGER, node_id)}
        assert (await client.call(ListConfigResourcesRequest(), 0)).config_resources == []
