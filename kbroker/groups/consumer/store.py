"""A consumer group from its records, and its records from the group."""

from __future__ import annotations

from collections.abc import Iterable

from kbroker.coordinators.effects import StateRecord
from kbroker.groups.consumer.core import (
    KEY_CURRENT,
    KEY_GROUP,
    KEY_MEMBER,
    KEY_REGEX,
    KEY_TARGET_EPOCH,
    KEY_TARGET_MEMBER,
    Core,
)
from kbroker.groups.consumer.member import ConsumerMember, MemberState, Owned, assigned_of
from kbroker.groups.storage.snapshots import (
    ConsumerGroupSnapshot,
    ConsumerGroupTombstone,
    ConsumerMemberSnapshot,
    CurrentMemberSnapshot,
    RegexSnapshot,
    TargetEpochSnapshot,
    TargetMemberSnapshot,
)


class _Log:
    """What records say, the last of each key. What they say of a member without saying who it is is left over."""

    def __init__(self) -> None:
        self.group: ConsumerGroupSnapshot | None = None
        self.target_epoch = 0
        self.members: dict[str, ConsumerMemberSnapshot] = {}
        self.targets: dict[str, TargetMemberSnapshot] = {}
        self.owned: dict[str, CurrentMemberSnapshot] = {}
        self.regexes: dict[str, RegexSnapshot] = {}

    def replay(self, record: StateRecord) -> None:
        """Take in one record."""
        if isinstance(record, ConsumerGroupSnapshot):
            self.group = record
        elif isinstance(record, ConsumerMemberSnapshot):
            self.members[record.member_id] = record
        elif isinstance(record, TargetEpochSnapshot):
            self.target_epoch = record.epoch
        elif isinstance(record, TargetMemberSnapshot):
            self.targets[record.member_id] = record
        elif isinstance(record, CurrentMemberSnapshot):
            self.owned[record.member_id] = record
        elif isinstance(record, RegexSnapshot):
            self.regexes[record.regex] = record
        elif isinstance(record, ConsumerGroupTombstone):
            self._forget(record)

    def _forget(self, gone: ConsumerGroupTombstone) -> None:
        if gone.key_type == KEY_GROUP:
            self.group = None
        elif gone.key_type == KEY_MEMBER:
            self.members.pop(gone.member_id, None)
        elif gone.key_type == KEY_TARGET_EPOCH:
            self.target_epoch = 0
        elif gone.key_type == KEY_TARGET_MEMBER:
            self.targets.pop(gone.member_id, None)
        elif gone.key_type == KEY_CURRENT:
            self.owned.pop(gone.member_id, None)
        elif gone.key_type == KEY_REGEX:
            self.regexes.pop(gone.member_id, None)


def restore(core: Core, records: Iterable[StateRecord], now: float) -> None:
    """Fill a new core from its group's records. Sessions and revocations begin anew."""
    log = _Log()
    for record in records:
        log.replay(record)
        core.stored = True
    if log.group is not None:
        core.epoch, core.metadata_hash = log.group.epoch, log.group.metadata_hash
    core.target_epoch = min(log.target_epoch, core.epoch)
    core.regexes = {regex: frozenset(log.regexes[regex].topics) for regex in log.regexes}
    for member_id, said in log.members.items():
        member = core.members[member_id] = ConsumerMember(member_id)
        member.describe_from(said)
        member.topics = core.shared(member.topics)
        if member_id in log.owned:
            member.own_from(log.owned[member_id])
        if member_id in log.targets:
            partitions = log.targets[member_id].partitions
            core.targets[member_id] = {topic_id: frozenset(found) for topic_id, found in partitions}
        if member.instance_id is not None:
            core.static[member.instance_id] = member_id
    wanted = core.subscribed_topics()
    core.names = {core.topics[name][0]: name for name in wanted if name in core.topics}
    for member in core.members.values():
        _resume(core, member, now)
    core.unreconciled = {m.member_id for m in core.members.values() if not m.reconciled_to(core.epoch)}
    core.unverified = True


def _resume(core: Core, member: ConsumerMember, now: float) -> None:
    member.assigned = _claim(core, member, member.assigned)
    member.pending = _claim(core, member, member.pending)
    core.timeline.taken(member.member_id, core.named(member.owned()), now)
    core.renew(member, now)
    if member.state is MemberState.UNREVOKED_PARTITIONS and member.classic is None:
        core.expect(member, now)


def _claim(core: Core, member: ConsumerMember, owned: Owned) -> Owned:
    """What of it nobody else has; a sound log never has two owners, a mended one may."""
    kept: Owned = {}
    for topic_id, numbers in owned.items():
        taken = core.owners.owned(topic_id)
        free = {partition: since for partition, since in numbers.items() if partition not in taken}
        if free:
            core.owners.give(member.member_id, topic_id, free)
            kept[topic_id] = free
    return kept


def records(core: Core) -> tuple[StateRecord, ...]:
    """All that is stored of the group, in an order that can be replayed."""
    if not core.stored:
        return ()
    group_id = core.group_id
    found: list[StateRecord] = [member.member_snapshot(group_id) for member in core.members.values()]
    found += [RegexSnapshot(group_id, regex, tuple(sorted(topics)), 0, 0) for regex, topics in core.regexes.items()]
    found.append(ConsumerGroupSnapshot(group_id, core.epoch, core.metadata_hash))
    found += [
        TargetMemberSnapshot(group_id, member_id, assigned_of(target)) for member_id, target in core.targets.items()
    ]
    found.append(TargetEpochSnapshot(group_id, core.target_epoch, 0))
    found += [member.current_snapshot(group_id) for member in core.members.values()]
    return tuple(found)


def tombstones(core: Core) -> list[StateRecord]:
    """What removes all that is stored of the group, in Kafka's order."""
    gone = [(kind, member_id) for kind in (KEY_CURRENT, KEY_TARGET_MEMBER) for member_id in core.members]
    gone.append((KEY_TARGET_EPOCH, ""))
    gone += [(KEY_MEMBER, member_id) for member_id in core.members]
    gone += [(KEY_REGEX, regex) for regex in core.regexes]
    gone.append((KEY_GROUP, ""))
    return [ConsumerGroupTombstone(kind, core.group_id, name) for kind, name in gone]
