"""kill -9 of a real broker under load: what was acknowledged is there once and in order, and recovery is short."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from pytest import MonkeyPatch

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.transactions import InitProducerIdRequest
from kafka_wire.records import build_batch, headers, read_records
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.log import segment
from kbroker.log.derived import snapshots
from kbroker.server.broker import run_broker
from kbroker.testing.client import BareClient, connect
from kbroker.testing.clock import EPOCH_MS
from kbroker.testing.disk import MemoryFile
from kbroker.testing.world import World, simulate
from tests.server.process import BrokerProcess

KILLS = 20
PRODUCERS = 4
PARTITIONS = 2
IN_FLIGHT = 4
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, OSError)
NOT_NOW = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.REQUEST_TIMED_OUT)
MEGABYTE = 1024 * 1024


class Producer:
    """An idempotent producer to one partition: several batches in flight, all sent again when the connection breaks."""

    def __init__(self, name: str, broker: BrokerProcess, partition: int) -> None:
        self.name = name
        self.broker = broker
        self.partition = partition
        self.acked: dict[int, bytes] = {}  # offset -> value
        self.producer_id = -1
        self.sequence = 0
        self.queue: list[tuple[list[bytes], bytes]] = []

    async def run(self) -> None:
        """Produce until cancelled."""
        net = RealNet(Features.detect())
        while True:
            try:
                async with connect(net, self.broker.host, self.broker.port, self.name) as client:
                    await self._produce(client)
            except BROKEN:
                await trio.sleep(0.02)  # until somebody listens again

    async def _produce(self, client: BareClient) -> None:
        if self.producer_id < 0:
            request = InitProducerIdRequest(
                transactional_id=None, transaction_timeout_ms=0, producer_id=-1, producer_epoch=-1
            )
            self.producer_id = (await client.call(request, 4)).producer_id
        while True:
            while len(self.queue) < IN_FLIGHT:
                self._fill()
            waiting = [values for values, _ in self.queue]
            for _, data in self.queue:
                await client.send(self._request(data), 9)
            for values in waiting:
                answer = (await client.receive(ApiKey.PRODUCE, 9)).responses[0].partition_responses[0]
                if answer.error_code in NOT_NOW:
                    raise trio.BrokenResourceError
                assert answer.error_code == ErrorCode.NONE, f"{self.name}: {ErrorCode(answer.error_code)!r}"
                self.acked.update(enumerate(values, answer.base_offset))
                del self.queue[0]

    def _fill(self) -> None:
        values = [b"%s/%d" % (self.name.encode(), self.sequence + n) for n in range(1 + self.sequence % 3)]
        batch = build_batch(
            [(None, value) for value in values],
            producer_id=self.producer_id,
            producer_epoch=0,
            base_sequence=self.sequence,
        )
        self.queue.append((values, bytes(batch)))
        self.sequence += len(values)

    def _request(self, data: bytes) -> ProduceRequest:
        partitions = [PartitionProduceData(index=self.partition, records=data)]
        return ProduceRequest(
            acks=-1, timeout_ms=5000, topic_data=[TopicProduceData(name="t", partition_data=partitions)]
        )


class Reader:
    """Reads a partition to its end, again and again, going on where it stopped; and once all anew."""

    def __init__(self, broker: BrokerProcess, partition: int) -> None:
        self.broker = broker
        self.partition = partition
        self.values: list[bytes] = []  # by offset
        self.following: dict[bytes, int] = {}  # producer -> the number of its next record

    async def read(self, *, anew: bool = False) -> int:
        """Read to where the end is now: producers go on meanwhile, and may be faster. Returns the first offset read."""
        values = [] if anew else self.values
        start, end = len(values), -1
        async with connect(RealNet(Features.detect()), self.broker.host, self.broker.port) as client:
            while len(values) != end:
                answer = await self._fetch(client, len(values))
                if end < 0:
                    end = answer.high_watermark
                    assert end >= start
                data = bytes(answer.records)
                for at, _ in headers(data):
                    for record in read_records(data, at, max_bytes=MEGABYTE):
                        if len(values) <= record.offset < end:
                            assert record.offset == len(values)
                            values.append(record.value or b"")
        if anew:
            assert values[: len(self.values)] == self.values, "what was read before has changed"
            self.values, self.following = values, {}
        return start

    def check(self, acked: list[dict[int, bytes]], start: int) -> None:
        """Everything acknowledged is there; everything that is there, is there once, and each producer's in order.

        start: what is below was looked at before.
        """
        for known in acked:
            for offset, value in known.items():
                found = self.values[offset]
                assert found == value, f"offset {offset}: acknowledged {value!r}, found {found!r}"
        for offset, value in enumerate(self.values[start:], start):
            name, _, number = value.partition(b"/")
            due = self.following.get(name, 0)
            assert int(number) == due, f"offset {offset}: {value!r} follows {due - 1}"
            self.following[name] = due + 1

    async def _fetch(self, client: BareClient, offset: int) -> Any:
        partition = FetchPartition(partition=self.partition, fetch_offset=offset, partition_max_bytes=MEGABYTE)
        request = FetchRequest(
            max_wait_ms=0, min_bytes=0, max_bytes=MEGABYTE, topics=[FetchTopic(topic="t", partitions=[partition])]
        )
        answer = (await client.call(request, 11)).responses[0].partitions[0]
        assert answer.error_code == ErrorCode.NONE, ErrorCode(answer.error_code)
        return answer


@pytest.mark.slow
async def test_L3_P1_what_is_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(20)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            broker = BrokerProcess(nursery, tmp_path, "--topic", f"t:{PARTITIONS}", "--log-level", "info")
            await broker.start()
            producers = [Producer(f"p{n}", broker, n % PARTITIONS) for n in range(PRODUCERS)]
            readers = [Reader(broker, n) for n in range(PARTITIONS)]
            for producer in producers:
                nursery.start_soon(producer.run)
            for kill in range(KILLS):
                await trio.sleep(chance.uniform(0.02, 0.3))  # the moment of the kill is the test's input
                await broker.kill()
                acked = [dict(producer.acked) for producer in producers]
                await broker.start()
                for reader in readers:
                    start = await reader.read(anew=kill == KILLS - 1)
                    reader.check(acked[reader.partition :: PARTITIONS], start)
            assert min(len(producer.acked) for producer in producers) > KILLS
            nursery.cancel_scope.cancel()


# -- how much is read to recover --------------------------------------------------------------------------------------


@pytest.fixture
def bytes_read() -> Iterator[list[int]]:
    """Grows with every read of a MemoryFile, by what it read."""
    read, pread = [0], MemoryFile.pread

    def counted(self: MemoryFile, length: int, position: int) -> bytes:
        data = pread(self, length, position)
        read[0] += len(data)
        return data

    with MonkeyPatch.context() as patch:
        patch.setattr(MemoryFile, "pread", counted)
        yield read


def test_L3_recovery_after_a_kill_reads_only_the_tail(monkeypatch: MonkeyPatch, bytes_read: list[int]) -> None:
    """The bounds are scaled down; in production they are 8 MiB to be scanned, 64 MiB whose headers are walked."""
    monkeypatch.setattr(segment, "INDEX_SAVE_BYTES", MEGABYTE // 2)
    monkeypatch.setattr(snapshots, "REPLAY_BYTES_MAX", MEGABYTE)
    monkeypatch.setattr(snapshots, "BATCH_COST", 0)
    config = BrokerConfig().with_values({"listeners": "PLAINTEXT://broker:9092"})
    total = 16 * MEGABYTE

    async def main(world: World) -> None:
        node, store = world.node("broker"), MemoryStore(world.node("store").clock)
        ready = trio.Event()

        async def serve(env: Env) -> None:
            await run_broker(env, config, store=store, topics=[NewTopic("t", 1)], on_ready=lambda _: ready.set())

        node.start(serve)
        await ready.wait()
        async with connect(world.client_env("client").net, "broker", 9092) as client:
            for sequence in range(total // 16_000):
                batch = build_batch(
                    [(EPOCH_MS, None, b"x" * 16_000)], producer_id=1, producer_epoch=0, base_sequence=sequence
                )
                data = [TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=batch)])]
                await client.call(ProduceRequest(acks=1, timeout_ms=1000, topic_data=data), 9)
        node.kill()
        bytes_read[0] = 0
        ready = trio.Event()
        node.start(serve)
        await ready.wait()
        assert bytes_read[0] < total // 4, f"read {bytes_read[0]} of {total} bytes"

    simulate(1, main)
