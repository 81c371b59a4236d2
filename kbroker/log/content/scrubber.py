"""Looking afterwards at records that nobody looked at when they came: no batch that stops consumers goes unnoticed.

`kbroker.produce.validate` may let in what no consumer can read; what the producer was not told, the operator is. A log
knows from which offset on its batches have not been read field by field (`unread`). The scrubber follows it, a quarter
of a megabyte at a time and never more than `kbroker.scrub.bytes.per.second`, in turns like all long work: the produce
and fetch paths pay nothing for it. A small batch takes as long as BATCH_BYTES, and counts as so many. Of each partition
the first bad batch is logged, all are counted, and told again: each hour in which there were more, and at the end. What
was there before the broker started is for `kbroker log verify`, and so is what was not looked at when it stops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from kafka_wire.errors import KafkaError
from kafka_wire.records import headers
from kbroker.env import Env
from kbroker.log.checkpoints import Key
from kbroker.log.cold import told
from kbroker.turns import Errands, finish_errands

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

ROUND_SECONDS = 5.0  # between two looks for logs that grew
CHUNK_BYTES = 256 * 1024  # or one batch, when that is larger
MEMORY_BYTES_MAX = 32 * 1024 * 1024  # for one batch, decompressed; larger ones are for `kbroker log verify`
LOGS_A_TURN = 256
BATCH_BYTES = 4096
REPORT_SECONDS = 3600.0
NAMED_MAX = 10  # partitions, in one line

log = logging.getLogger(__name__)


class Bad(NamedTuple):
    """What was found in a partition."""

    batches: int
    first: int  # base offset of the first of them
    last: int


class Scrubber:
    """One for all logs of a data directory."""

    def __init__(self, env: Env, logs: Mapping[Key, PartitionLog], bytes_per_second: Callable[[], int]) -> None:
        """bytes_per_second: the pace as it is configured now; 0: nothing is looked at."""
        self.env = env
        self.logs = logs
        self.bytes_per_second = bytes_per_second
        self.batches = 0  # looked at
        self.bad: dict[Key, Bad] = {}
        self._told = 0  # batches in the last report

    async def run(self) -> None:
        """Follow the logs; until cancelled."""
        report_at = self.env.clock.liveness() + REPORT_SECONDS
        try:
            while True:
                await self.env.clock.sleep(ROUND_SECONDS)
                if self.bytes_per_second():
                    for number, (key, each) in enumerate(tuple(self.logs.items())):
                        if each.unread >= 0:
                            await self._follow(key, each)
                        elif not number % LOGS_A_TURN:
                            await trio.lowlevel.checkpoint()
                if self.env.clock.liveness() >= report_at:
                    report_at += REPORT_SECONDS
                    self.report()
        finally:
            self._told = 0
            self.report()
            unread = sum(each.unread >= 0 for each in self.logs.values())
            if unread and self.bytes_per_second():
                log.debug(
                    "partitions with records that were not looked at yet: %d; `kbroker log verify` does that", unread
                )

    def report(self) -> None:
        """Tell what is known to be bad and still there, if that is more than at the last time."""
        for key, bad in tuple(self.bad.items()):
            if key not in self.logs or self.logs[key].start_offset > bad.last:
                del self.bad[key]
        batches = sum(bad.batches for bad in self.bad.values())
        if batches > self._told:
            named = [f"{topic}-{index} ({bad.batches}, from offset {bad.first} on)"
                     for (topic, index), bad in list(self.bad.items())[:NAMED_MAX]]  # fmt: skip
            named += ["..."] if len(self.bad) > NAMED_MAX else []
            text = "batches that would stop consumers: %d, in %s; `kbroker log verify` lists them"
            log.warning(text, batches, ", ".join(named))
        self._told = batches

    async def _follow(self, key: Key, each: PartitionLog) -> None:
        """Look at what a log has up to now."""
        offset, end = max(each.unread, each.start_offset), each.end.value
        while offset < end and (pace := self.bytes_per_second()):
            try:
                offset, cost = await finish_errands(self._look_at(key, each, offset, end), None, self.env.offload)
            except (OSError, KafkaError) as error:  # it was closed, cut or deleted meanwhile; the log tells of its disk
                log.debug("%s is not looked at from offset %d on: %s", each.directory, offset, error)
                offset, cost = end, 0
            each.looked_through(offset)
            await self.env.clock.sleep(cost / pace)

    def _look_at(self, key: Key, each: PartitionLog, offset: int, end: int) -> Errands[tuple[int, int]]:
        """Look at some batches from an offset on, below end; the offset behind them, and what it cost, in bytes."""
        from kbroker.log.content.inspection import batch_problem  # here: a start does without it

        cost = 0
        slices = yield from told(partial(each.read, offset, CHUNK_BYTES, end))
        for part in slices:
            data = part.read_now()
            if data is None:
                data = yield part.read
            view = memoryview(data)
            for position, header in headers(view):
                batch = view[position : position + header.size]
                problem = yield from batch_problem(batch, header, MEMORY_BYTES_MAX)
                if problem:
                    self._note(key, header.base_offset, problem)
                self.batches += 1
                cost += header.size + BATCH_BYTES
                offset = header.next_offset
                yield None
        return (offset, cost) if slices else (end, 0)

    def _note(self, key: Key, offset: int, problem: str) -> None:
        bad = self.bad.get(key)
        if bad is None:
            advice = "more of this partition are counted; `kbroker log verify` lists them"
            log.warning("%s-%d: the batch at offset %d would stop consumers: %s (%s)", *key, offset, problem, advice)
            bad = Bad(0, offset, offset)
        self.bad[key] = Bad(bad.batches + 1, bad.first, offset)
