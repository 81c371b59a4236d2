"""A client of a whole cluster: each request goes to the broker that is to answer it, again and again while it cannot.

async with anywhere(cluster) as client:
    producer = await Producer(client).init()      # as if one broker were all of them
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import FindCoordinatorRequest
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.produce_fetch import FetchRequest, ProduceRequest
from kafka_wire.schema import layout
from kbroker.testing.broker import MemoryCluster
from kbroker.testing.client import BareClient

PATIENCE_S = 60.0
PAUSE_S = 0.1
GROUP, TRANSACTION = 0, 1
AGAIN = {
    ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.LEADER_NOT_AVAILABLE, ErrorCode.CONCURRENT_TRANSACTIONS,
    ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
}  # fmt: skip


class Anywhere:
    """One connection to each broker, made when needed."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster
        self.refusals: list[ErrorCode] = []  # after which it was asked again
        self._connections: dict[int, tuple[BareClient, AsyncExitStack]] = {}

    async def call(self, request: Any, version: int) -> Any:
        """The answer of the right broker, once it has one."""
        with trio.fail_after(PATIENCE_S):
            while True:
                broker_id = await self._whom(request)
                if broker_id is not None:
                    answer = await self.ask(broker_id, request, version)
                    refusals = AGAIN & set(codes_in(answer)) if answer is not None else ()
                    self.refusals += refusals
                    if answer is not None and not refusals:
                        return answer
                await trio.sleep(PAUSE_S)

    async def ask(self, broker_id: int, request: Any, version: int) -> Any:
        """What one broker answers; None if it breaks off, or is not there."""
        try:
            if broker_id not in self._connections:
                stack = AsyncExitStack()
                client = await stack.enter_async_context(self.cluster.client(broker_id))
                self._connections[broker_id] = client, stack
            return await self._connections[broker_id][0].call(request, version)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            if broker_id in self._connections:
                await self._connections.pop(broker_id)[1].aclose()
            return None

    async def leader(self, topic: str, index: int) -> int | None:
        """Who leads a partition."""
        request = MetadataRequest(topics=[MetadataRequestTopic(name=topic)], allow_auto_topic_creation=False)
        answer = await self.ask(next(iter(self.cluster.brokers)), request, 12)
        found = {row.partition_index: row.leader_id for row in answer.topics[0].partitions} if answer else {}
        return found[index] if found.get(index, -1) >= 0 else None

    async def coordinator(self, key: str, key_type: int) -> int | None:
        """Who coordinates a group or a transactional id."""
        request = FindCoordinatorRequest(key_type=key_type, coordinator_keys=[key])
        answer = await self.ask(next(iter(self.cluster.brokers)), request, 4)
        return answer.coordinators[0].node_id if answer and not answer.coordinators[0].error_code else None

    async def _whom(self, request: Any) -> int | None:
        if isinstance(request, ProduceRequest):
            topic = request.topic_data[0]
            return await self.leader(topic.name, topic.partition_data[0].index)
        if isinstance(request, FetchRequest):
            return await self.leader(request.topics[0].topic, request.topics[0].partitions[0].partition)
        if getattr(request, "group_id", "") and not type(request).__name__.startswith("AddOffsets"):
            return await self.coordinator(request.group_id, GROUP)
        name = getattr(request, "transactional_id", "") or getattr(request, "v3_and_below_transactional_id", "")
        return await self.coordinator(name, TRANSACTION) if name else next(iter(self.cluster.brokers))

    async def close(self) -> None:
        """Hang up."""
        for _, stack in self._connections.values():
            await stack.aclose()


@asynccontextmanager
async def anywhere(cluster: MemoryCluster) -> AsyncIterator[Any]:
    """A client of the cluster; used in place of a BareClient, of which it has `call`."""
    client = Anywhere(cluster)
    try:
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.close()


def codes_in(message: Any) -> Iterator[ErrorCode]:
    """Every error code in an answer."""
    for each in layout(type(message)).fields:
        value = getattr(message, each.name)
        if each.name.endswith("error_code"):
            yield ErrorCode(value)
        elif isinstance(value, list) and value and hasattr(type(value[0]), "__wire__"):
            for item in value:
                yield from codes_in(item)
