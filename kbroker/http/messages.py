"""Requests that were read, and answers to be sent: what passes between the server and who answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

FIELDS_MAX = 16  # of a query
SHOWN_MAX = 100  # characters of what somebody sent, in an answer to it

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Refused(Exception):
    """A request that is not answered as it would like. status: of HTTP; text: why, for the person who sent it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Request(NamedTuple):
    """What is asked for, decoded."""

    path: tuple[str, ...]  # its segments: ("api", "v1", "topics", "orders")
    query: Mapping[str, str]

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number of the query. Raises Refused where it is none, or out of bounds."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
            raise Refused(400, f"{name}={shown(text)} is not a whole number from {low} to {high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body: bytes; or pieces, each of which takes some 50 to 100 us to make, for long ones."""

    body: bytes | Iterator[bytes]
    content_type: str = TEXT
    status: int = 200


def json_answer(value: Any, status: int = 200) -> Answer:
    """A small value as JSON."""
    return Answer(json.dumps(value, ensure_ascii=False).encode() + b"\n", JSON, status)


def parse_target(target: bytes) -> Request:
    """A request's target. Raises Refused for what is no path of this server.

    Slashes at the beginning are one: whoever has an address that ends in one puts it before the path. Segments are
    decoded one by one: a group's name may hold a slash, written %2F.
    """
    if not target.startswith(b"/"):
        raise Refused(400, "the target of a request is a path, such as /metrics")
    raw, _, query = target.decode("ascii", "replace").partition("?")
    try:
        path = tuple(unquote(segment, errors="strict") for segment in raw.lstrip("/").split("/"))
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"))
    except (UnicodeDecodeError, ValueError):
        raise Refused(400, "the path or the query is not in UTF-8, or there is too much of it") from None
    return Request(path, fields)


def shown(text: str) -> str:
    """What somebody sent, to be shown: on one line, and not all of it if it is long."""
    return ascii(text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "...")
