"""What the cores have stored, and find again: `effects.StateRecord`s as records of `__consumer_offsets`, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from kbroker.coordinators.effects import Pair, StateRecord
from kbroker.groups.storage.records import (
    FORMATS,
    ClassicMemberMetadata,
    ClassicProtocol,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupMemberMetadataValue,
    ConsumerGroupMetadataValue,
    ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataValue,
    GroupKey,
    GroupMetadataValue,
    KeyType,
    MemberKey,
    MemberMetadata,
    OwnedTopicPartitions,
    RegularExpressionKey,
    TargetTopicPartitions,
    decode_key,
    decode_value,
    encode_key,
    encode_value_in_turns,
    key_type,
    record_pair,
)
from kbroker.groups.storage.snapshots import (
    Assigned,
    ClassicMemberSnapshot,
    ConsumerGroupSnapshot,
    ConsumerGroupTombstone,
    ConsumerMemberSnapshot,
    CurrentMemberSnapshot,
    GroupSnapshot,
    GroupTombstone,
    MemberSnapshot,
    RegexSnapshot,
    TargetEpochSnapshot,
    TargetMemberSnapshot,
)
from kbroker.turns import Work, each

Epochs: TypeAlias = "tuple[tuple[int, ...], ...] | None"
OwnedOf: TypeAlias = "tuple[bytes, tuple[int, ...], tuple[int, ...] | None]"  # topic id, partitions, since when each
K = KeyType


def state_pair(record: StateRecord | Pair) -> Pair:
    """What a core wants stored, as a record."""
    if isinstance(record, tuple):
        return record
    return _WRITERS[type(record)](record)


def state_pair_in_turns(record: TargetMemberSnapshot | CurrentMemberSnapshot) -> Work[Pair]:
    """The same for what may be of ten thousand topics."""
    value: Any
    if isinstance(record, TargetMemberSnapshot):
        kind, value = (
            K.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER,
            ConsumerGroupTargetAssignmentMemberValue(
                topic_partitions=(yield from each(_target_topic, record.partitions))
            ),
        )
    else:
        assigned = _with_epochs(record.assigned, record.assignment_epochs)
        pending = _with_epochs(record.pending_revocation, record.pending_epochs)
        kind, value = K.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT, _current_value(record)
        value.assigned_partitions = yield from each(_owned_topic, assigned)
        value.partitions_pending_revocation = yield from each(_owned_topic, pending)
    written = yield from encode_value_in_turns(kind, value)
    return encode_key(kind, _member_key(record)), written


def read_state(key: bytes, value: bytes) -> StateRecord | None:
    """What a record says of a group; None for one that is not about groups, or is read by nobody any more.

    Raises ProtocolError.
    """
    kind = key_type(key)
    reader = _READERS.get(kind)
    return None if reader is None else reader(decode_key(key), decode_value(kind, value))


# -- classic groups ---------------------------------------------------------------------------------------------------


def _write_group(group: GroupSnapshot) -> Pair:
    value = GroupMetadataValue(
        protocol_type=group.protocol_type or "",
        generation=group.generation,
        protocol=group.protocol,
        leader=group.leader,
        current_state_timestamp=group.state_timestamp_ms,
        members=[
            MemberMetadata(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout=member.rebalance_timeout_ms,
                session_timeout=member.session_timeout_ms,
                subscription=member.subscription,
                assignment=member.assignment,
            )
            for member in group.members
        ],
    )
    return record_pair(K.GROUP_METADATA, GroupKey(group=group.group_id), value)


def _read_group(key: GroupKey, value: GroupMetadataValue) -> GroupSnapshot:
    """Version 0 had no rebalance timeout: the session timeout stands in for it."""
    return GroupSnapshot(
        group_id=key.group,
        protocol_type=value.protocol_type or None,
        generation=value.generation,
        protocol=value.protocol,
        leader=value.leader,
        state_timestamp_ms=value.current_state_timestamp,
        members=tuple(
            MemberSnapshot(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout_ms=(
                    member.session_timeout if member.rebalance_timeout < 0 else member.rebalance_timeout
                ),
                session_timeout_ms=member.session_timeout,
                subscription=bytes(member.subscription),
                assignment=bytes(member.assignment),
            )
            for member in value.members
        ),
    )


# -- consumer groups --------------------------------------------------------------------------------------------------


def _write_consumer_group(group: ConsumerGroupSnapshot) -> Pair:
    value = ConsumerGroupMetadataValue(epoch=group.epoch, metadata_hash=group.metadata_hash)
    return record_pair(K.CONSUMER_GROUP_METADATA, GroupKey(group=group.group_id), value)


def _write_member(member: ConsumerMemberSnapshot) -> Pair:
    classic = None
    if member.classic is not None:
        protocols = [ClassicProtocol(name=name, metadata=metadata) for name, metadata in member.classic.protocols]
        classic = ClassicMemberMetadata(
            session_timeout_ms=member.classic.session_timeout_ms, supported_protocols=protocols
        )
    value = ConsumerGroupMemberMetadataValue(
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=list(member.subscribed_topic_names),
        subscribed_topic_regex=member.subscribed_topic_regex,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
        server_assignor=member.server_assignor,
        classic_member_metadata=classic,
    )
    return record_pair(K.CONSUMER_GROUP_MEMBER_METADATA, _member_key(member), value)


def _read_member(key: MemberKey, value: ConsumerGroupMemberMetadataValue) -> ConsumerMemberSnapshot:
    found, classic = value.classic_member_metadata, None
    if found is not None:
        protocols = tuple((each.name, bytes(each.metadata)) for each in found.supported_protocols)
        classic = ClassicMemberSnapshot(found.session_timeout_ms, protocols)
    return ConsumerMemberSnapshot(
        group_id=key.group,
        member_id=key.member_id,
        instance_id=value.instance_id,
        rack_id=value.rack_id,
        client_id=value.client_id,
        client_host=value.client_host,
        subscribed_topic_names=tuple(value.subscribed_topic_names),
        subscribed_topic_regex=value.subscribed_topic_regex,
        rebalance_timeout_ms=value.rebalance_timeout_ms,
        server_assignor=value.server_assignor,
        classic=classic,
    )


def _write_target_epoch(target: TargetEpochSnapshot) -> Pair:
    value = ConsumerGroupTargetAssignmentMetadataValue(
        assignment_epoch=target.epoch, assignment_timestamp=target.timestamp_ms
    )
    return record_pair(K.CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA, GroupKey(group=target.group_id), value)


def _write_target(target: TargetMemberSnapshot) -> Pair:
    value = ConsumerGroupTargetAssignmentMemberValue(topic_partitions=[*map(_target_topic, target.partitions)])
    return record_pair(K.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER, _member_key(target), value)


def _target_topic(partitions: tuple[bytes, tuple[int, ...]]) -> TargetTopicPartitions:
    return TargetTopicPartitions(topic_id=partitions[0], partitions=list(partitions[1]))


def _write_current(current: CurrentMemberSnapshot) -> Pair:
    value = _current_value(current)
    value.assigned_partitions = [*map(_owned_topic, _with_epochs(current.assigned, current.assignment_epochs))]
    value.partitions_pending_revocation = [
        *map(_owned_topic, _with_epochs(current.pending_revocation, current.pending_epochs))
    ]
    return record_pair(K.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT, _member_key(current), value)


def _current_value(current: CurrentMemberSnapshot) -> ConsumerGroupCurrentMemberAssignmentValue:
    """Without the partitions."""
    return ConsumerGroupCurrentMemberAssignmentValue(
        member_epoch=current.member_epoch,
        previous_member_epoch=current.previous_member_epoch,
        state=current.state,
        assigned_partitions=[],
        partitions_pending_revocation=[],
    )


def _read_current(key: MemberKey, value: ConsumerGroupCurrentMemberAssignmentValue) -> CurrentMemberSnapshot:
    return CurrentMemberSnapshot(
        group_id=key.group,
        member_id=key.member_id,
        member_epoch=value.member_epoch,
        previous_member_epoch=value.previous_member_epoch,
        state=value.state,
        assigned=_assigned(value.assigned_partitions),
        assignment_epochs=_epochs(value.assigned_partitions),
        pending_revocation=_assigned(value.partitions_pending_revocation),
        pending_epochs=_epochs(value.partitions_pending_revocation),
    )


def _write_regex(regex: RegexSnapshot) -> Pair:
    key = RegularExpressionKey(group=regex.group_id, regular_expression=regex.regex)
    value = ConsumerGroupRegularExpressionValue(
        topics=list(regex.topics), version=regex.version, timestamp=regex.timestamp_ms
    )
    return record_pair(K.CONSUMER_GROUP_REGULAR_EXPRESSION, key, value)


def _write_tombstone(gone: ConsumerGroupTombstone) -> Pair:
    kind = KeyType(gone.key_type)
    key: Any
    if FORMATS[kind].key is MemberKey:
        key = _member_key(gone)
    elif FORMATS[kind].key is RegularExpressionKey:
        key = RegularExpressionKey(group=gone.group_id, regular_expression=gone.member_id)
    else:
        key = GroupKey(group=gone.group_id)
    return record_pair(kind, key, None)


def _member_key(
    member: ConsumerMemberSnapshot | TargetMemberSnapshot | CurrentMemberSnapshot | ConsumerGroupTombstone,
) -> MemberKey:
    return MemberKey(group=member.group_id, member_id=member.member_id)


def _with_epochs(assigned: Assigned, epochs: Epochs) -> Iterator[OwnedOf]:
    for n, (topic_id, partitions) in enumerate(assigned):
        yield topic_id, partitions, None if epochs is None else epochs[n]


def _owned_topic(owned: OwnedOf) -> OwnedTopicPartitions:
    topic_id, partitions, epochs = owned
    return OwnedTopicPartitions(
        topic_id=topic_id,
        partitions=list(partitions),
        assignment_epochs=None if epochs is None else list(epochs),
    )


def _assigned(topics: Iterable[TargetTopicPartitions | OwnedTopicPartitions]) -> Assigned:
    return tuple(sorted((topic.topic_id, tuple(topic.partitions)) for topic in topics))


def _epochs(topics: Sequence[OwnedTopicPartitions]) -> Epochs:
    """Aligned with `_assigned`; None when one of them is not known."""
    found = []
    for topic in sorted(topics, key=lambda each: each.topic_id):
        if topic.assignment_epochs is None or len(topic.assignment_epochs) != len(topic.partitions):
            return None
        found.append(tuple(topic.assignment_epochs))
    return tuple(found)


_WRITERS: dict[type[StateRecord], Callable[[Any], Pair]] = {
    GroupSnapshot: _write_group,
    GroupTombstone: lambda gone: record_pair(K.GROUP_METADATA, GroupKey(group=gone.group_id), None),
    ConsumerGroupSnapshot: _write_consumer_group,
    ConsumerMemberSnapshot: _write_member,
    TargetEpochSnapshot: _write_target_epoch,
    TargetMemberSnapshot: _write_target,
    CurrentMemberSnapshot: _write_current,
    RegexSnapshot: _write_regex,
    ConsumerGroupTombstone: _write_tombstone,
}
_READERS: dict[int, Callable[[Any, Any], StateRecord]] = {
    K.GROUP_METADATA: _read_group,
    K.CONSUMER_GROUP_METADATA: lambda key, value: ConsumerGroupSnapshot(key.group, value.epoch, value.metadata_hash),
    K.CONSUMER_GROUP_MEMBER_METADATA: _read_member,
    K.CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA: lambda key, value: TargetEpochSnapshot(
        key.group, value.assignment_epoch, value.assignment_timestamp
    ),
    K.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER: lambda key, value: TargetMemberSnapshot(
        key.group, key.member_id, _assigned(value.topic_partitions)
    ),
    K.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT: _read_current,
    K.CONSUMER_GROUP_REGULAR_EXPRESSION: lambda key, value: RegexSnapshot(
        key.group, key.regular_expression, tuple(value.topics), value.version, value.timestamp
    ),
}
