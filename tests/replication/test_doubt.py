"""What a leader of several replicas says for good: when its followers have confirmed it, and not before (R14)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.offsets import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_wire.messages.topics import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from kbroker.replication.doubt import CONFIRM_S
from kbroker.testing.client import BareClient
from tests.api.test_fetch import fetch_request
from tests.api.test_produce import batch, produce
from tests.replication.test_following import others, three

E = ErrorCode


async def repeat_out_of_order(client: BareClient) -> int:
    numbered = {"producer_id": 5, "producer_epoch": 0}
    return (await produce(client, batch(b"x", base_sequence=7, **numbered), timeout_ms=5000)).error_code


async def fetch_above_the_end(client: BareClient) -> int:
    response = await client.call(fetch_request({("t", 0): 99}, max_wait_ms=100), 11)
    code: int = response.responses[0].partitions[0].error_code
    return code


async def ask_where_an_epoch_ends(client: BareClient) -> int:
    asked = OffsetForLeaderPartition(partition=0, current_leader_epoch=-1, leader_epoch=0)
    request = OffsetForLeaderEpochRequest(replica_id=-2, topics=[OffsetForLeaderTopic(topic="t", partitions=[asked])])
    response = await client.call(request, 4)
    code: int = response.topics[0].partitions[0].error_code
    return code


async def delete_above_the_end(client: BareClient) -> int:
    topic = DeleteRecordsTopic(name="t", partitions=[DeleteRecordsPartition(partition_index=0, offset=99)])
    response = await client.call(DeleteRecordsRequest(topics=[topic], timeout_ms=5000), 2)
    code: int = response.topics[0].partitions[0].error_code
    return code


QUESTIONS: dict[str, tuple[Callable[[BareClient], Awaitable[int]], ErrorCode]] = {
    "a sequence that is out of order": (repeat_out_of_order, E.OUT_OF_ORDER_SEQUENCE_NUMBER),
    "a fetch above the end": (fetch_above_the_end, E.OFFSET_OUT_OF_RANGE),
    "where an epoch ends": (ask_where_an_epoch_ends, E.NONE),
    "records to be deleted that are not there": (delete_above_the_end, E.OFFSET_OUT_OF_RANGE),
}


async def first(client: BareClient) -> None:
    sent: Any = batch(b"a", producer_id=5, producer_epoch=0, base_sequence=0)
    assert (await produce(client, sent, timeout_ms=5000)).error_code == E.NONE


@pytest.mark.parametrize(("ask", "answer"), QUESTIONS.values(), ids=QUESTIONS.keys())
async def test_R14_what_is_said_for_good_is_confirmed_by_the_followers(
    ask: Callable[[BareClient], Awaitable[int]], answer: ErrorCode, autojump_clock: MockClock
) -> None:
    async with three() as (_, _, client):
        await first(client)
        began = trio.current_time()
        assert await ask(client) == answer
        assert trio.current_time() - began < 0.3, "followers that wait are hurried"


@pytest.mark.parametrize(("ask", "answer"), QUESTIONS.values(), ids=QUESTIONS.keys())
async def test_R14_and_not_said_by_a_leader_whose_followers_are_silent(
    ask: Callable[[BareClient], Awaitable[int]], answer: ErrorCode, autojump_clock: MockClock
) -> None:
    """Though it is alive, as the cluster knows: one of them may lead by now."""
    async with three() as (cluster, leader, client):
        await first(client)
        for other in others(leader):
            cluster.network.cut(f"b{leader}", f"b{other}")
            cluster.network.cut(f"b{other}", f"b{leader}")
        began = trio.current_time()
        assert await ask(client) == E.NOT_LEADER_OR_FOLLOWER
        assert trio.current_time() - began < CONFIRM_S + 0.1
