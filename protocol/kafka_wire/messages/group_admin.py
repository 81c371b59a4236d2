"""DescribeGroups, ListGroups, DeleteGroups: classic groups seen from outside; ListGroups shows all types."""

from __future__ import annotations

from kafka_wire.messages.rebalances import (
    INCLUDE_REBALANCES_TAG,
    REBALANCES_TAG,
    UNOWNED_SECONDS_TAG,
    GroupRebalance,
    UnownedSeconds,
)
from kafka_wire.primitives import Buffer
from kafka_wire.schema import array, boolean, bytes_, int16, int32, message, string, struct


@message(key=15, versions=(0, 6), flexible=5)
class DescribeGroupsRequest:
    """Classic groups, their members included."""

    groups: list[str] = array("string")
    include_authorized_operations: bool = boolean(since=3, default=False)
    include_rebalances: bool = boolean(since=5, tag=INCLUDE_REBALANCES_TAG, default=False)  # kbroker's own


@struct
class DescribedGroupMember:
    member_id: str = string(default="")
    group_instance_id: str | None = string(since=4, nullable=0, default=None)
    client_id: str = string(default="")
    client_host: str = string(default="")
    member_metadata: Buffer = bytes_(default=b"")
    member_assignment: Buffer = bytes_(default=b"")


@struct
class DescribedGroup:
    error_code: int = int16(default=0)
    error_message: str | None = string(since=6, nullable=0, default=None)
    group_id: str = string()
    group_state: str = string(default="")
    protocol_type: str = string(default="")
    protocol_data: str = string(default="")
    members: list[DescribedGroupMember] = array(DescribedGroupMember, default=[])
    authorized_operations: int = int32(since=3, default=-2147483648)
    # kbroker's own; null: not asked for, or a broker that keeps none
    rebalances: list[GroupRebalance] | None = array(
        GroupRebalance, since=5, nullable=5, tag=REBALANCES_TAG, default=None
    )
    unowned_seconds: list[UnownedSeconds] = array(UnownedSeconds, since=5, tag=UNOWNED_SECONDS_TAG, default=[])


@message(key=15, versions=(0, 6), flexible=5)
class DescribeGroupsResponse:
    """An unknown group is state Dead without an error up to v5, GROUP_ID_NOT_FOUND from v6 on (KIP-1043)."""

    throttle_time_ms: int = int32(since=1, default=0)
    groups: list[DescribedGroup] = array(DescribedGroup, default=[])


@message(key=16, versions=(0, 5), flexible=3)
class ListGroupsRequest:
    """The groups this broker coordinates, by state (KIP-518) and type (KIP-848)."""

    states_filter: list[str] = array("string", since=4, default=[])
    types_filter: list[str] = array("string", since=5, default=[])


@struct
class ListedGroup:
    group_id: str = string()
    protocol_type: str = string(default="")
    group_state: str = string(since=4, default="")
    group_type: str = string(since=5, default="")


@message(key=16, versions=(0, 5), flexible=3)
class ListGroupsResponse:
    """Group ids and what they are."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(default=0)
    groups: list[ListedGroup] = array(ListedGroup, default=[])


@message(key=42, versions=(0, 2), flexible=2)
class DeleteGroupsRequest:
    """Delete groups without members, with their offsets (KIP-229)."""

    groups_names: list[str] = array("string")


@struct
class DeletableGroupResult:
    group_id: str = string()
    error_code: int = int16(default=0)


@message(key=42, versions=(0, 2), flexible=2)
class DeleteGroupsResponse:
    """What became of each group."""

    throttle_time_ms: int = int32(default=0)
    results: list[DeletableGroupResult] = array(DeletableGroupResult, default=[])
