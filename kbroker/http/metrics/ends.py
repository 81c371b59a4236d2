"""Where partitions end for consumers: known here where they are led here, else asked of the brokers that lead them.

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
from kbroker.turns import Work, finish

ASK_S = 1.0
VERSION = 8  # of ListOffsets
LATEST = -1
STRIDE = 32
PARTITIONS_MAX = 50_000  # asked of one leader

Key: TypeAlias = tuple[str, int]
Ends: TypeAlias = Mapping[Key, int]


async def ends_of(services: Services, wanted: Iterable[Key]) -> Ends:
    """The ends of these partitions, as far as they are known; of a view it is what the view shows."""
    ends: dict[Key, int] = {}
    elsewhere: dict[int, list[Key]] = {}
    await finish(_near(services, wanted, ends, elsewhere))
    if elsewhere:
        async with trio.open_nursery() as nursery:
            for leader, keys in elsewhere.items():
                nursery.start_soon(_ask, services, leader, keys[:PARTITIONS_MAX], ends)
    return ends


def _near(
    services: Services, wanted: Iterable[Key], ends: dict[Key, int], elsewhere: dict[int, list[Key]]
) -> Work[None]:
    for number, key in enumerate(wanted):
        if not number % STRIDE:
            yield
        topic = services.image.topics.get(key[0])
        if topic is None or not 0 <= key[1] < len(topic.partitions):
            continue
        leader = topic.partitions[key[1]].leader
        if leader == services.node_id:
            try:
                ends[key] = services.reading(*key).bound(0)
            except KafkaError:
                pass  # it is about to be led, or its disk failed
        elif leader in services.image.brokers:
            elsewhere.setdefault(leader, []).append(key)


async def _ask(services: Services, leader: int, keys: Collection[Key], ends: dict[Key, int]) -> None:
    topics: dict[str, list[ListOffsetsPartition]] = {}
    for topic, index in keys:
        topics.setdefault(topic, []).append(ListOffsetsPartition(partition_index=index, timestamp=LATEST))
    request = ListOffsetsRequest(
        replica_id=NO_BROKER, topics=[ListOffsetsTopic(name=name, partitions=rows) for name, rows in topics.items()]
    )
    try:
        answer: Any = services.brokers.ask(leader, request, VERSION, ASK_S)
        while isinstance(answer, CoroutineType):
            answer = await answer
    except KafkaError:
        return
    response: ListOffsetsResponse = answer
    for told in response.topics:
        for row in told.partitions:
            if row.error_code == ErrorCode.NONE:
                ends[told.name, row.partition_index] = row.offset
