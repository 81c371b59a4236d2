"""`kbroker cluster`: what is wrong with a cluster; and the commands against three brokers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from kbroker.cli.cluster.health import (
    FENCED,
    FULL,
    NO_CONTROLLER,
    OFFLINE,
    TOO_FEW,
    UNDER_MIN_ISR,
    UNDER_REPLICATED,
    problems,
    summary,
)
from kbroker.cli.cluster.reads import Broker, Members, Partition
from kbroker.cli.cluster.reassign import IdsType, RateType
from kbroker.cli.tables import bytes_text
from tests.cli.test_supervisor import Cluster, cluster


def members(live: int, *, fenced: int = 0, controller: int = 1) -> Members:
    return Members("c", controller, tuple(Broker(n, "h", n, None, n > live) for n in range(1, live + fenced + 1)))


def partition(*isr: int, leader: int = 1) -> Partition:
    return Partition("t", 0, leader, (1, 2, 3), isr)


def test_a_full_disk_is_told_with_its_broker() -> None:
    [found] = problems(members(2), [partition(1, 2, 3)], {}, {}, full=[2])
    assert (found.kind, found.broker) == (FULL, 2)
    assert summary([found]) == "1 full disk"


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (partition(1, 2, 3), None),
        (partition(1, 2), UNDER_REPLICATED),
        (partition(1), UNDER_MIN_ISR),
        (partition(leader=-1), OFFLINE),
    ],
)
def test_what_is_wrong_with_a_partition(found: Partition, kind: str | None) -> None:
    assert [each.kind for each in problems(members(3), [found], {"t": 2}, {})] == ([kind] if kind else [])


def test_replicas_that_a_reassignment_adds_are_not_missed_yet() -> None:
    assert problems(members(3), [partition(1, 2)], {}, {("t", 0): 1}) == []
    assert problems(members(3), [partition(1)], {}, {("t", 0): 1})[0].kind == UNDER_REPLICATED


def test_more_in_sync_than_replicas_cannot_be_asked_for() -> None:
    alone = Partition("t", 0, 1, (1,), (1,))
    assert problems(members(1), [alone], {"t": 2}, {}) == []


def test_what_is_wrong_with_the_brokers_comes_in_the_order_in_which_it_is_bad() -> None:
    found = problems(members(2, fenced=1, controller=-1), [partition(1, 2)], {}, {}, 3)
    assert [each.kind for each in found] == [TOO_FEW, NO_CONTROLLER, UNDER_REPLICATED, FENCED]
    assert summary(found) == (
        "fewer brokers than are asked for, no controller, 1 under-replicated partition, 1 fenced broker"
    )
    assert summary([*found[2:3]] * 2) == "2 under-replicated partitions"


@pytest.mark.parametrize(("text", "rate"), [("50MB", 50_000_000), ("8kb", 8000), ("1000", 1000), ("7B", 7)])
def test_a_rate(text: str, rate: int) -> None:
    assert RateType().convert(text, None, None) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "5XB", "MB", "1.5MB"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(click.UsageError):
        RateType().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "1,", "a", "-1", "1 2"])
def test_what_are_no_ids(text: str) -> None:
    assert IdsType().convert("3,1,3", None, None) == (3, 1)
    with pytest.raises(click.UsageError):
        IdsType().convert(text, None, None)


@pytest.mark.parametrize(
    ("count", "text"), [(None, None), (0, "0 B"), (999, "999 B"), (1400, "1.4 KB"), (37_000_000_000, "37.0 GB")]
)
def test_bytes_for_people(count: int | None, text: str | None) -> None:
    assert bytes_text(count) == text


# -- with brokers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers, topic t, and a view of it, which nothing of the cluster's counts or moves."""
    directory = tmp_path_factory.mktemp("data")
    with cluster("--brokers", "3", "--data-dir", str(directory), "--topic", "t:6") as brokers:
        servers = ",".join(brokers.addresses())
        configs = ["-c", "kbroker.view.source=t", "-c", "kbroker.view.tags=eu"]
        made = CliRunner(env={"KBROKER_BROKERS": servers}).invoke(cli, ["topic", "create", "v", *configs])
        assert made.exit_code == 0, made.output
        yield brokers


def run(brokers: Cluster, *arguments: str) -> Result:
    return CliRunner(env={"KBROKER_BROKERS": ",".join(brokers.addresses())}).invoke(cli, ["cluster", *arguments])


def told(brokers: Cluster, *arguments: str) -> Any:
    result = run(brokers, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_info_and_brokers(three: Cluster) -> None:
    info = told(three, "info")
    assert (info["brokers"], info["fenced_brokers"], info["topics"], info["partitions"]) == (3, 0, 1, 6)
    assert info["replicas"] == 18
    assert info["controller"] in (1, 2, 3)
    assert info["bytes"] >= 0 and info["free_bytes"] > 0
    text = run(three, "info").stdout
    assert "brokers     3 live\n" in text
    rows = told(three, "brokers")
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert sum(row["leaders"] for row in rows) == 6
    assert [row["replicas"] for row in rows] == [6, 6, 6]
    assert [row["controller"] for row in rows].count(True) == 1
    assert all(row["bytes"] >= 0 and row["free_bytes"] > 0 for row in rows)
    assert run(three, "brokers").stdout.startswith("ID  ADDRESS")


@pytest.mark.slow
def test_health_waits_for_brokers_and_tells_of_those_that_are_gone(three: Cluster) -> None:
    assert run(three, "health", "-w", "--live", "3", "--timeout", "20s").stdout == "nothing is wrong\n"
    too_many = run(three, "health", "--live", "4")
    assert (too_many.exit_code, too_many.stderr) == (1, "kbroker: fewer brokers than are asked for\n")
    assert told(three, "health") == {"healthy": True, "problems": []}


@pytest.mark.slow
def test_a_broker_that_is_killed_is_missed_until_it_is_back(tmp_path: Path) -> None:
    with cluster("--brokers", "2", "--data-dir", str(tmp_path), "--topic", "t:2") as brokers:
        os.kill(brokers.pids()[2], signal.SIGKILL)
        brokers.wait_said("broker 2 serves again")
        back = run(brokers, "health", "-w", "--live", "2", "--timeout", "20s")
        assert (back.exit_code, back.stdout) == (0, "nothing is wrong\n")


@pytest.mark.slow
def test_partitions_are_moved_off_a_broker_and_spread_again(three: Cluster) -> None:
    plan = told(three, "reassign", "t", "--to", "1,2", "--replication-factor", "2", "--dry-run")
    assert {tuple(sorted(row["target"])) for row in plan} == {(1, 2)}
    assert len(plan) == 6
    assert run(three, "brokers").exit_code == 0
    moved = run(three, "reassign", "t", "--to", "1,2", "--replication-factor", "2", "--throttle", "50MB")
    assert moved.exit_code == 0, moved.output
    assert "done: 6 partitions reassigned" in moved.stdout
    assert "the throttle is removed" in moved.stderr
    assert [row["replicas"] for row in told(three, "brokers")] == [6, 6, 0]
    assert "nothing to do" in run(three, "reassign", "--from-broker", "3").stderr
    drained = run(three, "reassign", "--from-broker", "2")
    assert drained.exit_code == 0, drained.output
    assert [row["replicas"] for row in told(three, "brokers")] == [6, 0, 6]
    back = run(three, "reassign", "t", "--to", "1,2,3", "--replication-factor", "3")
    assert back.exit_code == 0, back.output
    assert "nothing is under way" in run(three, "reassign", "--status").stderr
    assert "nothing is under way" in run(three, "reassign", "--cancel").stderr
    elected = run(three, "elect-leaders")
    assert elected.exit_code == 0, elected.output
    assert [row["leaders"] for row in told(three, "brokers")] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["reassign"], 2, "say one of"),
        (["reassign", "--to", "1"], 2, "--to needs the topics"),
        (["reassign", "t", "--to", "1,9"], 1, "broker 9 is not there; those that are: 1, 2, 3"),
        (["reassign", "t:77", "--to", "1"], 1, "topic t has no partition 77: it has 0 to 5"),
        (["reassign", "no", "--to", "1"], 1, "topic no does not exist"),
        (["reassign", "v", "--to", "1,2", "--replication-factor", "2"], 1, "v is a read-only view of t"),
        (["reassign", "t", "--to", "1,2"], 1, "needs 3 brokers for its replicas, and there are: 1, 2"),
        (["elect-leaders", "--unclean"], 2, "name the topics"),
        (["unregister", "77"], 1, "BROKER_ID_NOT_REGISTERED"),
        (["unregister", "2"], 1, "broker 2 still has 6 replicas"),
        (["unregister", "2", "--force"], 1, "Broker 2 is live"),
    ],
)
def test_what_cannot_be_done_is_told(three: Cluster, arguments: list[str], code: int, text: str) -> None:
    result = run(three, *arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output
