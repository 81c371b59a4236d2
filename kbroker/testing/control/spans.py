"""Lengths of time and moments, as tests write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SPAN_MS_MAX = 36_525 * UNITS_MS["d"]  # a hundred years; beyond, some client cannot read the time
MOMENT_MS_MAX = 253_370_764_800_000  # the year 9999, the last that a datetime has
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def span_ms(span: str | float | timedelta) -> int:
    """A length of time in milliseconds: "30m", "1h30m", "1.5d", seconds, or a timedelta.

    Raises ValueError for what is none, is negative, or longer than a hundred years; TypeError for other types.
    """
    if isinstance(span, str):
        parts = _PART.findall(span)
        if not parts or _PART.sub("", span).strip():
            raise ValueError(f"{span!r} is no length of time: it looks like '30m', '90s', '1h30m', '7d' or '500ms'")
        ms = sum(float(number) * UNITS_MS[unit] for number, unit in parts)
    elif isinstance(span, timedelta):
        ms = span.total_seconds() * 1000
    elif isinstance(span, int | float) and not isinstance(span, bool):
        ms = span * 1000
    else:
        raise TypeError(f"a length of time is text such as '30m', seconds, or a timedelta, not {span!r}")
    if not 0 <= ms <= SPAN_MS_MAX:
        why = "data time never goes back" if ms < 0 else "that is more than a hundred years"
        raise ValueError(f"the clock cannot be advanced by {span!r}: {why}")
    return round(ms)


def moment_ms(moment: datetime | int) -> int:
    """A moment in milliseconds since the epoch: a datetime with a time zone, or such a number.

    Raises ValueError for a datetime without a time zone, and for what no clock shows; TypeError for other types.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone: use datetime(..., tzinfo=UTC)")
        ms = int(moment.timestamp() * 1000)
    elif isinstance(moment, int) and not isinstance(moment, bool):
        ms = moment
    else:
        raise TypeError(f"a moment is a datetime, or milliseconds since the epoch, not {moment!r}")
    if not 0 <= ms <= MOMENT_MS_MAX:
        raise ValueError(f"{moment!r} is no moment that a broker's clock can show")
    return ms


def as_moment(ms: int) -> datetime:
    """Milliseconds since the epoch as people read them, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
