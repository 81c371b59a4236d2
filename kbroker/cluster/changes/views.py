"""Views: whether one can be made of a topic, and what cannot be done to a view, as pure functions.

A view is a topic in the store like any other, with `kbroker.view.source` among its configs and without partitions: the
image shows those of its source. What makes one guards the source's key and writes it anew, and what deletes a topic
guards its key: so a source cannot go while a view of it comes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import INTERNAL_TOPICS, ClusterImage, TopicImage
from kbroker.config.keys import ConfigError
from kbroker.config.views import FILTER_MAX, VIEW_SOURCE, check_view_filter, view_of
from kbroker.turns import Work, rest

VIEWS_MAX = 100  # of one source: each of its changes touches them all
PARSING_STEPS = 3  # of each character of a filter
NAMED_MAX = 5  # views, in an error


def plan_view(wish: NewTopic, topic_id: bytes, configs: Mapping[str, str], image: ClusterImage) -> TopicImage:
    """The view that is wished for, as it will be.

    configs: its own, checked already; one of them is the source. Raises KafkaError INVALID_CONFIG, INVALID_PARTITIONS,
    INVALID_REPLICATION_FACTOR, INVALID_REPLICA_ASSIGNMENT, POLICY_VIOLATION.
    """
    source = source_of(wish.name, configs, image)
    if wish.assignments:
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"A view has the replicas of its source {source.name}.")
    if wish.partitions not in (-1, len(source.partitions)):
        text = f"A view has the partitions of its source {source.name}: {len(source.partitions)}, not {wish.partitions}"
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"{text}. -1 stands for that.")
    factor = len(source.partitions[0].replicas)
    if wish.replication_factor not in (-1, factor):
        text = f"A view has the replicas of its source {source.name}: {factor}, not {wish.replication_factor}"
        raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, f"{text}. -1 stands for that.")
    return TopicImage(wish.name, topic_id, source.partitions, configs, view=view_of(configs))


def source_of(name: str, configs: Mapping[str, str], image: ClusterImage) -> TopicImage:
    """The topic that one of this name, with these configs, is to be a view of. Raises KafkaError, as `plan_view`."""
    wanted = configs[VIEW_SOURCE]
    source = image.topics.get(wanted)
    problem = ""
    if name in INTERNAL_TOPICS:
        problem = f"{name} is a topic of the broker's own, and cannot be a view"
    elif wanted == name:
        problem = "a view cannot be its own source"
    elif wanted in INTERNAL_TOPICS:
        problem = f"{wanted[:249]} is a topic of the broker's own, and has no views"
    elif source is None:
        problem = f"there is no topic {wanted[:249]}"
    elif source.view is not None:
        problem = f"{wanted} is a view itself, of {source.view.source}, and has no views"
    if problem or source is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"{VIEW_SOURCE}: {problem}.")
    if len(image.views.get(wanted, ())) >= VIEWS_MAX:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, f"{wanted} has {VIEWS_MAX} views: a topic has no more.")
    return source


def check_filter(text: str | None) -> Work[None]:
    """Whether that is a filter: asked ahead of all else, as it takes a few milliseconds. Raises INVALID_CONFIG."""
    if not text:
        return
    problem = ""
    try:
        check_view_filter(text.strip())
    except ConfigError as error:
        problem = str(error)
    yield from rest(PARSING_STEPS * min(len(text), FILTER_MAX))
    if problem:
        raise KafkaError(ErrorCode.INVALID_CONFIG, problem)


def refusal(topic: TopicImage) -> KafkaError:
    """What is said to who wants to write or change what is only shown. topic: a view."""
    assert topic.view is not None
    text = f"{topic.name} is a read-only view of {topic.view.source}"
    return KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, text)


def check_no_view(topic: TopicImage | None) -> None:
    """Raise KafkaError INVALID_TOPIC_EXCEPTION for a view."""
    if topic is not None and topic.view is not None:
        raise refusal(topic)


def check_no_views_of(topic: TopicImage, image: ClusterImage) -> None:
    """Raise KafkaError POLICY_VIOLATION for a topic that has views: it cannot be deleted under them."""
    views = image.views.get(topic.name, ())
    if views and topic.view is None:
        named = ", ".join(views[:NAMED_MAX]) + (f" and {len(views) - NAMED_MAX} more" if views[NAMED_MAX:] else "")
        text = f"Topic {topic.name} has views, which are to be deleted before it: {named}."
        raise KafkaError(ErrorCode.POLICY_VIOLATION, text)


def check_source(current: Mapping[str, str], altered: Mapping[str, str]) -> None:
    """Raise KafkaError INVALID_CONFIG where a topic is to be a view of another topic, or of one or none at all."""
    was, now = current.get(VIEW_SOURCE, ""), altered.get(VIEW_SOURCE, "")
    if was == now:
        return
    if not was:
        problem = "a topic is made a view when it is created, not afterwards"
    else:
        problem = f"the source of a view cannot be changed: it is {was}"
        problem += ", which a request that replaces all configs has to name" if not now else ""
    raise KafkaError(ErrorCode.INVALID_CONFIG, f"{VIEW_SOURCE}: {problem}.")
