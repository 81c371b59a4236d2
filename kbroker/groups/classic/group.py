"""ClassicGroup, the classic consumer group, as a pure state machine: requests and alarms in, effects out.

                  join                          everybody has come, or the time is up
        EMPTY ───────────▶ PREPARING_REBALANCE ───────────────────────────────────────▶ COMPLETING_REBALANCE
          ▲                  ▲     │    ▲ join, leave, expiry; members not syncing in time       │ the leader's
          └──────────────────│─────┘    └────────────────────────────────────────────────────────┤ assignment
            nobody is left   │            join (leader, or new metadata), leave, expiry          ▼
                             └──────────────────────────────────────────────────────────────── STABLE
        DEAD: deleted, or its shard went away. From any state; every event is refused with COORDINATOR_NOT_AVAILABLE.

A generation begins when PREPARING completes, and is stored when its leader's assignment arrives, before anyone is told
(G2). Every waiting request ends (G6): a JoinGroup with the rebalance timeout, a SyncGroup with the same time for the
leader to assign. Behaviour and codes are those of Kafka 4.3's GroupMetadataManager and ClassicGroup; where a comment
says "unlike Kafka", a request would otherwise never be answered, or memory not be bounded.

`now` is liveness time in seconds, `now_ms` data time. A session costs no timer: a heartbeat only moves the end of its
member's; `deadline` is the earliest end anybody knew of, and on_alarm, when it has passed, finds the true one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest, DescribedConsumerGroup
from kafka_wire.messages.group_admin import DescribedGroup, DescribedGroupMember, ListedGroup
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    MemberResponse,
    SyncGroupRequest,
    SyncGroupResponse,
)
from kbroker.coordinators.effects import Effect, Reply, Ticket
from kbroker.groups.classic.members import Member, Protocols, protocols_bytes, protocols_of
from kbroker.groups.classic.rebalance import GroupState, RebalancingGroup, some
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, read_subscription
from kbroker.groups.group import Client, Committer, Topics
from kbroker.groups.settings import Settings
from kbroker.turns import Work, each

REQUIRES_MEMBER_ID_SINCE = 4  # JoinGroup version (KIP-394)
SKIP_ASSIGNMENT_SINCE = 9  # JoinGroup version (KIP-814)
LEAVE_MANY_SINCE = 3  # LeaveGroup version (KIP-345)
FIRST_JOIN_S_MAX = 300.0  # a first JoinGroup that waits longer is answered UNKNOWN_MEMBER_ID: its client may be gone
PENDING_MAX = 10_000  # ids given out and not yet used, where group.max.size allows as many
PROTOCOLS_MAX = 1_000  # that one member offers
PROTOCOLS_FACTOR = 4  # members' offers may hold this many times what the record of the group may

_OK = ErrorCode.NONE
_NONE_STALE: frozenset[tuple[str, int]] = frozenset()


class ClassicGroup(RebalancingGroup):
    """One classic group. Its shell calls one event at a time and performs the effects in the order returned."""

    __slots__ = ()

    replaced_by = None  # a classic group is turned by who joins it (consumer/migration.py), not by itself
    gives_way = False

    # -- JoinGroup

    def join(
        self,
        ticket: Ticket,
        request: JoinGroupRequest,
        *,
        version: int,
        client: Client,
        token: str,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """JoinGroup. The answer, a JoinGroupResponse, may wait for the rebalance.

        Args:
            ticket: the request.
            version: of JoinGroup; from 4 on a dynamic member must come back with the id it is given (KIP-394).
            client: who asks.
            token: random text (a UUID): a new member's id is "<instance id, or else client id>-<token>".
        """
        code = self._check_join(request)
        if code is not _OK:
            self._reply_join(ticket, request.member_id, code)
            return self._take()
        protocols = protocols_of(request)
        if not self._has_room(request.member_id, protocols):
            self._refuse_for_size(ticket, request.member_id, now, now_ms)
        elif not self._supports(request.protocol_type, protocols):
            self._reply_join(ticket, request.member_id, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        elif request.member_id:
            self._join_again(ticket, request, protocols, client, now, now_ms)
        elif request.group_instance_id in self._roster.static:
            self._join_replacing(ticket, request, protocols, client, token, version, now, now_ms)
        elif request.group_instance_id is not None:
            self._enter(ticket, request, f"{request.group_instance_id}-{token}", protocols, client, now, now_ms)
        elif version >= REQUIRES_MEMBER_ID_SINCE:
            self._give_id(ticket, f"{client.id}-{token}", request.session_timeout_ms, now)
        else:
            self._enter(ticket, request, f"{client.id}-{token}", protocols, client, now, now_ms)
        return self._take()

    def _check_join(self, request: JoinGroupRequest) -> ErrorCode:
        if self.state is GroupState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if len(request.protocols) > PROTOCOLS_MAX:  # unlike Kafka, which has no bound
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        limits = self.limits
        if not limits.session_timeout_min_ms <= request.session_timeout_ms <= limits.session_timeout_max_ms:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        return _OK

    def _has_room(self, member_id: str, protocols: Protocols) -> bool:
        """Whether the group may have this member and its offers (group.max.size, KIP-389).

        While PREPARING those who wait are counted, so that there is no room for the last to come. Static members that
        do not come stay for a while; unlike in Kafka their number is bounded.
        """
        member = self._roster.members.get(member_id)
        bytes_held = self._roster.bytes_held - (0 if member is None else protocols_bytes(member.protocols))
        if bytes_held + protocols_bytes(protocols) > PROTOCOLS_FACTOR * self.limits.snapshot_bytes_max:  # unlike Kafka
            return False
        if self.state is GroupState.EMPTY:
            return True
        if self.state is GroupState.PREPARING_REBALANCE:
            if member is not None and member.join_ticket is not None:
                return True
            fits = member is not None or len(self._roster) < 2 * self.limits.size_max
            return fits and self._roster.awaiting_join < self.limits.size_max
        return member is not None or len(self._roster) < self.limits.size_max

    def _refuse_for_size(self, ticket: Ticket, member_id: str, now: float, now_ms: int) -> None:
        self._pending.pop(member_id, None)
        member = self._roster.members.get(member_id)
        if member is not None:
            self._remove(member, now)
            self._members_left([member_id], f"no room for {member_id}", now, now_ms)
        self._reply_join(ticket, "", ErrorCode.GROUP_MAX_SIZE_REACHED)

    def _supports(self, protocol_type: str, protocols: Protocols) -> bool:
        if not len(self._roster):  # EMPTY; or PREPARING, and everybody has left since
            return bool(protocol_type) and bool(protocols)
        return protocol_type == self.protocol_type and self._roster.supports(protocols)

    def _give_id(self, ticket: Ticket, member_id: str, session_timeout_ms: int, now: float) -> None:
        """A dynamic member learns its id before it counts: one that never hears of it leaves nothing (KIP-394)."""
        if len(self._pending) >= min(self.limits.size_max, PENDING_MAX):  # unlike Kafka: a storm of them is bounded
            del self._pending[next(iter(self._pending))]
        self._pending[member_id] = end = now + session_timeout_ms / 1000
        self._arm(end)
        self._reply_join(ticket, member_id, ErrorCode.MEMBER_ID_REQUIRED)

    def _enter(
        self,
        ticket: Ticket,
        request: JoinGroupRequest,
        member_id: str,
        protocols: Protocols,
        client: Client,
        now: float,
        now_ms: int,
    ) -> None:
        """A new member."""
        self._pending.pop(member_id, None)
        if not len(self._roster):
            self.protocol_type = request.protocol_type
        member = Member(member_id, request.group_instance_id, client)
        self._roster.add(member, protocols)
        self._set_timeouts(member, request)
        self._more_came = self._initial
        member.session_end = now + FIRST_JOIN_S_MAX  # it has no id to send heartbeats with
        self._arm(member.session_end)
        self._park(member, ticket, now)
        self._rebalance_or_complete(f"{member_id} joined", now, now_ms)

    def _join_again(
        self, ticket: Ticket, request: JoinGroupRequest, protocols: Protocols, client: Client, now: float, now_ms: int
    ) -> None:
        """A member, or one that was given its id, joins with it."""
        member_id = request.member_id
        if member_id in self._pending and request.group_instance_id is None:
            self._enter(ticket, request, member_id, protocols, client, now, now_ms)
            return
        code = self._roster.fence(member_id, request.group_instance_id)
        if code is not _OK:
            self._reply_join(ticket, member_id, code)
            return
        member = self._roster.members[member_id]
        leads = member_id == self._roster.leader
        changed = member.protocols != protocols
        if self.state is GroupState.STABLE:  # a leader that joins wants a rebalance, for what it alone sees: partitions
            changed = changed or leads
        if self.state is not GroupState.PREPARING_REBALANCE and not changed:  # perhaps the last answer was lost
            self._renew(member, now)
            self._reply_generation(ticket, member)
            return
        self._update(member, request, protocols)
        self._park(member, ticket, now)
        self._note_kept(member, now)
        self._rebalance_or_complete(f"{member_id} joined again", now, now_ms)

    def _join_replacing(
        self,
        ticket: Ticket,
        request: JoinGroupRequest,
        protocols: Protocols,
        client: Client,
        token: str,
        version: int,
        now: float,
        now_ms: int,
    ) -> None:
        """A static member without its id: it has been restarted. It gets a new id and its old place (KIP-345, G4)."""
        assert request.group_instance_id is not None
        roster = self._roster
        leader_before = roster.leader
        member = roster.members[roster.static[request.group_instance_id]]
        old_id = member.member_id
        self._answer(member, ErrorCode.FENCED_INSTANCE_ID)
        roster.rename(member, f"{request.group_instance_id}-{token}")
        self.timeline.renamed(old_id, member.member_id)
        if old_id in self._pending_sync:
            self._pending_sync.discard(old_id)
            self._pending_sync.add(member.member_id)
        member.client = client
        member.is_new = False
        self._update(member, request, protocols)
        self._renew(member, now)
        if self.state is GroupState.STABLE and roster.select_protocol() == self.protocol:
            self._store()
            if version >= SKIP_ASSIGNMENT_SINCE:
                leads = member.member_id == roster.leader
                self._reply_generation(ticket, member, skip_assignment=leads)
            else:  # told that its old self leads, it does not assign: the group keeps its assignments
                self._reply_generation(ticket, member, leader=leader_before)
            return
        # Not STABLE: the leader may already assign to the old id. Or its protocols no longer fit the group's.
        self._park(member, ticket, now)
        self._note_kept(member, now)
        self._rebalance_or_complete(f"static member {request.group_instance_id} came back", now, now_ms)

    def _set_timeouts(self, member: Member, request: JoinGroupRequest) -> None:
        member.session_timeout_ms = request.session_timeout_ms
        rebalance_timeout_ms = request.rebalance_timeout_ms
        member.rebalance_timeout_ms = request.session_timeout_ms if rebalance_timeout_ms < 0 else rebalance_timeout_ms

    def _update(self, member: Member, request: JoinGroupRequest, protocols: Protocols) -> None:
        self._roster.revote(member, protocols)
        self._set_timeouts(member, request)

    # -- SyncGroup

    def sync(
        self, ticket: Ticket, request: SyncGroupRequest, assignments: Mapping[str, bytes], *, now: float, now_ms: int
    ) -> list[Effect]:
        """SyncGroup. The answer, a SyncGroupResponse, waits for the leader's; that one for the record of the group."""
        code = self._check_sync(request)
        if code is not _OK:
            self._effects.append(Reply(ticket, SyncGroupResponse(error_code=code)))
            return self._take()
        member = self._roster.members[request.member_id]
        self._pending_sync.discard(member.member_id)
        if self.state is GroupState.STABLE:
            self._renew(member, now)
            self._reply_assignment(ticket, member)
            return self._take()
        before, member.sync_ticket = member.sync_ticket, ticket
        if before is not None:  # unlike Kafka: asked twice, answered twice
            self._effects.append(Reply(before, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS)))
        if member.member_id == self._roster.leader:
            self._assign(assignments, now, now_ms)
        return self._take()

    def _check_sync(self, request: SyncGroupRequest) -> ErrorCode:
        if self.state is GroupState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        code = self._roster.fence(request.member_id, request.group_instance_id)
        if code is not _OK:
            return code
        if request.generation_id != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if request.protocol_type is not None and request.protocol_type != self.protocol_type:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if request.protocol_name is not None and request.protocol_name != self.protocol:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is GroupState.PREPARING_REBALANCE else _OK

    # -- Heartbeat, LeaveGroup, commits

    def heartbeat(self, member_id: str, group_instance_id: str | None, generation: int, now: float) -> ErrorCode:
        """Heartbeat: answered at once, REBALANCE_IN_PROGRESS while members are to join. The hottest event."""
        member = self._roster.members.get(member_id)
        if member is None or member.group_instance_id != group_instance_id:
            if self.state is GroupState.DEAD:
                return ErrorCode.COORDINATOR_NOT_AVAILABLE
            code = self._roster.fence(member_id, group_instance_id)
            if code is not _OK or member is None:
                return code
        if generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if not member.is_new:
            member.session_end = now + member.session_timeout_ms / 1000  # never sooner than what deadline knows
        return ErrorCode.REBALANCE_IN_PROGRESS if self.state is GroupState.PREPARING_REBALANCE else _OK

    def leave(
        self, ticket: Ticket, request: LeaveGroupRequest, *, version: int, now: float, now_ms: int
    ) -> list[Effect]:
        """LeaveGroup: one member up to version 2; then several with a code each, by member or instance id (KIP-345)."""
        if self.state is GroupState.DEAD:
            response = LeaveGroupResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)
            return [Reply(ticket, response)]
        many = version >= LEAVE_MANY_SINCE
        identities = request.members if many else [MemberIdentity(member_id=request.member_id)]
        left: list[str] = []
        answers = [
            MemberResponse(
                member_id=each.member_id,
                group_instance_id=each.group_instance_id,
                error_code=self._leave_one(each, left, now),
            )
            for each in identities
        ]
        self._members_left(left, f"{some(left)} left", now, now_ms)
        response = LeaveGroupResponse(members=answers) if many else LeaveGroupResponse(error_code=answers[0].error_code)
        self._effects.append(Reply(ticket, response))
        return self._take()

    def _leave_one(self, identity: MemberIdentity, left: list[str], now: float) -> ErrorCode:
        member_id = identity.member_id
        if not member_id and identity.group_instance_id is not None:  # an operator removes a static member
            member_id = self._roster.static.get(identity.group_instance_id, "")
        if self._pending.pop(member_id, None) is not None:
            return _OK
        code = self._roster.fence(member_id, identity.group_instance_id)
        if code is _OK:
            self._remove(self._roster.members[member_id], now)
            left.append(member_id)
        return code

    def consumer_heartbeat(
        self,
        ticket: Ticket,
        request: ConsumerGroupHeartbeatRequest,
        *,
        version: int,
        client: Client,
        token: str,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """ConsumerGroupHeartbeat of somebody who does not join. Raises KafkaError GROUP_ID_NOT_FOUND."""
        raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Consumer group {self.group_id} not found.")

    # -- Commits and fetches of offsets

    def check_commit(
        self, committer: Committer, partitions: Mapping[str, Collection[int]], *, now: float
    ) -> frozenset[tuple[str, int]]:
        """Whether these may commit offsets; a member's commit counts as a heartbeat.

        Without a generation (-1) anybody may while the group is empty: simple consumers, administrators.

        Raises KafkaError: COORDINATOR_NOT_AVAILABLE, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, or
        REBALANCE_IN_PROGRESS between JoinGroup and SyncGroup.
        """
        member_id, group_instance_id, generation, _, transactional = committer
        if self.state is GroupState.DEAD:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        if generation < 0 and self.state is GroupState.EMPTY:
            return _NONE_STALE
        if generation >= 0 or member_id or group_instance_id is not None:
            code = self._roster.fence(member_id, group_instance_id)
            if code is not _OK:
                raise KafkaError(code)
            if generation != self.generation:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
            self._renew(self._roster.members[member_id], now)
        elif not transactional:  # TxnOffsetCommit knows neither before version 3 (KIP-447)
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        if self.state is GroupState.COMPLETING_REBALANCE and not transactional:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        return _NONE_STALE

    def check_fetch(self, member_id: str | None, epoch: int) -> None:
        """Anybody may read a classic group's offsets."""

    # -- What changes around it

    def see_topics(self, topics: Topics, now: float, now_ms: int) -> list[Effect]:
        """Which topics there are is for the leader to see."""
        return []

    def on_configs_changed(self, settings: Settings) -> None:
        """The configs are others."""
        self.limits = settings.classic

    # -- Seen from outside

    def describe_classic(self) -> Work[DescribedGroup]:
        """DescribeGroups: metadata and assignments are shown while they hold, that is when STABLE."""
        stable = self.state is GroupState.STABLE
        described = DescribedGroup(
            group_id=self.group_id,
            group_state=self.state.value,
            protocol_type=self.protocol_type or "",
            protocol_data=(self.protocol or "") if stable else "",
        )
        described.members = yield from each(partial(self._describe_member, stable), list(self._roster))
        return described

    def _describe_member(self, stable: bool, member: Member) -> DescribedGroupMember:
        return DescribedGroupMember(
            member_id=member.member_id,
            group_instance_id=member.group_instance_id,
            client_id=member.client.id,
            client_host=member.client.host,
            member_metadata=member.metadata(self.protocol) if stable else b"",
            member_assignment=member.assignment if stable else b"",
        )

    def describe_consumer(self) -> Work[DescribedConsumerGroup]:
        """ConsumerGroupDescribe knows no classic groups."""
        text = f"Group {self.group_id} is not a consumer group."
        yield from ()
        return DescribedConsumerGroup(
            group_id=self.group_id, error_code=ErrorCode.GROUP_ID_NOT_FOUND, error_message=text
        )

    def listing(self) -> ListedGroup:
        """ListGroups."""
        return ListedGroup(
            group_id=self.group_id,
            protocol_type=self.protocol_type or "",
            group_state=self.state.value,
            group_type="classic",
        )

    def check_offset_delete(self) -> frozenset[str]:
        """The topics whose offsets OffsetDelete must leave alone (GROUP_SUBSCRIBED_TO_TOPIC, KIP-496).

        Raises KafkaError: GROUP_ID_NOT_FOUND when DEAD, NON_EMPTY_GROUP when it has members that are not consumers.
        """
        if self.state is GroupState.DEAD:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        if self.state is GroupState.EMPTY:
            return frozenset()
        if self.protocol_type != PROTOCOL_TYPE:
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP)
        subscriptions = (read_subscription(metadata) for each in self._roster for _, metadata in each.protocols)
        return frozenset(topic for each in subscriptions if each is not None for topic in each.topics)

    @property
    def size(self) -> int:
        """How many members it has."""
        return len(self._roster)

    @property
    def empty_since_ms(self) -> int | None:
        """Data time since when nobody is here: from then on its offsets age. None: somebody is, they do not (G5).

        0 when that is not known, or nobody ever was: offsets age by their own commit's time.
        """
        if self.state is not GroupState.EMPTY or self._pending:
            return None
        return 0 if self.protocol_type is None else max(self._state_ms, 0)

    @property
    def forgettable(self) -> bool:
        """Nothing of it is stored and nobody is coming: without offsets, the shell need not keep it."""
        return self.state is GroupState.EMPTY and not self._stored and not self._pending
