"""`topic produce` and `topic consume` with a broker: every form of input, what comes back byte by byte, a broker that
goes and comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from kafka.errors import KafkaError

from kbroker.cli import cli
from kbroker.cli.client.presence import Presence
from kbroker.cli.errors import Failed
from kbroker.cli.topics.formats import Parsed
from kbroker.cli.topics.given import Given, standard_input
from kbroker.cli.topics.produce import _Written
from tests.cli import forked
from tests.cli.process import broker_process
from tests.server.process import ENVIRONMENT


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    overrides = ("auto.create.topics.enable=false", "log.retention.ms=-1")  # records of 2023 stay
    with broker_process(*(word for each in overrides for word in ("--override", each))) as address:
        yield address


@pytest.fixture
def topic(broker: str, request: pytest.FixtureRequest) -> str:
    """A new topic of three partitions."""
    name = re.sub(r"\W", "-", request.node.name)[:100]
    assert run(broker, "create", name, "-p", "3").exit_code == 0
    return name


def run(broker: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner(env={"KBROKER_BROKERS": broker}).invoke(cli, ["topic", *arguments], input=stdin)


def produce(broker: str, *arguments: str, stdin: bytes = b"") -> str:
    """What it says."""
    done = run(broker, "produce", *arguments, stdin=stdin)
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    return done.stderr


def consume(broker: str, topic: str, *arguments: str) -> bytes:
    done = run(broker, "consume", topic, "-e", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout_bytes


ODD = [  # key, value, headers, time
    (None, None, [], 1),
    (b"", b"", [], 2),
    (b"\x00\xff\n", b"\r\n\x80", [("h", None), ("h", b"\xfe"), ("", b"")], 1_700_000_000_123),
    (b"k", None, [("\u00e4", b"text")], 4_000_000),
    (None, "{\u2028\"'".encode(), [], 5),
]


def test_what_consume_writes_as_json_produce_reads_back(broker: str, topic: str) -> None:
    """Binary keys, nulls, headers, times: byte by byte; and twice the same is the same."""
    from kbroker.cli.topics.formats import Shown, json_line

    given = b"".join(json_line(Shown(topic, 1, 7, time, key, value, headers)) for key, value, headers, time in ODD)
    assert produce(broker, topic, "-J", "--same-partition", stdin=given).startswith(f"wrote 5 records to {topic}: part")
    first = consume(broker, topic, "-J")
    assert run(broker, "create", f"{topic}-2", "-p", "3").exit_code == 0
    produce(broker, f"{topic}-2", "-J", "--same-partition", stdin=first)
    second = consume(broker, f"{topic}-2", "-J")
    expected = [json.loads(line) | {"offset": number} for number, line in enumerate(given.splitlines())]
    assert [json.loads(line) for line in first.splitlines()] == expected
    assert second == first.replace(topic.encode(), f"{topic}-2".encode())


def test_json_of_rpk_and_what_is_none(broker: str, topic: str) -> None:
    rpk = b'{"topic":"x","key":"k","value":"v","headers":[{"key":"a","value":"1"}],"timestamp":5,"offset":3}'
    produce(broker, topic, "-J", "-p", "2", stdin=rpk)
    assert consume(broker, topic, "-f", "%k %v %h %d %p") == b"k v a=1 5 2"


@pytest.mark.parametrize(
    ("options", "lines", "problem", "written"),
    [
        (["-f", "%k:%v"], b"a:1\nb:2\nnothing\nc:3\n", "line 3: does not fit the format: b'nothing'", 2),
        (["-f", "%v{hex}"], b"61\nxy\n", "line 2: ", 1),
        (["-J"], b'{"payload":"a"}\n{"payload":\n', "line 2: not JSON, column 12", 1),
        (["-J"], b'{"payload":"a"}\n[]\n', "line 2: not a JSON object", 1),
        (["-J"], b'{"vlaue":"a"}\n', "line 1: unknown field 'vlaue'", 0),
        (["-J"], b'{"key":"a"}\n', 'line 1: no "payload"', 0),
        (["-J"], b'{"payload":{"base64":"*"}}\n', "line 1: payload: what base64 says is not Base64", 0),
        (["-J"], b'{"value":1}\n', "line 1: value: neither text, null nor", 0),
        (["-J"], b'{"payload":"", "headers":["a"]}\n', "line 1: headers: expected names and values", 0),
        (["-J"], b'{"payload":"", "ts":"noon"}\n', "line 1: ts: 'noon' is not a whole number", 0),
        (["-J"], b"[" * 100_000, "line 1: not JSON", 0),
        (["-J", "--same-partition"], b'{"payload":"a","partition":7}\n', "line 1: topic ", 0),
        ([], b"a\n" + b"x" * 2_000_000 + b"\nb\n", "line 2 was not written: MESSAGE_TOO_LARGE", None),
    ],
)
def test_a_line_that_is_none_is_named_and_what_was_written_is_counted(
    broker: str, topic: str, options: list[str], lines: bytes, problem: str, written: int | None
) -> None:
    done = run(broker, "produce", topic, *options, stdin=lines)
    assert (done.exit_code, done.stdout) == (1, "")
    *told, last = done.stderr.splitlines()
    assert last.startswith(f"kbroker: {problem}")
    kept = consume(broker, topic, "-f", "%o,").count(b",")
    if written is None:  # kafka-python gives up the answers of what is under way
        found = re.fullmatch(r"wrote (\d) records? to .*?(?:; (\d) more may be there)?", *told)
        assert found and int(found[1]) <= kept <= int(found[1]) + int(found[2] or 0), told
        return
    assert kept == written
    assert [line.split(" to ")[0] for line in told] == ([f"wrote {kept} record{'s' * (kept != 1)}"] if kept else [])


def test_what_nobody_knows_of_is_not_told_to_be_missing() -> None:
    futures = [SimpleNamespace(is_done=False, exception=None, value=None) for _ in range(3)]
    written = _Written("t", Presence(), each=False, due="")
    for number, each in enumerate(futures):
        written.add(Given(f"line {number}", Parsed(None, b"", ()), 1), each)
    futures[0].is_done = futures[1].is_done = True
    futures[0].value, futures[1].exception = SimpleNamespace(partition=2, offset=7), KafkaError()
    written.take_what_is_there()
    assert written.as_text() == "wrote 1 record to t: partition 2 offset 7; 2 more may be there"


def test_delimiters_keys_and_files(broker: str, topic: str, tmp_path: Path) -> None:
    def both(*options: str, stdin: bytes) -> bytes:
        produce(broker, topic, "-p", "0", *options, stdin=stdin)
        last = str(-int(consume(broker, topic, "-p", "0", "-f", "%o\n").split()[-1]) + before - 1)
        return consume(broker, topic, "-p", "0", "-o", last, "-f", "%K[%k] %V[%v];")

    before = 0
    assert both(stdin=b"a\r\nb\n\nc") == b"-1[] 2[a\r];-1[] 1[b];-1[] 0[];-1[] 1[c];"
    before = 4
    assert both("-D", r"\0", stdin=b"a\nb\0c") == b"-1[] 3[a\nb];-1[] 1[c];"
    before = 6
    assert both("-D", "", stdin=b"a\nb\n") == b"-1[] 4[a\nb\n];"
    before = 7
    assert both("-D", "--", "-K", "=>", stdin=b"k=>v=>w--x--") == b"1[k] 4[v=>w];-1[] 1[x];"
    before = 9
    (tmp_path / "a.bin").write_bytes(b"\0\xff\n" * 100_000)
    (tmp_path / "b").write_bytes(b"")
    produce(broker, topic, str(tmp_path / "a.bin"), str(tmp_path / "b"), "-k", "photo", "-p", "1")
    assert (
        consume(broker, topic, "-p", "1", "-f", "%k:%V:%v;") == b"photo:300000:" + b"\0\xff\n" * 100_000 + b";photo:0:;"
    )
    missing = run(broker, "produce", topic, str(tmp_path / "b"), str(tmp_path / "nosuch"))
    assert missing.exit_code == 1
    assert "wrote 1 record" in missing.stderr
    assert missing.stderr.endswith(f"kbroker: cannot read {tmp_path / 'nosuch'}: No such file or directory\n")


def test_a_standard_input_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: directory))
    with pytest.raises(Failed, match="^cannot read standard input: Is a directory$"):
        standard_input(lambda: None)()
    os.close(directory)


def test_a_topic_that_is_not_there_and_is_not_made(broker: str) -> None:
    done = run(broker, "produce", "nosuch", "-X", "max_block_ms=300", stdin=b"x\n")
    assert (done.exit_code, done.stderr) == (
        1,
        "kbroker: topic nosuch does not exist, and is not made: kbroker topic create\n",
    )


def test_times_that_people_read(broker: str, topic: str) -> None:
    both = b'{"payload":"old","ts":1700000000123}\n{"payload":"none"}\n'
    produce(broker, topic, "-J", "-p", "0", stdin=both)  # partitions come in any order
    shown = consume(broker, topic, "-o", "@2023-11-14T22:13:20Z", "-f", "%d{strftime[%Y]} %v\n").decode()
    assert "2023 old" in shown and shown.count("\n") == 2
    assert consume(broker, topic, "-o", "@-5m", "-f", "%v") == b"none"
    assert consume(broker, topic, "-o", "@-9999d", "-n", "1", "-f", "%d{iso} %v").startswith(b"2023-11-1")


def test_several_topics_by_expression(broker: str) -> None:
    for name in ("re-a", "re-b", "re-ab", "xre-a"):
        run(broker, "create", name)
        produce(broker, name, stdin=name.encode())
    assert sorted(consume(broker, "re-.", "-r").split()) == [b"re-a", b"re-b"]
    both = run(broker, "consume", "re-a", "xre-a", "-e", "-f", "%t\n").stdout.split()
    assert sorted(both) == ["re-a", "xre-a"]
    nothing = run(broker, "consume", "-r", "zz.*")
    assert (nothing.exit_code, nothing.stderr) == (1, "kbroker: no topic matches zz.* (--wait waits)\n")
    wrong = run(broker, "consume", "-r", "(")
    assert wrong.exit_code == 2 and "'(' is no regular expression" in wrong.stderr
    members = run(broker, "consume", "re-.", "-r", "-g", "of-re", "-e")
    assert sorted(members.stdout.split()) == ["re-a", "re-b"], members.output


@pytest.fixture(scope="module")
def shell(broker: str) -> Iterator[forked.Commands]:
    with forked.commands(KBROKER_BROKERS=broker) as found:
        yield found


@pytest.mark.parametrize("options", [[], ["-g", "waiting"]], ids=["alone", "group"])
def test_waiting_for_a_topic(broker: str, shell: forked.Commands, options: list[str]) -> None:
    name = f"late{len(options)}"
    pid = shell.start("topic", "consume", name, "--wait", "-n", "1", *options)
    shell.said_soon(pid, f"kbroker: topic {name} does not exist: waiting\n")
    run(broker, "create", name)
    produce(broker, name, stdin=b"x\n")
    done = shell.wait(pid)
    assert (done.code, done.out) == (0, "x\n")
    assert done.err.count("waiting") == 1


def test_topics_that_come_later_are_read_too(broker: str, shell: forked.Commands) -> None:
    run(broker, "create", "later-1")
    pid = shell.start("topic", "consume", "-r", "later-.", "-n", "2")
    produce(broker, "later-1", stdin=b"1\n")
    run(broker, "create", "later-2")
    produce(broker, "later-2", stdin=b"2\n")
    done = shell.wait(pid)
    assert (done.code, sorted(done.out.split())) == (0, ["1", "2"])


SOON_EXPELLED = ("-X", "session_timeout_ms=6000", "-X", "heartbeat_interval_ms=1000")


@pytest.mark.slow
def test_a_broker_that_is_lost_and_comes_back_is_told_of_once(tmp_path: Path, shell: forked.Commands) -> None:
    """By one who reads, one who reads as a member of a group, and one who writes; and nothing is lost."""
    with Restarted(tmp_path) as broker:
        run(broker.address, "create", "t")
        readers = [
            shell.start("topic", "consume", "t", "-n", "2", "-b", broker.address),
            shell.start("topic", "consume", "t", "-n", "2", "-g", "g", *SOON_EXPELLED, "-b", broker.address),
        ]
        produce(broker.address, "t", stdin=b"before\n")
        for reader in readers:
            shell.wrote_soon(reader, "before\n")
        broker.has_committed("g")
        broker.kill()
        lost = f"kbroker: lost the broker at {broker.address}; trying again until it is back\n"
        back = f"kbroker: the broker at {broker.address} is back\n"
        for reader in readers:
            shell.said_soon(reader, lost)
        broker.start()
        for reader in readers:
            shell.said_soon(reader, back)
        writer = shell.start("topic", "produce", "t", "-b", broker.address, stdin=None)
        shell.give(writer, b"after\n")
        for reader in readers:
            done = shell.wait(reader)
            assert (done.code, done.out, done.err) == (0, "before\nafter\n", lost + back)
        broker.kill()
        shell.give(writer, b"much later\n")
        shell.said_soon(writer, lost)
        broker.start()
        shell.said_soon(writer, back)
        shell.give(writer, None)
        done = shell.wait(writer)
        assert (done.code, done.err) == (0, lost + back + "wrote 2 records to t: partition 0 offsets 1 to 2\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["consume", "produce"])
def test_who_waits_for_a_broker_that_is_lost_can_be_interrupted(
    tmp_path: Path, shell: forked.Commands, command: str
) -> None:
    with Restarted(tmp_path) as broker:
        run(broker.address, "create", "t")
        pid = shell.start("topic", command, "t", "-b", broker.address, stdin=None)
        produce(broker.address, "t", stdin=b"a\n")
        if command == "consume":
            shell.wrote_soon(pid, "a\n")
        else:
            shell.give(pid, b"x\n")
            broker.has_records(2)
        broker.kill()
        if command == "produce":
            shell.give(pid, b"y\n")
        shell.said_soon(pid, f"kbroker: lost the broker at {broker.address}; trying again until it is back\n")
        os.kill(pid, signal.SIGINT)
        done = shell.wait(pid)
    assert done.code == 130
    assert "Traceback" not in done.err and "Exception" not in done.err


class Restarted:
    """A broker with a data directory, killed and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.address = directory / "data", "127.0.0.1:0"

    def __enter__(self) -> Restarted:
        self.start()
        return self

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "kbroker",
            "start",
            "--listen",
            self.address,
            "--data-dir",
            str(self.directory),
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"listening on ([\d.:]+)", line):
                self.address = found[1]
            if "ready in" in line:
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def has_records(self, count: int) -> None:
        """Wait until topic t has as many."""
        assert run(self.address, "consume", "t", "-n", str(count)).exit_code == 0

    def has_committed(self, group: str) -> None:
        """Wait until a group has committed all there is."""
        ask = ["group", "describe", group, "--format", "json", "-b", self.address]
        for _ in range(1000):
            done = CliRunner().invoke(cli, ask)
            if done.exit_code == 0 and [each["lag"] for each in json.loads(done.stdout)[0]["partitions"]] == [0]:
                return
        raise AssertionError(done.output)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()
