"""The records of `__consumer_offsets`, in Kafka's formats: what a group is made of when nothing of it is in memory.

    key   = type int16 | fields          value = version int16 | fields, or null: the thing is gone

    type  key                             value (versions read, version written)
    ----  ------------------------------  -----------------------------------------------------------------
    0, 1  group, topic, partition         OffsetCommitValue 0-4, 4; 1 when the commit says when it expires
    2     group                           GroupMetadataValue 0-4, 3: a classic group, its members included
    3     group                           ConsumerGroupMetadataValue 0: a group of the new protocol (KIP-848)
    4     group                           ConsumerGroupPartitionMetadataValue 0: of Kafka 4.0; read, never written
    5     group, member                   ConsumerGroupMemberMetadataValue 0
    6     group                           ConsumerGroupTargetAssignmentMetadataValue 0
    7     group, member                   ConsumerGroupTargetAssignmentMemberValue 0
    8     group, member                   ConsumerGroupCurrentMemberAssignmentValue 0
    16    group, regular expression       ConsumerGroupRegularExpressionValue 0

The last record of a key holds. Types that are not in the table (share groups, streams groups) are passed over, as Kafka
passes over those of a later release. (Kafka: group-coordinator/src/main/resources/common/message,
GroupCoordinatorRecordHelpers, CoordinatorRecordSerde.)
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

from kafka_wire.codegen import decoder, encode_in_slices, encoder
from kafka_wire.errors import ProtocolError
from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, bytes_, embed, int8, int32, int64, message, string, uuid
from kafka_wire.schema import struct as wire_struct
from kafka_wire.source import SLICE
from kbroker.coordinators.effects import Pair
from kbroker.turns import Work, rest

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
VERSION_SIZE = 2
TAGGED_STEPS = 4  # to write an element with a tagged field
CURRENT_OFFSET_KEY = b"\0\1"  # how the keys of committed offsets begin
LEGACY_OFFSET_KEY = b"\0\0"  # as the current one, in logs older than Kafka 0.9


class KeyType(IntEnum):
    """What a record is about: the int16 its key begins with."""

    LEGACY_OFFSET_COMMIT = 0
    OFFSET_COMMIT = 1
    GROUP_METADATA = 2
    CONSUMER_GROUP_METADATA = 3
    CONSUMER_GROUP_PARTITION_METADATA = 4
    CONSUMER_GROUP_MEMBER_METADATA = 5
    CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA = 6
    CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER = 7
    CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT = 8
    CONSUMER_GROUP_REGULAR_EXPRESSION = 16


# -- keys -------------------------------------------------------------------------------------------------------------


@message(versions=(0, 0))
class OffsetCommitKey:
    """A committed offset's place."""

    group: str = string()
    topic: str = string()
    partition: int = int32()


@message(versions=(0, 0))
class GroupKey:
    """Keys of types 2, 3, 4 and 6: what there is once in a group."""

    group: str = string()


@message(versions=(0, 0))
class MemberKey:
    """Keys of types 5, 7 and 8: what there is once for each member."""

    group: str = string()
    member_id: str = string()


@message(versions=(0, 0))
class RegularExpressionKey:
    """What a regular expression has been found to match."""

    group: str = string()
    regular_expression: str = string()


# -- values -----------------------------------------------------------------------------------------------------------


@message(versions=(0, 4), flexible=4)
class OffsetCommitValue:
    """How far a group has read a partition."""

    offset: int = int64()
    leader_epoch: int = int32(since=3, default=-1)  # of the last record consumed; -1 unknown
    metadata: str = string()
    commit_timestamp: int = int64()  # ms
    expire_timestamp: int = int64(since=1, until=1, default=-1)  # ms; -1: the broker's retention decides
    topic_id: bytes = uuid(since=4, tag=0, default=bytes(16))


@wire_struct
class MemberMetadata:
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=0, default=None)  # KIP-345
    client_id: str = string()
    client_host: str = string()
    rebalance_timeout: int = int32(since=1, default=-1)  # ms
    session_timeout: int = int32()  # ms
    subscription: Buffer = bytes_()
    assignment: Buffer = bytes_()


@message(versions=(0, 4), flexible=4)
class GroupMetadataValue:
    """A classic group in one generation. No members: it is empty."""

    protocol_type: str = string()
    generation: int = int32()
    protocol: str | None = string(nullable=0)
    leader: str | None = string(nullable=0)
    current_state_timestamp: int = int64(since=2, default=-1)  # ms, of the last change of state
    members: list[MemberMetadata] = array(MemberMetadata)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupMetadataValue:
    """A group of the new protocol exists."""

    epoch: int = int32()
    metadata_hash: int = int64(tag=0, default=0)  # of all topics subscribed to (KIP-1101)


@wire_struct
class PartitionMetadata:
    partition: int = int32()
    racks: list[str] = array("string")


@wire_struct
class TopicMetadata:
    topic_id: bytes = uuid()
    topic_name: str = string()
    num_partitions: int = int32()
    partition_metadata: list[PartitionMetadata] = array(PartitionMetadata)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupPartitionMetadataValue:
    """The topics a group was computed for; since Kafka 4.1 a hash in ConsumerGroupMetadataValue says it."""

    topics: list[TopicMetadata] = array(TopicMetadata)


@wire_struct
class ClassicProtocol:
    name: str = string()
    metadata: Buffer = bytes_()


@wire_struct
class ClassicMemberMetadata:
    session_timeout_ms: int = int32()
    supported_protocols: list[ClassicProtocol] = array(ClassicProtocol)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupMemberMetadataValue:
    """What a member said of itself."""

    instance_id: str | None = string(nullable=0)
    rack_id: str | None = string(nullable=0)
    client_id: str = string()
    client_host: str = string()
    subscribed_topic_names: list[str] = array("string")
    subscribed_topic_regex: str | None = string(nullable=0)
    rebalance_timeout_ms: int = int32(default=-1)
    server_assignor: str | None = string(nullable=0)
    # of a member that speaks the classic protocol, else null
    classic_member_metadata: ClassicMemberMetadata | None = embed(ClassicMemberMetadata, nullable=0, tag=0)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupTargetAssignmentMetadataValue:
    """The group epoch for which the target assignment was computed."""

    assignment_epoch: int = int32()
    assignment_timestamp: int = int64(tag=0, default=0)  # ms (KIP-1263)


@wire_struct
class TargetTopicPartitions:
    topic_id: bytes = uuid()
    partitions: list[int] = array("int32")


@message(versions=(0, 0), flexible=0)
class ConsumerGroupTargetAssignmentMemberValue:
    """What a member is to own."""

    topic_partitions: list[TargetTopicPartitions] = array(TargetTopicPartitions)


@wire_struct
class OwnedTopicPartitions:
    topic_id: bytes = uuid()
    partitions: list[int] = array("int32")
    # of each partition, the member epoch at which it was assigned: fences late commits
    assignment_epochs: list[int] | None = array("int32", nullable=0, tag=0, default=None)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupCurrentMemberAssignmentValue:
    """What a member owns, and what it is giving up."""

    member_epoch: int = int32()
    previous_member_epoch: int = int32()
    state: int = int8()  # 0 stable, 1 unrevoked partitions, 2 unreleased partitions, 127 unknown
    assigned_partitions: list[OwnedTopicPartitions] = array(OwnedTopicPartitions)
    partitions_pending_revocation: list[OwnedTopicPartitions] = array(OwnedTopicPartitions)


@message(versions=(0, 0), flexible=0)
class ConsumerGroupRegularExpressionValue:
    """The topics that matched, in which version of the cluster's picture, and when that was looked up (ms)."""

    topics: list[str] = array("string")
    version: int = int64()
    timestamp: int = int64()


# -- the table, and both directions -----------------------------------------------------------------------------------


class Format(NamedTuple):
    """How the records of one type are read and written."""

    key: type
    value: type
    version: int  # of values as they are written
    version_max: int  # of values that can be read


FORMATS: dict[int, Format] = {
    KeyType.LEGACY_OFFSET_COMMIT: Format(OffsetCommitKey, OffsetCommitValue, 4, 4),
    KeyType.OFFSET_COMMIT: Format(OffsetCommitKey, OffsetCommitValue, 4, 4),
    KeyType.GROUP_METADATA: Format(GroupKey, GroupMetadataValue, 3, 4),
    KeyType.CONSUMER_GROUP_METADATA: Format(GroupKey, ConsumerGroupMetadataValue, 0, 0),
    KeyType.CONSUMER_GROUP_PARTITION_METADATA: Format(GroupKey, ConsumerGroupPartitionMetadataValue, 0, 0),
    KeyType.CONSUMER_GROUP_MEMBER_METADATA: Format(MemberKey, ConsumerGroupMemberMetadataValue, 0, 0),
    KeyType.CONSUMER_GROUP_TARGET_ASSIGNMENT_METADATA: Format(
        GroupKey, ConsumerGroupTargetAssignmentMetadataValue, 0, 0
    ),
    KeyType.CONSUMER_GROUP_TARGET_ASSIGNMENT_MEMBER: Format(MemberKey, ConsumerGroupTargetAssignmentMemberValue, 0, 0),
    KeyType.CONSUMER_GROUP_CURRENT_MEMBER_ASSIGNMENT: Format(
        MemberKey, ConsumerGroupCurrentMemberAssignmentValue, 0, 0
    ),
    KeyType.CONSUMER_GROUP_REGULAR_EXPRESSION: Format(RegularExpressionKey, ConsumerGroupRegularExpressionValue, 0, 0),
}


def key_type(key: bytes) -> int:
    """The type a key begins with, known or not; -1 when it is too short to have one."""
    return int(_INT16.unpack_from(key)[0]) if len(key) >= VERSION_SIZE else -1


def encode_key(kind: KeyType, key: Any) -> bytes:
    """The bytes of a key object of that type."""
    return _INT16.pack(kind) + encoder(FORMATS[kind].key, 0)(key)


def encode_value(kind: KeyType, value: Any, version: int | None = None) -> bytes:
    """The bytes of a value object of that type; version: another one than Kafka 4.3 writes."""
    written = FORMATS[kind].version if version is None else version
    return _INT16.pack(written) + encoder(FORMATS[kind].value, written)(value)


def encode_value_in_turns(kind: KeyType, value: Any) -> Work[bytes]:
    """The same for a value that may have very many elements."""
    written = FORMATS[kind].version
    encoding = encode_in_slices(value, written)
    while True:
        try:
            next(encoding)
        except StopIteration as stop:
            return _INT16.pack(written) + b"".join(stop.value)
        yield from rest(TAGGED_STEPS * SLICE)


def decode_key(key: bytes) -> Any:
    """The key object; None for a type nobody here knows. Raises ProtocolError."""
    found = FORMATS.get(key_type(key))
    return None if found is None else decoder(found.key, 0)(key, VERSION_SIZE)


def decode_value(kind: int, value: bytes) -> Any:
    """The value object of a record whose key has that type. Its bytes fields are views of `value`.

    Raises ProtocolError, also for a version of the future; KeyError for an unknown type.
    """
    found = FORMATS[kind]
    version = key_type(value)
    if not 0 <= version <= found.version_max:
        raise ProtocolError(f"{found.value.__name__} has no version {version}")
    return decoder(found.value, version)(value, VERSION_SIZE)


# -- what is written often --------------------------------------------------------------------------------------------


def offset_commit_key(group: str, topic: str, partition: int) -> bytes:
    """Key of a committed offset: `encode_key`, for a hot path. Raises ValueError for names above 32767 bytes."""
    group_bytes, topic_bytes = group.encode(), topic.encode()
    if len(group_bytes) > 32767 or len(topic_bytes) > 32767:
        raise ValueError("a string on the wire has at most 32767 bytes")
    return CURRENT_OFFSET_KEY + b"%b%b%b%b%b" % (
        _INT16.pack(len(group_bytes)), group_bytes, _INT16.pack(len(topic_bytes)), topic_bytes, _INT32.pack(partition)
    )  # fmt: skip


def read_offset_commit_key(key: bytes) -> tuple[str, str, int]:
    """Group, topic and partition of the key of an offset's key: `decode_key`, for a hot path. Raises ProtocolError."""
    try:
        group_end = 4 + (key[2] << 8 | key[3])
        topic_start = group_end + 2
        topic_end = topic_start + (key[group_end] << 8 | key[group_end + 1])
        partition: int = _INT32.unpack_from(key, topic_end)[0]
        return key[4:group_end].decode(), key[topic_start:topic_end].decode(), partition
    except (IndexError, UnicodeDecodeError, struct.error):
        raise ProtocolError("the key of a committed offset is malformed") from None


def offset_commit_value(value: OffsetCommitValue) -> bytes:
    """Value of a committed offset, in the version Kafka would choose (GroupCoordinatorRecordHelpers)."""
    return encode_value(KeyType.OFFSET_COMMIT, value, 1 if value.expire_timestamp >= 0 else 4)


def offset_record(group: str, topic: str, partition: int, value: OffsetCommitValue | None) -> Pair:
    """The record of a committed offset; None removes it."""
    return offset_commit_key(group, topic, partition), None if value is None else offset_commit_value(value)


def record_pair(kind: KeyType, key: Any, value: Any | None) -> Pair:
    """A record of any type; value None removes it."""
    return encode_key(kind, key), None if value is None else encode_value(kind, value)
