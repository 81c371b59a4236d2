"""Whole numbers on the command line: what is one, and how a mistake is told."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.numbers import WholeType
from tests.cli.test_cli import LEAVES


def test_what_is_a_whole_number() -> None:
    assert [WholeType(-1).convert(given, None, None) for given in ("-1", "0", "007", 5)] == [-1, 0, 7, 5]


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "1_000", "+1", " 1", "0", "65", "-1", "\u0661", "9" * 19])
def test_what_is_none(text: str) -> None:
    with pytest.raises(click.BadParameter) as told:
        WholeType(1, 64).convert(text, None, None)
    assert told.value.message == f"{text!r} is not a whole number, from 1 to 64"


def test_a_mistake_names_the_option_and_the_bounds() -> None:
    said = CliRunner().invoke(cli, ["topic", "consume", "t", "-n", "0"])
    assert said.exit_code == 2
    assert "Invalid value for '-n' / '--count': '0' is not a whole number, at least 1" in said.output


def test_no_option_leaves_its_bounds_to_click() -> None:
    """It writes x>=1, for people."""
    params = [param for _, command in LEAVES for param in command.params]
    assert len(params) > 100
    assert [param.opts for param in params if isinstance(param.type, click.IntRange | click.FloatRange)] == []
