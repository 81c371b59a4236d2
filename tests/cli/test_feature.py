"""`kbroker feature`, with a broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from kbroker.cli.features.feature import FeatureType
from kbroker.cluster.changes.features import INITIAL, SUPPORTED
from tests.cli.process import broker_process


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process() as address:
        yield address


def run(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["feature", *arguments, "-b", address])


def levels(address: str) -> dict[str, int]:
    told: dict[str, Any] = json.loads(run(address, "list", "--format", "json").stdout)
    assert {each["feature"]: (each["low"], each["high"]) for each in told["features"]} == SUPPORTED
    return {each["feature"]: each["level"] for each in told["features"]}


@pytest.mark.parametrize("text", ["", "x", "x=", "=1", "x=-1", "x=a", "x=32768"])
def test_what_is_no_feature(text: str) -> None:
    with pytest.raises(click.UsageError):
        FeatureType().convert(text, None, None)


def test_levels_are_told_raised_and_lowered(broker: str) -> None:
    assert levels(broker) == INITIAL
    assert "transaction.version" in run(broker, "list").stdout
    assert {name: high for name, (_, high) in SUPPORTED.items()} == INITIAL
    assert run(broker, "downgrade", "--feature", "transaction.version=1").exit_code == 0
    dry = run(broker, "upgrade", "--feature", "transaction.version=2", "--dry-run")
    at_1 = {**INITIAL, "transaction.version": 1}
    assert (dry.stdout, levels(broker)) == ("transaction.version can be raised to 2\n", at_1)
    assert run(broker, "upgrade").exit_code == 0
    assert levels(broker) == INITIAL
    again = run(broker, "upgrade")
    assert (again.exit_code, again.stderr) == (0, "nothing to do\n")
    lowered = run(broker, "downgrade", "--feature", "transaction.version=0", "--feature", "group.version=0")
    assert lowered.stdout == "transaction.version was lowered to 0\ngroup.version was lowered to 0\n"
    assert run(broker, "upgrade", "--feature", "group.version=1").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["upgrade", "--feature", "transaction.version=3"], 1),
        (["upgrade", "--feature", "no.such=1"], 1),
        (["upgrade", "--feature", "metadata.version=29"], 1),
        (["downgrade", "--feature", "metadata.version=29", "--unsafe"], 1),
        (["downgrade"], 2),
        (["upgrade", "--feature", "group.version=1", "--feature", "group.version=0"], 2),
    ],
)
def test_what_cannot_be_done_is_told(broker: str, arguments: list[str], code: int) -> None:
    assert run(broker, *arguments).exit_code == code
