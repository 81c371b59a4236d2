"""A produce with acks=all that waits for the partition's replicas (R6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode
from kbroker.replication.partition import Partition
from kbroker.testing.broker import memory_broker
from tests.api.partitions import Find, led
from tests.api.test_produce import batch, produce

__all__ = ["led"]


def shared(partition: Partition, *isr: int, leader: int | None = None) -> None:
    """Let the cluster have agreed on that ISR, of two replicas."""
    image = partition.image
    assert image is not None
    leads = partition.node_id if leader is None else leader
    now = replace(
        image, replicas=(partition.node_id, 7), isr=isr, leader=leads, mod_revision=image.mod_revision + 1,
        leader_epoch=image.leader_epoch + (leads != image.leader), partition_epoch=image.partition_epoch + 1,
    )  # fmt: skip
    partition.lead(now) if leads == partition.node_id else partition.follow(now)


def in_epoch(partition: Partition, later: int) -> None:
    """Let it be led in a leader epoch so much later, with the same replicas."""
    image = partition.image
    assert image is not None
    partition.lead(replace(image, leader_epoch=image.leader_epoch + later, mod_revision=image.mod_revision + 1))


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("all have it", ErrorCode.NONE),
        ("all had it, but now they are too few", ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND),
        ("another leads", ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("another led", ErrorCode.NOT_LEADER_OR_FOLLOWER),
        ("all have it two leader epochs later", ErrorCode.NONE),
        ("nobody has it in time, in the next leader epoch", ErrorCode.REQUEST_TIMED_OUT),
        ("nobody has it in time", ErrorCode.REQUEST_TIMED_OUT),
    ],
)
async def test_R6_what_becomes_of_a_produce_that_waits_for_its_replicas(
    then: str, code: ErrorCode, led: Find, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with memory_broker(topics={"t": 1}, config={"min.insync.replicas": "2"}) as broker, broker.client() as client:
        partition = led("t", 0)
        own = partition.node_id
        shared(partition, own, 7)
        answers: list[Any] = []

        async def send() -> None:
            answers.append(await produce(client, batch(b"a"), timeout_ms=2000))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert partition.log.end.value == 1 and not answers
        if "later" in then:
            in_epoch(partition, 1)
            await wait_all_tasks_blocked()
        if "epoch" in then:
            in_epoch(partition, 1)
        if then == "another led":
            in_epoch(partition, 2)
        if then.startswith("all"):
            partition.high_watermark.advance(1)
        if then == "another leads":
            shared(partition, own, 7, leader=7)
        elif then.endswith("too few"):
            shared(partition, own)
        while not answers:
            await trio.sleep(0.1)
        assert answers[0].error_code == code
        assert answers[0].base_offset == (0 if code in (ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT) else -1)
