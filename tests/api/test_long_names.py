"""Names of groups and transactions may have thirty thousand characters, each of which counts for where they are kept: a
request with many of them looks a few up at a time."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest
from kafka_wire.messages.group_admin import DeleteGroupsRequest, DescribeGroupsRequest
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestGroup
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTransaction,
    DescribeTransactionsRequest,
)
from kbroker.coordinators import routing
from kbroker.testing.broker import memory_broker

LONG = 30_000
NAMES = [f"{n}" + "x" * LONG for n in range(20)]
HASHED_MAX = 4 * LONG  # characters in one go: some four milliseconds


class Meter(trio.abc.Instrument):
    """Counts the characters that are hashed in a step of a task."""

    def __init__(self) -> None:
        self.now = self.worst = self.all = 0

    def hash(self, name: str) -> int:
        self.now += len(name)
        self.all += len(name)
        return len(name)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.worst, self.now = max(self.worst, self.now), 0


@pytest.mark.parametrize(("request_of_many", "version"), [
    (FindCoordinatorRequest(key_type=0, coordinator_keys=NAMES), 6),
    (FindCoordinatorRequest(key_type=1, coordinator_keys=NAMES), 6),
    (DescribeGroupsRequest(groups=NAMES), 5),
    (DeleteGroupsRequest(groups_names=NAMES), 2),
    (ConsumerGroupDescribeRequest(group_ids=NAMES, include_authorized_operations=False), 1),
    (OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=name, topics=None) for name in NAMES]), 8),
    (DescribeTransactionsRequest(transactional_ids=NAMES), 0),
    (AddPartitionsToTxnRequest(transactions=[
        AddPartitionsToTxnTransaction(
            transactional_id=name, producer_id=1, producer_epoch=0, verify_only=True, topics=[])
        for name in NAMES]), 5),
], ids=lambda value: type(value).__name__ if not isinstance(value, int) else f"v{value}")  # fmt: skip
async def test_B1_long_names_are_looked_up_a_few_at_a_time(
    request_of_many: Any, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter()
    async with memory_broker() as broker, broker.client() as client:
        for key_type in (0, 1):
            await client.call(FindCoordinatorRequest(key="g", key_type=key_type), 3)
        monkeypatch.setattr(routing, "_hash", meter.hash)
        trio.lowlevel.add_instrument(meter)
        await client.call(request_of_many, version)
        trio.lowlevel.remove_instrument(meter)
    assert meter.all >= LONG * len(NAMES)
    assert meter.worst <= HASHED_MAX
