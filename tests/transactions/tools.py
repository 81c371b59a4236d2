"""A transaction coordinator without a broker around it: logs on a memory disk, its partition led by hand, brokers that
take markers as a test wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from kafka_wire.messages.transactions import EndTxnResponse, InitProducerIdResponse
from kbroker.cluster.changes.features import TRANSACTION, Finalized
from kbroker.cluster.image import ClusterImage, PartitionImage, TopicImage
from kbroker.cluster.producer_ids import ProducerIds
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig, topic_config
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.testing.broker import Machine
from kbroker.transactions import requests
from kbroker.transactions.coordinator import TRANSACTIONS_TOPIC, TransactionCoordinator
from kbroker.transactions.shard import TransactionShard
from kbroker.transactions.storage import Partitions, measured
from kbroker.transactions.transaction import Producer, Transaction
from kbroker.turns import at_once
from tests.coordinators.running import running
from tests.log.tools import log_for
from tests.replication.tools import image

TOPIC_ID = b"transaction-stat"


class Written(NamedTuple):
    """A marker that a broker was asked to write."""

    topic: str
    partition: int
    producer: Producer
    is_commit: bool
    coordinator_epoch: int


class Brokers:
    """Brokers that take every marker at once, unless a test says otherwise.

    answer: called with (topic, partition), the code of a marker. gate: what an answer waits for.
    """

    def __init__(self) -> None:
        self.markers: list[Written] = []  # that were taken
        self.requests: list[tuple[int, int]] = []  # (broker, partitions asked for)
        self.answer: Callable[[str, int], ErrorCode] = lambda topic, index: ErrorCode.NONE
        self.gate: trio.Event | None = None
        self.error: KafkaError | None = None

    def ask(self, broker_id: int, request: Any, version: int, timeout_s: float) -> Any:
        assert isinstance(request, WriteTxnMarkersRequest) and version == 2 and timeout_s > 0
        size = sum(len(topic.partition_indexes) for marker in request.markers for topic in marker.topics)
        self.requests.append((broker_id, size))
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            return self._later(request, self.gate)
        return self._response(request)

    async def _later(self, request: WriteTxnMarkersRequest, gate: trio.Event) -> WriteTxnMarkersResponse:
        await gate.wait()
        if self.error is not None:
            raise self.error
        return self._response(request)

    def _response(self, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
        results = []
        for marker in request.markers:
            topics = []
            for topic in marker.topics:
                rows = []
                for index in topic.partition_indexes:
                    code = self.answer(topic.name, index)
                    if code is ErrorCode.NONE:
                        producer = Producer(marker.producer_id, marker.producer_epoch)
                        self.markers.append(
                            Written(topic.name, index, producer, marker.transaction_result, marker.coordinator_epoch)
                        )
                    rows.append(WritableTxnMarkerPartitionResult(partition_index=index, error_code=code))
                topics.append(WritableTxnMarkerTopicResult(name=topic.name, partitions=rows))
            results.append(WritableTxnMarkerResult(producer_id=marker.producer_id, topics=topics))
        return WriteTxnMarkersResponse(markers=results)


class Ids:
    """A supply of producer ids that never ends; 1000, 1001, ..., whoever asks. error: what it fails with."""

    def __init__(self) -> None:
        self.last = 999
        self.error: KafkaError | None = None

    async def next(self) -> int:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.last += 1
        return self.last


class Rig:
    """A coordinator of one partition, as the broker of id 1."""

    def __init__(self, machine: Machine, config: BrokerConfig | None = None, version: int = 2) -> None:
        self.machine = machine
        self.env = machine.env()
        self.config = config or BrokerConfig()
        features = Finalized({TRANSACTION: version}, 1)
        self.brokers, self.ids = Brokers(), Ids()
        self.logs = LogDirectory(self.env, self.config)
        self.logs.open()
        self.registration = SimpleNamespace(
            image=ClusterImage(
                topics={"t": topic("t", b"t" * 16, 4), TRANSACTIONS_TOPIC: topic(TRANSACTIONS_TOPIC, TOPIC_ID)},
                features=features,
            ),
            broker=SimpleNamespace(id=1),
        )
        self.coordinator = TransactionCoordinator(
            self.env,
            cast(Registration, self.registration),
            self.logs,
            lambda: self.config,
            cast(ProducerIds, self.ids),
            self.brokers,
        )
        settings = topic_config({"cleanup.policy": "compact"}, self.config)
        log = log_for(self.logs, TRANSACTIONS_TOPIC, 0, TOPIC_ID, settings)
        self.partition = Partition(TRANSACTIONS_TOPIC, 0, TOPIC_ID, log, 1)

    def lead(self, epoch: int) -> None:
        self.partition.lead(image(epoch, (1,)))
        self.coordinator.lead(self.partition)

    def add_topic(self, name: str, leaders: tuple[int, ...]) -> None:
        """A topic whose partitions are led by these brokers."""
        topics = {**self.registration.image.topics, name: topic(name, name[:16].encode().ljust(16), leaders=leaders)}
        self.registration.image = replace(self.registration.image, topics=topics)

    def remove_topic(self, name: str) -> None:
        topics = {key: value for key, value in self.registration.image.topics.items() if key != name}
        self.registration.image = replace(self.registration.image, topics=topics)

    @property
    def shard(self) -> TransactionShard:
        return self.coordinator.runtime.leading.shard("any")

    async def loaded(self) -> TransactionShard:
        """Wait until the shard is active."""
        with trio.fail_after(60):
            while not all(shard.is_active for shard in self.coordinator.runtime.leading.shards):
                await trio.lowlevel.checkpoint()
        return self.shard

    def transaction(self, transactional_id: str = "x") -> Transaction:
        return self.shard.transactions[transactional_id]

    # -- requests -----------------------------------------------------------------------------------------------------

    async def init(
        self, transactional_id: str = "x", expected: Producer | None = None, timeout_ms: int = 60_000
    ) -> Producer | ErrorCode:
        """What a producer is told: who it is, or an error."""
        response = await done(
            requests.init_producer(self.coordinator, transactional_id, expected, timeout_ms, _init_refused)
        )
        assert isinstance(response, InitProducerIdResponse)
        return ErrorCode(response.error_code) or Producer(response.producer_id, response.producer_epoch)

    async def begin(self, transactional_id: str = "x", **more: Any) -> Producer:
        """A producer."""
        producer = await self.init(transactional_id, **more)
        assert isinstance(producer, Producer), producer
        return producer

    async def add(
        self,
        producer: Producer,
        wanted: Partitions | None = None,
        transactional_id: str = "x",
        client_version: int = 2,
    ) -> ErrorCode:
        """Add partitions, by default t-0."""
        added = {"t": {0}} if wanted is None else wanted
        size = at_once(measured(added))
        found = await done(requests.add(self.coordinator, transactional_id, producer, added, size, client_version))
        assert isinstance(found, ErrorCode)
        return found

    async def verify(self, producer: Producer, transactional_id: str = "x") -> Partitions | ErrorCode:
        found: Partitions | ErrorCode = await done(requests.verify(self.coordinator, transactional_id, producer))
        return found

    async def end(
        self, producer: Producer, commit: bool = True, transactional_id: str = "x", client_version: int = 2
    ) -> Producer | ErrorCode:
        """Who a producer of version 2 is from now on; or a code."""
        response = await done(
            requests.end(self.coordinator, transactional_id, producer, commit, client_version, _end_refused)
        )
        assert isinstance(response, EndTxnResponse)
        if response.error_code or client_version < 2:
            assert (response.producer_id, response.producer_epoch) == (-1, -1)
            return ErrorCode(response.error_code)
        return Producer(response.producer_id, response.producer_epoch)


def _init_refused(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)


def _end_refused(code: ErrorCode) -> EndTxnResponse:
    return EndTxnResponse(error_code=code)


async def done(answer: Any) -> Any:
    """An answer, waited for if need be."""
    return await answer if isinstance(answer, Coroutine) else answer


def topic(name: str, topic_id: bytes, partitions: int = 1, *, leaders: tuple[int, ...] = ()) -> TopicImage:
    leaders = leaders or (1,) * partitions
    images = tuple(
        PartitionImage(topic_id, index, (leader,), (leader,), leader, 1, 1) for index, leader in enumerate(leaders)
    )
    return TopicImage(name, topic_id, images, {})


@asynccontextmanager
async def rig(
    machine: Machine | None = None, *, epoch: int = 1, config: BrokerConfig | None = None, version: int = 2
) -> AsyncIterator[Rig]:
    """A running coordinator that leads its partition in that epoch; stopped as by kill -9."""
    made = Rig(machine or Machine(), config, version)
    async with running(made, made.coordinator.run, epoch):
        yield made
