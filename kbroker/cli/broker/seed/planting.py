"""Writes the records of a seed into topics that are there, as a client does, before the broker says that it is ready.

Only into a partition that nobody has ever written to: so the next start finds it done. A start that was killed amid
a partition of several batches goes on behind those that are there. An earlier record of somebody else's keeps the seed
out of that partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import count

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.produce_fetch import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_wire.records import build_batch
from kbroker.cli.broker.seed.wishes import Record, Wish
from kbroker.cli.topics.partitions import no_partition
from kbroker.env import Clock, Net
from kbroker.server.identity import StartFailed
from kbroker.testing.client import BareClient, connect

METADATA, LIST_OFFSETS, PRODUCE = 9, 5, 9  # versions
LATEST, ALL_IN_SYNC = -1, -1
DEADLINE_S, AGAIN_S, PRODUCE_TIMEOUT_MS = 60.0, 0.05, 30_000
BATCH_BYTES = 512 << 10  # of keys and values, about
_NOT_YET = (
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode.LEADER_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.OFFSET_NOT_AVAILABLE,
)  # nothing was written


async def plant(wishes: Sequence[Wish], net: Net, clock: Clock, host: str, port: int) -> int:
    """Write what is missing; how many records that were. host, port: of a broker. Raises StartFailed."""
    wanted = [wish for wish in wishes if wish.records]
    if not wanted:
        return 0
    written = 0
    with trio.move_on_after(DEADLINE_S) as scope:
        async with AsyncExitStack() as stack:
            cluster = _Cluster(net, clock, stack)
            leaders = await cluster.find([wish.name for wish in wanted], await cluster.client(host, port))
            for wish in wanted:
                written += await _plant(wish, cluster, leaders[wish.name])
    if scope.cancelled_caught:
        raise StartFailed(f"the records of --seed were not written within {DEADLINE_S:g} s")
    return written


class _Cluster:
    """Connections to brokers, each made when it is needed."""

    def __init__(self, net: Net, clock: Clock, stack: AsyncExitStack) -> None:
        self.clock = clock
        self._net, self._stack = net, stack
        self._clients: dict[tuple[str, int], BareClient] = {}

    async def client(self, host: str, port: int) -> BareClient:
        """A connection to that broker."""
        if (host, port) not in self._clients:
            connected = connect(self._net, host, port, "kbroker-seed")
            self._clients[host, port] = await self._stack.enter_async_context(connected)
        return self._clients[host, port]

    async def find(self, names: Sequence[str], client: BareClient) -> dict[str, dict[int, BareClient]]:
        """A connection to the leader of each partition of these topics, once all have one."""
        request = MetadataRequest(
            topics=[MetadataRequestTopic(name=name) for name in names], allow_auto_topic_creation=False
        )
        while True:
            told = await client.call(request, METADATA)
            brokers = {each.node_id: (each.host, each.port) for each in told.brokers}
            leaders = {each.name: {p.partition_index: p.leader_id for p in each.partitions} for each in told.topics}
            if all(leaders[name] and brokers.keys() >= set(leaders[name].values()) for name in names):
                return {
                    name: {index: await self.client(*brokers[node]) for index, node in sorted(leaders[name].items())}
                    for name in names
                }
            await self.clock.sleep(AGAIN_S)


async def _plant(wish: Wish, cluster: _Cluster, leaders: Mapping[int, BareClient]) -> int:
    written = 0
    for partition, records in _divided(wish, len(leaders)).items():
        client = leaders[partition]
        there = await _end(wish.name, partition, client, cluster.clock)
        for first, batch in _batches(records):
            if first == there:
                await _append(wish.name, partition, batch, client, cluster.clock)
                there += len(batch)
                written += len(batch)
    return written


def _divided(wish: Wish, partitions: int) -> dict[int, list[Record]]:
    """Records by partition: the one they name, that of their key as Kafka's clients choose it, else in turn."""
    divided: dict[int, list[Record]] = {}
    turn = count()
    for record in wish.records:
        if record.partition is not None:
            index = record.partition
        elif record.key is not None:
            index = (murmur2(record.key) & 0x7FFFFFFF) % partitions
        else:
            index = next(turn) % partitions
        if index >= partitions:
            raise StartFailed(f"--seed: {no_partition(wish.name, index, range(partitions))}")
        divided.setdefault(index, []).append(record)
    return divided


def _batches(records: Sequence[Record]) -> Iterator[tuple[int, Sequence[Record]]]:
    """What goes into one request each, with how many are before it."""
    first = size = 0
    for index, record in enumerate(records):
        more = len(record.key or b"") + len(record.value or b"") + 64
        if size and size + more > BATCH_BYTES:
            yield first, records[first:index]
            first, size = index, 0
        size += more
    yield first, records[first:]


async def _end(topic: str, partition: int, client: BareClient, clock: Clock) -> int:
    asked = ListOffsetsTopic(name=topic, partitions=[ListOffsetsPartition(partition_index=partition, timestamp=LATEST)])
    request = ListOffsetsRequest(replica_id=-1, topics=[asked])
    while True:
        told = (await client.call(request, LIST_OFFSETS)).topics[0].partitions[0]
        if _is_done(told.error_code, f"{topic} {partition}", None):
            return int(told.offset)
        await clock.sleep(AGAIN_S)


async def _append(topic: str, partition: int, records: Sequence[Record], client: BareClient, clock: Clock) -> None:
    now_ms = clock.data_ms()
    batch = build_batch(
        [(now_ms if each.timestamp is None else each.timestamp, each.key, each.value, each.headers) for each in records]
    )
    data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)])
    request = ProduceRequest(acks=ALL_IN_SYNC, timeout_ms=PRODUCE_TIMEOUT_MS, topic_data=[data])
    while True:
        told = (await client.call(request, PRODUCE)).responses[0].partition_responses[0]
        if _is_done(told.error_code, f"{topic} {partition}", told.error_message):
            return
        await clock.sleep(AGAIN_S)


def _is_done(code: int, place: str, message: str | None) -> bool:
    """False: it is to be asked again. Raises StartFailed for what does not pass."""
    if code and code not in _NOT_YET:
        error = ErrorCode(code)
        raise StartFailed(f"--seed: {place}: {error.name}: {message or error.text}")
    return not code


def murmur2(data: bytes) -> int:
    """The hash by which Kafka's clients choose the partition of a key (org.apache.kafka.common.utils.Utils.murmur2)."""
    mixed, whole = 0x9747B28C ^ len(data), len(data) & ~3
    for start in range(0, whole, 4):
        mixed = _times(mixed) ^ _mixed(int.from_bytes(data[start : start + 4], "little"))
    if whole < len(data):
        mixed = _times(mixed ^ int.from_bytes(data[whole:], "little"))
    mixed = _times(mixed ^ mixed >> 13)
    return mixed ^ mixed >> 15


def _mixed(word: int) -> int:
    word = _times(word)
    return _times(word ^ word >> 24)


def _times(word: int) -> int:
    return word * 0x5BD1E995 & 0xFFFFFFFF
