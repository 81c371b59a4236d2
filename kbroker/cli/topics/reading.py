"""What reading alone and as a member of a group have in common: which topics, where to begin, what matches, how it is
shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import click

from kbroker.cli.client.presence import Presence
from kbroker.cli.errors import Failed
from kbroker.cli.times import time_ms
from kbroker.cli.topics.formats import Output, Shown, json_line
from kbroker.filters import Expression

Matches: TypeAlias = Callable[[Shown], bool]

POLL_MS = 200  # how long CTRL+C may have to wait
LOOK_AGAIN_S = 0.5  # for topics that are not there yet
INTERNAL = "__"  # so begin the names of the brokers' own topics; an expression has to say so if it means them


OFFSET_MAX = 2**63 - 1


class Start(NamedTuple):
    """Where to begin: base "start", "end", "at" (an offset) or "time", and a number."""

    base: str
    number: int = 0


class Topics(NamedTuple):
    """Which topics to read: by name, or by regular expressions that match whole names."""

    names: Sequence[str]
    pattern: re.Pattern[str] | None
    wait: bool  # for those that are not there

    def there(self, client: Any) -> list[str]:
        """Those that are there, with partitions. Raises Failed, if some are not, and it is not to wait."""
        found = self.now(client)
        if not self.wait and (missing := self._missing(found)):
            raise Failed(f"{missing} (--wait waits)")
        return found

    def waited_for(self, client: Any, presence: Presence, ended: Callable[[], bool] = lambda: False) -> list[str]:
        """The same, when all are there; it is said once what is waited for."""
        said = False
        while missing := self._missing(found := self.there(client)):
            if ended():
                break
            if not said:
                click.echo(f"kbroker: {missing}: waiting", err=True)
                said = True
            presence.look()
            time.sleep(LOOK_AGAIN_S)
        return found

    def now(self, client: Any) -> list[str]:
        """Those that are there, whichever they are."""
        if self.pattern is None:
            return [name for name in dict.fromkeys(self.names) if client.partitions_for_topic(name)]
        return sorted(name for name in client.topics() if self.matches(name))

    def matches(self, name: str) -> bool:
        """Whether an expression means it."""
        assert self.pattern is not None
        is_meant = not name.startswith(INTERNAL) or INTERNAL in self.pattern.pattern
        return is_meant and self.pattern.fullmatch(name) is not None

    def _missing(self, found: Sequence[str]) -> str:
        if self.pattern is not None:
            return "" if found else f"no topic matches {' or '.join(self.names)}"
        missing = [name for name in self.names if name not in found]
        plural = "topics {} do not exist" if len(missing) > 1 else "topic {} does not exist"
        return plural.format(", ".join(missing)) if missing else ""


def parse_topics(names: Sequence[str], *, is_regex: bool, wait: bool) -> Topics:
    """What the command line says. Raises ValueError."""
    if not is_regex:
        return Topics(names, None, wait)
    for name in names:
        try:
            re.compile(name)
            pattern = re.compile("|".join(f"(?:{each})" for each in names))
        except re.error as error:
            raise ValueError(f"{name!r} is no regular expression: {error}") from None
    return Topics(names, pattern, wait)


def parse_start(text: str) -> Start:
    """What -o says. Raises ValueError."""
    if text in ("start", "beginning", "earliest", "oldest"):
        return Start("start")
    if text in ("end", "latest", "newest"):
        return Start("end")
    if text.startswith("@"):
        return Start("time", time_ms(text[1:]))
    if text[:1].isdecimal() and not text.isdecimal():  # a date
        return Start("time", time_ms(text))
    number = int(text)
    if abs(number) > OFFSET_MAX:
        raise ValueError(f"{text!r} is beyond all offsets")
    return Start("start" if text[0] == "+" else "end" if number < 0 or text[0] == "-" else "at", number)


def polled(client: Any) -> dict[Any, Sequence[Any]]:
    """What has arrived, by partition. Nothing where it will work in a moment: a broker is lost, a group is moving."""
    from kafka.errors import KafkaError

    try:
        return dict(client.poll(timeout_ms=POLL_MS))
    except KafkaError as error:
        if not error.retriable:
            raise
        time.sleep(POLL_MS / 1000)
        return {}


def shown(r: Any) -> Shown:
    """A record of kafka-python's, as formats see it."""
    is_append_time = r.timestamp_type == 1
    return Shown(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers), is_append_time)


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
    else:
        out.write(json_line(record) if write is None else write(record))
