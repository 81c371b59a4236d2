"""What reading alone and as a member of a group have in common: where to begin, what matches, how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, TypeAlias

from kbroker.cli.times import time_ms
from kbroker.cli.topics.formats import Output, Shown, json_fields
from kbroker.filters import Expression

Matches: TypeAlias = Callable[[Shown], bool]

POLL_MS = 200  # how long CTRL+C may have to wait


class Start(NamedTuple):
    """Where to begin: base "start", "end", "at" (an offset) or "time", and a number."""

    base: str
    number: int = 0


def parse_start(text: str) -> Start:
    """What -o says. Raises ValueError."""
    if text in ("start", "beginning", "earliest", "oldest"):
        return Start("start")
    if text in ("end", "latest", "newest"):
        return Start("end")
    if text.startswith("@"):
        return Start("time", time_ms(text[1:]))
    number = int(text)
    return Start("start" if text[0] == "+" else "end" if number < 0 or text[0] == "-" else "at", number)


def everything(record: Shown) -> bool:
    """What matches without a filter."""
    return True


def matching(expression: Expression) -> Matches:
    """Whether a record matches an expression of the filter language."""
    return lambda record: expression.matches(record.key, record.headers)


def limited(
    records: Iterator[Shown | None], count: int | None, matches: Matches = everything
) -> Iterator[tuple[Shown | None, bool]]:
    """Records, each with whether it matches, up to a number of those that do, and the None of their batch."""
    seen = 0
    for record in records:
        matched = record is not None and matches(record)
        yield record, matched
        seen += matched
        if seen == count:
            yield None, False
            return


def write_record(out: BinaryIO, record: Shown | None, write: Output | None) -> None:
    """Write a record, as JSON without an Output; flush at None, which ends a batch."""
    if record is None:
        out.flush()
    elif write is not None:
        out.write(write(record))
    else:
        import json

        out.write(json.dumps(json_fields(record), ensure_ascii=False).encode() + b"\n")
