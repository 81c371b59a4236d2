"""`kbroker start` as a process: ready, stopped, refused; and the topic commands against it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kbroker.cli import cli
from tests.server.process import ENVIRONMENT

ROOT = Path(__file__).parent.parent.parent


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kbroker", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_ready(process: subprocess.Popen[str]) -> str:
    """The address; the broker has said that it is ready."""
    assert process.stderr is not None
    address = ""
    for line in process.stderr:
        found = re.search(r"listening on (\S+?)\"?[,}\s]", line)
        address = found[1] if found else address
        if "ready in " in line:
            return address
    raise AssertionError(f"ended with {process.wait()}")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("data")
    process = start("--listen", "127.0.0.1:0", "--data-dir", str(directory), "--topic", "given:2")
    try:
        yield wait_ready(process)
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0


def kbroker(broker: str, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner(env={"KBROKER_BROKERS": broker}).invoke(cli, ["topic", *arguments], input=stdin)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_cleanly_on_a_signal(number: signal.Signals) -> None:
    process = start("start", "--listen", "127.0.0.1:0", "--memory", "--log-format", "json")
    wait_ready(process)
    process.send_signal(number)
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in rest.splitlines()][-1] == "stopped"
    assert "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_at_once_is_one(number: signal.Signals, tmp_path: Path) -> None:
    """GNU timeout and supervisors signal the process and its group."""
    process = start("start", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path))
    wait_ready(process)
    for _ in range(3):
        process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert (tmp_path / ".kafka_cleanshutdown").exists()


@pytest.mark.slow
def test_signals_that_were_set_to_be_ignored_stay_so() -> None:
    """nohup ignores SIGHUP; a shell without job control ignores SIGINT for what it starts in the background."""
    command = f"trap '' HUP INT; exec {sys.executable} -m kbroker start --listen 127.0.0.1:0 --memory"
    process = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    address = wait_ready(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_starts_without_stderr(closed: str, tmp_path: Path) -> None:
    """And nothing that is meant for people gets into a file of the broker's."""
    command = f"exec {sys.executable} -m kbroker start --listen 127.0.0.1:0 --data-dir {tmp_path} --topic t {closed}"
    process = subprocess.Popen(["sh", "-c", command], env=ENVIRONMENT)
    try:
        for _ in range(600):
            if (tmp_path / "coord.db").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None
        targets = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
        assert not any(str(tmp_path) in target for target in targets), targets
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0


@pytest.mark.slow
def test_refused_in_one_line(tmp_path: Path) -> None:
    """Port in use, directory locked, directory that cannot be: status 2, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        in_use = start("--listen", taken, "--data-dir", str(tmp_path / "a"))
        _, said = in_use.communicate(timeout=30)
    assert in_use.returncode == 2
    assert said.startswith(f"kbroker: {taken} is in use")
    assert said.count("\n") == 1

    (tmp_path / "file").write_text("in the way")
    no_directory = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "file" / "data"))
    _, said = no_directory.communicate(timeout=30)
    assert no_directory.returncode == 2
    assert said.startswith(f"kbroker: cannot use {tmp_path / 'file'}")
    assert said.count("\n") == 1

    first = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "b"))
    wait_ready(first)
    second = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "b"))
    _, said = second.communicate(timeout=30)
    first.terminate()
    first.communicate(timeout=10)
    assert second.returncode == 2
    assert said.startswith("kbroker: the data directory is in use by ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_http_is_served_where_it_is_asked_for(tmp_path: Path) -> None:
    """And a port that is taken is told in one line, before anything else is done."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        in_use = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "a"), "--http-port", str(taken))
        _, said = in_use.communicate(timeout=30)
    assert (in_use.returncode, said.count("\n")) == (2, 1)
    assert said.startswith(f"kbroker: 127.0.0.1:{taken} is in use") and "kbroker --http-port 0" in said

    process = start("--listen", "127.0.0.1:0", "--memory", "--http-port", "0")
    assert process.stderr is not None
    url = next(found[1] for line in process.stderr if (found := re.search(r"metrics and health on (http\S+/)", line)))
    try:
        with urllib.request.urlopen(f"{url}readyz", timeout=10) as answer:
            assert json.load(answer) == {"status": "ready"}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{url}healthz", headers={"Host": "evil.example"}))
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.slow
def test_topics_from_creation_to_deletion(broker: str) -> None:
    assert "given           2" in kbroker(broker, "ls").stdout
    made = kbroker(broker, "create", "orders", "-p", "3", "-c", "retention.ms=60000")
    assert made.stdout == "created orders: 3 partitions, replication factor 1\n"
    assert kbroker(broker, "create", "orders").exit_code == 1
    assert "TOPIC_ALREADY_EXISTS" in kbroker(broker, "create", "orders").stderr
    assert kbroker(broker, "create", "orders", "--if-not-exists").stdout == "orders exists\n"
    assert kbroker(broker, "alter", "orders", "-p", "4").stdout == "altered orders: 4 partitions\n"
    described = json.loads(kbroker(broker, "describe", "orders", "--format", "json").stdout)[0]
    assert len(described["partitions"]) == 4
    assert described["configs"] == {"retention.ms": {"value": "60000", "source": "DYNAMIC_TOPIC_CONFIG"}}
    assert "did you mean" in kbroker(broker, "alter", "orders", "-c", "retention.m=1").stderr
    assert kbroker(broker, "delete", "orders").stdout == "deleted orders\n"
    gone = kbroker(broker, "describe", "orders")
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "does not exist" in gone.stderr


@pytest.mark.slow
def test_views_are_made_and_shown(broker: str) -> None:
    made = kbroker(broker, "create", "given.eu", "--view-of", "given", "--tags", "eu,vip", "--lag", "5m")
    assert made.stdout == "created given.eu: view of given, 2 partitions, replication factor 1\n", made.stderr
    listed = json.loads(kbroker(broker, "list", "--format", "json").stdout)
    assert {each["name"]: each["view_of"] for each in listed} == {"given": None, "given.eu": "given"}
    assert "VIEW OF" in kbroker(broker, "list").stdout
    described = kbroker(broker, "describe", "given.eu")
    assert described.stdout.startswith("given.eu: view of given, 2 partitions\n")
    shown = json.loads(kbroker(broker, "describe", "given.eu", "--format", "json").stdout)[0]
    assert {key: row["value"] for key, row in shown["configs"].items()} == {
        "kbroker.view.lag.ms": "300000", "kbroker.view.source": "given", "kbroker.view.tags": "eu,vip"
    }  # fmt: skip
    refused = kbroker(broker, "create", "x", "--view-of", "given", "--filter", "tags has")
    assert "position 9: expected a string in quotes" in refused.stderr and refused.exit_code == 1
    assert "read-only view of given" in kbroker(broker, "alter", "given.eu", "-p", "4").stderr
    written = kbroker(broker, "produce", "given.eu", stdin=b"a\n")
    assert written.exit_code == 1
    assert kbroker(broker, "delete", "given.eu").stdout == "deleted given.eu\n"
    assert "VIEW OF" not in kbroker(broker, "list").stdout


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_produce_and_consume(broker: str, codec: str) -> None:
    topic = f"demo-{codec}"
    options = ("-f", "%k:%v", "-H", "from:me", "-Z", "-z", codec)
    written = kbroker(broker, "produce", topic, *options, stdin=b"a:1\nb:2\nc:\n")
    assert written.stderr == f"wrote 3 records to {topic}: partition 0 offsets 0 to 2\n"
    read = kbroker(broker, "consume", topic, "-e", "-f", r"%o %k=%v %V %h\n")
    assert read.stdout.splitlines() == ["0 a=1 1 from=me", "1 b=2 1 from=me", "2 c= -1 from=me"]
    assert kbroker(broker, "consume", topic, "-o", "+1", "-n", "1").stdout == "2\n"
    assert kbroker(broker, "consume", topic, "-o", "end", "-e").stdout == ""
    last = json.loads(kbroker(broker, "consume", topic, "-o", "-1", "-e", "-J").stdout)
    assert (last["offset"], last["key"], last["payload"], last["headers"]) == (2, "c", None, ["from", "me"])


@pytest.mark.slow
def test_consume_what_is_not_there(broker: str) -> None:
    missing = kbroker(broker, "consume", "nowhere")
    assert (missing.exit_code, missing.stderr) == (1, "kbroker: topic nowhere does not exist (--wait waits)\n")
    assert "has no partition 7" in kbroker(broker, "consume", "given", "-p", "7").stderr


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    result = kbroker(address, "list")
    assert result.exit_code == 3
    assert (
        result.stderr
        == f"kbroker: no broker at {address}: Connection refused. Is one running there? Another place: -b HOST:PORT\n"
    )


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_no_fault_of_the_configuration(tmp_path: Path) -> None:
    """Status 1: a supervisor starts it again."""
    patience = "initial.broker.registration.timeout.ms=0"
    options = ("--coordination", "etcd://127.0.0.1:1", "--override", patience)
    process = start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), *options)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("kbroker: etcd://127.0.0.1:1 cannot be used: 127.0.0.1:1: ")
    assert "Traceback" not in said
