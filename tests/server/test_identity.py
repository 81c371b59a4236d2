"""Whose data directory it is, and whose coordination store."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kbroker.cluster.stores.memory import MemoryStore
from kbroker.config import BrokerConfig
from kbroker.env import Env
from kbroker.env.real import real_env
from kbroker.server.broker import run_broker
from kbroker.server.identity import StartFailed, identify, note_cluster, refuse_foreign
from kbroker.testing.broker import Machine, memory_broker
from tests.api.test_produce import batch, produce

ID = "T2bGzY8hQ0mJ5cF3n1xW9A"


def test_a_directory_keeps_its_id() -> None:
    machine = Machine()
    made = identify(machine.env(), 1, is_used=False)
    assert identify(machine.env(), 1, is_used=False) == made
    assert identify(Machine(seed=1).env(), 1, is_used=False).directory_id != made.directory_id
    note_cluster(machine.env(), made, ID)
    assert identify(machine.env(), 1, is_used=False) == made._replace(cluster_id=ID)


def test_a_directory_serves_one_broker_only() -> None:
    machine = Machine()
    identify(machine.env(), 1, is_used=False)
    with pytest.raises(StartFailed, match="belongs to broker 1, not 2"):
        identify(machine.env(), 2, is_used=False)


def test_a_directory_whose_id_is_gone_gets_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    identify(machine.env(), 1, is_used=True)
    assert "meta.properties is gone: the directory gets a new id" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"\xa9\xff",
        b"",
        b"\0" * 80,
        b"version=1\nnode.id=1\n",
        b"version=1\nnode.id=one\ndirectory.id=%s\n" % ID.encode(),
        b"version=1\nnode.id=1\ndirectory.id=T2bGz",
        b"version=1\nnode.id=1\ndirectory.id=%s\nkbroker.cluster.id=x" % ID.encode(),
    ],
)
def test_a_damaged_file_is_named_and_stays(content: bytes) -> None:
    machine = Machine()
    machine.disk.write_atomic("meta.properties", content)
    with pytest.raises(StartFailed, match="meta.properties is damaged"):
        refuse_foreign(machine.env())
    assert machine.disk.read("meta.properties") == content


def test_a_later_version_is_refused() -> None:
    machine = Machine()
    machine.disk.write_atomic("meta.properties", b"version=2\nnode.id=1\n")
    with pytest.raises(StartFailed, match="version 2: another kbroker wrote it"):
        refuse_foreign(machine.env())


def test_a_directory_of_apache_kafka_is_left_alone() -> None:
    machine = Machine()
    machine.disk.write_atomic("meta.properties", b"version=1\ncluster.id=abc\nnode.id=1\ndirectory.id=x\n")
    with pytest.raises(StartFailed, match="belongs to Apache Kafka"):
        refuse_foreign(machine.env())


async def refusal(env: Env, store: MemoryStore | None) -> str:
    """Why a broker does not start."""
    config = BrokerConfig().with_values({"listeners": "PLAINTEXT://127.0.0.1:0"})
    with trio.fail_after(10), pytest.raises((StartFailed, ExceptionGroup)) as caught:
        await run_broker(env, config, store=store)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    assert isinstance(error, StartFailed)
    return str(error)


def files(machine: Machine) -> dict[str, bytes]:
    """All that lies in a data directory, but for what a start and a stop leave behind."""
    disk, found = machine.disk, {}
    for name in disk.list_dir(""):
        for path in [f"{name}/{each}" for each in disk.list_dir(name)] if name.endswith("-0") else [name]:
            found[path] = disk.read(path)
    return found


async def used() -> Machine:
    machine = Machine()
    async with memory_broker(topics={"orders": 1}, machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"a"), topic="orders")).error_code == 0
    return machine


@pytest.mark.parametrize(
    ("says", "knows"), [("its cluster", "nothing"), ("its cluster", "another cluster"), ("nothing", "nothing")]
)
async def test_data_of_a_cluster_that_the_store_does_not_know_is_not_touched(says: str, knows: str) -> None:
    """A store that was lost or mistaken must not look like one whose topics were deleted."""
    machine = await used()
    right, before = machine.store, files(machine)
    if says == "nothing":
        machine.disk.remove("meta.properties")
    machine.store = MemoryStore(machine.clock)
    if knows == "another cluster":
        other = Machine(seed=1)
        other.store = machine.store
        async with memory_broker(machine=other):
            pass
    told = await refusal(machine.env(), machine.store)
    assert ("is lost or empty: restore the store" if knows == "nothing" else "is that of cluster") in told
    assert machine.disk.root in told and ("holds data of cluster " in told) == (says == "its cluster")
    assert (await machine.store.get(b"/kb/kbroker/cluster") is None) == (knows == "nothing")
    machine.store = right
    async with memory_broker(machine=machine) as broker, broker.client() as client:
        assert (await produce(client, batch(b"b"), topic="orders")).base_offset == 1
    after = files(machine)
    assert all(after[path].startswith(data) for path, data in before.items() if path.endswith(".log"))


async def test_a_store_that_is_emptied_under_a_running_broker_deletes_nothing() -> None:
    """The session ends with it; what registers anew must not find that its topics were deleted."""
    machine = Machine()
    with pytest.raises(ExceptionGroup) as caught:
        async with memory_broker(topics={"orders": 1}, machine=machine) as broker, broker.client() as client:
            assert (await produce(client, batch(b"a"), topic="orders")).error_code == 0
            machine.store.__dict__.update(MemoryStore(machine.clock).__dict__)
            with trio.fail_after(30):
                while True:
                    machine.clock.jump_liveness(1)
                    await trio.sleep(0.01)
    assert "knows none" in repr(caught.value)
    assert machine.disk.size("orders-0/00000000000000000000.log") > 0


async def test_a_lost_coord_db_is_told_and_no_new_one_takes_its_place(tmp_path: Path) -> None:
    machine = await used()
    for path, data in files(machine).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    for content in (None, b""):
        if content is not None:
            (tmp_path / "coord.db").write_bytes(content)
        told = await refusal(real_env(str(tmp_path)), None)
        assert told.startswith(f"{tmp_path} holds data of cluster ") and "coord.db is lost or empty" in told
        assert (tmp_path / "coord.db").exists() == (content is not None)
        assert not list(tmp_path.glob("coord.db?*"))
