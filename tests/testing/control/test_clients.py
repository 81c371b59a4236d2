"""Faults and jumps of the clock as real clients take them: what an application that uses them would have to be tested
for. The clients that are not installed are left out by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kbroker.testing.control.kafka import Kafka
from kbroker.testing.control.remote import Clock, Faults, Requests
from kbroker.testing.embedded.thread import ThreadBroker
from tests.testing.control.client_tools import CLIENTS, Confluent

pytestmark = pytest.mark.slow  # clients have clocks of their own
PATIENCE_S = 15.0


class Broker:
    """A broker as the plugin's fixture shows it."""

    def __init__(self) -> None:
        self.embedded = ThreadBroker()
        self.kafka = Kafka(lambda: "{}:{}".format(*self.embedded.address))
        self.faults = Faults(self.embedded)
        self.clock = Clock(self.embedded)

    def requests(self, api: str, **options: Any) -> Requests:
        return Requests(self.embedded, api, **options)

    def close(self) -> None:
        self.kafka.close()
        self.embedded.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


@pytest.fixture
def broker(shared: Broker) -> Broker:
    shared.embedded.renew()
    shared.kafka.create_topic("orders")
    return shared


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    client = CLIENTS[request.param]()
    yield client
    client.leave_all()


def wait_until(holds: Callable[[], bool]) -> None:
    """Ask the broker until it is so: nothing rings when a client does something."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_producer_asks_again_after_not_leader_or_follower(broker: Broker, client: Any) -> None:
    broker.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="orders", times=2)
    client.produce(broker.kafka, "orders", b"a")
    assert [each.value for each in broker.kafka.topic("orders").wait_for(1)] == [b"a"]
    assert broker.requests("Produce").count == 3
    assert [each.fate for each in broker.requests("Produce", topic="orders")][2] == "answered"
    assert broker.faults.unfired() == []


@pytest.mark.parametrize("fault", ["lose_response", "close"])
def test_a_lost_answer_and_an_idempotent_producer_make_exactly_one_record(
    broker: Broker, client: Any, fault: str
) -> None:
    options = {"carried_out": True} if fault == "close" else {}
    getattr(broker.faults, fault)("Produce", **options)
    client.produce(broker.kafka, "orders", b"a", b"b")
    assert [each.value for each in broker.kafka.topic("orders").records()] == [b"a", b"b"]
    assert broker.requests("Produce").count >= 2
    assert broker.faults.unfired() == []


def test_a_lost_request_is_sent_again(broker: Broker, client: Any) -> None:
    broker.faults.lose_request("Produce")
    client.produce(broker.kafka, "orders", b"a")
    assert [each.value for each in broker.kafka.topic("orders").records()] == [b"a"]
    assert [each.fate for each in broker.requests("Produce")][0] == "lost by a fault"


def test_a_consumer_waits_for_its_coordinator(broker: Broker, client: Any) -> None:
    broker.faults.error("FindCoordinator", "COORDINATOR_NOT_AVAILABLE", times=3)
    client.produce(broker.kafka, "orders", b"a")
    consumer = client.consume(broker.kafka, "orders", "app")
    assert consumer.wait_for(1) == [b"a"]
    assert broker.requests("FindCoordinator").count > 3
    assert broker.faults.unfired() == []


def test_a_consumer_reads_on_after_errors_of_its_fetches(broker: Broker, client: Any) -> None:
    client.produce(broker.kafka, "orders", b"a")
    consumer = client.consume(broker.kafka, "orders", "app")
    consumer.wait_for(1)
    broker.faults.error("Fetch", "NOT_LEADER_OR_FOLLOWER", topic="orders", times=2)
    broker.faults.error("Metadata", "LEADER_NOT_AVAILABLE", topic="orders")
    broker.faults.close("Fetch")
    wait_until(lambda: not broker.faults.unfired())
    client.produce(broker.kafka, "orders", b"b")
    assert consumer.wait_for(2) == [b"a", b"b"]


def test_half_an_hour_passes_for_data_and_no_live_consumer_is_expelled(broker: Broker, client: Any) -> None:
    broker.kafka.create_topic("later", config={"kbroker.delay.enable": True})
    consumer = client.consume(broker.kafka, "later", "app")
    [member] = broker.kafka.group("app").wait_stable(members=1)
    client.produce(broker.kafka, "later", b"in half an hour", headers=[("kbroker-deliver-after", b"1800000")])
    before = {api: broker.requests(api).count for api in ("JoinGroup", "Heartbeat")}
    broker.clock.advance("29m")
    wait_until(lambda: broker.requests("Heartbeat").count >= before["Heartbeat"] + 2)
    assert consumer.values == []
    broker.clock.advance("1m")
    assert consumer.wait_for(1) == [b"in half an hour"]
    assert broker.kafka.group("app").members() == [member]
    assert broker.requests("JoinGroup").count == before["JoinGroup"]


def test_a_group_of_the_new_protocol_lives_through_it_too(broker: Broker) -> None:
    client = Confluent()
    consumer = client.consume(broker.kafka, "orders", "app", **{"group.protocol": "consumer"})
    [member] = broker.kafka.group("app").wait_stable(members=1, timeout=15)
    assert member.partitions == {("orders", 0)}
    broker.clock.advance("30m")
    client.produce(broker.kafka, "orders", b"a")
    assert consumer.wait_for(1) == [b"a"]
    assert broker.kafka.group("app").members() == [member]
    client.leave_all()
    broker.kafka.group("app").wait_stable(members=0)
