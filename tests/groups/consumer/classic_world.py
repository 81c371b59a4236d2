"""Consumers of the classic protocol in a consumer group, and classic groups to be turned into one."""

from __future__ import annotations

from typing import Any

from kafka_wire.codegen import encode
from kafka_wire.errors import ErrorCode
from kafka_wire.messages.groups import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    SyncGroupRequest,
    SyncGroupResponse,
)
from kafka_wire.messages.internal import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    ConsumerProtocolTopicPartitions,
)
from kbroker.groups.classic.group import ClassicGroup
from kbroker.groups.consumer_protocol import read_assignment
from kbroker.groups.settings import GroupLimits
from kbroker.groups.storage.snapshots import GroupSnapshot, MemberSnapshot
from kbroker.turns import at_once
from tests.groups.consumer.world import CLIENT, Consumer, World

Partitions = set[tuple[str, int]]


def said(topics: list[str], owned: Partitions = frozenset(), version: int = 1) -> bytes:  # type: ignore[assignment]
    """A subscription as a consumer writes it."""
    subscription = ConsumerProtocolSubscription(
        topics=topics,
        owned_partitions=[ConsumerProtocolTopicPartitions(topic=t, partitions=[p]) for t, p in sorted(owned)],
    )
    return version.to_bytes(2, "big") + encode(subscription, version)


def assigned(owned: Partitions, version: int = 1) -> bytes:
    """An assignment as a leader writes it."""
    assignment = ConsumerProtocolAssignment(
        assigned_partitions=[ConsumerProtocolTopicPartitions(topic=t, partitions=[p]) for t, p in sorted(owned)]
    )
    return version.to_bytes(2, "big") + encode(assignment, version)


def offer(name: str, metadata: bytes) -> list[JoinGroupRequestProtocol]:
    return [JoinGroupRequestProtocol(name=name, metadata=metadata)]


def join_request(member_id: str = "", **fields: Any) -> JoinGroupRequest:
    values: dict[str, Any] = {
        "session_timeout_ms": 30_000, "rebalance_timeout_ms": 60_000, "protocol_type": "consumer",
        "protocols": offer("range", said(["a"])),
    } | fields  # fmt: skip
    return JoinGroupRequest(group_id="g", member_id=member_id, **values)


class Classic:
    """A consumer of the classic protocol in a consumer group. Cooperative ones keep what they own while they join."""

    def __init__(
        self, world: World, member_id: str, *, cooperative: bool = False, instance_id: str | None = None
    ) -> None:
        self.world = world
        self.member_id = member_id
        self.cooperative = cooperative
        self.instance_id = instance_id
        self.generation = -1
        self.owned: Partitions = set()

    def perform(self, effects: list[Any]) -> Any:
        return self.world.perform(effects, {})

    def join(self, *, version: int = 9, **fields: Any) -> JoinGroupResponse:
        if not self.cooperative:
            self.owned = set()
        fields.setdefault("protocols", offer("range", said(["a"], self.owned)))
        request = join_request(self.member_id, group_instance_id=self.instance_id, **fields)
        world = self.world
        response = self.perform(
            world.group.join(
                "t", request, version=version, client=CLIENT, token=world.token(), now=world.now, now_ms=world.now_ms
            )
        )
        assert isinstance(response, JoinGroupResponse)
        if not response.error_code:
            self.member_id, self.generation = response.member_id, response.generation_id
        return response

    def sync(self, **fields: Any) -> SyncGroupResponse:
        values = {"member_id": self.member_id, "generation_id": self.generation, "assignments": []} | fields
        request = SyncGroupRequest(group_id="g", group_instance_id=self.instance_id, **values)  # type: ignore[arg-type]
        response = self.perform(self.world.group.sync("t", request, {}, now=self.world.now, now_ms=self.world.now_ms))
        assert isinstance(response, SyncGroupResponse)
        if not response.error_code:
            self.owned = set(read_assignment(bytes(response.assignment)) or ())
        return response

    def beat(self) -> ErrorCode:
        return self.world.group.heartbeat(self.member_id, self.instance_id, self.generation, self.world.now)

    def go_on(self) -> None:
        """A heartbeat, and what it asks for."""
        code = self.beat()
        while code is ErrorCode.REBALANCE_IN_PROGRESS:
            before = set(self.owned)
            assert self.join().error_code == 0
            if self.sync().error_code == ErrorCode.REBALANCE_IN_PROGRESS:
                continue
            if not self.cooperative or before <= self.owned:
                break
        else:
            assert code is ErrorCode.NONE

    def leave(self, *, version: int = 5) -> LeaveGroupResponse:
        world = self.world
        identity = MemberIdentity(member_id=self.member_id, group_instance_id=self.instance_id)
        request = LeaveGroupRequest(group_id="g", member_id=self.member_id, members=[identity])
        response = self.perform(world.group.leave("t", request, version=version, now=world.now, now_ms=world.now_ms))
        assert isinstance(response, LeaveGroupResponse)
        return response


def mixed(**kwargs: Any) -> tuple[World, Consumer, Classic]:
    """A consumer group of two: one of each protocol, settled."""
    world = World(a=4)
    new, old = Consumer(world, "new", ["a"]), Classic(world, "old", **kwargs)
    new.beat()
    old.join(version=3)
    old.sync()
    for _ in range(4):
        new.beat()
        old.go_on()
    assert at_once(world.group.describe_consumer()).group_state == "Stable"
    return world, new, old


def classic_group(owners: dict[str, Partitions], **fields: Any) -> ClassicGroup:
    """A stable classic group, as from its record."""
    members = tuple(
        MemberSnapshot(name, None, "app", "/127.0.0.1", 60_000, 30_000, said(["a"], version=1), assigned(owned))
        for name, owned in owners.items()
    )
    values: dict[str, Any] = {
        "protocol_type": "consumer", "generation": 7, "protocol": "range", "leader": members[0].member_id,
    } | fields  # fmt: skip
    return ClassicGroup.restore(
        GroupSnapshot("g", state_timestamp_ms=0, members=members, **values), GroupLimits(), now=1000.0
    )
