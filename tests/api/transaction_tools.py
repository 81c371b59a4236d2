"""A transactional producer made of bare requests, for tests through a whole broker."""

from __future__ import annotations

from typing import Any

from kafka_wire.messages.admin import FeatureUpdateKey, UpdateFeaturesRequest
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.transactions import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    EndTxnRequest,
    InitProducerIdRequest,
)
from kafka_wire.records import build_batch, headers
from kbroker.cluster.changes.features import INITIAL, TRANSACTION, UpgradeType
from kbroker.testing.client import BareClient

READ_COMMITTED = 1
NEW, OLD = 12, 11  # Produce versions: partitions are added by being written to, or beforehand


async def set_transaction_version(client: BareClient, level: int) -> None:
    """Finalize transaction.version: a new cluster is at 2."""
    kind = UpgradeType.UPGRADE if level == INITIAL[TRANSACTION] else UpgradeType.SAFE_DOWNGRADE
    update = FeatureUpdateKey(feature=TRANSACTION, max_version_level=level, upgrade_type=kind)
    assert (await client.call(UpdateFeaturesRequest(feature_updates=[update]), 2)).error_code == 0


class Producer:
    """One transactional id at one broker; sequences are counted for each partition."""

    def __init__(self, client: BareClient, name: str = "tx") -> None:
        self.client = client
        self.name = name
        self.id, self.epoch = -1, -1
        self.sequences: dict[tuple[str, int], int] = {}

    async def init(self) -> Producer:
        """Have the coordinator's topic, an id and an epoch."""
        found = await self.client.call(FindCoordinatorRequest(key=self.name, key_type=1), 3)
        assert found.error_code == 0
        request = InitProducerIdRequest(transactional_id=self.name, transaction_timeout_ms=60_000)
        answer = await self.client.call(request, 4)
        assert answer.error_code == 0
        self.id, self.epoch = answer.producer_id, answer.producer_epoch
        self.sequences.clear()
        return self

    async def add(self, *partitions: int, topic: str = "t") -> list[int]:
        """AddPartitionsToTxn; the codes."""
        answer = await self.client.call(
            AddPartitionsToTxnRequest(
                v3_and_below_transactional_id=self.name,
                v3_and_below_producer_id=self.id,
                v3_and_below_producer_epoch=self.epoch,
                v3_and_below_topics=[AddPartitionsToTxnTopic(name=topic, partitions=list(partitions))],
            ),
            3,
        )
        return [row.partition_error_code for each in answer.results_by_topic_v3_and_below
                for row in each.results_by_partition]  # fmt: skip

    def batch(self, topic: str = "t", index: int = 0, **changed: Any) -> bytearray:
        """The next batch of a partition."""
        sequence = self.sequences.get((topic, index), 0)
        self.sequences[topic, index] = sequence + 1
        options = {"producer_id": self.id, "producer_epoch": self.epoch, "base_sequence": sequence, **changed}
        return build_batch([(0, b"k", b"v")], transactional=True, **options)

    def request(self, *places: tuple[str, int], **changed: Any) -> ProduceRequest:
        """A batch for each partition; batches of a topic lie together."""
        topics: dict[str, list[PartitionProduceData]] = {}
        for topic, index in places:
            data = PartitionProduceData(index=index, records=self.batch(topic, index, **changed))
            topics.setdefault(topic, []).append(data)
        return ProduceRequest(
            acks=-1,
            timeout_ms=1000,
            transactional_id=self.name,
            topic_data=[TopicProduceData(name=name, partition_data=data) for name, data in topics.items()],
        )

    async def produce(
        self, topic: str = "t", index: int = 0, *, version: int = OLD, **changed: Any
    ) -> PartitionProduceResponse:
        """Write one batch."""
        answer = await self.client.call(self.request((topic, index), **changed), version)
        row: PartitionProduceResponse = answer.responses[0].partition_responses[0]
        return row

    def ending(self, *, commit: bool) -> EndTxnRequest:
        """The request for that."""
        return EndTxnRequest(
            transactional_id=self.name, producer_id=self.id, producer_epoch=self.epoch, committed=commit
        )

    async def end(self, *, commit: bool = True, version: int = 3) -> int:
        """Commit or abort; the code. From version 5 on the producer goes on with a new epoch."""
        answer = await self.client.call(self.ending(commit=commit), version)
        if version >= 5 and not answer.error_code:
            self.id, self.epoch = answer.producer_id, answer.producer_epoch
            self.sequences.clear()
        code: int = answer.error_code
        return code


async def committed(client: BareClient, topic: str = "t", index: int = 0) -> list[int]:
    """Offsets of the data batches that a reader of committed records is given, aborted ones among them."""
    partition = FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=1 << 20)
    request = FetchRequest(
        max_wait_ms=0,
        min_bytes=0,
        max_bytes=1 << 20,
        isolation_level=READ_COMMITTED,
        topics=[FetchTopic(topic=topic, partitions=[partition])],
    )
    found = (await client.call(request, 11)).responses[0].partitions[0]
    assert found.error_code == 0
    return [header.base_offset for _, header in headers(found.records or b"") if not header.attributes & 0x20]
