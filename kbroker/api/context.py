"""What a handler is given besides its request: the services of this broker, and who asks.

Handlers own no state of their own. What they change belongs to a `Partition`, the cluster (`admin`) or the cache of
fetch sessions, and they reach those through here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from kafka_wire.errors import ErrorCode, KafkaError
from kbroker.api.fetch_sessions import FetchSessions
from kbroker.api.tallies import Tallies
from kbroker.cluster.admin import Admin
from kbroker.cluster.changes.views import check_no_view
from kbroker.cluster.image import ClusterImage
from kbroker.cluster.peers.applying import wait_for_others
from kbroker.cluster.peers.brokers import Brokers
from kbroker.cluster.peers.introductions import Meeting
from kbroker.cluster.producer_ids import ProducerIds
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.delay.delays import Delays
from kbroker.env import Env
from kbroker.groups.coordinator import GroupCoordinator
from kbroker.log.directory import LogDirectory
from kbroker.log.errors import LogClosed
from kbroker.replication.manager import ReplicaManager
from kbroker.replication.partition import Partition
from kbroker.transactions.coordinator import TransactionCoordinator
from kbroker.views.views import Views

if TYPE_CHECKING:
    from kbroker.views.view import ViewPartition

APPLY_WAIT_S = 60.0
NO_BROKER = -1

T = TypeVar("T")


class Services(NamedTuple):
    """The broker, as its handlers see it: the owners of its state, and short ways to what is asked for most."""

    env: Env
    registration: Registration
    logs: LogDirectory
    replicas: ReplicaManager
    groups: GroupCoordinator
    transactions: TransactionCoordinator
    delays: Delays
    fetch_sessions: FetchSessions
    views: Views
    producer_ids: ProducerIds
    brokers: Brokers  # each other broker, and this one
    tallies: Tallies

    @property
    def admin(self) -> Admin:
        """Changes of the cluster: topics, configurations."""
        return self.registration.admin

    @property
    def image(self) -> ClusterImage:
        """The picture of the cluster as it is now."""
        return self.registration.image

    @property
    def config(self) -> BrokerConfig:
        """The broker's configs as they are now."""
        return self.replicas.config

    @property
    def partitions(self) -> Mapping[tuple[str, int], Partition]:
        """What this broker holds, by topic and index."""
        return self.replicas.partitions

    def is_alive(self, broker_id: int) -> bool:
        """Whether a broker is there, as far as is known."""
        return broker_id in self.image.brokers

    async def wait_applied(self) -> None:
        """Wait until this broker, and every other that is there, has carried out the image as it is now.

        Raises KafkaError REQUEST_TIMED_OUT when this one takes longer than any client waits; for the others see
        cluster/peers/applying.py.
        """
        await self.wait_applied_here()
        await wait_for_others(self.registration, self.brokers)

    async def wait_applied_here(self) -> None:
        """The same, of this broker alone: until `partitions` has caught up with the image."""
        with trio.move_on_after(APPLY_WAIT_S):
            await self.replicas.wait_applied()
            return
        raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, "The change was written, but is not yet carried out here.")

    async def carry_out(
        self,
        change: Awaitable[Sequence[T | KafkaError]],
        count: int,
        timeout_s: float,
        late: ErrorCode = ErrorCode.REQUEST_TIMED_OUT,
    ) -> Sequence[T | KafkaError]:
        """What became of so many changes of the cluster, once they are carried out.

        Those of which that cannot be told in time are answered late; they may still happen. Other brokers are waited
        for as long as there is time, but what is carried out here is not late for their sake.
        """
        outcomes: Sequence[T | KafkaError] | None = None
        is_here, before = False, self.image.revision
        with trio.move_on_after(min(timeout_s, APPLY_WAIT_S)):
            outcomes = await change
            await self.replicas.wait_applied()
            is_here = True
            if self.image.revision != before:
                await wait_for_others(self.registration, self.brokers)
        if outcomes is None:
            return [KafkaError(late)] * count
        if is_here:
            return outcomes
        return [outcome if isinstance(outcome, KafkaError) else KafkaError(late) for outcome in outcomes]

    def partition(self, topic: str, index: int) -> Partition:
        """The local partition, to be written to, and for whatever else is only done to a log of one's own.

        Raises KafkaError UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER if it is not here, KAFKA_STORAGE_ERROR if
        it should be and its log could not be opened, INVALID_TOPIC_EXCEPTION for a view.
        """
        partition = self.replicas.partitions.get((topic, index))
        if partition is not None:
            return partition
        if (topic, index) in self.replicas.failures.offline:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR)
        known = self.image.topics.get(topic)
        check_no_view(known)
        if known is not None and 0 <= index < len(known.partitions):
            raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)

    def reading(self, topic: str, index: int) -> Partition | ViewPartition:
        """The local partition to read from, or what a view shows of its source's. Raises as `partition` does."""
        partition = self.replicas.partitions.get((topic, index))
        if partition is not None:
            return partition
        view = self.image.topics.get(topic)
        if view is None or view.view is None:
            return self.partition(topic, index)
        return self.views.of(view, index, self.partition(view.view.source, index))

    def topic_name(self, topic_id: bytes) -> str:
        """The name of the topic of this ID; "" when there is none, which is no topic's name."""
        topic = self.image.topics_by_id.get(topic_id)
        return topic.name if topic is not None else ""

    def tell_of_disk(self, topic: str, index: int, error: OSError | KafkaError) -> None:
        """Tell people, if it was the disk for which a client is refused."""
        is_disk = isinstance(error, OSError) or (error.code is ErrorCode.KAFKA_STORAGE_ERROR and error.own_message)
        if is_disk and not isinstance(error, LogClosed):
            self.logs.troubles.tell(topic, index, error)

    @property
    def node_id(self) -> int:
        """This broker's id."""
        return self.registration.broker.id

    @property
    def inter_broker_listener(self) -> str:
        """The listener that other brokers come in on."""
        return self.config.inter_broker_listener([listener.name for listener in self.config.listeners])


class Peer:
    """Who is at the other end of a connection: a client, or a broker that has proven to be one (see internal.py)."""

    __slots__ = (
        "address", "local", "listener", "broker_id", "broker_epoch", "software_name", "software_version",
        "appending", "_meeting", "_is_broker",
    )  # fmt: skip

    def __init__(
        self,
        address: tuple[str, int],
        local: tuple[str, int],
        listener: str,
        broker_id: int = NO_BROKER,
        broker_epoch: int = NO_BROKER,
        is_broker: Callable[[Peer], None] = lambda peer: None,
    ) -> None:
        """is_broker: told if it turns out to be one."""
        self.broker_id = broker_id  # NO_BROKER: a client
        self.broker_epoch = broker_epoch  # of the registration in which it introduced itself
        self._meeting: Meeting | None = None  # an introduction that has begun
        self.address = address
        self.local = local  # the address it came in on: what it can reach us by, where nothing else is configured
        self.listener = listener
        self.software_name = ""  # KIP-511
        self.software_version = ""
        self._is_broker = is_broker
        self.appending = 0  # produce requests that are not appended yet: those behind them must not overtake

    def meet(self, meeting: Meeting) -> None:
        """An introduction has begun."""
        self._meeting = meeting

    def take_meeting(self) -> Meeting | None:
        """The introduction that has begun, which nobody can go on with afterwards; None: there is none."""
        meeting, self._meeting = self._meeting, None
        return meeting

    def introduce(self, broker_id: int, broker_epoch: int) -> None:
        """It has proven to be a broker, in this registration."""
        self.broker_id, self.broker_epoch = broker_id, broker_epoch
        self._is_broker(self)

    def __str__(self) -> str:
        if self.broker_id != NO_BROKER:
            return f"{self.address[0]}:{self.address[1]} (broker {self.broker_id})"
        software = f" ({self.software_name} {self.software_version})" if self.software_name else ""
        return f"{self.address[0]}:{self.address[1]}{software}"


class Context:
    """One request's surroundings."""

    __slots__ = ("services", "peer", "version", "client_id")

    def __init__(self, services: Services, peer: Peer, version: int, client_id: str | None) -> None:
        self.services = services
        self.peer = peer
        self.version = version
        self.client_id = client_id

    def is_replica(self, replica_id: int) -> bool:
        """Whether who asks is the broker of that id, which may read as a replica does (R12)."""
        return replica_id >= 0 and self.peer.broker_id == replica_id
