"""A whole broker in the simulated world: clients that keep a record of what they were told, and a nemesis.

    trace = simulate(7, single_broker)        # raises Violation when the broker broke a promise

    topic     partitions
    durable   2     flush.messages=1: what is acknowledged survives a power failure
    cached    2     Kafka's defaults: it survives kill -9
    short     1     small retention: the oldest records go
    temp            created, filled, read and deleted again and again under one name

First faults for some seconds, a random selection of kinds for each seed; then everything heals, and all clients have
to get through. Segments and index intervals are tiny, and the broker's duties run every second or so, so rolls,
flushes, checkpoints, snapshots and retention happen all the time.
"""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_wire.messages.offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kafka_wire.messages.produce_fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_wire.messages.topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    DeleteTopicsRequest,
    DeleteTopicState,
)
from kafka_wire.messages.transactions import InitProducerIdRequest
from kafka_wire.records import build_batch
from kbroker.cluster.memory import MemoryStore
from kbroker.cluster.session import hold
from kbroker.cluster.store import (
    Ambiguous,
    Batch,
    Entry,
    Guard,
    Op,
    Page,
    Session,
    StoreError,
    StoreInfo,
    TxnResult,
    Unavailable,
)
from kbroker.config import BrokerConfig
from kbroker.env import DirectoryLocked, Env
from kbroker.log.errors import LogOffline
from kbroker.server.broker import Ready, run_broker
from kbroker.server.identity import StartFailed
from kbroker.testing.client import BareClient
from kbroker.testing.world import Node, Process, World, current_process
from tests.simulation.checker import (
    NOTHING,
    Checker,
    Image,
    PartitionHistory,
    Violation,
    compare_images,
    durable_ends,
    log_images,
    read_batches,
)

HOST, PORT = "broker", 9092
CONFIG = BrokerConfig().with_values(
    {
        "listeners": f"PLAINTEXT://{HOST}:{PORT}",
        "auto.create.topics.enable": "false",
        "log.retention.check.interval.ms": "1000",
        "log.flush.offset.checkpoint.interval.ms": "1500",
    }
)
SMALL = {"internal.segment.bytes": "2500", "index.interval.bytes": "300", "file.delete.delay.ms": "700"}
TOPICS: dict[str, tuple[int, dict[str, str]]] = {
    "durable": (2, {**SMALL, "flush.messages": "1"}),
    "cached": (2, SMALL),
    "short": (1, {**SMALL, "retention.bytes": "4000", "retention.ms": "60000"}),
}
TEMP = "temp"
FAULT_SECONDS = 12.0
HEAL_SECONDS = 60.0  # by then every client must have got through
CALL_SECONDS = 2.0
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, OSError)
RETRIABLE = (
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.FENCED_LEADER_EPOCH,
    ErrorCode.UNKNOWN_LEADER_EPOCH,
)


class Doubt(Exception):
    """No answer: the request was carried out, or will be, or not."""


# -- the coordination store, which outlives the broker ----------------------------------------------------------------


class FencedStore:
    """One process's way to the store that outlives it: with latency, lost requests, lost replies; gone with it."""

    def __init__(self, store: MemoryStore, process: Process, cluster: Cluster) -> None:
        self._store = store
        self._process = process
        self._cluster = cluster
        self._random = cluster.world.random("store")

    async def _reach(self) -> None:
        await self._process.env.clock.sleep(self._random.expovariate(1000))
        self._process.check()
        if self._random.random() < self._cluster.store_trouble:
            raise Unavailable("the store is out of reach")

    async def get(self, key: bytes) -> Entry | None:
        await self._reach()
        return await self._store.get(key)

    async def range(
        self, prefix: bytes, *, after: bytes = b"", limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        await self._reach()
        return await self._store.range(prefix, after=after, limit=limit, revision=revision, keys_only=keys_only)

    async def txn(self, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
        await self._reach()
        result = await self._store.txn(guards, ops)
        await self._process.env.clock.sleep(self._random.expovariate(1000))
        if self._random.random() < self._cluster.store_trouble:
            raise Ambiguous("the reply is lost")
        return result

    def watch(self, prefix: bytes, from_revision: int) -> AbstractAsyncContextManager[Any]:
        return self._store.watch(prefix, from_revision)

    def session(self, ttl_s: float) -> AbstractAsyncContextManager[Session]:
        return hold(self, self._process.env.clock, ttl_s)

    async def compact(self, before_revision: int) -> None:
        await self._reach()
        await self._store.compact(before_revision)

    async def info(self) -> StoreInfo:
        await self._reach()
        return await self._store.info()

    async def grant(self, ttl_s: float) -> int:
        await self._reach()
        return await self._store.grant(ttl_s)

    async def refresh(self, lease: int) -> bool:
        await self._reach()
        return await self._store.refresh(lease)

    async def revoke(self, lease: int) -> None:
        await self._reach()
        await self._store.revoke(lease)


# -- the broker and its machine ---------------------------------------------------------------------------------------


class Cluster:
    """A node with a broker, started and ended by the nemesis; what its disk held when it ended."""

    def __init__(self, world: World, checker: Checker) -> None:
        self.world = world
        self.checker = checker
        self.node: Node = world.node(HOST)
        self.store = MemoryStore(world.node("store").clock)
        self.store_trouble = 0.0  # how often it fails
        self.disk_trouble = False  # orders to fail, or no space
        self.ready = False
        self._stop = trio.Event()
        self._before: dict[str, Image] = {}
        self._power_lost = False
        self._durable: dict[str, int] = {}

    def start(self) -> None:
        """Start the broker, if it does not run."""
        if not self.node.running:
            self._stop = trio.Event()
            self.node.start(self._serve)

    async def stop(self) -> None:
        """Ask the broker to stop, and wait for it."""
        self._stop.set()
        while self.node.running and not (self.node.process and self.node.process.frozen):
            await trio.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self._note_end()
        self.node.kill()

    def power_loss(self) -> None:
        """Power goes."""
        self._note_end()
        self.node.power_loss()
        self._power_lost = True
        for name, offset in durable_ends(self.node.volume).items():
            self._durable[name] = max(offset, self._durable.get(name, 0))
        for history in self.checker.histories:
            history.power_lost()

    async def _serve(self, env: Env) -> None:
        process = current_process.get()
        assert process is not None
        had_trouble = self.disk_trouble
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, self._stop, nursery.cancel_scope)
                store = FencedStore(self.store, process, self)
                await run_broker(env, CONFIG, store=store, on_ready=self._on_ready)
        except* (OSError, StartFailed, StoreError, DirectoryLocked) as group:
            self.world.trace("broker ended", repr(group.exceptions[0]))
            gone = group.subgroup(StoreError) is not None  # the session may have ended meanwhile
            if self.ready or not (had_trouble or self.disk_trouble or gone):
                raise
        self._note_end()

    def _note_end(self) -> None:
        """Keep what the disk holds as the process ends; of one that never got ready, its predecessor's counts."""
        if self.ready:
            self._before = log_images(self.node.volume)
            self.ready = False

    def _on_ready(self, ready: Ready) -> None:
        """The logs are open, no client has been answered yet: compare with what they were."""
        after = log_images(self.node.volume)
        for history in self.checker.histories:
            name = str(history)
            if history.topic == TEMP:  # several of one name: nothing is demanded of them
                if self._power_lost:
                    history.recovered(0)
                continue
            compare_images(self._before, after, name, power_loss=self._power_lost)
            if self._power_lost:
                end = after.get(name, NOTHING).end
                if self._before.get(name, NOTHING).batches and end < self._durable.get(name, 0):
                    raise history.broken(f"the log ends at {end}, its recovery point was {self._durable[name]}")
                history.recovered(end)
        self._power_lost = False
        self._durable = {}
        self.ready = True
        self.world.trace("ready", sorted((name, image.end) for name, image in after.items()))


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


# -- clients ----------------------------------------------------------------------------------------------------------


class Client:
    """A connection that is made again when it breaks, and the habits all clients share."""

    def __init__(self, world: World, name: str, checker: Checker) -> None:
        self.world = world
        self.name = name
        self.checker = checker
        self.env = world.client_env(name)
        self.random: random.Random = world.random(f"client/{name}")
        self.histories = {str(each): each for each in checker.histories}
        self.finishing = False
        self._client: BareClient | None = None

    async def rest(self) -> None:
        """Pause, as people do."""
        await trio.sleep(self.random.expovariate(12 if self.finishing else 4))

    async def call(self, request: Any, version: int, seconds: float = CALL_SECONDS) -> Any:
        """Ask and be answered, or Doubt."""
        return (await self.call_all([request], version, seconds))[0]

    async def call_all(self, requests: list[Any], version: int, seconds: float = CALL_SECONDS) -> list[Any]:
        """Send requests one after the other, then await all answers. Doubt when one is missing."""
        answers: list[Any] = []
        with trio.move_on_after(seconds):
            try:
                if self._client is None:
                    self._client = BareClient(await self.env.net.connect(HOST, PORT), self.name)
                keys = [await self._client.send(request, version) for request in requests]
                for key in keys:
                    answers.append(await self._client.receive(key, version))
                return answers
            except BROKEN:
                pass
        await self.hang_up()
        raise Doubt

    async def hang_up(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            await client.stream.aclose()

    def new_values(self, topic: str, producer: str, number: int) -> list[bytes]:
        """A few new values for a batch."""
        values = []
        for n in range(number, number + self.random.randint(1, 3)):
            values.append(b"%s/%d/%s" % (producer.encode(), n, b"x" * self.random.randint(0, 150)))
            self.checker.sent[values[-1]] = topic
        return values

    def batch(self, values: list[bytes], **options: Any) -> bytearray:
        """A record batch."""
        timestamp = self.env.clock.data_ms()
        compression = self.random.choice([0, 0, 0, 1, 4])
        return build_batch([(timestamp, None, value) for value in values], compression=compression, **options)

    async def metadata(self, topic: str) -> Any:
        """A topic's metadata; checks what must never go back."""
        response = await self.call(MetadataRequest(topics=[MetadataRequestTopic(name=topic)]), 12)
        found = response.topics[0]
        if found.error_code == ErrorCode.NONE and topic != TEMP:
            self.checker.saw_topic_id(topic, found.topic_id)
            for p in found.partitions:
                self.histories[f"{topic}-{p.partition_index}"].saw_epoch(p.leader_epoch)
        return found

    async def bounds(self, history: PartitionHistory) -> tuple[int, int] | None:
        """Log start and high watermark, or None when they are not to be had now."""
        asked, found = history.promise(), []
        for timestamp in (-2, -1):
            partition = ListOffsetsPartition(partition_index=history.index, timestamp=timestamp)
            topic = ListOffsetsTopic(name=history.topic, partitions=[partition])
            response = await self.call(ListOffsetsRequest(replica_id=-1, topics=[topic]), 7)
            answer = response.topics[0].partitions[0]
            if answer.error_code:
                self.expect(history, answer.error_code)
                return None
            found.append(answer.offset)
        history.saw_bounds(found[0], found[1], asked)
        return found[0], found[1]

    def expect(self, history: PartitionHistory, code: int) -> None:
        """Only errors that pass are expected."""
        if code not in RETRIABLE:
            raise history.broken(f"{self.name} was answered {ErrorCode(code)!r}")


def produce_request(topic: str, index: int, batch: Any, acks: int) -> ProduceRequest:
    """One batch for one partition."""
    data = [TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=index, records=batch)])]
    return ProduceRequest(acks=acks, timeout_ms=1000, topic_data=data)


class Queued:
    """A batch on its way to a partition."""

    def __init__(self, values: list[bytes], data: bytes, losses: int) -> None:
        self.values = values
        self.data = data
        self.losses = losses  # power failures before it was first sent


class Lane:
    """An idempotent producer's way to one partition: batches not yet acknowledged, in order."""

    def __init__(self, history: PartitionHistory) -> None:
        self.history = history
        self.sequence = 0
        self.number = 0
        self.queue: list[Queued] = []
        self.losses = history.losses  # when the producer id was new


class IdempotentProducer(Client):
    """acks=-1; sends up to three batches at once, and all of them again after any doubt."""

    async def run(self) -> None:
        """Produce until told to finish, then until everything is acknowledged."""
        self.producer_id, self.lives = -1, 0
        self.lanes: list[Lane] = []
        while not self.finishing:
            await self.rest()
            await self._turn(self.random.randint(1, 3))
        for lane in self.histories:
            while not await self._turn(1, lane):
                await self.rest()

    async def _turn(self, batches: int, name: str | None = None) -> bool:
        """Send to one partition; whether all of it is acknowledged."""
        try:
            if self.producer_id < 0:
                await self._begin()
            lane = self.random.choice(self.lanes) if name is None else self._lane(name)
            if not lane.queue:
                self._fill(lane, batches)
            requests = [produce_request(lane.history.topic, lane.history.index, each.data, -1) for each in lane.queue]
            answers = await self.call_all(requests, 9)
        except Doubt:
            return False
        for answer in answers:
            if not self._take(lane, answer.responses[0].partition_responses[0]):
                return False
        return True

    def _lane(self, name: str) -> Lane:
        return next(lane for lane in self.lanes if str(lane.history) == name)

    async def _begin(self) -> None:
        response = await self.call(
            InitProducerIdRequest(
                transactional_id=None, transaction_timeout_ms=0, producer_id=-1, producer_epoch=-1
            ),
            4,
        )
        if response.error_code:
            raise Doubt
        self.checker.saw_producer_id(response.producer_id)
        self.producer_id, self.lives = response.producer_id, self.lives + 1
        self.lanes = [Lane(history) for history in self.histories.values()]

    def _fill(self, lane: Lane, batches: int) -> None:
        author = f"{self.name}.{self.lives}.{lane.history}"
        self.checker.ordered.add(author)
        for _ in range(batches):
            values = self.new_values(lane.history.topic, author, lane.number)
            data = self.batch(values, producer_id=self.producer_id, producer_epoch=0, base_sequence=lane.sequence)
            lane.queue.append(Queued(values, bytes(data), lane.history.losses))
            lane.sequence += len(values)
            lane.number += len(values)

    def _take(self, lane: Lane, answer: Any) -> bool:
        """An answer for the oldest batch; whether it is acknowledged."""
        self.world.trace(self.name, str(lane.history), answer.error_code, answer.base_offset)
        history, code = lane.history, answer.error_code
        if code == ErrorCode.NONE:
            batch = lane.queue.pop(0)
            history.acknowledged(answer.base_offset, batch.values, batch.losses)
            self.checker.acks += 1
            return True
        if code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and not history.durable and history.losses != lane.losses:
            self.producer_id = -1  # what it had acknowledged is gone: begin anew, as clients do
        else:
            self.expect(history, code)
        return False


class PlainProducer(Client):
    """acks=1, no second try: what is in doubt stays so."""

    async def run(self) -> None:
        """Produce until told to finish, and then once more to every partition."""
        number = 0
        while not self.finishing:
            await self.rest()
            history = self.random.choice(list(self.histories.values()))
            number += 3
            await self._produce(history, number)
        for history in self.histories.values():
            while not await self._produce(history, number := number + 3):
                await self.rest()

    async def _produce(self, history: PartitionHistory, number: int) -> bool:
        values, losses = self.new_values(history.topic, self.name, number), history.losses
        try:
            response = await self.call(produce_request(history.topic, history.index, self.batch(values), 1), 8)
        except Doubt:
            return False
        answer = response.responses[0].partition_responses[0]
        self.world.trace(self.name, str(history), answer.error_code, answer.base_offset)
        if answer.error_code:
            self.expect(history, answer.error_code)
            return False
        history.acknowledged(answer.base_offset, values, losses)
        self.checker.acks += 1
        return True


class Consumer(Client):
    """Reads every partition from the position it keeps; now and then goes back to one it kept earlier."""

    def __init__(self, world: World, name: str, checker: Checker, *, sessions: bool) -> None:
        super().__init__(world, name, checker)
        self.sessions = sessions
        self.positions = dict.fromkeys(self.histories, 0)
        self.committed = dict(self.positions)
        self.losses = dict.fromkeys(self.histories, 0)
        self.session = (0, 0 if sessions else -1)
        self.epochs: dict[str, int] = {}

    async def run(self, until: dict[str, int] | None = None) -> None:
        """Read until told to finish, then until everything known by then has been read."""
        while not self.finishing or any(self.positions[n] < h.floor for n, h in self.histories.items()):
            await self.rest()
            try:
                if self.random.random() < 0.1:
                    await self._look()
                await self._fetch()
            except Doubt:
                self._forget_session()

    async def read_all(self, history: PartitionHistory) -> None:
        """From the log start to the high watermark, for the final judgement."""
        self.histories = {str(history): history}
        while True:
            try:
                bounds = await self.bounds(history)
                if bounds is None:
                    await self.rest()
                    continue
                start, end = bounds
                self.positions = {str(history): start}
                self.losses = {str(history): history.losses}
                self.read: list[tuple[int, bytes]] = []
                while self.positions[str(history)] < end:
                    self._forget_session()
                    await self._fetch(self.read)
                break
            except Doubt:
                await self.rest()
        if history.shrinks:  # meanwhile retention may have moved it: what was read to the end without a gap counts
            offsets = {offset for offset, _ in self.read}
            start = next(offset for offset in range(end, -1, -1) if offset - 1 not in offsets)
        self.world.trace("complete", str(history), start, self.read)
        history.complete(start, self.read)

    async def _look(self) -> None:
        """Metadata, then from where to read on."""
        for topic in TOPICS:
            found = await self.metadata(topic)
            for p in found.partitions:
                self.epochs[f"{topic}-{p.partition_index}"] = p.leader_epoch
        if self.random.random() < 0.3 and not self.finishing:
            self.positions = dict(self.committed)
        self.committed = dict(self.positions)

    def _forget_session(self) -> None:
        self.session = (0, 0 if self.sessions else -1)

    async def _fetch(self, into: list[tuple[int, bytes]] | None = None) -> None:
        for name, history in self.histories.items():
            if self.losses[name] != history.losses:  # the log may have been cut: a client learns it by leader epochs
                self.losses[name] = history.losses
                self.positions[name] = min(self.positions[name], history.floor)
                self.committed[name] = min(self.committed.get(name, 0), history.floor)
        positions = dict(self.positions)
        asked = {name: history.promise() for name, history in self.histories.items()}
        response = await self.call(self._request(positions), 12)
        if response.error_code:
            if response.error_code not in (
                ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH,
            ):  # fmt: skip
                raise Violation(f"{self.name}: a fetch was answered {ErrorCode(response.error_code)!r}")
            self._forget_session()
            return
        if self.sessions and response.session_id:
            self.session = (response.session_id, self.session[1] + 1)
        for topic in response.responses:
            for answer in topic.partitions:
                name = f"{topic.topic}-{answer.partition_index}"
                await self._take(self.histories[name], answer, positions[name], asked[name], into)

    def _request(self, positions: dict[str, int]) -> FetchRequest:
        topics: dict[str, list[FetchPartition]] = {}
        for name, history in self.histories.items():
            topics.setdefault(history.topic, []).append(
                FetchPartition(
                    partition=history.index,
                    fetch_offset=positions[name],
                    partition_max_bytes=self.random.choice([1, 500, 1 << 20]),
                    current_leader_epoch=self.epochs.pop(name, -1),
                )
            )
        session_id, session_epoch = self.session
        return FetchRequest(
            max_wait_ms=self.random.choice([0, 300]),
            min_bytes=1,
            max_bytes=self.random.choice([2000, 1 << 20]),
            isolation_level=self.random.choice([0, 1]),
            session_id=session_id,
            session_epoch=session_epoch,
            topics=[FetchTopic(topic=topic, partitions=partitions) for topic, partitions in topics.items()],
        )

    async def _take(
        self,
        history: PartitionHistory,
        answer: Any,
        position: int,
        asked: tuple[int, int, int],
        into: list[tuple[int, bytes]] | None,
    ) -> None:
        name, code = str(history), answer.error_code
        if code == ErrorCode.OFFSET_OUT_OF_RANGE:
            bounds = await self.bounds(history)
            if bounds is not None and asked[0] == history.losses:
                if bounds[0] <= position:
                    raise history.broken(f"offset {position} is out of range, yet the log goes from {bounds}")
                self.positions[name] = bounds[0]
            return
        if code:
            self.expect(history, code)
            return
        records = read_batches(bytes(answer.records), position)
        self.checker.reads += len(records)
        history.read(position, records, answer.high_watermark, answer.log_start_offset, asked)
        if records and asked[0] == history.losses:
            self.positions[name] = records[-1][0] + 1
            if into is not None:
                into += records


class Admin(Client):
    """Deletes records; creates, fills, reads and deletes a topic, again and again."""

    async def create_topics(self) -> None:
        """The lasting topics, before the faults begin."""
        topics = [_creatable(name, partitions, configs) for name, (partitions, configs) in TOPICS.items()]
        while True:
            try:
                response = await self.call(CreateTopicsRequest(topics=topics, timeout_ms=5000), 7)
                break
            except Doubt:
                await trio.sleep(0.1)
        for topic in response.topics:
            assert topic.error_code == ErrorCode.NONE, topic
            self.checker.topic_ids[topic.name] = topic.topic_id

    async def run(self) -> None:
        """Administrate until told to finish, then make sure that it can still be done."""
        self.temp_id: bytes | None = None
        self.temp = self.checker.history(TEMP, 0, durable=False, shrinks=False)
        self.delete_asked = False
        self.number = 0
        while not self.finishing:
            await self.rest()
            try:
                if self.random.random() < 0.3:
                    await self._delete_records(self.random.choice(list(self.histories.values())))
                else:
                    await self._go_on_with_temp()
            except Doubt:
                pass
        before = self.temp
        while self.temp is before or self.temp_id is None:
            await self.rest()
            try:
                await self._go_on_with_temp()
            except Doubt:
                pass

    async def _delete_records(self, history: PartitionHistory) -> None:
        bounds = await self.bounds(history)
        if bounds is None or self.random.random() < 0.5:
            return
        offset, losses = self.random.randint(*bounds), history.losses
        history.start_max = max(history.start_max, offset)
        partition = DeleteRecordsPartition(partition_index=history.index, offset=offset)
        topic = DeleteRecordsTopic(name=history.topic, partitions=[partition])
        response = await self.call(DeleteRecordsRequest(topics=[topic], timeout_ms=1000), 2)
        answer = response.topics[0].partitions[0]
        self.world.trace("deleted", str(history), offset, answer.error_code, answer.low_watermark)
        if answer.error_code == ErrorCode.NONE:
            history.deleted(answer.low_watermark, offset, losses)
        elif answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE and losses != history.losses:
            pass
        else:
            history.start_unsure |= answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            self.expect(history, answer.error_code)

    async def _go_on_with_temp(self) -> None:
        """One step in the life of the topic: look, create, fill, read, delete."""
        found = await self.metadata(TEMP)
        self.world.trace(TEMP, found.error_code, found.topic_id.hex())
        if found.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            if self.temp_id is not None and not self.delete_asked:
                raise self.temp.broken("the topic is gone, and nobody has deleted it")
            self.temp_id = None
            topics = [_creatable(TEMP, 1, SMALL)]
            response = await self.call(CreateTopicsRequest(topics=topics, timeout_ms=1500), 7)
            code = response.topics[0].error_code
            if code not in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS, ErrorCode.REQUEST_TIMED_OUT):
                raise self.temp.broken(f"not created: {ErrorCode(code)!r}")
            return
        if found.error_code:
            return
        if found.topic_id != self.temp_id:
            if self.temp_id is not None and not self.delete_asked:
                raise self.temp.broken("the topic has another id, and nobody has deleted it")
            self.temp_id, self.delete_asked = found.topic_id, False
            self.temp = self.checker.history(TEMP, 0, durable=False, shrinks=False)
        if not self.delete_asked:
            await self._use_temp()
        self.delete_asked = True
        topics = [DeleteTopicState(name=None, topic_id=self.temp_id)]
        response = await self.call(DeleteTopicsRequest(topics=topics, timeout_ms=1500), 6)
        code = response.responses[0].error_code
        if code not in (ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.REQUEST_TIMED_OUT):
            raise self.temp.broken(f"not deleted: {ErrorCode(code)!r}")

    async def _use_temp(self) -> None:
        history = self.temp
        for _ in range(2):
            self.number += 3
            values, losses = self.new_values(TEMP, self.name, self.number), history.losses
            answer = await self.call(produce_request(TEMP, 0, self.batch(values), 1), 9)
            result = answer.responses[0].partition_responses[0]
            if result.error_code == ErrorCode.NONE:
                history.acknowledged(result.base_offset, values, losses)
            elif result.error_code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                self.expect(history, result.error_code)
        losses = history.losses
        partition = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
        request = FetchRequest(
            max_wait_ms=0, min_bytes=1, topics=[FetchTopic(topic_id=self.temp_id, partitions=[partition])]
        )
        asked = history.promise()
        response = await self.call(request, 16)
        data = response.responses[0].partitions[0]
        if data.error_code == ErrorCode.NONE and losses == history.losses and not losses:
            records = read_batches(bytes(data.records), 0)
            history.read(0, records, data.high_watermark, data.log_start_offset, asked)
            history.complete(0, records)


def _creatable(name: str, partitions: int, configs: dict[str, str]) -> CreatableTopic:
    settings = [CreatableTopicConfig(name=key, value=value) for key, value in configs.items()]
    return CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, assignments=[], configs=settings)


# -- the nemesis ------------------------------------------------------------------------------------------------------


class Nemesis:
    """Does bad things to the broker, its disk, its clock, its network and its store: a selection of kinds per seed."""

    def __init__(self, cluster: Cluster, allowed: Sequence[str] | None = None) -> None:
        self.cluster = cluster
        self.node = cluster.node
        self.world = cluster.world
        self.random = cluster.world.random("fault")
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self.kill,
            "kill_twice": self.kill_twice,
            "restart": self.restart,
            "power_loss": self.power_loss,
            "kill_then_power_loss": self.kill_then_power_loss,
            "pause": self.pause,
            "reset": self.reset,
            "cut": self.cut,
            "slow": self.slow,
            "no_space": self.no_space,
            "disk_error": self.disk_error,
            "jump": self.jump,
            "session": self.session,
            "store": self.store,
        }
        names = list(kinds) if allowed is None else list(allowed)
        if allowed is None:
            names = self.random.sample(names, self.random.randint(2, 6))
        self.names = names
        self.kinds = [kinds[name] for name in names]

    async def rage(self, seconds: float) -> None:
        """One fault after the other for so long; then everything heals."""
        self.world.trace("nemesis", self.names)
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(self.random.expovariate(1.5))
                await self.random.choice(self.kinds)()
                self.cluster.start()
        await self.heal()

    async def heal(self) -> None:
        """Undo all, and start the broker once more, as a disk that failed asks for."""
        self.world.network.heal()
        self.node.resume()
        self.node.volume.heal()
        self.node.volume.capacity = 1 << 40
        self.cluster.disk_trouble, self.cluster.store_trouble = False, 0.0
        if self.random.random() < 0.5:
            self.cluster.kill()
        else:
            await self.cluster.stop()
        self.cluster.start()

    async def kill(self) -> None:
        self.cluster.kill()
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    async def kill_twice(self) -> None:
        self.cluster.kill()
        self.cluster.start()
        await trio.sleep(self.random.random() * 0.05)
        await self.kill()

    async def restart(self) -> None:
        with trio.move_on_after(5):
            await self.cluster.stop()
        if self.random.random() < 0.3:
            return
        self.cluster.start()

    async def power_loss(self) -> None:
        self.cluster.power_loss()
        await trio.sleep(self.random.random() * 0.5)
        self.cluster.start()

    async def kill_then_power_loss(self) -> None:
        """What a killed broker left in the page cache is trusted by the next one, and is not durable for that."""
        await self.kill()
        await trio.sleep(self.random.random() * 1.5)
        await self.power_loss()

    async def pause(self) -> None:
        self.node.pause()
        await trio.sleep(self.random.choice([0.2, 1, 8]) * self.random.random())
        self.node.resume()

    async def reset(self) -> None:
        self.world.network.reset(HOST)

    async def cut(self) -> None:
        away, back = self.random.choice([(HOST, "*"), ("*", HOST), (HOST, "consumer-0"), ("idempotent-0", HOST)])
        self.world.network.cut(away, back)
        await trio.sleep(self.random.random() * 4)
        self.world.network.heal()

    async def slow(self) -> None:
        client = self.random.choice(["idempotent-0", "idempotent-1", "consumer-0"])
        self.world.network.slow(HOST, client, self.random.random())
        await trio.sleep(self.random.random() * 3)
        self.world.network.heal()

    async def no_space(self) -> None:
        volume = self.node.volume
        self.cluster.disk_trouble = True
        volume.capacity = volume.used + self.random.randint(0, 1500)
        await trio.sleep(self.random.random() * 3)
        volume.capacity = 1 << 40
        self.cluster.disk_trouble = bool(volume.faults)

    async def disk_error(self) -> None:
        self.cluster.disk_trouble = True
        what = self.random.choice(["sync", "sync", "append", "append", "truncate", "write_atomic", "rename", "pread"])
        self.node.volume.fail(
            what, nth=self.random.randint(1, 8), times=self.random.choice([1, 1, 5]), error=errno.EIO
        )
        await trio.sleep(self.random.random() * 3)
        self.node.volume.heal()
        self.cluster.disk_trouble = False
        if self.random.random() < 0.7:
            await self.random.choice([self.kill, self.restart])()

    async def jump(self) -> None:
        self.node.clock.jump_data(self.random.choice([-1, 1]) * self.random.randint(0, 120_000))

    async def session(self) -> None:
        self.world.node("store").clock.jump_liveness(10)

    async def store(self) -> None:
        self.cluster.store_trouble = self.random.choice([0.1, 0.5, 1.0])
        await trio.sleep(self.random.random() * 4)
        self.cluster.store_trouble = 0.0


# -- the whole --------------------------------------------------------------------------------------------------------


class Failures(logging.Handler):
    """Exceptions the broker did not expect: it logs them and goes on, we do not."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.found += [each for each in _leaves(error) if not isinstance(each, OSError | LogOffline)]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


@contextmanager
def watched_log() -> Iterator[Failures]:
    """Gather the broker's own failures while the block runs; print nothing."""
    logger, failures = logging.getLogger("kbroker"), Failures()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(failures)
    try:
        yield failures
    finally:
        logger.removeHandler(failures)
        logger.propagate = propagate


async def single_broker(
    world: World, *, seconds: float = FAULT_SECONDS, faults: Sequence[str] | None = None
) -> None:
    """Faults for so many seconds, then healing, then judgement. Raises Violation.

    faults: kinds of the nemesis; a random selection, if not given.
    """
    with watched_log() as failures:
        checker = Checker()
        cluster = Cluster(world, checker)
        cluster.start()
        await Admin(world, "first", checker).create_topics()
        for topic, (partitions, _) in TOPICS.items():
            for index in range(partitions):
                checker.history(topic, index, durable=topic == "durable", shrinks=topic == "short")
        await _contend(world, cluster, checker, seconds, faults)
        if failures.found:
            raise Violation(f"the broker failed inside: {failures.found[0]!r}") from failures.found[0]
        world.trace("done", checker.acks, checker.reads)


async def _contend(
    world: World, cluster: Cluster, checker: Checker, seconds: float, faults: Sequence[str] | None
) -> None:
    producers = [IdempotentProducer(world, f"idempotent-{n}", checker) for n in range(2)]
    plain, admin = PlainProducer(world, "plain", checker), Admin(world, "admin", checker)
    consumers = [Consumer(world, f"consumer-{n}", checker, sessions=n == 0) for n in range(2)]
    async with trio.open_nursery() as reading:
        async with trio.open_nursery() as writing:
            for writer in (*producers, plain, admin):
                writing.start_soon(writer.run)
            for consumer in consumers:
                reading.start_soon(consumer.run)
            await Nemesis(cluster, faults).rage(seconds)
            with _must_end("the writers are not served"):
                for writer in (*producers, plain, admin):
                    writer.finishing = True
                while writing.child_tasks:
                    await trio.sleep(0.1)
        for consumer in consumers:
            consumer.finishing = True
        with _must_end("the consumers are not served"):
            while reading.child_tasks:
                await trio.sleep(0.1)
    judge = Consumer(world, "judge", checker, sessions=False)
    with _must_end("the judge is not served"):
        for history in checker.histories:
            if history.topic != TEMP:
                await judge.read_all(history)


@contextmanager
def _must_end(what: str) -> Iterator[None]:
    try:
        with trio.fail_after(HEAL_SECONDS):
            yield
    except trio.TooSlowError:
        raise Violation(f"no convergence: {what} {HEAL_SECONDS:g} s after everything healed") from None
