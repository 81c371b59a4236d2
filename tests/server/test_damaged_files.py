"""Every file that a broker keeps, damaged in every way, after every end of the last run: nothing is lost in silence.

A broker wrote records to two partitions, gave some up, committed an offset for a group, and stopped, was killed, or
lost its power. Then one file is harmed, and the broker started again. Whatever file and harm, one of four things
follows:

    refused   it does not start, and names the file
    offline   one partition is not served, and the log names it; all others are whole
    rebuilt   everything that was acknowledged is served
    told      something of the file's meaning is gone, and the log names it

Which of them may follow is in the table. Records are never changed, and never removed from the disk.
"""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from click.testing import CliRunner

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_wire.messages.topics import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from kafka_wire.records import headers, read_records
from kbroker.cli import cli
from kbroker.cluster.stores.memory import MemoryStore
from kbroker.coordinators.routing import partition_of
from kbroker.server.identity import StartFailed
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.disk import MemoryDisk
from tests.api.group_tools import commit, committed, find
from tests.api.test_produce import batch, produce
from tests.api.test_topics import create

BATCHES = 30
SEGMENT_BYTES = 1024 * 1024  # the least; orders-0 has more than three of them, orders-1 one
GIVEN_UP = 3  # below that offset of orders-0
POINTS = "recovery-point-offset-checkpoint"
GROUP = f"__consumer_offsets-{partition_of('g', 2)}"
CONFIG = {"offsets.topic.num.partitions": "2", "log.flush.offset.checkpoint.interval.ms": "10"}
ENDS = ("stopped", "killed", "power")

# file -> what may follow when it is harmed, by the end of the last run
RULES: dict[str, dict[str, set[str]]] = {
    "meta.properties": dict.fromkeys(ENDS, {"refused", "told", "rebuilt"}),
    "boot-id": dict.fromkeys(ENDS, {"refused", "rebuilt"}),
    ".kafka_cleanshutdown": dict.fromkeys(ENDS, {"refused", "rebuilt"}),
    ".lock": dict.fromkeys(ENDS, {"refused", "rebuilt"}),
    "recovery-point-offset-checkpoint": dict.fromkeys(ENDS, {"refused", "told", "rebuilt"}),
    "log-start-offset-checkpoint": dict.fromkeys(ENDS, {"refused", "told", "rebuilt"}),
    "*/partition.metadata": {"stopped": {"offline"}, "killed": {"offline"}, "power": {"offline", "told"}},
    "*/leader-epoch-checkpoint": dict.fromkeys(ENDS, {"offline", "rebuilt"}),
    "*index": dict.fromkeys(ENDS, {"offline", "rebuilt"}),
    "*.snapshot": dict.fromkeys(ENDS, {"offline", "rebuilt"}),
    "*.log": dict.fromkeys(ENDS, {"offline", "told"}),
}

NEED_CONTENT = ("missing", "half of it", "its last byte missing", "a byte more", "garbage", "zeros", "a later version")

Harm = Callable[[MemoryDisk, str], object]


def rewritten(change: Callable[[bytes], bytes]) -> Harm:
    return lambda disk, path: disk.write_atomic(path, change(disk.read(path)))


def to_directory(disk: MemoryDisk, path: str) -> None:
    if disk.exists(path):
        disk.remove(path)
    disk.make_dirs(path)


def unreadable(disk: MemoryDisk, path: str) -> None:
    for operation in ("open", "read", "write_atomic"):
        disk.fail(operation, path, times=10**6, error=errno.EACCES)


HARMS: dict[str, Harm] = {
    "missing": lambda disk, path: disk.remove(path) if disk.exists(path) else None,
    "empty": lambda disk, path: disk.write_atomic(path, b""),
    "half of it": rewritten(lambda data: data[: len(data) // 2]),
    "its last byte missing": rewritten(lambda data: data[:-1]),
    "a byte more": rewritten(lambda data: data + b"\n"),
    "garbage": rewritten(lambda data: random.Random(1).randbytes(max(len(data), 40))),
    "zeros": rewritten(lambda data: bytes(max(len(data), 40))),
    "text": lambda disk, path: disk.write_atomic(path, b"these are\nsomebody's notes: 1\n=\n"),
    "a later version": rewritten(lambda data: b"9" + data[1:]),
    "a directory": to_directory,
    "unreadable": unreadable,
}


class Case(NamedTuple):
    """What lies on the disk after an end of the last run, and in the store."""

    files: dict[str, bytes]
    store: MemoryStore
    clock: Any


def content(disk: MemoryDisk, directory: str = "") -> dict[str, bytes]:
    """All files below a directory."""
    found = {}
    for name in disk.list_dir(directory):
        path = f"{directory}/{name}" if directory else name
        try:
            found |= content(disk, path)
        except NotADirectoryError:
            found[path] = disk.read(path)
    return found


def machine_of(case: Case, end: str) -> Machine:
    """A machine with a copy of it."""
    machine = Machine()
    machine.clock, machine.store = case.clock, case.store
    if end == "power":
        machine.disk.power_loss()
    for path, data in case.files.items():
        machine.disk.make_dirs(path.rpartition("/")[0])
        machine.disk.write_atomic(path, data)
    return machine


async def used(end: str) -> Case:
    """What a broker leaves."""
    machine = Machine()
    async with memory_broker(machine=machine, config=CONFIG) as broker, broker.client() as client:
        configs = {"segment.bytes": str(SEGMENT_BYTES), "index.interval.bytes": "200", "flush.messages": "1"}
        assert (await create(client, "orders", 2, configs=configs)).error_code == 0
        await find(client, "g")
        for n in range(BATCHES):
            for index in range(2):
                filler = bytes(100 if index else 3 * SEGMENT_BYTES // BATCHES)
                sent = batch(b"%d" % n, filler, producer_id=7 + index, producer_epoch=0, base_sequence=2 * n)
                assert (await produce(client, sent, topic="orders", index=index)).error_code == 0
        partitions = [DeleteRecordsPartition(partition_index=0, offset=GIVEN_UP)]
        asked = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name="orders", partitions=partitions)], timeout_ms=1000)
        assert (await client.call(asked, 2)).topics[0].partitions[0].error_code == 0
        assert await commit(client, "g", 5, topic="orders") == 0
        while not machine.disk.exists(POINTS) or b"orders 0 60" not in machine.disk.read(POINTS):
            await trio.sleep(0.01)
        killed = content(machine.disk)
    return Case(content(machine.disk) if end == "stopped" else killed, machine.store, machine.clock)


CASES: dict[str, Case] = {}


async def case_of(end: str) -> Case:
    if end not in CASES:
        CASES[end] = await used(end)
    return CASES[end]


@asynccontextmanager
async def started(machine: Machine) -> AsyncIterator[MemoryBroker]:
    """Raises StartFailed or OSError when it does not."""
    try:
        async with memory_broker(machine=machine, config=CONFIG) as broker:
            yield broker
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def read(client: BareClient, index: int) -> list[int] | ErrorCode:
    """The offsets of a partition of orders that can be read, each with the value it was written with."""
    offset, found = GIVEN_UP if index == 0 else 0, list[int]()
    while True:
        partition = FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=100_000)
        topics = [FetchTopic(topic="orders", partitions=[partition])]
        request = FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=100_000, topics=topics)
        answer = (await client.call(request, 11)).responses[0].partitions[0]
        if answer.error_code:
            return ErrorCode(answer.error_code)
        if offset >= answer.high_watermark:
            return found
        data = bytes(answer.records)
        assert data, f"nothing at offset {offset}, below {answer.high_watermark}"
        for at, header in headers(data):
            for record in read_records(data, at, max_bytes=100_000):
                if record.offset >= offset:
                    assert record.offset % 2 or record.value == b"%d" % (record.offset // 2)
                    found.append(record.offset)
            offset = header.next_offset


async def consequences(machine: Machine, path: str, said: Callable[[], str]) -> set[str]:
    """What followed; asserts that it was nothing else."""
    whole = {0: list(range(GIVEN_UP, 2 * BATCHES)), 1: list(range(2 * BATCHES))}
    followed: set[str] = set()
    partition = path.rpartition("/")[0]

    def is_named() -> bool:
        return path in said() or (bool(partition) and partition in said())

    try:
        with trio.fail_after(20):
            async with started(machine) as broker, broker.client() as client:
                for index in (0, 1):
                    found = await read(client, index)
                    if found == whole[index]:
                        continue
                    assert partition == f"orders-{index}" and is_named(), f"{path}: {found}, without a word"
                    followed.add("offline" if found == ErrorCode.KAFKA_STORAGE_ERROR else "told")
                    if isinstance(found, list):
                        assert found == whole[index][: len(found)]
                if await group_offset(client) != 5:
                    assert partition == GROUP and is_named(), f"{path}: the group's offset is gone, without a word"
                    followed.add("offline" if "is offline" in said() else "told")
                if path in said() and not followed:
                    followed.add("told")
    except (StartFailed, OSError) as error:
        assert path in f"{error} {getattr(error, 'filename', '')}", f"{path} is not named: {error!r}"
        return {"refused"}
    return followed or {"rebuilt"}


async def group_offset(client: BareClient) -> int:
    try:
        return (await committed(client, "g", topic="orders"))[0]
    except AssertionError:
        return -1


def paths_of(case: Case, pattern: str) -> list[str]:
    """The files of a kind: of those of a log's segments the first, the second and the last."""
    if "*" not in pattern:
        return [pattern]
    of_logs: dict[tuple[str, str], list[str]] = {}
    for path in case.files:
        if fnmatch(path, pattern):
            of_logs.setdefault((path.partition("/")[0], path.rpartition(".")[2]), []).append(path)
    return [each[n] for each in of_logs.values() for n in sorted({0, min(1, len(each) - 1), len(each) - 1})]


def harms(case: Case, path: str) -> Iterator[tuple[str, Harm]]:
    """Those that make sense for a file."""
    for name, harm in HARMS.items():
        if path not in case.files and name in NEED_CONTENT:
            continue
        if path.endswith(".log") and name == "a later version":
            continue  # it has none but that of its batches: what is damaged inside is for their CRCs
        yield name, harm


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pattern", RULES)
async def test_no_harm_to_a_file_loses_records_in_silence(
    pattern: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = await case_of(end)
    wrong = []
    for path in paths_of(case, pattern):
        for name, harm in harms(case, path):
            machine = machine_of(case, end)
            harm(machine.disk, path)
            caplog.clear()
            try:
                followed = await consequences(machine, path, lambda: caplog.text)
            except Exception as error:
                wrong.append(f"{path}, {name}: {error!r}")
                continue
            if not followed <= RULES[pattern][end] | {"rebuilt"}:
                wrong.append(f"{path}, {name}: {followed}")
            if not pattern.endswith(".log") and (lost := lost_records(case, machine.disk)):
                wrong.append(f"{path}, {name}: {lost} went")
    assert not wrong, "\n".join(wrong)


def lost_records(case: Case, disk: MemoryDisk) -> list[str]:
    """Segments whose records are not on the disk any more, where they were or aside. Others come behind them."""
    disk.heal()
    now = list(content(disk).items())
    return [
        path
        for path, data in case.files.items()
        if path.endswith(".log") and not any(kept.endswith(path[-24:]) and it.startswith(data) for kept, it in now)
    ]


WRITES = ("write_atomic", "append", "truncate", "rename", "remove", "make_dirs", "sync", "sync_dir", "lock", "open")


@pytest.mark.parametrize("end", ENDS)
async def test_a_disk_that_cannot_be_written_at_start_is_told_and_nothing_is_lost(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that is mounted for reading; and a full disk, on which the broker serves what there is."""
    case = await case_of(end)
    machine = machine_of(case, end)
    for operation in WRITES[:-1]:
        machine.disk.fail(operation, times=10**6, error=errno.EROFS)
    with pytest.raises(OSError) as caught, trio.fail_after(20):
        async with started(machine):
            pass
    assert caught.value.errno == errno.EROFS and not lost_records(case, machine.disk)
    machine = machine_of(case, end)
    machine.disk.capacity = machine.disk.used
    path = "boot-id"
    with trio.fail_after(20):
        if end == "power":  # it has to note that
            with pytest.raises(OSError) as full:
                async with started(machine):
                    pass
            assert full.value.errno == errno.ENOSPC and path in str(full.value)
        else:
            assert await consequences(machine, path, lambda: caplog.text) == {"rebuilt"}
    assert not lost_records(case, machine.disk)
    machine.disk.capacity = 1 << 40
    assert await consequences(machine, path, lambda: caplog.text) == {"rebuilt"}


@pytest.mark.parametrize("path", ["meta.properties", "boot-id", ".lock"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
async def test_a_new_directory_in_which_a_file_cannot_be_made_is_refused(path: str, error: int) -> None:
    machine = Machine()
    for operation in ("write_atomic", "lock"):
        machine.disk.fail(operation, path, times=10**6, error=error)
    with pytest.raises(OSError, match=path):
        async with started(machine):
            pass
    machine.disk.heal()
    async with started(machine):
        pass


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_log_verify_finds_no_fault_with_what_a_broker_leaves(end: str, tmp_path: Path) -> None:
    case = await case_of(end)
    for path, data in case.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    result = CliRunner().invoke(cli, ["log", "verify", str(tmp_path)])
    assert (result.exit_code, "no damage" in result.stdout) == (0, True), result.stdout
