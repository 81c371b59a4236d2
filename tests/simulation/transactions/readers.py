"""Consumers of either isolation level, from positions they keep; the judge, who reads everything in the end."""

from __future__ import annotations

from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.produce_fetch import FetchPartition, FetchRequest, FetchTopic
from kbroker.testing.world import World
from tests.simulation.checker import Records, Violation
from tests.simulation.clients import Client, Doubt
from tests.simulation.transactions.batches import Batch, parse
from tests.simulation.transactions.ledger import Fetched, Ledger, Promise, StableHistory

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


class Reader(Client):
    """Reads some partitions from their beginning to their end, and keeps what it was given. isolation: its level."""

    def __init__(
        self,
        world: World,
        name: str,
        ledger: Ledger,
        histories: list[StableHistory],
        *,
        isolation: int,
        sessions: bool = False,
    ) -> None:
        super().__init__(world, name, ledger)
        self.mine = {str(history): history for history in histories}
        self.isolation = isolation
        self.sessions = sessions
        self.positions = dict.fromkeys(self.mine, 0)
        self.views: dict[str, Records] = {name: [] for name in self.mine}
        self.batches: dict[str, list[Batch]] = {name: [] for name in self.mine}
        self.keeps_batches = False
        self._losses = {name: history.losses for name, history in self.mine.items()}
        self._session = (0, 0 if sessions else -1)
        self._epochs: dict[str, int] = {}

    async def run(self) -> None:
        """Read until told to finish, then to where the log ends."""
        while not self.finishing or not self.is_through:
            await self.rest()
            await self.read()

    @property
    def is_through(self) -> bool:
        """Whether everything has been read, and all of it is stable."""
        return all(self.positions[name] >= history.floor for name, history in self.mine.items())

    async def read(self, *, max_wait_ms: int | None = None) -> Records:
        """One fetch; what was delivered, of all partitions."""
        try:
            return await self._fetch(max_wait_ms)
        except Doubt:
            self.forget_session()
            return []

    def forget_session(self) -> None:
        """Begin a new fetch session."""
        self._session = (0, 0 if self.sessions else -1)

    def seek(self, name: str, position: int) -> None:
        """Go on from there."""
        self.positions[name] = position

    async def _fetch(self, max_wait_ms: int | None) -> Records:
        for name, history in self.mine.items():
            if self._losses[name] != history.losses:  # the log may have been cut: a client learns it by leader epochs
                self._fall_back(name, min(self.positions[name], history.cut_since(self._losses[name])))
                self._losses[name] = history.losses
        positions = dict(self.positions)
        asked = {name: history.promised() for name, history in self.mine.items()}
        response = await self.call(self._request(positions, max_wait_ms), 12)
        if response.error_code:
            if response.error_code not in (
                ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH,
            ):  # fmt: skip
                raise Violation(f"{self.name}: a fetch was answered {ErrorCode(response.error_code)!r}")
            self.forget_session()
            return []
        if self.sessions and response.session_id:
            self._session = (response.session_id, self._session[1] + 1)
        delivered: Records = []
        for topic in response.responses:
            for answer in topic.partitions:
                name = f"{topic.topic}-{answer.partition_index}"
                delivered += self._take(self.mine[name], answer, positions[name], asked[name])
        return delivered

    def _fall_back(self, name: str, position: int) -> None:
        self.positions[name] = position
        self.views[name] = [record for record in self.views[name] if record[0] < position]
        self.batches[name] = [batch for batch in self.batches[name] if batch.last < position]

    def _request(self, positions: dict[str, int], max_wait_ms: int | None) -> FetchRequest:
        topics: dict[str, list[FetchPartition]] = {}
        for name, history in self.mine.items():
            topics.setdefault(history.topic, []).append(
                FetchPartition(
                    partition=history.index,
                    fetch_offset=positions[name],
                    partition_max_bytes=self.random.choice([1, 500, 1 << 20]),
                )
            )
        session_id, session_epoch = self._session
        return FetchRequest(
            max_wait_ms=self.random.choice([0, 300]) if max_wait_ms is None else max_wait_ms,
            min_bytes=1,
            max_bytes=self.random.choice([2000, 1 << 20]),
            isolation_level=self.isolation,
            session_id=session_id,
            session_epoch=session_epoch,
            topics=[FetchTopic(topic=topic, partitions=partitions) for topic, partitions in topics.items()],
        )

    def _take(self, history: StableHistory, answer: Any, position: int, asked: Promise) -> Records:
        name = str(history)
        if answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE and asked[0] != history.losses:
            return []
        if answer.error_code:
            self.expect(history, answer.error_code)
            return []
        aborted = None
        if self.isolation == READ_COMMITTED:
            aborted = [(each.producer_id, each.first_offset) for each in answer.aborted_transactions or ()]
        fetched = Fetched(
            parse(bytes(answer.records)),
            answer.high_watermark,
            answer.last_stable_offset,
            answer.log_start_offset,
            aborted,
        )
        records = history.fetched(position, fetched, asked)
        if asked[0] != history.losses:
            return []
        self.checker.reads += len(records)
        self.views[name] += records
        if fetched.end is not None:
            self.positions[name] = fetched.end
            if self.keeps_batches:
                self.batches[name] += fetched.batches
        return records


async def read_all(world: World, ledger: Ledger, histories: list[StableHistory], isolation: int) -> Reader:
    """Read partitions to the high watermarks that are known. A reader of committed records waits to be let so far."""
    reader = Reader(world, f"judge-{isolation}", ledger, histories, isolation=isolation)
    reader.keeps_batches = True
    while not reader.is_through:
        if not await reader.read(max_wait_ms=0):
            await trio.sleep(0.05)
    return reader
