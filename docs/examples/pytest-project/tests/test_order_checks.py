"""The shop on a real broker: half an hour passes in a millisecond."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from order_checks import TOPIC, Shop, unpaid


@pytest.fixture(autouse=True)
def topic(kbroker):
    return kbroker.create_topic(TOPIC, partitions=3, config={"kbroker.delay.enable": True})


@pytest.fixture
def shop(kbroker) -> Iterator[Shop]:
    shop = Shop(kbroker.client_config("kafka-python", "producer"))
    yield shop
    shop.close()


def found(kbroker, wait_ms: int = 300) -> list[str]:
    """What the check finds, until there is nothing for so long."""
    settings = kbroker.client_config("kafka-python", "consumer")
    return sorted(unpaid({**settings, "consumer_timeout_ms": wait_ms}))


def test_an_order_that_is_not_paid_is_found_after_half_an_hour(kbroker, shop):
    for number in ("o-1", "o-2", "o-3"):
        shop.order(number)
    shop.pay("o-2")

    kbroker.clock.advance("29m")
    assert found(kbroker) == []

    kbroker.clock.advance("1m")
    assert found(kbroker) == ["o-1", "o-3"]


def test_what_waits_is_there_after_a_crash(kbroker, shop):
    shop.order("o-1")
    kbroker.kill()
    kbroker.start()
    kbroker.clock.advance("30m")
    assert found(kbroker) == ["o-1"]


def test_an_order_whose_answer_is_lost_is_taken_once(kbroker, shop):
    kbroker.faults.lose_response("Produce", topic=TOPIC, times=1)
    shop.order("o-1")
    assert kbroker.requests("Produce").count == 2
    kbroker.clock.advance("30m")
    assert found(kbroker) == ["o-1"]


def test_nothing_of_other_tests_is_left(kbroker, shop):
    assert kbroker.topics() == [TOPIC]
    assert kbroker.topic(TOPIC).records() == []
