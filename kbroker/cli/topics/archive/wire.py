"""Fetching and producing whole batches of one topic, over the connections of kafka-python's admin client.

kafka-python's own consumer and producer make objects of records: 5 to 10 MB/s. Batches that stay as they are go by at
hundreds. What passes by itself (a leader that moves, a connection that is lost) is asked again for RETRY_S.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import click

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.records import HEADER_SIZE, assign, set_producer
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS, check_code, check_topic, error_text
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.topics.archive.batches import Packed, split

FETCH_BYTES = 8 << 20
FETCH_WAIT_MS = 500
IN_FLIGHT = 5  # a broker remembers the last five batches of a producer
RETRY_S, TELL_S, PAUSE_S = 30.0, 2.0, 0.1
SEQUENCE_MASK = 0x7FFFFFFF
ALL_IN_SYNC = -1

_PASSING = frozenset(code for code in ErrorCode if code.retriable) - {
    ErrorCode.CORRUPT_MESSAGE,  # a log that is damaged stays so
}

T = TypeVar("T")


class Passing(Exception):
    """Not now: perhaps in a moment."""


class Topic:
    """A topic that is there, and who leads its partitions. It stays this very topic: one that is made anew under the
    same name is another."""

    def __init__(self, client: Any, name: str) -> None:
        """Raises Failed where there is none of that name."""
        self.client, self.name = client, name
        self.id, self.cluster_id = bytes(16), ""
        self.leaders: dict[int, int] = {}
        self._refresh()

    def patiently(self, ask: Callable[[], T]) -> T:
        """Ask again, after a look at who leads, while what is wrong may pass."""
        from kafka.errors import RetriableError, UnknownBrokerIdError

        began, is_told = time.monotonic(), False
        while True:
            try:
                return ask()
            except (Passing, RetriableError, UnknownBrokerIdError) as error:
                waited_s = time.monotonic() - began
                if waited_s > RETRY_S:
                    raise Failed(f"{self.name}: {error}") if isinstance(error, Passing) else error from None
                if waited_s > TELL_S and not is_told:
                    why = error if isinstance(error, Passing) else "a broker does not answer"
                    click.echo(f"kbroker: {why}: tried again for {RETRY_S:g} s", err=True)
                    is_told = True
            time.sleep(PAUSE_S)
            try:
                bridge.learn_brokers(self.client)
                self._refresh()
            except (RetriableError, UnknownBrokerIdError):
                continue

    def leader(self, partition: int) -> int:
        """Who leads a partition. Raises Passing when nobody does."""
        node = self.leaders.get(partition, -1)
        if node < 0:
            raise Passing(f"nobody leads partition {partition}")
        return node

    def of_all(self, ask: Callable[[Mapping[TopicPartition, int]], Mapping[TopicPartition, T]]) -> dict[int, T]:
        """What is asked of the leaders of all partitions, once all have answered: by partition. Raises Failed."""

        def whole() -> dict[int, T]:
            leaders = {(self.name, index): self.leader(index) for index in self.leaders}
            found = ask(leaders)
            if len(found) < len(leaders):
                raise Passing("not all leaders tell where their partitions end")
            return {index: told for (_, index), told in found.items()}

        return self.patiently(whole)

    def _refresh(self) -> None:
        from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic

        request = MetadataRequest(topics=[MetadataRequestTopic(name=self.name)], allow_auto_topic_creation=False)
        answer = bridge.send(self.client, None, request, ApiKey.METADATA)
        told, self.cluster_id = answer.topics[0], answer.cluster_id or ""
        if told.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            raise Failed(f"topic {self.name} {'was deleted' if self.leaders else 'does not exist'}")
        if told.error_code == ErrorCode.LEADER_NOT_AVAILABLE and self.leaders:
            return
        check_topic(told.error_code, self.name)
        if self.leaders and told.topic_id != self.id:
            raise Failed(f"topic {self.name} was deleted and made anew")
        self.id = told.topic_id
        self.leaders = {each.partition_index: each.leader_id for each in told.partitions}


def fetch(topic: Topic, partition: int, offset: int, isolation: int) -> Any:
    """What is in a partition from an offset on: an answer without an error, or with OFFSET_OUT_OF_RANGE."""
    from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic

    wanted = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=FETCH_BYTES)
    request = FetchRequest(
        max_wait_ms=FETCH_WAIT_MS,
        min_bytes=1,
        max_bytes=FETCH_BYTES,
        isolation_level=isolation,
        topics=[FetchTopic(topic=topic.name, topic_id=topic.id, partitions=[wanted])],
    )

    def ask() -> Any:
        told = bridge.send(topic.client, topic.leader(partition), request, ApiKey.FETCH)
        code = told.error_code or told.responses[0].partitions[0].error_code
        if code in _PASSING:
            raise Passing(error_text(code))
        if code != ErrorCode.OFFSET_OUT_OF_RANGE:
            check_code(code, f"{topic.name} {partition}")
        return told.responses[0].partitions[0]

    return topic.patiently(ask)


class Sent(NamedTuple):
    """A batch on its way, its place in the producer's sequence written into it."""

    partition: int
    packed: Packed
    sequence: int


class Producer:
    """Appends batches to a topic, each once, in order. written: the records that are acknowledged, by partition."""

    def __init__(self, topic: Topic) -> None:
        from kafka_wire.messages.transactions import InitProducerIdRequest

        self.written: dict[int, int] = {}
        self._topic = topic
        self._sequences: dict[int, int] = {}
        self._waiting: list[Sent] = []
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=ANSWER_TIMEOUT_MS)

        def ask() -> Any:
            told = bridge.send(topic.client, None, request, ApiKey.INIT_PRODUCER_ID)
            if told.error_code in _PASSING:
                raise Passing(error_text(told.error_code))
            check_code(told.error_code, "no producer id was given")
            return told

        told = topic.patiently(ask)
        self._id, self._epoch = told.producer_id, told.producer_epoch

    def add(self, partition: int, packed: Packed) -> None:
        """Append a batch some time before `flush` returns. Raises Failed."""
        sequence = self._sequences.get(partition, 0)
        self._sequences[partition] = (sequence + packed.header.count) & SEQUENCE_MASK
        self._waiting.append(self._sealed(partition, packed, sequence))
        if len(self._waiting) >= IN_FLIGHT:
            self.flush()

    def flush(self) -> None:
        """Have everything appended that was added. Raises Failed."""
        while self._waiting:
            self._topic.patiently(self._send)

    def _send(self) -> None:
        """Send the first that wait. Those that were not appended go on waiting, in their order."""
        now, later = self._waiting[:IN_FLIGHT], self._waiting[IN_FLIGHT:]
        version = bridge.version_of(self._topic.client, ApiKey.PRODUCE)
        asked = [
            bridge.Asked(self._topic.leader(sent.partition), self._request(sent), ApiKey.PRODUCE, version)
            for sent in now
        ]
        left: list[Sent] = []
        problem: Exception | None = None
        for sent, answer in zip(now, bridge.send_all(self._topic.client, asked), strict=True):
            if isinstance(answer, Exception):
                problem = problem or answer
                left.append(sent)
                continue
            told = answer.responses[0].partition_responses[0]
            if told.error_code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
                self.written[sent.partition] = self.written.get(sent.partition, 0) + sent.packed.header.count
            elif told.error_code == ErrorCode.MESSAGE_TOO_LARGE and sent.packed.header.count > 1:
                left += self._halves(sent)
            elif told.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and left:
                left.append(sent)  # one before it has to come first
            else:
                problem = problem or self._problem(sent, told)
                left.append(sent)
        self._waiting = left + later
        if problem is not None:
            raise problem

    def _problem(self, sent: Sent, told: Any) -> Exception:
        text = error_text(told.error_code, told.error_message)
        if told.error_code in _PASSING:
            return Passing(text)
        if told.error_code == ErrorCode.MESSAGE_TOO_LARGE:
            size = sent.packed.header.size
            text = f"a record of about {size - HEADER_SIZE} bytes is more than the topic's max.message.bytes allows"
        return Failed(f"{self._topic.name} {sent.partition}: {text}")

    def _halves(self, sent: Sent) -> list[Sent]:
        first, second = split(sent.packed.batch, sent.packed.header.count // 2)
        middle = (sent.sequence + first.header.count) & SEQUENCE_MASK
        return [self._sealed(sent.partition, first, sent.sequence), self._sealed(sent.partition, second, middle)]

    def _sealed(self, partition: int, packed: Packed, sequence: int) -> Sent:
        assign(packed.batch, 0, packed.header, 0, -1)
        set_producer(packed.batch, 0, packed.header, self._id, self._epoch, sequence)
        return Sent(partition, packed, sequence)

    def _request(self, sent: Sent) -> object:
        from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData

        data = PartitionProduceData(index=sent.partition, records=sent.packed.batch)
        topic = TopicProduceData(name=self._topic.name, topic_id=self._topic.id, partition_data=[data])
        return ProduceRequest(acks=ALL_IN_SYNC, timeout_ms=ANSWER_TIMEOUT_MS, topic_data=[topic])
