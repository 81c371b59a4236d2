"""Lengths of time and moments, as tests write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kbroker.testing.control.spans import MOMENT_MS_MAX, as_moment, moment_ms, span_ms


@pytest.mark.parametrize(
    "span, ms",
    [
        ("30m", 1_800_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), ("90s", 90_000), ("500ms", 500),
        ("7d", 604_800_000), ("1.5h", 5_400_000), (1800, 1_800_000), (0.25, 250), (0, 0),
        (timedelta(minutes=30), 1_800_000),
    ],
)  # fmt: skip
def test_a_length_of_time(span: Any, ms: int) -> None:
    assert span_ms(span) == ms


@pytest.mark.parametrize(
    "span, says",
    [
        ("30", "'30' is no length of time: it looks like '30m'"),
        ("30 minutes", "no length of time"),
        ("-30m", "no length of time"),
        ("", "no length of time"),
        ("5y", "no length of time"),
        (-1, "data time never goes back"),
        (timedelta(seconds=-1), "data time never goes back"),
        ("40000d", "more than a hundred years"),
        (float("inf"), "more than a hundred years"),
        (float("nan"), "more than a hundred years"),
        (10**30, "more than a hundred years"),
    ],
)
def test_what_is_no_length_of_time(span: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        span_ms(span)


@pytest.mark.parametrize("span", [None, True, b"30m", [1]])
def test_other_types(span: Any) -> None:
    with pytest.raises(TypeError, match="a length of time is text such as '30m', seconds, or a timedelta"):
        span_ms(span)
    with pytest.raises(TypeError, match="a moment is a datetime"):
        moment_ms(span)


def test_a_moment() -> None:
    moment = datetime(2026, 11, 28, 18, 30, tzinfo=UTC)
    assert moment_ms(moment) == moment_ms(1795890600000) == 1795890600000
    assert as_moment(1795890600000) == moment
    assert as_moment(MOMENT_MS_MAX)
    for wrong in (datetime(2026, 11, 28), -1, MOMENT_MS_MAX + 1):
        with pytest.raises(ValueError, match="time zone|no moment"):
            moment_ms(wrong)
