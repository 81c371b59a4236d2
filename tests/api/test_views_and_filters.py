"""A view shows what a consumer of its source that filters keeps: random logs and filters, through a whole broker.

The consumer here goes by the protocol as Kafka's does: it leaves out records of aborted transactions by the list in the
answer and the markers among the records, and goes on behind the last batch, whatever was in it.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from kafka_wire.records import ControlType, Record, build_batch, headers, read_control, read_header, read_records
from kbroker.client.filtering import matching
from kbroker.log.derived.transactions import Marker
from kbroker.replication.partition import Partition
from kbroker.testing.broker import memory_broker
from kbroker.testing.client import BareClient
from kbroker.testing.clock import EPOCH_MS
from tests.api.partitions import Find, led
from tests.api.test_configs import Scope, alter
from tests.api.test_fetch import fetch_request
from tests.api.test_views import make_view, one

__all__ = ["led"]

FILTERS = [
    'tags has "eu"',
    'tags in ("eu", "vip") and not country = "de"',
    'country = "de"',
    'key prefix "a"',
    'tags has "never"',
    "not tags exists",
    'key exists and (tags has "eu" or country in ("at", "de"))',
]


class Writer:
    """Appends random batches: of producers without and with transactions, which are committed, aborted, left open."""

    def __init__(self, rng: random.Random, partition: Partition) -> None:
        self.rng, self.partition = rng, partition
        self.sequences = {1: 0, 2: 0, 3: 0}
        self.open = set[int]()

    def step(self) -> None:
        """One batch, or the end of a transaction."""
        rng = self.rng
        if self.open and rng.random() < 0.25:
            producer = rng.choice(sorted(self.open))
            self.open.discard(producer)
            self.partition.write_marker(Marker(producer, 0, 0, rng.random() < 0.5), EPOCH_MS)
            return
        records = [self.record() for _ in range(rng.choice((1, 1, 3, 20)))]
        options: dict[str, Any] = {"compression": rng.choice((0, 0, 1, 2, 3, 4))}
        producer = rng.choice((0, 0, 1, 2, 3))
        if producer:
            self.open.add(producer)
            sequence = self.sequences[producer]
            self.sequences[producer] += len(records)
            options |= {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence, "transactional": True}
        data = build_batch(records, **options)
        header = read_header(data)
        self.partition.write(data, header, EPOCH_MS, self.partition.verification(header))

    def record(self) -> tuple[Any, ...]:
        """Of a few keys, tags and countries, often without any."""
        rng = self.rng
        found: list[tuple[str, bytes | None]] = []
        if rng.random() < 0.5:
            found.append(("kbroker-tags", rng.choice((b"eu", b"us", b"vip, eu", b"vip", b"", None))))
        if rng.random() < 0.5:
            found.append(("country", rng.choice((b"de", b"at", None))))
        value = rng.choice((b"", None, rng.randbytes(rng.choice((5, 300)))))
        return (
            EPOCH_MS + rng.randrange(1000),
            rng.choice((None, b"", b"a1", b"b")),
            value,
            tuple(rng.sample(found, len(found))),
        )


async def consumed(client: BareClient, topic: str, offset: int, end: int, isolation: int, limit: int) -> list[Record]:
    """What a consumer is given from offset to below end."""
    found = list[Record]()
    while offset < end:
        request = fetch_request(
            {(topic, 0): offset}, isolation_level=isolation, partition_max_bytes=limit, max_wait_ms=0
        )
        answer = one(await client.call(request, 11))
        assert not answer.error_code
        aborted = sorted(
            ((row.first_offset, row.producer_id) for row in answer.aborted_transactions or ()), reverse=True
        )
        left_out, last = set[int](), offset
        for position, header in headers(answer.records):
            while aborted and aborted[-1][0] <= header.last_offset:
                left_out.add(aborted.pop()[1])
            last = header.next_offset
            if header.is_control:
                (marker,) = read_records(answer.records, position, max_bytes=1 << 20)
                if header.producer_id >= 0 and read_control(marker).type == ControlType.ABORT:
                    left_out.discard(header.producer_id)
            elif not (isolation and header.is_transactional and header.producer_id in left_out):
                found += [
                    each for each in read_records(answer.records, position, max_bytes=1 << 20) if each.offset >= offset
                ]
        assert last > offset, "stands still"
        offset = last
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_a_view_shows_what_a_filtered_consumer_keeps(seed: int, led: Find) -> None:
    rng = random.Random(seed)
    async with memory_broker(topics={"t": 1}) as broker, broker.client() as client:
        if seed % 2:
            assert not await alter(client, Scope.TOPIC, "t", "kbroker.tags.enable", "true")
        partition = led("t", 0)
        writer = Writer(rng, partition)
        for n, text in enumerate(FILTERS):
            await make_view(client, f"exact{n}", filter=text)
            await make_view(client, f"prune{n}", filter=text, mode="prune")
        for round_ in range(2):
            for _ in range(40):
                writer.step()
            for isolation in (0, 1):
                end = partition.bound(isolation)
                whole = await consumed(client, "t", 0, end, isolation, 1 << 20)
                for n, text in enumerate(FILTERS):
                    first, limit = rng.choice((0, rng.randrange(max(end, 1)))), rng.choice((1, 2000, 1 << 20))
                    wanted = [each for each in matching(whole, text) if each.offset >= first]
                    where = seed, round_, isolation, text, first, limit
                    assert await consumed(client, f"exact{n}", first, end, isolation, limit) == wanted, where
                    more = await consumed(client, f"prune{n}", first, end, isolation, limit)
                    assert list(matching(more, text)) == wanted, where
