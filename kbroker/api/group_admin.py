"""DescribeGroups 0-6, ListGroups 0-5, DeleteGroups 0-2: groups seen from outside.

An unknown group is described as Dead without an error up to version 5, and as GROUP_ID_NOT_FOUND from 6 on (KIP-1043).
From 5 on DescribeGroups tells a client that asks for them a group's last rebalances: kbroker's own tagged fields.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeAlias

from kafka_wire.api import ApiKey
from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.group_admin import (
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
    DescribedGroup,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
    ListedGroup,
    ListGroupsRequest,
    ListGroupsResponse,
)
from kbroker.api.context import Context
from kbroker.api.registry import handles
from kbroker.coordinators.routing import pauses_for
from kbroker.coordinators.shard import told
from kbroker.groups import offset_requests
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.groups.group import Group
from kbroker.groups.shard import GroupShard
from kbroker.groups.timeline_views import add_timeline
from kbroker.turns import Work, answer, each

# Bit n stands for AclOperation n: what an open broker lets everyone do with a group (KIP-430).
GROUP_OPERATIONS = sum(1 << n for n in (3, 6, 8, 10, 11))  # read delete describe describe_configs alter_configs
OPERATIONS_SINCE = 3  # DescribeGroups version
NOT_FOUND_SINCE = 6  # DescribeGroups version
MEMBER_BYTES = 256  # of a member in an answer, besides what it told

DESCRIBED_BYTES_MAX = 32 * 1024 * 1024  # of one answer, roughly: what members told, and were told

DescribeAnswer: TypeAlias = "DescribeGroupsResponse | Coroutine[Any, Any, DescribeGroupsResponse]"
ListAnswer: TypeAlias = "ListGroupsResponse | Coroutine[Any, Any, ListGroupsResponse]"
DeleteAnswer: TypeAlias = "DeleteGroupsResponse | Coroutine[Any, Any, DeleteGroupsResponse]"


@handles(ApiKey.DESCRIBE_GROUPS, 0, 6)
def describe_groups(request: DescribeGroupsRequest, context: Context) -> DescribeAnswer:
    """Classic groups with their members."""
    return answer(_all_described(request, context))


def _all_described(request: DescribeGroupsRequest, context: Context) -> Work[DescribeGroupsResponse]:
    """The answer has a bound: a few bytes name a large group, and may do so ten thousand times."""
    timelines = set(request.groups) if request.include_rebalances else set[str]()
    operations = context.version >= OPERATIONS_SINCE and request.include_authorized_operations
    groups, size = [], 0
    for group_id in request.groups:
        if size > DESCRIBED_BYTES_MAX:
            described = DescribedGroup(group_id=group_id, error_code=ErrorCode.INVALID_REQUEST)
        else:
            described = yield from _described(group_id, context, timelines)
            size += sum(MEMBER_BYTES + len(m.member_metadata) + len(m.member_assignment) for m in described.members)
        if operations and not described.error_code:
            described.authorized_operations = GROUP_OPERATIONS
        groups.append(described)
        yield from pauses_for(group_id)
    return DescribeGroupsResponse(groups=groups)


def _described(group_id: str, context: Context, timelines: set[str]) -> Work[DescribedGroup]:
    """timelines: of which groups to tell the timeline; each once, as it is long, however often the group is named."""
    try:
        group = context.services.groups.shard(group_id).groups.get(group_id)
    except KafkaError as error:
        return DescribedGroup(group_id=group_id, error_code=error.code)
    described = _not_found(group_id) if group is None else (yield from group.describe_classic())
    if described.error_code and context.version < NOT_FOUND_SINCE:
        return DescribedGroup(group_id=group_id, group_state="Dead")
    if group is not None and group_id in timelines and not described.error_code:
        timelines.remove(group_id)
        yield from add_timeline(described, group.timeline)
    return described


def _not_found(group_id: str) -> DescribedGroup:
    return DescribedGroup(
        group_id=group_id,
        group_state="Dead",
        error_code=ErrorCode.GROUP_ID_NOT_FOUND,
        error_message=f"Group {group_id} not found.",
    )


@handles(ApiKey.LIST_GROUPS, 0, 5)
def list_groups(request: ListGroupsRequest, context: Context) -> ListAnswer:
    """The groups coordinated here, filtered by state (KIP-518) and type (KIP-848), letter case aside."""
    return answer(_listed(request, context))


def _listed(request: ListGroupsRequest, context: Context) -> Work[ListGroupsResponse]:
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    error, listed = ErrorCode.NONE, list[ListedGroup]()
    for shard in list(context.services.groups.runtime.leading.shards):
        if not shard.is_active:
            if not shard.has_failed:  # else there is nothing that could be waited for
                error = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            continue
        rows = yield from each(_row, list(shard.groups.values()))
        listed += [
            row
            for row in rows
            if (not states or row.group_state.lower() in states) and (not types or row.group_type.lower() in types)
        ]
    return ListGroupsResponse(error_code=error, groups=listed)


def _row(group: Group) -> ListedGroup:
    return group.listing()


@handles(ApiKey.DELETE_GROUPS, 0, 2)
def delete_groups(request: DeleteGroupsRequest, context: Context) -> DeleteAnswer:
    """Delete groups that have no members, and their offsets."""
    return answer(_deleted(request, context))


def _deleted(request: DeleteGroupsRequest, context: Context) -> Work[DeleteAnswer]:
    """Groups are deleted one after another; their commits are waited for together, shard by shard."""
    coordinator = context.services.groups
    results, ends = [], dict[GroupShard, int]()
    of_shards: dict[GroupShard, list[DeletableGroupResult]] = {}
    for group_id in dict.fromkeys(request.groups_names):
        result = DeletableGroupResult(group_id=group_id)
        try:
            shard, offset = yield from offset_requests.delete_group(coordinator, group_id)
            ends[shard] = max(ends.get(shard, -1), offset)
            of_shards.setdefault(shard, []).append(result)
        except KafkaError as error:
            result.error_code = told(error)
        results.append(result)
        yield from pauses_for(group_id)
    response = DeleteGroupsResponse(results=results)
    if all(shard.is_committed(offset) for shard, offset in ends.items()):
        return response
    return _deleted_later(coordinator, response, ends, of_shards)


async def _deleted_later(
    coordinator: GroupCoordinator,
    response: DeleteGroupsResponse,
    ends: dict[GroupShard, int],
    of_shards: dict[GroupShard, list[DeletableGroupResult]],
) -> DeleteGroupsResponse:
    for shard, offset in ends.items():
        waiting = offset_requests.when_committed(coordinator, shard, offset)
        code = waiting if isinstance(waiting, ErrorCode) else await waiting
        for result in of_shards[shard] if code else ():
            result.error_code = code
    return response
