"""Looking afterwards at records that nobody looked at when they came: no batch that stops consumers goes unnoticed.

`kbroker.produce.validate` may let in what no consumer can read; what the producer was not told, the operator is. A log
knows from which offset on its batches have not been read field by field (`unread`). The scrubber follows it, a quarter
of a megabyte at a time and never more than `kbroker.scrub.bytes.per.second`, in turns like all long work: the produce
and fetch paths pay nothing for it. A small batch takes as long as BATCH_BYTES, and counts as so many. Of each partition
the first bad batch is logged, all are counted. What was there before the broker started is for `kbroker log verify`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import trio

from kafka_wire.errors import KafkaError
from kafka_wire.records import headers
from kbroker.env import Env, FileSlice
from kbroker.log.inspection import batch_problem
from kbroker.turns import Errands, finish_errands

if TYPE_CHECKING:
    from kbroker.log.log import PartitionLog

ROUND_SECONDS = 5.0  # between two looks for logs that grew
CHUNK_BYTES = 256 * 1024  # or one batch, when that is larger
MEMORY_BYTES_MAX = 32 * 1024 * 1024  # for one batch, decompressed; larger ones are for `kbroker log verify`
LOGS_A_TURN = 256
BATCH_BYTES = 4096

log = logging.getLogger(__name__)


class Scrubber:
    """One for all logs of a data directory."""

    def __init__(
        self, env: Env, logs: Mapping[tuple[str, int], PartitionLog], bytes_per_second: Callable[[], int]
    ) -> None:
        """bytes_per_second: the pace as it is configured now; 0: nothing is looked at."""
        self.env = env
        self.logs = logs
        self.bytes_per_second = bytes_per_second
        self.batches = 0  # looked at
        self.bad: dict[str, int] = {}  # by the directory of the partition

    async def run(self) -> None:
        """Follow the logs; until cancelled."""
        while True:
            await self.env.clock.sleep(ROUND_SECONDS)
            if self.bytes_per_second():
                for number, each in enumerate(tuple(self.logs.values())):
                    if each.unread >= 0:
                        await self._follow(each)
                    elif not number % LOGS_A_TURN:
                        await trio.lowlevel.checkpoint()

    async def _follow(self, each: PartitionLog) -> None:
        """Look at what a log has up to now."""
        offset, end = max(each.unread, each.start_offset), each.end.value
        while offset < end and (pace := self.bytes_per_second()):
            batches = self.batches
            try:
                slices = each.read(offset, CHUNK_BYTES, end)
                if not slices:
                    break
                offset = await finish_errands(self._look_at(each.directory, slices), None, self.env.offload)
            except (OSError, KafkaError) as error:  # it was closed, cut or deleted meanwhile; the log tells of its disk
                log.debug("%s is not looked at from offset %d on: %s", each.directory, offset, error)
                break
            each.looked_through(offset)
            await self.env.clock.sleep((sum(map(len, slices)) + BATCH_BYTES * (self.batches - batches)) / pace)
        else:
            return
        each.looked_through(end)

    def _look_at(self, directory: str, slices: list[FileSlice]) -> Errands[int]:
        """The offset behind the last batch of some slices."""
        after = 0
        for each in slices:
            data: bytes = yield each.read
            view = memoryview(data)
            for position, header in headers(data):
                problem = yield from batch_problem(view[position : position + header.size], header, MEMORY_BYTES_MAX)
                if problem:
                    self._note(directory, header.base_offset, problem)
                self.batches += 1
                after = header.next_offset
                yield None
        return after

    def _note(self, directory: str, offset: int, problem: str) -> None:
        if directory not in self.bad:
            advice = "more of this partition are counted; `kbroker log verify` lists them"
            log.warning("%s: the batch at offset %d would stop consumers: %s (%s)", directory, offset, problem, advice)
        self.bad[directory] = self.bad.get(directory, 0) + 1
