"""`kbroker config`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from kbroker.cli import cli
from kbroker.config import ConfigError, load, read_file
from kbroker.config.review import review
from tests.cli.process import broker_process

SERVER_PROPERTIES = Path(__file__).parent.parent / "data" / "server.properties"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments])


def test_docs() -> None:
    text = invoke("docs", "retention.ms").stdout
    assert "retention.ms (topic, LONG)" in text
    assert "default   604800000" in text
    assert "else      log.retention.ms, then log.retention.minutes, then log.retention.hours of the broker" in text
    both = invoke("docs", "min.insync.replicas").stdout
    assert "(topic, INT)" in both
    assert "(broker, INT)" in both


def test_docs_for_programs() -> None:
    (told,) = json.loads(invoke("docs", "retention.ms", "-o", "json").stdout)
    assert (told["name"], told["scope"], told["type"], told["default"]) == (
        "retention.ms",
        "TOPIC",
        "LONG",
        "604800000",
    )
    assert told["synonyms"] == ["log.retention.ms", "log.retention.minutes", "log.retention.hours"] and told["dynamic"]
    everything = {(each["scope"], each["name"]): each for each in json.loads(invoke("docs", "-o", "json").stdout)}
    assert len(everything) > 300 and not everything["BROKER", "node.id"]["dynamic"]


def test_docs_of_what_is_not_there() -> None:
    result = invoke("docs", "num.partition")
    assert result.exit_code == 2
    assert result.stderr == "kbroker: unknown config num.partition, did you mean num.partitions?\n"


def test_docs_lists_all() -> None:
    lines = invoke("docs").stdout.splitlines()
    assert any(line.split() == ["num.partitions", "broker", "1"] for line in lines)
    assert len(lines) > 300


def test_check() -> None:
    good = invoke("check", str(SERVER_PROPERTIES))
    assert good.exit_code == 0
    assert "no mistakes" in good.stdout
    assert "warning: listener CONTROLLER is not opened" in good.stdout


PROPERTIES = """\
# a comment
num.partitionz=3
log.retention.ms=7d
listeners=PLAINTEXT://:9092,\\
   OTHER://:9092
num.partitions=0
num.partitions=4
zookeeper.connect=x
"""
TOML = """\
node.id = 5
broker.id = 6   # both
num.partitions = "many"
[log]
retention.ms = "7d"
segment.bytes = "64M"
dirs = [
  "a",  # ]
  "b",
]
cleanup.polcy = "x"
when = 2020-01-01
[[more]]
x = 1
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "k.properties",
            PROPERTIES,
            [
                "2: unknown broker config num.partitionz, did you mean num.partitions?",
                '3: log.retention.ms: "7d" is not allowed: expected a whole number, at least 1, or -1 for no limit '
                "(units are for TOML, flags and the environment)",
                "4: listeners: OTHER has no entry in listener.security.protocol.map, such as OTHER:PLAINTEXT",
                '6: num.partitions: "0" is not allowed: expected a whole number, at least 1',
                "7: warning: num.partitions was set before, in line 6: this one counts",
                "8: warning: zookeeper.connect is ignored: kbroker has no use for it",
            ],
        ),
        (
            "k.toml",
            TOML,
            [
                "1: node.id is 5 and broker.id is 6: they must agree",
                '3: num.partitions: "many" is not allowed: expected a whole number, at least 1',
                '6: log.segment.bytes: "64M" is not allowed: M could be MB (1000000 bytes) or MiB (1048576): '
                "write which",
                "11: unknown broker config log.cleanup.polcy, did you mean log.cleanup.policy?",
                "12: log.when: datetime.date(2020, 1, 1) is not allowed: expected text, a number, true or false",
                "13: more: a list of tables is not allowed",
                "14: unknown broker config more.x",
            ],
        ),
        ("k.toml", "a = 1\nx = = 3", ["2: not TOML: Invalid value (column 5)"]),
        ("k.toml", "x = " + "[" * 10_000, [" not TOML: a value is nested too deeply"]),
        ("k.toml", 'x = """', [" not TOML: Unterminated string (at end of document)"]),
        (
            "k.toml",
            "log.dirs = [\n" + '"a]",\n' * 300 + "]",
            ["1: a value that goes on for too many lines: what follows is not looked into"],
        ),
    ],
)
def test_check_tells_every_mistake_with_its_line(name: str, text: str, expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    result = invoke("check", str(file))
    assert result.exit_code == 2
    lines = [line.removeprefix(f"{file}:") for line in result.stdout.splitlines()]
    assert lines == expected
    mistakes = sum("warning" not in line for line in expected)
    assert f"{mistakes} mistake" in result.stderr
    told = json.loads(invoke("check", str(file), "--format", "json").stdout)
    assert [each["is_mistake"] for each in told] == ["warning" not in line for line in expected]


@given(st.text(alphabet="ab.=[]\"'{}, \n\\#0", max_size=60), st.sampled_from(["x.toml", "x.properties"]))
def test_check_finds_a_mistake_wherever_a_broker_would(text: str, name: str) -> None:
    """And no other: it tells a mistake exactly where `start` would refuse the file."""
    try:
        load(read_file(text, name))
    except ConfigError:
        refused = True
    else:
        refused = False
    assert any(each.is_mistake for each in review(text, name).findings) == refused


def test_show_what_a_command_line_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "k.toml"
    file.write_text('num.partitions = 3\nlog.retention.ms = "1h"\nssl.key.password = "secret"\n')
    monkeypatch.setenv("KAFKA_NUM_PARTITIONS", "7")
    shown = invoke("show", "--origin", "-c", str(file), "--override", "log.segment.bytes=64MiB", "--listen", ":19092")
    assert shown.exit_code == 0, shown.output
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.stdout.splitlines()}
    assert rows == {
        "NAME": ["VALUE", "ORIGIN"],
        "listeners": ["PLAINTEXT://:19092", "command line"],
        "num.partitions": ["7", "KAFKA_NUM_PARTITIONS"],
        "log.retention.ms": ["3600000", str(file)],
        "log.segment.bytes": ["67108864", "command line"],
        "ssl.key.password": ["(hidden)", str(file)],
    }
    everything = json.loads(invoke("show", "--all", "--format", "json").stdout)
    assert {"name": "log.retention.hours", "value": "168", "origin": "default"} in everything
    assert "did you mean num.partitions" in invoke("show", "--override", "num.partitionz=1").stderr


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with broker_process("--override", "log.retention.hours=3") as address:
        yield address


def test_configs_of_brokers_that_run(broker: str) -> None:
    def done(*arguments: str) -> str:
        result = invoke(*arguments, "-b", broker)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert done("set", "--all", "log.retention.ms=7d", "log.segment.bytes=64MiB") == (
        "altered all brokers: log.retention.ms=604800000, log.segment.bytes=67108864\n"
    )
    done("alter", "--broker", "1", "log.retention.ms=1h")
    listed = [tuple(row.values()) for row in json.loads(done("list", "--format", "json"))]
    assert {("all", "log.retention.ms", "604800000"), ("1", "log.retention.ms", "3600000")} <= set(listed)
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done("show", "--origin").splitlines()}
    assert rows["log.retention.ms"] == ["3600000", "set for this broker"]
    assert rows["log.segment.bytes"] == ["67108864", "set for all brokers"]
    assert rows["log.retention.hours"] == ["3", "its start"]
    assert done("set", "--broker", "1", "-d", "log.retention.ms").endswith("log.retention.ms back to its default\n")
    refused = invoke("show", "-b", broker, "--override", "a=b")
    assert (refused.exit_code, "has its values" in refused.stderr) == (2, True)
