"""Topics, records and groups of a Kafka in plain calls, beside real clients, and when there is nothing to be had."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.topics import CreateTopicsRequest
from kbroker.testing.control import reader
from kbroker.testing.control.clients import FAST, client_config
from kbroker.testing.control.kafka import Kafka
from kbroker.testing.control.links import Links, NoBroker, addresses
from kbroker.testing.embedded.thread import ThreadBroker


@pytest.fixture(scope="module")
def broker() -> Iterator[ThreadBroker]:
    broker = ThreadBroker()
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def shared(broker: ThreadBroker) -> Iterator[Kafka]:
    kafka = Kafka(lambda: "{}:{}".format(*broker.address))
    yield kafka
    kafka.close()


@pytest.fixture
def kafka(broker: ThreadBroker, shared: Kafka) -> Kafka:
    broker.renew()  # the connections to the one before break, and nobody notices
    return shared


@pytest.fixture
def producer(kafka: Kafka) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(**kafka.client_config("kafka-python", "producer"))
    yield producer
    producer.close(timeout=1)


def test_what_was_produced_is_waited_for_and_told_whole(kafka: Kafka, producer: KafkaProducer) -> None:
    topic = kafka.create_topic("orders", partitions=2, config={"retention.ms": 1000, "preallocate": False})
    assert (kafka.topics(), topic.records()) == (["orders"], [])
    producer.send("orders", b"a", key=b"k", partition=1, headers=[("h", b"1")], timestamp_ms=1_700_000_000_000)
    producer.send("orders", None, key=b"k", partition=0)
    first, second = topic.wait_for(2)
    assert (first.partition, first.offset, first.key, first.value) == (0, 0, b"k", None)
    assert second == ("orders", 1, 0, 1_700_000_000_000, b"k", b"a", [("h", b"1")])
    assert topic.records() == [first, second]
    assert topic.wait_for(0) == []


def test_a_topic_may_come_while_it_is_waited_for(kafka: Kafka, producer: KafkaProducer) -> None:
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(kafka.topic("later").wait_for(1)))
    waiting.start()
    producer.send("later", b"a").get(timeout=5)
    waiting.join(5)
    assert [each.value for each in found] == [b"a"]


def test_of_transactions_only_what_was_committed_is_told(kafka: Kafka) -> None:
    kafka.create_topic("orders")
    producer = KafkaProducer(transactional_id="t", **kafka.client_config("kafka-python", "producer"))
    producer.init_transactions()
    for value, is_committed in ((b"kept", True), (b"given up", False), (b"kept, too", True)):
        producer.begin_transaction()
        producer.send("orders", value).get(timeout=5)
        (producer.commit_transaction if is_committed else producer.abort_transaction)()
    producer.begin_transaction()
    producer.send("orders", b"open").get(timeout=5)
    assert [each.value for each in kafka.topic("orders").records()] == [b"kept", b"kept, too"]
    producer.abort_transaction()
    producer.close(timeout=1)


def test_waiting_in_vain_says_what_was_there(kafka: Kafka, producer: KafkaProducer) -> None:
    kafka.create_topic("orders")
    with pytest.raises(TimeoutError, match=r"^topic orders has no record after 0.1 s, not 1$"):
        kafka.topic("orders").wait_for(1, timeout=0.1)
    producer.send("orders", b"a").get(timeout=5)
    with pytest.raises(TimeoutError, match=r"^topic orders has 1 record \(orders-0@0 b'a'\) after 0.1 s, not 2$"):
        kafka.topic("orders").wait_for(2, timeout=0.1)
    with pytest.raises(TimeoutError, match=r"^there is no topic order \(there are orders\) after 0.1 s, not 1$"):
        kafka.topic("order").wait_for(1, timeout=0.1)
    with pytest.raises(LookupError, match="there is no topic order "):
        kafka.topic("order").records()
    assert kafka.topics() == ["orders"]  # looking for it has not made it
    for timeout in (-1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="a timeout is between"):
            kafka.topic("orders").wait_for(1, timeout=timeout)


def test_what_no_topic_can_be_is_a_mistake_of_the_test(kafka: Kafka) -> None:
    for wrong in ({"name": "no good"}, {"name": "t", "partitions": 0}, {"name": "t", "config": {"retention": "1"}}):
        with pytest.raises(ValueError, match="cannot be created"):
            kafka.create_topic(**wrong)  # type: ignore[arg-type]
    kafka.create_topic("orders")
    with pytest.raises(KafkaError, match="topic orders cannot be created") as refused:
        kafka.create_topic("orders")
    assert refused.value.code is ErrorCode.TOPIC_ALREADY_EXISTS
    kafka.delete_topics(["orders", "nowhere"])
    assert kafka.topics() == []


def test_a_topic_is_created_once_though_the_answer_is_lost(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, lost = Links.ask, list[str]()

    async def lose_the_first_answer(links: Links, request: Any, node: int | None = None) -> Any:
        answer = await ask(links, request, node)
        if isinstance(request, CreateTopicsRequest) and request.topics[0].name not in lost:
            lost.append(request.topics[0].name)
            raise trio.BrokenResourceError
        return answer

    kafka.create_topic("there")
    monkeypatch.setattr(Links, "ask", lose_the_first_answer)
    kafka.create_topic("orders", partitions=2)
    with pytest.raises(KafkaError, match="TOPIC_ALREADY_EXISTS"):
        kafka.create_topic("there")
    assert lost == ["orders", "there"]
    assert kafka.topics() == ["orders", "there"]


def test_a_group_is_waited_for_and_its_lag_told(kafka: Kafka, producer: KafkaProducer) -> None:
    kafka.create_topic("orders", partitions=2)
    group = kafka.group("app")
    assert (group.state(), group.members(), group.lag()) == ("Dead", [], 0)
    for n in range(4):
        producer.send("orders", b"%d" % n, partition=n % 2)
    kafka.topic("orders").wait_for(4)
    config = {**kafka.client_config("kafka-python", "consumer"), "group_id": "app", "auto_offset_reset": "earliest"}
    consumer = KafkaConsumer("orders", enable_auto_commit=False, client_id="c1", **config)
    polling = threading.Event()

    def poll() -> None:
        while not polling.is_set():
            consumer.poll(timeout_ms=500)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        [member] = group.wait_stable(members=1)
        assert (member.client_id, sorted(member.partitions)) == ("c1", [("orders", 0), ("orders", 1)])
        assert group.lag() == 4  # it owns them, and has committed nothing
        with pytest.raises(TimeoutError, match=r"^group app is Stable with 1 member \(c1: orders-0, orders-1\) after"):
            group.wait_stable(members=2, timeout=0.1)
        with pytest.raises(
            TimeoutError, match=r"has a lag of 4 \(orders-0: 2, orders-1: 2\) after 0.1 s, not a lag of 1"
        ):
            group.wait_lag(1, timeout=0.1)
    finally:
        polling.set()
        poller.join()
    while sum(consumer.position(each) for each in consumer.assignment()) < 4:
        consumer.poll(timeout_ms=50)
    consumer.commit()
    assert (group.lag(), group.offsets()) == (0, {("orders", 0): 2, ("orders", 1): 2})
    group.wait_lag()
    consumer.close(autocommit=False)
    assert group.wait_stable(members=0) == []
    assert kafka.groups() == ["app"]
    kafka.delete_groups(["app", "nowhere"])
    assert kafka.groups() == []


def test_a_group_that_nobody_joins_says_so(kafka: Kafka) -> None:
    with pytest.raises(TimeoutError, match=r"^there is no group app after 0.1 s, not stable with any member$"):
        kafka.group("app").wait_stable(timeout=0.1)
    with pytest.raises(TimeoutError, match="group app has no partitions after"):
        kafka.group("app").wait_lag(timeout=0.1)


def test_a_broker_that_is_gone_is_named(broker: ThreadBroker, kafka: Kafka) -> None:
    kafka.create_topic("orders")
    broker.kill()
    with pytest.raises(NoBroker, match=r"no broker at 127.0.0.1:\d+: .*refused"):
        kafka.topic("orders").wait_for(1)
    broker.start()
    assert kafka.topics() == ["orders"]


def test_a_broker_that_comes_back_meanwhile_is_not_missed(broker: ThreadBroker, kafka: Kafka) -> None:
    kafka.create_topic("orders")
    broker.stop()
    starting = threading.Timer(0.2, broker.start)
    starting.start()
    assert kafka.topic("orders").records() == []
    starting.join()


def test_who_is_no_broker_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # accepts and says nothing
        host, port = nobody.getsockname()
        kafka = Kafka(lambda: f"{host}:{port}")
        try:
            closing = threading.Thread(target=lambda: nobody.accept()[0].close())
            closing.start()
            with pytest.raises(TimeoutError, match=r"no broker has answered after 0.2 s"):
                kafka.topic("t").wait_for(1, timeout=0.2)
            closing.join()
        finally:
            kafka.close()
    with pytest.raises(ValueError, match="'localhost' is no address"):
        addresses("localhost")
    assert addresses("[::1]:9092, b:1") == [("::1", 9092), ("b", 1)]


def test_it_ends_with_its_thread_and_begins_anew(broker: ThreadBroker, kafka: Kafka) -> None:
    other = Kafka(lambda: "{}:{}".format(*broker.address))
    assert other.topics() == []
    names = [each.name for each in threading.enumerate()]
    other.close()
    other.close()
    assert len(threading.enumerate()) < len(names)
    assert other.topics() == []
    other.close()


def test_many_threads_may_ask_at_once(kafka: Kafka, producer: KafkaProducer) -> None:
    kafka.create_topic("orders")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(kafka.topic("orders").wait_for(1)))) for _ in range(8)]
    for each in threads:
        each.start()
    producer.send("orders", b"a")
    for each in threads:
        each.join(10)
    assert found == [1] * 8


# -- settings for clients ---------------------------------------------------------------------------------------------


def test_settings_by_each_library_s_own_names() -> None:
    assert client_config("kafka-python", "b:1", fast=False) == {"bootstrap_servers": "b:1"}
    assert client_config("confluent-kafka", "b:1", fast=False) == {"bootstrap.servers": "b:1"}
    assert client_config("aiokafka", "b:1", "producer")["request_timeout_ms"] == 2000
    for client in FAST:
        for role in ("producer", "consumer", "admin", None):
            assert "b:1" in client_config(client, "b:1", role).values()
    with pytest.raises(ValueError, match="no settings for the client 'kafkapython', did you mean 'kafka-python'"):
        client_config("kafkapython", "b:1")
    with pytest.raises(ValueError, match="there are kafka-python, aiokafka, confluent, java"):
        client_config("sarama", "b:1")
    with pytest.raises(ValueError, match="a client is a producer, consumer or admin, not 'both'"):
        client_config("java", "b:1", "both")


def test_a_new_client_of_kafka_python_does_not_wait_for_its_second_metadata(kafka: Kafka) -> None:
    def waits(make: Callable[..., Any], client: type, role: str) -> int:
        made: list[Any] = []

        def note(**settings: Any) -> Any:
            made.append(make(**settings))
            return made[0]

        client(**{**kafka.client_config("kafka-python", role), "kafka_client": note}).close()
        return int(made[0].cluster.config["retry_backoff_ms"])

    theirs = KafkaProducer.DEFAULT_CONFIG["kafka_client"]
    for client, role in ((KafkaProducer, "producer"), (KafkaConsumer, "consumer"), (KafkaAdminClient, "admin")):
        assert waits(kafka.client_config("kafka-python", role)["kafka_client"], client, role) == 5
        assert waits(theirs, client, role) == 100  # where it is 5, `quick_kafka_python` has become needless


def test_a_topic_that_is_too_much_to_be_held_is_refused(
    kafka: Kafka, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.create_topic("orders")
    producer.send("orders", b"x" * 1000).get(timeout=5)
    monkeypatch.setattr(reader, "HELD_MAX", 999)
    with pytest.raises(ValueError, match="topic orders has more than 100,000 records, or 0 MiB"):
        kafka.topic("orders").records()
