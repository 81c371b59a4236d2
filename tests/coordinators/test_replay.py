"""Replay, held against a naive reading of the same log: plain records, transactions, markers, and copies of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_wire.errors import KafkaError
from kafka_wire.records import ControlType, build_batch, control_batch, read_header
from kbroker.coordinators.effects import Pair
from kbroker.coordinators.replay import COPY, Replayed, replay
from kbroker.groups.storage.records import CURRENT_OFFSET_KEY, OffsetCommitValue, offset_record
from kbroker.log.log import PartitionLog
from tests.groups.offset_log import LOGS, Commit, Event, Marker, Place, read, value


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


def copy_all(written: Bytes, log: list[Event], stop_after: int) -> int:
    """Write what the log says once more, as a rewrite does, but no more than so many batches; how many there are."""
    said, batches = read(log), list[bytearray]()
    places = sorted({place for event in log if isinstance(event, Commit) for place in event.values})
    for place in places:
        still_open = said.open_at(place)
        headers = COPY if still_open else ()
        if place in said.committed:
            batches.append(build_batch([(1, *record(place, said.committed[place][1]), headers)]))
        for _, producer_id, found in still_open:
            batches.append(build_batch([(1, *record(place, found), COPY)], **ids(producer_id)))
    for batch in batches[:stop_after]:
        written.add(batch)
    return len(batches)


@settings(deadline=None)
@given(LOGS, LOGS, st.data())
async def test_L9_K15784_a_log_written_anew_amid_open_transactions_says_the_same(
    before: list[Event], after: list[Event], data: Any
) -> None:
    written = Bytes()
    for event in before:
        written.append(event)
    middle = written.end
    count = copy_all(written, before, 10**9)
    for event in after:
        written.append(event)
    live, still_open = expected(before + after)
    for start in (0, middle):  # killed before the start was moved, or after
        written.start_offset = start
        found = await written.replayed()
        assert found.live == live
        assert by_key(found) == sorted(still_open, key=lambda each: each[1])

    torn = Bytes()  # it stopped amid the copies, and goes on
    for event in before:
        torn.append(event)
    copy_all(torn, before, data.draw(st.integers(0, count)))
    for event in after:
        torn.append(event)
    found = await torn.replayed()
    assert found.live == live
    assert by_key(found) == sorted(still_open, key=lambda each: each[1])


@pytest.mark.parametrize("copies", range(4))
async def test_K15784_the_order_of_two_transactions_outlives_copies_that_are_torn(copies: int) -> None:
    place, written = ("g", "t", 0), Bytes()
    log: list[Event] = [Commit(producer_id, "g", {place: value(producer_id)}) for producer_id in (-1, 1, 2)]
    for event in log:
        written.append(event)
    assert copy_all(written, log, copies) == 3
    for producer_id in (2, 1):
        written.append(Marker(producer_id, True))
    assert (await written.replayed()).live == pairs_of({place: value(2)}), "the later record"


async def test_a_batch_that_is_broken_ends_the_replay() -> None:
    written = Bytes()
    written.add(build_batch([(CURRENT_OFFSET_KEY, b"value")], timestamp=1))
    written.batches[0] = written.batches[0][:-1] + b"x"
    with pytest.raises(KafkaError):
        await written.replayed()
