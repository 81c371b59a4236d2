"""T2, T3: a coordinator that is killed at any moment, or whose disk refuses any write, carries on from its log.

A story is told once, and all that happens in it is noted in order: what was stored, what was answered, which markers
were written. Then it ends after each of these events, and another coordinator takes over the log as it is then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.coordinators.effects import Pair
from kbroker.coordinators.shard import Shard
from kbroker.replication.partition import Partition
from kbroker.transactions.states import TransactionState as S
from kbroker.transactions.transaction import Producer
from tests.transactions.tools import Rig, Written, rig

RETRIABLE = (
    ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.CONCURRENT_TRANSACTIONS,
)  # fmt: skip

TOPIC = "story"
COMMITTED = frozenset({0, 1, 6, 7})  # of its partitions; all others are aborted. None is in two transactions


class Stored(NamedTuple):
    pairs: tuple[Pair, ...]


class Told(NamedTuple):
    what: str  # init, add, end
    producer: Producer  # who asked; init: who was made
    commit: bool = False
    partitions: frozenset[int] = frozenset()


class Story:
    """A producer's life, with everything it is told noted."""

    def __init__(self, made: Rig, version: int) -> None:
        made.add_topic(TOPIC, (1,) * 8)
        self.made = made
        self.version = version
        self.told: list[Told] = []

    async def tell(self) -> None:
        """Three transactions: committed, aborted, open; a new producer over that; one more commit."""
        producer = await self._init()
        producer = await self._transaction(producer, {0, 1}, True)
        producer = await self._transaction(producer, {2, 3}, False)
        await self._add(producer, {4})
        await self._add(producer, {5})
        producer = await self._init()
        await self._transaction(producer, {6, 7}, True)

    async def _transaction(self, producer: Producer, partitions: set[int], commit: bool) -> Producer:
        await self._add(producer, partitions)
        answer = await _insist(lambda: self.made.end(producer, commit, client_version=self.version))
        after = answer if isinstance(answer, Producer) else producer
        assert isinstance(answer, Producer) or answer is ErrorCode.NONE, answer
        self.told.append(Told("end", producer, commit))
        return after

    async def _add(self, producer: Producer, partitions: set[int]) -> None:
        answer = await _insist(lambda: self.made.add(producer, {TOPIC: partitions}, client_version=self.version))
        assert answer is ErrorCode.NONE, answer
        self.told.append(Told("add", producer, partitions=frozenset(partitions)))

    async def _init(self) -> Producer:
        answer = await _insist(self.made.init)
        assert isinstance(answer, Producer)
        self.told.append(Told("init", answer))
        return answer


async def _insist(ask: Callable[[], Awaitable[Any]]) -> Any:
    """As clients do."""
    while (answer := await ask()) in RETRIABLE:
        await trio.sleep(0.05)
    return answer


async def _journal(version: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that happens in the story, in order."""
    journal: list[Any] = []

    class Notes(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            journal.append(event)

    append = Shard.append

    def noted(shard: Shard, pairs: Any, **more: Any) -> int:
        offset = append(shard, pairs, **more)
        journal.append(Stored(tuple(pairs)))
        return offset

    async with rig(version=version) as made:
        made.brokers.markers = Notes()
        story = Story(made, version)
        story.told = Notes()
        with monkeypatch.context() as patched:
            patched.setattr(Shard, "append", noted)
            await story.tell()
    return journal


@pytest.mark.parametrize("version", [0, 2])
async def test_T2_T3_a_kill_at_any_moment(
    version: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    journal = await _journal(version, monkeypatch)
    assert sum(isinstance(event, Stored) for event in journal) > 12
    for length in range(len(journal) + 1):
        await _take_over(journal[:length], version)


async def _take_over(before: list[Any], version: int) -> None:
    """Another coordinator finds the log as it was after these events."""
    async with rig(version=version) as made:
        made.add_topic(TOPIC, (1,) * 8)
        for event in before:
            if isinstance(event, Stored):
                made.shard.append(event.pairs)
        made.lead(2)
        await made.loaded()
        await wait_all_tasks_blocked()
        told = [event for event in before if isinstance(event, Told)]
        markers = [event for event in before if isinstance(event, Written)] + made.brokers.markers
        _check_markers(told, markers)
        if told:
            await _check_last(made, told[-1], version)


def _check_markers(told: list[Told], markers: list[Written]) -> None:
    """Every end that was told is written to every partition of the transaction, and nothing ends in two ways."""
    for each in markers:
        assert each.is_commit == (each.partition in COMMITTED), each
    added, written = set[int](), {each.partition for each in markers}
    for event in told:
        added |= event.partitions
        if event.what != "add":  # a new producer comes after the end of what was open
            assert added <= written, f"{event}, but {added - written} have no marker"


async def _check_last(made: Rig, last: Told, version: int) -> None:
    """What was answered last is true, and may be asked for again."""
    entry = made.transaction().entry
    if last.what == "init":
        assert (entry.producer_id, entry.producer_epoch) >= last.producer
    elif last.what == "add" and entry.state is S.ONGOING:
        assert last.partitions <= entry.partitions[TOPIC]
    elif last.what == "end" and entry.state is not S.ONGOING:
        again = await made.end(last.producer, last.commit, client_version=version)
        assert again in (ErrorCode.NONE, ErrorCode.PRODUCER_FENCED, Producer(entry.producer_id, entry.producer_epoch))


@pytest.mark.parametrize("version", [0, 2])
@pytest.mark.parametrize("is_written", [False, True], ids=["refused", "written, and refused all the same"])
async def test_T2_T3_a_disk_that_fails_at_any_write(
    version: int, is_written: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The producer insists, and comes to the same end."""
    write = Partition.write
    writes = [event for event in await _journal(version, monkeypatch) if isinstance(event, Stored)]
    for failing in range(len(writes)):
        count = [0]

        def fail(partition: Partition, *more: Any, count: list[int] = count, failing: int = failing) -> Any:
            count[0] += 1
            if count[0] != failing + 1:
                return write(partition, *more)
            if is_written:
                write(partition, *more)
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)

        async with rig(version=version) as made:
            with monkeypatch.context() as patched:
                patched.setattr(Partition, "write", fail)
                story = Story(made, version)
                await story.tell()
                await trio.sleep(3)
            assert count[0] > failing
            assert made.transaction().entry.state is S.COMPLETE_COMMIT
            _check_markers(story.told, made.brokers.markers)
