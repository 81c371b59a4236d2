"""Waiting until all replicas of partitions have given up what their leader has given up (KIP-107).

A leader tells where its log starts with its next answer to each follower; a follower lets its own log start there, as
far as it is committed, and names the start in its next request. Until then a record that was deleted would be back if
that follower came to lead. (Kafka: DelayedDeleteRecords, Partition.lowWatermarkIfLeader.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from kbroker.env import Clock
from kbroker.replication.partition import Partition
from kbroker.replication.sessions import ReplicaSessions

LOOK_S = 0.02
LOOKED_AT_A_TURN = 128


async def wait_started(
    partitions: Collection[tuple[Partition, int]],
    is_alive: Callable[[int], bool],
    sessions: ReplicaSessions,
    clock: Clock,
) -> None:
    """Wait until no replica of a broker that is alive has a log that starts below the offset that goes with it.

    A partition that is not led here any more is not waited for. The caller bounds the wait.
    """
    waiting = partitions
    while waiting := await _tell_those_behind(waiting, is_alive, sessions, clock):
        await clock.sleep(LOOK_S)


async def _tell_those_behind(
    partitions: Collection[tuple[Partition, int]],
    is_alive: Callable[[int], bool],
    sessions: ReplicaSessions,
    clock: Clock,
) -> list[tuple[Partition, int]]:
    """Those that have such a replica; their followers are told."""
    found = []
    for number, (partition, offset) in enumerate(partitions, start=1):
        if partition.leading and partition.low_watermark(is_alive) < offset:
            found.append((partition, offset))
            sessions.tell_start(partition.follower_ids, (partition.topic_id, partition.index), clock.liveness())
        if not number % LOOKED_AT_A_TURN:
            await trio.lowlevel.checkpoint()
    return found
