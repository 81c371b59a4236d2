"""`kbroker start --brokers N`: who listens where, which directories go together; and the whole as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.broker import layout
from kbroker.cli.broker.supervisor import plan
from kbroker.cli.errors import Misconfigured
from kbroker.config import load
from kbroker.log.directory import LOCK
from kbroker.server.identity import META
from tests.server.process import ENVIRONMENT

READY_S = 60.0


def test_ids_and_ports_count_up() -> None:
    config = load(
        flags={
            "node.id": "7",
            "listeners": "A://127.0.0.1:9092,B://[::1]:9192",
            "advertised.listeners": "A://example.org:19092",
            "listener.security.protocol.map": "A:PLAINTEXT,B:PLAINTEXT",
        }
    )
    plans = plan(config, 3)
    assert [each.id for each in plans] == [7, 8, 9]
    assert plans[0].listeners == {"A": ("127.0.0.1", 9092), "B": ("::1", 9192)}
    assert plans[2].listeners == {"A": ("127.0.0.1", 9094), "B": ("::1", 9194)}
    assert plans[2].advertised == {"A": ("example.org", 19094)}
    protocols = {"listener.security.protocol.map": "A:PLAINTEXT,B:PLAINTEXT"}
    assert plans[2].overrides == {"node.id": "9", "default.replication.factor": "3", **protocols}


def test_a_replication_factor_that_is_configured_stays() -> None:
    assert plan(load(flags={"default.replication.factor": "1"}), 3)[0].overrides == {"node.id": "1"}
    assert plan(load(), 2)[0].overrides["default.replication.factor"] == "2"


def test_an_id_of_the_older_name_counts_too() -> None:
    assert plan(load(flags={"broker.id": "4"}), 2)[1].overrides["broker.id"] == "5"


def test_port_0_stays_0() -> None:
    plans = plan(load(flags={"listeners": "PLAINTEXT://127.0.0.1:0"}), 2)
    assert [each.listeners["PLAINTEXT"][1] for each in plans] == [0, 0]


def test_ports_of_http_count_up_too() -> None:
    def ports(port: str) -> list[str | None]:
        return [each.overrides.get("kbroker.http.port") for each in plan(load(flags={"kbroker.http.port": port}), 3)]

    assert ports("9644") == ["9644", "9645", "9646"]
    assert ports("0") == ["0", "0", "0"]
    assert ports("-1") == [None, None, None]
    with pytest.raises(
        Misconfigured, match="for each listener and for HTTP, and those from 9092 and from 9094 overlap"
    ):
        ports("9094")


@pytest.mark.parametrize(
    ("listeners", "why"),
    [
        ("A://:9092,B://:9094", "those from 9092 and from 9094 overlap"),
        ("A://:65534", "the ports 65534 to 65536"),
    ],
)
def test_ports_that_do_not_suffice_are_refused(listeners: str, why: str) -> None:
    flags = {"listeners": listeners, "listener.security.protocol.map": "A:PLAINTEXT,B:PLAINTEXT"}
    with pytest.raises(Misconfigured, match=why):
        plan(load(flags=flags), 3)


def used(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).mkdir(exist_ok=True)
        (directory / name / META).write_text("version=1\n")
    return str(directory)


def test_one_broker_does_not_begin_anew_among_several(tmp_path: Path) -> None:
    (tmp_path / "broker-7").mkdir()  # a partition of a topic called "broker"
    layout.refuse_several(str(tmp_path))
    with pytest.raises(Misconfigured, match="brokers 1, 2: start with --brokers 2"):
        layout.refuse_several(used(tmp_path, "broker-1", "broker-2"))


def test_several_do_not_begin_anew_beside_one(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="data of one broker: start it without --brokers"):
        layout.refuse_others(used(tmp_path, "."), [1, 2])


def test_more_brokers_may_come_but_none_is_left_out(tmp_path: Path) -> None:
    data = used(tmp_path, "broker-1", "broker-2")
    layout.refuse_others(data, [1, 2, 3])
    with pytest.raises(Misconfigured, match="data of broker 1, which would not run with --brokers 2"):
        layout.refuse_others(data, [2, 3])


def test_the_names_are_those_of_the_broker() -> None:
    """Repeated in the command line, which must not load a broker to know them."""
    assert (layout.LOCK, layout.META) == (LOCK, META)


# -- processes --------------------------------------------------------------------------------------------------------


class Cluster:
    """A supervisor and its brokers."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "kbroker", "start", "--listen", "127.0.0.1:0", "--log-format", "json"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait_said(self, pattern: str, since: int = 0) -> re.Match[str]:
        return wait_for(lambda: re.search(pattern, "".join(self.lines[since:])), self)

    def addresses(self) -> list[str]:
        self.wait_said("ready in ")
        found = re.search(r"listening on ([^\"]+)", self.said)
        assert found
        return found[1].split(", ")

    def pids(self) -> dict[int, int]:
        """Of the brokers, as they were at the start, by id."""
        self.wait_said("ready in ")
        return {int(number): int(pid) for number, pid in re.findall(r"(\d+) is process (\d+)", self.said)}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


def wait_for(found: Callable[[], re.Match[str] | None], cluster: Cluster) -> re.Match[str]:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        match = found()
        if match:
            return match
        time.sleep(0.02)
    raise AssertionError(cluster.said)


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    made = Cluster(*options)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(timeout=30)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def described(brokers: Cluster, topic: str) -> Any:
    """What any of the brokers says of a topic."""
    result = None
    for _ in range(100):
        command = ["topic", "describe", topic, "--format", "json"]
        result = CliRunner(env={"KBROKER_BROKERS": brokers.addresses()[0]}).invoke(cli, command)
        if result.exit_code == 0:
            return json.loads(result.stdout)[0]
        time.sleep(0.1)
    raise AssertionError(result)


@pytest.mark.slow
def test_brokers_that_are_started_together_are_one_cluster(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what a seed says, which one of them writes, for all: what is in the environment all could see."""
    seed = tmp_path_factory.mktemp("seed") / "seed.jsonl"
    seed.write_text("".join(f'{{"topic": "t", "value": {n}, "partition": {n}}}\n' for n in range(4)))
    monkeypatch.setitem(ENVIRONMENT, "KBROKER_SEED", str(seed))
    with cluster("--brokers", "3", "--data-dir", str(tmp_path), "--topic", "t:4") as brokers:
        assert len(set(brokers.addresses())) == 3
        partitions = described(brokers, "t")["partitions"]
        assert [sorted(each["replicas"]) for each in partitions] == [[1, 2, 3]] * 4
        assert {each["leader"] for each in partitions} == {1, 2, 3}
        assert [each["end"] for each in partitions] == [1] * 4
        assert brokers.said.count("seed: ") == 1
        brokers.process.send_signal(signal.SIGTERM)  # twice, as from `timeout`: one signal
        assert brokers.end() == 0
        assert not any(map(is_alive, brokers.pids().values()))
        assert "Traceback" not in brokers.said
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["broker-1", "broker-2", "broker-3"]
    assert all((tmp_path / f"broker-{n}" / ".kafka_cleanshutdown").exists() for n in (1, 2, 3))


@pytest.mark.slow
def test_who_stops_with_all_others_stays_in_sync(tmp_path: Path) -> None:
    """Whoever was the last to stop may be the one that does not come back."""
    with cluster("--brokers", "3", "--data-dir", str(tmp_path), "--topic", "t:3") as brokers:
        in_sync = [sorted(each["isr"]) for each in described(brokers, "t")["partitions"]]
        assert in_sync == [[1, 2, 3]] * 3
        assert brokers.end() == 0
    with sqlite3.connect(tmp_path / "coord.db") as store:
        values = [value for (value,) in store.execute("select value from kv where instr(key, x'2f702f')")]
    assert [sorted(json.loads(value)["isr"]) for value in values] == in_sync


@pytest.mark.slow
def test_one_that_dies_is_started_again_and_told_of(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ready file stays as it is: it is for all together, though each could see its name in the environment."""
    ready = tmp_path_factory.mktemp("ready") / "file"
    monkeypatch.setitem(ENVIRONMENT, "KBROKER_READY_FILE", str(ready))
    with cluster("--brokers", "2", "--data-dir", str(tmp_path)) as brokers:
        addresses, pids = brokers.addresses(), brokers.pids()
        assert json.loads(ready.read_text())["pid"] == brokers.process.pid
        os.kill(pids[2], signal.SIGKILL)
        brokers.wait_said("broker 2 is down: killed by SIGKILL; it is started again in 0.5 s")
        assert brokers.wait_said(r'broker 2 serves again on ([^"]+)')[1] == addresses[1]
        os.kill(pids[1], signal.SIGTERM)
        brokers.wait_said("broker 1 is down: it ended with status 0")
        brokers.wait_said("broker 1 serves again")
        assert json.loads(ready.read_text())["pid"] == brokers.process.pid
        assert brokers.end(signal.SIGINT) == 0 and not ready.exists()


@pytest.mark.slow
def test_one_that_cannot_start_ends_all_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        command = [sys.executable, "-m", "kbroker", "--brokers", "2", "--memory", "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    reason = rf"kbroker: broker (1 cannot start: 127.0.0.1:{port}|2 cannot start: 127.0.0.1:{port + 1}) is in use"
    assert re.search(reason, done.stderr), done.stderr  # the next port may be somebody else's


@pytest.mark.slow
def test_brokers_end_with_their_supervisor(tmp_path: Path) -> None:
    """However it went. They stop as they do when they are told to."""
    with cluster("--brokers", "2", "--data-dir", str(tmp_path)) as brokers:
        pids = brokers.pids()
        brokers.process.kill()
        deadline = time.monotonic() + 20
        while any(map(is_alive, pids.values())) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, pids.values()))
    assert all((tmp_path / f"broker-{n}" / ".kafka_cleanshutdown").exists() for n in (1, 2))


@pytest.mark.slow
def test_another_broker_comes_to_those_there_are(tmp_path: Path) -> None:
    with cluster("--brokers", "2", "--data-dir", str(tmp_path), "--topic", "t") as brokers:
        kept = described(brokers, "t")["id"]
        assert brokers.end() == 0
    with cluster("--brokers", "3", "--data-dir", str(tmp_path)) as brokers:
        assert described(brokers, "t")["id"] == kept
        assert brokers.end() == 0
