"""What a group of either type answers to: classic (classic/group.py) or of the consumer protocol (consumer/group.py).

A group is a pure state machine. Its shard calls one event at a time, and performs the effects in the order returned.
What a type does not know, it refuses with Kafka's code. `now` is liveness time in seconds, `now_ms` data time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from kafka_wire.errors import ErrorCode
from kafka_wire.messages.consumer_groups import ConsumerGroupHeartbeatRequest, DescribedConsumerGroup
from kafka_wire.messages.group_admin import DescribedGroup, ListedGroup
from kafka_wire.messages.groups import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from kbroker.coordinators.effects import Effect, Ticket
from kbroker.groups.settings import Settings
from kbroker.groups.storage.snapshots import GroupSnapshot
from kbroker.groups.timeline import Timeline
from kbroker.turns import Work

MEMBER_EPOCH_SINCE = 9  # below, OffsetCommit knows no member epoch

Topics: TypeAlias = Mapping[str, tuple[bytes, int]]  # all topics of the cluster: name -> (topic id, partitions)


class Client(NamedTuple):
    """Who sent a request, as describe shows it."""

    id: str  # the client.id of the request header; "" when it had none
    host: str  # "/127.0.0.1", as Kafka writes it


class Committer(NamedTuple):
    """Who commits offsets, as the request says it."""

    member_id: str
    group_instance_id: str | None
    generation: int  # or member epoch; negative: no member
    version: int = MEMBER_EPOCH_SINCE  # of OffsetCommit
    transactional: bool = False  # TxnOffsetCommit


class Expelled(NamedTuple):
    """An Order: members are out, as they were too late; to be told of."""

    members: Sequence[tuple[str, Client, str]]  # member id, and why


class Group(Protocol):
    """One group."""

    # -- what its shard looks at

    @property
    def group_id(self) -> str:
        """Its name."""

    @property
    def deadline(self) -> float | None:
        """Liveness seconds; when on_alarm may have something to do. It may be early, never late."""

    @property
    def size(self) -> int:
        """How many members it has."""

    @property
    def timeline(self) -> Timeline:
        """Its last rebalances."""

    @property
    def forgettable(self) -> bool:
        """Nothing of it is stored and nobody is coming: without offsets, the shell need not keep it."""

    @property
    def empty_since_ms(self) -> int | None:
        """Data time since when nobody is here: from then on its offsets age. None: somebody is, they do not (G5).

        0 when that is not known, or nobody ever was: offsets age by their own commit's time.
        """

    @property
    def replaced_by(self) -> GroupSnapshot | None:
        """The classic group it was turned into by the last event."""

    @property
    def gives_way(self) -> bool:
        """Whether a classic JoinGroup may take the name over (`delete`, then a new group)."""

    # -- requests of members; their answers are the responses of the request's API, errors included

    def join(
        self,
        ticket: Ticket,
        request: JoinGroupRequest,
        *,
        version: int,
        client: Client,
        token: str,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """JoinGroup."""

    def sync(
        self, ticket: Ticket, request: SyncGroupRequest, assignments: Mapping[str, bytes], *, now: float, now_ms: int
    ) -> list[Effect]:
        """SyncGroup. assignments: the request's, by member id."""

    def heartbeat(self, member_id: str, group_instance_id: str | None, generation: int, now: float) -> ErrorCode:
        """Heartbeat: answered at once. The hottest event."""

    def leave(
        self, ticket: Ticket, request: LeaveGroupRequest, *, version: int, now: float, now_ms: int
    ) -> list[Effect]:
        """LeaveGroup."""

    def consumer_heartbeat(
        self,
        ticket: Ticket,
        request: ConsumerGroupHeartbeatRequest,
        *,
        version: int,
        client: Client,
        token: str,
        now: float,
        now_ms: int,
    ) -> list[Effect]:
        """ConsumerGroupHeartbeat (KIP-848). Raises KafkaError."""

    # -- commits and fetches of offsets, deletion

    def check_commit(
        self, committer: Committer, partitions: Mapping[str, Collection[int]], *, now: float
    ) -> frozenset[tuple[str, int]]:
        """Whether these may commit offsets. Raises KafkaError.

        partitions: by topic. Those returned, as (topic, partition), are refused with STALE_MEMBER_EPOCH.
        """

    def check_fetch(self, member_id: str | None, epoch: int) -> None:
        """Whether a member may read committed offsets. Raises KafkaError."""

    def check_offset_delete(self) -> frozenset[str]:
        """The topics whose offsets OffsetDelete must leave alone (GROUP_SUBSCRIBED_TO_TOPIC, KIP-496).

        Raises KafkaError.
        """

    def check_delete(self) -> None:
        """Whether it can be deleted. Raises KafkaError NON_EMPTY_GROUP; GROUP_ID_NOT_FOUND if it was already."""

    def delete(self, now_ms: int) -> list[Effect]:
        """Delete the group; its offsets are the caller's. Raises KafkaError NON_EMPTY_GROUP."""

    # -- what changes around it

    def on_alarm(self, now: float, now_ms: int) -> list[Effect]:
        """Time has passed: end what has ended by now. Never wrong to call."""

    def see_topics(self, topics: Topics, now: float, now_ms: int) -> list[Effect]:
        """The topics there are, before every event of a member; the same object while they are the same."""

    def on_configs_changed(self, settings: Settings) -> None:
        """The configs are others: the broker's, or its own."""

    def resign(self, code: ErrorCode) -> list[Effect]:
        """The shard goes away: everybody who waits hears code. Nothing is stored."""

    # -- seen from outside

    def describe_classic(self) -> Work[DescribedGroup]:
        """DescribeGroups, as from version 6 on."""

    def describe_consumer(self) -> Work[DescribedConsumerGroup]:
        """ConsumerGroupDescribe."""

    def listing(self) -> ListedGroup:
        """ListGroups."""
