"""Groups that change their protocol while they run: classic to consumer, and back (KIP-848, online migration).

    classic group ──a member of the consumer protocol joins──▶ consumer group, in which the classic members go on
    consumer group ──its last member of the consumer protocol leaves, classic ones remain──▶ classic group

What the members own stays theirs both ways. `group.consumer.migration.policy` says which ways are open.
(Kafka: GroupMetadataManager.convertToConsumerGroup, convertToClassicGroup, validateOnlineUpgrade,
validateOnlineDowngrade; ConsumerGroup.fromClassicGroup, ClassicGroup.fromConsumerGroup.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.internal import ConsumerProtocolAssignment, ConsumerProtocolTopicPartitions
from kbroker.groups.consumer import store
from kbroker.groups.consumer.core import Core
from kbroker.groups.consumer.member import ConsumerMember, Owned
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, VERSION_MAX, read_assignment, read_subscription
from kbroker.groups.group import Client, Topics
from kbroker.groups.settings import ConsumerGroupLimits
from kbroker.groups.storage.snapshots import ClassicMemberSnapshot, GroupSnapshot, GroupTombstone, MemberSnapshot


def check_upgrade(snapshot: GroupSnapshot, limits: ConsumerGroupLimits) -> None:
    """Whether a classic group may become a consumer group. One without members always may.

    Raises KafkaError GROUP_ID_NOT_FOUND, Kafka's word for "not of this type".
    """
    if not snapshot.members:
        return
    reason = None
    if not limits.upgrade:
        reason = "online upgrade is disabled"
    elif snapshot.protocol_type != PROTOCOL_TYPE:
        reason = "the group does not use the consumer embedded protocol"
    elif len(snapshot.members) > limits.size_max:
        reason = "the group exceeds the maximum size of a consumer group"
    if reason is not None:
        text = f"Cannot upgrade classic group {snapshot.group_id} to consumer group because {reason}."
        raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, text)


def from_classic(snapshot: GroupSnapshot, limits: ConsumerGroupLimits, topics: Topics, now: float) -> Core:
    """The consumer group that a classic group becomes: what was assigned is owned, everybody is STABLE.

    The join that brings this about makes a new epoch, and with it the classic members rejoin. Its records are noted.
    """
    core = Core(snapshot.group_id, limits, topics)
    core.note(GroupTombstone(snapshot.group_id))
    if not snapshot.members:
        return core
    core.epoch = core.target_epoch = snapshot.generation
    for each in snapshot.members:
        member = _upgraded(each, snapshot)
        core.members[member.member_id] = member
        if member.instance_id is not None:
            core.static[member.instance_id] = member.member_id
        member.assigned = _owned(core, member.member_id, each.assignment, snapshot.generation)
        core.targets[member.member_id] = {topic_id: frozenset(found) for topic_id, found in member.assigned.items()}
        core.renew(member, now)
    core.note(*store.records(core))
    return core


def _upgraded(each: MemberSnapshot, group: GroupSnapshot) -> ConsumerMember:
    """The member, which owns nothing yet. Of its protocols the record has one; it tells the others when it rejoins."""
    subscription = read_subscription(each.subscription)
    protocols = ((group.protocol, each.subscription),) if group.protocol and subscription is not None else ()
    return ConsumerMember(
        each.member_id,
        Client(each.client_id, each.client_host),
        each.group_instance_id,
        None if subscription is None else subscription.rack_id,
        frozenset() if subscription is None else frozenset(subscription.topics),
        rebalance_timeout_ms=each.rebalance_timeout_ms,
        classic=ClassicMemberSnapshot(each.session_timeout_ms, protocols),
        epoch=group.generation,
        previous_epoch=group.generation,
    )


def _owned(core: Core, member_id: str, assignment: bytes, generation: int) -> Owned:
    """What a classic assignment gives, of topics that exist, and to one member only: a classic leader may err."""
    owned: Owned = {}
    for topic, partition in sorted(read_assignment(assignment) or ()):
        topic_id, count = core.topics.get(topic, (b"", 0))
        if partition < count and core.owners.of(topic_id, partition) is None:
            core.owners.give(member_id, topic_id, {partition})
            core.names[topic_id] = topic
            owned.setdefault(topic_id, {})[partition] = generation
    return owned


def remove(core: Core, members: Iterable[ConsumerMember], reason: str, now: float, now_ms: int) -> None:
    """Members are gone: the group has a new epoch, or is turned back into a classic one if only such members remain."""
    core.remove(members, now)
    if not downgrade_if_possible(core, now_ms):
        core.bump(reason, now, now_ms)


def downgrade_if_possible(core: Core, now_ms: int) -> bool:
    """Turn the group into a classic one if all its members, of whom there are some, speak the classic protocol."""
    members = core.members.values()
    if not members or not core.limits.downgrade or len(members) > core.limits.classic_size_max:
        return False
    if any(member.classic is None for member in members):
        return False
    snapshot = to_classic(core, now_ms)
    core.note(*store.tombstones(core), snapshot)
    core.replaced_by = snapshot
    core.abandon()
    return True


def to_classic(core: Core, now_ms: int) -> GroupSnapshot:
    """The classic group that a group of classic members becomes: STABLE in the generation of the group epoch."""
    protocol = _select_protocol(core)
    members = tuple(
        MemberSnapshot(
            member.member_id,
            member.instance_id,
            member.client.id,
            member.client.host,
            member.rebalance_timeout_ms,
            0 if member.classic is None else member.classic.session_timeout_ms,
            metadata_of(member, protocol),
            assignment_bytes(core, member),
        )
        for member in core.members.values()
    )
    leader = members[0].member_id
    return GroupSnapshot(core.group_id, PROTOCOL_TYPE, core.epoch, protocol, leader, now_ms, members)


def _select_protocol(core: Core) -> str:
    """As a classic group selects: what most members like best among those all know."""
    offers = [[name for name, _ in member.classic.protocols] for member in core.members.values() if member.classic]
    known: Counter[str] = Counter(name for names in offers for name in set(names))
    common = [[name for name in names if known[name] == len(offers)] for names in offers]
    ballots: Counter[str] = Counter(names[0] for names in common if names)
    return max(ballots, key=ballots.__getitem__) if ballots else next((names[0] for names in offers if names), "")


def metadata_of(member: ConsumerMember, protocol: str) -> bytes:
    """What a classic member says for a protocol; empty when it does not know it."""
    protocols = member.classic.protocols if member.classic is not None else ()
    return next((metadata for name, metadata in protocols if name == protocol), b"")


def assignment_bytes(core: Core, member: ConsumerMember) -> bytes:
    """What a classic member has, in its own format: ConsumerProtocolAssignment, in the version of its subscription."""
    protocols = member.classic.protocols if member.classic is not None else ()
    said = int.from_bytes(protocols[0][1][:2], "big", signed=True) if protocols else 0
    version = min(max(said, 0), VERSION_MAX)
    named = ((core.names.get(topic_id), numbers) for topic_id, numbers in member.assigned.items())
    topics = sorted((topic, sorted(numbers)) for topic, numbers in named if topic is not None)
    value = ConsumerProtocolAssignment(
        assigned_partitions=[
            ConsumerProtocolTopicPartitions(topic=topic, partitions=numbers) for topic, numbers in topics
        ]
    )
    return version.to_bytes(2, "big") + encode(value, version)
