"""CompactLog through whole brokers in memory: what is done, what is told of it, and what is refused (L9)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.compaction import CompactLogRequest
from kafka_wire.records import build_batch
from kbroker.log.cleaner.cleaner import Cleaner, Outcome
from kbroker.testing.broker import memory_broker, memory_cluster
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from tests.api.test_produce import produce
from tests.api.test_topics import create


async def compact(client: BareClient, topic: str = "t", index: int = 0, **fields: Any) -> Any:
    request = CompactLogRequest(topic_name=topic, partition_index=index, **{"timeout_ms": 1000, **fields})
    return await client.call(request, 0)


async def compacted_topic(client: BareClient, **configs: str) -> None:
    """Topic t with forty records of ten keys, the last a tombstone."""
    assert (await create(client, "t", configs={"cleanup.policy": "compact", **configs})).error_code == 0
    for n in range(40):
        value = None if n == 39 else b"%d" % n
        answer = await produce(client, build_batch([(b"k%d" % (n % 10), value)], timestamp=EPOCH_MS), topic="t")
        assert answer.error_code == 0


async def test_L9_a_compaction_is_forced_and_tells_what_it_did() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await compacted_topic(client)
        done = await compact(client)
        assert (done.error_code, done.order_id) == (0, -1)
        assert (done.records_before, done.records_after, done.tombstones) == (40, 10, 1)
        assert done.bytes_after < done.bytes_before and done.cleaned_to == 40
        assert (done.segments_before, done.segments_after) == (1, 1)
        again = await compact(client)
        assert (again.error_code, again.records_before, again.records_after) == (0, 10, 10)


async def test_what_may_not_be_compacted_yet_is_left() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await compacted_topic(client, **{"min.compaction.lag.ms": "3600000"})
        done = await compact(client)
        assert (done.error_code, done.records_before, done.cleaned_to) == (0, 0, 0)


async def test_what_cannot_be_compacted_is_refused_with_the_reason() -> None:
    async with memory_broker(topics={"plain": 1}) as broker, broker.client() as client:
        answer = await compact(client, "plain")
        assert answer.error_code == ErrorCode.INVALID_CONFIG and "cleanup.policy is delete" in answer.error_message
        assert (await compact(client, "absent")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await compact(client, "plain", 1)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (await compact(client, order_id=7)).error_code == ErrorCode.INVALID_REQUEST


async def test_a_disk_that_refuses_is_told_of() -> None:
    async with memory_broker() as broker, broker.client() as client:
        await compacted_topic(client)
        broker.disk.fail("open", "*.cleaned", times=100)
        answer = await compact(client)
        assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR and "Input/output error" in answer.error_message
        broker.disk.heal()
        assert (await compact(client)).records_after == 10


async def test_only_the_leader_compacts() -> None:
    async with memory_cluster(2) as cluster, cluster.client(1) as one, cluster.client(2) as other:
        configs = {"cleanup.policy": "compact"}
        assert (await create(one, "t", replication_factor=2, configs=configs)).error_code == 0
        codes = sorted([(await compact(client)).error_code for client in (one, other)])
        assert codes == [0, ErrorCode.NOT_LEADER_OR_FOLLOWER]


async def test_one_that_takes_longer_than_an_answer_may_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    begun = 0

    async def slow(self: Cleaner, *_: object) -> Outcome:
        nonlocal begun
        begun += 1
        await trio.sleep(150)
        return Outcome(records_before=7)

    async with memory_broker() as broker, broker.client() as client, broker.client() as other:
        await compacted_topic(client)
        monkeypatch.setattr(Cleaner, "compact", slow)
        first = await compact(client, timeout_ms=10**9)
        assert (first.error_code, first.records_before) == (0, 0) and first.order_id >= 0, "a minute at most"
        joined = await compact(other, timeout_ms=-5)
        assert joined.order_id == first.order_id, "nobody begins another one beside it"
        for client_ in (client, other):
            while (answer := await compact(client_, order_id=first.order_id)).order_id >= 0:
                pass
            assert answer.records_before == 7
        assert begun == 1
