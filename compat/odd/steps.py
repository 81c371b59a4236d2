"""What is sent: a probe is a few requests in a row; a request may name what only the broker at hand knows.

    Probe("Metadata v12: a topic ID beside a name", (Step(MetadataRequest(...), 12),))

Two things in a request stand for something else until it is sent:

- `@` in a string: a tag of this probe alone, so that what one probe creates or deletes is no other's. A probe with `@`
  changes something; the others only read, and all of them have had their turn before the first change.
- `Ref("id of own-@")`: a value found on the way: the ID of a topic, or what an earlier step kept of its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka_wire.api import APIS
from kafka_wire.schema import layout


class Ref(NamedTuple):
    """Stands for a value that is known when the request is sent."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


def id_of(topic: str) -> Any:
    """Stands for the ID that this broker has given to a topic."""
    return Ref(f"id of {topic}")


def producer_of(transactional_id: str) -> Any:
    """Stands for the producer id that this broker has given to a transactional id."""
    return Ref(f"producer of {transactional_id}")


@dataclass(frozen=True)
class Step:
    """One request, and what to keep of its answer for later steps: {"member": "member_id"}."""

    request: Any
    version: int
    keep: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> int:
        key = layout(type(self.request)).key
        assert key is not None
        return key

    @property
    def api(self) -> str:
        return APIS[self.key].name


@dataclass(frozen=True)
class Probe:
    """Steps in a row on one connection. The title is its identity and tells what is odd."""

    title: str
    steps: tuple[Step, ...]

    @property
    def tag(self) -> str:
        """Eight letters of its own."""
        return hashlib.sha256(self.title.encode()).hexdigest()[:8]

    @property
    def fingerprint(self) -> str:
        """Changes when what is sent changes: an answer recorded for something else is no answer."""
        sent = [(step.version, short(step.request)) for step in self.steps]
        return hashlib.sha256(repr(sent).encode()).hexdigest()[:8]

    @property
    def changes(self) -> bool:
        return any("@" in name for step in self.steps for name in names(step.request))


def is_message(value: Any) -> bool:
    return hasattr(type(value), "__wire__")


def mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A copy of a message, list or value with `leaf` applied to whatever is neither message nor list."""
    if is_message(value):
        return type(value)(**{f.name: mapped(getattr(value, f.name), leaf) for f in layout(type(value)).fields})
    if isinstance(value, list):
        return [mapped(each, leaf) for each in value]
    return leaf(value)


def names(value: Any) -> Iterator[str]:
    """Every string in a message, and the names of its references."""
    found: list[str] = []
    mapped(value, lambda leaf: found.append(leaf.name if isinstance(leaf, Ref) else leaf))
    return (each for each in found if isinstance(each, str))


def resolved(request: Any, tag: str, known: Mapping[str, Any]) -> Any:
    """The request as it is sent. Raises KeyError for a reference to what is not known."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Ref):
            return known[value.name]
        return value.replace("@", tag) if isinstance(value, str) else value

    return mapped(request, leaf)


def short(value: Any) -> str:
    """A request in readable form: fields that differ from their defaults; long things by their size."""
    if is_message(value):
        told = (
            f"{f.name}={short(getattr(value, f.name))}"
            for f in layout(type(value)).fields
            if getattr(value, f.name) != f.fresh_default()
        )
        name = type(value).__name__ if layout(type(value)).key is not None else ""
        return f"{name}({', '.join(told)})"
    if isinstance(value, list):
        return f"[{', '.join(map(short, value))}]"
    if isinstance(value, bytes | bytearray):
        return value.hex() if len(value) <= 16 else f"<{len(value)} bytes {hashlib.sha256(value).hexdigest()[:8]}>"
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:8]!r}…({len(value)})"
    return repr(value)
