"""Groups that consume, transform and produce: each input is copied once, with the offset that tells of it (KIP-447).

A copier is a member of a classic group and a transactional producer with an id of its own. What it was assigned it
reads from where the group has committed, once no transaction is open that could change that (require_stable). When it
loses its membership, or its id, it aborts and begins anew.
"""

from __future__ import annotations

from typing import Any

import trio

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.group_offsets import OffsetFetchRequest, OffsetFetchRequestTopic
from kafka_wire.messages.groups import (
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
)
from kafka_wire.messages.transactions import (
    AddOffsetsToTxnRequest,
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from kbroker.testing.world import World
from tests.simulation.checker import Violation
from tests.simulation.clients import Client, Doubt
from tests.simulation.transactions.ledger import Ledger, StableHistory, copy_of
from tests.simulation.transactions.producers import (
    COORDINATOR_RETRIABLE,
    Abortable,
    Fatal,
    Rules,
    TransactionalClient,
)
from tests.simulation.transactions.readers import READ_COMMITTED, Reader

SESSION_MS = 3000
E = ErrorCode
LOST = frozenset({E.UNKNOWN_MEMBER_ID, E.ILLEGAL_GENERATION, E.REBALANCE_IN_PROGRESS, E.FENCED_INSTANCE_ID})


def offset_fetch(group: str, history: StableHistory, is_stable: bool = True) -> OffsetFetchRequest:
    """What has a group committed there? is_stable: what no open transaction may change."""
    topic = OffsetFetchRequestTopic(name=history.topic, partition_indexes=[history.index])
    return OffsetFetchRequest(group_id=group, topics=[topic], require_stable=is_stable)


def offset_of(answer: Any) -> tuple[int, Any]:
    """The code of an OffsetFetch, and its one partition."""
    found = answer.topics[0].partitions[0] if answer.topics else None
    return answer.error_code or (found.error_code if found else 0), found


class Expelled(Exception):
    """No member any more, or a rebalance is under way: join again."""


class Member(Client):
    """A member of a classic group whose leader deals partitions round."""

    def __init__(self, world: World, name: str, ledger: Ledger, group: str, partitions: int) -> None:
        super().__init__(world, name, ledger)
        self.group = group
        self.partitions = partitions
        self.member_id, self.generation = "", -1
        self.assigned: list[int] = []

    async def join(self) -> None:
        """Join, or join again. Raises Expelled when it came to nothing."""
        answer = await self._join()
        if answer.error_code == E.MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
            answer = await self._join()
        self._check(answer.error_code)
        self.member_id, self.generation = answer.member_id, answer.generation_id
        assignments = []
        if answer.leader == self.member_id:
            members = sorted(member.member_id for member in answer.members)
            for n, member_id in enumerate(members):
                mine = bytes(range(n, self.partitions, len(members)))
                assignments.append(SyncGroupRequestAssignment(member_id=member_id, assignment=mine))
        request = SyncGroupRequest(
            group_id=self.group, generation_id=self.generation, member_id=self.member_id, assignments=assignments
        )
        synced = await self.call(request, 3, seconds=6)
        self._check(synced.error_code)
        self.assigned = list(bytes(synced.assignment))
        self.world.trace(self.name, "joined", self.generation, self.assigned)

    async def _join(self) -> Any:
        protocol = JoinGroupRequestProtocol(name="round", metadata=b"")
        request = JoinGroupRequest(
            group_id=self.group,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=SESSION_MS,
            member_id=self.member_id,
            protocol_type="copier",
            protocols=[protocol],
        )
        return await self.call(request, 5, seconds=6)

    async def heartbeat(self) -> None:
        """Tell the group. Raises Expelled."""
        request = HeartbeatRequest(group_id=self.group, generation_id=self.generation, member_id=self.member_id)
        self._check((await self.call(request, 3)).error_code)

    def _check(self, code: int) -> None:
        if code == E.NONE:
            return
        self.world.trace(self.name, "membership", code)
        if code == E.UNKNOWN_MEMBER_ID:
            self.member_id = ""
        if code not in LOST and code not in COORDINATOR_RETRIABLE:
            raise Violation(f"{self.name}: its group answers {ErrorCode(code)!r}")
        raise Expelled


class GroupCommitter(TransactionalClient):
    """Commits offsets of groups with its transactions."""

    async def commit_offsets(
        self, group: str, offsets: dict[StableHistory, int], generation: int = -1, member_id: str = ""
    ) -> None:
        """Where a group is to go on, as a part of the transaction. Raises Abortable, Fatal, Expelled."""
        transaction = self.transaction
        assert transaction is not None
        if not self.is_new:
            request = AddOffsetsToTxnRequest(
                transactional_id=self.transactional_id,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                group_id=group,
            )
            await self._patiently(lambda: self.call(request, 3), lambda answer: answer.error_code)
        topics: dict[str, list[TxnOffsetCommitRequestPartition]] = {}
        for history, offset in offsets.items():
            self.ledger.commit_offset(transaction, group, str(history), offset)
            topics.setdefault(history.topic, []).append(
                TxnOffsetCommitRequestPartition(
                    partition_index=history.index, committed_offset=offset, committed_metadata=transaction.name
                )
            )
        commit = TxnOffsetCommitRequest(
            transactional_id=self.transactional_id,
            group_id=group,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            generation_id=generation,
            member_id=member_id,
            topics=[TxnOffsetCommitRequestTopic(name=topic, partitions=each) for topic, each in topics.items()],
        )
        await self._patiently(lambda: self.call(commit, 5 if self.is_new else 3), self._code_of_commit)

    def _code_of_commit(self, answer: Any) -> int:
        """The code for all partitions. Raises Expelled."""
        codes = {each.error_code for topic in answer.topics for each in topic.partitions}
        if codes & LOST:
            self.trace("expelled", sorted(codes))
            self.on_expelled(codes)
            raise Expelled
        return max(codes)

    def on_expelled(self, codes: set[int]) -> None:
        """A commit was refused for want of membership."""


class Copier(GroupCommitter):
    """A member of a group that copies one topic to another, partition by partition."""

    def __init__(
        self,
        world: World,
        name: str,
        ledger: Ledger,
        group: str,
        sources: list[StableHistory],
        targets: list[StableHistory],
        rules: Rules,
        timeout_ms: int,
    ) -> None:
        super().__init__(world, name, ledger, name, rules, timeout_ms)
        self.group = group
        self.sources, self.targets = sources, targets
        self.has_life = False
        self.is_done = False
        self.member = Member(world, f"{name}-member", ledger, group, len(sources))

    async def run(self) -> None:
        """Copy until everything is done."""
        while not self.is_done:
            try:
                if not self.has_life:
                    await self.start_life()
                    self.has_life = True
                await self._copy_as_member()
            except (Fatal, Abortable) as error:
                self.trace("dies", str(error.args[0]))
                self.has_life = False
            except (Expelled, Doubt):
                pass
            await self.rest()

    async def _copy_as_member(self) -> None:
        """Join, find out from where, and copy until the membership ends. Raises Expelled, Doubt, Fatal, Abortable."""
        await self.member.join()
        mine = [self.sources[index] for index in self.member.assigned]
        if not mine:
            while not self.is_done:
                await trio.sleep(0.5)
                await self.member.heartbeat()
        reader = Reader(self.world, f"{self.name}-reader", self.ledger, mine, isolation=READ_COMMITTED)
        await self._seek(reader)
        try:
            while not self.is_done:
                await self.rest()
                await self.member.heartbeat()
                await reader.read()
                if any(reader.views.values()) and not await self._copy(reader):
                    await self._seek(reader)
        finally:
            await reader.hang_up()

    async def _seek(self, reader: Reader) -> None:
        """To where the group has committed."""
        for name in reader.mine:
            reader.views[name] = []
            reader.seek(name, await self._committed(reader.mine[name]))

    async def _committed(self, source: StableHistory) -> int:
        """The committed offset, once it is stable. Raises Doubt, Expelled."""
        while True:
            least = self.ledger.promised_offset(self.group, str(source))
            code, found = offset_of(await self.member.call(offset_fetch(self.group, source), 7))
            if code == E.UNSTABLE_OFFSET_COMMIT or code in COORDINATOR_RETRIABLE:
                self.trace("unstable", code)
                await self.rest()
                await self.member.heartbeat()
                continue
            if code or found is None:
                raise Violation(f"{self.name}: OffsetFetch is answered {ErrorCode(code)!r}")
            self.ledger.saw_offset(self.group, str(source), found.committed_offset, found.metadata or "", least)
            return max(0, int(found.committed_offset))

    async def _copy(self, reader: Reader) -> bool:
        """One transaction; whether it was committed. Raises Fatal, Expelled."""
        self.begin()
        expelled: Expelled | None = None
        is_wanted = self.random.random() < 0.9
        try:
            before = self.random.random() < 0.3
            if before:
                await self._commit_offsets(reader)
            for name, records in reader.views.items():
                await self._write(reader.mine[name], [offset for offset, _ in records])
            await self.flush()
            if self.random.random() < 0.1:
                await trio.sleep(self.random.choice([0.2, 1, SESSION_MS / 1000 * 1.5]) * self.random.random())
            if not before:
                await self._commit_offsets(reader)
        except Abortable as error:
            self.trace("aborts", str(error.args[0]))
            is_wanted = False
        except Expelled as error:
            is_wanted, expelled = False, error
        if self.random.random() < 0.03 and not self.finishing:
            raise Fatal("left it open")
        await self.end(is_wanted)
        for name in reader.views:
            reader.views[name] = []
        if expelled is not None:
            raise expelled
        return is_wanted

    async def _write(self, source: StableHistory, offsets: list[int]) -> None:
        target = self.targets[source.index]
        while offsets:
            some, offsets = offsets[:3], offsets[3:]
            values = [copy_of(self.author, self.number + n, str(source), offset) for n, offset in enumerate(some)]
            self.number += len(values)
            self.put(target, values)

    async def _commit_offsets(self, reader: Reader) -> None:
        """Where to go on, as a part of the transaction. Raises Abortable, Fatal, Expelled."""
        offsets = {source: reader.positions[name] for name, source in reader.mine.items()}
        await self.commit_offsets(self.group, offsets, self.member.generation, self.member.member_id)

    def on_expelled(self, codes: set[int]) -> None:
        if E.UNKNOWN_MEMBER_ID in codes:
            self.member.member_id = ""
