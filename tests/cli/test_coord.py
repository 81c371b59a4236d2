"""`kbroker coord`, on the store of a real broker."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from kafka_wire.errors import ErrorCode
from kbroker.cli import cli
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.client import connect
from tests.api.test_fetch import fetch_request, values
from tests.api.test_produce import batch, produce
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


@pytest.mark.slow
async def test_a_broker_goes_on_with_an_older_store_that_adopted_its_logs(tmp_path: Path) -> None:
    data, net = tmp_path / "data", RealNet(Features.detect())
    own = f"sqlite:{data}/coord.db"

    async def produced(broker: BrokerProcess, value: bytes) -> int:
        async with connect(net, broker.host, broker.port) as client:
            return (await produce(client, batch(value))).error_code

    async with trio.open_nursery() as nursery:
        broker = BrokerProcess(nursery, data, "--topic", "t:1")
        await broker.start()
        assert await produced(broker, b"a") == 0
        await broker.stop()
        copy = (data / "coord.db").read_bytes()
        assert not (data / "coord.db-wal").exists()
        for value in (b"b", b"c"):
            await broker.start()
            assert await produced(broker, value) == 0
            await broker.stop()
        (data / "coord.db").write_bytes(copy)
        await broker.start()
        assert await produced(broker, b"d") == ErrorCode.KAFKA_STORAGE_ERROR
        assert "is writing to" in (await told_by("adopt-logs", own, str(data))).output
        await broker.stop()
        told = await trio.to_thread.run_sync(
            lambda: CliRunner().invoke(cli, ["log", "ends", str(data), "--format", "json"])
        )
        (one,) = json.loads(told.stdout)["logs"]
        assert (one["log"], one["end_offset"]) == ("t-0", 3)
        (tmp_path / "ends.json").write_text(told.stdout)
        for arguments in ((str(data), "--dry-run"), (str(tmp_path / "ends.json"),)):
            adopted = await told_by("adopt-logs", own, *arguments)
            assert adopted.exit_code == 0, adopted.output
            assert adopted.stdout.splitlines()[1].split()[0] == "t-0"
        assert (await told_by("adopt-logs", own, str(data))).stdout == "0 partitions go on with these logs\n"
        await broker.start()
        assert await produced(broker, b"d") == 0
        async with connect(net, broker.host, broker.port) as client:
            assert values(await client.call(fetch_request({("t", 0): 0}), 4)) == [b"a", b"b", b"c", b"d"]
        await broker.stop()
        nursery.cancel_scope.cancel()


def test_what_tells_of_no_logs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"broker": 1}')
    for source in (tmp_path, tmp_path / "file"):
        told = run("adopt-logs", f"sqlite:{tmp_path}/coord.db", str(source))
        assert (told.exit_code, "tells of no broker's logs" in told.output) == (1, True)
