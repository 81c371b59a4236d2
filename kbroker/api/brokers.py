"""ClusterBrokers: each broker of the cluster may be asked: the others over links, this one by a call.

What this broker asks itself goes straight to the handler; no bytes are made. What is answered at once is answered
within the call, so that a transaction on one broker costs no turn of the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api.context import Context, Peer, Services
from kbroker.api.registry import APIS
from kbroker.awaited import LATER, Awaited
from kbroker.cluster.peers.links import Links, key_of
from kbroker.turns import Later, is_long, under_way

log = logging.getLogger("kbroker.brokers")


class ClusterBrokers:
    """The brokers of the cluster; see `cluster/peers/brokers.py` for what is promised."""

    __slots__ = ("_services", "_links")

    def __init__(self, services: Callable[[], Services], links: Links) -> None:
        """services: this broker's, asked for when they are first needed, as they are made after this."""
        self._services = services
        self._links = links

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links to the others, until cancelled."""
        await self._links.run(task_status=task_status)

    def ask(self, broker_id: int, request: Any, version: int, timeout_s: float) -> Any | Coroutine[Any, Any, Any]:
        """What the broker answers. Raises KafkaError."""
        services = self._services()
        if broker_id != services.node_id:
            return self._links.ask(broker_id, request, version, timeout_s)
        api = APIS[key_of(request)]
        assert api.version_min <= version <= api.version_max, f"{api.key.name} {version} is not answered here"
        # A peer of its own: what is asked here is in no order with anything else.
        peer = Peer(("", 0), ("", 0), "", broker_id, services.registration.broker_epoch)
        try:
            answer = api.handle(request, Context(services, peer, version, None))
        except Exception as error:
            raise _broke_off(error) from error
        if isinstance(answer, Awaited):
            answer = answer.wait()
        return _arrive(Later(answer), timeout_s) if isinstance(answer, CoroutineType) else answer


async def _arrive(later: Later, timeout_s: float) -> Any:
    """The response. Long work takes its place among that of other brokers."""
    answer: Any = later.coroutine
    try:
        with trio.move_on_after(timeout_s):
            if is_long(answer):
                async with under_way(of_broker=True):
                    while is_long(answer):
                        answer = await answer
            while isinstance(answer, LATER):
                answer = await (answer if isinstance(answer, CoroutineType) else answer.wait())
            return answer
    except Exception as error:
        raise _broke_off(error) from error
    raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, f"this broker did not answer itself within {timeout_s:g} s")


def _broke_off(error: Exception) -> KafkaError:
    """A handler that fails closes the connection it was asked on; whoever asks within the broker hears as much."""
    log.error("a request of this broker to itself failed", exc_info=error)
    return KafkaError(ErrorCode.NETWORK_EXCEPTION, "this broker could not answer itself")
