"""The parts of a record as JSON says them, in a line of `topic produce -J` as in a seed. Pure.

    bytes     text, null for none, {"base64": "..."}
    headers   {"name": value, ...}; ["name", value, ...], as kcat and `topic consume -J` write them;
              [{"key": "name", "value": value}, ...], as rpk does

What is wrong is told by a ValueError, in words that stand behind the number of a line.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from kafka_wire.records import Headers


def as_object(line: str | bytes) -> dict[str, Any]:
    """What a line says. Raises ValueError."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"not JSON{where}: {line[:80]!r}") from None
    if not isinstance(told, dict):
        raise ValueError(f"not a JSON object: {line[:80]!r}")
    return told


def is_bytes(value: object) -> bool:
    """Whether it is meant to be bytes, or none."""
    return value is None or isinstance(value, str) or (isinstance(value, dict) and value.keys() == {"base64"})


def as_bytes(value: Any, what: str) -> bytes | None:
    """A key, a value, a header's. what: which, for people. Raises ValueError."""
    if not is_bytes(value):
        raise ValueError(f'{what}: neither text, null nor {{"base64": "..."}}')
    if value is None:
        return None
    try:
        return value.encode() if isinstance(value, str) else b64decode(value["base64"], validate=True)
    except UnicodeEncodeError:
        raise ValueError(f"{what}: half of a character (\\uD800 to \\uDFFF) is not text") from None
    except (ValueError, TypeError):
        raise ValueError(f"{what}: what base64 says is not Base64") from None


def as_headers(told: object, read: Callable[[Any, str], bytes | None] = as_bytes) -> Headers:
    """In order; of null there are none. read: what is made of a header's value. Raises ValueError."""
    if told is None:
        return ()
    if isinstance(told, dict):
        pairs = list(told.items())
    elif isinstance(told, list) and all(isinstance(each, dict) and each.keys() == {"key", "value"} for each in told):
        pairs = [(each["key"], each["value"]) for each in told]
    elif isinstance(told, list) and len(told) % 2 == 0:
        pairs = list(zip(told[::2], told[1::2], strict=True))
    else:
        raise ValueError('headers: expected names and values, ["name", "value", ...]')
    if not all(isinstance(name, str) for name, _ in pairs):
        raise ValueError("headers: a name is not text")
    for name, _ in pairs:
        as_bytes(name, "headers")
    return tuple((name, read(value, f"header {name}")) for name, value in pairs)
