"""Clients made for one broker, in a cluster: each request goes where it has to go, and they need not know.

Produce                                     to who leads the partition
Fetch                                       of several partitions: to one of their leaders, for what that leads
InitProducerId, AddPartitionsToTxn, ...     to the transaction's coordinator
JoinGroup, OffsetFetch, TxnOffsetCommit ... to the group's
all else                                    to any broker
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import OffsetCommitRequest, OffsetFetchRequest
from kafka_wire.messages.groups import (
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)
from kafka_wire.messages.produce_fetch import FetchRequest, FetchTopic, ProduceRequest
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)
from kbroker.testing.scheduler import replaced
from tests.simulation.checker import PartitionHistory
from tests.simulation.clients import CALL_SECONDS, Client, Doubt
from tests.simulation.cluster.clients import PASSING, Routed
from tests.simulation.cluster.history import ClusterChecker

GROUP, TRANSACTION = 0, 1  # types of coordinators
OF_TRANSACTIONS = (InitProducerIdRequest, AddOffsetsToTxnRequest, EndTxnRequest)
OF_GROUPS = (
    JoinGroupRequest, SyncGroupRequest, HeartbeatRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    TxnOffsetCommitRequest,
)  # fmt: skip
STALE = (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE)
RENEWAL = 0.1  # how often a client asks anew who leads, though nothing has gone wrong


class Place(NamedTuple):
    """A partition, as far as its leader is to be found."""

    topic: str
    index: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.index}"


class Guide:
    """Brings the requests of one client where they have to go."""

    def __init__(self, client: Client, hosts: Sequence[str]) -> None:
        assert isinstance(client.checker, ClusterChecker)
        self.random = client.random
        self.routed = Routed(client.world, client.name, client.checker, hosts)
        self._coordinators: dict[tuple[int, str], str] = {}

    async def call_all(self, requests: list[Any], version: int, seconds: float) -> list[Any]:
        """Send each where it has to go, and await all answers. Raises Doubt."""
        if self.random.random() < RENEWAL:
            self.routed.leaders.clear()
            self._coordinators.clear()
        by_host: dict[str, list[tuple[int, Any]]] = {}
        for number, request in enumerate(requests):
            host, asked = await self._way_of(request)
            by_host.setdefault(host, []).append((number, asked))
        answers: dict[int, Any] = {}
        for host, asked in by_host.items():
            try:
                found = await self.routed.call_at(host, [request for _, request in asked], version, seconds)
            except Doubt:
                self._coordinators.clear()
                raise
            answers.update(zip((number for number, _ in asked), found, strict=True))
        if any(getattr(answer, "error_code", 0) in STALE for answer in answers.values()):
            self._coordinators.clear()
        return [answers[number] for number in range(len(requests))]

    def host_of(self, name: str) -> str:
        """Who leads a partition, as far as is known."""
        return self.routed.leaders.get(name) or self.random.choice(self.routed.hosts)

    async def _way_of(self, request: Any) -> tuple[str, Any]:
        """To which host, and what of the request."""
        if isinstance(request, ProduceRequest):
            topic = request.topic_data[0]
            return await self._leader(Place(topic.name, topic.partition_data[0].index)), request
        if isinstance(request, FetchRequest):
            return await self._fetch(request)
        if isinstance(request, AddPartitionsToTxnRequest):
            return await self._coordinator(TRANSACTION, request.v3_and_below_transactional_id), request
        if isinstance(request, OF_TRANSACTIONS) and request.transactional_id is not None:
            return await self._coordinator(TRANSACTION, request.transactional_id), request
        if isinstance(request, OF_GROUPS):
            return await self._coordinator(GROUP, request.group_id), request
        return self.random.choice(self.routed.hosts), request

    async def _leader(self, place: Place) -> str:
        return self.routed.leaders.get(str(place)) or await self.routed.look_up(place)

    async def _fetch(self, request: FetchRequest) -> tuple[str, Any]:
        """Without a session, and only what one broker leads."""
        leaders = {
            (topic.topic, partition.partition): await self._leader(Place(topic.topic, partition.partition))
            for topic in request.topics
            for partition in topic.partitions
        }
        host = self.random.choice(sorted(set(leaders.values())))
        topics = []
        for topic in request.topics:
            led = [each for each in topic.partitions if leaders[topic.topic, each.partition] == host]
            if led:
                topics.append(FetchTopic(topic=topic.topic, partitions=led))
        asked = FetchRequest(
            max_wait_ms=request.max_wait_ms,
            min_bytes=request.min_bytes,
            max_bytes=request.max_bytes,
            isolation_level=request.isolation_level,
            session_id=0,
            session_epoch=-1,
            topics=topics,
        )
        return host, asked

    async def _coordinator(self, kind: int, key: str) -> str:
        """Raises Doubt when nobody knows."""
        if (kind, key) not in self._coordinators:
            host = self.random.choice(self.routed.hosts)
            request = FindCoordinatorRequest(key_type=kind, coordinator_keys=[key])
            found = (await self.routed.call_at(host, [request], 4))[0].coordinators[0]
            if found.error_code:
                await trio.sleep(0.05)
                raise Doubt
            self._coordinators[kind, key] = found.host
        return self._coordinators[kind, key]


@contextmanager
def routing(hosts: Sequence[str]) -> Iterator[None]:
    """While the block runs, every client finds its way among these brokers."""
    guides: dict[Client, Guide] = {}

    def guide(client: Client) -> Guide:
        if client not in guides:
            guides[client] = Guide(client, hosts)
        return guides[client]

    async def call_all(
        self: Client,
        requests: list[Any],
        version: int,
        seconds: float = CALL_SECONDS,
        *,
        about: PartitionHistory | None = None,
    ) -> list[Any]:
        return await guide(self).call_all(requests, version, seconds)

    async def hang_up(self: Client) -> None:
        await guide(self).routed.hang_up()

    def expect(self: Client, history: PartitionHistory, code: int) -> None:
        guide(self).routed.leaders.pop(str(history), None)
        is_false = code == ErrorCode.KAFKA_STORAGE_ERROR and self.checker.disk_is_sound
        if code not in PASSING or is_false:
            raise history.broken(f"{self.name} was answered {ErrorCode(code)!r}")

    def host_of(self: Client, history: PartitionHistory) -> str:
        return guide(self).host_of(str(history))

    with ExitStack() as stack:
        for method in (call_all, hang_up, expect, host_of):
            stack.enter_context(replaced(Client, method.__name__, method))
        yield
