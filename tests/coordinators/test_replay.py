"""Replay, held against a naive reading of the same log: plain records, transactions, markers, and copies of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings

from kafka_wire.errors import KafkaError
from kafka_wire.records import ControlType, build_batch, control_batch, read_header
from kbroker.coordinators.effects import Pair
from kbroker.coordinators.replay import Replayed, replay
from kbroker.groups.storage.records import CURRENT_OFFSET_KEY, OffsetCommitValue, offset_record
from kbroker.log.log import PartitionLog
from tests.groups.offset_log import LOGS, Commit, Event, Marker, Place, read


class Bytes:
    """A log of which nothing is asked but its bytes."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.starts: list[int] = []
        self.end = self.start_offset = 0

    def add(self, batch: bytearray) -> None:
        self.starts.append(self.end)
        batch[0:8] = self.end.to_bytes(8, "big")  # outside of the CRC
        self.end = read_header(batch).next_offset
        self.batches.append(bytes(batch))

    def append(self, event: Event) -> None:
        if isinstance(event, Marker):
            self.marker(event.producer_id, event.is_commit)
        else:
            pairs = [record(place, found) for place, found in event.values.items()]
            self.add(build_batch(pairs, **ids(event.producer_id)))

    def marker(self, producer_id: int, is_commit: bool) -> None:
        kind = ControlType.COMMIT if is_commit else ControlType.ABORT
        self.add(control_batch(kind, producer_id=producer_id, producer_epoch=0, coordinator_epoch=0, timestamp=1))

    def read(self, offset: int, *_: Any, **__: Any) -> list[Any]:
        data = b"".join(self.batches[max(n for n, at in enumerate(self.starts) if at <= offset) :])
        return [SimpleNamespace(read=lambda: data)]

    def path_of(self, offset: int) -> str:
        return f"memory/{offset}.log"

    async def replayed(self) -> Replayed:
        async def offload(work: Any) -> Any:
            return work()

        return await replay(cast(PartitionLog, self), self.end, offload, lambda key: key)


def ids(producer_id: int) -> dict[str, Any]:
    return {"producer_id": producer_id, "producer_epoch": 0, "transactional": True} if producer_id >= 0 else {}


def record(place: Place, found: OffsetCommitValue | None) -> Pair:
    return offset_record(*place, found)


def pairs_of(values: Any) -> dict[bytes, bytes]:
    return {key: value for key, value in (record(place, found) for place, found in values.items()) if value}


def expected(log: list[Event]) -> tuple[dict[bytes, bytes], list[tuple[int, bytes, bytes | None]]]:
    """(what lives, what is open: producer id, key and value, the earlier record first for each key)."""
    said = read(log)
    places = sorted({place for event in log if isinstance(event, Commit) for place in event.values})
    still_open = [(pid, *record(place, found)) for place in places for _, pid, found in said.open_at(place)]
    return pairs_of(said.values), still_open


def by_key(found: Replayed) -> list[tuple[int, bytes, bytes | None]]:
    assert [each.offset for each in found.open] == sorted(each.offset for each in found.open)
    return [(each.producer_id, each.key, each.value) for each in sorted(found.open, key=lambda each: each.key)]


@settings(deadline=None)
@given(LOGS)
async def test_T3_T6_what_a_replay_finds_is_what_the_log_says(log: list[Event]) -> None:
    written = Bytes()
    for event in log:
        written.append(event)
    found = await written.replayed()
    live, still_open = expected(log)
    assert found.live == live
    assert by_key(found) == sorted(still_open, key=lambda each: each[1])


async def test_a_batch_that_is_broken_ends_the_replay() -> None:
    written = Bytes()
    written.add(build_batch([(CURRENT_OFFSET_KEY, b"value")], timestamp=1))
    written.batches[0] = written.batches[0][:-1] + b"x"
    with pytest.raises(KafkaError):
        await written.replayed()
