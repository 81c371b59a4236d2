"""The same few things done with each Python client: produce values, and consume in a group while a test goes on."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kbroker.testing.control.kafka import Kafka

ROOT = Path(__file__).resolve().parents[3]
REQUEST_TIMEOUT_MS = 500  # a lost answer is noticed then
Headers = Sequence[tuple[str, bytes]]


def library(name: str) -> None:
    """Have a client library that can be imported: installed here, or where `make compat` has put it. Else skip."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name, as there is in compat, is no library
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        found = sorted(ROOT.glob(f".compat/{name}/env-????????/lib/{python}/site-packages"))
        if not found:
            pytest.skip(f"no {name} here: make compat fetches it")
        sys.path.append(str(found[-1]))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()


class Consumer:
    """A live member of a group, in a thread of its own. Values are what it has got so far."""

    def __init__(self, live: Callable[[Consumer], None]) -> None:
        self.values: list[bytes | None] = []
        self.failure: BaseException | None = None
        self.leaving = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(live,), daemon=True)
        self._thread.start()

    def _run(self, live: Callable[[Consumer], None]) -> None:
        try:
            live(self)
        except BaseException as error:
            self.got([], error)

    def got(self, values: Iterable[bytes | None], failure: BaseException | None = None) -> None:
        """Values have come, or it has failed."""
        with self._news:
            self.values.extend(values)
            self.failure = failure
            self._news.notify_all()

    def wait_for(self, count: int, timeout: float = 10.0) -> list[bytes | None]:
        """Its values, once there are so many."""
        with self._news:
            self._news.wait_for(lambda: len(self.values) >= count or self.failure is not None, timeout)
        assert self.failure is None, self.failure
        assert len(self.values) >= count, f"only {self.values} came"
        return list(self.values)

    def leave(self) -> None:
        """Leave the group."""
        self.leaving.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


class Client:
    """What the clients share: the consumers of a test."""

    def __init__(self) -> None:
        self.consumers: list[Consumer] = []

    def begin(self, live: Callable[[Consumer], None]) -> Consumer:
        """A consumer that lives so."""
        self.consumers.append(Consumer(live))
        return self.consumers[-1]

    def leave_all(self) -> None:
        """No consumer outlives its test."""
        for each in self.consumers:
            each.leave()


class KafkaPython(Client):
    """kafka-python: a producer is idempotent by default."""

    def __init__(self) -> None:
        super().__init__()
        library("kafka")

    def produce(self, kafka: Kafka, topic: str, *values: bytes, headers: Headers = ()) -> None:
        from kafka import KafkaProducer

        config = kafka.client_config("kafka-python", "producer") | {"request_timeout_ms": REQUEST_TIMEOUT_MS}
        producer = KafkaProducer(**config)
        sent = [producer.send(topic, value, headers=list(headers)) for value in values]
        for each in sent:
            each.get(timeout=15)
        producer.close(timeout=1)

    def consume(self, kafka: Kafka, topic: str, group: str) -> Consumer:
        from kafka import KafkaConsumer

        def live(state: Consumer) -> None:
            config = kafka.client_config("kafka-python", "consumer")
            consumer = KafkaConsumer(topic, group_id=group, auto_offset_reset="earliest", **config)
            while not state.leaving.is_set():
                # kafka-python 3.0 may lose its assignment when a short poll ends while the group is being joined
                for records in consumer.poll(timeout_ms=500).values():
                    state.got(each.value for each in records)
            consumer.close()

        return self.begin(live)


class Confluent(Client):
    """confluent-kafka: librdkafka."""

    def __init__(self) -> None:
        super().__init__()
        library("confluent_kafka")

    def produce(self, kafka: Kafka, topic: str, *values: bytes, headers: Headers = ()) -> None:
        from confluent_kafka import Producer

        short = {"request.timeout.ms": REQUEST_TIMEOUT_MS, "socket.timeout.ms": REQUEST_TIMEOUT_MS}
        producer = Producer(kafka.client_config("confluent", "producer") | {"enable.idempotence": True} | short)
        failed: list[Any] = []

        def told(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        for value in values:
            producer.produce(topic, value, headers=list(headers), on_delivery=told)
        assert producer.flush(15) == 0
        assert not failed, failed

    def consume(self, kafka: Kafka, topic: str, group: str, **config: str) -> Consumer:
        from confluent_kafka import Consumer as Member

        def live(state: Consumer) -> None:
            settings = kafka.client_config("confluent", "consumer")
            if config:  # the new protocol has its sessions from the broker
                del settings["session.timeout.ms"], settings["heartbeat.interval.ms"]
            member = Member(settings | {"group.id": group, "auto.offset.reset": "earliest"} | config)
            member.subscribe([topic])
            while not state.leaving.is_set():
                message = member.poll(0.05)
                if message is not None and message.error() is None:
                    state.got([message.value()])
            member.close()

        return self.begin(live)


class AioKafka(Client):
    """aiokafka, each in a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        library("aiokafka")

    def produce(self, kafka: Kafka, topic: str, *values: bytes, headers: Headers = ()) -> None:
        from aiokafka import AIOKafkaProducer

        config = kafka.client_config("aiokafka", "producer") | {"request_timeout_ms": REQUEST_TIMEOUT_MS}

        async def main() -> None:
            async with AIOKafkaProducer(enable_idempotence=True, **config) as producer:
                sent = [await producer.send(topic, value, headers=list(headers)) for value in values]
                await asyncio.wait_for(asyncio.gather(*sent), 15)

        asyncio.run(main())

    def consume(self, kafka: Kafka, topic: str, group: str) -> Consumer:
        from aiokafka import AIOKafkaConsumer

        config = kafka.client_config("aiokafka", "consumer")

        async def main(state: Consumer) -> None:
            async with AIOKafkaConsumer(topic, group_id=group, auto_offset_reset="earliest", **config) as consumer:
                while not state.leaving.is_set():
                    for records in (await consumer.getmany(timeout_ms=50)).values():
                        state.got(each.value for each in records)

        return self.begin(lambda state: asyncio.run(main(state)))


CLIENTS = {"kafka-python": KafkaPython, "confluent-kafka": Confluent, "aiokafka": AioKafka}
