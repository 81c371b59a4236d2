"""An answer that carries an error, made from the declarations of the messages: for every API and version.

    request ── picked: what the error is for ──▶ mirror ──▶ answer: its keys, the code where clients look for it
       └────── rest ──▶ the real handler ──────────────────▶ merged into the true answer

The code stands where Apache Kafka's `getErrorResponse` puts it: at the top where the answer has such a place, else in
each group, topic, partition ... that the request names. For a topic it stands at the topic, or where topics have no
code, at the partitions. All else has the declarations' defaults, which stand for "nothing" there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from kafka_wire.api import ApiKey, request_class, response_class
from kafka_wire.errors import ErrorCode
from kafka_wire.schema import Field, layout
from kbroker.testing.control.topics import PARTITION, TOPIC, TOPIC_ID, role

_KEYS = {
    TOPIC, TOPIC_ID, PARTITION, "group_id", "member_id", "group_instance_id", "resource_type", "resource_name",
    "transactional_id", "producer_id", "feature", "key",
}  # fmt: skip
_CODES = ("error_code", "partition_error_code")

# Where Kafka fills both, the top and what the request names.
_BOTH = {ApiKey.ELECT_LEADERS, ApiKey.ALTER_PARTITION_REASSIGNMENTS}
# What stands for nothing beside an error, and is no default.
_NOTHING = {
    "committed_offset": -1, "high_watermark": -1, "low_watermark": -1, "node_id": -1, "port": -1, "producer_epoch": -1,
}  # fmt: skip


class Pairing(NamedTuple):
    """How the elements of an array of the answer come from an array of the request."""

    array: Field  # of the answer
    source: tuple[Field, ...]  # of the request: through these arrays; more than one where it lies deeper
    item: Mirror


class Mirror(NamedTuple):
    """How a struct of an answer comes from one of the request, in one version."""

    cls: type
    code: str | None  # its own error code
    message: str | None
    keys: tuple[tuple[str, str | None], ...]  # (its field, the request's; None: the element itself, a plain value)
    is_topic: bool
    arrays: tuple[Pairing, ...]  # those that lead to codes


def error_answer(request: Any, key: ApiKey, version: int, code: ErrorCode) -> Any | None:
    """The answer that says so of all that was asked; None where it would have no place for it.

    As Kafka's AbstractRequest.getErrorResponse.
    """
    mirror = mirror_of(key, version)
    answer = mirror.cls()
    if mirror.code is not None:
        _accuse(answer, mirror, code)
    placed = mirror.code is not None
    if not placed or key in _BOTH:
        for pairing in mirror.arrays:
            made = [_mirrored(pairing.item, element, code) for element in _elements(request, pairing.source)]
            setattr(answer, pairing.array.name, made)
            placed = placed or bool(made)
    if key is ApiKey.JOIN_GROUP and version >= 7:
        answer.protocol_name = None
    if key is ApiKey.API_VERSIONS and code is ErrorCode.UNSUPPORTED_VERSION:
        from kbroker.api.metadata import unsupported_version

        return unsupported_version()
    return answer if placed else None


def topic_errors(picked: Any, key: ApiKey, version: int, code: ErrorCode, *, at_partitions: bool) -> Any:
    """An answer of the errors alone, of the topics that are picked (see `split`). at_partitions: not at the topic,
    where both have a place for it."""
    mirror = mirror_of(key, version)
    answer = mirror.cls()
    for pairing in mirror.arrays:
        elements = _elements(picked, pairing.source)
        setattr(answer, pairing.array.name, [_mirrored(pairing.item, each, code, at_partitions) for each in elements])
    return answer


def _mirrored(mirror: Mirror, element: Any, code: ErrorCode, at_partitions: bool | None = None) -> Any:
    """The answer's struct for an element. at_partitions: None: the code stands as far out as there is a place."""
    made = mirror.cls()
    for name, source in mirror.keys:
        value = element if source is None else getattr(element, source)
        setattr(made, name, "" if value is None and name == "name" else value)
    deeper = bool(mirror.arrays)
    if at_partitions is None:
        deeper = mirror.code is None
    elif mirror.is_topic:
        deeper = deeper and (at_partitions or mirror.code is None)
    if mirror.code is not None and not deeper:
        _accuse(made, mirror, code)
    for pairing in mirror.arrays if deeper else ():
        elements = _elements(element, pairing.source)
        setattr(made, pairing.array.name, [_mirrored(pairing.item, each, code, at_partitions) for each in elements])
    return made


def _accuse(made: Any, mirror: Mirror, code: ErrorCode) -> None:
    setattr(made, mirror.code or "", int(code))
    if mirror.message is not None:
        setattr(made, mirror.message, code.text)
    for name in _NOTHING.keys() & set(mirror.cls.__slots__):  # type: ignore[attr-defined]
        setattr(made, name, _NOTHING[name])


def _elements(holder: Any, path: tuple[Field, ...]) -> Iterator[Any]:
    for element in getattr(holder, path[0].name) or ():
        if len(path) == 1:
            yield element
        else:
            yield from _elements(element, path[1:])


# -- how an answer mirrors its request --------------------------------------------------------------------------------


@cache
def mirror_of(key: ApiKey, version: int) -> Mirror:
    """How the answers of an API mirror its requests."""
    return _mirror(response_class(key), request_class(key), version)


def places(key: ApiKey, version: int) -> tuple[bool, bool, bool]:
    """Whether an answer has a place for an error of the request, of a topic, of a partition."""
    mirror = mirror_of(key, version)
    arrays = [mirror]
    topic = partition = False
    while arrays:
        each = arrays.pop()
        below = each.is_topic and any(_has_code(pairing.item) for pairing in each.arrays)
        topic = topic or (each.is_topic and _has_code(each))
        partition = partition or below
        arrays += [pairing.item for pairing in each.arrays]
    return _has_code(mirror), topic, partition


def _has_code(mirror: Mirror) -> bool:
    return mirror.code is not None or any(_has_code(pairing.item) for pairing in mirror.arrays)


def _mirror(cls: type, source: type | None, version: int) -> Mirror:
    """source: the request's struct; None: its elements are plain values."""
    fields = {each.name: each for each in layout(cls).fields if each.has(version)}
    keys = _key_pairs(fields, source, version)
    return Mirror(
        cls,
        next((name for name in _CODES if name in fields), None),
        "error_message" if "error_message" in fields else None,
        keys,
        bool({TOPIC, TOPIC_ID} & {role(name) for name, _ in keys}) or "resource_type" in dict(keys),
        tuple(
            pairing
            for each in fields.values()
            if each.kind == "array" and source is not None and _bears_code(each.item, version)
            for pairing in [_pairing(each, source, version)]
            if pairing is not None
        ),
    )


def _key_pairs(fields: dict[str, Field], source: type | None, version: int) -> tuple[tuple[str, str | None], ...]:
    named = [name for name, each in fields.items() if role(name) in _KEYS and each.kind not in ("array", "struct")]
    if source is None:
        return ((named[0], None),) if named else ()
    asked = {role(each.name): each.name for each in layout(source).fields if each.has(version)}
    return tuple((name, asked[role(name)]) for name in named if role(name) in asked)


def _pairing(array: Field, source: type, version: int) -> Pairing | None:
    """Where the elements of an array of the answer come from: the array of that name, else the only one whose elements
    have the same keys, which may lie in another (AlterReplicaLogDirs: directories, their topics)."""
    arrays = [each for each in layout(source).fields if each.has(version) and each.kind == "array"]
    same = [each for each in arrays if each.name == array.name]
    for path in [(each,) for each in same or arrays] + [
        (outer, inner)
        for outer in arrays
        if isinstance(outer.item, type)
        for inner in layout(outer.item).fields
        if inner.kind == "array" and isinstance(inner.item, type)
    ]:
        item = path[-1].item
        assert isinstance(array.item, type)
        mirror = _mirror(array.item, item if isinstance(item, type) else None, version)
        if mirror.keys and _fits(mirror, item, path[-1]):
            return Pairing(array, path, mirror)
    return None


def _fits(mirror: Mirror, item: Any, source: Field) -> bool:
    """Whether a plain value is what the key means: no partition's number for a directory's name."""
    if isinstance(item, type):
        return True
    kinds = {field.name: field.kind for field in layout(mirror.cls).fields}
    return kinds[mirror.keys[0][0]] == item and role(source.name) != TOPIC_ID


def _bears_code(item: Any, version: int) -> bool:
    if not isinstance(item, type):
        return False
    fields = [each for each in layout(item).fields if each.has(version)]
    return any(each.name in _CODES or (each.kind == "array" and _bears_code(each.item, version)) for each in fields)


# -- true answers -----------------------------------------------------------------------------------------------------


def merge(answer: Any, errors: Any, key: ApiKey, version: int) -> None:
    """Put the errors of some topics into the true answer for the rest."""
    _merge(answer, errors, mirror_of(key, version))


def _merge(answer: Any, errors: Any, mirror: Mirror) -> None:
    for pairing in mirror.arrays:
        name, item = pairing.array.name, pairing.item
        there = list(getattr(answer, name) or ())
        for each in getattr(errors, name):
            twin = next((other for other in there if _is_same(other, each, item)), None)
            if twin is None:
                there.append(each)
            elif any(getattr(each, deeper.array.name) for deeper in item.arrays):
                _merge(twin, each, item)
            else:
                there[there.index(twin)] = each
        setattr(answer, name, there)


def _is_same(one: Any, other: Any, mirror: Mirror) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name, _ in mirror.keys)


# -- what a true answer says ------------------------------------------------------------------------------------------

CODES_LOOKED_AT = 100  # places of one answer


def codes_in(answer: Any, key: ApiKey, version: int) -> list[int]:
    """The error codes in an answer that is there, each once; not in all places of a very long one."""
    mirror = mirror_of(key, version)
    if not isinstance(answer, mirror.cls):
        return []
    found: dict[int, None] = {}
    places = [(answer, mirror)]
    for _ in range(CODES_LOOKED_AT):
        if not places:
            break
        each, its = places.pop()
        if its.code is not None and getattr(each, its.code):
            found[int(getattr(each, its.code))] = None
        for pairing in its.arrays:
            places += [
                (element, pairing.item) for element in (getattr(each, pairing.array.name) or ())[:CODES_LOOKED_AT]
            ]
    return list(found)
