"""Moments and durations, as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from kbroker.cli.tables import Quantity

TIME_MS_MAX = 2**63 - 1  # of Kafka's protocol
SECONDS_BELOW = 10**11  # a number below is seconds since the epoch, above milliseconds
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class DurationType(click.ParamType[int]):
    """90s, 15m, 1h, 2d, 500ms; a bare number counts seconds. Milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds; a usage error when it is no duration."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})(ms|s|m|h|d)?", str(value))
        if not found:
            self.fail(f"{value!r} is no duration such as 90s, 15m or 1h", param, ctx)
        return int(found[1]) * _UNITS_MS[found[2] or "s"]


class MomentType(click.ParamType[int]):
    """2026-11-28T18:30, with a time zone or in this machine's; or seconds or milliseconds since the epoch. A number of
    milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch; a usage error when it is no time."""
        if isinstance(value, int):
            return value
        try:
            return time_ms(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-11-28T18:30 or 2026-11-28T17:30:00Z", param, ctx)


def time_ms(text: str) -> int:
    """A moment that people wrote, in milliseconds since the epoch: a date, 18:30 (today), -5m (ago), seconds or
    milliseconds since the epoch. Raises ValueError."""
    if text.isdecimal():
        number = int(text)
        if number > TIME_MS_MAX:
            raise ValueError(f"{text!r} is beyond all times")
        return number * 1000 if number < SECONDS_BELOW else number
    now = datetime.now().astimezone()
    if ago := re.fullmatch(r"-(\d{1,12})(ms|s|m|h|d)", text):
        return int(now.timestamp() * 1000) - int(ago[1]) * _UNITS_MS[ago[2]]
    moment = datetime.fromisoformat(f"{now:%Y-%m-%d}T{text}" if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text) else text)
    return int((moment if moment.tzinfo else moment.astimezone()).astimezone(UTC).timestamp() * 1000)


def moment(time_ms: int) -> str:
    """A time of the broker's, in this machine's time zone; "" for none."""
    if time_ms < 0:
        return ""
    return datetime.fromtimestamp(time_ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")


def span(duration_ms: int) -> Quantity:
    """ "12 s", "3 min 20 s", "2 h 5 min", "4 d 1 h": the two largest units; "7 d" where the second has none."""
    seconds = max(0, duration_ms) // 1000
    size, unit = next((each for each in _SPANS if each[0] <= seconds), _SPANS[-1])
    whole, rest = divmod(seconds, size)
    smaller = next(((rest // one, name) for one, name in _SPANS if one < size), (0, ""))
    return Quantity(f"{whole} {unit}" + (f" {smaller[0]} {smaller[1]}" if smaller[0] else ""))
