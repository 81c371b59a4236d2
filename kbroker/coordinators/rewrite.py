"""Keeping a replay short: the live state is written anew at the end of the log, and the log's start moves up to it.

             start                                         end
               |  what was live, and ten times what is not  |                   1  the log rolls when it has grown
               |                                            |  live  |          2  state is appended, a slice at a time
                                                            |  live + new |     3  committed and durable, then:
                                                          start                 4  the start moves, and is checkpointed

A slice writes the values that its keys have at that moment, so whatever changes meanwhile stands behind it. A crash
before 4 leaves a log with everything in it, twice. After 4 a replay reads what is live and what came since. Segments
below the start are removed by the log's own housekeeping.

No open transaction is in the way: what it has written is live too, and is written anew as a part of it. When the start
has moved only the copies are left. Until then both are there, and the copies, which are marked, change nothing
(replay.py).
"""

from __future__ import annotations

from kbroker.coordinators.shard import Shard
from kbroker.env import Offload
from kbroker.log.directory import LogDirectory
from kbroker.turns import finish

ROLL_BYTES = 1024 * 1024  # an active segment of this size is closed first, so that it can be deleted


async def rewrite(shard: Shard, logs: LogDirectory, offload: Offload) -> None:
    """Rewrite a shard's log. Raises KafkaError or OSError when that cannot be done; then nothing is given up."""
    partition = shard.partition
    log, before = partition.log, shard.logged
    if log.active.size >= ROLL_BYTES:
        log.roll()
    start = log.end.value
    await finish(shard.restate())
    if partition.high_watermark.value < log.end.value:
        await partition.high_watermark.wait_past(log.end.value - 1)
    await log.flush(offload)
    if shard.closed is None:
        await logs.move_starts({log: start})
        shard.logged -= before
