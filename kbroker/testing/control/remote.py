"""Faults, Clock, Requests: what a test says to a broker's Controls from another thread or process, in plain calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kbroker.testing.control.spans import as_moment, moment_ms, span_ms
from kbroker.testing.control.words import FaultWords
from kbroker.testing.embedded.portal import Portal

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

SHOWN_MAX = 50  # requests, to people


class Faults(FaultWords):
    """What is to happen to requests; see FaultWords. A test whose faults have not all hit has failed."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def add(self, kind: str, api: str, **values: Any) -> None:
        """Set a fault, behind those that are there."""
        self._portal.call("add_fault", kind, api, values)

    def clear(self) -> None:
        """Forget all faults. Connections on which answers were lost are hung up on."""
        self._portal.call("clear_faults")

    def unfired(self) -> list[str]:
        """A line of each fault that has not hit as many requests as it was to."""
        lines: list[str] = self._portal.call("unfired")
        return lines


class Clock:
    """The broker's data time: timestamps, retention, compaction, delays, expiry. It only goes forward.

    Sessions, rebalances and the timeouts of transactions (liveness) move with it only if asked to; long polls,
    throttles and the clients' own timers never do: so a jump expels no live consumer.
    """

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def now(self) -> datetime:
        """The broker's time, in UTC."""
        return as_moment(self._portal.call("now_ms"))

    def advance(self, span: str | float | timedelta, *, liveness: bool = False) -> datetime:
        """Move it forward by "30m", "1h30m", seconds, or a timedelta; the time that it is then.

        What is due by then (delayed records, retention, expiry, late views) follows at once. Raises ValueError for what
        is no length of time, is negative, or beyond the year 9999.
        """
        return as_moment(self._portal.call("advance", span_ms(span), liveness))

    def advance_to(self, moment: datetime | int, *, liveness: bool = False) -> datetime:
        """The same, to a moment: a datetime with a time zone, or milliseconds since the epoch.

        Raises ValueError for one that is past, or none.
        """
        return as_moment(self._portal.call("advance_to", moment_ms(moment), liveness))


class Request(NamedTuple):
    """A request that came."""

    api: str  # Kafka's name, such as "Produce"
    version: int
    client_id: str | None
    at: datetime  # the broker's data time when it came, UTC
    topics: tuple[str, ...]  # that it is about
    fate: str  # "answered", "answered NOT_LEADER_OR_FOLLOWER by a fault", "lost by a fault" ...


class Requests:
    """Requests that a broker got from clients, in order: those of an API, of a client, about a topic.

    It is what came until it was asked for; ask again for what came since.
    """

    def __init__(
        self, portal: Portal, api: str | None = None, *, client_id: str | None = None, topic: str | None = None
    ) -> None:
        """Raises ValueError for an API that is not there."""
        told = portal.call("requests", api, client_id, topic)
        self._rows = [
            Request(name, version, client, as_moment(at_ms), tuple(topics), fate)
            for name, version, client, at_ms, topics, fate in told["rows"]
        ]
        self._dropped: int = told["dropped"]

    @property
    def count(self) -> int:
        """How many there were. RuntimeError where that is not known, as the broker remembers only the latest."""
        if self._dropped:
            raise RuntimeError(f"{self._dropped} requests came before those the broker remembers: they are not counted")
        return len(self._rows)

    def __getitem__(self, index: int) -> Request:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._rows)

    def __repr__(self) -> str:
        latest = self._rows[-SHOWN_MAX:]
        lines = [
            f"  {each.client_id}: {each.api} v{each.version} {','.join(each.topics)}: {each.fate}" for each in latest
        ]
        left_out = [f"  ... {len(self) - SHOWN_MAX} earlier"] if len(self) > SHOWN_MAX else []
        return "\n".join([f"{len(self)} requests:", *left_out, *lines])
