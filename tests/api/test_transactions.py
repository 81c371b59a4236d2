"""InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn and EndTxn on the wire. What they mean: tests/transactions."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
    DescribeTransactionsRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    ListTransactionsRequest,
)
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.transactions.transaction import Producer


async def find(client: BareClient, *transactional_ids: str) -> None:
    """As clients do before anything else."""
    request = FindCoordinatorRequest(key_type=1, coordinator_keys=list(transactional_ids))
    assert {each.error_code for each in (await client.call(request, 4)).coordinators} == {0}


async def init(client: BareClient, transactional_id: str | None, version: int = 4, **more: Any) -> Producer | ErrorCode:
    request = InitProducerIdRequest(transactional_id=transactional_id, transaction_timeout_ms=60_000, **more)
    with trio.fail_after(10):
        while (response := await client.call(request, version)).error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            await trio.lowlevel.checkpoint()
    return ErrorCode(response.error_code) or Producer(response.producer_id, response.producer_epoch)


async def begin(client: BareClient, transactional_id: str) -> Producer:
    await find(client, transactional_id)
    producer = await init(client, transactional_id)
    assert isinstance(producer, Producer), producer
    return producer


def adding(transactional_id: str, producer: Producer, topics: dict[str, list[int]]) -> AddPartitionsToTxnRequest:
    return AddPartitionsToTxnRequest(
        v3_and_below_transactional_id=transactional_id,
        v3_and_below_producer_id=producer.id,
        v3_and_below_producer_epoch=producer.epoch,
        v3_and_below_topics=_topics(topics),
    )


def batched(transactional_id: str, producer: Producer, topics: dict[str, list[int]], *, verify: bool) -> Any:
    return AddPartitionsToTxnTransaction(
        transactional_id=transactional_id,
        producer_id=producer.id,
        producer_epoch=producer.epoch,
        verify_only=verify,
        topics=_topics(topics),
    )


def _topics(topics: dict[str, list[int]]) -> list[AddPartitionsToTxnTopic]:
    return [AddPartitionsToTxnTopic(name=name, partitions=indexes) for name, indexes in topics.items()]


def codes(topics: Any) -> dict[tuple[str, int], int]:
    return {(t.name, p.partition_index): p.partition_error_code for t in topics for p in t.results_by_partition}


def ending(transactional_id: str, producer: Producer, commit: bool = True) -> EndTxnRequest:
    return EndTxnRequest(
        transactional_id=transactional_id, producer_id=producer.id, producer_epoch=producer.epoch, committed=commit
    )


@pytest.mark.parametrize("version", range(6))
async def test_P4_an_idempotent_producer_gets_an_id_of_its_own(version: int) -> None:
    async with memory_broker() as broker, broker.client() as client:
        producers = [await init(client, None, version) for _ in range(3)]
        assert len(set(producers)) == 3 and all(isinstance(each, Producer) and each.epoch == 0 for each in producers)


async def test_odd_producers_are_refused() -> None:
    async with memory_broker() as broker, broker.client() as client:
        for more in ({"producer_id": 5}, {"producer_epoch": 5}):
            assert await init(client, None, **more) is ErrorCode.INVALID_REQUEST
            assert await init(client, "x", **more) is ErrorCode.INVALID_REQUEST
        assert await init(client, "") is ErrorCode.INVALID_REQUEST
        nobody = Producer(0, 0)
        added = await client.call(adding("", nobody, {}), 3)
        assert added.results_by_topic_v3_and_below == []
        assert (await client.call(ending("", nobody), 4)).error_code == ErrorCode.INVALID_REQUEST
        offsets = AddOffsetsToTxnRequest(transactional_id="", producer_id=0, producer_epoch=0, group_id="g")
        assert (await client.call(offsets, 3)).error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("version", range(4))
async def test_a_transaction_from_begin_to_end(version: int) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        producer = await begin(client, "x")
        added = await client.call(adding("x", producer, {"t": [0, 1, 1]}), version)
        assert codes(added.results_by_topic_v3_and_below) == {("t", 0): 0, ("t", 1): 0}
        offsets = AddOffsetsToTxnRequest(
            transactional_id="x", producer_id=producer.id, producer_epoch=producer.epoch, group_id="g"
        )
        assert (await client.call(offsets, version)).error_code == 0
        (state,) = (await client.call(DescribeTransactionsRequest(transactional_ids=["x"]), 0)).transaction_states
        assert state.transaction_state == "Ongoing"
        assert [t.topic for t in state.topics] == ["t", "__consumer_offsets"] and state.topics[0].partitions == [0, 1]
        assert (await client.call(ending("x", producer), version)).error_code == 0
        with trio.fail_after(10):
            while state.transaction_state != "CompleteCommit":
                described = await client.call(DescribeTransactionsRequest(transactional_ids=["x"]), 0)
                (state,) = described.transaction_states
        assert state.topics == []


async def test_old_clients_are_told_of_a_fence_in_their_words() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        old = await begin(client, "x")
        await begin(client, "x")
        fenced, in_old_words = ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH
        offsets = AddOffsetsToTxnRequest(
            transactional_id="x", producer_id=old.id, producer_epoch=old.epoch, group_id="g"
        )
        for version in range(4):
            expected = in_old_words if version < 2 else fenced
            added = await client.call(adding("x", old, {"t": [0]}), version)
            assert codes(added.results_by_topic_v3_and_below) == {("t", 0): expected}
            assert (await client.call(offsets, version)).error_code == expected
            assert (await client.call(ending("x", old), version)).error_code == expected
        for version, expected in ((3, in_old_words), (4, fenced)):
            assert await init(client, "x", version, producer_id=old.id, producer_epoch=old.epoch) is expected


async def test_one_partition_that_is_not_there_and_none_is_added() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        producer = await begin(client, "x")
        added = await client.call(adding("x", producer, {"t": [0, 2, -1], "u": [0]}), 3)
        assert codes(added.results_by_topic_v3_and_below) == {
            ("t", 0): ErrorCode.OPERATION_NOT_ATTEMPTED,
            ("t", 2): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("t", -1): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("u", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        }
        (state,) = (await client.call(DescribeTransactionsRequest(transactional_ids=["x"]), 0)).transaction_states
        assert state.transaction_state == "Empty"


async def test_T4_a_broker_asks_about_many_transactions_at_once() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        a, b, c = [await begin(client, each) for each in "abc"]
        await client.call(adding("a", a, {"t": [0]}), 3)
        request = AddPartitionsToTxnRequest(
            transactions=[
                batched("a", a, {"t": [0, 1]}, verify=True),
                batched("b", b, {"t": [2]}, verify=True),
                batched("c", Producer(c.id, 7), {"t": [2]}, verify=True),
                batched("d", a, {"t": [2], "u": [0]}, verify=True),
                batched("e", a, {"t": [2]}, verify=True),
                batched("", a, {"t": [2]}, verify=True),
            ]
        )
        for version in (4, 5):
            answer = await client.call(request, version)
            assert [each.transactional_id for each in answer.results_by_transaction] == ["a", "b", "c", "d", "e", ""]
            assert [codes(each.topic_results) for each in answer.results_by_transaction] == [
                {("t", 0): 0, ("t", 1): ErrorCode.TRANSACTION_ABORTABLE},
                {("t", 2): ErrorCode.TRANSACTION_ABORTABLE},
                {("t", 2): ErrorCode.PRODUCER_FENCED},
                {("t", 2): ErrorCode.OPERATION_NOT_ATTEMPTED, ("u", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION},
                {("t", 2): ErrorCode.INVALID_PRODUCER_ID_MAPPING},
                {("t", 2): ErrorCode.INVALID_REQUEST},
            ]


async def test_a_transaction_that_is_named_twice_is_told_once_and_the_last_counts() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        a, b = await begin(client, "a"), await begin(client, "b")
        each = [("a", a, [0]), ("b", b, [1]), ("a", a, [1, 2])]
        named = [batched(name, producer, {"t": indexes}, verify=False) for name, producer, indexes in each]
        answer = await client.call(AddPartitionsToTxnRequest(transactions=named), 5)
        assert [(each.transactional_id, codes(each.topic_results)) for each in answer.results_by_transaction] == [
            ("a", {("t", 1): 0, ("t", 2): 0}),
            ("b", {("t", 1): 0}),
        ]


async def test_transactions_are_described_and_listed() -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        a, b = await begin(client, "a"), await begin(client, "b")
        await client.call(adding("a", a, {"t": [2, 0]}), 3)
        described = await client.call(DescribeTransactionsRequest(transactional_ids=["a", "b", "c", "", "a"]), 0)
        rows = [
            (each.transactional_id, each.error_code, each.transaction_state, each.producer_id, each.producer_epoch)
            for each in described.transaction_states
        ]
        assert rows == [
            ("a", 0, "Ongoing", a.id, a.epoch),
            ("b", 0, "Empty", b.id, b.epoch),
            ("c", ErrorCode.TRANSACTIONAL_ID_NOT_FOUND, "", 0, 0),
            ("", ErrorCode.INVALID_REQUEST, "", 0, 0),
        ]
        assert described.transaction_states[0].topics[0].partitions == [0, 2]
        assert described.transaction_states[0].transaction_timeout_ms == 60_000
        assert described.transaction_states[1].transaction_start_time_ms == -1

        async def listed(version: int = 1, **filters: Any) -> set[str]:
            request = ListTransactionsRequest(**{"state_filters": [], "producer_id_filters": [], **filters})
            found = await client.call(request, version)
            assert found.error_code == 0 and found.unknown_state_filters == [
                name for name in filters.get("state_filters", []) if name == "Nothing"
            ]
            return {each.transactional_id for each in found.transaction_states}

        assert await listed(0) == {"a", "b"}
        assert await listed(state_filters=["Ongoing"]) == {"a"}
        assert await listed(state_filters=["Empty", "Nothing"]) == {"b"}
        assert await listed(state_filters=["Nothing"]) == set()
        assert await listed(producer_id_filters=[b.id, 99]) == {"b"}
        assert await listed(state_filters=["Ongoing"], producer_id_filters=[b.id]) == set()
        for pattern, ids in (
            (None, "ab"),
            ("", "ab"),
            ("a", "a"),
            ("[a-c]", "ab"),
            ("a.", ""),
            (".*", "ab"),
            ("(?i)A", "a"),
        ):
            assert await listed(2, transactional_id_pattern=pattern) == set(ids)
        assert await listed(2, transactional_id_pattern=".", state_filters=["Ongoing"]) == {"a"}
        for pattern in ("(", "(?=a)", "x" * 2_000):
            request = ListTransactionsRequest(
                state_filters=[], producer_id_filters=[], transactional_id_pattern=pattern
            )
            refused = await client.call(request, 2)
            assert refused.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION and refused.transaction_states == []
        broker.clock.jump_data(3_600_000)  # it goes on by itself, too, as fast as the machine is slow
        assert await listed(state_filters=["Ongoing"], duration_filter=3_599_999) == {"a"}
        assert await listed(state_filters=["Ongoing"], duration_filter=3_900_000) == set()
