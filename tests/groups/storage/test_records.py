"""The records of `__consumer_offsets`: known bytes, both directions, every version, and nonsense."""

from __future__ import annotations

import pytest

from kafka_wire.errors import ProtocolError
from kbroker.coordinators.effects import StateRecord
from kbroker.groups.storage.records import (
    FORMATS,
    GroupKey,
    GroupMetadataValue,
    KeyType,
    MemberMetadata,
    OffsetCommitKey,
    OffsetCommitValue,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    key_type,
    offset_commit_key,
    offset_record,
    read_offset_commit_key,
)
from kbroker.groups.storage.snapshots import (
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
from kbroker.groups.storage.stored import read_state, state_pair

ID, OTHER = bytes(range(16)), bytes(range(1, 17))
OFFSET = OffsetCommitValue(offset=42, leader_epoch=3, metadata="ü", commit_timestamp=1_700_000_000_000, topic_id=ID)
MEMBER = MemberSnapshot("m-1", "host", "app", "/1.2.3.4", 300_000, 45_000, b"topics", b"mine")

STATES: list[StateRecord] = [
    GroupSnapshot("g", "consumer", 7, "range", "m-1", 1_700_000_000_000, (MEMBER,)),
    GroupSnapshot("g", "consumer", 8, None, None, 1_700_000_000_001, ()),
    GroupSnapshot("g", None, 0, None, None, -1, ()),
    ConsumerGroupSnapshot("g", 9, -5),
    ConsumerGroupSnapshot("g", 9, 0),
    ConsumerMemberSnapshot("g", "m", None, None, "app", "/1.2.3.4", ("a", "b"), None, 1000, None, None),
    ConsumerMemberSnapshot(
        "g", "m", "i", "r", "app", "/h", (), "t.*", -1, "uniform", ClassicMemberSnapshot(45_000, (("range", b"x"),))
    ),
    TargetEpochSnapshot("g", 9, 1_700_000_000_000),
    TargetEpochSnapshot("g", 9, 0),
    TargetMemberSnapshot("g", "m", ((ID, (0, 1)), (OTHER, (5,)))),
    TargetMemberSnapshot("g", "m", ()),
    CurrentMemberSnapshot("g", "m", 9, 8, 1, ((ID, (0, 1)),), ((8, 9),), ((OTHER, (2,)),), ((7,),)),
    CurrentMemberSnapshot("g", "m", -2, 8, 0, ((ID, (0,)),), None, (), ()),
    RegexSnapshot("g", "t.*", ("t1", "t2"), 12, 1_700_000_000_000),
]
TOMBSTONES: list[StateRecord] = [
    GroupTombstone("g"),
    *(ConsumerGroupTombstone(kind, "g", "m") for kind in (3, 5, 6, 7, 8, 16)),
]
PAIRS = [state_pair(state) for state in [*STATES, *TOMBSTONES]] + [
    offset_record("g", "t", 3, OFFSET),
    offset_record("g", "t", 3, OffsetCommitValue(offset=1, metadata="", commit_timestamp=5, expire_timestamp=9)),
    offset_record("g", "t", 3, None),
]


def test_bytes_as_kafka_documents_them() -> None:
    key, value = offset_record("g", "t", 3, OFFSET)
    assert key.hex(" ") == "00 01 00 01 67 00 01 74 00 00 00 03"
    assert value is not None
    assert value.hex() == "0004000000000000002a0000000303c3bc0000018bcfe56800010010" + ID.hex()
    key, value = state_pair(GroupTombstone("g"))
    assert (key.hex(" "), value) == ("00 02 00 01 67", None)


def test_the_fast_key_is_the_declared_one() -> None:
    key = OffsetCommitKey(group="grüße", topic="t", partition=7)
    assert offset_commit_key("grüße", "t", 7) == encode_key(KeyType.OFFSET_COMMIT, key)
    assert read_offset_commit_key(offset_commit_key("grüße", "t", 7)) == ("grüße", "t", 7)
    for cut in range(2, 16):
        with pytest.raises(ProtocolError):
            read_offset_commit_key(offset_commit_key("grüße", "t", 7)[:cut])
    with pytest.raises(ValueError, match="32767"):
        offset_commit_key("ü" * 20_000, "t", 0)


@pytest.mark.parametrize("version", range(5))
def test_offsets_of_every_version_are_read(version: int) -> None:
    read = decode_value(KeyType.OFFSET_COMMIT, encode_value(KeyType.OFFSET_COMMIT, OFFSET, version))
    assert (read.offset, read.metadata, read.commit_timestamp) == (42, "ü", 1_700_000_000_000)
    assert read.leader_epoch == (3 if version >= 3 else -1)
    assert read.topic_id == (ID if version >= 4 else bytes(16))


@pytest.mark.parametrize("version", range(5))
def test_classic_groups_of_every_version_are_read(version: int) -> None:
    member = MemberMetadata(
        member_id="m", group_instance_id="i", client_id="c", client_host="h", rebalance_timeout=5, session_timeout=6,
        subscription=b"s", assignment=b"a",
    )  # fmt: skip
    value = GroupMetadataValue(
        protocol_type="consumer", generation=3, protocol="p", leader="m", current_state_timestamp=8, members=[member]
    )
    key = encode_key(KeyType.GROUP_METADATA, GroupKey(group="g"))
    read = read_state(key, encode_value(KeyType.GROUP_METADATA, value, version))
    assert isinstance(read, GroupSnapshot)
    assert (read.generation, read.leader, read.state_timestamp_ms) == (3, "m", 8 if version >= 2 else -1)
    assert read.members[0].rebalance_timeout_ms == (5 if version >= 1 else 6), "the session timeout stands in for it"
    assert read.members[0].group_instance_id == ("i" if version >= 3 else None)


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_what_is_stored_is_found(state: StateRecord) -> None:
    key, value = state_pair(state)
    assert value is not None
    assert read_state(key, value) == state


def test_tombstones_have_the_keys_of_what_they_remove() -> None:
    keys = {state_pair(state)[0] for state in STATES}
    for gone in TOMBSTONES[:-1]:
        key, value = state_pair(gone)
        assert key in keys and value is None
    assert state_pair(ConsumerGroupTombstone(16, "g", "t.*"))[0] in keys


def test_unknown_types_are_passed_over_and_nonsense_is_refused() -> None:
    assert decode_key(b"\0\x63anything") is None
    assert (key_type(b""), key_type(b"\0"), key_type(b"\xff\xff")) == (-1, -1, -1)
    assert read_state(b"\0\x0b\0\1g", b"\0\0\0") is None
    for kind in FORMATS:
        with pytest.raises(ProtocolError):
            decode_key(kind.to_bytes(2, "big") + b"\0\xff")
        for value in (b"", b"\0", b"\0\x63", b"\xff\xff", b"\0\0"):
            with pytest.raises(ProtocolError):
                decode_value(kind, value)
