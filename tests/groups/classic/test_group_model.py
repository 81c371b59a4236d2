"""A classic group under random clients: they join, sync, send heartbeats, vanish, come back; the clock runs and leaps.

What must hold whatever they do is written once, in `hear` and `check`; a failing run prints its steps as a script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupRequestAssignment,
    SyncGroupResponse,
)
from kbroker.coordinators.effects import Effect, Order, Store
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.classic.rebalance import GroupState
from kbroker.groups.group import Client
from kbroker.groups.settings import GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot
from tests.groups.tools import given_by

REBALANCE_S_MAX = 60.0
SIZE_MAX = 5


@dataclass(eq=False)
class Peer:
    """A client. Two of them claim the same static identity."""

    name: str
    instance_id: str | None
    member_id: str = ""
    generation: int = -1
    to_assign: tuple[str, ...] = ()  # a leader's members


@dataclass(eq=False)
class Asked:
    """A ticket."""

    peer: Peer
    at: float
    generation: int


peers = st.integers(0, 7)
seconds = st.sampled_from([0.001, 1.0, 1.0, 5.0, 5.0, 9.0, 30.0, 59.0])


class GroupMachine(RuleBasedStateMachine):
    """Clients of one group; `group` is what is tested."""

    @initialize(delay_ms=st.sampled_from([0, 0, 3000]))
    def begin(self, delay_ms: int) -> None:
        self.limits = GroupLimits(size_max=SIZE_MAX, initial_rebalance_delay_ms=delay_ms)
        self.group = ClassicGroup("g", self.limits, now_ms=0)
        self.now = 0.0
        self.token = 0
        self.peers = [Peer(f"p{i}", {5: "S", 6: "S", 7: "T"}.get(i)) for i in range(8)]
        self.waiting: set[Asked] = set()
        self.generation = 0
        self.last_record: GroupSnapshot | None = None
        self.leaders: dict[int, str] = {}  # generation -> who leads
        self.assigned: dict[int, dict[str, bytes]] = {}  # generation -> what is stored

    # -- what clients do

    @rule(
        index=peers,
        version=st.sampled_from([3, 4, 9]),
        metadata=st.sampled_from([b"", b"m"]),
        protocols=st.sampled_from([["range"], ["range"], ["range", "sticky"], ["sticky", "range"], ["lag"]]),
        session_s=st.sampled_from([6, 45]),
        rebalance_s=st.sampled_from([10, 60, 60]),
    )
    def join(
        self, index: int, version: int, metadata: bytes, protocols: list[str], session_s: int, rebalance_s: int
    ) -> None:
        peer = self.peers[index]
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=session_s * 1000,
            rebalance_timeout_ms=rebalance_s * 1000,
            member_id=peer.member_id,
            group_instance_id=peer.instance_id,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name=name, metadata=metadata) for name in protocols],
        )
        self.token += 1
        client, token = Client(peer.name, ""), str(self.token)
        self.hear(
            self.group.join(
                self.ask(peer), request, version=version, client=client, token=token, now=self.now, now_ms=self.now_ms
            )
        )

    @rule(index=peers, stale=st.sampled_from([0, 0, 0, 1, -1]))
    def sync(self, index: int, stale: int) -> None:
        peer = self.peers[index]
        generation = peer.generation + stale
        request = SyncGroupRequest(
            group_id="g",
            generation_id=generation,
            member_id=peer.member_id,
            group_instance_id=peer.instance_id,
            assignments=[
                SyncGroupRequestAssignment(member_id=each, assignment=f"{each}@{generation}".encode())
                for each in peer.to_assign
            ],
        )
        self.hear(
            self.group.sync(self.ask(peer, generation), request, given_by(request), now=self.now, now_ms=self.now_ms)
        )

    @rule(newcomers=st.sets(peers, max_size=4), seconds=st.sampled_from([0.0, 0.0, 3.0]))
    def everybody_goes_on(self, newcomers: set[int], seconds: float) -> None:
        """Clients as they are written: some come, who may join joins, who has joined syncs."""
        for index in newcomers:
            if not self.peers[index].member_id and not self.waits(self.peers[index]):
                self.join(index, 3, b"m", ["range"], 45, 60)
        for _ in range(3):
            for index, peer in enumerate(self.peers):
                if peer.member_id and not self.waits(peer):
                    if self.group.state is GroupState.PREPARING_REBALANCE:
                        self.join(index, 9, b"m", ["range"], 45, 60)
                    elif self.group.state is GroupState.COMPLETING_REBALANCE:
                        self.sync(index, 0)
            self.time_passes(seconds)

    def waits(self, peer: Peer) -> bool:
        return any(asked.peer is peer for asked in self.waiting)

    @rule(rounds=st.integers(1, 20))
    def everybody_is_alive(self, rounds: int) -> None:
        for _ in range(rounds):
            for peer in self.peers:
                self.group.heartbeat(peer.member_id, peer.instance_id, peer.generation, self.now)
            self.time_passes(3.0)

    @rule(index=peers, stale=st.sampled_from([0, 0, 0, 1]))
    def heartbeat(self, index: int, stale: int) -> None:
        peer = self.peers[index]
        before = self.group.snapshot(), self.group.state
        code = self.group.heartbeat(peer.member_id, peer.instance_id, peer.generation - stale, self.now)
        assert (self.group.snapshot(), self.group.state) == before, "G1: a heartbeat changes nothing"
        if code is ErrorCode.NONE:
            assert peer.generation - stale == self.group.generation
            assert self.group.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE)

    @rule(index=peers, also=peers)
    def leave(self, index: int, also: int) -> None:
        gone = [self.peers[index], self.peers[also]]
        members = [MemberIdentity(member_id=each.member_id, group_instance_id=each.instance_id) for each in gone]
        request = LeaveGroupRequest(group_id="g", members=members)
        ticket = self.ask(gone[0])
        self.hear(self.group.leave(ticket, request, version=5, now=self.now, now_ms=self.now_ms))
        assert ticket not in self.waiting

    @rule(index=peers)
    def be_killed(self, index: int) -> None:
        """A client starts anew, without its id."""
        peer = self.peers[index]
        peer.member_id, peer.generation, peer.to_assign = "", -1, ()

    # -- what time does

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.group.deadline is not None and self.group.deadline <= end:
            self.now = max(self.now, self.group.deadline)
            self.hear(self.group.on_alarm(self.now, self.now_ms))
            assert self.group.deadline is None or self.group.deadline > self.now, "the alarm spins"
        self.now = end

    @rule(seconds=st.sampled_from([20.0, 100.0, 100_000.0]))
    def time_leaps(self, seconds: float) -> None:
        self.now += seconds
        self.hear(self.group.on_alarm(self.now, self.now_ms))

    @precondition(lambda self: self.last_record is not None)
    @rule()
    def coordinator_restarts(self) -> None:
        assert self.last_record is not None
        self.hear(self.group.resign())
        assert not self.waiting, "everybody hears of the end"
        self.group = ClassicGroup.restore(self.last_record, self.limits, now=self.now)
        self.generation = self.group.generation  # generations that nobody was assigned anything in may come again
        self.leaders = {key: value for key, value in self.leaders.items() if key <= self.generation}
        assert self.group.snapshot() == self.last_record

    # -- what must hold

    @property
    def now_ms(self) -> int:
        return round(self.now * 1000)

    def ask(self, peer: Peer, generation: int = -1) -> Asked:
        asked = Asked(peer, self.now, generation)
        self.waiting.add(asked)
        return asked

    def identity(self, member_id: str) -> str:
        """Who a member is, whatever its id: a static one keeps its identity."""
        start = member_id.split("-")[0]
        return start if start in ("S", "T") else member_id

    def hear(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Store):
                self.note_record(*effect.records)
                continue
            if isinstance(effect, Order):
                continue
            assert effect.to in self.waiting, "answered twice, or never asked"
            assert isinstance(effect.to, Asked)
            self.waiting.remove(effect.to)
            if isinstance(effect.response, JoinGroupResponse):
                self.hear_join(effect.to.peer, effect.response)
            elif isinstance(effect.response, SyncGroupResponse):
                self.hear_sync(effect.to, effect.response)
            else:
                assert isinstance(effect.response, LeaveGroupResponse)

    def hear_join(self, peer: Peer, response: JoinGroupResponse) -> None:
        code = ErrorCode(response.error_code)
        if code is ErrorCode.UNKNOWN_MEMBER_ID:
            peer.member_id = ""
        if code in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED):
            peer.member_id = response.member_id
        if code is not ErrorCode.NONE:
            return
        generation = peer.generation = response.generation_id
        assert generation > 0
        leader = self.leaders.setdefault(generation, self.identity(response.leader))
        assert leader == self.identity(response.leader), "a generation has one leader"
        assert bool(response.members) == (response.leader == response.member_id), "members are for the leader"
        peer.to_assign = tuple(each.member_id for each in response.members)
        assert len(set(peer.to_assign)) == len(peer.to_assign)
        if generation == self.group.generation and response.members:
            members = self.group.snapshot().members
            assert {each.member_id for each in members} == set(peer.to_assign), "the leader knows all members"
            assert [each.subscription for each in members] == [bytes(each.metadata) for each in response.members]

    def hear_sync(self, asked: Asked, response: SyncGroupResponse) -> None:
        if response.error_code == ErrorCode.NONE:
            peer = asked.peer
            stored = self.assigned[asked.generation]
            assert stored[self.identity(peer.member_id)] == bytes(response.assignment), "G2: stored before it is told"

    def note_record(self, record: Any) -> None:
        assert isinstance(record, GroupSnapshot)
        self.last_record = record
        assigned = {self.identity(each.member_id): each.assignment for each in record.members}
        if record.members:
            assert record.leader in {each.member_id for each in record.members}
            known = self.assigned.get(record.generation)
            if known is not None and record.generation in self.leaders and self.group.generation == record.generation:
                assert known == assigned, "a generation is assigned once (a static member's return changes its id only)"
        self.assigned[record.generation] = assigned

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "group"):
            return
        assert self.group.generation >= self.generation, "generations never go back"
        self.generation = self.group.generation
        late = [asked for asked in self.waiting if asked.at + REBALANCE_S_MAX < self.now - 1e-6]
        assert not late, "G6: every request is answered within the rebalance timeout"
        members = self.group.snapshot().members
        assert len(members) <= 2 * SIZE_MAX
        dynamic = [each for each in members if each.group_instance_id is None]
        assert len(dynamic) <= SIZE_MAX or self.group.state is GroupState.PREPARING_REBALANCE
        assert len(self.group._pending) <= SIZE_MAX
        statics = [each.group_instance_id for each in members if each.group_instance_id is not None]
        assert len(set(statics)) == len(statics), "G4: one member for each instance id"
        if not members:
            assert self.group.state in (GroupState.EMPTY, GroupState.PREPARING_REBALANCE)
            assert not self.waiting
        if self.group.state is GroupState.STABLE:
            assert not self.waiting
            assert self.last_record is not None and self.last_record.generation == self.group.generation
            assert self.group.empty_since_ms is None, "G5"


GroupMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestGroup = pytest.mark.slow(GroupMachine.TestCase)
