"""Brokers: how one broker asks another, or itself, in Kafka's own messages.

A transaction's coordinator has partitions write markers that another broker may lead (WriteTxnMarkers), and who leads a
partition asks a coordinator that may be elsewhere whether to take a batch (AddPartitionsToTxn). Whoever asks need not
know which of them is this very process.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

import trio


class Brokers(Protocol):
    """The brokers of the cluster, this one included."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what it takes to reach them, until cancelled. started() when they may be asked."""

    def ask(self, broker_id: int, request: Any, version: int, timeout_s: float) -> Any | Coroutine[Any, Any, Any]:
        """What a broker answers: the response if it is there at once, else a coroutine of it.

        Args:
            broker_id: whom to ask.
            request: a message of kafka_wire; whoever asks neither keeps nor changes it afterwards.
            version: of the request, one that the broker speaks.
            timeout_s: how long to wait for the answer.

        Raises KafkaError, at once or in the coroutine, when there is no answer: BROKER_NOT_AVAILABLE for a broker that
        is unknown, NETWORK_EXCEPTION for one that could not be reached or broke off, REQUEST_TIMED_OUT for one that was
        too slow. In the last two cases what was asked may have been done all the same.
        """
