"""Where partitions begin and end for consumers: known here where they are led here, else asked of who leads them.

A group's coordinator need not lead what the group reads. Each leader is asked once for all, and has ASK_S for it; what
is not known by then is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import CoroutineType
from typing import Any, TypeAlias

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from kbroker.api.context import NO_BROKER, Services
from kbroker.replication.partition import READ_UNCOMMITTED
from kbroker.turns import Effort, Work, finish

ASK_S = 1.0
VERSION = 8  # of ListOffsets
LATEST, EARLIEST = -1, -2
STRIDE = 32
PARTITIONS_MAX = 50_000  # asked of one leader

Key: TypeAlias = tuple[str, int]
Offsets: TypeAlias = Mapping[Key, int]


async def ends_of(services: Services, wanted: Iterable[Key]) -> Offsets:
    """The ends of these partitions, as far as they are known; of a view it is what the view shows."""
    return await _offsets_of(services, wanted, LATEST)


async def starts_of(services: Services, wanted: Iterable[Key]) -> Offsets:
    """Where these partitions begin, as far as that is known."""
    return await _offsets_of(services, wanted, EARLIEST)


async def _offsets_of(services: Services, wanted: Iterable[Key], which: int) -> Offsets:
    found: dict[Key, int] = {}
    elsewhere: dict[int, list[Key]] = {}
    await finish(_near(services, wanted, which, found, elsewhere))
    if elsewhere:
        async with trio.open_nursery() as nursery:
            for leader, keys in elsewhere.items():
                nursery.start_soon(_ask, services, leader, keys[:PARTITIONS_MAX], which, found)
    return found


def distinct(keys: Iterable[Key]) -> Work[set[Key]]:
    """Each of these partitions once."""
    found, effort = set[Key](), Effort()
    for key in keys:
        found.add(key)
        if effort.spent(2):
            yield
    return found


def lag_of(offset: int, end: int | None) -> int | None:
    """Offsets that are not read yet; None: not known. Never negative: a log may have been cut since."""
    return None if end is None else max(0, end - offset)


def _near(
    services: Services, wanted: Iterable[Key], which: int, found: dict[Key, int], elsewhere: dict[int, list[Key]]
) -> Work[None]:
    """What is known here, and who is to be asked for the rest."""
    for number, key in enumerate(wanted):
        if not number % STRIDE:
            yield
        topic = services.image.topics.get(key[0])
        if topic is None or not 0 <= key[1] < len(topic.partitions):
            continue
        leader = topic.partitions[key[1]].leader
        if leader == services.node_id:
            try:
                partition = services.reading(*key)
            except KafkaError:
                continue  # it is about to be led, or its disk failed
            found[key] = partition.bound(READ_UNCOMMITTED) if which == LATEST else partition.log.start_offset
        elif leader in services.image.brokers:
            elsewhere.setdefault(leader, []).append(key)


async def _ask(services: Services, leader: int, keys: Collection[Key], which: int, found: dict[Key, int]) -> None:
    request = await finish(_question(keys, which))
    try:
        answer: Any = services.brokers.ask(leader, request, VERSION, ASK_S)
        while isinstance(answer, CoroutineType):
            answer = await answer
    except KafkaError:
        return
    await finish(_take(answer, found))


def _question(keys: Iterable[Key], which: int) -> Work[ListOffsetsRequest]:
    topics: dict[str, list[ListOffsetsPartition]] = {}
    for number, (topic, index) in enumerate(keys):
        if not number % STRIDE:
            yield
        topics.setdefault(topic, []).append(ListOffsetsPartition(partition_index=index, timestamp=which))
    rows = [ListOffsetsTopic(name=name, partitions=partitions) for name, partitions in topics.items()]
    return ListOffsetsRequest(replica_id=NO_BROKER, topics=rows)


def _take(response: ListOffsetsResponse, found: dict[Key, int]) -> Work[None]:
    effort = Effort()
    for told in response.topics:
        for row in told.partitions:
            if effort.spent():
                yield
            if row.error_code == ErrorCode.NONE:
                found[told.name, row.partition_index] = row.offset
