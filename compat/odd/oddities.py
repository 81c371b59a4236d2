"""Probes made by rule: a sensible request with one thing odd about it, from the declarations of its fields.

The newest version that kbroker answers gets every oddity. An older one gets the request as it is, one with every field
at its default, the oddities of fields that come, go or may become null just there, and a few by lot. The lot is drawn
by the title's own seed, so that a probe more does not change the others.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from sensible import SENSIBLE, Sensible
from stage import BATCHES
from steps import Probe, Ref, Step, id_of, is_message, mapped

from kafka_wire.api import APIS
from kafka_wire.codegen import encode
from kafka_wire.schema import Field, layout

BY_LOT = 2  # oddities of an older version
NAME_MAX = 249
INT_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
INTS = (-1, 0, 1, 100)
# Times are what a broker waits: none may be longer than a prober's patience, nor run out on one broker only. Partitions
# are made: no more than a machine bears.
LIMITED = {
    "timeout_ms": (2**31 - 1,),
    "max_wait_ms": (-1, 0),
    "rebalance_timeout_ms": (60_000,),
    "producer_id": (-(2**63), -1, 2**40, 2**63 - 1),  # smaller ones may be somebody's
    "count": (-(2**31), -1, 0, 1, 100),
    "num_partitions": (-(2**31), -2, 0, 100),
    "broker_id": (-(2**31), -1, 0, 100, 2**31 - 1),  # not the one there is: it would be forgotten
}
UNKNOWN_ID = b"\x11" * 16
UNENCODABLE = (ValueError, TypeError, AttributeError, OverflowError, struct.error)


class Place(NamedTuple):
    """A field of a message: the way to it, its declaration, and what is there."""

    path: tuple[str | int, ...]
    field: Field
    value: Any

    def __str__(self) -> str:
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path).lstrip(".")


def probes(served: dict[int, tuple[int, int]]) -> Iterator[Probe]:
    """For each API (key -> lowest and highest version) the probes of each version."""
    for key, (low, high) in sorted(served.items()):
        for version in range(low, high + 1):
            yield from _of_version(key, version, newest=version == high)


def by_lot(served: dict[int, tuple[int, int]], seed: int, count: int) -> Iterator[Probe]:
    """Probes that are odd in two places at once, others for each seed: to look for what nobody thought of."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        key = rng.choice(sorted(served))
        version = rng.randint(*served[key])
        sensible = SENSIBLE[key]
        request = sensible.request(version)
        found = list(_oddities(request, version))
        if len(found) < 2:
            continue
        two = sorted(rng.sample(found, 2), key=lambda oddity: len(oddity[0].path))
        (first, label, value), (second, other_label, other) = two
        if first.path == second.path:
            continue
        try:
            request = _with(_with(request, first.path, value), second.path, other)
            encode(mapped(request, stand_in), version)
        except (LookupError, *UNENCODABLE):
            continue  # the first left no place for the second
        made += 1
        title = f"{APIS[key].name} v{version}: lot {seed}.{made}: {first} {label}, {second} {other_label}"
        yield _probe(title, request, version, sensible)


def _of_version(key: int, version: int, newest: bool) -> Iterator[Probe]:
    sensible = SENSIBLE[key]
    request = sensible.request(version)
    title = f"{APIS[key].name} v{version}"
    yield _probe(f"{title}: as it should be", request, version, sensible)
    yield _probe(f"{title}: defaults", type(request)(), version, sensible)
    made = list(_oddities(request, version))
    if not newest:
        here = [each for each in made if version in (each[0].field.since, each[0].field.until, each[0].field.nullable)]
        rest = [each for each in made if each not in here]
        made = here + random.Random(title).sample(rest, min(BY_LOT, len(rest)))
    for place, label, value in made:
        yield _probe(f"{title}: {place} {label}", _with(request, place.path, value), version, sensible)


def _probe(title: str, request: Any, version: int, sensible: Sensible) -> Probe:
    return Probe(title, (Step(request, version), *sensible.after))


# -- where -------------------------------------------------------------------------------------------------------------


def _oddities(request: Any, version: int) -> Iterator[tuple[Place, str, Any]]:
    """(place, what is odd, the value to put there), as far as it can be encoded."""
    for place in _places(request, version, ()):
        for label, value in _odd_values(place, version, "@" in repr(request)):
            try:
                encode(_with(request, place.path, value, sendable=True), version)
            except UNENCODABLE:
                continue
            yield place, label, value


def _places(message: Any, version: int, path: tuple[str | int, ...]) -> Iterator[Place]:
    for field in layout(type(message)).fields:
        if not field.has(version):
            continue
        value, here = getattr(message, field.name), (*path, field.name)
        yield Place(here, field, value)
        if isinstance(value, list) and value and is_message(value[0]):
            yield from _places(value[0], version, (*here, 0))
        elif is_message(value):
            yield from _places(value, version, here)


def _with(message: Any, path: tuple[str | int, ...], value: Any, sendable: bool = False) -> Any:
    """A copy with another value at a place; `sendable` puts something in the place of references."""
    copy = mapped(message, lambda leaf: leaf)
    at = copy
    for step in path[:-1]:
        at = at[step] if isinstance(step, int) else getattr(at, step)
    setattr(at, path[-1], value)  # type: ignore[arg-type]  # a place is a field
    return mapped(copy, stand_in) if sendable else copy


def stand_in(leaf: Any) -> Any:
    """Something that can be encoded in the place of a reference."""
    if isinstance(leaf, Ref):
        stand_ins = {"id": UNKNOWN_ID, "producer": 7, "epoch": 0, "batch": BATCHES[0]}
        return stand_ins.get(leaf.name.partition(" ")[0], "member")
    return leaf


# -- what --------------------------------------------------------------------------------------------------------------


def _odd_values(place: Place, version: int, tagged: bool) -> Iterator[tuple[str, Any]]:
    field, value = place.field, place.value
    if field.can_be_null(version) and value is not None:
        yield "null", None
    if field.kind == "array":
        yield from _odd_lists(field, value, version)
    elif field.kind == "string":
        yield from _odd_strings(value, tagged)
    elif field.kind == "bool":
        yield f"{not value}".lower(), not value
    elif field.kind == "uuid":
        yield from (("zero", bytes(16)), ("unknown", UNKNOWN_ID), ("another's", id_of("three")))
    elif field.kind == "bytes":
        yield from (("empty", b""), ("garbage", b"\xff\xff\xff"))
    elif field.kind == "records":
        yield from _odd_records()
    elif field.kind in INT_BITS:
        half = 2 ** (INT_BITS[field.kind] - 1)
        for number in LIMITED.get(field.name, (*INTS, -half, half - 1)):
            if number != value:
                yield str(number), number


def _odd_strings(value: Any, tagged: bool) -> Iterator[tuple[str, str]]:
    mark = "-@" if tagged else ""
    yield "empty", ""
    yield "unknown", f"unknown{mark}"
    yield "illegal", f"not legal!{mark}"
    yield "two dots", ".."
    yield "one character too long", ("x" * (NAME_MAX + 1 - 9) + "-@" if tagged else "x" * (NAME_MAX + 1))
    yield "huge", "x" * 30_000


def _odd_lists(field: Field, value: list[Any] | None, version: int) -> Iterator[tuple[str, Any]]:
    if value:
        yield "empty", []
        yield "twice the same", [value[0], value[0]]
        if len(value) > 1:
            yield "out of order", list(reversed(value))
        if is_message(value[0]):
            yield "and one with defaults", [value[0], type(value[0])()]
            yield from _contradictory(value[0], version)
    elif value is None:
        yield "empty", []
    if isinstance(field.item, str):
        yield from _odd_items(field.item, value or [])


def _odd_items(kind: str, value: list[Any]) -> Iterator[tuple[str, Any]]:
    if kind == "string":
        yield "and an unknown one", [*value, "unknown"]
        yield "with an empty one", [*value, ""]
    elif kind in INT_BITS:
        yield "with a negative one", [*value, -1]
        yield "with one too high", [*value, 2 ** (INT_BITS[kind] - 1) - 1]


def _contradictory(first: Any, version: int) -> Iterator[tuple[str, Any]]:
    """The same thing twice, with another last field."""
    for place in reversed(list(_places(first, version, ()))):
        if place.field.kind in INT_BITS or place.field.kind == "string":
            other = 2 if place.field.kind != "string" else "other"
            yield f"twice, with {place} {other}", [first, _with(first, place.path, other)]
            return


def _odd_records() -> Iterator[tuple[str, Any]]:
    whole = BATCHES[0]
    yield "empty", b""
    yield "garbage", b"\xff" * 100
    yield "cut short", whole[:-1]
    yield "a header alone", whole[:61]
    yield "twice the same", whole + whole
    yield "with bytes behind", whole + b"more"
