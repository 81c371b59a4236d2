"""Messages with random content, from a seed: what the wire tests feed to the judges."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from kafka_wire.api import APIS, request_class, response_class
from kafka_wire.schema import OWN_TAG_MIN, Field, layout

LIMITS = {"int8": 7, "int16": 15, "uint16": 16, "int32": 31, "uint32": 32, "int64": 63}  # bits of magnitude
TEXTS = ("", "a", "some-topic", "größer", "x" * 126, "x" * 127, "日本" * 80)


def all_messages() -> Iterator[tuple[type, int]]:
    """Every declared request and response in every version."""
    for key, api in APIS.items():
        for cls in (request_class(key), response_class(key)):
            for version in range(api.version_min, api.version_max + 1):
                yield cls, version


def is_own(field: Field) -> bool:
    """Whether a field is kbroker's addition to Kafka's message."""
    return field.tag is not None and field.tag >= OWN_TAG_MIN


def sample(cls: type, version: int, rng: random.Random, *, size: int = 2, calm: bool = False, own: bool = True) -> Any:
    """A message with random values in the fields that the version has.

    size is the length of arrays (0: all empty, all nullable fields null); calm keeps numbers small and positive, for
    judges that turn some of them into times or enums. own: with what is kbroker's own, which no judge knows.
    """
    values = {}
    for field in layout(cls).fields:
        if is_own(field) and not own:
            continue
        if field.has(version) and not (field.tag is not None and rng.random() < 0.3):
            values[field.name] = _value(field, version, rng, size, calm, own)
    return cls(**values)


def _value(field: Field, version: int, rng: random.Random, size: int, calm: bool, own: bool) -> Any:
    if field.can_be_null(version) and (size == 0 or rng.random() < 0.2):
        return None
    if field.kind == "array":
        return [_item(field, version, rng, size, calm, own) for _ in range(rng.randint(0, size) and size)]
    if field.kind == "struct":
        assert isinstance(field.item, type)
        return sample(field.item, version, rng, size=size, calm=calm, own=own)
    return _scalar(field.kind, field.name, rng, calm)


def _item(field: Field, version: int, rng: random.Random, size: int, calm: bool, own: bool) -> Any:
    if isinstance(field.item, type):
        return sample(field.item, version, rng, size=max(0, size - 1), calm=calm, own=own)
    assert field.item is not None
    return _scalar(field.item, field.name, rng, calm)


def _scalar(kind: str, name: str, rng: random.Random, calm: bool) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "uuid":
        return rng.randbytes(16)
    if kind == "string":
        return rng.choice(TEXTS)
    if kind in ("bytes", "records"):
        return rng.randbytes(rng.choice((0, 1, 126, 127, 300)))
    if kind == "float64":
        return rng.choice((0.0, -1.5, 1e300))
    if calm:
        return rng.randint(0, 100)
    bits = LIMITS[kind]
    low = 0 if kind.startswith("u") else -(1 << bits)
    return rng.choice((0, 1, low, (1 << bits) - 1, rng.randint(low, (1 << bits) - 1)))
