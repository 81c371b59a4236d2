"""/api/v1/groups: the groups coordinated here; /groups/NAME: one; /groups/NAME/rebalances: its timeline.

Query: limit, after (the last name of the page before; of one group's partitions the last one, TOPIC:PARTITION).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from kafka_wire.errors import ErrorCode, KafkaError
from kafka_wire.messages.consumer_groups import DescribedConsumerGroup, DescribedConsumerGroupMember
from kafka_wire.messages.group_admin import DescribedGroup, DescribedGroupMember
from kafka_wire.messages.rebalances import GroupRebalance
from kbroker.api.context import Services
from kbroker.groups.consumer_protocol import PROTOCOL_TYPE, read_assignment
from kbroker.groups.group import Group
from kbroker.groups.shard import GroupShard
from kbroker.groups.timeline_json import METRIC, rebalance_json, unowned_json
from kbroker.groups.timeline_views import add_timeline
from kbroker.http.api.listing import Row, Rows, document, limit_of, page
from kbroker.http.messages import Answer, Refused, Request, shown
from kbroker.http.offsets import Key, Offsets, distinct, ends_of, lag_of
from kbroker.turns import Effort, Work, finish, rest

PARTITIONS_MAX = 1000  # of one member that are named
STEPS_A_ROW = 4  # of what is small in a row: to make it and to write it takes some 4 us
LATER = (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE)


async def groups(services: Services, request: Request) -> Answer:
    """A page of those coordinated here, in the order of their names. Raises Refused."""
    limit, after = limit_of(request), request.query.get("after")
    shards = list(services.groups.runtime.leading.active())
    names, following = await finish(page((name for shard in shards for name in list(shard.groups)), after, limit))
    read: dict[Group, dict[Key, int]] = {}
    for name in names:
        for shard in shards:
            if (found := shard.groups.get(name)) is not None:
                read[found] = await finish(_offsets(shard, name))
    keys = chain.from_iterable(read.values())
    ends = await ends_of(services, await finish(distinct(keys)))
    rows = [_row(services, found, await finish(_lag(offsets, ends))) for found, offsets in read.items()]
    return document({"told_by": services.node_id, "groups": iter(rows), "next": following})


def _offsets(shard: GroupShard, name: str) -> Work[dict[Key, int]]:
    """What a group has committed, by partition."""
    found, effort = dict[Key, int](), Effort()
    for topic, partitions in list(shard.offsets.topics(name).items()):
        for partition, value in list(partitions.items()):
            found[topic, partition] = value.offset
            if effort.spent():
                yield
    return found


def _lag(offsets: Mapping[Key, int], ends: Offsets) -> Work[int | None]:
    """Of all partitions whose end is known; None: of none of them."""
    total, effort = None if offsets else 0, Effort()
    for key, offset in offsets.items():
        lag = lag_of(offset, ends.get(key))
        if lag is not None:
            total = (total or 0) + lag
        if effort.spent():
            yield
    return total


def _row(services: Services, group: Group, lag: int | None) -> Row:
    """One line of `kbroker group list`."""
    listed = group.listing()
    return {
        "name": listed.group_id,
        "type": listed.group_type,
        "state": listed.group_state,
        "protocol_type": listed.protocol_type,
        "members": group.size,
        "lag": lag,
        "coordinator": services.node_id,
    }


def _found(services: Services, name: str) -> tuple[GroupShard, Group]:
    """A group and where it is kept. Raises Refused."""
    try:
        shard = services.groups.shard(name)
    except KafkaError as error:
        status = 503 if error.code in LATER else 404
        raise Refused(status, f"group {shown(name)} is not coordinated here: {error.message}") from None
    group = shard.groups.get(name)
    if group is None:
        raise Refused(404, f"there is no group {shown(name)}")
    return shard, group


async def group(services: Services, name: str, request: Request) -> Answer:
    """One group: its members, and a page of its partitions. Raises Refused."""
    shard, found = _found(services, name)
    limit, after = limit_of(request), _after(request)
    described = await finish(_described(found))
    owners = await finish(_owners(described))
    offsets = await finish(_offsets(shard, name))
    keys = await finish(distinct(chain(offsets, owners)))
    some, following = await finish(page(keys, after, limit))
    ends = await ends_of(services, keys)
    listed = found.listing()
    fields = {
        "name": name,
        "state": listed.group_state,
        "type": listed.group_type,
        "protocol": described.protocol_data if isinstance(described, DescribedGroup) else described.assignor_name,
        "epoch": None if isinstance(described, DescribedGroup) else described.group_epoch,
        "coordinator": services.node_id,
        "lag": await finish(_lag(offsets, ends)),
        "members": _members(described),
        "partitions": (_position(key, offsets.get(key), ends.get(key), owners.get(key)) for key in some),
        "next": None if following is None else f"{following[0]}:{following[1]}",
    }
    return document(fields)


def _after(request: Request) -> Key | None:
    """TOPIC:PARTITION: the last partition of the page before. Raises Refused."""
    text = request.query.get("after")
    if text is None:
        return None
    topic, _, partition = text.rpartition(":")
    if not topic or not (partition.isascii() and partition.isdecimal() and len(partition) < 10):
        raise Refused(400, f"after={shown(text)} is not TOPIC:PARTITION")
    return topic, int(partition)


def _position(key: Key, committed: int | None, end: int | None, member: str | None) -> Row:
    return {
        "topic": key[0],
        "partition": key[1],
        "committed": committed,
        "end": end,
        "lag": None if committed is None else lag_of(committed, end),
        "member": member,
    }


def _described(found: Group) -> Work[DescribedGroup | DescribedConsumerGroup]:
    described: DescribedGroup | DescribedConsumerGroup = yield from found.describe_classic()
    if described.error_code:
        described = yield from found.describe_consumer()
    return described


def _members(described: DescribedGroup | DescribedConsumerGroup) -> Rows:
    for each in described.members:
        partitions = _partitions(described, each)
        yield {
            "member_id": each.member_id,
            "instance_id": each.group_instance_id if isinstance(each, DescribedGroupMember) else each.instance_id,
            "client_id": each.client_id,
            "host": each.client_host.lstrip("/"),
            "partitions": [{"topic": topic, "partition": index} for topic, index in partitions[:PARTITIONS_MAX]],
            "partition_count": len(partitions),
            "epoch": None if isinstance(each, DescribedGroupMember) else each.member_epoch,
        }
        for _ in rest(STEPS_A_ROW * len(partitions)):
            yield None


def _partitions(
    described: DescribedGroup | DescribedConsumerGroup, member: DescribedGroupMember | DescribedConsumerGroupMember
) -> list[Key]:
    """What a member has."""
    if isinstance(member, DescribedConsumerGroupMember):
        topics = member.assignment.topic_partitions
        return [(topic.topic_name, index) for topic in topics for index in topic.partitions]
    is_read = isinstance(described, DescribedGroup) and described.protocol_type == PROTOCOL_TYPE
    return sorted((read_assignment(bytes(member.member_assignment)) or ()) if is_read else ())


def _owners(described: DescribedGroup | DescribedConsumerGroup) -> Work[dict[Key, str]]:
    owners: dict[Key, str] = {}
    for each in described.members:
        partitions = _partitions(described, each)
        owners.update(dict.fromkeys(partitions, each.member_id))
        yield
        yield from rest(len(partitions))
    return owners


async def rebalances(services: Services, name: str) -> Answer:
    """A group's last rebalances, newest first, and how long its partitions had no owner. Raises Refused."""
    _, found = _found(services, name)
    described = DescribedGroup(group_id=name)
    await finish(add_timeline(described, found.timeline))
    told, totals = reversed(described.rebalances or ()), map(unowned_json, described.unowned_seconds)
    return document({"name": name, "rebalances": _rebalances(told), METRIC: totals})


def _rebalances(told: Iterable[GroupRebalance]) -> Rows:
    for each in told:
        yield rebalance_json(each)
        for _ in rest(STEPS_A_ROW * (len(each.awaited) + len(each.unowned) + len(each.given_up))):
            yield None
