"""Objects that hold lists: made row by row, and long ones a page at a time. Pure.

    {"topics": [{...}, {...}], "next": "orders"}        the next page: ?after=orders; null: there is none

`limit` says how many rows a page has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from kbroker.http.messages import JSON, Answer, Request
from kbroker.turns import Work

LIMIT, LIMIT_MAX = 100, 1000
ROWS_A_PIECE = 8
KEYS_AT_ONCE = 500  # some 100 us

K = TypeVar("K")
Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "Iterator[Row | None]"  # None: no row, but a pause for work that was done


def limit_of(request: Request) -> int:
    """How many rows are asked for. Raises Refused."""
    return request.number("limit", LIMIT, 1, LIMIT_MAX)


def document(fields: Mapping[str, object]) -> Answer:
    """An object of these fields; an iterator (`Rows`) becomes an array, made as it is sent."""
    return Answer(_pieces(fields), JSON)


def _pieces(fields: Mapping[str, object]) -> Iterator[bytes]:
    before = "{"
    for name, value in fields.items():
        yield f"{before}{_text(name)}: ".encode()
        before = ",\n"
        if isinstance(value, Iterator):
            yield from _array(value)
        else:
            yield _text(value).encode()
    yield b"}\n"


def _array(rows: Rows) -> Iterator[bytes]:
    before, some = "[", list[str]()
    for row in rows:
        if row is not None:
            some.append(_text(row))
        if some and (row is None or len(some) >= ROWS_A_PIECE):
            yield (before + ",\n".join(some)).encode()
            before = ",\n"
            some.clear()
        elif row is None:
            yield b""
    yield (before + ",\n".join(some)).encode() if some or before == "[" else b""
    yield b"]"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def page(keys: Iterable[K], after: K | None, limit: int) -> Work[tuple[list[K], K | None]]:
    """Of keys those of one page, in order, and what the next page comes after; None: it is the last."""
    least: list[Any] = []  # K, which can be compared
    rest: Iterator[Any] = iter(keys)
    while True:
        some = list(islice(rest, KEYS_AT_ONCE))
        if not some:
            break
        least = sorted([*least, *(key for key in some if after is None or key > after)])[: limit + 1]
        yield
        yield
    shown: list[K] = least[:limit]
    return shown, shown[-1] if len(least) > limit else None
