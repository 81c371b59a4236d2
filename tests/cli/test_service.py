"""A broker's process and its surroundings: in the background, found, asked, stopped; bound to a parent, a service
manager, a terminal. Most tests share one broker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from kbroker.cli.broker.layout import LOCK
from kbroker.cli.broker.service.life import RUNNING
from kbroker.env.features import Features
from kbroker.env.procfs import process_identity
from kbroker.env.real_lock import take_lock
from tests.cli.test_start import start, wait_ready
from tests.server.process import ENVIRONMENT

WITHIN_S = 20.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def kbroker(*arguments: object, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, [*map(str, arguments)])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kbroker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)


def wait_gone(pid: int) -> None:
    until = time.monotonic() + WITHIN_S
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


class Detached(NamedTuple):
    """A broker in the background."""

    directory: Path
    ready_file: Path
    said: str  # by the command that started it

    @property
    def ready(self) -> dict[str, Any]:
        return json.loads(self.ready_file.read_text())  # type: ignore[no-any-return]

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.directory / "kbroker.log").read_text().splitlines()]
        return [line for line in lines if line.get("event") == name]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detached]:
    """And its end: clean, told, nothing left that says it were there."""
    place = tmp_path_factory.mktemp("service")
    directory, ready_file = place / "my data", place / "ready.json"
    options = ("--listen", "127.0.0.1:0", "--data-dir", directory, "--ready-file", ready_file, "--log-format", "json")
    begun = run("start", "--detach", *options)
    assert begun.returncode == 0, begun.stderr
    made = Detached(directory, ready_file, begun.stdout)
    try:
        yield made
        pid = made.ready["pid"]
        stopped = kbroker("stop", "--data-dir", directory)
        assert stopped.stdout.startswith(f"stopped process {pid}"), stopped.stderr
        assert not is_alive(pid) and not ready_file.exists() and not (directory / RUNNING).exists()
        assert made.events("stopping")[0]["reason"] == "SIGTERM" and made.events("stopped")
    finally:
        if (directory / RUNNING).exists():
            os.kill(json.loads((directory / RUNNING).read_text())["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_detach_returns_when_the_broker_is_ready_and_says_where(broker: Detached) -> None:
    told = dict(line.split(maxsplit=1) for line in broker.said.splitlines())
    ready = broker.ready
    assert told["process"] == str(ready["pid"]) and told["listening"] == ready["bootstrap_servers"]
    assert told["log"] == str(broker.directory / "kbroker.log")
    assert told["stop"] == f"kbroker stop --data-dir '{broker.directory}'"
    assert os.getsid(ready["pid"]) == ready["pid"], "it has a session of its own"


@pytest.mark.slow
def test_the_ready_file_has_what_a_client_needs(broker: Detached) -> None:
    ready = broker.ready
    host, port = ready["bootstrap_servers"].split(":")
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    assert ready["state"] == "ready" and ready["listeners"] == {"PLAINTEXT": ready["bootstrap_servers"]}
    assert {"pid", "node", "data_dir", "version", "cluster_id", "log_file"} <= ready.keys()


@pytest.mark.slow
def test_ping_says_which_broker_answers(broker: Detached) -> None:
    address = broker.ready["bootstrap_servers"]
    done = kbroker("ping", KBROKER_BROKERS=address)
    assert done.stdout == f"{address} answers: node 1 of cluster {broker.ready['cluster_id']}, 1 broker\n"
    told = json.loads(kbroker("ping", "-w", "-b", f"127.0.0.1:1,{address}", "--format", "json").stdout)
    assert (told["node"], told["brokers"], told["controller"]) == (1, {"1": address}, 1)
    within = kbroker("ping", KBROKER_READY_FILE=str(broker.ready_file))  # as in a container
    assert within.stdout == done.stdout


@pytest.mark.slow
def test_status_of_a_directory_and_of_an_address(broker: Detached) -> None:
    ready = broker.ready
    said = kbroker("status", "--data-dir", broker.directory)
    assert said.exit_code == 0
    assert said.stdout.startswith("kbroker 0.1.0, node 1: ready\n") and f"process    {ready['pid']}, up" in said.stdout
    told = json.loads(kbroker("status", "--data-dir", broker.directory, "--format", "json").stdout)
    assert (told["state"], told["pid"], told["listeners"]) == ("ready", ready["pid"], ready["listeners"])
    assert told["uptime_s"] >= 0 and "identity" not in told
    assert "node 1 of cluster" in kbroker("status", "-b", ready["bootstrap_servers"]).stdout
    assert kbroker("status", "-b", "h", "--memory").exit_code == 2


@pytest.mark.slow
def test_json_lines_have_fields(broker: Detached) -> None:
    ready, pid = broker.events("ready")[0], broker.ready["pid"]
    assert (ready["pid"], ready["node"], ready["level"]) == (pid, 1, "info") and 0 < ready["seconds"] < 60
    assert ready["listeners"] == [broker.ready["bootstrap_servers"]]
    assert ready["data_dir"] == str(broker.directory) and ready["message"].startswith("ready in ")
    assert broker.events("starting")[0]["pid"] == broker.events("listening")[0]["pid"] == pid
    assert broker.events("starting")[0]["data_dir"] == str(broker.directory)


@pytest.mark.slow
def test_a_start_that_fails_tells_why_where_it_was_asked_for(broker: Detached, tmp_path: Path) -> None:
    address = broker.ready["bootstrap_servers"]
    taken = run("start", "--detach", "--listen", address, "--data-dir", tmp_path / "a")
    assert (taken.returncode, taken.stdout) == (2, "")
    assert taken.stderr.startswith(f"kbroker: {address} is in use")
    locked = run("--data-dir", broker.directory, "--detach", "--listen", "127.0.0.1:0", "--log-file", tmp_path / "log")
    assert locked.returncode == 2 and f"in use by process {broker.ready['pid']}" in locked.stderr
    assert broker.ready and (broker.directory / RUNNING).exists(), "the other has not touched them"
    same = run("--detach", "--memory", "--listen", "127.0.0.1:0", "--ready-file", broker.ready_file)
    said = f"kbroker: --ready-file {broker.ready_file} is that of process {broker.ready['pid']}"
    assert same.returncode == 2 and same.stderr.startswith(said)


@pytest.mark.slow
def test_what_lies_in_the_working_directory_is_not_run_and_a_failed_start_leaves_no_log(
    broker: Detached, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the one of the working directory')")
    command = [sys.executable, "-P", "-m", "kbroker", "start", "--memory", "--detach"]
    command += ["--ready-file", str(broker.ready_file)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    begun = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert begun.stderr.startswith(f"kbroker: --ready-file {broker.ready_file} is that of process")
    assert [path.name for path in tmp_path.iterdir()] == ["queue.py"]


@pytest.mark.slow
def test_a_start_that_fails_is_an_event_where_the_log_is_json(broker: Detached) -> None:
    failed = run("--memory", "--listen", broker.ready["bootstrap_servers"], "--log-format", "json")
    assert failed.returncode == 2
    told = json.loads(failed.stderr.splitlines()[-1])
    assert (told["event"], told["status"], told["level"]) == ("start_failed", 2, "error")
    assert "is in use by" in told["reason"]
    mistaken = json.loads(run("--override", "num.partitionz=1", "--log-format", "json").stderr)
    assert mistaken["event"] == "start_failed" and "did you mean num.partitions?" in mistaken["reason"]


@pytest.mark.slow
def test_the_log_says_what_clients_bring_about(broker: Detached) -> None:
    address = broker.ready["bootstrap_servers"]
    for arguments in (
        ["create", "orders", "-p", "2"],
        ["alter", "orders", "-c", "retention.ms=1"],
        ["delete", "orders"],
    ):
        done = kbroker("topic", *arguments, KBROKER_BROKERS=address)
        assert done.exit_code == 0, done.stderr
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as browser:
        browser.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while chunk := browser.recv(4096):
            said += chunk
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    created, changed, deleted = (
        broker.events(name)[-1] for name in ("topic_created", "config_changed", "topic_deleted")
    )
    assert (created["topic"], created["partitions"], created["client_id"]) == ("orders", 2, "kbroker-cli")
    assert (changed["resource"], changed["old"], changed["new"]) == ("topic orders", None, "1")
    assert deleted["topic"] == "orders" and deleted["client"].startswith("127.0.0.1:")
    assert "an HTTP request (GET /metrics HTTP/1.1)" in broker.events("connection_closed")[-1]["reason"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks into /proc")
def test_who_is_stopped_is_proven_and_who_hangs_is_told_of_or_killed(tmp_path: Path) -> None:
    process = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path))
    wait_ready(process)
    process.send_signal(signal.SIGSTOP)  # hangs, whatever it is told
    hangs = kbroker("stop", "--data-dir", tmp_path, "--timeout", "200ms")
    assert hangs.exit_code == 1 and "has not stopped within 0.2 s" in hangs.stderr and process.poll() is None
    killed = kbroker("stop", "--data-dir", tmp_path, "--timeout", "100ms", "--kill")
    assert killed.stdout.startswith(f"killed process {process.pid}")
    process.communicate(timeout=10)
    assert (tmp_path / RUNNING).exists()
    for command in ("status", "stop"):  # what it has left is not believed
        said = kbroker(command, "--data-dir", tmp_path)
        assert (said.exit_code, said.stderr) == (3, f"kbroker: no broker runs on {tmp_path}\n")

    bystander = subprocess.Popen(["sleep", "60"])  # got its pid later
    lock = take_lock(str(tmp_path / LOCK), Features.detect())  # another, which has not written yet who it is
    try:
        (tmp_path / LOCK).write_text(f"{bystander.pid}\nboot/pid:[1]/{bystander.pid}/77\n")
        elsewhere = kbroker("stop", "--data-dir", tmp_path)
        assert elsewhere.exit_code == 1 and "of another container or machine" in elsewhere.stderr
        here = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + "/" + os.readlink("/proc/self/ns/pid")
        (tmp_path / LOCK).write_text(f"{bystander.pid}\n{here}/{bystander.pid}/77\n")
        other = kbroker("stop", "--data-dir", tmp_path)
        assert other.exit_code == 1 and "nothing was signalled" in other.stderr
        assert kbroker("status", "--data-dir", tmp_path).exit_code == 1
        (tmp_path / LOCK).write_text(f"{bystander.pid}\n{process_identity(bystander.pid)}\n")
        reader = kbroker("stop", "--data-dir", tmp_path)
        assert reader.exit_code == 1 and reader.stderr.endswith(
            f"does not say that it is a broker: it is left alone. If you know that it is one: kill {bystander.pid}\n"
        )
        (tmp_path / LOCK).unlink()
        unknown = kbroker("stop", "--data-dir", tmp_path)
        assert unknown.exit_code == 1 and "nothing was signalled" in unknown.stderr
        assert kbroker("status", "--data-dir", tmp_path).exit_code == 1
        assert bystander.poll() is None
    finally:
        lock.release()
        bystander.kill()
        bystander.wait()


@pytest.mark.slow
def test_a_broker_ends_with_its_parent_however_that_went(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready"
    command = [sys.executable, "-m", "kbroker", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "d"),
               "--exit-with-parent", "--ready-file", str(ready_file), "--brokers", "2"]  # fmt: skip
    script = f"import subprocess; subprocess.Popen({command!r}).wait()"
    with open(tmp_path / "log", "w") as log:
        parent = subprocess.Popen([sys.executable, "-c", script], env=ENVIRONMENT, stderr=log)
    ready = wait_file(ready_file)
    assert [each["node"] for each in ready["brokers"]] == [1, 2] and len(ready["bootstrap_servers"].split(",")) == 2
    pids = [ready["pid"], *(each["pid"] for each in ready["brokers"])]
    assert "brokers 1, 2: ready" in kbroker("status", "--data-dir", tmp_path / "d").stdout
    parent.kill()
    parent.wait()
    for pid in pids:
        wait_gone(pid)
    assert not ready_file.exists()
    assert (tmp_path / "d" / "broker-2" / ".kafka_cleanshutdown").exists()
    assert f"process {parent.pid}, the parent, has ended: stopping" in (tmp_path / "log").read_text()


def wait_file(path: Path) -> dict[str, Any]:
    until = time.monotonic() + WITHIN_S
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_who_has_lost_its_parent_before_it_began_does_not_start(tmp_path: Path) -> None:
    options = ("--memory", "--listen", "127.0.0.1:0")
    other = run(*options, f"--exit-with-parent={os.getppid()}")
    assert other.returncode == 2 and f"process {os.getppid()} has gone, or is not the parent" in other.stderr
    command = f"sleep 0.2; exec {sys.executable} -m kbroker {' '.join(options)} --exit-with-parent"
    script = f"import subprocess; print(subprocess.Popen(['sh', '-c', {command!r}], stdout=subprocess.DEVNULL).pid)"
    with open(tmp_path / "log", "w") as log:
        orphan = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=log)
    wait_gone(int(orphan.stdout))
    assert "outlives everything" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_broker_in_the_background_goes_on_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    listening, telling = os.pipe()
    os.close(listening)
    ready_file = tmp_path / "ready"
    command = [sys.executable, "-m", "kbroker", "--memory", "--listen", "127.0.0.1:0", "--ready-file", str(ready_file)]
    process = subprocess.Popen([*command, "--detached", "x"], env=ENVIRONMENT, stdout=telling, stderr=telling)
    os.close(telling)
    host, port = wait_file(ready_file)["bootstrap_servers"].split(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_the_unit_of_the_page_is_one(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here")
    page = (Path(__file__).parents[2] / "docs/how-to/service.md").read_text()
    unit = re.search(r"```ini\n(.*?)```", page, re.DOTALL)
    assert unit is not None
    text = unit[1].replace("/opt/kbroker/bin/kbroker", sys.executable).replace("User=kbroker", "User=root")
    (tmp_path / "kbroker.service").write_text(text)
    command = ["systemd-analyze", "verify", str(tmp_path / "kbroker.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    said = CliRunner().invoke(cli, ["start", "--help"]).stdout
    assert all(flag in said for flag in re.findall(r"--[a-z-]+", text))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets")
def test_systemd_is_told_when_it_is_ready_and_when_it_stops() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"kbroker-test-{os.getpid()}"
        manager.bind(f"\0{name}")
        manager.settimeout(WITHIN_S)
        environment = {**ENVIRONMENT, "NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "400000"}
        command = [sys.executable, "-m", "kbroker", "--memory", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            said = heard(manager, "READY=1")
            assert f"MAINPID={process.pid}" in said[-1] and "STATUS=serving on 127.0.0.1:" in said[-1]
            heard(manager, "WATCHDOG=1")
            process.terminate()
            assert "STATUS=stopping: SIGTERM" in heard(manager, "STOPPING=1")[-1]
        assert process.returncode == 0


def heard(manager: socket.socket, word: str) -> list[str]:
    said: list[str] = []
    while not said or word not in said[-1].splitlines():
        said.append(manager.recv(4096).decode())
    return said


@pytest.mark.slow
def test_the_end_of_the_terminal_stops_a_broker_cleanly(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "kbroker", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, {**ENVIRONMENT, "TERM": "xterm"})
    said = b""
    while b"CTRL+C to quit" not in said:
        said += os.read(terminal, 4096)
    assert re.search(rb"listening  127\.0\.0\.1:\d+", said)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / ".kafka_cleanshutdown").exists()
