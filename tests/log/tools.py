"""What the tests of the log share: batches, a log on a disk, and how to read it back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import trio

from kafka_wire import records
from kafka_wire.walk import keyed, stamps
from kbroker.config import TopicConfig
from kbroker.env import Disk, Offload
from kbroker.log.cold import NotInMemory
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.log.recovery import Crash, End
from kbroker.log.writing import Appended
from kbroker.testing.clock import EPOCH_MS
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.world import Killed
from kbroker.turns import do_errands

TOPIC_ID = bytes(range(16))
NOW = EPOCH_MS
T = TypeVar("T")


def batch(
    *values: bytes, at: int = NOW, producer: int = -1, epoch: int = 0, sequence: int = -1, **options: Any
) -> bytearray:
    """One batch; every record has the same timestamp."""
    if producer >= 0:
        options |= {"producer_id": producer, "producer_epoch": epoch, "base_sequence": sequence}
    return records.build_batch([(at, b"key", value) for value in values or (b"value",)], **options)


def thinned(whole: bytes | bytearray, keep: Callable[[int], object]) -> bytearray:
    """What a compaction, of whatever broker, may leave of a batch: the records whose offsets are to be kept."""
    header, data = records.read_header(whole), records.payload(whole, max_bytes=1 << 20)
    found = keyed(data, header.count)
    ends = [start for start, *_ in found[1:]] + [len(data)]
    left = [data[start:end] for (start, delta, *_), end in zip(found, ends, strict=True) if keep(header[0] + delta)]
    if left:
        latest = max(delta for delta, _ in stamps(b"".join(left), len(left)))
        header = header._replace(max_timestamp=header.base_timestamp + latest)
    return records.with_records(header._replace(count=len(left)), b"".join(left))


class StoppedClock:
    """It is always NOW."""

    def __init__(self) -> None:
        self.now_ms = NOW

    def data_ms(self) -> int:
        return self.now_ms

    def liveness(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def sleep_data(self, seconds: float) -> bool:
        await trio.sleep(seconds)
        return False


def open_log(
    disk: Disk,
    crash: Crash = Crash.CLEAN,
    *,
    recovery_point: int = 0,
    start_offset: int = 0,
    leader_epoch_max: int | None = None,
    clean_end: End | None = None,
    on_due: Callable[[PartitionLog], None] | None = None,
    **config: Any,
) -> PartitionLog:
    """The log on a disk. CLEAN: it ends where a stop now would have noted, unless clean_end is given."""
    if crash is Crash.CLEAN and clean_end is None:
        clean_end = end_on(disk)
    return PartitionLog.open(
        disk, "orders-0", config=TopicConfig(**config), clock=StoppedClock(), topic_id=TOPIC_ID, crash=crash,
        recovery_point=recovery_point, start_offset=start_offset, leader_epoch_max=leader_epoch_max, on_due=on_due,
        clean_end=clean_end,
    )  # fmt: skip


class Fate:
    """Ends a process at the nth look at whether it lives (from 0): each operation of a MemoryDisk begins with one."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def cut_to(log: PartitionLog, offset: int) -> None:
    """Cut a log, and wait until it may grow again."""

    log.truncate_to(offset)
    at_once(log.settle)


def end_on(disk: Disk) -> End | None:
    """What a clean stop notes of the log that the disk holds; None when there is none."""
    names = disk.list_dir("orders-0") if disk.exists("orders-0") else []
    bases = [name for name in names if name.endswith(".log") and name[:-4].isdigit()]
    if not bases:
        return None
    data, offset = disk.read(f"orders-0/{bases[-1]}"), int(bases[-1][:-4])
    for _, header in records.headers(data):
        offset = header.next_offset
    size = sum(disk.size(f"orders-0/{name}") for name in bases)
    return End(offset, size, int(f"{offset:020d}.snapshot" in names))


def append(log: PartitionLog, *values: bytes, leader_epoch: int = 0, now: int = NOW, **options: Any) -> Appended:
    return log.append(batch(*values, **options), leader_epoch=leader_epoch, now_ms=now)


def fill(log: PartitionLog, count: int, size: int = 100, first: int = 0, **options: Any) -> None:
    """Append count batches of one record whose value begins with its number."""
    for number in range(first, first + count):
        append(log, b"%d:" % number + b"x" * size, **options)


def contents(log: PartitionLog, bound: int | None = None) -> list[tuple[int, bytes | None]]:
    """(offset, value) of every record from the log's start, read as a consumer would."""
    bound = log.end.value if bound is None else bound
    found: list[tuple[int, bytes | None]] = []
    offset = log.start_offset
    while slices := log.read(offset, 1000, bound):
        for header, batch_records in batches(b"".join(piece.read() for piece in slices)):
            found += [(each.offset, each.value) for each in batch_records if each.offset >= log.start_offset]
            offset = header.next_offset
    return found


def batches(data: bytes) -> Iterator[tuple[records.BatchHeader, list[records.Record]]]:
    covered = 0
    for position, header in records.headers(data):
        assert records.check_crc(data, position, header)
        covered = position + header.size
        yield header, list(records.read_records(data, position, max_bytes=1 << 20))
    assert covered == len(data), "a read ends with a partial batch"


def answers(log: PartitionLog) -> dict[str, Any]:
    """Everything a log answers that must not depend on its indexes, snapshots and checkpoints (L5)."""
    end = log.end.value
    everything = contents(log)
    stamps = range(NOW - 5, NOW + 200, 7)
    return {
        "start": log.start_offset,
        "end": end,
        "records": everything,
        "times": [do_errands(log.first_at_or_after(stamp, end)) for stamp in stamps],
        "latest": do_errands(log.max_timestamp(end)),
        "reads": [starts_at(log, offset) for offset in range(log.start_offset, end, max(end // 50, 1))],
        "epochs": log.epochs.entries,
        "producers": producers_of(log),
    }


def starts_at(log: PartitionLog, offset: int) -> int:
    """The base offset of the batch that a read of an offset begins with."""
    return records.read_header(log.read(offset, 1, log.end.value)[0].read()).base_offset


def producers_of(log: PartitionLog) -> dict[int, tuple[Any, ...]]:
    return {producer_id: (each.epoch, tuple(each.batches)) for producer_id, each in sorted(log.producers.by_id.items())}


def apply_retention(log: PartitionLog, now_ms: int, bound: int, *, is_flushed: bool = True) -> int:
    """Delete old segments as the Retainer has it done, here and now. Returns how many; OSError if the disk refuses.

    is_flushed: what was not durable has become so meanwhile.
    """
    start = find_start(log, now_ms, bound)
    if is_flushed:
        at_once(log.flush_closed)
        start = find_start(log, now_ms, bound)
    log.advance_start(start)
    count = log.drop(bound)
    at_once(log.rename_dropped)
    return count


def find_start(log: PartitionLog, now_ms: int, bound: int) -> int:
    while True:
        try:
            return log.find_start(now_ms, bound)
        except NotInMemory as look:
            look.take(look.work())


def at_once(do: Callable[[Offload], Coroutine[Any, Any, None]]) -> None:
    """Have a log do what it waits for workers for: they work here and now."""

    async def offload(work: Callable[[], T]) -> T:
        return work()

    with pytest.raises(StopIteration):
        do(offload).send(None)


class Worker:
    """An offload that runs in place, after a checkpoint; counts its calls, and can be held up.

    is_thread: as with a thread, cancelling does not stop what has begun.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.gate: trio.Event | None = None
        self.is_thread = False

    async def __call__(self, work: Callable[[], T]) -> T:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            with trio.CancelScope(shield=self.is_thread):
                await self.gate.wait()
        return work()


def new_disk(seed: int = 0) -> MemoryDisk:
    return MemoryDisk(seed=seed)


def make_durable(log: PartitionLog) -> None:
    """A flush, for tests that have nothing else to wait for."""
    trio.run(log.flush, Worker())


def log_for(directory: LogDirectory, topic: str, partition: int, topic_id: bytes, config: TopicConfig) -> PartitionLog:
    """The log of a partition: the open one, or opened here and now, as the replica manager has it done in workers."""
    present = directory.logs.get((topic, partition))
    if present is not None and present.topic_id == topic_id and present.offline is None:
        present.reconfigure(config)
        return present
    opening = directory.opening(topic, partition, topic_id, config)
    return directory.adopt(opening, opening.run())
