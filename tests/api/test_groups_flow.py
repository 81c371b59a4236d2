"""What a rebalance does to those it does not concern: nothing. A live producer and the timestamps of its records tell.

Two consumers of the KIP-848 protocol share four partitions into which a producer writes all the time. The second comes
when the first has all four and gets two of them. Every record carries when it was written, so the time from there to
its consumption is known for each: in the partitions that stay it never grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio
from trio.testing import MockClock

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatTopicPartitions, ConsumerGroupTopicPartitions
from kafka_wire.records import build_batch, headers, read_records
from kbroker.testing.broker import Machine, MemoryBroker, memory_broker
from kbroker.testing.client import BareClient
from tests.api.group_tools import beat as classic_beat
from tests.api.group_tools import commit, committed, enter, find, join, join_request, sync
from tests.api.test_fetch import MAX, fetch_request
from tests.api.test_groups_admin import JOIN, beat
from tests.api.test_produce import produce
from tests.api.test_topics import topic_id_of

PARTITIONS = range(4)
WRITE_EVERY_S = 0.05
BEAT_EVERY_S = 0.5
LATE_MS = 20  # simulated: a record is consumed this soon by a consumer that is not disturbed


@dataclass
class Consumption:
    """All that was consumed: partition -> (offset, milliseconds after it was written, by whom), and where to go on."""

    seen: dict[int, list[tuple[int, int, str]]] = field(default_factory=lambda: {p: [] for p in PARTITIONS})
    positions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))


async def write(broker: MemoryBroker) -> None:
    async with broker.client() as client:
        while True:
            for index in PARTITIONS:
                written = build_batch([(broker.clock.data_ms(), None, b"x")])
                assert (await produce(client, written, index=index)).error_code == 0
            await trio.sleep(WRITE_EVERY_S)


class Consumer:
    """A member that heartbeats, acknowledges what it is told at once, and reads what it owns."""

    def __init__(self, broker: MemoryBroker, name: str, topic_id: bytes, consumption: Consumption) -> None:
        self.broker = broker
        self.name = name
        self.topic_id = topic_id
        self.consumption = consumption
        self.owned: set[int] = set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.heartbeat)
            nursery.start_soon(self.read)

    async def heartbeat(self) -> None:
        async with self.broker.client() as client:
            answer = await beat(client, 0, member=self.name, **JOIN)
            while True:
                assert answer.error_code == 0
                changed = answer.assignment is not None
                if changed:
                    self.take(answer.assignment.topic_partitions)
                await trio.sleep(0 if changed else BEAT_EVERY_S)
                owned = [ConsumerGroupTopicPartitions(topic_id=self.topic_id, partitions=sorted(self.owned))]
                answer = await beat(client, answer.member_epoch, member=self.name, topic_partitions=owned)

    def take(self, told: list[ConsumerGroupHeartbeatTopicPartitions]) -> None:
        self.owned = {index for topic in told for index in topic.partitions}

    async def read(self) -> None:
        positions = self.consumption.positions
        async with self.broker.client() as client:
            while True:
                asked = {("t", index): positions[index] for index in sorted(self.owned)}
                if not asked:
                    await trio.sleep(0.01)
                    continue
                response = await client.call(fetch_request(asked, max_wait_ms=50), 11)
                for topic in response.responses:
                    for partition in topic.partitions:
                        if partition.partition_index in self.owned:  # else it was revoked meanwhile
                            self.note(partition.partition_index, partition.records)

    def note(self, index: int, records: bytes) -> None:
        now_ms = self.broker.clock.data_ms()
        for position, _ in headers(records):
            for record in read_records(records, position, max_bytes=MAX):
                self.consumption.seen[index].append((record.offset, now_ms - record.timestamp, self.name))
                self.consumption.positions[index] = record.offset + 1


async def test_partitions_that_stay_keep_flowing(autojump_clock: MockClock) -> None:
    async with memory_broker(topics={"t": len(PARTITIONS)}) as broker, broker.client() as client:
        await find(client, "g")
        consumption = Consumption()
        topic_id = await topic_id_of(client, "t")
        one, two = (Consumer(broker, name, topic_id, consumption) for name in ("one", "two"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await trio.sleep(2)
            assert one.owned == set(PARTITIONS)
            nursery.start_soon(write, broker)
            await trio.sleep(5 + BEAT_EVERY_S / 2)  # so the two never beat at the same moment
            nursery.start_soon(two.run)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        stayed, moved = one.owned, two.owned
        assert len(stayed) == len(moved) == 2 and stayed | moved == set(PARTITIONS)
        for index in PARTITIONS:
            offsets = [offset for offset, _, _ in consumption.seen[index]]
            assert offsets == list(range(len(offsets))) and len(offsets) > 200, "each once, in order"
        for index in stayed:
            assert {name for _, _, name in consumption.seen[index]} == {"one"}
            assert max(late_ms for _, late_ms, _ in consumption.seen[index]) <= LATE_MS
        for index in moved:  # these did stop, for as long as one heartbeat of each took: the test would see it
            assert max(late_ms for _, late_ms, _ in consumption.seen[index]) > LATE_MS


async def test_G2_G3_a_restart_in_the_middle_of_a_rebalance_loses_nothing() -> None:
    machine = Machine()
    async with memory_broker(topics={"t": 2}, machine=machine) as broker:
        async with broker.client() as one, broker.client() as two:
            await find(one, "g")
            a = await enter(one, "g", assignment=b"both")
            assert await commit(one, "g", 7, joined=a) == 0
            b = await two.call(join_request("g"), 9)  # its id
            await two.send(join_request("g", b.member_id), 9)  # waits for a, who does not come back
            await trio.sleep(0.05)
            assert await classic_beat(one, "g", a) == ErrorCode.REBALANCE_IN_PROGRESS
    async with memory_broker(machine=machine) as broker, broker.client() as one, broker.client() as two:
        assert (await committed(one, "g"))[0] == 7
        assert await classic_beat(one, "g", a) == 0, "what was never stored did not happen"
        joined: dict[str, Any] = {}

        async def come(client: BareClient, member_id: str) -> None:
            joined[member_id] = await (client.call(join_request("g", member_id), 9) if member_id else join(client, "g"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come, two, "")
            await trio.sleep(0.05)
            nursery.start_soon(come, one, a.member_id)
        mine, other = joined[a.member_id], joined[""]
        assert mine.generation_id == other.generation_id == a.generation_id + 1
        assert (await sync(one, "g", mine, {mine.member_id: b"0", other.member_id: b"1"})).assignment == b"0"
        assert (await sync(two, "g", other, {})).assignment == b"1"
        assert await commit(one, "g", 8, joined=mine) == 0
        assert await commit(one, "g", 9, joined=a) == ErrorCode.ILLEGAL_GENERATION
