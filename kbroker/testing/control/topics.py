"""Which topics, and partitions of them, a request is about; and a request cut in two by them. Pure.

By the declarations: topics are the elements of an array that is called so or has a topic's id, the names in an array of
such, and config resources of a topic. What a fetch session forgets, nobody asks about.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import cache
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey, request_class
from kafka_wire.schema import Field, layout

TOPIC_RESOURCE = 2  # the resource type of configs
NO_ID = bytes(16)

# What a field stands for; others stand for what they are called.
TOPIC, TOPIC_ID, PARTITION = "topic", "topic_id", "partition"
_ROLES = {
    "name": TOPIC, "topic": TOPIC, "topic_name": TOPIC, "topic_names": TOPIC,
    "index": PARTITION, "partition_index": PARTITION, "partition_id": PARTITION, "partition_indexes": PARTITION,
    "partitions": PARTITION,
}  # fmt: skip
Wants = Callable[[Any, "int | None"], bool]  # topic (name, or id as it came), partition (None: any of them)


def role(name: str) -> str:
    """What a field stands for."""
    return _ROLES.get(name, name)


class _Spot(NamedTuple):
    """Where a struct of requests says something of topics."""

    topic: str | None  # fields of it, where it is a topic's
    topic_id: str | None
    resource: bool  # it is a config resource
    partitions: Field | None
    arrays: tuple[Field, ...]  # that lead on to topics
    names: tuple[str, ...]  # arrays of topics' names


def _spot_of(holder: Any, version: int, is_topic: bool) -> _Spot:
    cls: Any = type(holder)
    return _spot(cls, version, is_topic)


@cache
def _spot(cls: Any, version: int, is_topic: bool) -> _Spot:
    fields = [each for each in layout(cls).fields if each.has(version)]
    names = {each.name for each in fields}
    named = [each.name for each in fields if is_topic and role(each.name) == TOPIC and each.kind == "string"]
    arrays = [each for each in fields if each.kind == "array"]
    deeper = tuple(each for each in arrays if isinstance(each.item, type) and _leads_to_topics(each, version))
    return _Spot(
        named[0] if named else None,
        "topic_id" if "topic_id" in names and is_topic else None,
        {"resource_type", "resource_name"} <= names,
        next((each for each in arrays if is_topic and _is_partitions(each)), None),
        () if is_topic else deeper,
        tuple(each.name for each in arrays if each.item == "string" and each.name in _TOPIC_NAMES),
    )


_TOPIC_NAMES = ("topic_names", "subscribed_topic_names")
_FORGOTTEN = "forgotten_topics_data"


def _is_partitions(array: Field) -> bool:
    if array.item == "int32":
        return role(array.name) == PARTITION
    return isinstance(array.item, type) and any(role(each.name) == PARTITION for each in layout(array.item).fields)


def _are_topics(array: Field, version: int) -> bool:
    """Whether the elements of an array of a request are topics."""
    assert isinstance(array.item, type)
    fields = {each.name for each in layout(array.item).fields if each.has(version)}
    return bool({"topic", "topic_id"} & fields) or ("topic" in array.name and bool({"name", "topic_name"} & fields))


def _leads_to_topics(array: Field, version: int) -> bool:
    if not isinstance(array.item, type) or array.name == _FORGOTTEN:
        return False
    if _are_topics(array, version):
        return True
    fields = {each.name for each in layout(array.item).fields if each.has(version)}
    inner = [each for each in layout(array.item).fields if each.has(version) and each.kind == "array"]
    return {"resource_type", "resource_name"} <= fields or any(_leads_to_topics(each, version) for each in inner)


def split(request: Any, version: int, wants: Wants) -> tuple[Any, Any | None]:
    """The request without the topics, or partitions of them, that are wanted; and the request of these alone, None if
    there are none."""
    return _split(request, version, wants, False)


def _split(holder: Any, version: int, wants: Wants, is_topic: bool) -> tuple[Any, Any | None]:
    spot = _spot_of(holder, version, is_topic)
    rest, picked = copy(holder), copy(holder)
    found = False
    for array in spot.arrays:
        kept, taken = [], []
        for each in getattr(holder, array.name) or ():
            left, hit = _split_element(each, array, version, wants)
            kept += [left] if left is not None else []
            taken += [hit] if hit is not None else []
        if taken:
            found = True
            setattr(rest, array.name, kept)
        setattr(picked, array.name, taken)
    for name in spot.names:
        values = getattr(holder, name) or ()
        if taken := [each for each in values if wants(each, None)]:
            found = True
            setattr(rest, name, [each for each in values if each not in taken])
        setattr(picked, name, taken)
    return rest, picked if found else None


def _split_element(element: Any, array: Field, version: int, wants: Wants) -> tuple[Any | None, Any | None]:
    """(what is left of it, what is wanted of it), None for nothing."""
    is_topic = _are_topics(array, version)
    spot = _spot_of(element, version, is_topic)
    if spot.resource:
        is_it = element.resource_type == TOPIC_RESOURCE and wants(element.resource_name, None)
        return (None, element) if is_it else (element, None)
    if not is_topic:
        rest, picked = _split(element, version, wants, is_topic)
        return (rest if picked is None or names_topics(rest, version) else None), picked
    topic = _topic_of(element, spot)
    if not wants(topic, None):
        return element, None
    if spot.partitions is None:
        return None, element
    values = getattr(element, spot.partitions.name) or ()
    taken = [each for each in values if wants(topic, _number(each))]
    kept = [each for each in values if not wants(topic, _number(each))]
    return _with(element, spot.partitions, kept), _with(element, spot.partitions, taken)


def _with(element: Any, array: Field, values: list[Any]) -> Any | None:
    if not values:
        return None
    made = copy(element)
    setattr(made, array.name, values)
    return made


def _number(partition: Any) -> int:
    """Of a partition of a request or an answer: it is a number, or has one."""
    if isinstance(partition, int):
        return partition
    name = next(each.name for each in layout(type(partition)).fields if role(each.name) == PARTITION)
    return int(getattr(partition, name))


def _topic_of(element: Any, spot: _Spot) -> Any:
    name = getattr(element, spot.topic) if spot.topic is not None else None
    if name:
        return name
    return getattr(element, spot.topic_id) if spot.topic_id is not None else ""


class _Enough(Exception):
    """No more topics are asked for."""


def topics_of(request: Any, version: int, most: int | None = None) -> list[Any]:
    """The topics that a request names, by name or by id, each once and in order. most: no more of them."""
    found: dict[Any, None] = {}

    def note(topic: Any, partition: int | None) -> bool:
        if topic and topic != NO_ID:
            found[topic] = None
        if len(found) == most:
            raise _Enough
        return False

    with suppress(_Enough):
        split(request, version, note)
    return list(found)


@cache
def can_name_topics(key: ApiKey, version: int) -> bool:
    """Whether requests of an API can be about topics."""
    spot = _spot(request_class(key), version, False)
    return bool(spot.arrays or spot.names)


def names_topics(request: Any, version: int) -> bool:
    """Whether a request names any topic."""
    return bool(topics_of(request, version, 1))
