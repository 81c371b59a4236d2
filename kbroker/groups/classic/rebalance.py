"""What a classic group does between requests: from joins to a generation, to assignments, and the alarms in between.

`RebalancingGroup` owns the members, the states, the timers and the effects of the event in hand; `group.py` adds the
requests to it, and draws the states. Three kinds of time end:

    _phase_end       PREPARING: of waiting for joins (the initial delay, or the rebalance timeout)
                     COMPLETING, STABLE: of waiting for SyncGroup, while somebody has not sent it (KAFKA-9752)
    a session        of a member that nobody has heard of; those who wait for an answer are excused
    a pending id     that was given out by MEMBER_ID_REQUIRED and not used

On an alarm they end in the order of their times, so that a clock that jumps forward ends them as if it had run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Self

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.groups import (
    JoinGroupResponse,
    JoinGroupResponseMember,
    SyncGroupResponse,
)
from kbroker.coordinators.effects import Effect, Order, Reply, Store, Ticket
from kbroker.groups.classic.members import Member, Roster
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, pairs, read_assignment, read_subscription
from kbroker.groups.group import Client, Expelled
from kbroker.groups.settings import GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot, GroupTombstone
from kbroker.groups.timeline import Timeline

POSTPONED_S_MIN = 1.0  # between two attempts to complete a rebalance that nobody has joined
OF_POLLS = "max.poll.interval.ms of its consumer"  # where a member's rebalance timeout comes from

_OK = ErrorCode.NONE


class GroupState(Enum):
    """The value is Kafka's name on the wire."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


EMPTY, PREPARING, COMPLETING, STABLE, DEAD = GroupState


class RebalancingGroup:
    """A classic group without its requests. Methods with an underscore add to the effects of the event in hand.

    Invariants, between events: generation never goes back. EMPTY and DEAD have no members, STABLE has nobody with a
    ticket, PREPARING nobody who waits in SyncGroup, COMPLETING nobody who waits in JoinGroup.
    """

    __slots__ = (
        "group_id", "limits", "state", "generation", "protocol_type", "protocol", "deadline", "timeline", "_roster",
        "_pending", "_pending_sync", "_phase_end", "_initial", "_initial_left_ms", "_more_came", "_state_ms", "_stored",
        "_effects",
    )  # fmt: skip

    def __init__(self, group_id: str, limits: GroupLimits, *, now_ms: int) -> None:
        """A new group: EMPTY, generation 0. Nothing of it is stored before it has had members."""
        self.group_id = group_id
        self.limits = limits
        self.state = EMPTY
        self.generation = 0
        self.protocol_type: str | None = None  # None: never had members, offsets only
        self.protocol: str | None = None  # of the generation
        self.deadline: float | None = None  # liveness seconds; when on_alarm may have something to do
        self.timeline = Timeline()
        self._roster = Roster()
        self._pending: dict[str, float] = {}  # member ids given out (MEMBER_ID_REQUIRED) -> when they expire
        self._pending_sync: set[str] = set()  # members of this generation that have not sent SyncGroup
        self._phase_end: float | None = None  # PREPARING: of waiting for joins. Later: for _pending_sync
        self._initial = False  # PREPARING after EMPTY: waits for the delay, not for anybody
        self._initial_left_ms = 0  # by how much that delay may still be extended
        self._more_came = False  # a member joined during the delay
        self._state_ms = now_ms  # data time of the last change of state; -1 unknown
        self._stored = False  # there is a record of it
        self._effects: list[Effect] = []  # of the event in hand

    @classmethod
    def restore(
        cls, snapshot: GroupSnapshot, limits: GroupLimits, *, now: float, timeline: Timeline | None = None
    ) -> Self:
        """A group from its last record: STABLE, with everybody's session starting now (as Kafka does), or EMPTY.

        timeline: of the consumer group it was until now.
        """
        group = cls(snapshot.group_id, limits, now_ms=snapshot.state_timestamp_ms)
        if timeline is not None:
            group.timeline = timeline
        group.generation = snapshot.generation
        group.protocol_type = snapshot.protocol_type or None
        group._stored = True
        for each in snapshot.members:
            member = Member(each.member_id, each.group_instance_id, Client(each.client_id, each.client_host))
            member.rebalance_timeout_ms = each.rebalance_timeout_ms
            member.session_timeout_ms = each.session_timeout_ms
            member.assignment = each.assignment
            member.is_new = False
            group._roster.add(member, ((snapshot.protocol or "", each.subscription),))
            group._renew(member, now)
        if snapshot.members:
            group.state = STABLE
            group.protocol = snapshot.protocol
            if snapshot.leader in group._roster.members:
                group._roster.leader = snapshot.leader
            group._note_assignments(now)
        return group

    def rebalance(self, reason: str, now: float, now_ms: int) -> list[Effect]:
        """Have all members join again (an operator's wish, or a group that has changed its protocol)."""
        if self.state in (COMPLETING, STABLE):
            self._prepare(reason, now, now_ms)
        return self._take()

    def _rebalance_or_complete(self, reason: str, now: float, now_ms: int) -> None:
        if self.state is not PREPARING:
            self._prepare(reason, now, now_ms)
        else:
            self._complete_if_all_joined(now, now_ms)

    def _prepare(self, reason: str, now: float, now_ms: int) -> None:
        """Begin a rebalance: everybody is to join (again)."""
        if self.state is COMPLETING:
            self._give_up_generation(ErrorCode.REBALANCE_IN_PROGRESS, now)
        self._pending_sync.clear()
        self._initial = self.state is EMPTY
        self._more_came = False
        self._enter_state(PREPARING, now_ms)
        self.timeline.begin(reason, (m.member_id for m in self._roster if m.join_ticket is None), now, now_ms)
        timeout_ms = self._roster.rebalance_timeout_ms
        if self._initial:
            delay_ms = self.limits.initial_rebalance_delay_ms
            self._initial_left_ms = max(timeout_ms - delay_ms, 0)
            self._set_phase_end(now + delay_ms / 1000)
            if delay_ms <= 0:
                self._complete(now, now_ms)
        else:
            self._set_phase_end(now + timeout_ms / 1000)
            self._complete_if_all_joined(now, now_ms)

    def _complete_if_all_joined(self, now: float, now_ms: int) -> None:
        everybody = self._roster.awaiting_join == len(self._roster) and not self._pending
        if everybody and not self._initial:  # the first rebalance waits for its delay
            self._complete(now, now_ms)

    def _complete(self, now: float, now_ms: int) -> None:
        """Begin a generation of those who have joined. Static members that have not may still come: they stay."""
        roster = self._roster
        absent = [m for m in roster if m.join_ticket is None and m.group_instance_id is None]
        self._expel(absent, [f"did not rejoin within {m.rebalance_timeout_ms} ms: {OF_POLLS}" for m in absent], now)
        if len(roster) and not roster.elect_joined_leader():  # only absent static ones: their sessions decide
            self._set_phase_end(now + max(roster.rebalance_timeout_ms / 1000, POSTPONED_S_MIN))
            return
        self.timeline.joined((member.member_id for member in absent), now)
        self._initial = False
        self.generation += 1
        if len(roster):
            self._begin_generation(now, now_ms)
        else:
            self.protocol = None
            self._set_phase_end(None)
            self._enter_state(EMPTY, now_ms)
            self._store()
            self.timeline.end(self.generation, now)

    def _begin_generation(self, now: float, now_ms: int) -> None:
        roster = self._roster
        self.protocol = roster.select_protocol()
        self._enter_state(COMPLETING, now_ms)
        self._pending_sync.update(roster.members)
        self._set_phase_end(now + roster.rebalance_timeout_ms / 1000)
        for member in roster:
            ticket = roster.take_join(member)
            if ticket is not None:
                self._reply_generation(ticket, member)
            member.is_new = False
            self._renew(member, now)

    def _park(self, member: Member, ticket: Ticket, now: float) -> None:
        """Have a member wait for the rebalance."""
        before = self._roster.park(member, ticket)
        if before is not None:  # unlike Kafka: asked twice, answered twice
            self._reply_join(before, member.member_id, ErrorCode.REBALANCE_IN_PROGRESS)
        self.timeline.arrived(member.member_id, now)

    def _give_up_generation(self, code: ErrorCode, now: float) -> None:
        """The assignment will not come, or cannot be kept: those who wait for it are told."""
        for member in self._roster:
            member.assignment = b""
            self._answer_sync(member, code, now)

    def _initial_delay_over(self, now: float, now_ms: int) -> None:
        """The first rebalance waits for as long as members keep coming, bounded by the rebalance timeout (KIP-134)."""
        if self._more_came and self._initial_left_ms > 0:
            delay_ms = min(self.limits.initial_rebalance_delay_ms, self._initial_left_ms)
            self._more_came = False
            self._initial_left_ms -= delay_ms
            assert self._phase_end is not None
            self._set_phase_end(self._phase_end + delay_ms / 1000)
        else:
            self._complete(now, now_ms)

    # -- Assignments

    def _assign(self, assignments: Mapping[str, bytes], now: float, now_ms: int) -> None:
        """The leader's assignment: stored, then handed out. A member left out gets an empty one."""
        for member in self._roster:
            member.assignment = assignments.get(member.member_id, b"")
        if self._snapshot_bytes() > self.limits.snapshot_bytes_max:  # Kafka finds out when the log refuses the record
            self._give_up_generation(ErrorCode.UNKNOWN_SERVER_ERROR, now)
            self._prepare("the group is too large to be stored", now, now_ms)
            return
        self._enter_state(STABLE, now_ms)
        self._store()
        for member in self._roster:
            self._answer_sync(member, _OK, now)
        self._note_assignments(now)
        self.timeline.end(self.generation, now)

    def _snapshot_bytes(self) -> int:
        """The size of the record, to the safe side."""
        return sum(
            len(f"{each.member_id}{each.group_instance_id}{each.client.id}{each.client.host}".encode())
            + len(each.metadata(self.protocol))
            + len(each.assignment)
            + 32
            for each in self._roster
        )

    # -- The end of members, and of the group

    def _remove(self, member: Member, now: float) -> None:
        """A member is out. If it waits, it hears UNKNOWN_MEMBER_ID and may come as a new one."""
        self._answer(member, ErrorCode.UNKNOWN_MEMBER_ID)
        self._roster.remove(member)
        self.timeline.left(member.member_id, now)

    def _expel(self, members: Sequence[Member], reasons: Sequence[str], now: float) -> None:
        """Members are out, as they were too late."""
        for member in members:
            self._remove(member, now)
        if members:
            told = [(m.member_id, m.client, reason) for m, reason in zip(members, reasons, strict=True)]
            self._effects.append(Order(Expelled(told)))

    def _members_left(self, member_ids: Iterable[str], reason: str, now: float, now_ms: int) -> None:
        """These (or ids that were only pending, if none) are gone: a generation ends, a rebalance waits for fewer."""
        if self.state is PREPARING:
            self._complete_if_all_joined(now, now_ms)
        elif any(member_ids) and self.state in (COMPLETING, STABLE):
            self._prepare(reason, now, now_ms)

    def on_alarm(self, now: float, now_ms: int) -> list[Effect]:
        """Time has passed: end what has ended by now, and set `deadline` to what ends next. Never wrong to call."""
        while True:
            # A phase first, if it ended before; what happens then is dated now, so it cannot end something of the past.
            until = now if self._phase_end is None else min(now, self._phase_end)
            self._expire(until, now, now_ms)
            if self._phase_end is not None and self._phase_end <= now:
                self._end_phase(now, now_ms)
            elif until == now:
                break
        self.deadline = self._next_end()
        return self._take()

    def _expire(self, until: float, now: float, now_ms: int) -> None:
        """Remove the sessions and pending ids that ended by then."""
        for member_id in [each for each, end in self._pending.items() if end <= until]:
            del self._pending[member_id]
        silent = [member for member in self._roster if member.session_end <= until and not member.excused]
        self._expel(silent, [f"no heartbeat for {m.session_timeout_ms} ms: session.timeout.ms" for m in silent], now)
        names = [member.member_id for member in silent]
        self._members_left(names, f"{some(names)} fell silent", now, now_ms)

    def _end_phase(self, now: float, now_ms: int) -> None:
        if self.state is PREPARING:
            if self._initial:
                self._initial_delay_over(now, now_ms)
            else:
                self._complete(now, now_ms)
            return
        missing = [member for member in self._roster if member.member_id in self._pending_sync]
        self._set_phase_end(None)
        if missing:
            timeout_ms = self._roster.rebalance_timeout_ms
            self._expel(missing, [f"did not sync within {timeout_ms} ms: {OF_POLLS}"] * len(missing), now)
            self._prepare(f"{some([each.member_id for each in missing])} did not sync", now, now_ms)

    def _next_end(self) -> float | None:
        ends = [member.session_end for member in self._roster if not member.excused]
        ends += self._pending.values()
        if self._phase_end is not None:
            ends.append(self._phase_end)
        return min(ends, default=None)

    def check_delete(self) -> None:
        """Whether it can be deleted. Raises KafkaError: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP."""
        if self.state is DEAD:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        if self.state is not EMPTY:
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP)

    def delete(self, now_ms: int) -> list[Effect]:
        """The group is DEAD, its record a tombstone; its offsets are the caller's. Raises as check_delete."""
        self.check_delete()
        self._die(now_ms)
        return [Store((GroupTombstone(self.group_id),))]

    def resign(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> list[Effect]:
        """The shard goes away: everybody who waits hears code. Nothing is stored: the log says all that is to stay."""
        for member in list(self._roster):
            self._answer(member, code)
            self._roster.remove(member)
        self._die(self._state_ms)
        return self._take()

    def _die(self, now_ms: int) -> None:
        self._pending.clear()
        self._pending_sync.clear()
        self._phase_end = self.deadline = None
        self._enter_state(DEAD, now_ms)

    # -- What is stored

    def snapshot(self) -> GroupSnapshot:
        """The group as a record: what _store writes; what a conversion to KIP-848 needs."""
        return GroupSnapshot(
            group_id=self.group_id,
            protocol_type=self.protocol_type,
            generation=self.generation,
            protocol=self.protocol,
            leader=self._roster.leader,
            state_timestamp_ms=self._state_ms,
            members=tuple(member.snapshot(self.protocol) for member in self._roster),
        )

    def _store(self) -> None:
        self._stored = True
        self._effects.append(Store((self.snapshot(),)))

    # -- Answers

    def _take(self) -> list[Effect]:
        """The effects of the event that ends here."""
        effects, self._effects = self._effects, []
        return effects

    def _reply_join(self, ticket: Ticket, member_id: str, code: ErrorCode) -> None:
        self._effects.append(Reply(ticket, JoinGroupResponse(error_code=code, member_id=member_id)))

    def _reply_generation(
        self, ticket: Ticket, member: Member, *, leader: str | None = None, skip_assignment: bool = False
    ) -> None:
        """The generation, as a member that joined hears of it; members are for the leader's eyes.

        leader: who is said to lead, if not who does. Another one than the member's, so that it does not assign.
        """
        leader = self._roster.leader if leader is None else leader
        members = []
        if leader == member.member_id:
            members = [
                JoinGroupResponseMember(
                    member_id=each.member_id,
                    group_instance_id=each.group_instance_id,
                    metadata=each.metadata(self.protocol),
                )
                for each in self._roster
            ]
        response = JoinGroupResponse(
            generation_id=self.generation,
            protocol_type=self.protocol_type,
            protocol_name=self.protocol,
            leader=leader or "",
            skip_assignment=skip_assignment,
            member_id=member.member_id,
            members=members,
        )
        self._effects.append(Reply(ticket, response))

    def _reply_assignment(self, ticket: Ticket, member: Member) -> None:
        response = SyncGroupResponse(
            protocol_type=self.protocol_type, protocol_name=self.protocol, assignment=member.assignment
        )
        self._effects.append(Reply(ticket, response))

    def _answer_sync(self, member: Member, code: ErrorCode, now: float) -> None:
        """Answer a member that waits in SyncGroup, if it does: it is heard of again from now on."""
        ticket, member.sync_ticket = member.sync_ticket, None
        if ticket is None:
            return
        if code is _OK:
            self._reply_assignment(ticket, member)
        else:
            self._effects.append(Reply(ticket, SyncGroupResponse(error_code=code)))
        self._renew(member, now)

    def _answer(self, member: Member, code: ErrorCode) -> None:
        """Refuse a member whatever it waits for."""
        ticket = self._roster.take_join(member)
        if ticket is not None:
            member_id = "" if code is ErrorCode.UNKNOWN_MEMBER_ID else member.member_id
            self._reply_join(ticket, member_id, code)
        ticket, member.sync_ticket = member.sync_ticket, None
        if ticket is not None:
            self._effects.append(Reply(ticket, SyncGroupResponse(error_code=code)))

    # -- Time, states, ownership

    def _arm(self, end: float) -> None:
        """Something ends then: the alarm must not come later."""
        if self.deadline is None or end < self.deadline:
            self.deadline = end

    def _set_phase_end(self, end: float | None) -> None:
        self._phase_end = end
        if end is not None:
            self._arm(end)

    def _renew(self, member: Member, now: float) -> None:
        """A member was heard of."""
        if not member.is_new:
            member.session_end = now + member.session_timeout_ms / 1000
            self._arm(member.session_end)

    def _enter_state(self, state: GroupState, now_ms: int) -> None:
        self.state = state
        self._state_ms = now_ms

    def _note_kept(self, member: Member, now: float) -> None:
        """For the timeline: a consumer that joins again has given up all but what it says it owns (KIP-429)."""
        if self.protocol_type == PROTOCOL_TYPE:
            subscription = read_subscription(member.protocols[0][1])
            self.timeline.kept(member.member_id, pairs(subscription.owned_partitions) if subscription else (), now)

    def _note_assignments(self, now: float) -> None:
        """For the timeline: who owns what from now on."""
        if self.protocol_type == PROTOCOL_TYPE:
            partitions = {each.member_id: read_assignment(each.assignment) or () for each in self._roster}
            self.timeline.assigned(partitions, now)


def some(names: list[str]) -> str:
    """Names for a reason: a few, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
