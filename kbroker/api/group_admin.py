"""DescribeGroups 0-6, ListGroups 0-5, DeleteGroups 0-2: groups seen from outside.

An unknown group is described as Dead without an error up to version 5, and as GROUP_ID_NOT_FOUND from 6 on (KIP-1043).
From 5 on DescribeGroups tells a client that asks for them a group's last rebalances: kbroker's own tagged fields.
"""

from __future__ import annotations

from collections.abc import Coroutine
from types import CoroutineType
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
from kbroker.groups import offset_requests
from kbroker.groups.timeline_views import add_timeline

# Bit n stands for AclOperation n: what an open broker lets everyone do with a group (KIP-430).
GROUP_OPERATIONS = sum(1 << n for n in (3, 6, 8, 10, 11))  # read delete describe describe_configs alter_configs
OPERATIONS_SINCE = 3  # DescribeGroups version
NOT_FOUND_SINCE = 6  # DescribeGroups version

DeleteAnswer: TypeAlias = "DeleteGroupsResponse | Coroutine[Any, Any, DeleteGroupsResponse]"


@handles(ApiKey.DESCRIBE_GROUPS, 0, 6)
def describe_groups(request: DescribeGroupsRequest, context: Context) -> DescribeGroupsResponse:
    """Classic groups with their members."""
    timelines = set(request.groups) if request.include_rebalances else set[str]()
    groups = [_described(group_id, context, timelines) for group_id in request.groups]
    if context.version >= OPERATIONS_SINCE and request.include_authorized_operations:
        for group in groups:
            if not group.error_code:
                group.authorized_operations = GROUP_OPERATIONS
    return DescribeGroupsResponse(groups=groups)


def _described(group_id: str, context: Context, timelines: set[str]) -> DescribedGroup:
    """timelines: of which groups to tell the timeline; each once, as it is long, however often the group is named."""
    try:
        group = context.services.groups.shard(group_id).groups.get(group_id)
    except KafkaError as error:
        return DescribedGroup(group_id=group_id, error_code=error.code)
    described = _not_found(group_id) if group is None else group.describe_classic()
    if described.error_code and context.version < NOT_FOUND_SINCE:
        return DescribedGroup(group_id=group_id, group_state="Dead")
    if group is not None and group_id in timelines and not described.error_code:
        timelines.remove(group_id)
        add_timeline(described, group.timeline)
    return described


def _not_found(group_id: str) -> DescribedGroup:
    return DescribedGroup(
        group_id=group_id,
        group_state="Dead",
        error_code=ErrorCode.GROUP_ID_NOT_FOUND,
        error_message=f"Group {group_id} not found.",
    )


@handles(ApiKey.LIST_GROUPS, 0, 5)
def list_groups(request: ListGroupsRequest, context: Context) -> ListGroupsResponse:
    """The groups coordinated here, filtered by state (KIP-518) and type (KIP-848), letter case aside."""
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    error, listed = ErrorCode.NONE, list[ListedGroup]()
    for shard in context.services.groups.runtime.leading.shards:
        if not shard.is_active:
            error = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            continue
        for group in shard.groups.values():
            row = group.listing()
            if (not states or row.group_state.lower() in states) and (not types or row.group_type.lower() in types):
                listed.append(row)
    return ListGroupsResponse(error_code=error, groups=listed)


@handles(ApiKey.DELETE_GROUPS, 0, 2)
def delete_groups(request: DeleteGroupsRequest, context: Context) -> DeleteAnswer:
    """Delete groups that have no members, and their offsets."""
    results = [_delete(group_id, context) for group_id in request.groups_names]
    if any(isinstance(result, CoroutineType) for result in results):
        return _await_all(results)
    return DeleteGroupsResponse(results=results)


async def _await_all(results: list[Any]) -> DeleteGroupsResponse:
    return DeleteGroupsResponse(
        results=[await result if isinstance(result, CoroutineType) else result for result in results]
    )


def _delete(group_id: str, context: Context) -> Any:
    def refuse(code: ErrorCode) -> DeletableGroupResult:
        return DeletableGroupResult(group_id=group_id, error_code=code)

    return offset_requests.delete_group(context.services.groups, group_id, refuse(ErrorCode.NONE), refuse)
