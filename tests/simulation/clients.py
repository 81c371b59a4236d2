"""The clients of the simulated broker. Each tells the checker what it asked and what it was told.

IdempotentProducer   acks=-1, three batches in flight, everything again after any doubt
PlainProducer        acks=1, never again
Consumer             from positions it keeps, with fetch sessions or without
Admin                deletes records; creates, fills, reads and deletes the topic `temp`
"""

from __future__ import annotations

import random
from typing import Any

import trio

from kafka_wire.api import ApiKey
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
from kbroker.testing.client import BareClient
from kbroker.testing.world import World
from tests.simulation.checker import (
    Checker,
    PartitionHistory,
    Violation,
    read_batches,
)

HOST, PORT = "broker", 9092
SMALL = {"internal.segment.bytes": "2500", "index.interval.bytes": "300", "file.delete.delay.ms": "700"}
KEPT_SHORT = {"cleanup.policy": "compact,delete", "min.cleanable.dirty.ratio": "0", "segment.ms": "400"}
TOPICS: dict[str, tuple[int, dict[str, str]]] = {
    "durable": (2, {**SMALL, "flush.messages": "1"}),
    "cached": (2, SMALL),
    "short": (1, {**SMALL, "retention.bytes": "4000", "retention.ms": "60000"}),
    "compacted": (1, {**SMALL, **KEPT_SHORT}),
}
TEMP = "temp"
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

    async def run(self) -> None:
        """What this client does, until told to finish and done."""
        raise NotImplementedError

    async def rest(self) -> None:
        """Pause, as people do."""
        await trio.sleep(self.random.expovariate(12 if self.finishing else 4))

    async def call(
        self, request: Any, version: int, seconds: float = CALL_SECONDS, *, about: PartitionHistory | None = None
    ) -> Any:
        """Ask and be answered, or Doubt. about: the partition, for those who ask its leader."""
        return (await self.call_all([request], version, seconds, about=about))[0]

    async def call_all(
        self, requests: list[Any], version: int, seconds: float = CALL_SECONDS, *, about: PartitionHistory | None = None
    ) -> list[Any]:
        """Send requests one after the other, then await all answers. Doubt when one is missing."""
        answers: list[Any] = []
        with trio.move_on_after(seconds):
            try:
                if self._client is None:
                    self._client = BareClient(await self.env.net.connect(HOST, PORT), self.name)
                keys = [await self._client.send(request, version) for request in requests]
                for key in keys:
                    answers.append(await self._client.receive(ApiKey(key), version))
                return answers
            except BROKEN:
                pass
        await self.hang_up()
        raise Doubt

    def host_of(self, history: PartitionHistory) -> str:
        """Who leads a partition, as far as is known."""
        return HOST

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
        """A record batch. Each record has a key of its own, so compaction takes none away."""
        timestamp = self.env.clock.data_ms()
        compression = self.random.choice([0, 0, 0, 1, 4])
        records = [(timestamp, value.rpartition(b"/")[0], value) for value in values]
        return build_batch(records, compression=compression, **options)

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
            response = await self.call(ListOffsetsRequest(replica_id=-1, topics=[topic]), 7, about=history)
            answer = response.topics[0].partitions[0]
            if answer.error_code:
                self.expect(history, answer.error_code)
                return None
            found.append(answer.offset)
        history.saw_bounds(found[0], found[1], asked)
        return found[0], found[1]

    def expect(self, history: PartitionHistory, code: int) -> None:
        """Only errors that pass are expected, and of the disk only if it had any."""
        is_false = code == ErrorCode.KAFKA_STORAGE_ERROR and self.checker.disk_is_sound
        if code not in RETRIABLE or is_false:
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
            answers = await self.call_all(requests, 9, about=lane.history)
        except Doubt:
            return False
        return all(self._take(lane, answer.responses[0].partition_responses[0]) for answer in answers)

    def _lane(self, name: str) -> Lane:
        return next(lane for lane in self.lanes if str(lane.history) == name)

    async def _begin(self) -> None:
        response = await self.call(
            InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0, producer_id=-1, producer_epoch=-1),
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
    """No second try: what is in doubt stays so."""

    def __init__(self, world: World, name: str, checker: Checker, *, acks: int = 1) -> None:
        super().__init__(world, name, checker)
        self.acks = acks

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
            request = produce_request(history.topic, history.index, self.batch(values), self.acks)
            response = await self.call(request, 8, about=history)
        except Doubt:
            return False
        answer = response.responses[0].partition_responses[0]
        self.world.trace(self.name, str(history), answer.error_code, answer.base_offset)
        if answer.error_code:
            self.expect(history, answer.error_code)
            return False
        self.take_promise(history, answer.base_offset, values, losses)
        self.checker.acks += 1
        return True

    def take_promise(self, history: PartitionHistory, base_offset: int, values: list[bytes], losses: int) -> None:
        """Values are acknowledged: here that means that they stay."""
        history.acknowledged(base_offset, values, losses)


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

    async def run(self) -> None:
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
        topics = [creatable(name, partitions, configs) for name, (partitions, configs) in TOPICS.items()]
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
            topics = [creatable(TEMP, 1, SMALL)]
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
            await self._use_temp(found.topic_id)
        self.delete_asked = True
        state = DeleteTopicState(name=None, topic_id=found.topic_id)
        response = await self.call(DeleteTopicsRequest(topics=[state], timeout_ms=1500), 6)
        code = response.responses[0].error_code
        if code not in (ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_ID, ErrorCode.REQUEST_TIMED_OUT):
            raise self.temp.broken(f"not deleted: {ErrorCode(code)!r}")

    async def _use_temp(self, topic_id: bytes) -> None:
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
            max_wait_ms=0, min_bytes=1, topics=[FetchTopic(topic_id=topic_id, partitions=[partition])]
        )
        asked = history.promise()
        response = await self.call(request, 16)
        data = response.responses[0].partitions[0]
        if data.error_code == ErrorCode.NONE and losses == history.losses and not losses:
            records = read_batches(bytes(data.records), 0)
            history.read(0, records, data.high_watermark, data.log_start_offset, asked)
            history.complete(0, records)


def creatable(name: str, partitions: int, configs: dict[str, str]) -> CreatableTopic:
    """A topic to be created."""
    settings = [CreatableTopicConfig(name=key, value=value) for key, value in configs.items()]
    return CreatableTopic(name=name, num_partitions=partitions, replication_factor=-1, assignments=[], configs=settings)
