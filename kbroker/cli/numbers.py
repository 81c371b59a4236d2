"""Whole numbers on the command line."""

from __future__ import annotations

import re
from typing import Any

import click


class WholeType(click.ParamType[int]):
    """A whole number, within bounds that are told when it is not. (click.IntRange tells them as x>=1, in help too.)"""

    name = "number"

    def __init__(self, low: int, high: int | None = None) -> None:
        self.bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error when it is none."""
        text = str(value)
        number = int(text) if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else None
        if number is None or number < self._low or (self._high is not None and number > self._high):
            self.fail(f"{text!r} is not a whole number, {self.bounds}", param, ctx)
        return number
