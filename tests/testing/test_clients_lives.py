"""Real clients go on over the end of an embedded broker and its next start: same port, same data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaProducer

from kbroker.testing.embedded.backends import make_embedded
from kbroker.testing.handles import KBroker
from tests.testing.control.client_tools import library

pytestmark = pytest.mark.slow  # clients look again when they think it is time
PATIENCE_S = 20.0
Send = Callable[[bytes], None]


@pytest.fixture(scope="module", params=["thread", "process"])
def shared(request: pytest.FixtureRequest) -> Iterator[KBroker]:
    broker = KBroker(make_embedded(request.param, "127.0.0.1", 0, {}))
    yield broker
    broker.close()


@pytest.fixture
def broker(shared: KBroker) -> KBroker:
    shared.renew({}, {"t": 1})
    return shared


@contextmanager
def kafka_python(broker: KBroker) -> Iterator[Send]:
    producer = KafkaProducer(**broker.client_config("kafka-python", "producer"))
    yield lambda value: producer.send("t", value).get(timeout=PATIENCE_S)
    producer.close()


@contextmanager
def confluent(broker: KBroker) -> Iterator[Send]:
    library("confluent_kafka")
    from confluent_kafka import Producer

    producer = Producer({**broker.client_config("confluent", "producer"), "enable.idempotence": True})

    def send(value: bytes) -> None:
        failures: list[Any] = []
        producer.produce("t", value, on_delivery=lambda error, _: failures.append(error))
        assert producer.flush(PATIENCE_S) == 0
        assert failures == [None]

    yield send


@contextmanager
def aiokafka(broker: KBroker) -> Iterator[Send]:
    library("aiokafka")
    from aiokafka import AIOKafkaProducer

    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        producer = AIOKafkaProducer(**broker.client_config("aiokafka", "producer"), enable_idempotence=True)
        await producer.start()
        return producer

    producer = loop.run_until_complete(begin())
    yield lambda value: loop.run_until_complete(
        asyncio.wait_for(producer.send_and_wait("t", value), PATIENCE_S),
    )
    loop.run_until_complete(producer.stop())
    loop.close()


@pytest.mark.parametrize("client", [kafka_python, confluent, aiokafka])
@pytest.mark.parametrize("end", ["kill", "stop", "pause"])
def test_a_client_goes_on_after(client: Any, end: str, broker: KBroker) -> None:
    with client(broker) as send:
        send(b"before")
        getattr(broker, end)()
        broker.start()
        send(b"after")
    assert [record.value for record in broker.topic("t").wait_for(2)] == [b"before", b"after"]


@pytest.mark.parametrize("client", [kafka_python, confluent, aiokafka])
def test_a_client_that_a_test_leaves_open_writes_nothing_to_the_next_ones_broker(client: Any, broker: KBroker) -> None:
    with client(broker) as send:
        send(b"of the test before")
        broker.renew({"auto.create.topics.enable": "false"}, {"u": 1})
        assert broker.topics() == ["u"]
        assert broker.topic("u").records() == []
