"""InternalTopic: where the state behind a name is kept, and who coordinates it.

    name ──hash──▶ partition of the topic ──leader──▶ the broker that coordinates it

The topic is made when somebody first asks.
"""

from __future__ import annotations

import codecs
import logging
import struct
from collections.abc import Callable
from functools import lru_cache
from operator import mul

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.image import NO_LEADER, TopicImage
from kbroker.cluster.registration import Registration
from kbroker.events import TOPIC_CREATED, TOPIC_NOT_CREATED, tell
from kbroker.turns import Work

NAME_A_PAUSE = 1024  # characters that are hashed between two pauses
NAME_COMMON_MAX = 256  # the hash of a longer name is not remembered
CREATE_WAIT_S = 10.0

log = logging.getLogger("kbroker.coordinators")


_BLOCK = 256
_UTF16 = codecs.lookup("utf-16-be")  # a file, read now: there may be no descriptor left later
_POWERS = [31**n & 0xFFFFFFFF for n in reversed(range(_BLOCK))]  # 31^255 ... 31^0


def partition_of(name: str, partitions: int) -> int:
    """The partition that a name belongs to: Utils.abs(String.hashCode) % partitions."""
    return (_hash if len(name) > NAME_COMMON_MAX else _remembered_hash)(name) % partitions


def _hash(name: str) -> int:
    """Of names that may have 32,767 characters: a block of them at a time."""
    code, (data, _) = 0, _UTF16.encode(name, "surrogatepass")
    for start in range(0, len(data), 2 * _BLOCK):
        units = struct.unpack_from(f">{min(_BLOCK, (len(data) - start) // 2)}H", data, start)
        powers = _POWERS[_BLOCK - len(units) :]
        code = (code * powers[0] * 31 + sum(map(mul, units, powers))) & 0xFFFFFFFF
    if code & 0x80000000:
        return 0 if code == 0x80000000 else 0x100000000 - code
    return code


_remembered_hash = lru_cache(maxsize=8192)(_hash)


def pauses_for(name: str) -> Work[None]:
    """The pauses that a name costs which is one of many: to look a long one up takes a millisecond."""
    for _ in range(1 + len(name) // NAME_A_PAUSE):
        yield


class InternalTopic:
    """One internal topic, as the picture of the cluster shows it."""

    def __init__(self, name: str, registration: Registration, wish: Callable[[], NewTopic]) -> None:
        """wish: how the topic is to be made, by the configs as they are now."""
        self.name = name
        self.registration = registration
        self.wish = wish
        self._creating = trio.Lock()

    @property
    def image(self) -> TopicImage | None:
        """The topic; None: nobody has asked for it yet."""
        return self.registration.image.topics.get(self.name)

    @property
    def is_creating(self) -> bool:
        """Whether somebody is making it."""
        return self._creating.locked()

    async def ensure(self) -> None:
        """Have the topic. Raises KafkaError COORDINATOR_NOT_AVAILABLE when that cannot be had now."""
        with trio.move_on_after(CREATE_WAIT_S):
            async with self._creating:
                if self.image is not None:
                    return
                result = (await self.registration.admin.create_topics([self.wish()]))[0]
                if isinstance(result, TopicImage):
                    _tell_created(result)
                    return
                if result.code == ErrorCode.TOPIC_ALREADY_EXISTS:
                    return
                tell(log, TOPIC_NOT_CREATED, topic=self.name, reason=result.message)
        raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)

    def leader_of(self, name: str) -> int:
        """The broker that coordinates a name. Raises KafkaError COORDINATOR_NOT_AVAILABLE."""
        topic = self.image
        leader = NO_LEADER
        if topic is not None:
            leader = topic.partitions[partition_of(name, len(topic.partitions))].leader
        if leader == NO_LEADER:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        return leader


def _tell_created(topic: TopicImage) -> None:
    tell(
        log,
        TOPIC_CREATED,
        topic=topic.name,
        partitions=len(topic.partitions),
        replication_factor=len(topic.partitions[0].replicas),
        configs=dict(topic.configs),
        how="internal",
        why="for the broker itself",
        client_id="",
        client="",
    )
