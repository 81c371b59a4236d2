"""A broker that asks itself: through the handler that clients are answered by; and others: over links."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from types import CoroutineType, SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.metadata import DescribeClusterRequest
from kbroker.api import registry
from kbroker.api.brokers import ClusterBrokers
from kbroker.api.context import Services
from kbroker.api.registry import Api
from kbroker.turns import PAUSES_A_TURN, Work, answer

SERVICES: Any = SimpleNamespace(node_id=1, registration=SimpleNamespace(broker_epoch=7))
Handling = Callable[[Callable[[Any, Any], Any]], ClusterBrokers]


@pytest.fixture
def handled_by(monkeypatch: pytest.MonkeyPatch) -> Handling:
    """Brokers whose DescribeCluster is answered by the handler given."""

    def brokers(handler: Callable[[Any, Any], Any]) -> ClusterBrokers:
        api = Api(ApiKey.DESCRIBE_CLUSTER, 0, 1, 0, handler, False)
        monkeypatch.setitem(registry.APIS, ApiKey.DESCRIBE_CLUSTER, api)
        services: Services = SERVICES
        links: Any = SimpleNamespace(ask=lambda *question: question)
        return ClusterBrokers(lambda: services, links)

    return brokers


def ask(brokers: ClusterBrokers, broker_id: int = 1) -> Any:
    return brokers.ask(broker_id, DescribeClusterRequest(), 1, timeout_s=5)


def test_what_is_answered_at_once_is_answered_within_the_call(handled_by: Handling) -> None:
    def handler(request: Any, context: Any) -> Any:
        return type(request), context.services, context.version

    assert ask(handled_by(handler)) == (DescribeClusterRequest, SERVICES, 1)


async def test_an_answer_still_to_come_is_a_coroutine(handled_by: Handling) -> None:
    async def late(request: Any, context: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return "late"

    later = ask(handled_by(late))
    assert isinstance(later, CoroutineType)
    assert await later == "late"


async def test_long_work_that_then_waits_is_answered(handled_by: Handling) -> None:
    async def wait() -> str:
        await trio.lowlevel.checkpoint()
        return "at last"

    def work() -> Work[Any]:
        for _ in range(PAUSES_A_TURN + 1):
            yield
        return wait()

    assert await ask(handled_by(lambda request, context: answer(work()))) == "at last"


def test_another_broker_is_asked_over_a_link(handled_by: Handling) -> None:
    brokers = handled_by(lambda request, context: None)
    assert ask(brokers, broker_id=2) == (2, DescribeClusterRequest(), 1, 5)


async def test_an_answer_that_does_not_come_is_not_waited_for(handled_by: Handling, autojump_clock: MockClock) -> None:
    async def never(request: Any, context: Any) -> Any:
        await trio.sleep_forever()

    with pytest.raises(KafkaError) as refused:
        await ask(handled_by(never))
    assert (refused.value.code, trio.current_time()) == (ErrorCode.REQUEST_TIMED_OUT, pytest.approx(5, abs=0.1))


async def test_a_handler_that_fails_harms_nobody_who_asks(
    handled_by: Handling, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(request: Any, context: Any) -> Any:
        raise ValueError("a bug")

    async def fails_later(request: Any, context: Any) -> Any:
        raise ValueError("a bug")

    with pytest.raises(KafkaError) as refused:
        ask(handled_by(fails))
    assert refused.value.code is ErrorCode.NETWORK_EXCEPTION
    with pytest.raises(KafkaError) as refused:
        await ask(handled_by(fails_later))
    assert refused.value.code is ErrorCode.NETWORK_EXCEPTION
    assert len(caplog.records) == 2


def test_an_answer_nobody_waits_for_is_given_up_quietly(handled_by: Handling) -> None:
    async def late(request: Any, context: Any) -> Any:
        await trio.sleep_forever()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(handled_by(late)).close()
        gc.collect()
