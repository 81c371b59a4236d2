"""What the tests of compaction share: a log with all that a log may have, and a naive idea of what is to be left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from kafka_wire import records
from kafka_wire.records import BatchHeader, Record
from kbroker.config import BrokerConfig, TopicConfig
from kbroker.env import Env
from kbroker.log.cleaner.cleaner import Outcome
from kbroker.log.derived.producers import UNVERIFIED
from kbroker.log.derived.transactions import Marker
from kbroker.log.directory import LogDirectory
from kbroker.log.log import PartitionLog
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.workers import InlineHelper
from tests.log.tools import NOW, TOPIC_ID, StoppedClock, Worker, batches, log_for

DAY_MS = 86_400_000
COMPACT = {"cleanup_policy": "compact", "segment_bytes": 4000, "index_interval_bytes": 200}


class World:
    """A data directory in memory."""

    def __init__(self, disk: MemoryDisk | None = None, **configs: int | float | bool) -> None:
        self.disk = disk or MemoryDisk(seed=1)
        self.clock = StoppedClock()
        self.offload = Worker()
        self.configs = {name.replace("_", "."): value for name, value in configs.items()}

    def start(self) -> LogDirectory:
        """A new process."""
        env = Env(
            self.clock, self.disk, None, None, self.offload, InlineHelper(self.disk, self.offload)  # type: ignore[arg-type]
        )  # fmt: skip
        directory = LogDirectory(env, BrokerConfig().with_values(self.configs))
        directory.open()
        return directory


def orders(directory: LogDirectory, **config: object) -> PartitionLog:
    """The log of orders-0, all of it committed."""
    log = log_for(directory, "orders", 0, TOPIC_ID, TopicConfig(**{**COMPACT, **config}))  # type: ignore[arg-type]
    log.guard(log.end)
    return log


async def compact(directory: LogDirectory, log: PartitionLog) -> Outcome:
    """All but the active segment."""
    log.guard(log.end)
    return await directory.cleaner.compact(log)


Pair = tuple[bytes | None, bytes | None]


def put(
    log: PartitionLog,
    *pairs: Pair,
    at: int = NOW,
    producer: int = -1,
    sequence: int = -1,
    epoch: int = 0,
    transactional: bool = False,
    compression: int = 0,
) -> int:
    """Append a batch; its base offset."""
    data = records.build_batch(
        [(at + n, key, value) for n, (key, value) in enumerate(pairs)], compression=compression,
        producer_id=producer, producer_epoch=epoch if producer >= 0 else -1, base_sequence=sequence,
        transactional=transactional,
    )  # fmt: skip
    # the header: so that it is not checked, as records without a key may be there from before the topic was compacted
    return log.append(data, records.read_header(data), leader_epoch=0, now_ms=NOW, guard=UNVERIFIED).base_offset


def end_transaction(log: PartitionLog, producer: int, *, commit: bool, epoch: int = 0) -> int:
    return log.append_marker(Marker(producer, epoch, 0, commit), leader_epoch=0, now_ms=NOW).base_offset


def all_batches(log: PartitionLog) -> list[tuple[BatchHeader, list[Record]]]:
    data = b"".join(piece.read() for piece in log.read(log.start_offset, 1 << 30, log.end.value))
    return list(batches(data))


def all_records(log: PartitionLog) -> list[Record]:
    """Every record but those of markers."""
    return [each for header, found in all_batches(log) if not header.is_control for each in found]


def markers(log: PartitionLog) -> list[int]:
    return [header.base_offset for header, found in all_batches(log) if header.is_control and found]


class Row(NamedTuple):
    """A record as it was written."""

    record: Record
    is_aborted: bool


class Story:
    """A log that is written at random, and a plain list of all that was."""

    def __init__(self, log: PartitionLog, seed: int, *, keys: int = 20) -> None:
        self.log = log
        self.random = Random(seed)
        self.keys = keys
        self.rows: list[Record] = []
        self.aborted: set[int] = set()
        self.open: dict[int, list[int]] = {}
        self.sequences: dict[int, Iterator[int]] = {}
        self.now_ms = NOW

    def write(self, count: int) -> None:
        """So many batches and markers."""
        for _ in range(count):
            self.now_ms += self.random.randrange(50)
            if self.open and self.random.random() < 0.15:
                self.end(self.random.choice(list(self.open)), commit=self.random.random() < 0.5)
            else:
                self._batch(self.random.choice((-1, -1, 1, 2, 3, 4)))

    def _batch(self, producer: int) -> None:
        pairs = [self._pair() for _ in range(self.random.choice((1, 1, 2, 5)))]
        sequences = self.sequences.setdefault(producer, itertools.count())
        numbers = [next(sequences) for _ in pairs]
        is_transactional = producer > 2
        base = put(
            self.log, *pairs, at=self.now_ms, producer=producer, sequence=numbers[0] if producer >= 0 else -1,
            transactional=is_transactional, compression=self.random.choice((0, 0, 0, 1, 2, 3, 4)),
        )  # fmt: skip
        for n, (key, value) in enumerate(pairs):
            self.rows.append(Record(base + n, self.now_ms + n, key, value))
        if is_transactional:
            self.open.setdefault(producer, []).extend(range(base, base + len(pairs)))

    def _pair(self) -> Pair:
        key = None if self.random.random() < 0.02 else b"key-%d" % self.random.randrange(self.keys)
        if self.random.random() < 0.1:
            key = b"a key that is longer than its digest %d" % self.random.randrange(3)
        return key, None if self.random.random() < 0.15 else b"v" * self.random.choice((1, 20, 60, 200))

    def end(self, producer: int, *, commit: bool) -> None:
        end_transaction(self.log, producer, commit=commit)
        offsets = self.open.pop(producer, [])
        if not commit:
            self.aborted.update(offsets)

    def end_all(self) -> None:
        for producer in list(self.open):
            self.end(producer, commit=False)

    def expected(self, covered: int) -> list[Record]:
        """What is to be left when all below an offset is compacted, and no tombstone's time is over."""
        newest: dict[bytes, int] = {}
        for row in self.rows:
            if row.offset < covered and row.offset not in self.aborted and row.key is not None:
                newest[row.key] = row.offset
        return [
            row
            for row in self.rows
            if row.offset >= covered or (row.key is not None and newest.get(row.key) == row.offset)
        ]
