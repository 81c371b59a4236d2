"""`kbroker delay`, and `topic produce --delay`: what is refused without a broker, then with one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kafka_wire.messages.delays import DelayedRecord, ListDelayedResponse
from kbroker.cli import cli
from kbroker.cli.delays import reads
from kbroker.cli.delays.delay import _as_table
from kbroker.cli.delays.reads import Pending, pending
from kbroker.cli.errors import Failed
from kbroker.cli.times import MomentType
from tests.cli.process import broker_process

HOUR_MS = 3_600_000
CONFIG = "kbroker.delay.enable=true"


def run(broker: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*arguments, "-b", broker], input=stdin)


def done(broker: str, *arguments: str, stdin: str | None = None) -> str:
    result = run(broker, *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["delay", "cancel", "t"], "say which records"),
        (["delay", "cancel", "t", "-k", "a", "--id", "1"], "say which records"),
        (["delay", "deliver-now", "t:x", "-k", "a"], "'t:x' is not TOPIC"),
        (["topic", "produce", "t", "--delay", "1h", "--at", "2026-01-01"], "give one of them"),
        (["topic", "produce", "t", "--delay", "soon"], "'soon' is no duration"),
        (["topic", "produce", "t", "--at", "noon"], "'noon' is no time"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(cli, [*arguments, "-b", "127.0.0.1:1"], input="")
    assert (result.exit_code, why in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-28T17:30:00Z", 1_795_887_000_000),
        ("1795887000", 1_795_887_000_000),
        ("1795887000123", 1_795_887_000_123),
    ],
)
def test_moments(text: str, ms: int) -> None:
    assert MomentType().convert(text, None, None) == ms


def test_what_is_no_moment() -> None:
    with pytest.raises(click.UsageError):
        MomentType().convert("tomorrow", None, None)


def test_pages_of_partitions_are_put_together_in_the_order_in_which_they_are_due(monkeypatch: Any) -> None:
    """Until nobody has a next page, or as many are there as were asked for of each."""
    dues = {0: [10, 30, 50, 70], 1: [20, 40, 60, 80]}
    asked: list[tuple[int, int]] = []

    def send(client: Any, leader: int, request: Any, *_: int) -> ListDelayedResponse:
        asked.append((request.partition_index, request.after_due_ms))
        rest = [due for due in dues[request.partition_index] if due > request.after_due_ms]
        page = rest[: min(2, request.limit)]
        following = (page[-1], page[-1]) if len(page) < len(rest) else (-1, -1)
        records = [DelayedRecord(id=due, due_ms=due) for due in page]
        return ListDelayedResponse(pending=4, records=records, next_due_ms=following[0], next_id=following[1])

    monkeypatch.setattr(reads, "bridge", SimpleNamespace(send=send))
    found, total = pending(None, {("t", 0): 1, ("t", 1): 2}, most=3)
    assert ([each.due_ms for each in found], total) == ([10, 20, 30], 8)
    assert asked == [(0, -1), (0, 30), (1, -1), (1, 40)]
    found, _ = pending(None, {("t", 0): 1, ("t", 1): 2})
    assert [each.due_ms for each in found] == sorted(dues[0] + dues[1])


def test_an_error_of_a_leader_is_told(monkeypatch: Any) -> None:
    refused = SimpleNamespace(send=lambda *_: ListDelayedResponse(error_code=14, error_message="It is being read."))
    monkeypatch.setattr(reads, "bridge", refused)
    with pytest.raises(Failed, match="t 0: COORDINATOR_LOAD_IN_PROGRESS: It is being read."):
        pending(None, {("t", 0): 1})


def test_the_table_says_when_and_in_how_long() -> None:
    now_ms = int(time.time() * 1000)
    text = _as_table(
        [
            Pending(0, 7, now_ms + HOUR_MS, True, b"hurried", 7, 3),
            Pending(0, 8, now_ms + 2 * HOUR_MS + 30_000, False, b"\xff" + b"k" * 9, 5000, -1),
            Pending(1, 9, now_ms + 90_500, False, None, -1, 0),
        ]
    )
    _, hurried, late, keyless = text.splitlines()
    assert hurried.split()[:2] == ["0", "7"] and " now " in hurried
    assert "  2 h  " in late and "\\xffkkkkkkkkk..." in late
    assert " 1 min 30 s " in keyless and keyless.endswith(" 0")


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process() as address:
        done(address, "topic", "create", "later", "-p", "2", "-c", CONFIG)
        yield address


@pytest.mark.slow
def test_what_is_produced_for_later_is_listed_cancelled_and_delivered_now(broker: str) -> None:
    for key in ("a", "b", "c"):
        given = ("-p", "0", "-k", key, "--delay", "2h")
        said = run(broker, "topic", "produce", "later", *given, stdin="one\ntwo\n").stderr
        assert said == "wrote 2 records to later: partition 0, due in 2 h\n"
    listed = json.loads(done(broker, "delay", "list", "later", "--format", "json"))
    assert [each["key"] for each in listed] == ["a", "a", "b", "b", "c", "c"]
    assert {each["value_bytes"] for each in listed} == {3} and not any(each["is_hurried"] for each in listed)
    assert all(abs(each["due_ms"] - 2 * HOUR_MS - time.time() * 1000) < 60_000 for each in listed)
    assert len(done(broker, "delay", "list", "later:0", "-n", "4").splitlines()) == 1 + 4

    assert done(broker, "delay", "cancel", "later", "-k", "a") == "cancelled 2 records in later\n"
    one = listed[2]["id"]
    assert done(broker, "delay", "deliver-now", "later:0", "--id", str(one)) == "delivered 1 record in later\n"
    said = done(broker, "topic", "consume", "later", "-o", "start", "-n", "1", "-f", "%k=%v\n")
    assert said == "b=one\n"
    left = json.loads(done(broker, "delay", "list", "later", "-k", "b", "--format", "json"))
    assert [each["id"] for each in left] == [listed[3]["id"]]


@pytest.mark.slow
def test_what_is_not_there_is_told(broker: str) -> None:
    assert "topic later has no partition 7: it has 0 to " in run(broker, "delay", "list", "later:7").output
    assert "no record of key 'z' is pending" in run(broker, "delay", "cancel", "later", "-k", "z").output
    assert "no record of id 999 is pending" in run(broker, "delay", "cancel", "later:0", "--id", "999").output
    assert "name it, as in later:0" in run(broker, "delay", "cancel", "later", "--id", "1").output
    assert "t does not delay: kbroker topic alter t -c" in run(broker, "delay", "cancel", "t", "-k", "a").output
    refused = run(broker, "topic", "produce", "t", "--delay", "1m", stdin="x\n")
    assert refused.exit_code == 1 and "t does not delay" in refused.output
    assert "nothing is pending" in run(broker, "delay", "list", "t").output
    assert run(broker, "delay", "list", "absent").exit_code == 1
