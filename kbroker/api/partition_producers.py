"""DescribeProducers 0: the producers that partitions remember, and the transactions they have open there (KIP-664).

It takes no leader: each replica has them, and says what it knows. A partition that is named twice is told once. A view
has those of its source: they are what its readers may have to wait for.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import KafkaError
from kafka_wire.messages.transactions import (
    DescribeProducersPartitionResult,
    DescribeProducersRequest,
    DescribeProducersResponse,
    DescribeProducersTopicResult,
    ProducerState,
)
from kafka_wire.schema import maker
from kbroker.api.context import Context, Services
from kbroker.api.registry import handles
from kbroker.cluster.changes.placement import check_topic_name
from kbroker.log.derived.producers import ProducerStates
from kbroker.turns import Work, answer, each

Answer: TypeAlias = "DescribeProducersResponse | Coroutine[Any, Any, DescribeProducersResponse]"

_new_state = maker(
    ProducerState, "producer_id", "producer_epoch", "last_sequence", "last_timestamp", "coordinator_epoch",
    "current_txn_start_offset",
)  # fmt: skip


@handles(ApiKey.DESCRIBE_PRODUCERS, 0, 0)
def describe_producers(request: DescribeProducersRequest, context: Context) -> Answer:
    """What is known of the producers of each partition asked about."""
    return answer(_described(request, context.services))


def _described(request: DescribeProducersRequest, services: Services) -> Work[DescribeProducersResponse]:
    topics = []
    asked: dict[str, dict[int, None]] = {}
    for topic in request.topics:
        indexes = asked.setdefault(topic.name, {})
        yield from each(partial(indexes.setdefault), topic.partition_indexes)
        yield
    for name, indexes in asked.items():
        rows = []
        for index in indexes:
            rows.append((yield from _partition(name, index, services)))
            yield
        topics.append(DescribeProducersTopicResult(name=name, partitions=rows))
    return DescribeProducersResponse(topics=topics)


def _partition(topic: str, index: int, services: Services) -> Work[DescribeProducersPartitionResult]:
    row = DescribeProducersPartitionResult(partition_index=index)
    try:
        check_topic_name(topic)
        producers = services.reading(topic, index).log.producers
    except KafkaError as error:
        row.error_code = error.code
        row.error_message = None if topic in services.image.topics else error.message  # as Kafka: of topics alone
        return row
    states = yield from each(partial(_state, producers), tuple(producers.by_id))
    row.active_producers = [state for state in states if state is not None]
    return row


def _state(producers: ProducerStates, producer_id: int) -> ProducerState | None:
    """What is known of a producer; None when it is gone meanwhile."""
    known = producers.by_id.get(producer_id)
    if known is None:
        return None
    return _new_state(
        producer_id, known.epoch, known.last_sequence, known.last_timestamp_ms, known.coordinator_epoch,
        known.txn_first_offset,
    )  # fmt: skip
