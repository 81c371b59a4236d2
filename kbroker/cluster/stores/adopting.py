"""Bringing a store that was restored from an older copy up to the logs.

    the ends of the logs: broker, partition, leader epoch and offset ─▶ decide ─▶ adopted: leader, ISR, leader epoch
                                                                          └─▶ missing: logs that nobody has told of

What such a store says of leaders and of who is in sync is of the past: replicas that it takes for in sync may lack what
was acknowledged since, and logs that have records of leader epochs which it has not given out are offline. Among the
replicas of a partition the one whose last record is of the latest epoch, and of those the longest, has everything that
was acknowledged: whoever leads an epoch has all of those before, and each log of an epoch is a beginning of its
leader's. It becomes the leader and the only one in sync, in an epoch that no log has seen; the others follow it. So it
is only when all logs are looked at: one that is not might have more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from kbroker.cluster.image import NO_LEADER, ClusterImage, PartitionImage, loaded
from kbroker.cluster.keys import Keys
from kbroker.cluster.store import CoordinationStore, Guard, load
from kbroker.cluster.writer import PartitionWriter, Writer
from kbroker.env import Clock
from kbroker.turns import at_once


class LogEnd(NamedTuple):
    """How far a broker's log of a partition goes."""

    broker_id: int
    topic_id: bytes
    partition: int
    leader_epoch: int  # of the last record; -1: there is none
    end: int  # the offset behind it


class Adopted(NamedTuple):
    """A partition that goes on with one of its logs."""

    topic: str
    before: PartitionImage
    after: PartitionImage
    end: int  # of that log


class Decided(NamedTuple):
    """What is to be done."""

    adopted: list[Adopted]
    missing: list[int]  # brokers whose logs may have more, and were not looked at
    unknown: list[LogEnd]  # logs of what the store does not know, or knows to be elsewhere


class NotAdopted(Exception):
    """The store cannot be written now; the message is one line for people."""


def decide(image: ClusterImage, ends: Iterable[LogEnd], read: Collection[int], lost: Collection[int] = ()) -> Decided:
    """What becomes of partitions whose logs are ahead of the store, or in whose ISR somebody lacks something.

    Args:
        image: what the store holds.
        ends: of the logs.
        read: brokers whose logs these are all of.
        lost: brokers whose logs are gone.
    """
    by_partition: dict[tuple[bytes, int], list[LogEnd]] = {}
    unknown = []
    for end in ends:
        topic = image.topics_by_id.get(end.topic_id)
        if (
            topic is None
            or end.partition >= len(topic.partitions)
            or end.broker_id not in topic.partitions[end.partition].replicas
        ):
            unknown.append(end)
        else:
            by_partition.setdefault((end.topic_id, end.partition), []).append(end)
    adopted, missing = [], dict[int, None]()
    for topic in image.topics.values():
        for partition in topic.partitions:
            logs = {end.broker_id: end for end in by_partition.get((topic.id, partition.index), ())}
            best = max(logs.values(), key=_reach, default=None)
            if best is not None and _is_behind(partition, logs, best):
                missing.update(dict.fromkeys(id for id in partition.replicas if id not in (*read, *lost)))
                adopted.append(Adopted(topic.name, partition, _adopting(partition, best), best.end))
    return Decided(adopted, sorted(missing), unknown)


def _reach(end: LogEnd) -> tuple[int, int]:
    return end.leader_epoch, end.end


def _is_behind(partition: PartitionImage, logs: Mapping[int, LogEnd], best: LogEnd) -> bool:
    """Whether the store knows less than the logs."""
    if best.leader_epoch > partition.leader_epoch:
        return True
    return any(id not in logs or _reach(logs[id]) < _reach(best) for id in partition.isr)


def _adopting(partition: PartitionImage, best: LogEnd) -> PartitionImage:
    """Led by who has most. Whoever leads begins another epoch first (R8), which no log has seen."""
    return replace(
        partition,
        leader=best.broker_id,
        isr=(best.broker_id,),
        elr=(),
        last_leader=NO_LEADER,
        leader_epoch=max(partition.leader_epoch, best.leader_epoch),
        partition_epoch=partition.partition_epoch + 1,
    )


async def read_image(store: CoordinationStore, keys: Keys) -> ClusterImage:
    """What the store holds. Raises NotAdopted while brokers live in it, StoreError."""
    page = await load(store, keys.prefix)
    living = [entry.key.removeprefix(keys.prefix).decode() for entry in page.entries if entry.lease]
    if living:
        raise NotAdopted(
            f"brokers live in the store ({', '.join(living[:5])}): stop them; a killed one is gone after 6 seconds"
        )
    return at_once(loaded(page.entries, keys.prefix, page.revision))


async def write(store: CoordinationStore, clock: Clock, keys: Keys, adopted: Sequence[Adopted]) -> None:
    """Write what was decided. What was written when this fails is as it should be: decide again. Raises NotAdopted,
    StoreError.
    """
    writer = Writer(store, clock, "adopt-logs")
    _, is_done = await PartitionWriter(writer, keys).write([each.after for each in adopted], Guard(keys.moved, 0))
    if not is_done:
        raise NotAdopted("somebody else writes to the store: try again when no broker uses it")
