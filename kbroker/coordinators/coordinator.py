"""Coordinator: what every kind of coordinator has: its topic, its runtime, and what the replica manager tells it.

A kind adds what its shards are, how its topic is made, and what its handlers ask. A name belongs to the partition that
it hashes to, and whoever leads that partition coordinates it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from kbroker.cluster.changes.placement import NewTopic
from kbroker.cluster.registration import Registration
from kbroker.config import BrokerConfig
from kbroker.coordinators.routing import InternalTopic
from kbroker.coordinators.runtime import Runtime
from kbroker.coordinators.shard import Shard, Tasks
from kbroker.env import Env
from kbroker.log.directory import LogDirectory
from kbroker.replication.partition import Partition
from kbroker.turns import Work

S = TypeVar("S", bound=Shard)


class Coordinator(ABC, Generic[S]):
    """The state kept in one internal topic, as far as its partitions are led here. Made once."""

    def __init__(
        self,
        topic: str,
        env: Env,
        registration: Registration,
        logs: LogDirectory,
        config: Callable[[], BrokerConfig],
    ) -> None:
        """config: the broker's configs as they are now."""
        self.env = env
        self.registration = registration
        self.config = config
        self.topic = InternalTopic(topic, registration, self._wish)
        self.runtime: Runtime[S] = Runtime(env, logs, self.topic, self._make, self._take_up)

    @abstractmethod
    def _wish(self) -> NewTopic:
        """How the topic is made. With fewer brokers than replicas asked for, it has as many as there are."""

    @abstractmethod
    def _make(self, partition: Partition, tasks: Tasks) -> S:
        """A new shard of a partition."""

    @abstractmethod
    def _take_up(self, shard: S) -> Work[None]:
        """What there is to do when a shard that was loaded is active."""

    @property
    def wait_s(self) -> float:
        """How long a request, or another broker, is waited for."""
        return self.config().get_int("request.timeout.ms") / 1000

    # -- told by the replica manager ----------------------------------------------------------------------------------

    def lead(self, partition: Partition) -> None:
        """A partition of the topic is led here, in its leader epoch."""
        self.runtime.leading.lead(partition)

    def resign(self, index: int) -> None:
        """A partition of the topic is not led here (any more)."""
        self.runtime.leading.resign(index)

    def lose(self, index: int) -> None:
        """A partition of the topic would be led here, if its log could be opened."""
        self.runtime.leading.lose(index)

    def on_topics_changed(self, deleted: Iterable[str] = ()) -> None:
        """There are other topics or more partitions. Who looks topics up when it needs them has nothing to do."""

    def on_configs_changed(self, group_ids: Iterable[str] | None = None) -> None:
        """The configs of these groups are others; None: the broker's. Who looks configs up has nothing to do."""
