"""ConsumerGroup, a group whose assignment the broker computes (KIP-848), as a pure state machine.

    EMPTY ──join──▶ ASSIGNING ──target computed──▶ RECONCILING ──all members have what they should──▶ STABLE
                       ▲                                                                                │
                       └── join, leave, expiry, other subscription, other topics: group epoch + 1 ──────┘

A member heartbeats; each heartbeat may take it one step towards its target, and disturbs nobody else: a partition that
stays with its owner is never taken, one that moves is first given up, then acknowledged, then given to the next.
Members that still speak the classic protocol are served too (classic_members.py); classic groups become consumer groups
and back (migration.py). The state and its moves are in core.py, a member's step is in reconciliation.py.

`now` is liveness time in seconds, `now_ms` data time. `deadline` is the earliest end anybody knew of, and on_alarm,
when it has passed, finds the true one. Behaviour and codes are those of Kafka 4.3's GroupMetadataManager and
ConsumerGroup; "unlike Kafka" marks the differences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupAssignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatTopicPartitions,
    DescribedConsumerGroup,
)
from kafka_wire.messages.group_admin import DescribedGroup, ListedGroup
from kafka_wire.messages.groups import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from kbroker.coordinators.effects import Compute, Effect, Order, Reply, StateRecord, Ticket
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.consumer import classic_members, migration, store
from kbroker.groups.consumer.checks import (
    check_fresh,
    check_heartbeat,
    check_instance,
    check_regex,
    check_released,
    check_size,
    is_full,
    reported_by,
)
from kbroker.groups.consumer.core import Core
from kbroker.groups.consumer.member import LEAVING_STATIC, ConsumerMember, MemberState, Owned
from kbroker.groups.consumer.reconciliation import LONG_TOPICS
from kbroker.groups.group import MEMBER_EPOCH_SINCE, Client, Committer, Expelled, Topics
from kbroker.groups.settings import ConsumerGroupLimits, Settings
from kbroker.groups.storage.snapshots import GroupSnapshot
from kbroker.groups.timeline import Timeline
from kbroker.turns import Work, at_once, each


class ConsumerGroup:
    """One consumer group. Its shell calls one event at a time and performs the effects in the order returned.

    When `replaced_by` is set after an event, the group was turned back into that classic group: its shard performs the
    effects (which store it), makes `ClassicGroup.restore(replaced_by, ...)`, calls its `rebalance("downgrade", ...)`,
    and drops this one.
    """

    __slots__ = ("_core",)

    def __init__(self, group_id: str, limits: ConsumerGroupLimits, topics: Topics) -> None:
        """A new group, at epoch 1. Nothing of it is stored before it has had members.

        Args:
            topics: all topics of the cluster, name -> (topic id, partitions); see see_topics.
        """
        self._core = Core(group_id, limits, topics)

    @classmethod
    def restore(
        cls, group_id: str, records: Iterable[StateRecord], limits: ConsumerGroupLimits, topics: Topics, *, now: float
    ) -> ConsumerGroup:
        """A group from its records, in the order of the log or the last ones of each key; tombstones are allowed.

        Everybody's session starts now, as in Kafka, and so does the time of those who have something to revoke. If the
        topics are others than stored, the next heartbeat finds out.
        """
        group = cls(group_id, limits, topics)
        store.restore(group._core, records, now)
        return group

    @classmethod
    def from_classic(
        cls, classic: ClassicGroup, limits: ConsumerGroupLimits, topics: Topics, *, now: float
    ) -> tuple[ConsumerGroup, list[Effect]]:
        """A classic group becomes this one, because a member of the consumer protocol wants to join. Its
        `consumer_heartbeat` is the next event. The effects come first: who waits in the classic group is told to join
        again.

        Raises KafkaError GROUP_ID_NOT_FOUND when it may not (migration.check_upgrade); nothing has changed then.
        """
        snapshot = classic.snapshot()
        migration.check_upgrade(snapshot, limits)
        group = cls.__new__(cls)
        group._core = migration.from_classic(snapshot, limits, topics, now)
        group._core.timeline = classic.timeline
        return group, [*classic.resign(ErrorCode.REBALANCE_IN_PROGRESS), *group._core.take()]

    # -- what the shell looks at

    @property
    def group_id(self) -> str:
        """Its name."""
        return self._core.group_id

    @property
    def deadline(self) -> float | None:
        """Liveness seconds; when on_alarm may have something to do."""
        return self._core.deadline

    @property
    def size(self) -> int:
        """How many members it has."""
        return len(self._core.members)

    @property
    def timeline(self) -> Timeline:
        """Its last rebalances; a "generation" there is a group epoch here."""
        return self._core.timeline

    @property
    def replaced_by(self) -> GroupSnapshot | None:
        """The classic group it was turned back into."""
        return self._core.replaced_by

    @property
    def epoch(self) -> int:
        """The group epoch."""
        return self._core.epoch

    @property
    def is_empty(self) -> bool:
        """Whether it has no members."""
        return not self._core.members

    @property
    def is_computing(self) -> bool:
        """Whether regular expressions are being resolved, or a target is being computed, in turns."""
        return self._core.is_computing

    @property
    def gives_way(self) -> bool:
        """Without members, a classic JoinGroup may take the name over (`delete`, then a new group)."""
        return self.is_empty

    @property
    def forgettable(self) -> bool:
        """Nothing of it is stored: without offsets, the shell need not keep it."""
        return self.is_empty and not self._core.stored

    @property
    def empty_since_ms(self) -> int | None:
        """None while it has members, else 0: when it lost the last one is not stored, in Kafka neither."""
        return 0 if self.is_empty else None

    @property
    def limits(self) -> ConsumerGroupLimits:
        """What the configs say."""
        return self._core.limits

    def on_configs_changed(self, settings: Settings) -> None:
        """The configs are others."""
        self._core.limits = settings.consumer

    # -- ConsumerGroupHeartbeat

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
        """ConsumerGroupHeartbeat: join (epoch 0), leave (-1, or -2 static, for a while), or go on. Answered at once,
        but for a member that is given thousands of topics.

        The caller makes the group for epoch 0 only (of a classic one: `from_classic`); any other epoch for a group that
        does not exist, or is classic, is GROUP_ID_NOT_FOUND.

        Args:
            ticket: the request; its answer is a ConsumerGroupHeartbeatResponse, errors included.
            version: of ConsumerGroupHeartbeat. In 0 a member may come without an id.
            token: a random UUID in Kafka's text form, the id of such a member.
        """
        try:
            reply = self._heartbeat(ticket, request, version, client, token, now, now_ms)
        except KafkaError as error:
            failed = ConsumerGroupHeartbeatResponse(error_code=error.code, error_message=error.message)
            reply = Reply(ticket, failed)
        return self._core.take(*([reply] if reply else []))

    def _heartbeat(
        self,
        ticket: Ticket,
        request: ConsumerGroupHeartbeatRequest,
        version: int,
        client: Client,
        token: str,
        now: float,
        now_ms: int,
    ) -> Effect | None:
        """None: it is answered later."""
        core = self._core
        check_heartbeat(request, version, core.limits.assignors)
        if request.member_epoch < 0:
            return Reply(ticket, self._leave(request, now, now_ms))
        member, is_new = self._member_of(request, token, now)
        if not is_new:
            check_regex(request)
        core.verify_topics(now, now_ms)
        changed = self._listen(member, request, client, is_new, now)
        if changed:
            core.bump(f"{member.member_id} {'joined' if is_new else 'changed its subscription'}", now, now_ms)
        core.compute_target(now, now_ms)
        core.renew(member, now)

        def reply(moved: bool) -> Effect:
            return self._answer(ticket, member, with_assignment=moved or is_full(request))

        return core.reconcile_in_turns(member, reported_by(request), reply, now)

    def _answer(self, ticket: Ticket, member: ConsumerMember, *, with_assignment: bool) -> Effect:
        """What a member is told; very many topics are written down in turns."""
        core = self._core
        if core.members.get(member.member_id) is not member:
            text = f"Member {member.member_id} is not a member of group {core.group_id}."
            code = ErrorCode.UNKNOWN_MEMBER_ID
            return Reply(ticket, ConsumerGroupHeartbeatResponse(error_code=code, error_message=text))
        response = ConsumerGroupHeartbeatResponse(
            member_id=member.member_id,
            member_epoch=member.epoch,
            heartbeat_interval_ms=core.limits.heartbeat_interval_ms,
        )
        if not with_assignment:
            return Reply(ticket, response)
        work = _assignment(member.assigned)
        if len(member.assigned) > LONG_TOPICS:
            return Compute(work, partial(_assigned, ticket, response))
        response.assignment = at_once(work)
        return Reply(ticket, response)

    def _member_of(self, request: ConsumerGroupHeartbeatRequest, token: str, now: float) -> tuple[ConsumerMember, bool]:
        """Who this is, and whether it is new. Checks all there is to check before anything changes."""
        core, joining = self._core, request.member_epoch == 0
        member_id = request.member_id or token
        member = core.members.get(member_id)
        instance_id = request.instance_id
        if instance_id is not None:
            holder = core.members.get(core.static.get(instance_id, ""))
            if joining and holder is not None and holder is not member:
                check_released(holder, member_id)
                if member is not None:
                    raise KafkaError(ErrorCode.INVALID_REQUEST, f"Member {member_id} has another instance id.")
                return core.replace(holder, member_id, now), False
            if not joining:
                check_instance(core, instance_id, member_id)
        if member is not None:
            if not joining:
                check_fresh(member, request)
            elif member.epoch == LEAVING_STATIC:
                member.epoch, member.previous_epoch = 0, 0
            return member, False
        if not joining:
            raise KafkaError(
                ErrorCode.UNKNOWN_MEMBER_ID, f"Member {member_id} is not a member of group {core.group_id}."
            )
        check_size(core)
        return ConsumerMember(member_id), True

    def _listen(
        self, member: ConsumerMember, request: ConsumerGroupHeartbeatRequest, client: Client, is_new: bool, now: float
    ) -> bool:
        """Take in what the member says of itself; null is "as before". Whether that needs a new group epoch."""
        core = self._core
        if not is_new and client == member.client and member.classic is None and _says_nothing(member, request):
            return False
        before = None if is_new else member.member_snapshot(core.group_id)
        member.client = client
        if member.classic is not None:
            member.classic = member.rebalance_end = None
            if member.state is MemberState.UNREVOKED_PARTITIONS:
                core.expect(member, now)
        if request.instance_id is not None:
            member.instance_id = request.instance_id
        if request.rack_id is not None:
            member.rack_id = request.rack_id
        if request.rebalance_timeout_ms != -1:
            member.rebalance_timeout_ms = request.rebalance_timeout_ms
        if request.subscribed_topic_names is not None:
            member.topics = core.shared(frozenset(request.subscribed_topic_names))
        if request.subscribed_topic_regex is not None:
            member.regex = request.subscribed_topic_regex or None
        if request.server_assignor is not None:
            member.server_assignor = request.server_assignor
        return core.describe(before, member)

    def _leave(self, request: ConsumerGroupHeartbeatRequest, now: float, now_ms: int) -> ConsumerGroupHeartbeatResponse:
        core = self._core
        if request.instance_id is not None:
            check_instance(core, request.instance_id, request.member_id)
        member = core.members.get(request.member_id)
        if member is None:
            text = f"Member {request.member_id} is not a member of group {core.group_id}."
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, text)
        if request.member_epoch == LEAVING_STATIC:
            core.step_out(member, now)
        else:
            migration.remove(core, [member], f"{member.member_id} left", now, now_ms)
        return ConsumerGroupHeartbeatResponse(member_id=request.member_id, member_epoch=request.member_epoch)

    # -- time and topics

    def on_alarm(self, now: float, now_ms: int) -> list[Effect]:
        """Time has passed: remove the silent, and those who did not revoke (join, sync) in time. Never wrong."""
        core = self._core
        late = core.expired(now, lambda m: m.session_end <= now or (m.rebalance_end or now + 1) <= now)
        if late:
            names = ", ".join(member.member_id for member in late[:3]) + ("…" if len(late) > 3 else "")
            told = [(member.member_id, member.client, _lateness(core, member, now)) for member in late]
            migration.remove(core, late, f"{names} did not answer in time", now, now_ms)
        if core.waiting and core.members and core.replaced_by is None:
            core.compute_target(now, now_ms)
        return core.take(Order(Expelled(told))) if late else core.take()

    def see_topics(self, topics: Topics, now: float, now_ms: int) -> list[Effect]:
        """Topics were made, deleted, or have more partitions: a new group epoch if that concerns a subscription.

        It is found out when a member is next heard of, as in Kafka: that costs nothing for groups nobody is in.
        """
        if topics is not self._core.topics:
            self._core.set_topics(topics, now, now_ms)
        return self._core.take()

    def resign(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> list[Effect]:
        """The shard goes away. Nobody waits in a consumer group, so there is nobody to tell."""
        self._core.abandon()
        return []

    # -- members that speak the classic protocol

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
        """JoinGroup of a consumer; answered at once. Its epoch is its generation, and nobody leads."""
        return classic_members.join(self._core, ticket, request, version, client, token, now, now_ms)

    def sync(
        self, ticket: Ticket, request: SyncGroupRequest, assignments: Mapping[str, bytes], *, now: float, now_ms: int
    ) -> list[Effect]:
        """SyncGroup, as ClassicGroup.sync; answered at once, with the assignment in the consumers' own format."""
        return classic_members.sync(self._core, ticket, request, now)

    def heartbeat(self, member_id: str, group_instance_id: str | None, generation: int, now: float) -> ErrorCode:
        """Heartbeat, as ClassicGroup.heartbeat: REBALANCE_IN_PROGRESS when there is something to join again for."""
        return classic_members.heartbeat(self._core, member_id, group_instance_id, generation, now)

    def leave(
        self, ticket: Ticket, request: LeaveGroupRequest, *, version: int, now: float, now_ms: int
    ) -> list[Effect]:
        """LeaveGroup, as ClassicGroup.leave; members of the consumer protocol leave by it, too."""
        return classic_members.leave(self._core, ticket, request, version, now, now_ms)

    # -- commits and fetches of offsets, deletion

    def check_commit(
        self, committer: Committer, partitions: Mapping[str, Collection[int]], *, now: float
    ) -> frozenset[tuple[str, int]]:
        """Whether a member may commit offsets, and for which partitions not.

        A member epoch that is behind may commit what the member was given in that epoch or earlier and still has
        (KIP-1251): a commit that crosses a heartbeat on its way is as good as one that does not.

        Args:
            committer: its generation is the member epoch, or of a member that speaks the classic protocol the
                generation; -1: none is claimed.
            partitions: to be committed, by topic.

        Returns: those of `partitions` that are refused with STALE_MEMBER_EPOCH, as (topic, partition).
        Raises KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, UNSUPPORTED_VERSION, ILLEGAL_GENERATION (classic
            members), STALE_MEMBER_EPOCH for all of them.
        """
        core = self._core
        member_id, group_instance_id, epoch, version, transactional = committer
        says_nothing = epoch == -1 and not member_id and group_instance_id is None  # as TxnOffsetCommit before 3
        if epoch < 0 and not core.members or transactional and says_nothing:
            return frozenset()
        if group_instance_id is not None:
            check_instance(core, group_instance_id, member_id)
        member = core.members.get(member_id)
        if member is None:
            text = f"Member {member_id} is not a member of group {core.group_id}."
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID, text)
        if member.classic is not None:
            if epoch != member.epoch:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
            return frozenset()
        if not transactional and version < MEMBER_EPOCH_SINCE:
            text = f"OffsetCommit version {MEMBER_EPOCH_SINCE} or above must be used by members of consumer groups."
            raise KafkaError(ErrorCode.UNSUPPORTED_VERSION, text)
        if epoch == member.epoch:
            return frozenset()
        stale = []
        for topic, numbers in partitions.items():
            topic_id = self._core.topics.get(topic, (b"", 0))[0]
            had = member.had(topic_id, epoch) if 0 <= epoch < member.epoch else ()
            stale += [(topic, partition) for partition in numbers if partition not in had]
        if len(stale) == sum(map(len, partitions.values())):
            raise KafkaError(ErrorCode.STALE_MEMBER_EPOCH)
        return frozenset(stale)

    def check_fetch(self, member_id: str | None, epoch: int) -> None:
        """Whether a member may read committed offsets (OffsetFetch from version 9 on says who asks).

        Raises KafkaError: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH; of classic members ILLEGAL_GENERATION.
        """
        if not member_id and epoch < 0:
            return
        member = self._core.members.get(member_id or "")
        if member is None:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        if epoch != member.epoch:
            classic = member.classic is not None
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION if classic else ErrorCode.STALE_MEMBER_EPOCH)

    def check_offset_delete(self) -> frozenset[str]:
        """The topics whose offsets OffsetDelete must leave alone (GROUP_SUBSCRIBED_TO_TOPIC, KIP-496)."""
        return self._core.subscribed_topics()

    def check_delete(self) -> None:
        """Whether it can be deleted. Raises KafkaError NON_EMPTY_GROUP while it has members."""
        if self._core.members:
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP)

    def delete(self, now_ms: int) -> list[Effect]:
        """Delete the group: tombstones for all its records; its offsets are the caller's. Raises as check_delete."""
        self.check_delete()
        self._core.abandon()
        if self._core.stored:
            self._core.note(*store.tombstones(self._core))
        return self._core.take()

    # -- views

    def describe_consumer(self) -> Work[DescribedConsumerGroup]:
        """ConsumerGroupDescribe."""
        from kbroker.groups.consumer import views

        return views.describe(self._core)

    def describe_classic(self) -> Work[DescribedGroup]:
        """DescribeGroups knows no consumer groups: GROUP_ID_NOT_FOUND and Dead; below version 6 without the error."""
        from kbroker.groups.consumer import views

        return views.describe_classic(self._core)

    def listing(self) -> ListedGroup:
        """ListGroups."""
        from kbroker.groups.consumer import views

        return views.listing(self._core)

    def snapshot(self) -> tuple[StateRecord, ...]:
        """All records that the group consists of, in the order in which they can be replayed."""
        return store.records(self._core)


def _says_nothing(member: ConsumerMember, request: ConsumerGroupHeartbeatRequest) -> bool:
    """Whether a heartbeat tells nothing of the member that is not known."""
    return (
        request.subscribed_topic_names is None
        and request.subscribed_topic_regex is None
        and request.server_assignor is None
        and request.rack_id is None
        and request.rebalance_timeout_ms in (-1, member.rebalance_timeout_ms)
        and request.instance_id in (None, member.instance_id)
    )


def _assignment(assigned: Owned) -> Work[ConsumerGroupAssignment]:
    """What a member may use now."""
    return ConsumerGroupAssignment(topic_partitions=(yield from each(_topic_partitions, sorted(assigned.items()))))


def _topic_partitions(topic: tuple[bytes, dict[int, int]]) -> ConsumerGroupHeartbeatTopicPartitions:
    return ConsumerGroupHeartbeatTopicPartitions(topic_id=topic[0], partitions=sorted(topic[1]))


def _assigned(
    ticket: Ticket, response: ConsumerGroupHeartbeatResponse, found: ConsumerGroupAssignment, now: float, now_ms: int
) -> list[Effect]:
    response.assignment = found
    return [Reply(ticket, response)]


def _lateness(core: Core, member: ConsumerMember, now: float) -> str:
    """Why a member is out."""
    classic = member.classic
    if member.session_end <= now:
        if classic is not None:
            return f"no heartbeat for {classic.session_timeout_ms} ms: session.timeout.ms"
        return f"no heartbeat for {core.limits.session_timeout_ms} ms: group.consumer.session.timeout.ms"
    did_not = "revoke partitions" if classic is None else "rejoin or sync"
    return f"did not {did_not} within {member.rebalance_timeout_ms} ms: max.poll.interval.ms of its consumer"
