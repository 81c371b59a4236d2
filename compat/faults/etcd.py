"""Three etcd servers of this machine, for clusters that are coordinated by them: started, stopped still, killed.

The program is what `tools/etcd_servers.py` brings to .compat/etcd, or an `etcd` on the path. Owns the processes, and a
directory for each. Asked through etcd's own gateway, HTTP with JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import wire
from apache_kafka import CACHE

NODES = 3
READY_SECONDS_MAX = 30.0


def program() -> str | None:
    """A current one if there is one."""
    for name in ("current", "debian"):
        if (found := CACHE / "etcd" / name / "etcd").exists():
            return str(found)
    return shutil.which("etcd")


class Etcd:
    """The servers by number, from 0 on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports: list[int] = []
        for _ in range(2 * NODES):
            ports.append(wire.free_port(avoid=tuple(ports)))
        self.ports, self.peers = ports[:NODES], ports[NODES:]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for node in range(NODES):
            self.start_node(node)
        end = time.monotonic() + READY_SECONDS_MAX
        while not all(self._status(node) for node in range(NODES)):
            if time.monotonic() > end:
                raise RuntimeError(f"etcd was not ready within {READY_SECONDS_MAX:.0f} s: {self.directory}")
            time.sleep(0.05)

    def start_node(self, node: int) -> None:
        found = program()
        assert found is not None
        (place := self.directory / f"etcd-{node}").mkdir(parents=True, exist_ok=True)
        url, peer = (f"http://127.0.0.1:{port}" for port in (self.ports[node], self.peers[node]))
        everyone = ",".join(f"n{other}=http://127.0.0.1:{port}" for other, port in enumerate(self.peers))
        command = [
            found, "--name", f"n{node}", "--data-dir", str(place / "data"), "--listen-client-urls", url,
            "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", everyone,
        ]  # fmt: skip
        with (place / "log").open("ab") as log:
            self.processes[node] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill_node(self, node: int) -> None:
        process = self.processes.pop(node, None)
        if process is not None:
            process.kill()
            process.wait(10)

    def kill(self) -> None:
        for node in range(NODES):
            self.kill_node(node)

    def pause(self) -> None:
        """All stand still."""
        for process in self.processes.values():
            os.kill(process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.processes.values():
            os.kill(process.pid, signal.SIGCONT)

    def leader(self) -> int:
        """Whom they follow."""
        for node in range(NODES):
            status = self._status(node)
            if status and status["leader"] == status["header"]["member_id"]:
                return node
        raise RuntimeError("etcd has no leader")

    def compact(self) -> None:
        """Forget every revision but the newest."""
        status = self._status(0)
        assert status is not None
        self._ask(0, "kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def _status(self, node: int) -> dict[str, Any] | None:
        """None if it does not answer, or has no leader."""
        try:
            status = self._ask(node, "maintenance/status", {})
        except (urllib.error.URLError, OSError):
            return None
        return status if status.get("leader", "0") != "0" else None

    def _ask(self, node: int, what: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[node]}/v3/{what}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return dict(json.loads(answer.read()))
