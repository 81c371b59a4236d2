"""ApiVersions' features; UpdateFeatures as Apache Kafka 4.3 answers it, which compat/kafka_features.py wrote down."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compat"))
from kafka_features import answer_of, levels_of, request_of

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest
from kafka_wire.messages.metadata import ApiVersionsRequest
from kbroker.cluster.changes.features import FEATURES, GROUP, TRANSACTION
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient

ROWS = json.loads((Path(__file__).parent.parent / "data" / "kafka-4.3-features.json").read_text())


async def versions(client: BareClient, version: int = 4) -> Any:
    return await client.call(ApiVersionsRequest(client_software_name="t", client_software_version="1"), version)


async def update(client: BareClient, *updates: tuple[str, int, int], version: int = 2) -> int:
    code: int = (await client.call(request_of(version, list(updates), False), version)).error_code
    return code


async def test_updates_are_answered_as_by_apache_kafka() -> None:
    async with memory_broker(config={"node.id": "1"}) as broker, broker.client() as client:
        for row in ROWS:
            request = request_of(row["version"], row["updates"], row["validate_only"])
            answer = answer_of(await client.call(request, row["version"]), row["version"])
            assert (answer, levels_of(await versions(client))) == (row["answer"], row["levels"]), row


@pytest.mark.parametrize("version", range(5))
async def test_trap_3_features_of_minimum_0_are_told_from_version_4_on(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        told = await versions(client, version)
        ranges = {row.name: (row.min_version, row.max_version) for row in told.supported_features}
        everything = {name: (feature.low, feature.high) for name, feature in FEATURES.items()}
        expected = {name: both for name, both in everything.items() if both[0] or version >= 4}
        assert ranges == (expected if version >= 3 else {})


async def test_the_epoch_grows_with_every_change() -> None:
    async with memory_broker() as broker, broker.client() as client:
        before = (await versions(client)).finalized_features_epoch
        await update(client, (TRANSACTION, 1, 2))
        told = await versions(client)
        assert told.finalized_features_epoch > before >= 0
        finalized = {row.name: (row.min_version_level, row.max_version_level) for row in told.finalized_features}
        assert finalized[TRANSACTION] == (1, 1)


async def test_a_cluster_without_group_version_1_has_no_consumer_groups() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await update(client, (GROUP, 0, 2))
        beat = await client.call(ConsumerGroupHeartbeatRequest(group_id="g", member_id="m", member_epoch=0), 1)
        described = await client.call(ConsumerGroupDescribeRequest(group_ids=["g"]), 1)
        code = ErrorCode.UNSUPPORTED_VERSION
        assert (beat.error_code, described.groups[0].error_code) == (code, code)
        await update(client, (GROUP, 1, 1))
        described = await client.call(ConsumerGroupDescribeRequest(group_ids=["g"]), 1)
        assert described.groups[0].error_code not in (ErrorCode.NONE, code)
