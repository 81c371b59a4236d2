"""Plain mistakes, and what a command answers: one line that names the culprit, the right exit code, never a traceback.

First a table: every command of the tree, and what befalls every command. Then mistakes that only some can make.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.client.properties import client_properties
from kbroker.cli.client.quirks import keep_threads_quiet
from kbroker.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_UNREACHABLE, EXIT_USAGE
from kbroker.cli.names import NameType
from tests.cli import forked
from tests.cli.process import broker_process
from tests.cli.test_cli import LEAVES as COMMANDS

Path_ = tuple[str, ...]

# What each command needs, to do something useful on a broker with topics t and u and group g. FILE, DIR: a file and a
# directory that are none of a broker's. A new command that needs arguments wants a line here.
ARGUMENTS: dict[str, list[str]] = {
    "topic create": ["made", "--if-not-exists"],
    "topic describe": ["t"],
    "topic alter": ["t", "-c", "retention.ms=1000000000"],
    "topic delete": ["nosuch", "--if-exists"],
    "topic compact": ["compacted"],
    "topic produce": ["t"],
    "topic consume": ["t", "-e"],
    "topic trim": ["t", "--before", "1", "--yes"],
    "topic export": ["t", "-"],
    "topic import": ["FILE"],
    "group describe": ["g"],
    "group seek": ["g", "--to", "start"],
    "group delete": ["g2"],
    "group offset-delete": ["g", "-t", "t"],
    "transaction describe": ["x"],
    "transaction abort": ["t:0", "--start", "0"],
    "delay list": ["t"],
    "delay cancel": ["t", "--key", "k"],
    "delay deliver-now": ["t", "--key", "k"],
    "cluster reassign": ["t", "--to", "1"],
    "cluster elect-leaders": ["t", "--yes"],
    "cluster unregister": ["9"],
    "coord info": ["FILE"],
    "coord copy": ["FILE", "FILE.new"],
    "coord adopt-logs": ["FILE", "DIR"],
    "feature upgrade": ["--feature", "transaction.version=2"],
    "feature downgrade": ["--feature", "group.version=1"],
    "log dump": ["FILE"],
    "log verify": ["DIR"],
    "log ends": ["DIR"],
    "config docs": ["retention.ms"],
    "config check": ["FILE"],
    "config set": ["--all", "log.retention.ms=7d"],
    "completion": ["bash"],
}
# Those that have no end, or begin no work, in the way this table runs them.
NOT_RUN = {"start"}
READS_FIRST = {"topic import"}  # a file, before it asks a broker
DONE_ONCE = {"group offset-delete"}  # and then there is nothing left to do


LEAVES = dict(COMMANDS)
CLIENTS = [
    path
    for path, command in LEAVES.items()
    if any("--bootstrap-server" in each.opts for each in command.params) and " ".join(path) not in READS_FIRST
]
RUN = [path for path in LEAVES if " ".join(path) not in NOT_RUN]


def called(path: Path_, place: Path) -> list[str]:
    """A whole command line."""
    names = {"FILE": str(place / "file"), "FILE.new": str(place / "file.new"), "DIR": str(place / "empty")}
    return [*path, *(names.get(each, each) for each in ARGUMENTS.get(" ".join(path), []))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mistakes")
    (made / "file").write_text("no such thing = 1\n")
    (made / "empty").mkdir()
    return made


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with broker_process("--topic", "u", "--topic", "three:3") as found:
        yield found


@pytest.fixture(scope="module")
def shell(address: str) -> Iterator[forked.Commands]:
    with forked.commands(KBROKER_BROKERS=address) as found:
        assert found.run("topic", "create", "compacted", "-c", "cleanup.policy=compact").code == 0
        assert found.run("topic", "produce", "t", "-p", "0", stdin=b"a\nb\n").code == 0
        assert found.run("topic", "consume", "t", "-g", "g", "-n", "2") == (0, "a\nb\n", "")
        yield found


def test_every_command_has_its_line() -> None:
    needy = [path for path, command in LEAVES.items() if any(each.required for each in command.params)]
    assert [path for path in needy if " ".join(path) not in ARGUMENTS] == []
    assert ARGUMENTS.keys() <= {" ".join(path) for path in LEAVES}


@pytest.mark.parametrize("path", CLIENTS, ids=" ".join)
def test_no_broker(path: Path_, place: Path) -> None:
    done = CliRunner().invoke(cli, [*called(path, place), "-b", "127.0.0.1:1"], input="x\n")
    assert (done.exit_code, done.stdout) == (EXIT_UNREACHABLE, "")
    assert done.stderr.startswith("kbroker: no broker at 127.0.0.1:1: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_an_unknown_option(path: Path_, place: Path) -> None:
    done = CliRunner().invoke(cli, [*called(path, place), "--no-such-option"])
    assert done.exit_code == EXIT_USAGE
    assert "--no-such-option" in done.stderr.splitlines()[-1]


TAKE_ANYTHING = (type(click.STRING), click.Path, NameType)
CHECKED = [
    (path, option)
    for path, command in LEAVES.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag and not isinstance(option.type, TAKE_ANYTHING)
]


@pytest.mark.parametrize(
    ("path", "option"), CHECKED, ids=[f"{' '.join(path)} {option.opts[-1]}" for path, option in CHECKED]
)
def test_a_value_that_is_none(path: Path_, option: click.Option, place: Path) -> None:
    done = CliRunner().invoke(cli, [*called(path, place), option.opts[-1], "no:such value"])
    assert done.exit_code == EXIT_USAGE
    assert "no:such value" in (last := done.stderr.splitlines()[-1]) or "filter, position 3" in last


@pytest.mark.parametrize("path", RUN, ids=" ".join)
def test_output_that_cannot_be_written(path: Path_, place: Path, shell: forked.Commands) -> None:
    """A disk that is full, and a reader that has gone: where nothing is written, all is as ever."""
    line = called(path, place)
    first = shell.run(*line, stdin=b"x\n")
    full = shell.run(*line, stdin=b"x\n", out=forked.FULL)
    gone = shell.run(*line, stdin=b"x\n", out=forked.CLOSED_PIPE)
    assert "Traceback" not in first.err + full.err + gone.err
    if first.out and " ".join(path) not in DONE_ONCE:
        assert full.code == gone.code == EXIT_FAILED
        assert full.err.splitlines()[-1] == "kbroker: cannot write to standard output: No space left on device"
        assert "standard output" not in gone.err
    else:
        assert {first.code, full.code, gone.code} <= {0, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE}


@pytest.mark.parametrize("path", CLIENTS, ids=" ".join)
def test_interrupted(path: Path_, place: Path, shell: forked.Commands) -> None:
    """CTRL+C while a broker does not answer."""
    with silent_server() as (address, has_asked):
        pid = shell.start(*called(path, place), "-b", address, stdin=b"x\n")
        assert has_asked.wait(forked.SECONDS_MAX)
        os.kill(pid, signal.SIGINT)
        done = shell.wait(pid)
    assert (done.code, done.out) == (EXIT_INTERRUPTED, "")
    assert "Traceback" not in done.err


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """A port where questions are taken and none is answered; set when there is one."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            kept = []
            while True:
                try:
                    kept.append(listener.accept()[0])
                    if kept[-1].recv(1):
                        asked.set()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield "{}:{}".format(*listener.getsockname()), asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("topic describe nosuch", "topic nosuch does not exist"),
        ("topic alter nosuch -p 3", "topic nosuch does not exist"),
        ("topic delete nosuch", "topic nosuch does not exist"),
        ("topic compact nosuch", "topic nosuch does not exist"),
        ("topic consume nosuch", "topic nosuch does not exist"),
        ("topic consume nosuch -g g", "topic nosuch does not exist"),
        ("topic consume t -p 7", "t has no partition 7"),
        ("topic produce three -p 9", "three has no partition 9"),
        ("topic produce three -p 3", "three has no partition 3: it has 0 to 2"),
        ("topic produce bad/name", "bad/name"),
        ("topic create bad/name", "bad/name"),
        ("topic create t", "t: TOPIC_ALREADY_EXISTS"),
        ("topic create new -c nosuch=1", "nosuch"),
        ("topic create new -c segment.bytes=64M", "M could be MB"),
        ("topic trim nosuch --keep 1", "topic nosuch does not exist"),
        ("topic export nosuch -", "topic nosuch does not exist"),
        ("config set --all nosuch=1", "nosuch"),
        ("config set --all -d nosuch", "unknown broker config nosuch"),
        ("config set --broker 8 log.retention.ms=1h", "broker 8 is not there"),
        ("config set --broker 1 num.partitions=2", "num.partitions cannot be changed while the broker runs"),
        ("config show --broker 8", "broker 8 is not there"),
        ("topic create new -p 2000000", "new: "),
        ("topic create new -p 99999999999", "larger than"),
        ("topic create new -r 99999", "larger than"),
        ("topic alter t -p 99999999999", "larger than"),
        ("topic consume t -n 1 -o @99999999999999999999", "99999999999999999999"),
        ("topic consume t -n 1 -o 9999999999999999999", "9999999999999999999"),
        ("topic alter t -c nosuch=1", "nosuch"),
        ("topic alter t -d nosuch", "t: topics have no config nosuch"),
        ("topic alter t -d retention.mss", "did you mean retention.ms?"),
        ("group describe nosuch", "group nosuch does not exist"),
        ("group seek nosuch --to end", "group nosuch does not exist"),
        ("group delete nosuch", "group nosuch does not exist"),
        ("group offset-delete nosuch -t t", "group nosuch does not exist"),
        ("transaction describe nosuch", "nosuch"),
        ("delay list nosuch", "topic nosuch does not exist"),
        ("cluster reassign nosuch --to 1", "topic nosuch does not exist"),
        ("cluster reassign t --to 8", "8"),
        ("topic list -X ssl_cafile=/nosuch", "/nosuch"),
        ("topic list -X nosuch=1", "nosuch"),
    ],
)
def test_what_does_not_exist(line: str, culprit: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBROKER_BROKERS", address)
    done = CliRunner().invoke(cli, line.split(), input="hi\n")
    assert done.exit_code in (EXIT_FAILED, EXIT_USAGE)
    assert culprit in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("setting", "culprit"),
    [
        ("acks=2", "acks: '2' is none of all, -1, 0, 1"),
        ("fetch.min.bytes=x", "fetch.min.bytes: 'x' is no number from 0 on"),
        ("heartbeat.interval.ms=-1", "heartbeat.interval.ms: '-1' is no number"),
        ("bootstrap_timeout_ms=1e3", "bootstrap_timeout_ms: '1e3' is no number"),
        ("enable.idempotence=maybe", "enable.idempotence: 'maybe' is none of true, false"),
        ("ssl.ca.location=/nosuch", "ssl.ca.location: there is no file /nosuch"),
        ("key_serializer=x", "key_serializer cannot be set here"),
        ("partitioner=x", "partitioner cannot be set here"),
    ],
)
def test_a_client_property_that_is_none(setting: str, culprit: str) -> None:
    """Before anything is asked of a broker: kafka-python takes all of these, and hangs or falls over them."""
    for line in ("topic list", "topic produce t", "topic consume t"):
        done = CliRunner().invoke(cli, [*line.split(), "-b", "127.0.0.1:1", "-X", setting])
        assert (done.exit_code, done.stderr[: len(culprit) + 9]) == (EXIT_USAGE, f"kbroker: {culprit}")


def test_threads_of_kafka_python_end_quietly_and_ours_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    before = threading.excepthook
    try:
        threading.excepthook = lambda args: told.append(str(args.exc_value))
        keep_threads_quiet()
        for name in ("kafka-io-x", "ours"):
            thread = threading.Thread(target=int, args=[name], name=name)
            thread.start()
            thread.join()
    finally:
        threading.excepthook = before
    assert len(told) == 1 and "ours" in told[0]
    assert capsys.readouterr().err == ""


def test_client_properties_are_what_they_look_like_to_kafka_python(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("sasl.password=1234\nsecurity.protocol=SASL_PLAINTEXT\nfetch.max.bytes=5\n")
    assert client_properties(["client.id=-1", "check_crcs=False", "fetch.max.bytes=6"], file) == {
        "sasl_plain_password": "1234",
        "security_protocol": "SASL_PLAINTEXT",
        "fetch_max_bytes": 6,
        "client_id": "-1",
        "check_crcs": False,
    }


def test_of_several_names_those_that_are_good_are_done(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told; then one line names those that are not."""
    monkeypatch.setenv("KBROKER_BROKERS", address)

    def run(line: str) -> tuple[int, list[str], str]:
        done = CliRunner().invoke(cli, line.split())
        return done.exit_code, [text.split(":")[0] for text in done.stdout.splitlines()], done.stderr

    code, told, problem = run("topic create t5 t6 t t7")
    assert (code, told) == (EXIT_FAILED, ["created t5", "created t6", "created t7"])
    assert problem == "kbroker: t: TOPIC_ALREADY_EXISTS: Topic 't' already exists.\n"
    code, told, problem = run("topic describe t5 nosuch")
    assert (code, told[0]) == (EXIT_FAILED, "t5")
    assert "topic nosuch does not exist" in problem
    code, told, problem = run("topic delete t5 nosuch t6")
    assert (code, told) == (EXIT_FAILED, ["deleted t5", "deleted t6"])
    code, told, problem = run("group describe nosuch g --state")
    assert code == EXIT_FAILED and "group nosuch does not exist" in problem


def test_topics_of_the_brokers_are_not_deleted_unasked(
    shell: forked.Commands, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBROKER_BROKERS", address)
    refused = CliRunner().invoke(cli, ["topic", "delete", "t7", "__consumer_offsets"])
    assert (refused.exit_code, refused.stdout) == (EXIT_FAILED, "")
    assert "__consumer_offsets is an internal topic" in refused.stderr and "--internal" in refused.stderr


def test_a_directory_without_logs_is_not_verified(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["log", "verify", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (EXIT_FAILED, "")
    assert str(tmp_path) in done.stderr
    (tmp_path / "meta.properties").write_text("")  # a broker without topics
    assert CliRunner().invoke(cli, ["log", "verify", str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize("line", ["start --port 1", "start --host h", "--port 1"])
def test_who_asks_for_a_port_is_shown_where_to_listen(line: str) -> None:
    done = CliRunner().invoke(cli, line.split())
    assert done.exit_code == 2 and "where to listen is --listen HOST:PORT" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", ["topic produce new -X max.block.ms=1000", "topic list"])
def test_an_advertised_address_that_leads_nowhere_is_named(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python says that there is no topic, or that the broker was lost: neither is true."""
    with broker_process("--advertise", "kafka.invalid:9092") as address:
        monkeypatch.setenv("KBROKER_BROKERS", address)
        done = CliRunner().invoke(cli, line.split(), input="x\n")
    assert done.exit_code == EXIT_UNREACHABLE
    assert f"{address} answers, but clients are told kafka.invalid:9092 for node 1" in done.stderr
