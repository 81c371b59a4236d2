"""The life of a broker's process in pieces: who is told of it, what is refused, how a flood of lines is dammed."""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.broker.layout import LOCK
from kbroker.cli.broker.logs import LINES_A_SECOND, LINES_AT_ONCE, Flood, JsonFormatter
from kbroker.cli.broker.service import parent
from kbroker.cli.broker.service.life import LastWord, Life, RunningFile, read_record
from kbroker.cli.broker.service.ready_file import ReadyFile, bootstrap_servers
from kbroker.cli.broker.service.systemd import Systemd, systemd_of
from kbroker.cli.errors import Misconfigured
from kbroker.env.features import Features
from kbroker.env.real_lock import take_lock
from kbroker.events import EVENTS, LINES_LEFT_OUT, MEMBER_EXPELLED, tell


class Listener:
    """A herald that remembers."""

    def __init__(self, failing: bool = False) -> None:
        self.heard: list[tuple[str, str]] = []
        self.failing = failing

    def __str__(self) -> str:
        return "a herald"

    def tell(self, life: Life) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.heard.append((life.state, life.doing))


def test_heralds_hear_of_every_change_and_one_that_fails_hinders_nobody(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    life = Life([Listener(failing=True), listener], node=1)
    life.say("opening logs: 1 of 9")
    life.say("opening logs: 2 of 9")  # too soon
    life.become_ready(listeners={})
    life.say("not of interest any more")
    life.stop("SIGTERM")
    life.become_ready()  # too late
    life.end()
    life.end()
    states = [("starting", "opening logs: 1 of 9"), ("ready", ""), ("stopping", "SIGTERM"), ("ended", "")]
    assert listener.heard == states
    assert caplog.messages == ["a herald: No space left on device"]


def test_what_the_log_says_while_it_starts_is_what_it_is_doing() -> None:
    listener = Listener()
    life = Life([listener])
    log = logging.getLogger("test.last.word")
    log.addHandler(LastWord(life))
    log.warning("etcd cannot be reached; trying again")
    life.become_ready()
    log.warning("something else")
    assert listener.heard == [("starting", "etcd cannot be reached; trying again"), ("ready", "")]


def test_only_who_holds_the_lock_says_who_runs(tmp_path: Path) -> None:
    life = Life([RunningFile(str(tmp_path))], node=1)
    life.say("waiting")
    assert not list(tmp_path.iterdir()), "another may have the directory"
    lock = take_lock(str(tmp_path / LOCK), Features.detect())
    life.become_ready(listeners={"PLAINTEXT": "127.0.0.1:1"})
    told = read_record(tmp_path / "running.json")
    assert (told["pid"], told["state"], told["node"]) == (os.getpid(), "ready", 1)
    lock.release()
    life.end()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("content", ["", "not ours", "[]", '"text"', "[" * 100_000, '{"a": ' * 100_000, "9" * 10_000])
def test_a_record_that_cannot_be_understood_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    assert read_record(tmp_path / "file") == {}
    assert bootstrap_servers(tmp_path / "file") is None


def test_a_directory_without_a_name_is_the_usual_one_as_for_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = take_lock(LOCK, Features.detect())  # of the working directory
    status = CliRunner().invoke(cli, ["status", "--data-dir", ""])
    lock.release()
    assert (status.exit_code, status.stderr) == (3, "kbroker: no broker runs on kbroker-data\n")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"listeners": ["h:1"]},
        {"listeners": {"PLAINTEXT": 1}},
        {"started_ms": "yesterday"},
        {"started_ms": 10**400},
        {"who": None},
        {"doing": ["this"]},
        {"brokers": {"1": {}}},
        {"brokers": [1]},
        {"brokers": [{"node": 1, "state": "ready", "pid": 1}]},
    ],
    ids=str,
)
def test_a_record_that_was_changed_by_hand_says_nothing_of_its_broker(odd: dict[str, object], tmp_path: Path) -> None:
    lock = take_lock(str(tmp_path / LOCK), Features.detect())
    life = Life([RunningFile(str(tmp_path))], who="node 1", data_dir=str(tmp_path), started_ms=1)
    life.become_ready(listeners={"PLAINTEXT": "127.0.0.1:1"})
    path = tmp_path / "running.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    told = [CliRunner().invoke(cli, ["status", "--data-dir", str(tmp_path), *style]) for style in ([], ["-o", "json"])]
    lock.release()
    assert [result.exit_code for result in told] == ([1, 1] if odd else [0, 0]), told[0].exception
    assert told[0].stdout.startswith("a process: starting" if odd else "kbroker ")
    assert json.loads(told[1].stdout)["pid"] == os.getpid()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="nothing is known of processes")
def test_a_broker_whose_lock_was_removed_is_told_of_by_what_it_wrote(tmp_path: Path) -> None:
    lock = take_lock(str(tmp_path / LOCK), Features.detect())
    life = Life([RunningFile(str(tmp_path))], who="node 1", data_dir=str(tmp_path), started_ms=1)
    life.become_ready(listeners={})
    (tmp_path / LOCK).unlink()
    status = ["status", "--data-dir", str(tmp_path), "-o", "json"]
    told = CliRunner().invoke(cli, status)
    assert (told.exit_code, json.loads(told.stdout)["pid"]) == (0, os.getpid())
    path = tmp_path / "running.json"
    path.write_text(path.read_text().replace(f"/{os.getpid()}/", f"/{os.getpid()}/1"))  # one that had the pid before
    told = CliRunner().invoke(cli, status)
    assert (told.exit_code, json.loads(told.stdout)["pid"]) == (1, None)
    lock.release()
    assert CliRunner().invoke(cli, status).exit_code == 3


def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file")
    assert read_record(tmp_path / "file") == {}
    assert bootstrap_servers(tmp_path / "file") is None


@pytest.mark.parametrize("content", ["", "not ours", "[]", '{"pid": "x"}', '{"pid": 1}', "\0" * 100, "[" * 100_000])
def test_a_ready_file_that_is_no_ready_file_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    if content:
        with pytest.raises(Misconfigured, match="is no ready file of a broker"):
            ReadyFile(path)
        assert path.read_text() == content
    else:
        ReadyFile(path)  # nothing is lost


@pytest.mark.parametrize("is_link", [False, True])
def test_a_ready_file_that_is_no_file_is_left_alone(is_link: bool, tmp_path: Path) -> None:
    """/dev/null has nothing in it either."""
    path = tmp_path / "device"
    os.mkfifo(path)
    if is_link:
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "device")
    with pytest.raises(Misconfigured, match="is there, and is no file: left alone"):
        ReadyFile(path)
    assert path.is_fifo() and path.is_symlink() == is_link


def test_a_ready_file_of_a_broker_that_is_gone_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps({"pid": os.getpid(), "identity": f"boot/ns/{os.getpid()}/1"}))  # another's now
    ReadyFile(path)
    assert not path.exists()


def test_a_ready_file_that_cannot_be_written_is_refused_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be written: No such file or directory"):
        ReadyFile(tmp_path / "nowhere" / "file")
    with pytest.raises(Misconfigured, match="cannot be used: Is a directory"):
        ReadyFile(tmp_path)


def test_a_service_manager_is_asked_to_wait_while_a_broker_recovers(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/"}
        systemd = systemd_of(environment)
        assert systemd is not None and systemd.beat_s == 4 and environment == {"PATH": "/"}
        life = Life([systemd])
        life.say("opening logs: 1 of 9\nREADY=1")  # nobody else may speak in its name
        systemd.beat(life)
        life.become_ready(bootstrap_servers=["127.0.0.1:9092"])
        systemd.beat(life)
        life.stop("SIGTERM")
        said = [manager.recv(4096).decode().splitlines() for _ in range(5)]
    assert said == [
        ["STATUS=starting: opening logs: 1 of 9 READY=1"],
        ["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1"],
        ["READY=1", f"MAINPID={os.getpid()}", "STATUS=serving on 127.0.0.1:9092"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=stopping: SIGTERM"],
    ]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_a_service_manager_that_cannot_be_spoken_to_is_none(address: str) -> None:
    assert systemd_of({"NOTIFY_SOCKET": address}) is None


def test_a_service_manager_that_is_not_there_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    life = Life([Systemd(str(tmp_path / "gone"))])
    life.become_ready(bootstrap_servers=[])
    life.stop("SIGTERM")
    assert caplog.messages == [f"NOTIFY_SOCKET {tmp_path / 'gone'}: No such file or directory"]


@pytest.mark.skipif(sys.platform == "win32", reason="no parents")
def test_a_parent_is_watched_where_there_is_no_descriptor_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([4711, 4711, 4711, 1])
    monkeypatch.setattr(os, "pidfd_open", lambda pid: os.stat("/no/such/call"), raising=False)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(parent, "LOOK_S", 0.001)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    parent.Parent(4711).watch(ended.put)
    assert ended.get(timeout=5) == "process 4711, the parent, has ended"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "--detach", "--exit-with-parent"], "exclude each other"),
        (["start", "--log-file", "x"], "--log-file is for --detach"),
        (["start", "--exit-with-parent=x"], "is not the number of a process"),
        (["start", "--detach", "--wait-timeout", "soon"], "is no duration"),
        (["stop", "--memory", "--data-dir", "x"], "--memory excludes --data-dir"),
        (["ping", "-b", "h:x"], "is not HOST:PORT"),
        (["ping", "-b", ","], "-b names no broker"),
        (["ping", "-b", "::1"], "is not HOST:PORT"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())


ANSWERS = {
    b"": "it hangs up: no Kafka broker",
    b"HTTP/1.1 400 Bad Request\r\n": "does not speak Kafka's protocol",
    b"\0\0\0\x0a\0\0\0\x02\0\0\0\0\0\0": "does not speak Kafka's protocol",  # to another request
    b"\0\0\0\x0a\0\0\0\x01\0\0\0\0\0\0": "does not speak Kafka's protocol",  # it knows no request
    b"\0\0\0\x06\0\0\0\x01\0\0": "does not speak Kafka's protocol",  # cut short
}


@pytest.mark.parametrize("answer", ANSWERS, ids=ANSWERS.values())
def test_a_ping_of_what_is_no_broker_says_so(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        result = CliRunner().invoke(cli, ["ping", "-b", f"127.0.0.1:{server.getsockname()[1]}"])
        thread.join()
    assert result.exit_code == 3 and ANSWERS[answer] in result.stderr, result.stderr


def test_a_ping_waits_no_longer_than_it_was_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(cli, ["ping", "-b", address, "--timeout", "50ms"])
    assert (result.exit_code, result.stderr) == (3, f"kbroker: {address}: no answer within 0.05 s\n")
    refused = CliRunner().invoke(cli, ["ping", "-w", "-b", address, "--timeout", "50ms"])
    assert (refused.exit_code, refused.stderr) == (3, f"kbroker: no broker at {address}: Connection refused\n")


# -- lines ------------------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def expel(log: logging.Logger, times: int) -> None:
    for _ in range(times):
        tell(log, MEMBER_EXPELLED, group="g", member="m", reason="r", client_id="c", client="/h")


def test_a_flood_of_one_kind_of_event_is_dammed_and_told_of() -> None:
    now = [0.0]
    handler, log = Lines(), logging.getLogger("test.flood")
    handler.addFilter(Flood(lambda: now[0]))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    expel(log, 10 * LINES_AT_ONCE)
    assert len(handler.lines) == LINES_AT_ONCE + 1 and "(member_expelled)" in handler.lines[-1]
    log.warning("other lines pass")
    now[0] += 1
    expel(log, 10 * LINES_AT_ONCE)
    assert any(f"{9 * LINES_AT_ONCE} are left out so far" in line for line in handler.lines)
    assert len(handler.lines) == LINES_AT_ONCE + 1 + 1 + LINES_A_SECOND + 1
    now[0] += 1000
    del handler.lines[:]
    expel(log, LINES_AT_ONCE + 1)
    assert handler.lines[LINES_AT_ONCE + 1 :] == [LINES_LEFT_OUT.text.format(of="member_expelled", count=1)]


def test_an_event_as_json_has_its_name_and_its_fields() -> None:
    handler, log = logging.Handler(), logging.getLogger("test.json")
    lines: list[str] = []
    handler.emit = lambda record: lines.append(JsonFormatter().format(record))  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    expel(log, 1)
    line = json.loads(lines[0])
    assert (line["event"], line["group"], line["client_id"]) == ("member_expelled", "g", "c")
    assert line["message"] == "group g: member m is out: r"
    with pytest.raises(AssertionError, match="is told with"):
        tell(log, MEMBER_EXPELLED, group="g")


def test_every_event_is_told_somewhere_and_can_be() -> None:
    root = Path(__file__).parents[2] / "kbroker"
    source = "\n".join(path.read_text() for path in root.rglob("*.py") if path.name != "events.py")
    constants = {event.name.upper() for event in EVENTS.values()}
    assert not [name for name in constants if f"{name}," not in source and f"{name})" not in source]
    taken = {"time", "level", "logger", "message", "event", "exception"}
    assert not [event.name for event in EVENTS.values() if taken & set(event.fields)]
