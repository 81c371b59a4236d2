"""Which topics a request is about. An incremental fetch names none: it is about those of its session (KIP-227)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from kafka_wire.api import ApiKey
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kbroker.api.context import Context, Services
from kbroker.api.fetch_sessions import FINAL, FULL, PartitionKey
from kbroker.testing.control.topics import topics_of

TOPICS_NOTED_MAX = 100  # of one request


def whole(request: Any, key: ApiKey, context: Context) -> Any:
    """The request, or of an incremental fetch, one that names all that is fetched."""
    if not _is_incremental(request, key):
        return request
    topics: dict[Any, FetchTopic] = {}
    for name, index in _fetched(request, context):
        if name not in topics:
            topics[name] = FetchTopic(partitions=[])
            setattr(topics[name], "topic_id" if isinstance(name, bytes) else "topic", name)
        topics[name].partitions.append(FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=0))
    return FetchRequest(max_wait_ms=0, min_bytes=0, topics=list(topics.values()))


def _is_incremental(request: Any, key: ApiKey) -> bool:
    return key is ApiKey.FETCH and request.session_epoch not in (FULL, FINAL)


def _fetched(request: FetchRequest, context: Context) -> Iterable[PartitionKey]:
    """What is fetched by an incremental fetch."""
    by_id = context.version >= 13
    asked = dict.fromkeys(context.services.fetch_sessions.partitions(request.session_id))
    for topic in request.topics:
        for partition in topic.partitions:
            asked[topic.topic_id if by_id else topic.topic, partition.partition] = None
    for forgotten in request.forgotten_topics_data:
        for index in forgotten.partitions:
            asked.pop((forgotten.topic_id if by_id else forgotten.topic, index), None)
    return asked


def topic_name(topic: str | bytes, services: Services) -> str:
    """Of a topic named in a request, by its name or its id; "" if there is none of that id."""
    return topic if isinstance(topic, str) else services.topic_name(bytes(topic))


def topic_names(request: Any, key: ApiKey, context: Context) -> tuple[str, ...]:
    """The topics that a request is about; not all of very many."""
    if _is_incremental(request, key):
        found = list(islice(dict.fromkeys(topic for topic, _ in _fetched(request, context)), TOPICS_NOTED_MAX))
    else:
        found = topics_of(request, context.version, TOPICS_NOTED_MAX)
    return tuple(name for each in found if (name := topic_name(each, context.services)))
