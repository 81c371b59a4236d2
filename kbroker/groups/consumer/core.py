"""The state of one consumer group (KIP-848) and the moves it is changed by; group.py says when each is made.

    bump ──▶ epoch + 1                  who is a member, what is subscribed to, or what there is to read has changed
    compute_target ──▶ target_epoch     an assignor spreads the partitions; nobody is told yet
    reconcile(member) ──▶ its epoch     one member's next step to its target, when it heartbeats (reconciliation.py)

Owns: members, targets, owners of partitions, resolved regular expressions, the timeline. Each move leaves the records
of what it changed; `take` hands them to the shell as one Store. Invariants: epoch ≥ target_epoch, both never go back;
a partition has at most one owner; `unreconciled` holds the members that are not STABLE at the group's epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import repeat

from kbroker.coordinators.effects import Compute, Effect, Pair, StateRecord, Store
from kbroker.groups.consumer.assignors import ASSIGNORS
from kbroker.groups.consumer.computing import Asked, Computed, Question, Resolved, compute, resolve
from kbroker.groups.consumer.member import (
    LEAVING_STATIC,
    ConsumerMember,
    MemberState,
    Target,
    assigned_of,
    owned_of,
)
from kbroker.groups.consumer.reconciliation import Move, Owners, move, next_step
from kbroker.groups.group import Topics
from kbroker.groups.settings import ConsumerGroupLimits
from kbroker.groups.storage.snapshots import (
    ConsumerGroupSnapshot,
    ConsumerGroupTombstone,
    ConsumerMemberSnapshot,
    GroupSnapshot,
    RegexSnapshot,
    TargetEpochSnapshot,
    TargetMemberSnapshot,
)
from kbroker.groups.timeline import Timeline
from kbroker.turns import Work, advance, at_once

KEY_GROUP, KEY_MEMBER, KEY_TARGET_EPOCH, KEY_TARGET_MEMBER, KEY_CURRENT, KEY_REGEX = 3, 5, 6, 7, 8, 16
# Up to this many members the target is computed at once; it costs a few milliseconds.
COMPUTE_AT_ONCE_MEMBERS = 64
COMPUTE_AT_ONCE_TOPICS = 1_000  # the same of topics that anybody subscribes to
EPOCH_INITIAL = 1  # of a group nobody has joined yet; the first member makes it 2, as in Kafka
SHARED_MAX = 64  # subscriptions remembered beyond one for each member
PAUSES_AT_ONCE = 12  # of computing a target, or resolving regular expressions, within the event: a few milliseconds
NOTHING: Target = {}


class Core:
    """State and moves of one consumer group. `now` is liveness seconds, `now_ms` data time."""

    __slots__ = (
        "group_id", "limits", "topics", "epoch", "metadata_hash", "members", "static", "target_epoch", "targets",
        "owners", "timeline", "deadline", "regexes", "unreconciled", "names", "replaced_by", "stored", "unverified",
        "waiting", "_moving", "_hashed", "_computed_at", "_computing", "_resolving", "_resolve_again", "_records",
        "_computes", "_shared",
    )  # fmt: skip

    def __init__(self, group_id: str, limits: ConsumerGroupLimits, topics: Topics) -> None:
        self.group_id = group_id
        self.limits = limits
        self.topics = topics
        self.epoch = EPOCH_INITIAL
        self.metadata_hash = 0  # of the subscribed topics, as of `epoch`
        self.members: dict[str, ConsumerMember] = {}
        self.static: dict[str, str] = {}  # instance id -> member id
        self.target_epoch = EPOCH_INITIAL
        self.targets: dict[str, dict[bytes, frozenset[int]]] = {}
        self.owners = Owners()
        self.timeline = Timeline()
        self.deadline: float | None = None  # liveness seconds; when on_alarm may have something to do
        self.regexes: dict[str, frozenset[str]] = {}  # each members' regular expression -> topics
        self.unreconciled: set[str] = set()
        self.names: dict[bytes, str] = {}  # of all topics in targets and assignments, deleted ones too
        self.replaced_by: GroupSnapshot | None = None  # it was turned into this classic group
        self.stored = False  # there are records of it
        self.unverified = False  # restored, and not compared yet with the topics there are now
        self.waiting = False  # a new target is due, and waits for `deferred` to be over
        self._moving: dict[str, Work[Move | None]] = {}  # members that are being moved in turns
        self._hashed: tuple[Topics, frozenset[str], int] = ({}, frozenset(), 0)
        self._computed_at: float | None = None  # when a target was computed last; liveness seconds
        self._computing: Work[Computed] | None = None  # a target, in turns
        self._resolving: Work[Resolved] | None = None  # regular expressions, in turns
        self._resolve_again = False  # topics or expressions are others than those being resolved
        self._records: list[StateRecord | Pair] = []  # of the event in hand
        self._computes: list[Compute] = []  # of the event in hand
        self._shared: dict[frozenset[str], frozenset[str]] = {}

    # -- effects

    def note(self, *records: StateRecord | Pair) -> None:
        """To be stored with this event."""
        self._records.extend(records)
        self.stored = True

    def take(self, *replies: Effect) -> list[Effect]:
        """The effects of the event: what it stored, then what it answers, then what is to be computed."""
        if not self._records and not self._computes:
            return [*replies]
        records, self._records = tuple(self._records), []
        computes, self._computes = self._computes, []
        return [*([Store(records)] if records else ()), *replies, *computes]

    @property
    def is_computing(self) -> bool:
        """Whether something is being computed in turns."""
        return self._computing is not None or self._resolving is not None or bool(self._moving)

    def abandon(self) -> None:
        """The group is gone, or another one: nothing that is being computed is wanted."""
        self.deadline = self._computing = self._resolving = None
        self._moving.clear()

    def arm(self, end: float) -> None:
        """Something may be due at that time."""
        if self.deadline is None or end < self.deadline:
            self.deadline = end

    # -- what members say

    def describe(self, before: ConsumerMemberSnapshot | None, member: ConsumerMember) -> bool:
        """A member has said something of itself; before: what was known; None: it is new. Whether that matters."""
        after = member.member_snapshot(self.group_id)
        if after == before:
            return False
        self.note(after)
        if before is None:
            self.members[member.member_id] = member
        elif before.instance_id is not None:
            self.static.pop(before.instance_id, None)
        if member.instance_id is not None:
            self.static[member.instance_id] = member.member_id
        if before is None or before.subscribed_topic_regex != after.subscribed_topic_regex:
            self._resolve_regexes(now_ms=0)
        if before is None:
            self.unreconciled.add(member.member_id)
            if self.subscribed(member):
                return True
            # One that wants nothing changes nothing; but there may be no record of the group yet.
            self.note(ConsumerGroupSnapshot(self.group_id, self.epoch, self.metadata_hash))
            self.note(TargetEpochSnapshot(self.group_id, self.target_epoch, 0))
            return False
        return (
            before.subscribed_topic_names != after.subscribed_topic_names
            or before.subscribed_topic_regex != after.subscribed_topic_regex
            or before.server_assignor != after.server_assignor
        )

    def _resolve_regexes(self, *, now_ms: int, afresh: bool = False) -> None:
        """See that each regular expression in use is resolved, and no other. Until it is, it matches nothing."""
        wanted = {member.regex for member in self.members.values() if member.regex}
        for regex in self.regexes.keys() - wanted:
            del self.regexes[regex]
            self.note(ConsumerGroupTombstone(KEY_REGEX, self.group_id, regex))
        todo = sorted(wanted if afresh else wanted - self.regexes.keys())
        if not todo:
            return
        if self._resolving is not None:
            self._resolve_again = True
            return
        work = resolve(todo, self.topics)
        resolved = advance(work, PAUSES_AT_ONCE // 2)
        if resolved is not None:
            self._take_regexes(resolved[0], now_ms)
        else:
            self._resolving = work
            self._computes.append(Compute(work, partial(self._on_resolved, work)))

    def _take_regexes(self, resolved: Resolved, now_ms: int) -> None:
        wanted = {member.regex for member in self.members.values()}
        for regex, found in resolved.items():
            if regex in wanted and self.regexes.get(regex) != found:
                self.regexes[regex] = found
                self.note(RegexSnapshot(self.group_id, regex, tuple(sorted(found)), 0, now_ms))

    def _on_resolved(self, work: Work[Resolved], resolved: Resolved, now: float, now_ms: int) -> list[Effect]:
        """A new epoch if what was found concerns a subscription."""
        if self._resolving is not work:
            return []
        self._resolving = None
        self._take_regexes(resolved, now_ms)
        if self._resolve_again:
            self._resolve_again = False
            self._resolve_regexes(now_ms=now_ms, afresh=True)
        self._bump_if_other_topics(now, now_ms)
        return self.take()

    def _bump_if_other_topics(self, now: float, now_ms: int) -> None:
        if self.members and self._hash() != self.metadata_hash:
            self.bump("topics changed", now, now_ms)
            self.compute_target(now, now_ms)

    def shared(self, names: frozenset[str]) -> frozenset[str]:
        """One object for equal subscriptions: a thousand members of a thousand topics are compared by identity then."""
        if len(self._shared) > SHARED_MAX + len(self.members):
            self._shared = {member.topics: member.topics for member in self.members.values()}
        return self._shared.setdefault(names, names)

    def subscribed(self, member: ConsumerMember) -> frozenset[str]:
        """The names of topics a member wants, existing or not."""
        return member.topics | self.regexes[member.regex] if member.regex in self.regexes else member.topics

    def subscribed_topics(self) -> frozenset[str]:
        """The names of topics anybody wants."""
        kinds = {(member.topics, member.regex) for member in self.members.values()}
        names: set[str] = set()
        for topics, regex in kinds:
            names.update(topics, self.regexes.get(regex or "", ()))
        return frozenset(names)

    # -- epochs and targets

    def bump(self, reason: str, now: float, now_ms: int) -> None:
        """A new group epoch: all members are to be reconciled to a target that is not computed yet."""
        self.epoch += 1
        self.metadata_hash = self._hash()
        self.note(ConsumerGroupSnapshot(self.group_id, self.epoch, self.metadata_hash))
        self.unreconciled = set(self.members)
        self.timeline.begin(reason, self.members, now, now_ms)
        if not self.members:
            self.timeline.end(self.epoch, now)

    def _hash(self) -> int:
        """Of the ids and partition counts of subscribed topics that exist; 0: of none."""
        topics, subscribed = self.topics, self.subscribed_topics()
        known_topics, known_subscribed, known = self._hashed
        if topics is not known_topics or subscribed != known_subscribed:  # a storm of joins changes neither
            known = self._hash_of(topics, subscribed)
            self._hashed = topics, subscribed, known
        return known

    def _hash_of(self, topics: Topics, subscribed: frozenset[str]) -> int:
        found = [b"%b%b%d " % (topics[name][0], name.encode(), topics[name][1]) for name in topics.keys() & subscribed]
        digest = blake2b(b"".join(sorted(found)), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True) if found else 0

    def set_topics(self, topics: Topics, now: float, now_ms: int) -> None:
        """The cluster's topics are others. A new epoch if that concerns a subscription."""
        self.topics = topics
        self.unverified = False
        if self.members:
            self._resolve_regexes(now_ms=now_ms, afresh=True)
            if self._hash() != self.metadata_hash:
                self.bump("topics changed", now, now_ms)

    def verify_topics(self, now: float, now_ms: int) -> None:
        """After a restart: a new epoch if the subscribed topics are others than stored."""
        if self.unverified:
            self.set_topics(self.topics, now, now_ms)

    def deferred(self, now: float) -> bool:
        """Whether a new target has to wait, so that a storm of joins costs one assignment, not one each (KIP-1263)."""
        if self._computing is not None:
            return True
        if self.target_epoch == self.epoch or self._computed_at is None:
            return False
        if len(self.members) <= COMPUTE_AT_ONCE_MEMBERS:
            return False
        return now < self._computed_at + self.limits.assignment_interval_ms / 1000

    def compute_target(self, now: float, now_ms: int) -> None:
        """See that there is a target for the group's epoch, unless it has to wait; what is long, some time later."""
        if self.target_epoch == self.epoch or self._computing is not None:
            return
        if self.deferred(now):
            assert self._computed_at is not None
            self.waiting = True
            self.arm(self._computed_at + self.limits.assignment_interval_ms / 1000)
            return
        self._computed_at, self.waiting = now, False
        work = compute(self._question())
        is_small = len(self.subscribed_topics()) <= COMPUTE_AT_ONCE_TOPICS
        computed = advance(work, PAUSES_AT_ONCE) if is_small else None
        if computed is not None:
            self._install(self.epoch, computed[0], now_ms)
        else:
            self._computing = work
            self._computes.append(Compute(work, partial(self._on_computed, work, self.epoch)))

    def _question(self) -> Question:
        members = [Asked(m.member_id, m.instance_id, m.topics, m.regex) for m in self.members.values()]
        return Question(self.group_id, self.assignor, members, dict(self.targets), dict(self.regexes), self.topics)

    def _on_computed(
        self, work: Work[Computed], epoch: int, computed: Computed, now: float, now_ms: int
    ) -> list[Effect]:
        """Members that came meanwhile have no part in it: the next target is for them."""
        if self._computing is not work:
            return []
        self._computing = None
        self._install(epoch, computed, now_ms)
        if self.members:
            self.compute_target(now, now_ms)
        return self.take()

    def _install(self, epoch: int, computed: Computed, now_ms: int) -> None:
        """This is the target of that epoch."""
        in_use: set[bytes] = set()
        for member in self.members.values():
            in_use.update(member.assigned, member.pending)
        self.names = {topic_id: name for topic_id, name in self.names.items() if topic_id in in_use} | computed.names
        there = {member_id: made for member_id, made in computed.targets.items() if member_id in self.members}
        self.targets.update((member_id, target) for member_id, (target, _) in there.items())
        self.note(*(record for _, record in there.values()))
        self.target_epoch = epoch
        self.note(TargetEpochSnapshot(self.group_id, epoch, now_ms))
        self.unreconciled = {m.member_id for m in self.members.values() if not m.reconciled_to(self.epoch)}

    @property
    def assignor(self) -> str:
        """What most members prefer; the first configured one where nobody does, or in a draw."""
        known = [name for name in self.limits.assignors if name in ASSIGNORS] or ["uniform"]
        votes = dict.fromkeys(known, 0)
        for member in self.members.values():
            if member.server_assignor in votes:
                votes[member.server_assignor] += 1
        return max(votes, key=votes.__getitem__)

    # -- one member

    def target_of(self, member: ConsumerMember) -> Target:
        """What a member is to own, in target_epoch."""
        return self.targets.get(member.member_id, NOTHING)

    def reconcile(self, member: ConsumerMember, reported: Mapping[bytes, Collection[int]] | None, now: float) -> bool:
        """The member's next step towards its target, at once. Whether what it may use is different now."""
        self._stop_moving(member)
        return self._carry_out(member, at_once(self._next_move(member, reported)), now)

    def reconcile_in_turns(
        self,
        member: ConsumerMember,
        reported: Mapping[bytes, Collection[int]] | None,
        reply: Callable[[bool], Effect],
        now: float,
    ) -> Effect | None:
        """The same, with the reply that is made of it. None: the member is moved, and answered, some time later.

        A member that asks again while it is being moved is told what it has as yet.
        """
        if member.member_id in self._moving:
            return reply(False)
        work = self._next_move(member, reported)
        made = advance(work, PAUSES_AT_ONCE)
        if made is not None:
            return reply(self._carry_out(member, made[0], now))
        self._moving[member.member_id] = work
        self._computes.append(Compute(work, partial(self._on_moved, member, work, reported, reply)))
        return None

    def _next_move(self, member: ConsumerMember, reported: Mapping[bytes, Collection[int]] | None) -> Work[Move | None]:
        step = yield from next_step(member, self.target_epoch, self.target_of(member), self.owners, reported)
        return None if step is None else (yield from move(self.group_id, member, step, self.named))

    def _on_moved(
        self,
        member: ConsumerMember,
        work: Work[Move | None],
        reported: Mapping[bytes, Collection[int]] | None,
        reply: Callable[[bool], Effect],
        made: Move | None,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """What the member was and may do is looked at once more: somebody else may have been given some of it."""
        if self._moving.get(member.member_id) is not work:
            return self.take(reply(False))
        del self._moving[member.member_id]
        if made is not None and not self.owners.are_free(made.given):
            again = self.reconcile_in_turns(member, reported, reply, now)
            return self.take(*([again] if again else []))
        return self.take(reply(self._carry_out(member, made, now)))

    def _stop_moving(self, member: ConsumerMember) -> None:
        """The member is another than when it was begun to be moved, or gone."""
        self._moving.pop(member.member_id, None)

    def _carry_out(self, member: ConsumerMember, made: Move | None, now: float) -> bool:
        if made is None:
            return False
        step = made.step
        member.assigned, member.pending = step.assigned, step.pending
        self.owners.free_all(member.member_id, made.freed)
        self.owners.give_all(member.member_id, made.given)
        if made.freed:
            self.timeline.released(member.member_id, made.freed_names, now)
        if made.given:
            self.timeline.taken(member.member_id, made.given_names, now)
        if member.epoch != step.epoch:
            member.previous_epoch, member.epoch = member.epoch, step.epoch
        member.state = step.state
        member.rebalance_end = None
        if step.state is MemberState.UNREVOKED_PARTITIONS and member.classic is None:
            self.expect(member, now)
        self.note(made.record)
        if member.reconciled_to(self.epoch):
            self._arrived(member, now)
        return made.is_other

    def renew(self, member: ConsumerMember, now: float) -> None:
        """The member was heard of."""
        classic = member.classic
        timeout_ms = self.limits.session_timeout_ms if classic is None else classic.session_timeout_ms
        member.session_end = now + timeout_ms / 1000
        self.arm(member.session_end)

    def expect(self, member: ConsumerMember, now: float) -> None:
        """The member has its rebalance timeout to do what it was asked to."""
        member.rebalance_end = now + max(member.rebalance_timeout_ms, 0) / 1000
        self.arm(member.rebalance_end)

    def _hold(self, member: ConsumerMember, now: float) -> None:
        """A member has nothing to give up: what it was to, is free."""
        freed, member.pending = owned_of({}, member.pending), {}
        self.owners.free_all(member.member_id, freed)
        self.timeline.released(member.member_id, self.named(freed), now)

    def named(self, partitions: Mapping[bytes, Collection[int]]) -> list[tuple[str, int]]:
        """With topic names for topic ids. A topic nobody remembers goes by its id."""
        named: list[tuple[str, int]] = []
        for topic_id, numbers in partitions.items():
            named += zip(repeat(self.names.get(topic_id) or topic_id.hex()), numbers)
        return sorted(named)

    def _arrived(self, member: ConsumerMember, now: float) -> None:
        self.timeline.arrived(member.member_id, now)
        self.unreconciled.discard(member.member_id)
        self._end_if_reconciled(now)

    def _end_if_reconciled(self, now: float) -> None:
        if not self.unreconciled:
            self.timeline.joined((), now)
            self.timeline.end(self.epoch, now)

    def step_out(self, member: ConsumerMember, now: float) -> None:
        """A static member leaves for a while: it keeps what it has, and has nothing left to revoke."""
        self._stop_moving(member)
        self._hold(member, now)
        member.previous_epoch, member.epoch = member.epoch, LEAVING_STATIC
        member.state = MemberState.STABLE
        member.rebalance_end = None
        self.note(member.current_snapshot(self.group_id))

    def replace(self, old: ConsumerMember, member_id: str, now: float) -> ConsumerMember:
        """A static member is back under another id: it takes over what the old one had, and begins at epoch 0."""
        new = replace(old, member_id=member_id, epoch=0, previous_epoch=0, state=MemberState.STABLE)
        new.pending, new.rebalance_end = {}, None
        self._hold(old, now)
        self.owners.free_all(old.member_id, old.owned())
        self.owners.give_all(member_id, old.owned())
        self.timeline.renamed(old.member_id, member_id)
        self._computing = None  # it knows the old id only
        target = self.targets.get(old.member_id)
        self._forget(old)
        self.unreconciled.add(member_id)
        self.members[member_id] = new
        assert new.instance_id is not None
        self.static[new.instance_id] = member_id
        self.note(new.member_snapshot(self.group_id))
        if target is not None:
            self.targets[member_id] = target
            self.note(TargetMemberSnapshot(self.group_id, member_id, assigned_of(target)))
        return new

    def remove(self, members: Iterable[ConsumerMember], now: float) -> None:
        """Members are gone, and what they had is free. The caller bumps the epoch."""
        for member in members:
            self.owners.free_all(member.member_id, member.owned())
            self.timeline.left(member.member_id, now)
            self._forget(member)
        self._resolve_regexes(now_ms=0)

    def _forget(self, member: ConsumerMember) -> None:
        self._stop_moving(member)
        del self.members[member.member_id]
        self.targets.pop(member.member_id, None)
        self.unreconciled.discard(member.member_id)
        if member.instance_id is not None and self.static.get(member.instance_id) == member.member_id:
            del self.static[member.instance_id]
        for kind in (KEY_CURRENT, KEY_TARGET_MEMBER, KEY_MEMBER):  # in Kafka's order
            self.note(ConsumerGroupTombstone(kind, self.group_id, member.member_id))

    def expired(self, now: float, due: Callable[[ConsumerMember], bool]) -> list[ConsumerMember]:
        """The members whose time is up; sets the deadline anew for the others."""
        late = [member for member in self.members.values() if due(member)]
        gone = {member.member_id for member in late}
        self.deadline = None
        if self.waiting and self._computed_at is not None:
            self.arm(self._computed_at + self.limits.assignment_interval_ms / 1000)
        for member in self.members.values():
            if member.member_id not in gone:
                self.arm(member.session_end)
                if member.rebalance_end is not None:
                    self.arm(member.rebalance_end)
        return late
