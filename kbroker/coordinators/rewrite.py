"""Keeping a replay short: the live state is written anew at the end of the log, and the log's start moves up to it.

             start                                         end
               |  what was live, and ten times what is not  |                   1  the log rolls when it has grown
               |                                            |  live  |          2  state is appended, a slice at a time
                                                            |  live + new |     3  committed and durable, then:
                                                          start                 4  the start moves, and is checkpointed

A slice writes the values that its keys have at that moment, so whatever changes meanwhile stands behind it. A crash
before 4 leaves a log with everything in it, twice. After 4 a replay reads what is live and what came since. Segments
below the start are removed by the log's own housekeeping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from kbroker.coordinators.offsets import records_of
from kbroker.coordinators.records import Pair
from kbroker.coordinators.shard import CHUNK_RECORDS, Shard
from kbroker.env import Offload
from kbroker.log.directory import LogDirectory

CHUNK_BYTES = 256 * 1024
ROLL_BYTES = 1024 * 1024  # an active segment of this size is closed first, so that it can be deleted


async def rewrite(shard: Shard, logs: LogDirectory, offload: Offload) -> None:
    """Rewrite a shard's log. Raises KafkaError or OSError when that cannot be done; then nothing is given up."""
    partition = shard.partition
    log, before = partition.log, shard.logged
    if log.active.size >= ROLL_BYTES:
        log.roll()
    start = log.end.value
    for records in _slices(shard):
        if records:
            shard.append(records)
        await trio.lowlevel.checkpoint()
    if partition.high_watermark.value < log.end.value:
        await partition.high_watermark.wait_past(log.end.value - 1)
    await log.flush(offload)
    if shard.closed is None:
        await logs.move_starts({log: start})
        shard.logged -= before


def _slices(shard: Shard) -> Iterator[Sequence[Pair]]:
    """The live state, as it is at each step."""
    keys = list(shard.live)
    for first in range(0, len(keys), CHUNK_RECORDS):
        pairs: list[Pair] = []
        size = 0
        for key in keys[first : first + CHUNK_RECORDS]:
            value = shard.live.get(key)
            if value is None:
                continue
            if pairs and size + len(value) > CHUNK_BYTES:
                yield pairs
                pairs, size = [], 0
                value = shard.live.get(key)  # a step lies between
                if value is None:
                    continue
            pairs.append((key, value))
            size += len(key) + len(value)
        yield pairs
    places = shard.offsets.places()
    for first in range(0, len(places), CHUNK_RECORDS):
        yield records_of(shard.offsets.items(places[first : first + CHUNK_RECORDS]))
