"""`kbroker coord`, on the store of a real broker."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from kbroker.cli import cli
from tests.server.process import ENVIRONMENT, BrokerProcess


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["coord", *arguments])


async def told_by(*arguments: str) -> Result:
    """The same, from within trio."""
    return await trio.to_thread.run_sync(lambda: run(*arguments))


@pytest.mark.slow
async def test_a_brokers_store_is_told_of_moved_and_used(tmp_path: Path) -> None:
    own, shared = f"sqlite:{tmp_path}/data/coord.db", f"sqlite:{tmp_path}/shared/agreed.db"
    async with trio.open_nursery() as nursery:
        broker = BrokerProcess(nursery, tmp_path / "data", "--topic", "t:7")
        await broker.start()
        told = json.loads((await told_by("info", own, "--format", "json")).stdout)
        assert (told["engine"].split()[0], told["live_brokers"], told["keys"]["p"]) == ("sqlite", [1], 7)
        assert "brokers live in the source" in (await told_by("copy", own, shared)).output
        await broker.stop()
        copied = await told_by("copy", own, shared)
        assert copied.exit_code == 0, copied.output
        assert copied.stdout.endswith(f"copied and compared. Start the brokers with --coordination {shared}\n")
        assert f"moved to      {shared}" in (await told_by("info", own)).stdout
        moved = BrokerProcess(nursery, tmp_path / "data", "--coordination", shared)
        await moved.start()
        again = json.loads((await told_by("info", shared, "--format", "json")).stdout)
        assert (again["cluster"], again["live_brokers"]) == (told["cluster"], [1])
        await moved.stop()
        command = [sys.executable, "-m", "kbroker", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
        refused = await trio.run_process(command, env=ENVIRONMENT, capture_stderr=True, check=False)
        assert refused.returncode == 2
        assert f"metadata was moved to {shared}: start with --coordination {shared}\n" in refused.stderr.decode()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("store", ["coord.db", "sqlite:", "etcd://", "", "etcd://a:b"])
def test_what_is_no_store(store: str) -> None:
    told = run("info", store)
    assert told.exit_code == 2 and "is not sqlite:PATH or etcd://HOST:PORT" in told.output


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    for store in (f"sqlite:{tmp_path}/absent.db", f"sqlite:{tmp_path}/absent/coord.db"):
        told = run("info", store)
        assert (told.exit_code, told.output) == (2, f"kbroker: {store.removeprefix('sqlite:')} is lost or empty\n")
    assert not list(tmp_path.iterdir())


def test_a_store_is_not_copied_to_itself(tmp_path: Path) -> None:
    told = run("copy", f"sqlite:{tmp_path}/a", f"sqlite:{tmp_path}/a")
    assert told.exit_code == 2 and "are the same store" in told.output
