"""What the group commands know of a group: its members, what it has committed, who leads its partitions.

A classic group is described by DescribeGroups, a KIP-848 group by ConsumerGroupDescribe; each says GROUP_ID_NOT_FOUND
of the other's. Both are asked with kafka_wire's messages (bridge.py): kafka-python does not have the second, and of
the first it keeps no error code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from kafka_wire.api import ApiKey
from kbroker.cli.client import bridge
from kbroker.cli.client.connecting import ANSWER_TIMEOUT_MS, check_code
from kbroker.cli.cluster import reads as cluster
from kbroker.cli.cluster.reads import TopicPartition
from kbroker.cli.errors import Failed
from kbroker.cli.groups.timeline import Told, read
from kbroker.env import address_text

GROUP_ID_NOT_FOUND = 69
COORDINATOR_MOVING = (14, 15, 16)  # LOAD_IN_PROGRESS, NOT_AVAILABLE, NOT_COORDINATOR: ask again
RETRY_S = 0.1
CONSUMER = "consumer"  # the protocol type of consumers; Kafka Connect has another
IDLE_STATES = ("Empty", "Dead")  # without members

T = TypeVar("T")


class Member(NamedTuple):
    """A live member and the partitions it has."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: tuple[TopicPartition, ...]
    epoch: int | None = None  # KIP-848


class Described(NamedTuple):
    """A group as its coordinator describes it. members None: the broker did not say."""

    name: str
    state: str
    kind: str  # classic, consumer
    protocol: str  # the assignor
    epoch: int | None  # KIP-848
    members: tuple[Member, ...] | None
    coordinator: str
    timeline: Told | None = None  # None: not asked for, or the broker keeps none


def described(client: Any, name: str, *, rebalances: bool = False) -> Described | None:
    """A group, if wished with its last rebalances; None when there is none of that name. Raises Failed."""
    node = patiently(client, lambda: client._manager.run(client._find_coordinator_id, name))
    where = _address(client, node)
    found = patiently(client, lambda: _classic(client, node, name, where, rebalances))
    if found is None:
        found = patiently(client, lambda: _consumer(client, node, name, where, rebalances))
    return found if found is not None else patiently(client, lambda: _listed(client, node, name, where))


def committed(client: Any, name: str) -> dict[TopicPartition, int]:
    """The committed offsets of a group."""
    answer = patiently(client, lambda: client.list_group_offsets({name: None}))[name]
    return {(key.topic, key.partition): value.offset for key, value in sorted(answer.items()) if value.offset >= 0}


def led(client: Any, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Who leads each of these partitions, in order. Those that nobody leads, or that are gone, are left out."""
    there = cluster.partitions(client, {topic for topic, _ in partitions}, if_there=True) if partitions else []
    wanted = set(partitions)
    return {each.key: each.leader for each in there if each.key in wanted and each.leader != cluster.NOBODY}


def patiently(client: Any, ask: Callable[[], T]) -> T:
    """Ask a coordinator again while it is being found, loaded or moved, for as long as an answer may take."""
    from kafka.errors import BrokerResponseError

    give_up = time.monotonic() + ANSWER_TIMEOUT_MS / 1000
    while True:
        try:
            return ask()
        except BrokerResponseError as error:
            if error.errno not in COORDINATOR_MOVING or time.monotonic() > give_up:
                raise
        client._manager.cluster._coordinators.clear()  # kafka-python would ask the same one again
        time.sleep(RETRY_S)


def _classic(client: Any, node: Any, name: str, where: str, rebalances: bool) -> Described | None:
    from kafka_wire.messages.group_admin import DescribeGroupsRequest

    version = bridge.supported_version(client, ApiKey.DESCRIBE_GROUPS)
    if version is None:
        raise Failed("this broker has no groups")
    request = DescribeGroupsRequest(groups=[name], include_rebalances=rebalances)
    group = bridge.send(client, node, request, ApiKey.DESCRIBE_GROUPS, version).groups[0]
    if group.error_code == GROUP_ID_NOT_FOUND or (group.group_state == "Dead" and not group.members):
        return None
    _check(group.error_code, name, group.error_message)
    members = tuple(
        Member(
            each.member_id,
            each.group_instance_id,
            each.client_id,
            each.client_host.lstrip("/"),
            _assigned(each.member_assignment) if group.protocol_type == CONSUMER else (),
        )
        for each in group.members
    )
    return Described(name, group.group_state, "classic", group.protocol_data, None, members, where, read(group))


def _consumer(client: Any, node: Any, name: str, where: str, rebalances: bool) -> Described | None:
    from kafka_wire.messages.consumer_groups import ConsumerGroupDescribeRequest

    version = bridge.supported_version(client, ApiKey.CONSUMER_GROUP_DESCRIBE)
    if version is None:
        return None
    request = ConsumerGroupDescribeRequest(
        group_ids=[name], include_authorized_operations=False, include_rebalances=rebalances
    )
    group = bridge.send(client, node, request, ApiKey.CONSUMER_GROUP_DESCRIBE, version).groups[0]
    if group.error_code == GROUP_ID_NOT_FOUND:
        return None
    _check(group.error_code, name, group.error_message)
    members = tuple(
        Member(
            each.member_id,
            each.instance_id,
            each.client_id,
            each.client_host.lstrip("/"),
            tuple(sorted((t.topic_name, p) for t in each.assignment.topic_partitions for p in t.partitions)),
            each.member_epoch,
        )
        for each in group.members
    )
    return Described(
        name, group.group_state, "consumer", group.assignor_name, group.group_epoch, members, where, read(group)
    )


def _listed(client: Any, node: Any, name: str, where: str) -> Described | None:
    """A group its coordinator lists and does not describe. Its members stay unknown."""
    from kafka_wire.messages.group_admin import ListGroupsRequest

    told = bridge.send(client, node, ListGroupsRequest(), ApiKey.LIST_GROUPS)
    _check(told.error_code, name, None)
    for each in told.groups:
        if each.group_id == name:
            kind = each.group_type.lower() or "unknown"
            return Described(name, each.group_state or "unknown state", kind, "", None, None, where)
    return None


def _check(code: int, name: str, message: str | None) -> None:
    from kafka.errors import for_code

    if code in COORDINATOR_MOVING:
        raise for_code(code)(message or name)
    check_code(code, name, message)


def _assigned(assignment: Any) -> tuple[TopicPartition, ...]:
    from kbroker.groups.consumer_protocol import read_assignment

    return tuple(sorted(read_assignment(bytes(assignment)) or ()))


def _address(client: Any, node: Any) -> str:
    broker = client._manager.cluster.broker_metadata(node)
    return f"{node}" if broker is None else f"{node} at {address_text(broker.host, broker.port)}"
