"""Reader: the records of a topic, from its start, as they come. It has a position in each partition, and no group."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kbroker.testing.control.links import Links, check, persist
from kbroker.testing.control.offsets import EARLIEST, LATEST, READ_COMMITTED, by_leader, topic_offsets
from kbroker.testing.control.reading import Record, brief, read

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

RECORDS_MAX, HELD_MAX = 100_000, 512 << 20  # of one topic, held at once: records, bytes
BYTES_MAX = 16 << 20  # of one answer
WAIT_MS = 250  # of one long poll; a topic that is moved or deleted meanwhile is noticed after it
PASSED_S = 0.5  # what passes by has so long, where nothing is waited for
DESCRIBE_S = 0.5  # what was seen is told without what takes longer
SHOWN_MAX = 5  # records in a message


class Reader:
    """Reads one topic."""

    def __init__(self, links: Links, topic: str) -> None:
        self._links = links
        self._topic = topic
        self.records: dict[int, list[Record]] = defaultdict(list)  # by partition
        self._held = 0  # bytes of what was read
        self._positions: dict[int, int] = {}
        self._leaders: dict[int, int] = {}

    @property
    def count(self) -> int:
        """How many records were read."""
        return sum(map(len, self.records.values()))

    def all(self) -> list[Record]:
        """What was read, by partition and offset."""
        return [record for index in sorted(self.records) for record in self.records[index]]

    async def read_to_end(self) -> None:
        """Read what is there now. Raises KafkaError UNKNOWN_TOPIC_OR_PARTITION where there is no such topic."""
        until = trio.current_time() + PASSED_S
        await persist(self._find, until)
        ends = await persist(lambda: self._offsets(LATEST), until)
        empty = 0
        while any(self._positions[each] < end for each, end in ends.items()):
            before = dict(self._positions)
            await persist(lambda: self._fetch(0), until)
            empty = empty + 1 if self._positions == before else 0
            if empty > 1:  # what is left of it was compacted away
                return

    async def read_until(self, count: int, deadline: float) -> None:
        """Read until there are so many records; at most until that time of trio's clock, and then raise nothing."""
        with trio.CancelScope(deadline=deadline):
            await persist(self._find, math.inf)
            while self.count < count:
                await persist(partial(self._fetch, WAIT_MS), math.inf)

    async def _find(self) -> None:
        """Learn who leads which partition, and where it begins."""
        told = (await self._links.metadata(self._topic)).topics[0]
        check(told.error_code)
        self._leaders = {each.partition_index: each.leader_id for each in told.partitions}
        for index, offset in (await self._offsets(EARLIEST)).items():
            self._positions.setdefault(index, offset)

    async def _offsets(self, which: int) -> dict[int, int]:
        return await topic_offsets(self._links, self._topic, self._leaders, which, READ_COMMITTED)

    async def _fetch(self, wait_ms: int) -> None:
        """Read on in all partitions. wait_ms: for something to come, in all."""
        led = by_leader(self._topic, self._leaders)
        for leader, indexes in led.items():
            wanted = [
                FetchPartition(partition=each, fetch_offset=self._positions[each], partition_max_bytes=BYTES_MAX)
                for each in indexes
            ]
            answer = await self._links.ask(
                FetchRequest(
                    max_wait_ms=wait_ms // len(led),
                    min_bytes=1,
                    max_bytes=BYTES_MAX,
                    isolation_level=READ_COMMITTED,
                    topics=[FetchTopic(topic=self._topic, partitions=wanted)],
                ),
                leader,
            )
            check(answer.error_code)
            for topic in answer.responses:
                for data in topic.partitions:
                    await self._take(data)

    async def _take(self, data: Any) -> None:
        index = data.partition_index
        if data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:  # deleted, or made anew, meanwhile
            self.records[index].clear()
            del self._positions[index]
        if data.error_code:
            await self._find()
            if data.error_code != ErrorCode.OFFSET_OUT_OF_RANGE:
                check(data.error_code)
            return
        fetched = read(self._topic, data, self._positions[index])
        self._positions[index] = fetched.next_offset
        self.records[index] += fetched.records
        self._held += sum(len(each.key or b"") + len(each.value or b"") for each in fetched.records)
        if self.count > RECORDS_MAX or self._held > HELD_MAX:
            much = f"{RECORDS_MAX:,} records, or {HELD_MAX >> 20} MiB"
            raise ValueError(f"topic {self._topic} has more than {much}: too much to be held at once")

    async def describe(self) -> str:
        """What was seen, for who waited in vain."""
        if self._leaders:
            shown = [brief(each) for each in self.all()[:SHOWN_MAX]]
            more = [f"and {self.count - SHOWN_MAX} more"] if self.count > SHOWN_MAX else []
            records = "no record" if not self.count else "1 record" if self.count == 1 else f"{self.count} records"
            return f"topic {self._topic} has {records}" + (f" ({', '.join(shown + more)})" if shown else "")
        with trio.move_on_after(DESCRIBE_S) as late:
            told = await persist(self._links.metadata, math.inf)
        if late.cancelled_caught:
            return "no broker has answered"
        names = sorted(each.name for each in told.topics if not each.is_internal)
        if self._topic in names:
            return f"topic {self._topic} has not been read"
        return f"there is no topic {self._topic} (there {'are' if names else 'is'} {', '.join(names[:10]) or 'none'})"
