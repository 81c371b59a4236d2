"""The clients of a cluster: they find who leads a partition, as real ones do, and go there.

Writer        idempotent, acks=-1; three batches in flight, everything again after any doubt
HastyWriter   acks=1 or acks=0, never again: what it was acknowledged may go with the leader
Reader        follows the leaders, or reads from who is near (KIP-392); what it is told of an epoch never goes back
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_wire.messages.topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from kbroker.testing.client import BareClient
from kbroker.testing.world import World
from tests.simulation.checker import PartitionHistory, Records, Violation, read_batches
from tests.simulation.clients import BROKEN, CALL_SECONDS, Client, Doubt, IdempotentProducer, PlainProducer
from tests.simulation.cluster.history import ClusterChecker
from tests.simulation.cluster.nodes import PORT

METADATA_SECONDS = 1.0
PASSING = (  # errors that a client meets with another try, after it has looked who leads
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.FENCED_LEADER_EPOCH,
    ErrorCode.UNKNOWN_LEADER_EPOCH,
    ErrorCode.LEADER_NOT_AVAILABLE,
    ErrorCode.REPLICA_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode.OFFSET_NOT_AVAILABLE,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,  # a broker that has not heard of it yet
    ErrorCode.UNKNOWN_TOPIC_ID,
    ErrorCode.NETWORK_EXCEPTION,
    ErrorCode.BROKER_NOT_AVAILABLE,
)
FOREIGN = (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH)


class Routed(Client):
    """A client of several brokers: one connection to each, made when needed; metadata from whoever answers."""

    checker: ClusterChecker

    def __init__(self, world: World, name: str, checker: ClusterChecker, hosts: Sequence[str], **options: Any) -> None:
        """hosts: of the brokers, all of them."""
        super().__init__(world, name, checker, **options)
        self.hosts = list(hosts)
        self.is_naive = False  # knows no leader epochs (KIP-320), and often just asks anybody
        self.misled = ""  # the only host that it has heard of
        self.leaders: dict[str, str] = {}  # partition -> host
        self.near: dict[str, str] = {}  # partition -> the host that its leader has named to read from
        self.epochs: dict[str, int] = {}  # partition -> the newest leader epoch that was told
        self._topic_ids: dict[str, bytes] = {}  # topic -> the id of which the epochs are
        self._connections: dict[str, BareClient] = {}

    async def call_all(
        self, requests: list[Any], version: int, seconds: float = CALL_SECONDS, *, about: PartitionHistory | None = None
    ) -> list[Any]:
        """Send requests one after the other, then await all answers. Doubt when one is missing."""
        host = self.misled or self.random.choice(self.hosts)
        if self.misled:
            pass
        elif about is not None and (not self.is_naive or self.random.random() < 0.7):
            host = self.leaders.get(str(about)) or await self.look_up(about)
        return await self.call_at(host, requests, version, seconds)

    async def call_at(self, host: str, requests: list[Any], version: int, seconds: float = CALL_SECONDS) -> list[Any]:
        """The same of a certain broker. Doubt makes the client forget who leads."""
        answers: list[Any] = []
        with trio.move_on_after(seconds):
            try:
                if host not in self._connections:
                    self._connections[host] = BareClient(await self.env.net.connect(host, PORT), self.name)
                connection = self._connections[host]
                keys = [await connection.send(request, version) for request in requests]
                for key in keys:
                    answers.append(await connection.receive(ApiKey(key), version))
                return answers
            except BROKEN:
                pass
        await self._hang_up_on(host)
        raise Doubt

    async def look_up(self, about: PartitionHistory) -> str:
        """Who leads, by the metadata of any broker. Doubt when nobody knows."""
        topics = [MetadataRequestTopic(name=about.topic)]
        host = self.random.choice(self.hosts)
        answer = (await self.call_at(host, [MetadataRequest(topics=topics)], 12, METADATA_SECONDS))[0]
        hosts = {broker.node_id: broker.host for broker in answer.brokers}
        for topic in answer.topics:
            for partition in topic.partitions:
                name = f"{topic.name}-{partition.partition_index}"
                if self._topic_ids.setdefault(topic.name, topic.topic_id) != topic.topic_id:
                    self._topic_ids[topic.name] = topic.topic_id
                    self.epochs.pop(name, None)
                if partition.leader_epoch < self.epochs.get(name, -1) and not self.is_naive:
                    continue  # of the past
                self.epochs[name] = partition.leader_epoch
                if partition.leader_id in hosts:
                    self.leaders[name] = hosts[partition.leader_id]
        if str(about) not in self.leaders:
            await trio.sleep(0.05)
            raise Doubt
        return self.leaders[str(about)]

    async def hang_up(self) -> None:
        """Close all connections."""
        for host in list(self._connections):
            await self._hang_up_on(host)

    async def _hang_up_on(self, host: str) -> None:
        for known in (self.leaders, self.near):
            for name in [name for name, place in known.items() if place == host]:
                del known[name]
        connection = self._connections.pop(host, None)
        if connection is not None:
            await connection.stream.aclose()

    def expect(self, history: PartitionHistory, code: int) -> None:
        """Only errors that pass are expected, and of the disk only if it had any. Look anew who leads."""
        self.leaders.pop(str(history), None)
        is_false = code == ErrorCode.KAFKA_STORAGE_ERROR and self.checker.disk_is_sound
        if code not in PASSING or is_false:
            raise history.broken(f"{self.name} was answered {ErrorCode(code)!r}")


class Writer(Routed, IdempotentProducer):
    """Idempotent, acks=-1: what is acknowledged stays, once, in order, whatever happens within the fault budget."""


class HastyWriter(Routed, PlainProducer):
    """acks=1 or 0, so that leaders have what their followers have not."""

    def take_promise(self, history: PartitionHistory, base_offset: int, values: list[bytes], losses: int) -> None:
        """The leader has them; more was not asked for."""


class Reader(Routed):
    """Reads some partitions where they are led, from positions it keeps. rack: where it would rather read from."""

    def __init__(self, *args: Any, sessions: bool = False, rack: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.sessions = sessions
        self.rack = rack
        self.positions = dict.fromkeys(self.histories, 0)
        self.watermarks: dict[tuple[str, int, str], int] = {}  # (partition, leader epoch, host) -> the last told
        self._sessions: dict[str, tuple[int, int]] = {}  # host -> session id and epoch

    async def run(self) -> None:
        """Read until told to finish, then until everything known by then has been read."""
        while not self.finishing or any(self.positions[n] < h.floor for n, h in self.histories.items()):
            await self.rest()
            try:
                await self.read()
            except Doubt:
                self._sessions.clear()

    async def read(self, into: dict[str, Records] | None = None) -> None:
        """One fetch from one broker, of what it leads as far as is known. into: by partition, what was read."""
        for history in self.histories.values():
            if str(history) not in self.leaders:
                await self.look_up(history)
        places = {**self.leaders, **self.near}
        host = self.random.choice(sorted(set(places.values())))
        names = [name for name in self.histories if places.get(name) == host]
        positions = {name: self.positions[name] for name in names}
        epochs = {name: self.epochs[name] for name in names}
        response = (await self.call_at(host, [self._request(host, positions)], 12))[0]
        if response.error_code:
            if response.error_code not in FOREIGN:
                raise Violation(f"{self.name}: a fetch was answered {ErrorCode(response.error_code)!r}")
            self._sessions.pop(host, None)
            return
        if self.sessions and response.session_id:
            self._sessions[host] = response.session_id, self._sessions.get(host, (0, 0))[1] + 1
        for topic in response.responses:
            for answer in topic.partitions:
                name = f"{topic.topic}-{answer.partition_index}"
                if name in positions:  # else of a session that knows more
                    self._take(host, self.histories[name], answer, positions[name], epochs[name], into)

    def _request(self, host: str, positions: dict[str, int]) -> FetchRequest:
        topics: dict[str, list[FetchPartition]] = {}
        for name, position in positions.items():
            history = self.histories[name]
            topics.setdefault(history.topic, []).append(
                FetchPartition(
                    partition=history.index,
                    fetch_offset=position,
                    partition_max_bytes=self.random.choice([1, 500, 1 << 20]),
                    current_leader_epoch=self.epochs[name],
                )
            )
        session_id, session_epoch = self._sessions.get(host, (0, 0 if self.sessions else -1))
        return FetchRequest(
            max_wait_ms=self.random.choice([0, 300]),
            min_bytes=1,
            max_bytes=self.random.choice([2000, 1 << 20]),
            isolation_level=self.random.choice([0, 1]),
            session_id=session_id,
            session_epoch=session_epoch,
            rack_id=self.rack,
            topics=[FetchTopic(topic=topic, partitions=partitions) for topic, partitions in topics.items()],
        )

    def _take(
        self,
        host: str,
        history: PartitionHistory,
        answer: Any,
        position: int,
        epoch: int,
        into: dict[str, Records] | None,
    ) -> None:
        name = str(history)
        is_follower = self.near.get(name) == host
        if answer.error_code:
            self.near.pop(name, None)
            if not (is_follower and answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE):  # a follower may be behind
                self.expect(history, answer.error_code)
            return
        if answer.preferred_read_replica >= 0:
            self.near[name] = f"b{answer.preferred_read_replica}"
        elif name in self.near and self.random.random() < 0.02:  # as consumers do when they renew their metadata
            del self.near[name]
        told = self.watermarks.get((name, epoch, host), 0)
        if answer.high_watermark < told and not is_follower:  # a follower that starts again may forget it
            what = f"{self.name} was told the high watermark {answer.high_watermark} after {told}"
            raise history.broken(f"{what}, both in leader epoch {epoch} (R1)")
        self.watermarks[name, epoch, host] = answer.high_watermark
        records = read_batches(bytes(answer.records), position)
        self.checker.reads += len(records)
        history.read(position, records, answer.high_watermark, max(answer.log_start_offset, 0), (0, 0, 0))
        if records:
            self.positions[name] = records[-1][0] + 1
            if into is not None:
                into[name] += records


class Judge(Reader):
    """Reads everything there is, when all has healed."""

    async def judge(self) -> None:
        """Raises Violation unless what is committed is what is read."""
        found: dict[str, Records] = {name: [] for name in self.histories}
        while any(self.positions[name] < history.floor for name, history in self.histories.items()):
            try:
                await self.read(found)
            except Doubt:
                await self.rest()
        for name, history in self.histories.items():
            history.complete(0, found[name])


async def create_topics(client: Client, topics: dict[str, int], configs: dict[str, str]) -> dict[str, bytes]:
    """Create topics, however often it takes; their ids."""
    wanted = [
        CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=-1,
            assignments=[],
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in configs.items()],
        )
        for name, partitions in topics.items()
    ]
    ids: dict[str, bytes] = {}
    while len(ids) < len(topics):
        try:
            response = await client.call(CreateTopicsRequest(topics=wanted, timeout_ms=5000), 7, 8.0)
            answer = await client.call(MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in topics]), 12)
        except Doubt:
            await trio.sleep(0.1)
            continue
        codes = {topic.error_code for topic in response.topics}
        assert codes <= {ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS, ErrorCode.REQUEST_TIMED_OUT}, response
        ids = {topic.name: topic.topic_id for topic in answer.topics if topic.error_code == ErrorCode.NONE}
    return ids
