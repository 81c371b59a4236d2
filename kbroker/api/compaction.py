"""CompactLog 0: have a log compacted now, however little of it is dirty. kbroker's own: ApiVersions tells nobody of it.

Asked of the partition's leader, which closes the active segment first: so all that is there by now is looked at (one
that goes on is joined, though).
`min.compaction.lag.ms` is kept, and nothing of an open transaction is touched. Followers compact their own logs when it
is worth it. Who may alter the topic's configs may ask.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import trio

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.compaction import CompactLogRequest, CompactLogResponse
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.log.cleaner.cleaner import Outcome
from kbroker.log.cleaner.orders import Order

WAIT_MS_MAX = 60_000


@handles(ApiKey.COMPACT_LOG, 0, 0)
def compact_log(
    request: CompactLogRequest, context: Context
) -> CompactLogResponse | Coroutine[Any, Any, CompactLogResponse]:
    """Order a compaction, or ask what became of one."""
    try:
        order = _order(request, context.services)
    except KafkaError as error:
        return CompactLogResponse(error_code=error.code, error_message=error.message)
    return _answer(order, min(max(request.timeout_ms, 0), WAIT_MS_MAX))


def _order(request: CompactLogRequest, services: Services) -> Order:
    """Raises KafkaError."""
    if request.order_id >= 0:
        order = services.logs.orders.find(request.order_id)
        if order is None:
            text = f"No compaction {request.order_id} is known here; it was ordered from another broker, or long ago."
            raise KafkaError(ErrorCode.INVALID_REQUEST, text)
        return order
    topic, index = request.topic_name, request.partition_index
    partition = services.partition(topic, index)
    if not partition.leading:
        raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
    partition.log.check_online()
    if not partition.log.config.compacts:
        policy = partition.log.config.cleanup_policy
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{topic} is not compacted: its cleanup.policy is {policy}.")
    return services.logs.orders.place(partition.log, partition.high_watermark)


async def _answer(order: Order, wait_ms: int) -> CompactLogResponse:
    with trio.move_on_after(wait_ms / 1000):
        await order.done.wait()
    match order.outcome:
        case None:
            return CompactLogResponse(order_id=order.id)
        case KafkaError() as error:
            return CompactLogResponse(error_code=error.code, error_message=error.message)
        case Outcome() as outcome:
            return CompactLogResponse(
                bytes_before=outcome.bytes_before,
                bytes_after=outcome.bytes_after,
                records_before=outcome.records_before,
                records_after=outcome.records_after,
                tombstones=outcome.tombstones,
                segments_before=outcome.segments_before,
                segments_after=outcome.segments_after,
                duration_ms=round(outcome.seconds * 1000),
                cleaned_to=outcome.cleaned_to,
            )
