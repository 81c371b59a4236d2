"""Real etcd servers, started and mistreated. Where their programs are: tools/etcd_servers.py."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kbroker.cluster.keys import CLUSTER, Keys
from kbroker.cluster.stores.etcd.messages import STATUS
from kbroker.cluster.stores.etcd.opening import open_etcd
from kbroker.cluster.stores.etcd.store import EtcdStore
from kbroker.env import CallFailed, Clock, Tls
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet

FOLDER = Path(__file__).parents[4] / ".compat" / "etcd"
NAMES = ("debian", "current")
IS_WANTED = bool(os.environ.get("KBROKER_TEST_ETCD"))  # set by `make test-etcd`
HEALTH_S = 20  # until a server has started, on a busy machine


def programs() -> list[object]:
    """The servers there are, for parametrize; those that are missing are skipped by name, all where none is wanted."""
    why = "cannot be had here: see tools/etcd_servers.py" if IS_WANTED else "see `make test-etcd`"
    found: list[object] = []
    for name in NAMES:
        program = FOLDER / name / "etcd"
        skip = pytest.mark.skipif(not (IS_WANTED and program.exists()), reason=f"etcd {name}: {why}")
        found.append(pytest.param(program, id=f"etcd-{name}", marks=skip))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Member:
    """One server process; its data stay when it is killed."""

    def __init__(self, program: Path, directory: Path, name: str, *, scheme: str = "http") -> None:
        self.name = name
        self.address = f"127.0.0.1:{free_port()}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.directory = directory / name
        self._program = program
        self._client_url = f"{scheme}://{self.address}"
        self._options: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, members: Sequence[Member], *options: str) -> None:
        """members: of its cluster. options: more of etcd's."""
        self._options = list(options) or self._options
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            str(self._program), "--name", self.name, "--data-dir", str(self.directory / "data"),
            "--listen-client-urls", self._client_url, "--advertise-client-urls", self._client_url,
            "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
            "--initial-cluster", ",".join(f"{member.name}={member.peer}" for member in members),
            "--heartbeat-interval", "50", "--election-timeout", "500", *self._options,
        ]  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Lose all data."""
        shutil.rmtree(self.directory / "data")

    async def wait_healthy(self) -> None:
        """Until it has a leader. Not for TLS."""
        with trio.fail_after(HEALTH_S):
            while not await trio.to_thread.run_sync(self._is_healthy):
                await trio.sleep(0.05)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._client_url}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False


@asynccontextmanager
async def etcd(program: Path, directory: Path, members: int = 1) -> AsyncIterator[list[Member]]:
    """A healthy cluster."""
    cluster = [Member(program, directory, f"m{number}") for number in range(1, members + 1)]
    try:
        for member in cluster:
            member.start(cluster)
        for member in cluster:
            await member.wait_healthy()
        yield cluster
    finally:
        for member in cluster:
            member.kill()


async def leader_of(members: Sequence[Member]) -> Member:
    """The one that leads, as they say themselves."""
    with trio.fail_after(HEALTH_S):
        while True:
            for member in members:
                channel = RealNet(Features.detect()).rpc_channel(member.address, None)
                try:
                    status = STATUS.answer.FromString(await channel.call(STATUS.path, b"", 1.0))
                    if status.leader == status.header.member_id:
                        return member
                except CallFailed:
                    pass
                finally:
                    channel.close()
            await trio.sleep(0.05)


@asynccontextmanager
async def opened(
    members: Sequence[Member], clock: Clock, *, tls: Tls | None = None, user: str = "", password: str = ""
) -> AsyncIterator[EtcdStore]:
    """The store there, in keys that begin with anything."""
    net = RealNet(Features.detect())
    async with open_etcd(
        [member.address for member in members],
        dial=lambda address: net.rpc_channel(address, tls),
        clock=clock,
        prefix=Keys(CLUSTER).prefix,
        user=user,
        password=password,
    ) as store:
        yield store
