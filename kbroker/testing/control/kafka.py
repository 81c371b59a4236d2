"""Kafka: topics, records and groups of any Kafka, asked for by its protocol, in plain calls for tests.

    kafka = Kafka(lambda: "127.0.0.1:9092")
    kafka.create_topic("orders", partitions=3, config={"retention.ms": "1000"})
    kafka.topic("orders").wait_for(1, timeout=5)[0].value
    kafka.group("app").wait_stable(members=2)

No call sleeps: each returns when what it waits for is there, or raises a TimeoutError that says what was there instead.
It has a loop in a thread of its own, begun when it is first needed; so it works beside any client, and from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.group_admin import DeleteGroupsRequest, ListGroupsRequest
from kafka_wire.messages.topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest, DeleteTopicsRequest
from kbroker.config import format_value
from kbroker.env.descriptors import Descriptors
from kbroker.env.features import Features
from kbroker.env.real_net import RealNet
from kbroker.testing.control import groups
from kbroker.testing.control.clients import client_config
from kbroker.testing.control.groups import Description, Member
from kbroker.testing.control.links import AGAIN_S, Links, check, persist
from kbroker.testing.control.reader import Reader
from kbroker.testing.control.reading import Record
from kbroker.testing.embedded.loop import LoopThread

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

WAIT_S = 5.0  # where a test says nothing else
DO_S = 10.0  # what has to be done, not waited for
WAIT_S_MAX = 3600.0
T = TypeVar("T")


class Kafka:
    """A Kafka, or a kbroker, as its clients see it. bootstrap: where it is now."""

    def __init__(self, bootstrap: Callable[[], str]) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()  # over what is begun when it is first needed
        self._loop: LoopThread | None = None
        self._links: Links | None = None

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        config: Mapping[str, Any] | None = None,
        replication_factor: int = -1,
    ) -> Topic:
        """Create a topic; when this returns, it can be written to. replication_factor: -1 for the broker's default.

        Raises ValueError for what no topic can be (a name, a number, a config), KafkaError for other refusals
        (TOPIC_ALREADY_EXISTS), ConnectionError where there is no broker.
        """
        configs = [CreatableTopicConfig(name=key, value=format_value(value)) for key, value in (config or {}).items()]
        wish = CreatableTopic(
            name=name, num_partitions=partitions, replication_factor=replication_factor, assignments=[], configs=configs
        )

        self.run(lambda links: _create(links, wish))
        return self.topic(name)

    def topic(self, name: str) -> Topic:
        """A topic, which need not be there yet."""
        return Topic(self, name)

    def group(self, group_id: str) -> Group:
        """A consumer group, which need not be there yet."""
        return Group(self, group_id)

    def topics(self) -> list[str]:
        """The names of all topics but Kafka's internal ones."""

        async def listed(links: Links) -> list[str]:
            told = await persist(links.metadata, trio.current_time() + DO_S)
            return sorted(each.name for each in told.topics if not each.is_internal)

        return self.run(listed)

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics; those that are not there are fine. Raises KafkaError."""
        wanted = list(names)

        async def delete(links: Links) -> None:
            request = DeleteTopicsRequest(topic_names=wanted, timeout_ms=int(DO_S * 1000))
            for told in (await persist(lambda: links.ask(request), trio.current_time() + DO_S)).responses:
                if told.error_code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                    check(told.error_code, f"topic {told.name} cannot be deleted")

        if wanted:
            self.run(delete)

    def groups(self) -> list[str]:
        """The ids of all groups, on all brokers."""

        async def listed(links: Links) -> list[str]:
            until = trio.current_time() + DO_S
            found: set[str] = set()
            for broker in (await persist(links.metadata, until)).brokers:
                told = await persist(partial(links.ask, ListGroupsRequest(), broker.node_id), until)
                check(told.error_code)
                found |= {each.group_id for each in told.groups}
            return sorted(found)

        return self.run(listed)

    def delete_groups(self, ids: Iterable[str]) -> None:
        """Delete groups that have no members; those that are not there are fine. Raises KafkaError."""

        async def delete(links: Links) -> None:
            for group_id in ids:
                node = await persist(partial(links.coordinator, group_id), trio.current_time() + DO_S)
                told = (await links.ask(DeleteGroupsRequest(groups_names=[group_id]), node)).results[0]
                if told.error_code != ErrorCode.GROUP_ID_NOT_FOUND:
                    check(told.error_code, f"group {group_id} cannot be deleted")

        self.run(delete)

    def client_config(self, client: str, role: str | None = None, *, fast: bool = True) -> dict[str, Any]:
        """Settings for a client library; see clients.py."""
        return client_config(client, self._bootstrap(), role, fast=fast)

    def close(self) -> None:
        """Disconnect, and end the thread; idempotent. What is asked afterwards begins anew."""
        with self._lock:
            loop, links, self._loop, self._links = self._loop, self._links, None, None
        if loop is not None and links is not None:
            if loop.is_alive:
                loop.call(links.close)
            loop.close()

    def run(self, ask: Callable[[Links], Awaitable[T]], timeout_s: float = DO_S) -> T:
        """Run ask(links) in the loop; what it returns or raises."""
        with self._lock:
            if self._loop is None or not self._loop.is_alive:
                self._loop = LoopThread("kbroker testing: asking Kafka")
                self._links = Links(self._bootstrap, RealNet(Features.detect(), Descriptors(reserve=0)))
            loop, links = self._loop, self._links
        result: T = loop.call(ask, links, timeout_s=timeout_s + DO_S)
        return result


MISTAKES = {
    ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.INVALID_PARTITIONS, ErrorCode.INVALID_REPLICATION_FACTOR,
    ErrorCode.INVALID_CONFIG, ErrorCode.INVALID_REQUEST,
}  # fmt: skip


class Topic:
    """A topic of a Kafka."""

    def __init__(self, kafka: Kafka, name: str) -> None:
        self._kafka = kafka
        self.name = name

    def records(self) -> list[Record]:
        """All records that a consumer would get now, by partition and offset; of transactions, the committed ones.

        Raises LookupError where there is no such topic.
        """

        async def listed(links: Links) -> list[Record]:
            reader = Reader(links, self.name)
            try:
                await reader.read_to_end()
            except KafkaError as error:
                if error.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                    raise LookupError(await reader.describe()) from None
                raise
            return reader.all()

        return self._kafka.run(listed)

    def wait_for(self, count: int, timeout: float = WAIT_S) -> list[Record]:
        """All records, once there are so many; the topic may come meanwhile. timeout: seconds of real time.

        Raises TimeoutError, which says what was there.
        """
        timeout_s = _seconds(timeout)

        async def waited(links: Links) -> list[Record]:
            reader = Reader(links, self.name)
            await reader.read_until(count, trio.current_time() + timeout_s)
            if reader.count < count:
                raise TimeoutError(f"{await reader.describe()} after {timeout_s:g} s, not {count}")
            return reader.all()

        return self._kafka.run(waited, timeout_s)

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"


class Group:
    """A consumer group of a Kafka."""

    def __init__(self, kafka: Kafka, group_id: str) -> None:
        self._kafka = kafka
        self.group_id = group_id

    def state(self) -> str:
        """Kafka's word: "Stable", "Empty", "PreparingRebalance" ...; "Dead" where there is no such group."""
        return self._now().state

    def members(self) -> list[Member]:
        """Its members, and the partitions that each has."""
        return self._now().members

    def wait_stable(self, members: int | None = None, timeout: float = WAIT_S) -> list[Member]:
        """Its members, once there are so many (None: any) and each has its partitions; 0: once all have left.

        Raises TimeoutError, which says how it was.
        """
        timeout_s = _seconds(timeout)

        async def waited(links: Links) -> list[Member]:
            seen: object = "no broker answered"
            with trio.move_on_after(timeout_s):
                while True:
                    found = seen = await self._describe(links, timeout_s)
                    if found.is_settled(members):
                        left = await groups.unowned(links, found) if found.members else []
                        if not left:
                            return found.members
                        seen = f"{found}; nobody has {groups.named(left)},"
                    await trio.sleep(AGAIN_S)
            wished = "any member" if members is None else f"{members} member{'s' * (members != 1)}"
            raise TimeoutError(f"{seen} after {timeout_s:g} s, not stable with {wished}")

        return self._kafka.run(waited, timeout_s)

    def offsets(self) -> dict[tuple[str, int], int]:
        """What it has committed, by topic and partition."""
        return self._kafka.run(lambda links: _persist(lambda: groups.offsets(links, self.group_id)))

    def lags(self) -> dict[tuple[str, int], int]:
        """How many records are left to it, by topic and partition: those behind what it has committed; of a partition
        that it owns and has not committed for, all."""
        return self._kafka.run(lambda links: _persist(lambda: groups.lag(links, self.group_id)))

    def lag(self) -> int:
        """How many records are left to it, of all partitions."""
        return sum(self.lags().values())

    def wait_lag(self, at_most: int = 0, timeout: float = WAIT_S) -> None:
        """Wait until no more than so many records are left to it, and it has partitions at all.

        Raises TimeoutError, which says how many there were.
        """
        timeout_s = _seconds(timeout)

        async def waited(links: Links) -> None:
            seen = "has not answered"
            with trio.move_on_after(timeout_s):
                while True:
                    found = await _persist(lambda: groups.lag(links, self.group_id))
                    if found and sum(found.values()) <= at_most:
                        return
                    each = ", ".join(f"{topic}-{index}: {count}" for (topic, index), count in sorted(found.items()))
                    seen = f"has a lag of {sum(found.values())} ({each})" if found else "has no partitions"
                    await trio.sleep(AGAIN_S)
            raise TimeoutError(f"group {self.group_id} {seen} after {timeout_s:g} s, not a lag of {at_most}")

        self._kafka.run(waited, timeout_s)

    def _now(self) -> Description:
        return self._kafka.run(lambda links: self._describe(links, DO_S))

    async def _describe(self, links: Links, timeout_s: float) -> Description:
        return await persist(lambda: groups.describe(links, self.group_id), trio.current_time() + timeout_s)

    def __repr__(self) -> str:
        return f"Group({self.group_id!r})"


async def _persist(do: Callable[[], Awaitable[T]]) -> T:
    return await persist(do, trio.current_time() + DO_S)


async def _create(links: Links, wish: CreatableTopic) -> None:
    """Create a topic, and see to it that it can be written to.

    An attempt whose answer is lost may have done it: then the next one finds a topic that was not there before.
    """
    name, until = wish.name, trio.current_time() + DO_S
    request = CreateTopicsRequest(topics=[wish], timeout_ms=int(DO_S * 1000))
    before = (await persist(lambda: links.metadata(name), until)).topics[0]
    attempts = 0

    async def attempt() -> Any:
        nonlocal attempts
        attempts += 1
        return await links.ask(request)

    told = (await persist(attempt, until)).topics[0]
    if told.error_code in MISTAKES:
        raise ValueError(f"topic {name!r} cannot be created: {told.error_message}")
    was_absent = before.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if not (told.error_code == ErrorCode.TOPIC_ALREADY_EXISTS and attempts > 1 and was_absent):
        check(told.error_code, f"topic {name} cannot be created: {told.error_message}")
    await persist(lambda: _see_leaders(links, name), until)


async def _see_leaders(links: Links, topic: str) -> None:
    """Raises KafkaError as long as a new topic cannot be written to."""
    told = (await links.metadata(topic)).topics[0]
    check(told.error_code)
    for partition in told.partitions:
        check(partition.error_code)


def _seconds(timeout: float) -> float:
    if not 0 <= timeout <= WAIT_S_MAX:
        raise ValueError(f"a timeout is between 0 and {WAIT_S_MAX:g} seconds, not {timeout!r}")
    return float(timeout)
