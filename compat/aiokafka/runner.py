"""aiokafka under the scenarios: one adapter method per call of the library, on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from common import Client, Consumer, Message, Record, Refused, Source, Transactor, main
from members import Member, Place, Pumped

T = TypeVar("T")
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run on the loop's thread; the library's errors in Kafka's words."""
    try:
        return asyncio.run_coroutine_threadsafe(work, LOOP).result()
    except kafka_errors.OffsetOutOfRangeError as error:
        raise Refused(1, error) from error
    except TimeoutError as error:
        raise Refused("no end within the client's patience", error) from error
    except (ValueError, AssertionError) as error:  # AssertionError: a transaction's state does not allow it
        raise Refused("refused by the client", error) from error
    except kafka_errors.KafkaError as error:
        code = getattr(error, "errno", None)
        raise Refused(code if isinstance(code, int) and code > 0 else type(error).__name__, error) from error


class AioKafka(Client):
    name = f"aiokafka {aiokafka.__version__}"

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self._admin: AIOKafkaAdminClient | None = None

    def ask(self, method: str, *arguments: Any) -> Any:
        """One call of the admin client."""
        return wait(self._ask(method, *arguments))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        if self._admin is None:
            self._admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await self._admin.start()
        return await getattr(self._admin, method)(*arguments)

    def cluster(self) -> dict[str, Any]:
        found = self.ask("describe_cluster")
        return {
            "brokers": [broker["node_id"] for broker in found["brokers"]],
            "controller": found["controller_id"],
            "cluster_id": found.get("cluster_id"),
        }

    def topics(self) -> set[str]:
        return set(self.ask("list_topics"))

    def partitions(self, topic: str) -> int:
        found = self.ask("describe_topics", [topic])[0]
        refuse(found["error_code"])
        return len(found["partitions"])

    def create_topics(
        self, topics: dict[str, int], configs: dict[str, str] | None = None, replication: int = 1
    ) -> None:
        wanted = [NewTopic(name, count, replication, topic_configs=configs or {}) for name, count in topics.items()]
        refuse(*(error[1] for error in self.ask("create_topics", wanted).topic_errors))

    def delete_topics(self, topics: list[str]) -> None:
        refuse(*(error[1] for error in self.ask("delete_topics", topics).topic_error_codes))

    def add_partitions(self, topic: str, total: int) -> None:
        refuse(*(error[1] for error in self.ask("create_partitions", {topic: NewPartitions(total)}).topic_errors))

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        self.ask("delete_records", {TopicPartition(topic, p): RecordsToDelete(o) for p, o in before.items()})

    def configs(self, topic: str) -> dict[str, str]:
        return self._describe(ConfigResource(ConfigResourceType.TOPIC, topic))

    def broker_configs(self, node: int) -> dict[str, str]:
        return self._describe(ConfigResource(ConfigResourceType.BROKER, str(node)))

    def _describe(self, resource: ConfigResource) -> dict[str, str]:
        resources = [each for response in self.ask("describe_configs", [resource]) for each in response.resources]
        code, _, _, _, entries = resources[0]
        refuse(code)
        return {entry[0]: entry[1] for entry in entries}

    def replace_configs(self, topic: str, configs: dict[str, str]) -> None:
        responses = self.ask("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        refuse(*(each[0] for response in responses for each in response.resources))

    def offset(self, topic: str, partition: int, when: str | int, **options: Any) -> int | None:
        return wait(self._offset(TopicPartition(topic, partition), when, options))

    async def _offset(self, at: TopicPartition, when: str | int, options: dict[str, Any]) -> int | None:
        async with AIOKafkaConsumer(**self.consumer_settings(options)) as consumer:
            if when == "earliest":
                return int((await consumer.beginning_offsets([at]))[at])
            if when == "latest":
                return int((await consumer.end_offsets([at]))[at])
            found = (await consumer.offsets_for_times({at: when}))[at]
            return None if found is None else int(found.offset)

    def produce(self, topic: str, messages: Iterable[Message], **options: Any) -> list[int | None]:
        return wait(self._produce(topic, messages, options))

    async def _produce(self, topic: str, messages: Iterable[Message], options: dict[str, Any]) -> list[int | None]:
        patience = options.get("patience", 30)
        producer = AIOKafkaProducer(**self.producer_settings(options))
        await producer.start()
        try:
            async with asyncio.timeout(patience):
                futures = []
                for message in messages:
                    futures.append(await self._send(producer, topic, message))
                    await asyncio.sleep(0)
                return [None if sent is None else sent.offset for sent in await asyncio.gather(*futures)]
        finally:
            async with asyncio.timeout(5):
                await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, topic: str, message: Message) -> Any:
        return await producer.send(
            topic,
            message.value,
            key=message.key,
            partition=message.partition,
            headers=list(message.headers),
            timestamp_ms=message.timestamp,
        )

    def producer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        codec, level = options.get("codec", "none"), options.get("acks", "all")
        return {
            "bootstrap_servers": self.bootstrap,
            "acks": "all" if level == "all" else int(level),
            "enable_idempotence": options.get("idempotent", False),
            "compression_type": None if codec == "none" else codec,
            "linger_ms": options.get("linger_ms", 0),
            "max_batch_size": options.get("batch_bytes", 16384),
            "max_request_size": options.get("request_bytes_max", 1048576),
            "request_timeout_ms": options.get("patience", 30) * 1000,
        }

    def consumer(self, topic: str, starts: dict[int, int], **options: Any) -> Consumer:
        return AssignedConsumer(wait(self._consumer(topic, starts, options)), topic, starts)

    async def _consumer(self, topic: str, starts: dict[int, int], options: dict[str, Any]) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(**self.consumer_settings(options))
        await consumer.start()
        consumer.assign([TopicPartition(topic, partition) for partition in starts])
        return consumer

    def consumer_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap,
            "enable_auto_commit": False,
            "auto_offset_reset": options.get("reset", "none"),
            "isolation_level": options.get("isolation", "read_uncommitted"),
            "fetch_max_wait_ms": options.get("max_wait_ms", 500),
            "max_partition_fetch_bytes": options.get("partition_bytes", 1048576),
        }

    def member(self, topics: list[str] | str, **options: Any) -> Member:
        if options["protocol"] != "classic":
            raise self.absent("consumer protocol (KIP-848)")
        if options.get("cooperative"):
            raise self.absent("cooperative rebalancing")
        return GroupMember(topics, options["commits"], self.member_settings(options))

    def member_settings(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            **self.consumer_settings(options),
            "group_id": options["group"],
            "group_instance_id": options.get("instance"),
            "session_timeout_ms": options.get("session_ms", 10_000),
            "heartbeat_interval_ms": options.get("heartbeat_ms", 500),
            "metadata_max_age_ms": 1000,
        }

    def groups(self) -> set[str]:
        return {group[0] for group in self.ask("list_consumer_groups")}

    def describe_group(self, group: str) -> dict[str, Any]:
        code, _, state, _, _, members, *_ = self.ask("describe_consumer_groups", [group])[0].groups[0]
        refuse(code)
        return {"state": state.upper(), "members": len(members)}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        found = self.ask("list_consumer_group_offsets", group)
        return {place.partition: mark.offset for place, mark in found.items() if place.topic == topic}

    def transactor(self, identifier: str, **options: Any) -> Transactor:
        return TransactionalProducer(self, identifier, options)

    def source(self, topic: str, **options: Any) -> Source:
        if options["protocol"] != "classic":
            raise self.absent("consumer protocol (KIP-848)")
        return AskedMember(topic, self.member_settings(options), self)

    def close(self) -> None:
        if self._admin is not None:
            wait(self._admin.close())


class TransactionalProducer(Transactor):
    def __init__(self, client: AioKafka, identifier: str, options: dict[str, Any]) -> None:
        self.client, self.patience = client, options.get("patience", 30)
        self.settings = client.producer_settings(options | {"idempotent": True})
        self.settings |= {"transactional_id": identifier, "transaction_timeout_ms": options.get("timeout_ms", 60_000)}
        self.producer: AIOKafkaProducer | None = None

    def init(self) -> None:
        self._within(self._start())

    async def _start(self) -> None:
        self.producer = AIOKafkaProducer(**self.settings)
        await self.producer.start()

    def begin(self) -> None:
        self._within(self.producer.begin_transaction())

    def send(self, topic: str, messages: list[Message], wait: bool = True) -> list[int | None]:
        return self._within(self._send(topic, messages, wait))

    async def _send(self, topic: str, messages: list[Message], wait: bool) -> list[int | None]:
        futures = [await self.client._send(self.producer, topic, message) for message in messages]
        return [sent.offset for sent in await asyncio.gather(*futures)] if wait else []

    def send_offsets(self, offsets: dict[Place, int], group: str, membership: Any = None) -> None:
        marks = {TopicPartition(*place): offset for place, offset in offsets.items()}
        self._within(self.producer.send_offsets_to_transaction(marks, group))

    def commit(self) -> None:
        self._within(self.producer.commit_transaction())

    def abort(self) -> None:
        self._within(self.producer.abort_transaction())

    def close(self) -> None:
        if self.producer is not None:
            wait(asyncio.wait_for(self.producer.stop(), 2))

    def _within(self, work: Coroutine[Any, Any, T]) -> T:
        return wait(asyncio.wait_for(work, self.patience))


class AskedMember(Source):
    def __init__(self, topic: str, settings: dict[str, Any], client: AioKafka) -> None:
        self.client = client
        wait(self._start(topic, settings))

    async def _start(self, topic: str, settings: dict[str, Any]) -> None:
        self.consumer = AIOKafkaConsumer(topic, **settings)
        await self.consumer.start()

    def poll(self, count: int, wait_seconds: float) -> list[Record]:
        polled = wait(self.consumer.getmany(timeout_ms=int(wait_seconds * 1000), max_records=count))
        return [record(each) for batch in polled.values() for each in batch]

    def owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def rewind(self) -> None:
        wait(self._rewind())

    async def _rewind(self) -> None:
        for place in self.consumer.assignment():
            offset = await self.consumer.committed(place)
            if offset is None:
                await self.consumer.seek_to_beginning(place)
            else:
                self.consumer.seek(place, offset)

    def membership(self) -> Any:
        raise self.client.absent("group metadata for transactions (KIP-447)")

    def leave(self) -> None:
        wait(asyncio.wait_for(self.consumer.stop(), 5))


class AssignedConsumer(Consumer):
    def __init__(self, consumer: AIOKafkaConsumer, topic: str, starts: dict[int, int]) -> None:
        self.consumer, self.topic = consumer, topic
        self.seek(starts)

    def seek(self, starts: dict[int, int]) -> None:
        async def seek_all() -> None:
            for partition, offset in starts.items():
                self.consumer.seek(TopicPartition(self.topic, partition), offset)

        wait(seek_all())

    def take(self, count: int, wait_seconds: float) -> list[Record]:
        return wait(self._take(count, time.monotonic() + wait_seconds))

    async def _take(self, count: int, deadline: float) -> list[Record]:
        found: list[Record] = []
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            polled = await self.consumer.getmany(timeout_ms=int(left * 1000))
            found.extend(record(each) for batch in polled.values() for each in batch)
        return found

    def close(self) -> None:
        wait(self.consumer.stop())


class GroupMember(Pumped):
    def __init__(self, topics: list[str] | str, commits: bool, settings: dict[str, Any]) -> None:
        self.topics, self.settings = topics, settings
        super().__init__(commits)

    def do_open(self) -> None:
        wait(self._start())

    async def _start(self) -> None:
        self.consumer = AIOKafkaConsumer(**self.settings)
        chosen = {"pattern": self.topics} if isinstance(self.topics, str) else {"topics": self.topics}
        self.consumer.subscribe(**chosen, listener=Noting(self))
        await self.consumer.start()

    def do_poll(self, seconds: float) -> list[tuple[str, int, int]]:
        polled = wait(self.consumer.getmany(timeout_ms=int(seconds * 1000)))
        return [(each.topic, each.partition, each.offset) for batch in polled.values() for each in batch]

    def do_owned(self) -> set[Place]:
        return {(place.topic, place.partition) for place in self.consumer.assignment()}

    def do_commit(self, offsets: dict[Place, int], wait_for_it: bool) -> None:
        work = self.consumer.commit({TopicPartition(*place): offset for place, offset in offsets.items()})
        if wait_for_it:
            wait(work)
        else:
            asyncio.run_coroutine_threadsafe(work, LOOP)

    def do_committed(self, place: Place) -> int | None:
        return wait(self.consumer.committed(TopicPartition(*place)))

    def do_seek(self, place: Place, offset: int) -> None:
        LOOP.call_soon_threadsafe(self.consumer.seek, TopicPartition(*place), offset)

    def do_close(self) -> None:
        wait(self.consumer.stop())


class Noting(ConsumerRebalanceListener):
    """Writes the client's rebalance callbacks into the journal."""

    def __init__(self, member: Pumped) -> None:
        self.member = member

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.member.note_all("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.member.note_all("revoked", revoked)


def record(each: Any) -> Record:
    append_time = each.timestamp_type == 1
    return Record(each.partition, each.offset, each.timestamp, append_time, each.key, each.value, tuple(each.headers))


def refuse(*codes: int) -> None:
    for code in codes:
        if code:
            raise Refused(code)


if __name__ == "__main__":
    main(AioKafka)
