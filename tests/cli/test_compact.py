"""`kbroker topic compact`, with a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from tests.cli.process import broker_process


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process() as address:
        yield address


def run(broker: str, *arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["topic", *arguments, "-b", broker], input=input)


def test_it_shows_what_it_did(broker: str) -> None:
    made = run(broker, "create", "users", "-p", "2", "-c", "cleanup.policy=compact")
    assert made.exit_code == 0, made.output
    lines = "".join(f"user-{n % 5}:value {n}\n" for n in range(100))
    assert run(broker, "produce", "users", "-f", "%k:%v", "-p", "1", input=lines).exit_code == 0
    shown = run(broker, "compact", "users")
    assert shown.exit_code == 0, shown.output
    heading, first, second = shown.output.splitlines()
    assert heading.split() == ["PARTITION", "RECORDS", "AFTER", "SIZE", "AFTER", "TOMBSTONES", "SECONDS"]
    assert first.split()[:3] == ["0", "0", "0"] and second.split()[:3] == ["1", "100", "5"]
    again = run(broker, "compact", "users", "-p", "1", "--format", "json")
    (found,) = json.loads(again.output)
    assert (found["partition"], found["records_before"], found["records_after"]) == (1, 5, 5)
    assert found["compacted_to"] == 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("t",), "INVALID_CONFIG: t is not compacted: its cleanup.policy is delete."),
        (("absent",), "topic absent does not exist"),
        (("t", "-p", "7"), "topic t has no partition 7: it has 0 to 1"),
    ],
)
def test_what_it_cannot_do_is_said(broker: str, arguments: tuple[str, ...], said: str) -> None:
    result = run(broker, "compact", *arguments)
    assert result.exit_code == 1 and said in result.output
