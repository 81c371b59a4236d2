"""Who commits offsets of one place with transactions and without: the record that was written last holds (KAFKA-15784).

An offset is a count here, so that the highest was sent last. After any doubt another group takes over, as what is in
doubt may come behind what was sent later.
"""

from __future__ import annotations

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kbroker.testing.world import World
from tests.simulation.checker import Violation
from tests.simulation.clients import Doubt
from tests.simulation.transactions.copiers import GroupCommitter, offset_fetch, offset_of
from tests.simulation.transactions.ledger import Ledger, StableHistory
from tests.simulation.transactions.producers import COORDINATOR_RETRIABLE, Abortable, Fatal, Rules

NONE = -1


class Mixer(GroupCommitter):
    """One transaction after the other, amid which it commits in both ways, and looks at what there is."""

    def __init__(
        self, world: World, name: str, ledger: Ledger, place: StableHistory, rules: Rules, timeout_ms: int
    ) -> None:
        super().__init__(world, name, ledger, name, rules, timeout_ms)
        self.place = place
        self.groups = 0
        self.offset = 0
        self.settled = NONE  # what the group has committed, for certain
        self.has_life = False

    @property
    def group(self) -> str:
        """The one of now."""
        return f"{self.name}-{self.groups}"

    async def run(self) -> None:
        """Mix until told to finish, and once more to the end."""
        while not await self._live() or not self.finishing:
            pass

    async def _live(self) -> bool:
        """One round; whether it came to an end without a doubt."""
        await self.rest()
        try:
            if not self.has_life:
                await self.start_life()
                self.has_life = True
            return await self._mix()
        except (Fatal, Abortable, Doubt) as error:
            self.trace("dies", repr(error))
            self.has_life = False
            self._leave()
            return False

    def _leave(self) -> None:
        self.groups += 1
        self.settled = NONE

    async def _mix(self) -> bool:
        self.begin()
        settled, pending = self.settled, NONE
        for n in range(self.random.randint(1, 4)):
            self.offset += 1
            if not n or self.random.random() < 0.5:
                await self.commit_offsets(self.group, {self.place: self.offset})
                pending = self.offset
            else:
                await self._commit_plainly()
                settled, pending = self.offset, NONE
            if self.random.random() < 0.5:
                await self._check(settled, is_stable=False)
        was_doubtful, commit = self.has_doubt, self.random.random() < 0.75
        await self.end(commit)
        if was_doubtful:
            self._leave()
            return False
        self.settled = pending if commit and pending != NONE else settled
        await self._check(self.settled, is_stable=True)
        return True

    async def _commit_plainly(self) -> None:
        """Without a transaction. Raises Doubt."""
        partition = OffsetCommitRequestPartition(partition_index=self.place.index, committed_offset=self.offset)
        topic = OffsetCommitRequestTopic(name=self.place.topic, partitions=[partition])
        answer = await self.call(OffsetCommitRequest(group_id=self.group, topics=[topic]), 7)
        code = answer.topics[0].partitions[0].error_code
        if code in COORDINATOR_RETRIABLE:
            raise Doubt
        if code:
            raise Violation(f"{self.name}: OffsetCommit is answered {ErrorCode(code)!r}")

    async def _check(self, expected: int, *, is_stable: bool) -> None:
        """Ask what the group has committed. Raises Doubt."""
        while True:
            code, found = offset_of(await self.call(offset_fetch(self.group, self.place, is_stable), 7))
            if code == ErrorCode.NONE:
                break
            if code not in COORDINATOR_RETRIABLE and not (is_stable and code == ErrorCode.UNSTABLE_OFFSET_COMMIT):
                raise Violation(f"{self.name}: OffsetFetch is answered {ErrorCode(code)!r}")
            await trio.sleep(self.random.expovariate(20))
        if self.has_doubt:
            return  # something may have come, or gone, meanwhile
        if found.committed_offset != expected:
            what = "stable" if is_stable else "committed so far"
            raise Violation(f"group {self.group}, {self.place}: offset {found.committed_offset}, {what} is {expected}")
