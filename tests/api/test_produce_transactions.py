"""Transactional batches: verified with the coordinator before they are appended (T4, KIP-890)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.messages.transactions import AddPartitionsToTxnRequest
from kafka_wire.records import build_batch
from kbroker.api.brokers import ClusterBrokers
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from tests.api.transaction_tools import NEW, OLD, Producer, committed

TXN_VERSIONS = [OLD, NEW]


class Word:
    """The coordinator's word, as the broker hears it: counted, and put off, changed or lost as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[int] = []  # partitions of each
        self.verify_only: list[bool] = []
        self.gate: trio.Event | None = None
        self.codes: list[ErrorCode] = []  # said of all partitions in place of the true ones, one question each
        self.error: KafkaError | None = None
        self.whole = True
        ask = ClusterBrokers.ask
        word = self

        def asked(brokers: ClusterBrokers, broker_id: int, request: Any, version: int, timeout_s: float) -> Any:
            if not isinstance(request, AddPartitionsToTxnRequest):
                return ask(brokers, broker_id, request, version, timeout_s)
            (transaction,) = request.transactions
            word.questions.append(sum(len(topic.partitions) for topic in transaction.topics))
            word.verify_only.append(transaction.verify_only)
            if word.error is not None:
                raise word.error
            answer = ask(brokers, broker_id, request, version, timeout_s)
            return word.told(answer) if word.gate is None else word.later(answer, word.gate)

        monkeypatch.setattr(ClusterBrokers, "ask", asked)

    def told(self, answer: Any) -> Any:
        code = self.codes.pop(0) if self.codes else None
        for topic in (each for one in answer.results_by_transaction for each in one.topic_results):
            for row in topic.results_by_partition:
                row.partition_error_code = row.partition_error_code if code is None else code
            if not self.whole:
                topic.results_by_partition.pop()
        return answer

    async def later(self, answer: Any, gate: trio.Event) -> Any:
        await gate.wait()
        return self.told(answer)


@pytest.fixture
def word(monkeypatch: pytest.MonkeyPatch) -> Word:
    return Word(monkeypatch)


async def test_T4_what_was_not_added_is_not_appended() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        assert await producer.add(0) == [0]
        assert (await producer.produce()).error_code == 0
        refused = await producer.produce(index=1)
        assert (refused.error_code, refused.base_offset, refused.log_start_offset) == (
            ErrorCode.TRANSACTION_ABORTABLE, -1, -1,
        )  # fmt: skip
        assert (await producer.produce(index=1, version=10, base_sequence=0)).error_code == ErrorCode.INVALID_TXN_STATE
        assert await producer.end() == 0
        assert (await committed(client), await committed(client, index=1)) == ([0], [])


async def test_T4_a_batch_that_comes_after_its_transaction_begins_none() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        assert (await producer.produce()).error_code == 0
        assert await producer.end(commit=False) == 0
        late = await producer.produce()
        assert late.error_code == ErrorCode.TRANSACTION_ABORTABLE
        assert (await producer.client.call(MetadataRequest(topics=[]), 9)).topics == []  # the connection goes on


async def test_KIP890_writing_to_a_partition_adds_it(word: Word) -> None:
    async with memory_broker(topics={"t": 3}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        places = [("t", 0), ("t", 1), ("t", 2)]
        answer = await client.call(producer.request(*places), NEW)
        assert [row.error_code for row in answer.responses[0].partition_responses] == [0, 0, 0]
        assert (word.questions, word.verify_only) == ([3], [False])
        assert (await producer.produce(version=NEW)).error_code == 0
        assert word.questions == [3]  # it is open there: nobody is asked
        assert await committed(client) == []
        assert await producer.end(version=5) == 0
        assert await committed(client) == [0, 1]
        assert (await producer.produce(version=NEW)).error_code == 0
        assert await producer.end(version=5, commit=False) == 0


async def test_KIP890_the_next_transaction_has_an_epoch_of_its_own(word: Word) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.produce(version=NEW)
        old = producer.batch()
        assert await producer.end(version=5) == 0
        late = ProduceRequest(
            acks=-1, timeout_ms=1000, transactional_id="tx",
            topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=old)])],
        )  # fmt: skip
        row = (await client.call(late, NEW)).responses[0].partition_responses[0]
        assert row.error_code == ErrorCode.INVALID_PRODUCER_EPOCH


async def test_one_question_for_all_partitions_and_none_once_it_is_open(word: Word) -> None:
    async with memory_broker(topics={"t": 100}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(*range(100))
        places = [("t", index) for index in range(100)]
        for questions in ([100], [100]):
            answer = await client.call(producer.request(*places), OLD)
            assert {row.error_code for row in answer.responses[0].partition_responses} == {0}
            assert (word.questions, set(word.verify_only)) == (questions, {True})


async def test_what_is_not_transactional_is_not_asked_about(word: Word) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        plain = build_batch([(0, b"k", b"v")])
        data = [TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=plain)])]
        for name in (None, producer.name):
            request = ProduceRequest(acks=-1, timeout_ms=1000, transactional_id=name, topic_data=data)
            assert (await client.call(request, OLD)).responses[0].partition_responses[0].error_code == 0
        assert word.questions == []


async def test_verification_can_be_switched_off(word: Word) -> None:
    config = {"transaction.partition.verification.enable": "false"}
    async with memory_broker(topics={"t": 1}, config=config) as broker, broker.client() as client:
        producer = await Producer(client).init()
        assert (await producer.produce()).error_code == 0
        assert word.questions == []


async def test_two_producers_in_a_request_are_refused(word: Word) -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0, 1)
        request = producer.request(("t", 0), ("t", 1))
        for changed in ({"producer_id": producer.id + 1}, {"producer_epoch": producer.epoch + 1}):
            request.topic_data[0].partition_data[1].records = producer.batch("t", 1, **changed)
            rows = (await client.call(request, OLD)).responses[0].partition_responses
            assert {row.error_code for row in rows} == {ErrorCode.INVALID_PRODUCER_ID_MAPPING}
        assert word.questions == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"producer_id": 987_654}, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        ({"producer_epoch": 5}, ErrorCode.INVALID_PRODUCER_EPOCH),
    ],
)
@pytest.mark.parametrize("version", TXN_VERSIONS)
async def test_a_batch_of_another_producer_than_the_transactions(
    changed: dict[str, int], code: ErrorCode, version: int
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        assert (await producer.produce(version=version, **changed)).error_code == code
        assert await committed(client) == []
        assert (await producer.produce(version=version, base_sequence=0)).error_code == 0


@pytest.mark.parametrize(
    ("said", "version", "told"),
    [
        (ErrorCode.TRANSACTION_ABORTABLE, 10, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.TRANSACTION_ABORTABLE, 11, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.TRANSACTION_ABORTABLE, 12, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.INVALID_TXN_STATE, 12, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.PRODUCER_FENCED, 11, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.INVALID_PRODUCER_ID_MAPPING, 11, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        (ErrorCode.CONCURRENT_TRANSACTIONS, 11, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, 12, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.NOT_COORDINATOR, 11, ErrorCode.NOT_ENOUGH_REPLICAS),
    ],
)
async def test_what_the_coordinator_says_is_told_as_the_client_understands_it(
    word: Word, said: ErrorCode, version: int, told: ErrorCode
) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        word.codes = [said]
        refused = await producer.produce(version=version)
        assert (refused.error_code, refused.log_start_offset) == (told, -1)
        assert (await producer.produce(version=version, base_sequence=0)).error_code == 0


@pytest.mark.parametrize("error", [ErrorCode.BROKER_NOT_AVAILABLE, ErrorCode.NETWORK_EXCEPTION])
async def test_a_coordinator_that_cannot_be_asked_is_asked_again_by_the_client(word: Word, error: ErrorCode) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        word.error = KafkaError(error)
        refused = await producer.produce()
        assert refused.error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert "NETWORK_EXCEPTION" in str(refused.error_message)
        word.error = None
        # What was sent behind the refused batch must not be taken before it.
        assert (await producer.produce()).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert (await producer.produce(base_sequence=0)).error_code == 0


async def test_an_answer_that_does_not_name_every_partition_says_nothing(word: Word) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        word.whole = False
        assert (await producer.produce()).error_code == ErrorCode.NOT_ENOUGH_REPLICAS


async def test_a_transaction_that_is_ending_is_waited_for(word: Word, autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        begun = trio.current_time()
        word.codes = [ErrorCode.CONCURRENT_TRANSACTIONS] * 2
        assert (await producer.produce(version=NEW)).error_code == 0
        assert trio.current_time() - begun == pytest.approx(0.04, abs=0.01)
        await producer.end(version=5)
        word.codes = [ErrorCode.CONCURRENT_TRANSACTIONS] * 99
        begun = trio.current_time()
        assert (await producer.produce(version=NEW)).error_code == ErrorCode.CONCURRENT_TRANSACTIONS
        assert trio.current_time() - begun == pytest.approx(0.1, abs=0.03)


async def test_requests_behind_one_that_is_verified_are_appended_behind_it(word: Word) -> None:
    async with memory_broker(topics={"t": 1, "u": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        word.gate = trio.Event()
        plain = TopicProduceData(name="t", partition_data=[
            PartitionProduceData(index=0, records=build_batch([(0, b"k", b"v")]))])  # fmt: skip
        await client.send(producer.request(("t", 0)), OLD)
        await client.send(producer.request(("t", 0)), OLD)
        await client.send(ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[plain]), OLD)
        await trio.testing.wait_all_tasks_blocked()
        assert word.questions == [1]
        async with broker.client() as other:  # nobody else waits
            assert (await other.call(ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[plain]), OLD)) is not None
        word.gate.set()
        offsets = [await answered(client) for _ in range(3)]
        assert offsets == [(0, 1), (0, 2), (0, 3)]
        assert word.questions == [1]  # the second found the transaction open


async def test_T4_a_marker_that_comes_while_a_batch_is_verified_keeps_it_out(word: Word) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client, broker.client() as other:
        producer = await Producer(client).init()
        await producer.add(0)
        word.gate = trio.Event()
        await client.send(producer.request(("t", 0)), OLD)
        await trio.testing.wait_all_tasks_blocked()
        ending = Producer(other)
        ending.id, ending.epoch = producer.id, producer.epoch
        assert await ending.end(commit=False) == 0
        word.gate.set()
        assert (await answered(client))[0] == ErrorCode.INVALID_TXN_STATE
        assert await committed(other) == []


async def test_who_leaves_while_a_batch_is_verified_leaves_nothing_behind(word: Word) -> None:
    async with memory_broker(topics={"t": 1}) as broker:
        word.gate = trio.Event()
        async with broker.client() as client:
            producer = await Producer(client).init()
            await producer.add(0)
            for _ in range(3):
                await client.send(producer.request(("t", 0)), OLD)
            await trio.testing.wait_all_tasks_blocked()
        word.gate.set()
        async with broker.client() as other:
            assert await committed(other) == []


@pytest.mark.parametrize("version", TXN_VERSIONS)
async def test_acks_0_in_a_transaction(version: int) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        await producer.add(0)
        request = producer.request(("t", 0))
        request.acks = 0
        await client.send(request, version)
        assert (await producer.produce(version=version)).base_offset == 1


# -- topic IDs --------------------------------------------------------------------------------------------------------


async def topic_id(client: BareClient, name: str = "t") -> bytes:
    found = await client.call(MetadataRequest(topics=[MetadataRequestTopic(name=name)]), 12)
    id: bytes = found.topics[0].topic_id
    return id


def by_id(topic: bytes, *indexes: int) -> ProduceRequest:
    data = [PartitionProduceData(index=index, records=build_batch([(0, b"k", b"v")])) for index in indexes]
    return ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[TopicProduceData(topic_id=topic, partition_data=data)])


async def test_version_13_names_topics_by_id() -> None:
    async with memory_broker(topics={"t": 2}) as broker, broker.client() as client:
        wanted = await topic_id(client)
        (answer,) = (await client.call(by_id(wanted, 0, 1, 2), 13)).responses
        codes = [row.error_code for row in answer.partition_responses]
        assert (answer.topic_id, codes) == (wanted, [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION])


@pytest.mark.parametrize("unknown", [bytes(16), b"x" * 16])
async def test_an_unknown_topic_id(unknown: bytes) -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        (answer,) = (await client.call(by_id(unknown, 0, 1), 13)).responses
        codes = [row.error_code for row in answer.partition_responses]
        assert (answer.topic_id, codes) == (unknown, [ErrorCode.UNKNOWN_TOPIC_ID] * 2)


async def test_a_transaction_by_topic_id() -> None:
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        producer = await Producer(client).init()
        request = producer.request(("t", 0))
        request.topic_data[0].topic_id, request.topic_data[0].name = await topic_id(client), ""
        assert (await client.call(request, 13)).responses[0].partition_responses[0].error_code == 0
        assert await producer.end(version=5) == 0
        assert await committed(client) == [0]


async def answered(client: BareClient) -> tuple[int, int]:
    """Code and offset of the next answer."""
    row = (await client.receive(ApiKey.PRODUCE, OLD)).responses[0].partition_responses[0]
    return row.error_code, row.base_offset
