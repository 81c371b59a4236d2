"""`kbroker topic list`, `group list` and `topic trim`: what is there, and less of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from kbroker.cli.client.connecting import Connection, consumer
from kbroker.cli.groups.overview import _lag
from kbroker.cli.groups.seek import Target
from kbroker.cli.topics.offsets import Ends, by_leader
from kbroker.cli.topics.overview import Row, _policy
from kbroker.cli.topics.trim import _new_first
from tests.cli.process import broker_process

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process() as address:
        yield address


def run(broker: str, *arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*arguments, "-b", broker], input=input)


def done(broker: str, *arguments: str, input: str | None = None) -> str:
    result = run(broker, *arguments, input=input)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("policy", "ms", "size", "text"),
    [
        ("delete", 7 * DAY_MS, -1, "delete 7 d"),
        ("delete", 90_000, 10**9, "delete 1 min 30 s 1.0 GB"),
        ("delete", -1, -1, "delete never"),
        ("compact", 7 * DAY_MS, -1, "compact"),
        ("compact,delete", 0, None, "compact,delete 0 s"),
        (None, None, None, ""),
    ],
)
def test_policies(policy: str | None, ms: int | None, size: int | None, text: str) -> None:
    assert _policy(Row("t", 1, 1, 0, 0, policy, ms, size, None)) == text


def test_topics_that_are_made_are_told_in_the_words_of_a_list(broker: str) -> None:
    """One that was there is not looked at: how many partitions it has is not known."""
    done(broker, "topic", "create", "there", "-p", "3")
    told = json.loads(done(broker, "topic", "create", "there", "new", "-p", "2", "--if-not-exists", "--format", "json"))
    assert sorted(told, key=lambda row: str(row["name"])) == [
        {"name": "new", "partitions": 2, "replicas": 1},
        {"name": "there", "partitions": None, "replicas": None},
    ]
    done(broker, "topic", "delete", "there", "new")


def test_topics_with_what_is_in_them(broker: str) -> None:
    done(broker, "topic", "create", "orders", "-p", "3", "-c", "retention.ms=1h")
    done(broker, "topic", "produce", "orders", input="a\nb\nc\n")
    done(broker, "topic", "create", "orders.eu", "--view-of", "orders", "--tags", "eu")
    rows = {row["name"]: row for row in json.loads(done(broker, "topic", "list", "--format", "json"))}
    size = rows["orders"].pop("bytes")
    assert 70 < size < 300
    assert rows["orders"] == {
        "name": "orders", "partitions": 3, "replicas": 1, "records": 3, "cleanup_policy": "delete",
        "retention_ms": 3_600_000, "retention_bytes": -1, "view_of": None,
    }  # fmt: skip
    assert (rows["orders.eu"]["view_of"], rows["orders.eu"]["records"]) == ("orders", None)
    lines = done(broker, "topic", "list").splitlines()
    assert lines[0].split() == ["NAME", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "POLICY", "VIEW", "OF"]
    assert ["orders", "3", "1", "3", str(size), "B", "delete", "1", "h"] in [line.split() for line in lines]
    names = done(broker, "topic", "list", "--names").splitlines()
    assert names == sorted(names) and {"orders", "orders.eu", "t"} <= {*names}  # and those of other tests
    assert json.loads(done(broker, "topic", "list", "--names", "--format", "json")) == names
    done(broker, "topic", "delete", "orders.eu", "orders")


def test_groups_with_members_and_lag(broker: str) -> None:
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    done(broker, "topic", "produce", "t", "-p", "0", input="a\nb\nc\n")
    with consumer(Connection((broker,), {}), group_id="billing") as client:
        client.commit({TopicPartition("t", 0): OffsetAndMetadata(1, "", -1)})
    with consumer(Connection((broker,), {}), group_id="live", auto_offset_reset="earliest") as client:
        client.subscribe(["t"])
        assert client.poll(timeout_ms=20_000)  # in one go: kafka-python may lose what it was given amid a join
        rows = json.loads(done(broker, "group", "list", "--format", "json"))
        table = done(broker, "group", "list").splitlines()
    assert [(row["name"], row["state"], row["members"], row["lag"]) for row in rows] == [
        ("billing", "Empty", 0, 2),
        ("live", "Stable", 1, 0),
    ]
    assert table[0].split() == ["GROUP", "TYPE", "STATE", "PROTOCOL", "MEMBERS", "LAG"]
    assert table[1].split()[-2:] == ["0", "2"]
    assert done(broker, "group", "list", "--names") == "billing\nlive\n"


def test_a_lag_is_of_partitions_that_are_there_and_known() -> None:
    there = {("t", 0): 1, ("t", 1): 1}
    assert _lag({("t", 0): 3, ("gone", 0): 9}, {("t", 0): 10}, there) == 7
    assert _lag({("t", 0): 3, ("t", 1): 9}, {("t", 0): 10}, there) is None
    assert _lag({("t", 0): 30}, {("t", 0): 10}, there) == 0
    assert _lag({}, {}, there) == 0
    assert _lag(None, {}, there) is None


def test_who_has_no_leader_is_not_asked() -> None:
    assert by_leader({("t", 0): 1, ("t", 1): -1, ("u", 0): 1}) == {1: [("t", 0), ("u", 0)]}


@pytest.mark.parametrize(
    ("before", "keep", "at_time", "first"),
    [
        (None, 3, -1, 17),
        (None, 100, -1, 10),
        (None, 0, -1, 20),
        (Target("end"), 0, -1, 20),
        (Target("at", 15), 0, -1, 15),
        (Target("at", 5), 0, -1, 10),
        (Target("at", 500), 0, -1, 20),
        (Target("time", 1), 0, 12, 12),
        (Target("time", 1), 0, -1, 20),
    ],
)
def test_where_a_partition_is_to_begin(before: Target | None, keep: int, at_time: int, first: int) -> None:
    assert _new_first(Ends(10, 20), before, keep, at_time) == first


def test_trim_shows_asks_and_deletes(broker: str) -> None:
    done(broker, "topic", "create", "long", "-p", "2")
    done(broker, "topic", "produce", "long", "-p", "1", input="a\n" * 10)
    asked = run(broker, "topic", "trim", "long", "--keep", "4", input="n\n")
    assert asked.exit_code == 1 and "Delete 6 records of long?" in asked.stderr
    unasked = run(broker, "topic", "trim", "long", "--keep", "4", input="")
    assert unasked.exit_code == 1 and unasked.stderr.endswith(
        "\nkbroker: nobody is there to answer; nothing was done. If you mean it: --yes\n"
    )
    assert asked.stdout.splitlines()[2].split() == ["1", "0", "10", "6", "6"]
    assert "deleted 6 records of long" in done(broker, "topic", "trim", "long", "--keep", "4", "--yes")
    _, heading, _, row, *_ = done(broker, "topic", "describe", "long", "-a").splitlines()
    assert dict(zip(heading.split(), row.split(), strict=True))["RECORDS"] == "4"  # whatever configs are shown
    again = run(broker, "topic", "trim", "long", "--keep", "4")
    assert (again.exit_code, again.stderr) == (0, "nothing to delete\n")
    planned = json.loads(done(broker, "topic", "trim", "long", "-p", "1", "--before", "end", "-y", "--format", "json"))
    assert planned == [{"topic": "long", "partition": 1, "first": 6, "end": 10, "new_first": 10, "deleted": 4}]


def test_a_unit_that_could_mean_two_things(broker: str) -> None:
    result = run(broker, "topic", "alter", "t", "-c", "segment.bytes=64M")
    assert result.exit_code == 2 and "M could be MB (1000000 bytes) or MiB (1048576)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("t",), 2, "give --before or --keep"),
        (("t", "--before", "1", "--keep", "2"), 2, "give --before or --keep"),
        (("t", "--before", "+3"), 2, "an offset, end or a time"),
        (("t", "--keep", "2", "-p", "9"), 1, "topic t has no partition 9: it has 0 to 1"),
        (("absent", "--keep", "2"), 1, "topic absent does not exist"),
    ],
)
def test_what_cannot_be_trimmed(broker: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = run(broker, "topic", "trim", *arguments)
    assert result.exit_code == code and said in result.stderr


def test_what_is_only_compacted_is_not_trimmed(broker: str) -> None:
    done(broker, "topic", "create", "kept", "-c", "cleanup.policy=compact")
    done(broker, "topic", "produce", "kept", "-f", "%k:%v", input="a:1\n")
    result = run(broker, "topic", "trim", "kept", "--before", "end", "-y")
    assert result.exit_code == 1 and "kept 0: POLICY_VIOLATION" in result.stderr
