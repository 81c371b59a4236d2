"""Filtered consumers of the real clients behind one face, so that the same checks hold each form of each of them.

A form is a way to get records: kafka-python's iteration or poll, confluent-kafka's poll or consume, also of its
AIOConsumer, aiokafka's iteration, getone or getmany. A Reader is one consumer in a group, read by one form. What is of
asyncio runs in one loop in a thread of its own, so that several such consumers live side by side.

Owns: the loop's thread. Imports a client only where it is used: each runs in an environment with its own client.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, NamedTuple

from kbroker.client.filtering import filtered

SOME = 20  # records that are taken at once, at most


class Place(NamedTuple):
    """A record that was read."""

    partition: int
    offset: int
    value: bytes | None


class Reader(ABC):
    """A filtered consumer in a group, from the group's offsets on, else from the beginning."""

    consumer: Any

    @abstractmethod
    def some(self, seconds: float) -> list[Place]:
        """The next records; none if for so long nothing matched."""

    @abstractmethod
    def commit(self) -> None:
        """As far as it has consumed."""

    @abstractmethod
    def commit_offset(self, partition: int, offset: int) -> None: ...

    @abstractmethod
    def committed(self) -> dict[int, int]:
        """Of the partitions that it reads and that have any."""

    @abstractmethod
    def positions(self) -> dict[int, int]:
        """Of the partitions that it reads."""

    @abstractmethod
    def pause(self, partition: int) -> None: ...

    @abstractmethod
    def resume(self, partition: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class KafkaPythonReader(Reader):
    """kafka-python's KafkaConsumer; forms `iterate` and `poll`."""

    def __init__(self, form: str, bootstrap: str, topic: str, group: str, expression: str, auto_commit: bool) -> None:
        from kafka import KafkaConsumer

        self.form, self.topic = form, topic
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=auto_commit,
            auto_commit_interval_ms=100,
            consumer_timeout_ms=1000,
            max_poll_records=100,
            session_timeout_ms=6000,
            heartbeat_interval_ms=200,
        )
        self.consumer = filtered(consumer, expression)

    def some(self, seconds: float) -> list[Place]:
        if self.form == "poll":
            batches = self.consumer.poll(timeout_ms=seconds * 1000)
            return [Place(each.partition, each.offset, each.value) for batch in batches.values() for each in batch]
        self.consumer.config["consumer_timeout_ms"] = seconds * 1000
        found = []
        for record in self.consumer:
            found.append(Place(record.partition, record.offset, record.value))
            if len(found) == SOME:
                break
        return found

    def commit(self) -> None:
        self.consumer.commit()

    def commit_offset(self, partition: int, offset: int) -> None:
        from kafka.structs import OffsetAndMetadata

        self.consumer.commit({self._place(partition): OffsetAndMetadata(offset, "", -1)})

    def committed(self) -> dict[int, int]:
        found = {place.partition: self.consumer.committed(place) for place in self.consumer.assignment()}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def positions(self) -> dict[int, int]:
        return {place.partition: self.consumer.position(place) for place in self.consumer.assignment()}

    def pause(self, partition: int) -> None:
        self.consumer.pause(self._place(partition))

    def resume(self, partition: int) -> None:
        self.consumer.resume(self._place(partition))

    def close(self) -> None:
        self.consumer.close()

    def _place(self, partition: int) -> Any:
        from kafka import TopicPartition

        return TopicPartition(self.topic, partition)


class ConfluentReader(Reader):
    """confluent-kafka's Consumer, and its AIOConsumer (forms that begin with `async`); `poll` and `consume`."""

    def __init__(self, form: str, bootstrap: str, topic: str, group: str, expression: str, auto_commit: bool) -> None:
        self.form, self.topic = form, topic
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": auto_commit,
            "auto.commit.interval.ms": 100,
            "allow.auto.create.topics": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 200,
            "topic.metadata.refresh.interval.ms": 500,
        }
        self.consumer = filtered(self._made(settings), expression)
        self._wait(self.consumer.subscribe([topic]))

    def _made(self, settings: dict[str, Any]) -> Any:
        if not self.form.startswith("async"):
            from confluent_kafka import Consumer

            return Consumer(settings)
        from confluent_kafka.aio import AIOConsumer

        async def made() -> Any:
            return AIOConsumer(settings, max_workers=2)

        return LOOP.wait(made())

    def _wait(self, answer: Any) -> Any:
        return LOOP.wait(answer) if asyncio.iscoroutine(answer) else answer

    def some(self, seconds: float) -> list[Place]:
        return [Place(each.partition(), each.offset(), each.value()) for each in self.messages(seconds)]

    def messages(self, seconds: float) -> list[Any]:
        """As `some`, but whole, also those with an error."""
        if self.form.endswith("consume"):
            return list(self._wait(self.consumer.consume(SOME, seconds)))
        message = self._wait(self.consumer.poll(seconds))
        return [] if message is None else [message]

    def commit(self) -> None:
        self._wait(self.consumer.commit(asynchronous=False))

    def commit_offset(self, partition: int, offset: int) -> None:
        self._wait(self.consumer.commit(offsets=[self._place(partition, offset)], asynchronous=False))

    def committed(self) -> dict[int, int]:
        found = self._wait(self.consumer.committed(self._assigned(), timeout=10))
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def positions(self) -> dict[int, int]:
        found = self._wait(self.consumer.position(self._assigned()))
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def pause(self, partition: int) -> None:
        self._wait(self.consumer.pause([self._place(partition)]))

    def resume(self, partition: int) -> None:
        self._wait(self.consumer.resume([self._place(partition)]))

    def close(self) -> None:
        self._wait(self.consumer.close())

    def _assigned(self) -> Any:
        return self._wait(self.consumer.assignment())

    def _place(self, partition: int, offset: int = -1001) -> Any:
        from confluent_kafka import TopicPartition

        return TopicPartition(self.topic, partition, offset)


class AiokafkaReader(Reader):
    """aiokafka's AIOKafkaConsumer; forms `iterate`, `getone` and `getmany`."""

    def __init__(self, form: str, bootstrap: str, topic: str, group: str, expression: str, auto_commit: bool) -> None:
        self.form, self.topic = form, topic

        async def start() -> Any:
            from aiokafka import AIOKafkaConsumer

            consumer = AIOKafkaConsumer(
                topic,
                bootstrap_servers=bootstrap,
                group_id=group,
                auto_offset_reset="earliest",
                enable_auto_commit=auto_commit,
                auto_commit_interval_ms=100,
                session_timeout_ms=6000,
                heartbeat_interval_ms=200,
                metadata_max_age_ms=500,
            )
            found = filtered(consumer, expression)
            await found.start()
            return found

        self.consumer = LOOP.wait(start())

    def some(self, seconds: float) -> list[Place]:
        return LOOP.wait(self._some(seconds))

    async def _some(self, seconds: float) -> list[Place]:
        if self.form == "getmany":
            batches = await self.consumer.getmany(timeout_ms=seconds * 1000, max_records=500)
            return [Place(each.partition, each.offset, each.value) for batch in batches.values() for each in batch]
        found: list[Place] = []
        try:
            while len(found) < SOME:
                get = anext(self.consumer) if self.form == "iterate" else self.consumer.getone()
                record = await asyncio.wait_for(get, seconds)
                found.append(Place(record.partition, record.offset, record.value))
        except TimeoutError:
            pass
        return found

    def commit(self) -> None:
        LOOP.wait(self.consumer.commit())

    def commit_offset(self, partition: int, offset: int) -> None:
        LOOP.wait(self.consumer.commit({self._place(partition): offset}))

    def committed(self) -> dict[int, int]:
        async def ask() -> dict[int, int]:
            places = self.consumer.assignment()
            found = {place.partition: await self.consumer.committed(place) for place in places}
            return {partition: offset for partition, offset in found.items() if offset is not None}

        return LOOP.wait(ask())

    def positions(self) -> dict[int, int]:
        async def ask() -> dict[int, int]:
            return {place.partition: await self.consumer.position(place) for place in self.consumer.assignment()}

        return LOOP.wait(ask())

    def pause(self, partition: int) -> None:
        async def pause() -> None:
            self.consumer.pause(self._place(partition))

        LOOP.wait(pause())

    def resume(self, partition: int) -> None:
        async def resume() -> None:
            self.consumer.resume(self._place(partition))

        LOOP.wait(resume())

    def close(self) -> None:
        LOOP.wait(self.consumer.stop())

    def _place(self, partition: int) -> Any:
        from aiokafka import TopicPartition

        return TopicPartition(self.topic, partition)


class Loop:
    """An event loop in a thread, made on first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        """What it returns."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(60)


LOOP = Loop()

FORMS: dict[str, dict[str, type[Reader]]] = {
    "kafka_python": {"iterate": KafkaPythonReader, "poll": KafkaPythonReader},
    "confluent_kafka": {
        "poll": ConfluentReader,
        "consume": ConfluentReader,
        "async poll": ConfluentReader,
        "async consume": ConfluentReader,
    },
    "aiokafka": {"iterate": AiokafkaReader, "getone": AiokafkaReader, "getmany": AiokafkaReader},
}
