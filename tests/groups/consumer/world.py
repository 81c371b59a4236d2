"""A world around one consumer group: its clock, its log, and consumers that behave as Kafka's do.

Every event goes through `World.perform`, which holds what must hold after each of them: one Store at most, before the
answer; what was stored makes the same group again; partitions that stay with their owner are not touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupTopicPartitions,
)
from kbroker.config import BrokerConfig
from kbroker.coordinators.effects import Compute, Effect, Order, Pair, Reply, StateRecord, Store
from kbroker.groups.consumer.group import ConsumerGroup
from kbroker.groups.consumer.member import Owned
from kbroker.groups.group import Client, Expelled
from kbroker.groups.settings import ConsumerGroupLimits, read_settings
from kbroker.groups.storage.snapshots import RegexSnapshot, TargetEpochSnapshot
from kbroker.groups.storage.stored import read_state
from kbroker.turns import at_once

CLIENT = Client("app", "/127.0.0.1")
GROUP = "g"


def topic_id(n: int) -> bytes:
    """A topic id that is easy to read."""
    return n.to_bytes(16, "big")


def pairs(owned: Owned) -> set[tuple[bytes, int]]:
    """(topic id, partition) of each."""
    return {(topic, partition) for topic, partitions in owned.items() for partition in partitions}


class World:
    """One group, its clock and its log."""

    def __init__(self, limits: ConsumerGroupLimits | None = None, **topics: int) -> None:
        self.now = 1000.0
        self.now_ms = 5_000_000
        self.topics = {name: (topic_id(n), count) for n, (name, count) in enumerate(topics.items(), start=1)}
        self.limits = limits or ConsumerGroupLimits()
        self.group = ConsumerGroup(GROUP, self.limits, self.topics)
        self.core.epoch = self.core.target_epoch = 0  # so that the first epoch with members is 1, as scripts here count
        self.log: list[StateRecord] = []
        self.computing: list[Compute] = []
        self.tokens = 0
        self.topics_made = 0
        self.expelled: list[tuple[str, Client, str]] = []  # of whom people are told

    @property
    def core(self) -> Any:
        """The state, for a look inside."""
        return self.group._core

    def token(self) -> str:
        """Something new each time."""
        self.tokens += 1
        return f"token-{self.tokens}"

    def perform(self, effects: list[Effect], assigned_before: dict[str, set[tuple[bytes, int]]]) -> Any:
        """Perform effects; the answer, if there is one."""
        stores = [each for each in effects if isinstance(each, Store)]
        replies = [each for each in effects if isinstance(each, Reply)]
        computes = [each for each in effects if isinstance(each, Compute)]
        orders = [each for each in effects if isinstance(each, Order)]
        assert effects == [*stores, *replies, *orders, *computes]
        for order in orders:
            assert isinstance(order.what, Expelled)
            self.expelled += order.what.members
        assert len(stores) <= 1 and len(replies) <= 1
        for store in stores:
            self.log.extend(_state(record) for record in store.records)
        if self.group.replaced_by is None:
            self._check_stored()
            self._check_undisturbed(assigned_before)
        self.computing += computes
        return replies[0].response if replies else None

    def compute(self) -> None:
        """What was to be computed is there."""
        while self.computing:
            first = self.computing.pop(0)
            self.perform(list(first.then(at_once(first.work), self.now, self.now_ms)), self.assigned())

    def _check_stored(self) -> None:
        """What is in the log makes the same group (G2)."""
        again = ConsumerGroup.restore(GROUP, self.log, self.limits, self.topics, now=self.now)
        assert _timeless(again.snapshot()) == _timeless(self.group.snapshot())

    def _check_undisturbed(self, before: dict[str, set[tuple[bytes, int]]]) -> None:
        """What a member had and is to have still, it has."""
        for member_id, member in self.core.members.items():
            target = pairs(self.core.target_of(member))
            assert before.get(member_id, set()) & target <= pairs(member.assigned)

    def assigned(self) -> dict[str, set[tuple[bytes, int]]]:
        """What each member has, not counting what it is giving up."""
        return {member_id: pairs(member.assigned) for member_id, member in self.core.members.items()}

    def heartbeat(self, version: int = 1, client: Client = CLIENT, **fields: Any) -> ConsumerGroupHeartbeatResponse:
        """One ConsumerGroupHeartbeat."""
        self.compute()
        before = self.assigned()
        effects = self.group.consumer_heartbeat(
            "ticket",
            ConsumerGroupHeartbeatRequest(group_id=GROUP, **fields),
            version=version, client=client, token=self.token(), now=self.now, now_ms=self.now_ms,
        )  # fmt: skip
        response = self.perform(effects, before)
        assert isinstance(response, ConsumerGroupHeartbeatResponse)
        return response

    def set_limits(self, **limits: Any) -> None:
        """The configs are others."""
        self.limits = ConsumerGroupLimits(**limits)
        self.group.on_configs_changed(read_settings(BrokerConfig())._replace(consumer=self.limits))

    def set_topics(self, **topics: int) -> None:
        """Topics are made, grow, or are deleted (0)."""
        found = dict(self.topics)
        for name, count in topics.items():
            if count:
                self.topics_made += name not in found
                found[name] = (found[name][0] if name in found else topic_id(100 + self.topics_made), count)
            else:
                del found[name]
        self.topics = found
        before = self.assigned()
        assert self.perform(self.group.see_topics(found, self.now, self.now_ms), before) is None

    def advance(self, seconds: float) -> None:
        """Time passes, and alarms ring when they are due."""
        end = self.now + seconds
        for _ in range(1000):
            due = self.group.deadline
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.perform(self.group.on_alarm(self.now, self.now_ms), self.assigned())
        else:
            raise AssertionError("the alarm rings for ever")
        self.now = end

    def restart(self) -> None:
        """The coordinator starts again, from the log."""
        self.group = ConsumerGroup.restore(GROUP, self.log, self.limits, self.topics, now=self.now)

    def moved(self) -> int:
        """How many partitions the last rebalance moved from one member to another."""
        return self.group.timeline.rebalances[-1].partitions_moved


def _state(record: StateRecord | Pair) -> StateRecord:
    if isinstance(record, StateRecord):
        return record
    key, value = record
    assert value is not None
    state = read_state(key, value)
    assert state is not None
    return state


def _timeless(records: Iterable[StateRecord]) -> set[StateRecord]:
    found: set[StateRecord] = set()
    for each in records:
        if isinstance(each, TargetEpochSnapshot | RegexSnapshot):
            each = replace(each, timestamp_ms=0)
        found.add(each)
    return found


@dataclass
class Consumer:
    """A consumer of the KIP-848 protocol."""

    world: World
    name: str
    topics: list[str] | None = None
    regex: str | None = None
    instance_id: str | None = None
    assignor: str | None = None
    epoch: int = 0
    owned: set[tuple[bytes, int]] = field(default_factory=set)
    to_revoke: set[tuple[bytes, int]] = field(default_factory=set)
    wanted: set[tuple[bytes, int]] = field(default_factory=set)
    say_all: bool = True
    changed: bool = False
    errors: list[int] = field(default_factory=list)

    def beat(self, *, revoke: bool = True, lose: bool = False) -> ConsumerGroupHeartbeatResponse:
        """One heartbeat. revoke: first finish what is to be revoked. lose: the answer never arrives."""
        if revoke:
            self.finish_revoking()
        fields: dict[str, Any] = {}
        if self.say_all:
            fields = {
                "rebalance_timeout_ms": 300_000,
                "subscribed_topic_names": self.topics if self.topics is not None or self.regex else [],
                "subscribed_topic_regex": self.regex,
                "server_assignor": self.assignor,
            }
        if self.say_all or self.changed:
            fields["topic_partitions"] = self._owned()
        response = self.world.heartbeat(
            member_id=self.name, member_epoch=self.epoch, instance_id=self.instance_id, **fields
        )
        if lose:
            self.say_all = True
            return response
        if response.error_code:
            self.errors.append(response.error_code)
            self._reset()
            return response
        assert response.member_epoch >= self.epoch, "member epochs never go back"
        self.epoch = response.member_epoch
        self.say_all = self.changed = False
        if response.assignment is not None:
            self._take({(each.topic_id, p) for each in response.assignment.topic_partitions for p in each.partitions})
        return response

    def _owned(self) -> list[ConsumerGroupTopicPartitions]:
        found: dict[bytes, list[int]] = {}
        for topic, partition in sorted(self.owned):
            found.setdefault(topic, []).append(partition)
        return [ConsumerGroupTopicPartitions(topic_id=topic, partitions=p) for topic, p in found.items()]

    def _take(self, assignment: set[tuple[bytes, int]]) -> None:
        """What is not in it is to be revoked; only then what is new may be used."""
        self.to_revoke = self.owned - assignment
        self.wanted = assignment
        if not self.to_revoke:
            self.finish_revoking(force=True)

    def finish_revoking(self, *, force: bool = False) -> None:
        """Let go of what is to be revoked, and use what is new."""
        if self.to_revoke or force:
            self.changed = self.changed or self.owned != self.wanted
            self.owned = set(self.wanted)
            self.to_revoke = set()

    def _reset(self) -> None:
        """Fenced or unknown: abandon everything and join again."""
        self.owned, self.to_revoke, self.wanted = set(), set(), set()
        self.epoch, self.say_all = 0, True

    def subscribe(self, *topics: str, regex: str | None = None) -> None:
        """Another subscription, said with the next heartbeat."""
        self.topics, self.regex, self.say_all = list(topics), regex, True

    def leave(self, epoch: int = -1) -> ConsumerGroupHeartbeatResponse:
        """Close the consumer."""
        response = self.world.heartbeat(member_id=self.name, member_epoch=epoch, instance_id=self.instance_id)
        self._reset()
        return response

    def partitions(self) -> list[int]:
        """The numbers of what it owns."""
        return sorted(partition for _, partition in self.owned)


def settle(world: World, consumers: Iterable[Consumer], rounds: int = 6) -> int:
    """Everybody heartbeats until all have what they should; how many rounds that took."""
    consumers = list(consumers)
    for n in range(rounds):
        if at_once(world.group.describe_consumer()).group_state in ("Stable", "Empty"):
            return n
        for consumer in consumers:
            response = consumer.beat()
            assert response.error_code in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH)
    assert at_once(world.group.describe_consumer()).group_state in ("Stable", "Empty"), "it does not converge"
    return rounds


def join(world: World, member_id: str = "m1", version: int = 1, **fields: Any) -> ConsumerGroupHeartbeatResponse:
    """A heartbeat that joins, unless fields say otherwise."""
    said: dict[str, Any] = {
        "member_epoch": 0, "rebalance_timeout_ms": 10_000, "subscribed_topic_names": ["a"], "topic_partitions": [],
    } | fields  # fmt: skip
    return world.heartbeat(version, member_id=member_id, **said)


def owning(topic: bytes, *partitions: int) -> list[ConsumerGroupTopicPartitions]:
    """What a member says it owns, of one topic."""
    return [ConsumerGroupTopicPartitions(topic_id=topic, partitions=list(partitions))]


def assignment(response: ConsumerGroupHeartbeatResponse) -> dict[bytes, list[int]] | None:
    """What an answer assigns; None: it says nothing of it."""
    if response.assignment is None:
        return None
    return {each.topic_id: each.partitions for each in response.assignment.topic_partitions}
