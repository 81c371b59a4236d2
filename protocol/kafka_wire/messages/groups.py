"""FindCoordinator, and the classic group protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

A member's metadata and its assignment are opaque here; what consumers put into them is in `internal`."""

from __future__ import annotations

from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, boolean, bytes_, int8, int16, int32, message, string, struct


@message(key=10, versions=(0, 6), flexible=3)
class FindCoordinatorRequest:
    """Which broker looks after a group (key_type 0), a transactional id (1), or a share partition (2)?"""

    key: str = string(until=3, default="")  # the one key, up to v3
    key_type: int = int8(since=1, default=0)
    coordinator_keys: list[str] = array("string", since=4, default=[])


@struct
class Coordinator:
    key: str = string(default="")
    node_id: int = int32()
    host: str = string(default="")
    port: int = int32(default=0)
    error_code: int = int16(default=0)
    error_message: str | None = string(nullable=0, default=None)


@message(key=10, versions=(0, 6), flexible=3)
class FindCoordinatorResponse:
    """The coordinator; since v4 one answer for each key (KIP-699)."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(until=3, default=0)
    error_message: str | None = string(since=1, until=3, nullable=0, default=None)
    node_id: int = int32(until=3, default=0)
    host: str = string(until=3, default="")
    port: int = int32(until=3, default=0)
    coordinators: list[Coordinator] = array(Coordinator, since=4, default=[])


@struct
class JoinGroupRequestProtocol:
    name: str = string()
    metadata: Buffer = bytes_()


@message(key=11, versions=(0, 9), flexible=6)
class JoinGroupRequest:
    """A member asks to enter a group; the answer waits for the rebalance."""

    group_id: str = string()
    session_timeout_ms: int = int32()
    rebalance_timeout_ms: int = int32(since=1, default=-1)  # before: the session timeout
    member_id: str = string()  # empty on first contact (KIP-394)
    group_instance_id: str | None = string(since=5, nullable=0, default=None)  # static membership (KIP-345)
    protocol_type: str = string()
    protocols: list[JoinGroupRequestProtocol] = array(JoinGroupRequestProtocol)  # in order of preference
    reason: str | None = string(since=8, nullable=0, default=None)  # KIP-800


@struct
class JoinGroupResponseMember:
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=5, nullable=0, default=None)
    metadata: Buffer = bytes_(default=b"")


@message(key=11, versions=(0, 9), flexible=6)
class JoinGroupResponse:
    """The new generation. Only its leader is told the members."""

    throttle_time_ms: int = int32(since=2, default=0)
    error_code: int = int16(default=0)
    generation_id: int = int32(default=-1)
    protocol_type: str | None = string(since=7, nullable=0, default=None)
    protocol_name: str | None = string(nullable=7, default="")
    leader: str = string(default="")
    skip_assignment: bool = boolean(since=9, default=False)  # the leader need not assign again (KIP-814)
    member_id: str = string(default="")
    members: list[JoinGroupResponseMember] = array(JoinGroupResponseMember, default=[])  # empty except for the leader


@struct
class SyncGroupRequestAssignment:
    member_id: str = string()
    assignment: Buffer = bytes_()


@message(key=14, versions=(0, 5), flexible=4)
class SyncGroupRequest:
    """The leader hands in everybody's assignment; the others ask for theirs."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=0, default=None)
    protocol_type: str | None = string(since=5, nullable=0, default=None)  # checked against the group's (KIP-559)
    protocol_name: str | None = string(since=5, nullable=0, default=None)
    assignments: list[SyncGroupRequestAssignment] = array(SyncGroupRequestAssignment)  # empty except from the leader


@message(key=14, versions=(0, 5), flexible=4)
class SyncGroupResponse:
    """The member's own assignment."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    protocol_type: str | None = string(since=5, nullable=0, default=None)
    protocol_name: str | None = string(since=5, nullable=0, default=None)
    assignment: Buffer = bytes_(default=b"")


@message(key=12, versions=(0, 4), flexible=4)
class HeartbeatRequest:
    """The member is alive."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable=0, default=None)


@message(key=12, versions=(0, 4), flexible=4)
class HeartbeatResponse:
    """REBALANCE_IN_PROGRESS asks the member to join again."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)


@struct
class MemberIdentity:
    member_id: str = string()
    group_instance_id: str | None = string(nullable=0, default=None)
    reason: str | None = string(since=5, nullable=0, default=None)  # KIP-800


@message(key=13, versions=(0, 5), flexible=4)
class LeaveGroupRequest:
    """Members leave at once instead of timing out. Several since v3 (KIP-345)."""

    group_id: str = string()
    member_id: str = string(until=2, default="")
    members: list[MemberIdentity] = array(MemberIdentity, since=3, default=[])


@struct
class MemberResponse:
    member_id: str = string(default="")
    group_instance_id: str | None = string(nullable=0, default="")
    error_code: int = int16(default=0)


@message(key=13, versions=(0, 5), flexible=4)
class LeaveGroupResponse:
    """Who has left."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    members: list[MemberResponse] = array(MemberResponse, since=3, default=[])
