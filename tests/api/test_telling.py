"""What the log tells of what clients change: which, from what to what, by whom; and not ten thousand lines of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kafka_wire.messages.configs import (
    IncrementalAlterableConfig,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource,
)
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.metadata import ApiVersionsRequest, MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.topics import CreatableTopic, CreateTopicsRequest, DeleteTopicsRequest
from kbroker.cluster.changes.config_changes import ConfigOp
from kbroker.config.keys import Scope
from kbroker.events import TOLD_MAX
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from tests.api.test_topics import call_delete, create


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    records = [record for record in caplog.records if getattr(record, "event", "") == event]
    return [{**record.fields, "message": record.getMessage()} for record in records]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def alter(client: BareClient, kind: Scope, name: str, **configs: str | None) -> None:
    ops = [
        IncrementalAlterableConfig(name=key.replace("_", "."), config_operation=op_of(value), value=value)
        for key, value in configs.items()
    ]
    resource = IncrementalAlterConfigsResource(resource_type=int(kind), resource_name=name, configs=ops)
    answer = await client.call(IncrementalAlterConfigsRequest(resources=[resource]), 1)
    assert not answer.responses[0].error_code, answer


def op_of(value: str | None) -> int:
    return int(ConfigOp.DELETE if value is None else ConfigOp.SET)


async def test_topics_that_are_made_grown_and_deleted(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker() as broker, broker.client() as client:
        software = ApiVersionsRequest(client_software_name="librdkafka", client_software_version="2.3")
        await client.call(software, 3)
        await create(client, "orders", 3, configs={"retention.ms": "5"})
        await create(client, "orders", 3)  # is there
        await create(client, "tried", validate_only=True)
        await client.call(MetadataRequest(topics=[MetadataRequestTopic(name="found")]), 12)
        await client.call(FindCoordinatorRequest(coordinator_keys=["g"]), 4)
        await call_delete(client, "orders")
        await call_delete(client, "orders")  # is gone
    asked, auto, internal = told(caplog, "topic_created")
    assert (asked["topic"], asked["partitions"], asked["how"], asked["client_id"]) == ("orders", 3, "asked", "bare")
    assert asked["configs"] == {"retention.ms": "5"} and "(librdkafka 2.3)" in asked["client"]
    assert asked["message"] == (
        f"topic orders created, partitions 3, replication factor 1, by client bare at {asked['client']}"
    )
    assert (auto["topic"], auto["how"]) == ("found", "auto") and "asked about it (auto.create.topics.enable)" in auto[
        "message"
    ]
    assert (internal["topic"], internal["how"]) == ("__consumer_offsets", "internal")
    assert [each["topic"] for each in told(caplog, "topic_deleted")] == ["orders"]


async def test_configs_that_are_changed_from_what_to_what(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker() as broker, broker.client() as client:
        await create(client, "t", configs={"retention.ms": "5"})
        await alter(client, Scope.TOPIC, "t", retention_ms="6", cleanup_policy="compact")
        await alter(client, Scope.TOPIC, "t", retention_ms="6")  # as it was
        await alter(client, Scope.TOPIC, "t", retention_ms=None)
        await alter(client, Scope.BROKER, "", log_retention_ms="7000")
    changes = [(each["resource"], each["name"], each["old"], each["new"]) for each in told(caplog, "config_changed")]
    assert changes == [
        ("topic t", "cleanup.policy", None, "compact"),
        ("topic t", "retention.ms", "5", "6"),
        ("topic t", "retention.ms", "6", None),
        ("all brokers", "log.retention.ms", None, "7000"),
    ]
    assert "topic t: cleanup.policy was not set, is compact, by client bare at" in caplog.text


async def test_one_request_that_changes_much_is_told_in_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"t{n}" for n in range(3 * TOLD_MAX)]
    topics = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in names]
    async with memory_broker() as broker, broker.client() as client:
        await client.call(CreateTopicsRequest(topics=topics, timeout_ms=5000), 7)
        await client.call(DeleteTopicsRequest(topic_names=names, timeout_ms=5000), 5)
    assert len(told(caplog, "topic_created")) == len(told(caplog, "topic_deleted")) == TOLD_MAX
    assert [(each["count"], each["what"]) for each in told(caplog, "more_changed")] == [
        (2 * TOLD_MAX, "topics created"),
        (2 * TOLD_MAX, "topics deleted"),
    ]


async def test_a_client_that_calls_itself_what_it_likes_gets_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker, broker.client(client_id="x" * 5000) as client:
        await create(client, "t")
    (created,) = told(caplog, "topic_created")
    assert len(created["client_id"]) == 101 and len(created["message"]) < 400
